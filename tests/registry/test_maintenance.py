"""`push-tokens purge`: what nobody renews leaves, and only that."""

import json
import statistics
import threading
import time

import psycopg
import pytest
from sqlalchemy import event

from app.config import Settings
from app.registry import maintenance
from tests.support.factories import body
from tests.support.killing import killed_halfway


@pytest.fixture
def register(database, alice):
    """A function that stores registrations of alice's, last seen so many days ago."""

    def register(*days: float, caller=alice, name: str = "t") -> None:
        for number, age in enumerate(days):
            database.execute(
                "INSERT INTO push_tokens"
                " (id, device_id, app_name, token, type, user_id, session_hash, created_at,"
                " updated_at)"
                " VALUES (%s, %s, 'main', %s, 'gcm', %s, %s, now() - interval '1000 days',"
                " now() - %s * interval '1 day')",
                *[f"{name}{number}"] * 3,
                *(caller.user_id, caller.token_hash, age),
            )

    return register


@pytest.fixture
def run(runner):
    def run(*options: str) -> dict[str, object]:
        args = ["push-tokens", "purge", "--unseen-days", "270", *options]
        result = runner.invoke(args=args)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


FILLED_AT_ONCE = 2500  # where there are partitions each row of a transaction takes a lock


def fill(database, rows: int, caller) -> None:
    """Store registrations that nobody has renewed for long."""
    for start in range(1, rows + 1, FILLED_AT_ONCE):
        database.execute(
            "INSERT INTO push_tokens ("
            "id, device_id, app_name, token, type, user_id, session_hash, created_at, updated_at)"
            " SELECT n::text, n::text, 'main', n::text, 'gcm', %s, %s, 'epoch', 'epoch'"
            " FROM generate_series(%s::integer, %s) n",
            *(caller.user_id, caller.token_hash, start, min(rows, start + FILLED_AT_ONCE - 1)),
        )


def left(database) -> list[str]:
    return [row["token"] for row in database.push_tokens()]


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_takes_what_was_not_seen_for_so_long(run, register, database, monkeypatch, size):
    monkeypatch.setattr(maintenance, "SLICE", size)
    register(0, 269.9, 270.1, 999)
    assert run() == {"unseen": 2, "beyondLimit": 0, "dryRun": False}
    assert left(database) == ["t0", "t1"]
    assert run()["unseen"] == 0


def test_a_dry_run_counts_and_leaves_all(run, register, database):
    register(0, 1, 2, 999)
    expected = {"unseen": 1, "beyondLimit": 2}
    assert run("--dry-run", "--keep-per-user", "1") == {**expected, "dryRun": True}
    assert len(left(database)) == 4
    assert run("--keep-per-user", "1") == {**expected, "dryRun": False}


def test_keeps_a_users_100_latest_seen_unless_told_otherwise(run, database, alice):
    database.execute(
        "INSERT INTO push_tokens (id, device_id, app_name, token, type, user_id, session_hash,"
        " updated_at) SELECT n, n, 'app', lpad(n::text, 3, '0'), 'gcm', 'alice', %s,"
        " now() - n * interval '1 second' FROM generate_series(1, 150) n",
        alice.token_hash,
    )
    assert run()["beyondLimit"] == 50
    assert left(database) == [f"{n:03}" for n in range(1, 101)]


@pytest.mark.parametrize("size", [3, 4, 10_000])
def test_keeps_a_users_latest_seen(run, register, database, bob, monkeypatch, size):
    monkeypatch.setattr(maintenance, "USERS_SLICE", size)
    monkeypatch.setattr(maintenance, "SLICE", 2)
    register(*range(10))
    register(5, 6, caller=bob, name="b")
    assert run("--keep-per-user", "3")["beyondLimit"] == 7
    assert left(database) == ["b0", "b1", "t0", "t1", "t2"]


def test_leaves_what_somebody_is_renewing(run, register, database, database_url):
    register(300, 300)
    with psycopg.connect(database_url) as other:
        other.execute("UPDATE push_tokens SET updated_at = now() WHERE token = 't0'")
        assert run()["unseen"] == 1  # without waiting
        other.commit()
    assert left(database) == ["t0"]


