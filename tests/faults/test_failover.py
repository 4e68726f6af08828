"""The primary dies, its synchronous standby is promoted; several hosts in DATABASE_URL."""

import time
from urllib.parse import quote

import psycopg

from tests.support.databases import opened
from tests.support.load import load
from tests.support.patience import wait_until
from tests.support.recovery import LONGEST, check_recovery


def make_standby(primary, standby) -> None:
    """Copy the primary and follow it; from then on it waits for the standby at each commit."""
    standby.follow(primary)
    primary.alter("SET synchronous_standby_names = '*'")
    with psycopg.connect(primary.url("postgres"), autocommit=True) as connection:
        query = "SELECT sync_state FROM pg_stat_replication"
        wait_until(lambda: connection.execute(query).fetchall() == [("sync",)])


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
        clients.until_acknowledged(500)
        cluster.kill()
        assert clients.each_again(2).keys() == {503}
        promote(standby)
        check_recovery(clients, time.monotonic(), measured)
    assert clients.statuses().keys() == {200, 503}
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
        clients.until_acknowledged(500)
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

    def own_list() -> int:
        return unit.ask("GET", "/api/v1/push.token", callers[0].headers)[0]

    with load(address, callers) as clients:
        clients.until_acknowledged(200)
        assert own_list() == 200
        cluster.alter("SET default_transaction_read_only = on")
        wait_until(lambda: b"takes no writes" in unit.get("/readyz")[1])
        assert unit.get("/readyz")[0] == 503
        wait_until(lambda: own_list() == 503)
        promote(standby)
        check_recovery(clients, time.monotonic(), measured)
        wait_until(lambda: unit.get("/readyz")[0] == 200)
        assert own_list() == 200
    assert clients.statuses().keys() <= {200, 503}
    assert (unit.service.pid, set(unit.workers())) == service
    with opened(standby.url()) as database:
        assert clients.lost(database.connection) == []
    # Another connection may rest in a pool, unused, until it is wanted: then it is replaced.
    used = "SELECT query FROM pg_stat_activity WHERE query_start > %s AND application_name = %s"
    with opened(cluster.url()) as database:
        [now] = database.rows("SELECT clock_timestamp()")
        assert [own_list() for _ in range(20)] == [200] * 20
        assert database.rows(used, now["clock_timestamp"], "push-token-registry") == []
