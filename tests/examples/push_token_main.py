"""Runs scenarios of examples/apps/push_token.py's Device: tests/examples/test_devices.py."""

import json
import os
import sys
import threading
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "apps"))
from push_token import Device, Registry, device_id

url = os.environ["REGISTRY_URL"]
registry = Registry(url, os.environ["USER_ID"], os.environ["AUTH_TOKEN"])
device = Device(registry, "chat.example", "device-1")
scenario, *values = sys.argv[1:]
answers: dict[str, bool] = {}


def ask(path: str) -> int:
    """Ask the relay that stands before the registry; return the number that it answers."""
    with urllib.request.urlopen(url + path) as answer:
        return int(answer.read())


def register(value: str) -> None:
    answers[value] = device.register("gcm", value) is not None


if scenario == "device-id":
    print(json.dumps([device_id(Path(values[0])), device_id(Path(values[0]))]))
else:
    threads = []
    for place, value in enumerate(values, 1):
        threads.append(threading.Thread(target=register, args=[value]))
        threads[-1].start()
        while scenario != "register" and (ask("/seen") < 1 or device._latest < place):
            time.sleep(0.02)
    if scenario == "rotate":
        ask("/release")
    if scenario == "sign-out":
        answers["told"] = device.sign_out(lambda: ask("/provider") and None)
    for thread in threads:
        thread.join()
    print(json.dumps(answers))
