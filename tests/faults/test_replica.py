"""DATABASE_READ_URL: a streaming standby that lags, is cut off or killed is not read."""

import os
import signal
import time

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

from app import metrics
from app.database import replica
from app.models import db
from tests.support.databases import opened
from tests.support.patience import keeps, seconds, wait_until

LOOKUP = "/api/v1/push.tokens.lookup"
MAX_LAG = 1.0


@pytest.fixture
def standby(cluster, new_cluster):
    """A streaming standby of the cluster, which does not wait for it."""
    standby = new_cluster()
    standby.follow(cluster)
    return standby


@pytest.fixture
def issuer_app(app):
    return app


@pytest.fixture
def database(cluster):
    with opened(cluster.url()) as database:
        yield database


@pytest.fixture
def app(cluster, standby, new_app, monkeypatch):
    monkeypatch.setattr(replica, "COOLDOWN", 0.2)
    monkeypatch.setattr(replica, "LAGGING", 0.1)
    monkeypatch.setattr(replica, "WRITTEN_EVERY", 0.0)
    return new_app(
        database_url=cluster.url(),
        database_read_url=standby.url(),
        read_max_lag_seconds=MAX_LAG,
        database_connect_timeout=2,
        database_statement_timeout=1,
    )


@pytest.fixture
def look_up(call):
    """A function that looks alice up; returns the push tokens, and which server answered."""

    def reads() -> dict[str, float]:
        return {s: metrics.READS.labels(s)._value.get() for s in ("replica", "primary")}

    def look_up() -> tuple[list[str], str]:
        before = reads()
        answer = call(LOOKUP, {"userIds": ["alice"]})
        assert answer.status_code == 200
        after = reads()
        (server,) = [name for name in after if after[name] > before[name]]
        return sorted(one["token"]["gcm"] for one in answer.json["tokens"]), server

    return look_up


def until(look_up, expected: tuple[list[str], str]) -> None:
    wait_until(lambda: look_up() == expected)


def test_a_standby_is_read_while_it_is_close_and_only_then(
    app, client, call, look_up, register, database, standby, cluster
):
    alice = database.sign_in("alice")
    register(alice, value="a")
    until(look_up, (["a"], "replica"))
    assert len(call("/api/v1/push.tokens.list", {}).json["tokens"]) == 1
    replays(standby, "pg_wal_replay_pause()")
    wait_until(lambda: replays(standby, "pg_get_wal_replay_pause_state()") == "paused")
    register(alice, value="b")
    settings = app.extensions["push_registry"].replica
    settings._max_lag = 600.0  # the price: for as long as the lag may be
    until(look_up, (["a"], "replica"))
    assert client.get("/api/v1/push.token", headers=alice.headers).json["tokens"][1:]
    settings._max_lag = MAX_LAG
    until(look_up, (["a", "b"], "primary"))
    (warning,) = client.get("/readyz").json["warnings"]
    assert "the replica lags" in warning
    replays(standby, "pg_wal_replay_resume()")
    until(look_up, (["a", "b"], "replica"))
    assert "warnings" not in client.get("/readyz").json
    # An idle primary is no lag, however old its last transaction.
    time.sleep(MAX_LAG + 0.5)
    until(look_up, (["a", "b"], "replica"))
    # Cut off, it has replayed all that it has.
    with psycopg.connect(standby.url("postgres")) as connection:
        (conninfo,) = connection.execute("SHOW primary_conninfo").fetchone()
    standby.alter("SET primary_conninfo = ''")
    until(look_up, (["a", "b"], "primary"))
    standby.alter(f"SET primary_conninfo = {sql.quote(conninfo)}")
    until(look_up, (["a", "b"], "replica"))


def replays(standby, function: str) -> str:
    with psycopg.connect(standby.url("postgres"), autocommit=True) as connection:
        return connection.execute(f"SELECT {function}").fetchone()[0]


def test_a_standby_that_is_cut_off_by_the_network_lags(
    app, look_up, register, database, standby, cluster
):
    """Its WAL receiver runs on and hears nothing: only the primary knows that there is more."""
    alice = database.sign_in("alice")
    register(alice, value="a")
    until(look_up, (["a"], "replica"))
    with psycopg.connect(cluster.url("postgres")) as connection:
        (sender,) = connection.execute("SELECT pid FROM pg_stat_replication").fetchone()
    os.kill(sender, signal.SIGSTOP)
    try:
        time.sleep(MAX_LAG)
        register(alice, value="b")
        assert look_up() == (["a", "b"], "primary")
    finally:
        os.kill(sender, signal.SIGCONT)
    until(look_up, (["a", "b"], "replica"))


def test_a_standby_that_is_killed_or_frozen_fails_no_lookup(
    app, client, look_up, register, database, standby
):
    alice = database.sign_in("alice")
    register(alice, value="a")
    until(look_up, (["a"], "replica"))
    standby.freeze()

    def ask_the_frozen_one() -> None:
        assert look_up() == (["a"], "primary")

    keeps(5, lambda: seconds(ask_the_frozen_one))
    standby.signal(signal.SIGCONT)
    until(look_up, (["a"], "replica"))
    standby.kill()
    assert look_up() == (["a"], "primary")
    assert "does not answer" in client.get("/readyz").json["warnings"][0]
    standby.start()
    until(look_up, (["a"], "replica"))
    with app.app_context():  # everything else goes to the primary
        assert db.session.scalar(text("SELECT pg_is_in_recovery()")) is False
