"""The primary dies, its synchronous standby is promoted; several hosts in DATABASE_URL."""

import time
from urllib.parse import quote

import psycopg

from tests.support.databases import opened
from tests.support.load import load
from tests.support.recovery import LONGEST, check_recovery


def make_standby(primary, standby) -> None:
    """Copy the primary and follow it; from then on it waits for the standby at each commit."""
    standby.follow(primary)
    primary.alter("SET synchronous_standby_names = '*'")
    with psycopg.connect(primary.url("postgres"), autocommit=True) as connection:
        query = "SELECT sync_state FROM pg_stat_replication"
        deadline = time.monotonic() + 20
        while connection.execute(query).fetchall() != [("sync",)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def both(first, second) -> str:
    """Return the URI of both; the service itself finds the one that takes writes."""
    hosts = quote(f"{first.folder},{second.folder}", safe=",")
    database = first.url().partition("?")[0]
    return f"{database}?user=postgres&host={hosts}"


def promote(standby) -> None:
    """Make a standby take writes; it has no standby of its own, and must not wait for one."""
    with psycopg.connect(standby.url("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_promote()")
    standby.alter("RESET synchronous_standby_names")


def test_a_promoted_standby_has_all_that_was_acknowledged_and_is_found(
    cluster, new_cluster, callers, unit, address, measured
):
    standby = new_cluster()
    make_standby(cluster, standby)
    unit.start(both(cluster, standby))
    service = unit.service.pid, set(unit.workers())
    with load(address, callers) as clients:
        time.sleep(4)
        cluster.kill()
        time.sleep(3)
        promote(standby)
        check_recovery(clients, time.monotonic(), measured)
    assert clients.statuses().keys() == {200, 503}
    assert clients.acknowledged() > 100
    measured(slowest=clients.slowest())
    assert clients.slowest() < LONGEST
    assert (unit.service.pid, set(unit.workers())) == service
    with opened(standby.url()) as database:
        assert clients.lost(database.connection) == []


def test_an_old_primary_that_comes_back_as_standby_is_not_written_to(
    cluster, new_cluster, callers, unit, address
):
    """The first host of the URI takes connections, but not writes."""
    standby = new_cluster()
    make_standby(cluster, standby)
    unit.start(both(standby, cluster))
    with load(address, callers) as clients:
        time.sleep(3)
    assert not clients.failures()
    with opened(cluster.url()) as database:
        assert clients.lost(database.connection) == []


def test_a_fenced_primary_is_left_for_the_host_that_takes_writes(
    cluster, new_cluster, callers, unit, address, measured
):
    """It answers on: every connection to it works, and none of them can write."""
    standby = new_cluster()
    make_standby(cluster, standby)
    unit.start(both(cluster, standby))
    service = unit.service.pid, set(unit.workers())
    mine = callers[0].headers
    with load(address, callers) as clients:
        time.sleep(2)
        assert unit.ask("GET", "/api/v1/push.token", mine)[0] == 200
        cluster.alter("SET default_transaction_read_only = on")
        time.sleep(1)
        status, answer = unit.get("/readyz")
        assert (status, b"takes no writes" in answer) == (503, True)
        assert unit.ask("GET", "/api/v1/push.token", mine)[0] == 503
        promote(standby)
        check_recovery(clients, time.monotonic(), measured)
        assert unit.get("/readyz")[0] == 200
        assert unit.ask("GET", "/api/v1/push.token", mine)[0] == 200
    assert clients.statuses().keys() <= {200, 503}
    assert (unit.service.pid, set(unit.workers())) == service
    with opened(standby.url()) as database:
        assert clients.lost(database.connection) == []
    left = "SELECT pid FROM pg_stat_activity WHERE application_name = 'push-token-registry'"
    deadline = time.monotonic() + 5  # what rests in a pool is left when it is wanted next
    with opened(cluster.url()) as database:
        while database.rows(left):
            assert time.monotonic() < deadline
            assert unit.ask("GET", "/api/v1/push.token", mine)[0] == 200
