"""`push-tokens show`, `remove` and `erase`: one user, for support, operators and the law."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from app.cli.main import main
from app.cli.users import shortened
from app.models import UserSession, db
from app.registry import sessions, ways
from tests.support.exports import row
from tests.support.factories import APNS_TOKEN, FCM_TOKEN, body
from tests.support.live import ask, serve

URL = "/api/v1/push.token"


@pytest.fixture
def run(runner):
    """A function that runs a command and returns its text, and its JSON where it is some."""

    def run(*arguments: str, status: int = 0, stdin: bytes | None = None):
        result = runner.invoke(args=["push-tokens", *arguments], input=stdin)
        assert result.exit_code == status, (result.output, result.exception)
        printed = result.stdout
        return (json.loads(printed) if printed.startswith("{") else printed), result.stderr

    return run


@pytest.fixture
def two_devices(register, alice, bob, database):
    register(alice, value=FCM_TOKEN, id="phone")
    register(alice, type="apn", value=APNS_TOKEN, id="tablet")
    register(bob, value="bobs", id="phone")
    other = database.sign_in("alice", expires="1 day")
    register(other, value="third", id="watch")
    return other


def test_shows_devices_and_sessions_without_a_whole_push_token(run, alice, two_devices):
    shown, said = run("show", "alice")
    assert said == ""
    assert "User alice\n3 registrations\n" in shown
    assert "\n2 sessions\n" in shown
    for whole in (FCM_TOKEN, APNS_TOKEN, alice.auth_token, alice.token_hash.hex()):
        assert whole not in shown
    assert f"apn {APNS_TOKEN[:6]}…{APNS_TOKEN[-6:]} of chat.example, production" in shown
    assert shown.count("senders find it: yes") == 3
    assert f"device phone, in session {alice.token_hash.hex()[:8]}\n" in shown
    assert "bob" not in shown


def test_a_short_push_token_is_not_shown_whole_either():
    for length in range(1, 200):
        whole = "x" * length
        assert len(shortened(whole).replace("…", "")) <= max(length * 2 / 3, 3)


def test_says_why_senders_do_not_find_a_device(run, alice, two_devices, database, register):
    database.execute("UPDATE push_tokens SET enabled = false WHERE device_id = 'tablet'")
    database.execute(
        "UPDATE user_sessions SET expires_at = now() WHERE token_hash = %s", two_devices.token_hash
    )
    database.execute(
        "UPDATE user_sessions SET can_sign_in = false, expires_at = NULL WHERE token_hash = %s",
        alice.token_hash,
    )
    shown, _ = run("show", "alice", "--json")
    assert {one["_id"]: one["reachable"] for one in shown["devices"]} == {
        "tablet": "no: disabled",
        "watch": "no: its session is over",
        "phone": "no: imported, waits for the app",
    }
    assert {one["kind"] for one in shown["latestSessions"]} == {"over", "imported"}


def test_what_it_calls_reachable_is_what_a_lookup_finds(run, alice, two_devices, database, call):
    for change in (
        "SELECT 1",
        "UPDATE push_tokens SET enabled = false WHERE device_id = 'tablet'",
        "UPDATE user_sessions SET can_sign_in = false",
        "UPDATE user_sessions SET can_sign_in = true, expires_at = now() - interval '1 s'",
        "UPDATE user_sessions SET expires_at = NULL",
    ):
        database.execute(change)
        shown, _ = run("show", "alice", "--json")
        found = call("/api/v1/push.tokens.lookup", {"userIds": ["alice"]}).json["tokens"]
        reachable = {one["_id"] for one in shown["devices"] if one["reachable"] == "yes"}
        assert reachable == {one["_id"] for one in found}


LOG = b"\n".join(
    [
        b"not JSON: the journal has other lines",
        b'{"status":200,"user_id":"alice","route":"/api/v1/push.token"}',
        b'{"status":401,"user_id":"bob","request_id":"of-bob"}',
        b"5",
        *(
            b'{"time":"2026-11-01T10:00:00Z","status":400,"method":"POST","route":"/api/v1/push'
            b'.token","request_id":"r%d","user_id":"alice","error_type":"error-id\x7f"}' % n
            for n in range(12)
        ),
        b'{"status":401,"claimed_user_id":"alice","request_id":"claimed"}',
        b'{"status":401,"message":"alice"}',
    ]
)


def test_shows_the_last_refusals_of_a_log(run, alice):
    shown, _ = run("show", "alice", "--log", "-", stdin=LOG)
    assert re.findall(r"r\d+|claimed|of-bob", shown.split("Refused requests")[1]) == [
        *(f"r{n}" for n in range(3, 12)),
        "claimed",
    ]
    assert "Refused requests: the last 10 of the log\n" in shown
    assert "  2026-11-01T10:00:00Z 400 POST /api/v1/push.token r11 error-id\ufffd\n" in shown
    assert "Refused requests are in the service's log" in run("show", "alice")[0]


def test_reads_what_the_service_logs_of_refusals(run, alice, bob, database_url, tmp_path):
    wrong = {"X-User-Id": "alice", "X-Auth-Token": "wrong"}
    with serve(database_url, workers=1, log=tmp_path / "log", LOG_LEVEL="info") as live:
        for place, (fields, headers) in enumerate(
            [
                (body(type="fcm"), alice.headers),
                (body(), wrong),
                (body(), alice.headers),
                (body(type="fcm"), bob.headers),
            ]
        ):
            ask(live, URL, fields, X_Request_Id=f"call-{place}", **headers)
    shown, _ = run("show", "alice", "--log", str(tmp_path / "log"))
    proven, claimed = shown.split("Refused requests: the last 2 of the log\n")[1].splitlines()
    assert " 400 POST /api/v1/push.token call-0 error-type-param-not-valid" in proven
    assert "not proven" not in proven
    assert " 401 POST /api/v1/push.token call-1 " in claimed
    assert claimed.endswith("(not proven to be this user)")


def test_no_control_character_reaches_the_terminal(run):
    user_id, value = "\x1b[31mred\u202e", "\x1b]0;title\x07" + "v" * 30
    evil = row(value, userId=user_id, _id="\x1b[2J", appName="\x1b[1mapp\n")
    run("import", "-", stdin=json.dumps(evil).encode())
    shown, said = run("show", user_id)
    assert "\N{REPLACEMENT CHARACTER}[31mred" in shown
    _, refused = run("remove", "\x1b[31mnobody", status=1)
    for text in (shown, said, refused):
        assert all(c.isprintable() or c == "\n" for c in text)
    assert run("remove", user_id)[0]["tokens"] == 1


@pytest.mark.parametrize("command", ["show", "remove", "erase"])
def test_a_user_of_whom_nothing_is_known_is_said_to_be_one(run, alice, command):
    said = run(command, "nobody", status=1)[1]
    assert "nobody" in said
    assert said.startswith("Error: ")


def test_removes_one_device_and_leaves_the_session(run, client, alice, two_devices, database):
    removed, _ = run("remove", "alice", "--device", "phone")
    assert (removed["userId"], removed["tokens"]) == ("alice", 1)
    assert [(one["_id"], one["token"]) for one in removed["devices"]] == [
        ("phone", shortened(FCM_TOKEN))
    ]
    left = {(row["user_id"], row["device_id"]) for row in database.push_tokens()}
    assert left == {("alice", "tablet"), ("alice", "watch"), ("bob", "phone")}
    assert client.get(URL, headers=alice.headers).status_code == 200
    assert (
        "has no registration for the device phone"
        in run("remove", "alice", "--device", "phone", status=1)[1]
    )


def test_removes_all_of_a_user_in_steps(run, alice, two_devices, database, monkeypatch):
    monkeypatch.setattr(sessions, "AT_ONCE", 2)
    assert run("remove", "alice")[0]["tokens"] == 3
    assert [row["user_id"] for row in database.push_tokens()] == ["bob"]
    assert len(database.rows("SELECT 1 FROM user_sessions")) == 3


def test_erases_everything_of_a_user_and_nothing_else(
    run, client, alice, bob, two_devices, database
):
    database.sign_in("alice", expires=None, can_sign_in=False)
    erased, _ = run("erase", "alice")
    assert (erased["sessions"], erased["tokens"]) == (3, 3)
    assert {one["_id"] for one in erased["devices"]} == {"phone", "tablet", "watch"}
    text = json.dumps(
        database.push_tokens() + database.rows("SELECT * FROM user_sessions"), default=str
    )
    assert "alice" not in text
    assert [row["user_id"] for row in database.push_tokens()] == ["bob"]
    assert client.get(URL, headers=alice.headers).status_code == 401
    assert client.get(URL, headers=bob.headers).status_code == 200


def test_what_registers_while_a_user_is_erased_leaves_nothing(
    app, alice, database, is_spread, sweep
):
    """Sessions are locked first, so a registration waits, and finds its session gone.

    Spread over nodes none is locked, so it may be answered, and what is left is swept.
    """
    answers: list[int] = []

    def register() -> None:
        client = app.test_client()
        answers.append(client.post(URL, json=body(), headers=alice.headers).status_code)

    with app.app_context():
        ways.current().locks.lock_sessions(UserSession.user_id == "alice")
        registering = threading.Thread(target=register)
        registering.start()
        sessions.end(UserSession.user_id == "alice")
        db.session.commit()
    registering.join()
    assert answers == [401] or (is_spread and answers == [200])
    sweep()
    assert not database.push_tokens()


def test_the_shell_completes_commands_and_options():
    """Bash is offered the first by the program itself, the others by what that runs."""
    environ = {
        "COMP_WORDS": "push-tokens er",
        "COMP_CWORD": "1",
        "_PUSH_TOKENS_COMPLETE": "bash_complete",
    }
    program = Path(sys.executable).parent / "push-tokens"
    done = subprocess.run(
        [str(program)], env={**os.environ, **environ}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "plain,erase\n"
    bash = BashComplete(main, {}, "push-tokens", "_PUSH_TOKENS_COMPLETE")
    for words, offered in (
        (["sessions", "rev"], ["revoke"]),
        (["import", "--re"], ["--rejects", "--reachable-for"]),
    ):
        assert [one.value for one in bash.get_completions(words[:-1], words[-1])] == offered
