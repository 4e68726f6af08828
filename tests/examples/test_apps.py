"""examples/apps: each is run as its own program against the running service."""

import json
import os
import subprocess
import sys

import pytest

from app.config import ROOT
from tests.support.factories import APNS_TOKEN, FCM_TOKEN, Caller
from tests.support.parts import part
from tests.support.relay import relay

APPS = ROOT / "examples" / "apps"


@pytest.fixture(params=["curl", "python", "javascript", "kotlin"])
def example(request) -> list[str]:
    """The command that runs one of the examples."""
    match request.param:
        case "curl":
            return [str(APPS / "push_token.sh")]
        case "python":
            return [sys.executable, "-W", "error", str(APPS / "push_token.py")]
        case "javascript":
            return [part("node"), str(APPS / "push_token.mjs")]
        case "kotlin":
            command: list[str] = request.getfixturevalue("kotlin")
            return command


def run(
    example: list[str], url: str, caller: Caller, *arguments: str
) -> subprocess.CompletedProcess[str]:
    environ = {"REGISTRY_URL": url, "USER_ID": caller.user_id, "AUTH_TOKEN": caller.auth_token}
    return subprocess.run(
        [*example, *arguments],
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def succeed(example: list[str], url: str, caller: Caller, *arguments: str) -> object:
    done = run(example, url, caller, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), (done.stdout, done.stderr)
    return json.loads(done.stdout)


def test_a_device_registers_rotates_lists_and_removes(example, live, alice, database):
    app_name = 'a "quoted" \\ näme & more'
    first = succeed(example, live.url, alice, "register", "gcm", FCM_TOKEN, app_name)
    first = first.get("result", first)
    succeed(example, live.url, alice, "register", "gcm", "the-next+one", app_name, first["_id"])
    (row,) = database.push_tokens()
    assert (row["device_id"], row["token"]) == (first["_id"], "the-next+one")
    assert (row["app_name"], row["user_id"], row["type"]) == (app_name, "alice", "gcm")

    listed = succeed(example, live.url, alice, "list")
    listed = listed["tokens"] if isinstance(listed, dict) else listed
    assert [one["_id"] for one in listed] == [first["_id"]]

    succeed(example, live.url, alice, "remove", "the-next+one")
    assert database.push_tokens() == []


def test_logging_out_ends_the_session_and_then_every_call_asks_to_sign_in(
    example, live, alice, bob, database
):
    for caller in (alice, bob):
        value = APNS_TOKEN if caller is alice else APNS_TOKEN[::-1]
        succeed(example, live.url, caller, "register", "apn", value, "chat.example")
    succeed(example, live.url, alice, "log_out")
    assert [row["user_id"] for row in database.push_tokens()] == ["bob"]
    for call in (["register", "apn", APNS_TOKEN, "chat.example"], ["list"], ["log_out"]):
        done = run(example, live.url, alice, *call)
        assert (done.returncode, done.stdout) == (4, ""), call
        assert done.stderr.strip() == "signed out: sign in again, then register again"


def test_a_busy_registry_is_asked_again_when_it_said(example, live, alice, database):
    with relay(live.url, [503, 429]) as seen:
        succeed(example, seen.url, alice, "register", "gcm", FCM_TOKEN, "chat.example")
    assert seen.statuses == [503, 429, 200]
    assert [row["token"] for row in database.push_tokens()] == [FCM_TOKEN]


def test_what_no_second_try_cures_is_an_error_at_once(example, live, alice, database):
    done = run(example, live.url, alice, "register", "fcm", FCM_TOKEN, "chat.example")
    assert done.returncode not in (0, 4)
    assert "400" in done.stderr or "error-type-param-not-valid" in done.stderr
    assert database.push_tokens() == []


def test_the_shell_script_says_how_it_is_called():
    done = subprocess.run(
        [str(APPS / "push_token.sh")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("The calls of an app, with curl:\n")
    assert "set -euo" not in done.stderr
