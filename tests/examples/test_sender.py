"""examples/sender, against the running service and fakes of FCM and APNs over HTTP/2."""

import fcntl
import json
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import free_port
from tests.support.providers import SENDER, Fake, play


@pytest.fixture
def fake(tmp_path) -> Iterator[Fake]:
    with play(tmp_path / "providers") as fake:
        yield fake


@pytest.fixture
def sender(tmp_path, fake, live, issue):
    """A function that runs a command of the sender, and returns what it printed."""
    key = issue("lookup", "feedback")["Authorization"].removeprefix("Bearer ")
    environ = {
        **fake.environ,
        "REGISTRY_URL": live.url,
        "REGISTRY_KEY": key,
        "FCM_PROJECTS": '{"chat.example": "chat-1", "other.example": "other-2"}',
        "APNS_TOPICS": '{"chat.example": "com.example.chat"}',
    }

    def run(*arguments: str, status: int = 0, with_stderr: bool = False, **changes: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-W", "error", str(SENDER / "sender.py"), str(outbox), *arguments],
            env={**environ, **changes},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == status, done.stderr
        answer = json.loads(done.stdout) if status == 0 else done.stderr
        return (answer, done.stderr) if with_stderr else answer

    outbox = tmp_path / "outbox"
    return run


def ago(minutes: float) -> int:
    """Return a time in milliseconds since 1970, as APNs gives it."""
    return int((time.time() - minutes * 60) * 1000)


def end_the_wait(outbox: Path) -> None:
    """Let the time that a provider asked for have passed."""
    with closing(sqlite3.connect(outbox)) as database, database:
        database.execute("UPDATE deliveries SET not_before = 0")


def test_the_dead_leave_and_all_others_stay(sender, fake, register, alice, bob, database):
    register(alice, type="gcm", value="live-gcm")
    register(alice, type="apn", value="a1" * 32)
    register(alice, type="gcm", value="gone-gcm")
    register(alice, type="gcm", value="garbage")
    register(alice, type="gcm", value="other-sender")
    register(alice, type="gcm", value="wrong-credentials", appName="other.example")
    register(bob, type="apn", value="b1" * 32)  # gone
    register(bob, type="apn", value="b2" * 32)  # gone before it was registered again
    register(bob, type="apn", value="b3" * 32)  # of the wrong environment
    register(bob, type="apn", value="b4" * 32)  # pushed to too often
    register(bob, type="gcm", value="busy")
    register(bob, type="gcm", value="not-ours", appName="else.example")
    fake.say("gone-gcm", 404, error="UNREGISTERED")
    fake.say("garbage", 400, error="INVALID_ARGUMENT")
    fake.say("other-sender", 403, error="SENDER_ID_MISMATCH")
    fake.say("wrong-credentials", 403, error="SENDER_ID_MISMATCH")
    fake.say("b1" * 32, 410, reason="Unregistered", timestamp=ago(-1))
    fake.say("b2" * 32, 410, reason="Unregistered", timestamp=ago(60))
    fake.say("b3" * 32, 400, reason="BadDeviceToken")
    fake.say("b4" * 32, 429, reason="TooManyRequests", retryAfter=1)
    fake.say("busy", 503, error="UNAVAILABLE", retryAfter=1)
    sender("add", "alice", "Hello, Alice")
    sender("add", "bob", "Hello, Bob")

    assert sender("send") == {"sent": 2, "refused": 7, "waiting": 2}
    assert sender("report") == {"removed": 4, "kept": 3, "unknown": 0}
    stay = {"live-gcm", "wrong-credentials", "busy", "not-ours"} | {
        name * 32 for name in ("a1", "b2", "b3", "b4")
    }
    assert {row["token"] for row in database.push_tokens()} == stay

    asked = fake.pushes()
    assert len(asked) == 11
    assert {push["http"] for push in asked} == {"2"}
    apple = [push for push in asked if "apns-topic" in push]
    assert len(apple) == 5
    assert {push["apns-topic"] for push in apple} == {"com.example.chat"}
    assert {push["apns-push-type"] for push in apple} == {"alert"}

    fake.take_all()
    time.sleep(1.6)  # longer than Retry-After
    assert sender("send") == {"sent": 2, "refused": 0, "waiting": 0}
    assert sorted(push["value"] for push in fake.pushes()[11:]) == ["b4" * 32, "busy"]
    assert sender("send") == {"sent": 0, "refused": 0, "waiting": 0}
    assert sender("report") == {"removed": 0, "kept": 0, "unknown": 0}


def test_what_was_registered_again_since_the_verdict_stays(
    sender, fake, register, alice, database
):
    register(alice, value="back-again")
    fake.say("back-again", 404, error="UNREGISTERED")
    sender("add", "alice", "Hello")
    assert sender("send")["refused"] == 1
    register(alice, value="back-again")
    assert sender("report") == {"removed": 0, "kept": 1, "unknown": 0}
    assert [row["token"] for row in database.push_tokens()] == ["back-again"]


def test_what_waits_goes_only_to_who_the_device_belongs_to_by_then(
    sender, fake, register, alice, bob, tmp_path
):
    register(alice, value="handed-on")
    fake.say("handed-on", 429, error="QUOTA_EXCEEDED", retryAfter=600)
    sender("add", "alice", "For Alice's eyes only")
    assert sender("send") == {"sent": 0, "refused": 0, "waiting": 1}
    assert sender("send") == {"sent": 0, "refused": 0, "waiting": 1}  # not before it may
    assert fake.values() == ["handed-on"]
    fake.take_all()
    register(bob, value="handed-on")
    end_the_wait(tmp_path / "outbox")
    assert sender("send") == {"sent": 0, "refused": 0, "waiting": 0}
    assert fake.values() == ["handed-on"]


def test_our_own_expired_credentials_lose_neither_message_nor_registration(
    sender, fake, register, alice, database
):
    register(alice, type="apn", value="a1" * 32)
    fake.say("a1" * 32, 403, reason="ExpiredProviderToken", retryAfter=0)
    sender("add", "alice", "Hello")
    assert sender("send") == {"sent": 0, "refused": 0, "waiting": 1}
    assert sender("report") == {"removed": 0, "kept": 0, "unknown": 0}
    fake.take_all()
    assert sender("send") == {"sent": 1, "refused": 0, "waiting": 0}
    assert len(database.push_tokens()) == 1


def test_a_call_goes_to_the_voip_push_token_alone(sender, fake, register, alice, database):
    values = {"value": "a1" * 32, "voipToken": "b2" * 32}
    register(alice, type="apn", id="iphone", **values)
    fake.say("b2" * 32, 410, reason="Unregistered", timestamp=ago(-1))
    sender("add", "alice", "Hello")
    sender("call", "alice", "Bob is calling")
    assert sender("send") == {"sent": 1, "refused": 1, "waiting": 0}
    headers = {
        push["value"]: (push["apns-topic"], push["apns-push-type"]) for push in fake.pushes()
    }
    assert headers == {
        "a1" * 32: ("com.example.chat", "alert"),
        "b2" * 32: ("com.example.chat.voip", "voip"),
    }
    assert sender("report") == {"removed": 1, "kept": 0, "unknown": 0}
    assert [row["type"] for row in database.push_tokens()] == ["apn"]


def test_a_verdict_waits_until_the_registry_is_back(sender, fake, register, alice, database):
    register(alice, value="gone")
    fake.say("gone", 404, error="UNREGISTERED")
    sender("add", "alice", "Hello")
    assert sender("send")["refused"] == 1
    away = f"http://127.0.0.1:{free_port()}"
    said = sender("report", status=1, REGISTRY_URL=away)
    assert said.startswith("push.tokens.feedback: ConnectError")
    assert sender("report") == {"removed": 1, "kept": 0, "unknown": 0}
    assert database.push_tokens() == []


def test_what_the_registry_cannot_read_is_said_and_not_kept(sender, tmp_path):
    assert sender("send")["refused"] == 0  # makes the outbox
    given = {"appName": "chat.example", "value": "secret", "provider": "apns", "status": 410}
    with sqlite3.connect(tmp_path / "outbox") as outbox:
        ahead = json.dumps(given | {"sentAt": "2999-01-01T00:00:00Z"})
        outbox.execute("INSERT INTO verdicts (verdict) VALUES (?)", (ahead,))
    outbox.close()
    answer, said = sender("report", with_stderr=True)
    assert answer == {"removed": 0, "kept": 0, "unknown": 0, "invalid": 1}
    assert said.startswith("invalid: sentAt: Is more than 5 minutes in the future. {")
    assert "secret" not in said
    assert sender("report") == {"removed": 0, "kept": 0, "unknown": 0}


def test_more_than_a_batch_of_users_and_of_verdicts(sender, fake, alice, database, tmp_path):
    users = [f"user-{number:04}" for number in range(1100)]
    sender("add", users[0], "Hello")
    with sqlite3.connect(tmp_path / "outbox") as outbox:
        insert = "INSERT INTO messages (user_id, text, added_at) VALUES (?, 'Hello', ?)"
        outbox.executemany(insert, [(user, time.time()) for user in users[1:]])
    outbox.close()
    database.execute(
        "INSERT INTO push_tokens"
        " (id, device_id, app_name, token, type, user_id, session_hash)"
        " SELECT name, name, 'chat.example', 'gone-' || name, 'gcm', name, %s"
        " FROM unnest(%s::text[]) name",
        *(alice.token_hash, users),
    )
    for user in users:
        fake.answers[f"gone-{user}"] = {"status": 404, "error": "UNREGISTERED"}
    fake.write()
    assert sender("send") == {"sent": 0, "refused": 1100, "waiting": 0}
    assert sender("report") == {"removed": 1100, "kept": 0, "unknown": 0}
    assert database.push_tokens() == []
    # The fake closes its connection after 1,000: what was under way is sent once more, no more.
    sent = Counter(fake.values())
    assert len(sent) == 1100
    assert set(sent.values()) <= {1, 2}


def test_two_runs_at_once_do_not_send_twice(sender, tmp_path):
    with (tmp_path / "outbox.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = sender("send", status=1)
    assert said == "another run is at work on this outbox\n"


def test_a_missing_setting_is_one_line(sender):
    assert sender("send", status=1, REGISTRY_KEY="") == "REGISTRY_KEY is not set\n"
