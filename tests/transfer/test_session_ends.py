"""`sessions import --end-missing`: what Rocket.Chat signed out is signed out here."""

import gzip
import json
from datetime import UTC, datetime, timedelta

import pytest

from app.registry import provided
from app.transfer import session_ends
from tests.support.exports import ndjson, row
from tests.support.factories import Caller, iso
from tests.support.rocketchat import RocketChat

LOOKUP = "/api/v1/push.tokens.lookup"


@pytest.fixture
def chat():
    """Rocket.Chat's users; nobody asks it here."""
    server = RocketChat()
    yield server
    server.server_close()


@pytest.fixture
def sync(runner, tmp_path):
    """A function that imports an export and returns its summary and what it said."""

    def sync(
        data: bytes, *options: str, status: int = 0, exported_at: datetime | None = None
    ) -> tuple[dict[str, int], str]:
        path = tmp_path / "users.json"
        path.write_bytes(data)
        at = ["--exported-at", iso(exported_at or datetime.now(UTC))]
        arguments = ["sessions", "import", str(path), "--end-missing", *at, *options]
        result = runner.invoke(args=arguments)
        assert result.exit_code == status, result.output
        return json.loads(result.stdout), result.stderr

    return sync


@pytest.fixture
def phone(chat, sync, register):
    """A function that signs a phone in at Rocket.Chat, syncs and registers it."""

    def phone(user_id: str, name: str) -> str:
        auth_token = chat.sign_in(user_id)
        sync(chat.users_export())
        register(Caller(user_id, auth_token), value=name)
        return auth_token

    return phone


@pytest.fixture
def reached(call):
    """A function that says which phones of these users a sender reaches."""

    def reached(*users: str) -> list[str]:
        tokens = call(LOOKUP, {"userIds": list(users)}).json["tokens"]
        return sorted(token["token"]["gcm"] for token in tokens)

    return reached


def test_a_sign_out_ends_the_session_and_no_other(chat, sync, phone, reached):
    here, there, _ = phone("alice", "here"), phone("alice", "there"), phone("bob", "bob's")
    chat.sign_out(here)
    summary, _ = sync(chat.users_export())
    assert summary == {"read": 2, "sessions": 2, "rejected": 0, "ended": 1, "tokens": 1}
    assert reached("alice", "bob") == ["bob's", "there"]
    chat.sign_out(there)
    assert sync(chat.users_export())[0]["ended"] == 1
    assert reached("alice", "bob") == ["bob's"]
    assert sync(chat.users_export())[0]["ended"] == 0


def test_the_sign_out_of_the_last_session_is_no_failure(chat, sync, phone, reached):
    chat.sign_out(phone("alice", "here"))
    assert [sync(chat.users_export())[0]["ended"] for _ in range(2)] == [1, 0]
    assert reached("alice") == []


def test_a_user_who_was_deactivated_has_no_session(chat, sync, phone, reached, runner, tmp_path):
    phone("alice", "here")
    phone("bob", "bob's")
    chat.deactivate("alice")
    assert sync(chat.users_export())[0]["ended"] == 1
    assert reached("alice", "bob") == ["bob's"]
    again = runner.invoke(args=["sessions", "import", str(tmp_path / "users.json")])
    assert json.loads(again.stdout)["sessions"] == 1, "the document still has the login token"


def test_without_the_option_nothing_ends(chat, sync, phone, reached, runner, tmp_path):
    phone("bob", "bob's")
    chat.sign_out(phone("alice", "here"))
    (tmp_path / "u").write_bytes(chat.users_export())
    result = runner.invoke(args=["sessions", "import", str(tmp_path / "u")])
    assert json.loads(result.stdout) == {"read": 2, "sessions": 1, "rejected": 0}
    assert reached("alice") == ["here"]


