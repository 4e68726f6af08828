"""FCM and APNs, played by the stand-ins of examples/sender."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.config import ROOT
from tests.support.live import free_port

SENDER = ROOT / "examples" / "sender"


@dataclass
class Fake:
    """The providers: what they are told to answer, and what they were sent."""

    folder: Path
    environ: dict[str, str]
    answers: dict[str, Any] = field(default_factory=dict)

    def say(self, value: str, status: int, **answer: object) -> None:
        self.answers[value] = {"status": status, **answer}
        self.write()

    def take_all(self) -> None:
        self.answers.clear()
        self.write()

    def write(self) -> None:
        (self.folder / "answers.json").write_text(json.dumps(self.answers))

    def pushes(self) -> list[dict[str, Any]]:
        lines = (self.folder / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def values(self) -> list[str]:
        return sorted(push["value"] for push in self.pushes())


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def play(folder: Path) -> Iterator[Fake]:
    """Start the stand-ins, with their files in a folder; they end with the context."""
    folder.mkdir()
    port = free_port()
    command = [sys.executable, str(SENDER / "fake_providers.py"), str(folder), str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log)
    deadline = time.monotonic() + 90
    while not is_listening(port):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    exported = (folder / "log").read_text().replace("export", "").split()
    yield Fake(folder, dict(pair.split("=", 1) for pair in exported))
    process.terminate()
    assert process.wait(60) == 0
