"""The senders' own libraries against fakes of FCM and APNs: what they raise, as it comes.

They insist on the providers' names, so these lead to the fake: in Python by getaddrinfo, in Node
by its `net.connect`.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.config import ROOT
from tests.support.parts import node_modules, part
from tests.support.providers import Fake, play

LIBRARIES = ROOT / "examples" / "libraries"
SENDERS = (ROOT / "docs" / "senders.md").read_text()

# Runs a program with FCM's and APNs' names leading to the fake's port.
TO_THE_FAKE = """
import os, runpy, socket, sys
find = socket.getaddrinfo
def to_the_fake(host, port, *more, **named):
    if host in ("fcm.googleapis.com", "api.push.apple.com"):
        host, port = "127.0.0.1", int(os.environ["FAKE_PORT"])
    return find(host, port, *more, **named)
socket.getaddrinfo = to_the_fake
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TO_THE_FAKE_IN_NODE = """
const net = require("net"), tls = require("tls"), connect = tls.connect;
tls.connect = (...given) => {
  const options = given.find((one) => one && typeof one === "object") ?? {};
  const port = Number(process.env.FAKE_PORT);
  const socket = net.connect(port, "127.0.0.1");
  return connect({ ...options, socket, servername: "fcm.googleapis.com" });
};
"""


@pytest.fixture
def fake(tmp_path):
    with play(tmp_path / "providers") as fake:
        yield fake


@pytest.fixture
def report(fake: Fake, live, issue, tmp_path):
    """A function that runs a program of examples/libraries, and returns the registry's answer."""
    key = issue("feedback")["Authorization"].removeprefix("Bearer ")
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "key.p8").write_bytes(pem)
    (tmp_path / "to_the_fake.cjs").write_text(TO_THE_FAKE_IN_NODE)
    environ = {
        "PATH": os.environ["PATH"],
        "REGISTRY_URL": live.url,
        "REGISTRY_KEY": key,
        "FIREBASE_PROJECT": "chat-1",
        "FCM_ACCESS_TOKEN": "fake",
        "APNS_KEY_FILE": str(tmp_path / "key.p8"),
        "APNS_KEY_ID": "ABC123DEFG",
        "APNS_TEAM_ID": "DEF123GHIJ",
        "APNS_TOPIC": "com.example.chat",
        "FAKE_PORT": fake.environ["FCM_URL"].rpartition(":")[2],
        **dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), fake.environ["SSL_CERT_FILE"]),
        "NODE_EXTRA_CA_CERTS": fake.environ["SSL_CERT_FILE"],
    }

    def run(program: str, *push_tokens: str) -> dict[str, object]:
        runner = [sys.executable, "-c", TO_THE_FAKE]
        if program.endswith(".mjs"):
            runner = [part("node"), "--require", str(tmp_path / "to_the_fake.cjs")]
        command = [*runner, str(LIBRARIES / program), "chat.example", *push_tokens]
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def outcomes(answer: dict[str, object]) -> list[str]:
    assert "invalid" not in answer, answer
    return [f"{one['outcome']}: {one['reason']}" for one in answer["results"]]


def say_all_of_fcm(fake: Fake) -> list[str]:
    """Have FCM answer each push token by its own error; returns them."""
    fake.say("gone", 404, error="UNREGISTERED")
    fake.say("payload", 400, error="INVALID_ARGUMENT")
    fake.say("mismatch", 403, error="SENDER_ID_MISMATCH")
    fake.say("project", 404, error="NOT_FOUND")
    fake.say("quota", 429, error="QUOTA_EXCEEDED")
    fake.say("busy", 503, error="UNAVAILABLE")
    return [*fake.answers, "live"]


EXPECTED_OF_FCM = {
    "gone": "removed: dead",
    "payload": "kept: needs payloadValid",
    "mismatch": "kept: needs credentialsValid",
    "project": "kept: not final",
    "quota": "kept: not final",
    "busy": "kept: not final",
}


def test_firebase_admin(report, fake, register, alice, database):
    # Not those that it tries again, for seconds.
    values = [value for value in say_all_of_fcm(fake) if value not in ("quota", "busy")]
    for value in values:
        register(alice, value=value)
    time.sleep(0.05)
    answer = report("with_firebase_admin.py", *values)
    assert outcomes(answer) == list(EXPECTED_OF_FCM.values())[:4]
    assert len(database.push_tokens()) == 4


def test_firebase_admin_of_node(report, fake, register, alice, database):
    node_modules(LIBRARIES)
    values = [value for value in say_all_of_fcm(fake) if value not in ("quota", "busy")]
    for value in values:
        register(alice, value=value)
    time.sleep(0.05)
    answer = report("with_firebase_admin.mjs", *values)
    # Up to version 13 it says of a wrong project what it says of a dead push token.
    assert outcomes(answer) == [
        *list(EXPECTED_OF_FCM.values())[:3],
        "removed: dead",
    ]
    assert len(database.push_tokens()) == 3


def test_aioapns(report, fake, register, alice, database):
    now = int(time.time() * 1000)
    answers = {
        "a1": (410, {"reason": "Unregistered", "timestamp": now + 60_000}),
        "a2": (410, {"reason": "ExpiredToken"}),
        "a3": (410, {"reason": "Unregistered", "timestamp": now - 600_000}),
        "a4": (400, {"reason": "BadDeviceToken"}),
        "a5": (429, {"reason": "TooManyRequests"}),
    }
    for name, (status, said) in answers.items():
        register(alice, type="apn", value=name * 32)
        fake.say(name * 32, status, **said)
    time.sleep(0.05)
    answer = report("with_aioapns.py", *(name * 32 for name in answers))
    assert outcomes(answer) == [
        "removed: dead",
        "removed: dead",
        "kept: registered again since",
        "kept: needs environmentRight",
        "kept: not final",
    ]
    assert len(database.push_tokens()) == 3


@pytest.mark.parametrize("path", sorted(LIBRARIES.glob("with_*")), ids=lambda path: path.name)
def test_the_document_shows_the_lines_that_run(path: Path):
    lines = path.read_text()
    (glue,) = re.findall(r"(?:#|//) glue\n(.*?)\n +(?:#|//) end", lines, re.S)
    shown = [line.strip() for line in glue.splitlines()]
    assert len(shown) <= 3
    assert "\n".join(shown) in SENDERS
