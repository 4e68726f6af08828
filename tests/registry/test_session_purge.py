"""`sessions purge` beside transactions that hold rows: takes the others, comes back, and ends."""

import json
from contextlib import contextmanager

import psycopg
import pytest

from app.registry import maintenance
from tests.support.factories import body

ROWS = {"session": "user_sessions", "registration": "push_tokens"}


@pytest.fixture
def expired(database, client, monkeypatch):
    """Ten expired sessions with a registration each, in slices of three."""
    monkeypatch.setattr(maintenance, "SLICE", 3)
    monkeypatch.setattr(maintenance, "PAUSES", (0, 0))
    for number in range(10):
        caller = database.sign_in(f"u{number}")
        client.post("/api/v1/push.token", json=body(value=str(number)), headers=caller.headers)
    database.execute("UPDATE user_sessions SET expires_at = now()")


@contextmanager
def held(database_url: str, table: str):
    """Lock the row of u4 in another transaction."""
    with psycopg.connect(database_url) as other:
        other.execute(f"SELECT 1 FROM {table} WHERE user_id = 'u4' FOR UPDATE")
        yield other


@pytest.mark.parametrize("row", ROWS)
def test_what_is_held_stays_and_all_else_goes(runner, database, database_url, expired, row):
    with held(database_url, ROWS[row]):
        done = runner.invoke(args=["sessions", "purge"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["sessions"] == 9
    assert "1 expired sessions are locked; the next run ends them." in done.stderr
    assert [one["user_id"] for one in database.rows("SELECT user_id FROM user_sessions")] == ["u4"]
    done = runner.invoke(args=["sessions", "purge"])
    assert json.loads(done.stdout)["sessions"] == 1
    assert "locked" not in done.stderr
    assert database.push_tokens() == []


@pytest.mark.parametrize("row", ROWS)
def test_it_comes_back_to_what_was_held(runner, database, database_url, expired, row, monkeypatch):
    with held(database_url, ROWS[row]) as other:
        monkeypatch.setattr(maintenance.time, "sleep", lambda _: other.rollback())
        done = runner.invoke(args=["sessions", "purge"])
    assert json.loads(done.stdout) == {"sessions": 10, "tokens": 10}
    assert "locked" not in done.stderr
    assert database.rows("SELECT 1 FROM user_sessions") == []


def test_one_that_was_announced_anew_meanwhile_lives(
    runner, database, database_url, expired, monkeypatch
):
    with held(database_url, "user_sessions") as other:

        def renew(_):
            other.execute("UPDATE user_sessions SET expires_at = NULL WHERE user_id = 'u4'")
            other.commit()

        monkeypatch.setattr(maintenance.time, "sleep", renew)
        done = runner.invoke(args=["sessions", "purge"])
    assert json.loads(done.stdout) == {"sessions": 9, "tokens": 9}
    assert "locked" not in done.stderr
    assert [one["token"] for one in database.push_tokens()] == ["4"]
