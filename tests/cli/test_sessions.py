"""`flask sessions issue|revoke`."""

import json

import pytest

from tests.support.factories import body

URL = "/api/v1/push.token"


def headers(session: dict[str, str]) -> dict[str, str]:
    return {"X-User-Id": session["userId"], "X-Auth-Token": session["authToken"]}


def run(runner, *arguments, stdin=None):
    result = runner.invoke(args=["sessions", *arguments], input=stdin)
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def test_issue_prints_a_session_that_works(runner, client, database):
    session = run(runner, "issue", "alice")
    assert list(session) == ["userId", "authToken", "expiresAt"]
    assert len(session["authToken"]) == 43
    assert client.post(URL, json=body(), headers=headers(session)).status_code == 200
    (row,) = database.rows("SELECT expires_at - created_at AS life FROM user_sessions")
    assert row["life"].days == 90


def test_issue_takes_a_life_in_days(runner, database):
    run(runner, "issue", "alice", "--days", "7")
    (row,) = database.rows("SELECT expires_at - created_at AS life FROM user_sessions")
    assert row["life"].days == 7


@pytest.mark.parametrize(
    "arguments",
    [
        ["issue"],
        ["issue", ""],
        ["issue", "x" * 256],
        ["issue", "a\0"],
        ["issue", "a", "--days", "0"],
        ["issue", "a", "--days", "x"],
        ["issue", "a", "--days", "36501"],
        ["revoke", "alice"],
        ["revoke", "alice", "--all", "--auth-token", "-"],
        ["revoke", "alice", "--auth-token", "in-the-process-list"],
    ],
)
def test_what_cannot_be_meant_changes_nothing(runner, database, arguments):
    database.sign_in("alice")
    result = runner.invoke(args=["sessions", *arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr
    assert len(database.rows("SELECT 1 FROM user_sessions")) == 1


def test_a_database_that_is_away_is_one_line(new_app, tmp_path):
    runner = new_app(database_url=f"postgresql:///x?host={tmp_path}").test_cli_runner()
    result = runner.invoke(args=["sessions", "issue", "alice"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: the database cannot do it now: ")
    assert "Traceback" not in result.stderr


def test_revoke_all_ends_every_session_of_the_user(runner, client, database, bob):
    for _ in range(2):
        alice = database.sign_in("alice")
        client.post(URL, json=body(value=alice.auth_token), headers=alice.headers)
    client.post(URL, json=body(value="bob's"), headers=bob.headers)
    assert run(runner, "revoke", "alice", "--all") == {"sessions": 2, "tokens": 2}
    assert [row["user_id"] for row in database.push_tokens()] == ["bob"]
    assert client.get(URL, headers=alice.headers).status_code == 401


def test_revoke_one_reads_the_auth_token_from_stdin(runner, client, database, alice, bob):
    other = database.sign_in("alice")
    revoked = run(runner, "revoke", "alice", "--auth-token", "-", stdin=f"{alice.auth_token}\n")
    assert revoked == {"sessions": 1, "tokens": 0}
    assert client.get(URL, headers=alice.headers).status_code == 401
    assert client.get(URL, headers=other.headers).status_code == 200
    revoke = ["sessions", "revoke", "alice", "--auth-token", "-"]
    foreign = runner.invoke(args=revoke, input=bob.auth_token)
    assert foreign.exit_code == 1
    assert json.loads(foreign.stdout) == {"sessions": 0, "tokens": 0}
    assert "'alice' has no session with this auth token" in foreign.stderr
    assert client.get(URL, headers=bob.headers).status_code == 200


def test_revoking_what_is_not_there_says_so(runner, database, alice):
    typo = runner.invoke(args=["sessions", "revoke", "alicf", "--all"])
    assert (typo.exit_code, json.loads(typo.stdout)) == (1, {"sessions": 0, "tokens": 0})
    assert "'alicf' has no session" in typo.stderr
    for nothing in ("", "\n", "  \n"):
        revoke = ["sessions", "revoke", "alice", "--auth-token", "-"]
        empty = runner.invoke(args=revoke, input=nothing)
        assert (empty.exit_code, empty.stdout) == (2, "")
        assert "There is no auth token on stdin." in empty.stderr
    assert len(database.rows("SELECT 1 FROM user_sessions")) == 1
