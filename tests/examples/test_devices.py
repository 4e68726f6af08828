"""examples/apps: what an app does over time: one registration at a time, retries, signing out."""

import json
import os
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.factories import Caller
from tests.support.parts import part
from tests.support.relay import DROP, relay

MAIN = Path(__file__).parent / "push_token_main.py"
REGISTER, LOG_OUT = "/api/v1/push.token", "/api/v1/logout"


@pytest.fixture(params=["python", "javascript", "kotlin"])
def program(request) -> list[str]:
    """The command that runs scenarios with one of the examples."""
    match request.param:
        case "python":
            return [sys.executable, "-W", "error", str(MAIN)]
        case "javascript":
            return [part("node"), str(MAIN.with_suffix(".mjs"))]
        case _:
            command: list[str] = request.getfixturevalue("kotlin")
            return command


def run(program: list[str], url: str, caller: Caller, *arguments: str) -> object:
    environ = {"REGISTRY_URL": url, "USER_ID": caller.user_id, "AUTH_TOKEN": caller.auth_token}
    done = subprocess.run(
        [*program, *arguments],
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, ""), (done.stdout, done.stderr)
    return json.loads(done.stdout)


def test_registrations_are_made_one_at_a_time_and_the_last_one_stays(
    program, live, alice, database
):
    with relay(live.url, is_held=True) as seen:
        answers = run(program, seen.url, alice, "rotate", "first", "second", "third")
    assert seen.at_once == 1
    assert seen.paths == [REGISTER] * 2  # not the second: the third had come by then
    assert answers == {"first": True, "second": False, "third": True}
    assert [(r["token"], r["device_id"]) for r in database.push_tokens()] == [
        ("third", "device-1")
    ]


def test_a_lost_connection_is_tried_again_after_longer_and_longer(program, live, alice, database):
    with relay(live.url, [DROP, 502], retry_after=None) as seen:
        assert run(program, seen.url, alice, "register", "value") == {"value": True}
    first, second, third = seen.came
    assert second - first >= 1
    assert third - second >= 2
    assert [row["token"] for row in database.push_tokens()] == ["value"]


def test_retry_after_may_be_a_date(program, live, alice):
    moment = int(time.time()) + 4
    with relay(live.url, [503], retry_after=formatdate(moment, usegmt=True)) as seen:
        assert run(program, seen.url, alice, "register", "value") == {"value": True}
    assert seen.statuses == [503, 200]
    assert seen.came[1] >= moment - 0.1


def test_signing_out_tells_the_registry_before_the_provider(program, live, alice, bob, database):
    """The registration that waits for its next try is not made any more."""
    run(program, live.url, bob, "register", "bobs")
    with relay(live.url, [503], retry_after="2") as seen:
        answers = run(program, seen.url, alice, "sign-out", "value")
    assert answers == {"value": False, "told": True}
    assert seen.paths == [REGISTER, LOG_OUT, "/provider"]
    assert [row["user_id"] for row in database.push_tokens()] == ["bob"]
    assert not database.rows("SELECT 1 FROM user_sessions WHERE user_id = 'alice'")


def test_a_refusal_that_comes_after_signing_out_is_no_error(program, live, alice, database):
    with relay(live.url, [503], is_held=True) as seen:
        answers = run(program, seen.url, alice, "sign-out", "value")
    assert answers == {"value": False, "told": True}
    assert seen.paths == [REGISTER, LOG_OUT, "/provider"]
    assert database.push_tokens() == []


def test_a_user_signs_out_though_the_registry_is_away(program, live, alice):
    with relay(live.url, dropped="/logout") as seen:
        answers = run(program, seen.url, alice, "sign-out", "value")
    assert answers == {"value": True, "told": False}
    assert seen.paths[0] == REGISTER
    assert seen.paths[-1] == "/provider"
    assert seen.paths.count(LOG_OUT) >= 2


def test_signing_out_twice_is_no_error(program, live, alice, database):
    assert run(program, live.url, alice, "register", "value") == {"value": True}
    database.forget_everyone()
    with relay(live.url) as seen:
        assert run(program, seen.url, alice, "sign-out") == {"told": True}
    assert seen.statuses == [401, 200]


def test_a_device_keeps_its_name(program, live, alice, tmp_path):
    path = str(tmp_path / "device-id")
    once, again = run(program, live.url, alice, "device-id", path)
    assert once == again == str(UUID(once))
    assert run(program, live.url, alice, "device-id", path) == [once, once]
