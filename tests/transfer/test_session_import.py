"""`flask sessions import` and `flask sessions purge`."""

import gzip
import hashlib
import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest

from app.registry import maintenance
from app.transfer import mongoexport, session_import
from tests.support.factories import body

URL = "/api/v1/push.token"


def login(secret: str, days_ago: float | None = 1, **changes: object) -> dict[str, object]:
    digest = hashlib.sha256(secret.encode()).digest()
    entry: dict[str, object] = {"hashedToken": b64encode(digest).decode()}
    if days_ago is not None:
        when = datetime.now(UTC) - timedelta(days=days_ago)
        entry["when"] = {"$date": when.isoformat(timespec="milliseconds")}
    return {**entry, **changes}


def user(user_id: object, *logins: object, **changes: object) -> dict[str, object]:
    resume = {"services": {"resume": {"loginTokens": list(logins)}}}
    return {"_id": user_id, "username": "x", **resume, **changes}


@pytest.fixture
def run(runner, tmp_path):
    def run(data: bytes, stdin: bool = False, status: int = 0):
        path = tmp_path / "users.json"
        path.write_bytes(data)
        where = "-" if stdin else str(path)
        result = runner.invoke(args=["sessions", "import", where], input=data if stdin else None)
        assert result.exit_code == status, (result.output, result.exception)
        return json.loads(result.stdout), result.stderr

    return run


def lines(*documents: object) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


USERS = [user("alice", login("a1"), login("a2")), user("bob", login("b")), user("idle")]
FORMS = {
    "lines": lines(*USERS),
    "array": json.dumps(USERS).encode(),
    "gzip": gzip.compress(lines(*USERS)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stdin", [False, True])
def test_signs_the_users_in_and_again_changes_nothing(run, client, database, form, stdin):
    for _ in range(2):
        summary, _ = run(FORMS[form], stdin)
        assert summary == {"read": 3, "sessions": 3, "rejected": 0}
    for user_id, secret in [("alice", "a1"), ("alice", "a2"), ("bob", "b")]:
        headers = {"X-User-Id": user_id, "X-Auth-Token": secret}
        assert client.post(URL, json=body(), headers=headers).status_code == 200
    assert len(database.rows("SELECT 1 FROM user_sessions")) == 3


def test_a_login_ends_90_days_after_it_and_others_never(run, database):
    run(
        lines(
            user("a", login("x", 1), login("y", None), login("z", 5, type="personalAccessToken"))
        )
    )
    rows = database.rows("SELECT expires_at - now() AS left FROM user_sessions")
    lives = sorted(row["left"].days for row in rows if row["left"])
    assert (lives, len(rows)) == ([88], 3)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"nonsense", "not JSON"),
        (b"[]", "not a JSON object"),
        (json.dumps(user(5, login("x"))).encode(), "_id"),
        (json.dumps(user("", login("x"))).encode(), "_id"),
        (json.dumps(user("x", 5)).encode(), "services.resume.loginTokens.0"),
        (json.dumps(user("x", login("x"), {})).encode(), "services.resume.loginTokens.1"),
        (json.dumps(user("x", login("x", when="?"))).encode(), "services.resume.loginTokens.0"),
        (
            json.dumps(user("x", login("x", when={"$date": "9999-12-31T23:00:00Z"}))).encode(),
            "services.resume.loginTokens.0: far in the future",
        ),
        (
            json.dumps(user("x", services={"resume": {"loginTokens": {}}})).encode(),
            "services.resume.loginTokens",
        ),
    ],
)
def test_a_bad_line_is_named_and_stops_nothing(run, database, bad, reason):
    summary, said = run(lines(user("a", login("1"))) + bad + b"\n" + lines(user("b", login("2"))))
    assert summary == {"read": 3, "sessions": 2, "rejected": 1}
    assert f"line 2: {reason}" in said
    assert len(database.rows("SELECT 1 FROM user_sessions")) == 2


def test_a_session_of_another_user_is_left_alone(run, alice, database):
    data = lines(user("bob", login("b"), login(alice.auth_token)))
    summary, said = run(data)
    assert summary["sessions"] == 1
    assert "line 1: hashedToken: known for another user" in said
    owners = {row["user_id"] for row in database.rows("SELECT user_id FROM user_sessions")}
    assert owners == {"alice", "bob"}


def test_several_sessions_of_others_are_each_named(run, database, alice, bob):
    others = [alice, bob, database.sign_in("carol")]
    data = lines(user("dan", *(login(other.auth_token) for other in others), login("d")))
    summary, said = run(data)
    assert summary == {"read": 1, "sessions": 1, "rejected": 3}
    assert said.count("known for another user than dan") == 3


