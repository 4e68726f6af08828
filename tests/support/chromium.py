"""A real Chromium, driven over its own debugging protocol."""

import itertools
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
    "--window-size=1200,1300",
]
WAIT = 30  # seconds for anything on a page


class Page:
    """A tab: what it does, and all it complained of."""

    def __init__(self, address: str):
        self.socket = websocket.create_connection(address, timeout=WAIT)
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; what happens meanwhile is kept."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv())).get("id") != number:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def run(self, script: str) -> Any:
        """Evaluate a script in the page and return its value."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """Evaluate a script until it is true."""
        deadline = time.monotonic() + WAIT
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"never came: {script}"
            time.sleep(0.1)
        return value

    def click(self, selector: str, place: int = 0) -> None:
        """Click one of the elements that are selected, as soon as it is there."""
        element = f"document.querySelectorAll({json.dumps(selector)})[{place}]"
        self.wait(f"!!{element}")
        self.run(f"{element}.click()")

    def type(self, selector: str, text: str, place: int = 0) -> None:
        """Paste text into a field, in place of what it holds."""
        element = f"document.querySelectorAll({json.dumps(selector)})[{place}]"
        self.wait(f"!!{element}")
        self.run(f"{element}.focus(), {element}.select()")
        self.send("Input.insertText", text=text)

    def complaints(self) -> list[dict[str, Any]]:
        """Return errors of scripts, of the console and of the policy, so far."""
        self.run("1")
        found = []
        for event in self.events:
            what, said = event.get("method"), event.get("params", {})
            level = said.get("type") if what == "Runtime.consoleAPICalled" else None
            if what == "Log.entryAdded":
                level = said["entry"]["level"]
            if what == "Runtime.exceptionThrown" or level in ("error", "warning"):
                found.append(said)
        return found

    def requested(self) -> list[str]:
        """Return the URLs that the page has asked for."""
        asked = [
            e["params"] for e in self.events if e.get("method") == "Network.requestWillBeSent"
        ]
        return [said["request"]["url"] for said in asked]


@contextmanager
def browse(program: str, profile: Path) -> Iterator[Page]:
    """Start Chromium with an empty profile; yield its tab."""
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = profile / "DevToolsActivePort"
        deadline = time.monotonic() + WAIT
        while not port.exists() or not port.read_text():
            assert process.poll() is None, "Chromium ended"
            assert time.monotonic() < deadline, "Chromium does not start"
            time.sleep(0.1)
        address = f"http://127.0.0.1:{port.read_text().split()[0]}/json"
        with urllib.request.urlopen(address, timeout=WAIT) as answer:
            (tab,) = [found for found in json.load(answer) if found["type"] == "page"]
        page = Page(tab["webSocketDebuggerUrl"])
        yield page
        page.socket.close()
    finally:
        process.terminate()
        process.wait(WAIT)