def test_leaves_what_was_renewed_since_it_was_found(register, app, database):
    register(300, 300)
    with app.app_context():
        since = maintenance.days_ago(270)
        original = maintenance.slices

        def renewed_then(*asked):
            for found in original(*asked):
                database.execute("UPDATE push_tokens SET updated_at = now() WHERE token = 't1'")
                yield found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(maintenance, "slices", renewed_then)
            steps = maintenance.unseen(since, dry_run=False)
            assert sum(step.changed for step in steps) == 1
        maintenance.db.session.commit()
    assert left(database) == ["t1"]


def test_registrations_meanwhile_never_fail(run, register, app, alice, database):
    register(*[300] * 3000)
    codes = []

    def renew() -> None:
        client = app.test_client()
        for number in range(0, 3000, 50):
            fields = body(value=f"t{number}", appName="main")
            answer = client.post("/api/v1/push.token", json=fields, headers=alice.headers)
            codes.append(answer.status_code)

    thread = threading.Thread(target=renew)
    thread.start()
    run()
    thread.join()
    assert set(codes) == {200}
    assert set(left(database)) == {f"t{number}" for number in range(0, 3000, 50)}


def test_killed_in_the_middle_and_run_again(run, database, database_url, alice):
    remaining = killed_halfway(
        database_url,
        lambda: fill(database, 50_000, alice),
        "push_tokens",
        *("purge", "--unseen-days", "270"),
    )
    assert remaining % maintenance.SLICE == 0  # what was begun is undone
    assert run()["unseen"] == remaining
    assert left(database) == []


def test_sessions_of_an_import_go_with_their_last_registration(run, register, database):
    register(0, caller=database.sign_in("used", None, can_sign_in=False), name="u")
    register(300, caller=database.sign_in("empty", None, can_sign_in=False), name="e")
    run()
    users = {row["user_id"] for row in database.rows("SELECT user_id FROM user_sessions")}
    assert users == {"alice", "used"}


@pytest.mark.parametrize("lost", [False, True], ids=["new table", "had lost its rows"])
def test_locks_are_held_for_milliseconds(database, app, alice, lost):
    """From the statement that takes a batch to its commit; a registration waits for that long."""
    fill(database, 20_000, alice)
    if lost:  # the statistics are those of one row in many pages
        database.execute("UPDATE push_tokens SET id = 'x', token = 'x' WHERE id = '20000'")
        database.execute("DELETE FROM push_tokens WHERE id <> 'x'")
        database.execute("VACUUM ANALYZE push_tokens")
        database.execute("DELETE FROM push_tokens")
        fill(database, 20_000, alice)
    held, locked_at = [], []

    def before(connection, cursor, statement, parameters, context, many):
        if "DELETE" in statement and not locked_at:
            locked_at.append(time.perf_counter())

    def committed(connection):
        if locked_at:
            held.append(time.perf_counter() - locked_at[0])
            locked_at.clear()

    with app.app_context():
        engine = maintenance.db.engine
        event.listen(engine, "before_cursor_execute", before)
        event.listen(engine, "commit", committed)
        try:
            for _ in maintenance.unseen(maintenance.days_ago(270), dry_run=False):
                maintenance.db.session.commit()
        finally:
            event.remove(engine, "before_cursor_execute", before)
            event.remove(engine, "commit", committed)
    assert left(database) == []
    assert len(held) == 20_000 / maintenance.SLICE
    # Seconds; 0.009 where it was written, 5 by a bad plan. The machine may stall in one of them.
    assert statistics.median(held) < 0.05
    assert sorted(held)[-2] < Settings().database_lock_timeout


@pytest.mark.parametrize("bad", [["--unseen-days", "0"], [], ["--unseen-days", "x"]])
def test_says_what_is_wrong_with_its_options(runner, bad):
    assert runner.invoke(args=["push-tokens", "purge", *bad]).exit_code == 2


def test_the_database_away_is_one_line(app, runner, monkeypatch):
    def away(days):
        raise psycopg.OperationalError("connection refused")

    monkeypatch.setattr(maintenance, "days_ago", away)
    result = runner.invoke(args=["push-tokens", "purge", "--unseen-days", "1"])
    assert result.exit_code == 1
    assert "the database cannot do it now: connection refused" in result.stderr