def test_a_placeholder_of_another_user_gives_way_to_the_session(run, client, database):
    holder = database.sign_in("former", expires=None, can_sign_in=False)
    summary, _ = run(lines(user("dan", login(holder.auth_token))))
    assert summary == {"read": 1, "sessions": 1, "rejected": 0}
    headers = {**holder.headers, "X-User-Id": "dan"}
    assert client.post(URL, json=body(), headers=headers).status_code == 200


def test_a_file_without_a_session_in_it_is_said_to_be_one(run):
    _, said = run(lines({"_id": "x", "token": {"gcm": "t"}, "appName": "main"}), status=1)
    assert "no session came of it" in said
    assert "`push-tokens import` takes push tokens" in said
    assert "services.resume.loginTokens" in said


def test_an_id_of_mongodb_is_read(run, database):
    run(lines(user({"$oid": "5f1a"}, login("x"))))
    assert [row["user_id"] for row in database.rows("SELECT * FROM user_sessions")] == ["5f1a"]


def test_no_control_character_of_a_user_reaches_the_terminal(run, alice):
    _, said = run(lines(user("\x1b[31mred", login(alice.auth_token))), status=1)
    assert "for another user than \N{REPLACEMENT CHARACTER}[31mred" in said
    assert "\x1b" not in said


def test_a_user_may_have_more_sessions_than_a_batch(run, database, monkeypatch):
    monkeypatch.setattr(session_import, "BATCH", 10)
    data = lines(user("bot", *(login(str(n)) for n in range(95))), user("a", login("a")))
    assert run(data)[0] == {"read": 2, "sessions": 96, "rejected": 0}
    assert len(database.rows("SELECT 1 FROM user_sessions")) == 96


@pytest.mark.parametrize("indent", [None, 1, "\t"])
def test_an_array_of_many_lines_a_document_is_read_whole(run, indent):
    """Lines inside of its documents begin with a brace, too, and reading ends in the midst."""
    users = [user(f"u{n}", login(f"{n} a"), login(f"{n} b")) for n in range(5000)]
    data = json.dumps(users, indent=indent).encode()
    assert len(data) > mongoexport.CHUNK
    assert run(data)[0] == {"read": 5000, "sessions": 10_000, "rejected": 0}


def test_a_bad_user_in_such_an_array_is_one_reject(run):
    users = [user(f"u{n}", login(f"{n} a"), login(f"{n} b")) for n in range(3)]
    data = json.dumps(users, indent=2).replace('"_id": "u1"', '"_id": u1')
    summary, said = run(data.encode())
    assert summary == {"read": 3, "sessions": 4, "rejected": 1}
    assert said.count("not JSON") == 1


def test_a_cut_file_ends_with_1_and_what_was_read_is_there(run, database, monkeypatch):
    monkeypatch.setattr(session_import, "BATCH", 2)
    data = gzip.compress(lines(*(user(f"u{n}", login(str(n))) for n in range(2000))), mtime=0)
    summary, said = run(data[:-200], status=1)
    stored = len(database.rows("SELECT 1 FROM user_sessions"))
    assert 0 < stored < 2000
    assert summary["sessions"] == stored
    assert "What was read before is imported." in said


def test_a_file_that_is_cut_within_the_first_batch_is_counted_too(run, database):
    summary, said = run(lines(*USERS)[:-10], status=1)
    assert summary == {"read": 3, "sessions": 3, "rejected": 1}
    assert len(database.rows("SELECT 1 FROM user_sessions")) == 3
    assert "imported: 3 rows, 1 rejected, " in said


def test_a_missing_file_is_one_line(runner):
    result = runner.invoke(args=["sessions", "import", "/nonexistent"])
    assert result.exit_code == 1
    assert "No such file" in result.stderr


def test_purge_takes_what_is_over_with_its_registrations(
    runner, client, alice, database, monkeypatch
):
    monkeypatch.setattr(maintenance, "SLICE", 3)
    for number in range(10):
        caller = database.sign_in(f"u{number}")
        client.post(URL, json=body(value=str(number)), headers=caller.headers)
    database.execute("UPDATE user_sessions SET expires_at = now() WHERE user_id < 'u7'")
    database.execute("UPDATE user_sessions SET expires_at = NULL WHERE user_id = 'alice'")
    result = runner.invoke(args=["sessions", "purge"])
    assert json.loads(result.stdout) == {"sessions": 7, "tokens": 7}
    assert [row["token"] for row in database.push_tokens()] == ["7", "8", "9"]
    assert client.get(URL, headers=alice.headers).status_code == 200
    again = runner.invoke(args=["sessions", "purge"])
    assert json.loads(again.stdout) == {"sessions": 0, "tokens": 0}