def test_only_what_rocketchat_answers_for_ends(chat, sync, database, call, runner, tmp_path):
    """Not issued or announced sessions, nor those that hold imported registrations."""
    chat.sign_in("alice")
    runner.invoke(args=["sessions", "issue", "alice"])
    call(
        "/api/v1/sessions.put", {"sessions": [{"userId": "alice", "hashedToken": "a" * 43 + "="}]}
    )
    for options in ([], ["--reachable-for", "30"]):
        (tmp_path / "rows").write_bytes(ndjson(row(f"token{len(options)}")))
        runner.invoke(args=["push-tokens", "import", str(tmp_path / "rows"), *options])
    assert len(database.rows("SELECT 1 FROM user_sessions")) == 4
    assert sync(chat.users_export())[0]["ended"] == 0
    assert len(database.rows("SELECT 1 FROM user_sessions")) == 5


def test_what_was_confirmed_after_the_export_stays(chat, sync, phone, reached, database):
    phone("bob", "bob's")
    began = datetime.now(UTC)
    export = chat.users_export()
    late = chat.sign_in("bob")
    database.execute(
        "INSERT INTO user_sessions (token_hash, user_id, verified_at) VALUES (%s, 'bob', now())",
        Caller("bob", late).token_hash,
    )
    assert sync(export, exported_at=began)[0]["ended"] == 0
    assert sync(export)[0]["ended"] == 1
    assert reached("bob") == ["bob's"]


def test_a_clock_that_is_ahead_ends_nothing_of_the_file(chat, sync, phone, reached):
    phone("alice", "here")
    ahead = datetime.now(UTC) + timedelta(minutes=4)
    assert sync(chat.users_export(), exported_at=ahead)[0]["ended"] == 0
    assert reached("alice") == ["here"]


def test_users_that_are_not_in_the_file_keep_their_sessions(chat, sync, phone, reached):
    phone("alice", "here")
    phone("bob", "bob's")
    del chat.users["alice"]
    assert sync(chat.users_export())[0]["ended"] == 0
    assert reached("alice") == ["here"]
    summary, said = sync(chat.users_export(), "--all-users", "--expect", "2", status=1)
    assert summary["ended"] == 0
    assert "it has 1 users and not 2; no session was ended" in said
    assert sync(chat.users_export(), "--all-users", "--expect", "1")[0]["ended"] == 1
    assert reached("alice", "bob") == ["bob's"]


def test_many_are_ended_page_by_page(chat, sync, database, monkeypatch):
    monkeypatch.setattr(provided, "PAGE", 7)
    monkeypatch.setattr(session_ends, "USERS_AT_ONCE", 3)
    monkeypatch.setattr(session_ends, "SESSIONS_AT_ONCE", 4)
    logins = [chat.sign_in(f"u{number % 20}") for number in range(40)]
    sync(chat.users_export())
    for auth_token in logins[::4]:
        chat.sign_out(auth_token)
    for user_id in ("u1", "u3"):  # whose sessions are all still there
        del chat.users[user_id]
    assert sync(chat.users_export())[0]["ended"] == 10
    assert sync(chat.users_export(), "--all-users", "--expect", "18")[0]["ended"] == 4
    assert len(database.rows("SELECT 1 FROM user_sessions")) == 26


NO_FIELD = "no user in it has services.resume.loginTokens"
NO_EXPORTS = {
    "empty": (lambda data: b"", NO_FIELD),
    "blank": (lambda data: b"\n\n", NO_FIELD),
    "cut": (lambda data: data[:-20], "ends in the middle of line 2"),
    "cut_gzip": (lambda data: gzip.compress(data)[:-9], "after line"),
    "cut_array": (lambda data: b"[" + data.replace(b"\n", b",\n"), "ends in the middle"),
    "of_names": (lambda data: b'{"_id":"alice"}\n{"_id":"bob"}\n', NO_FIELD),
    "of_push_tokens": (lambda data: ndjson(row("t"), row("u")), NO_FIELD),
}


@pytest.mark.parametrize("kind", NO_EXPORTS)
@pytest.mark.parametrize("options", [(), ("--all-users", "--expect", "1")])
def test_a_file_that_is_no_export_ends_nothing(chat, sync, phone, reached, kind, options):
    spoil, reason = NO_EXPORTS[kind]
    auth_token = phone("alice", "here")
    phone("bob", "bob's")
    chat.sign_out(auth_token)
    summary, said = sync(spoil(chat.users_export()), *options, status=1)
    assert summary["ended"] == summary["tokens"] == 0
    assert reason in said
    assert "no session was ended" in said
    assert reached("alice", "bob") == ["bob's", "here"]


def test_a_line_that_cannot_be_read_may_be_any_user(chat, sync, phone, reached):
    phone("alice", "here")
    phone("bob", "bob's")
    spoiled = b"{spoiled}\n" + chat.users_export().splitlines(keepends=True)[1]
    _, said = sync(spoiled, "--all-users", "--expect", "1", status=1)
    assert "not every line of it can be read" in said
    assert sync(spoiled)[0] == {"read": 2, "sessions": 1, "rejected": 1, "ended": 0, "tokens": 0}
    assert reached("alice", "bob") == ["bob's", "here"]


def test_a_user_who_cannot_be_read_or_comes_twice_loses_nothing(chat, sync, phone, reached):
    auth_token = phone("alice", "here")
    phone("bob", "bob's")
    chat.sign_out(auth_token)
    export = chat.users_export()
    assert sync(export + export)[0]["ended"] == 0
    wrong = b'{"_id":"alice","services":{"resume":{"loginTokens":7}}}\n'
    summary, _ = sync(export.splitlines(keepends=True)[1] + wrong)
    assert (summary["rejected"], summary["ended"]) == (1, 0)
    assert reached("alice", "bob") == ["bob's", "here"]


def test_what_somebody_holds_is_left_and_said(chat, sync, phone, reached, database, owner):
    held, _, free = phone("alice", "here"), phone("bob", "bob's"), phone("carol", "carol's")
    chat.sign_out(held)
    chat.sign_out(free)
    connection = owner.connection
    with connection.transaction():
        digest = Caller("alice", held).token_hash
        connection.execute(
            "SELECT 1 FROM user_sessions WHERE token_hash = %s FOR KEY SHARE", (digest,)
        )
        summary, said = sync(chat.users_export(), status=1)
    assert summary["ended"] == 1
    assert "1 sessions were locked by others and not ended; run it again" in said
    assert sync(chat.users_export())[0]["ended"] == 1
    assert reached("alice", "bob", "carol") == ["bob's"]


@pytest.mark.parametrize(
    "options",
    [
        ["--all-users"],
        ["--expect", "3"],
        ["--exported-at", "2026-01-01T00:00:00Z"],
        ["--all-users", "--expect", "3"],
        ["--end-missing", "--all-users"],
        ["--end-missing", "--expect", "3"],
        ["--end-missing", "--all-users", "--expect", "0"],
        ["--end-missing", "--exported-at", "2026-01-01T00:00:00"],
        ["--end-missing", "--exported-at", "2126-01-01T00:00:00Z"],
        ["--end-missing", "--exported-at", "yesterday"],
    ],
)
def test_options_that_cannot_be_meant_are_refused(runner, tmp_path, options):
    (tmp_path / "u").write_bytes(b"")
    result = runner.invoke(args=["sessions", "import", str(tmp_path / "u"), *options])
    assert (result.exit_code, result.stdout) == (2, "")


def test_stdin_has_no_time_of_change_and_a_file_has(runner, tmp_path, chat):
    chat.sign_in("alice")
    data = chat.users_export()
    command = ["sessions", "import", "--end-missing"]
    refused = runner.invoke(args=[*command, "-"], input=data)
    assert refused.exit_code == 2
    assert "--end-missing needs --exported-at where FILE is stdin" in refused.stderr
    given = runner.invoke(
        args=[*command, "-", "--exported-at", iso(datetime.now(UTC))], input=data
    )
    assert given.exit_code == 0
    (tmp_path / "u").write_bytes(data)
    assert runner.invoke(args=[*command, str(tmp_path / "u")]).exit_code == 0
