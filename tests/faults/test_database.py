"""PostgreSQL is killed, frozen, full or has no connection left, under a load of registrations."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from app.database import embedded
from tests.support.clusters import state
from tests.support.databases import opened
from tests.support.load import load
from tests.support.patience import keeps, seconds, wait_until
from tests.support.recovery import LONGEST, check_recovery

END_ALL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'push-token-registry'
"""
INDEXES = "SELECT indexname FROM pg_indexes WHERE tablename = 'push_tokens'"
FILL = "INSERT INTO filler SELECT repeat('x', 100) FROM generate_series(1, 60)"


def test_a_killed_postgresql_loses_nothing_acknowledged(cluster, callers, unit, address, measured):
    unit.start(cluster.url())
    service = unit.service.pid, set(unit.workers())
    with load(address, callers) as clients:
        clients.until_acknowledged(500)
        # One backend: the server ends all connections and recovers by itself.
        with psycopg.connect(cluster.url()) as connection:
            os.kill(connection.info.backend_pid, signal.SIGKILL)
            wait_until(lambda: state(connection.info.backend_pid) == "X")  # the server knows
        cluster.wait_until_up()
        check_recovery(clients, time.monotonic(), measured)
        cluster.kill()
        assert clients.each_again(2).keys() == {503}
        cluster.start()
        cluster.wait_until_up()
        check_recovery(clients, time.monotonic(), measured)
    assert clients.statuses().keys() <= {200, 503}
    measured(slowest=clients.slowest())
    assert clients.slowest() < LONGEST
    assert (unit.service.pid, set(unit.workers())) == service
    with opened(cluster.url()) as database:
        assert clients.lost(database.connection) == []


def test_a_frozen_postgresql_is_a_503_in_time_and_nothing_else_stops(
    cluster, callers, unit, address, measured
):
    unit.start(cluster.url())
    service = unit.service.pid, set(unit.workers())
    with load(address, callers) as clients:
        clients.until_acknowledged(500)
        cluster.freeze()
        frozen = time.monotonic()
        health = []
        while time.monotonic() < frozen + 30:
            health.append(seconds(lambda: check_health(unit)))
            time.sleep(0.5)
        end = time.monotonic()
        cluster.signal(signal.SIGCONT)
        check_recovery(clients, time.monotonic(), measured)
    assert len([one for one in health if one > 1]) < len(health) / 10  # those are the machine's
    assert {o.status for o in clients.outcomes(frozen, end) if o.begin > frozen} == {503}
    assert clients.statuses().keys() == {200, 503}
    measured(slowest=clients.slowest())
    assert clients.slowest() < LONGEST
    assert (unit.service.pid, set(unit.workers())) == service
    with opened(cluster.url()) as database:
        assert clients.lost(database.connection) == []


def check_health(unit) -> None:
    assert unit.get("/healthz")[0] == 200


def test_the_other_calls_are_answered_in_time_by_a_frozen_postgresql(cluster, unit):
    unit.start(cluster.url())
    with opened(cluster.url()) as database:
        caller = database.sign_in("alice")
    cluster.freeze()
    calls = [
        ("GET", "/api/v1/push.token"),
        ("DELETE", "/api/v1/push.token?token=x"),
        ("POST", "/api/v1/logout"),
        ("GET", "/readyz"),
    ]

    def timed(call: tuple[str, str]) -> tuple[int, float]:
        begin = time.monotonic()
        status, _ = unit.ask(*call, caller.headers, timeout=90)
        return status, time.monotonic() - begin

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(timed, calls * 10))
    cluster.signal(signal.SIGCONT)
    assert {status for status, _ in answers} == {503}
    # A guard and a verb, each of which may wait for its turn.
    assert max(seconds for _, seconds in answers) < 2 * LONGEST
    wait_until(lambda: unit.ask("GET", "/api/v1/push.token", caller.headers)[0] == 200)


def test_an_exhausted_pool_is_a_503_in_time(cluster, unit):
    unit.start(cluster.url(), DATABASE_POOL_SIZE="1", WEB_CONCURRENCY="1", REQUEST_DEADLINE="2")
    path = "/api/v1/push.token"
    with opened(cluster.url()) as database, ThreadPoolExecutor(20) as pool:
        caller = database.sign_in("alice")

        def ask(_: object = None) -> int:
            return unit.ask("GET", path, caller.headers, timeout=60)[0]

        def exhaust() -> None:
            wait_until(lambda: ask() == 200)  # within the deadline, unless the machine stalls
            with database.connection.transaction():
                database.execute("LOCK TABLE push_tokens IN ACCESS EXCLUSIVE MODE")
                answers = pool.map(ask, range(20))
                assert unit.get("/healthz")[0] == 200
                assert set(answers) == {503}

        keeps(2 * (2 + 1 + 1), lambda: seconds(exhaust))
        wait_until(lambda: ask() == 200)


def test_too_many_connections_is_a_503_until_there_is_room(
    cluster, callers, unit, address, measured
):
    cluster.kill()
    cluster.start("max_connections=20")
    cluster.wait_until_up()
    unit.start(cluster.url())
    with load(address, callers) as clients, ExitStack() as stack:
        clients.until_acknowledged(200)
        hog = stack.enter_context(psycopg.connect(cluster.url(), autocommit=True))

        def has_all() -> bool:
            hog.execute(END_ALL)
            try:
                while True:
                    stack.enter_context(psycopg.connect(cluster.url(), autocommit=True))
            except psycopg.OperationalError as error:
                assert "too many clients" in str(error)  # noqa: PT017
            return clients.each_again(2).keys() == {503}

        wait_until(has_all)
        assert clients.each_again(5).keys() == {503}
        stack.close()
        check_recovery(clients, time.monotonic(), measured)
    assert clients.statuses().keys() == {200, 503}
    with opened(cluster.url()) as database:
        assert clients.lost(database.connection) == []


@contextmanager
def small_disk():
    """A file system of 4 MiB; only root can make one."""
    with tempfile.TemporaryDirectory(prefix="disk-") as name:
        Path(name).chmod(0o755)
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", name]
        if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
            pytest.skip("no right to mount a file system")
        try:
            shutil.chown(name, embedded.UNPRIVILEGED)
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def test_a_full_disk_is_a_503_with_nothing_half_done(cluster, callers, unit, address, measured):
    with small_disk() as disk, opened(cluster.url()) as database:
        database.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        database.execute("CREATE TABLE filler (a text) TABLESPACE small")
        for index in database.rows(INDEXES):
            database.execute(f"ALTER INDEX {index['indexname']} SET TABLESPACE small")
        database.execute("ALTER TABLE push_tokens SET TABLESPACE small")
        unit.start(cluster.url())
        with load(address, callers) as clients:
            clients.until_acknowledged(200)
            with suppress(psycopg.errors.DiskFull):
                while True:
                    database.execute(FILL)
            # Refreshes of what is there fit for a while yet.
            full = time.monotonic()
            wait_until(lambda: clients.begun(full)[503])
            # Whoever is answered 503 has nothing stored by it.
            caller = callers[0]
            before = len(database.push_tokens())
            refused = 0
            for _ in range(100):
                fields = {"type": "gcm", "value": secrets.token_urlsafe(1500), "appName": "big"}
                status, _ = unit.ask("POST", "/api/v1/push.token", caller.headers, fields)
                assert status in (200, 503)
                stored = database.rows(
                    "SELECT 1 FROM push_tokens WHERE app_name = 'big' AND token = %s",
                    fields["value"],
                )
                assert len(stored) == (status == 200)
                refused += status == 503
            assert refused
            assert len(database.push_tokens()) >= before
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            check_recovery(clients, time.monotonic(), measured)
        assert clients.statuses().keys() == {200, 503}
        assert clients.lost(database.connection) == []
        cluster.kill()


def test_a_disk_that_fills_up_in_a_group_is_a_503_for_all_of_it(
    cluster, callers, unit, address, measured
):
    """The same error raised by a trigger, where no file system can be made."""
    with opened(cluster.url()) as database:
        database.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF EXISTS (SELECT 1 FROM disk_is_full) THEN"
            " RAISE disk_full USING MESSAGE = 'could not extend file'; END IF;"
            " RETURN NEW; END $$"
        )
        database.execute("CREATE TABLE disk_is_full ()")
        database.execute(
            "CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON push_tokens"
            " FOR EACH ROW EXECUTE FUNCTION full_disk()"
        )
        unit.start(cluster.url())
        with load(address, callers) as clients:
            clients.until_acknowledged(500)
            database.execute("INSERT INTO disk_is_full DEFAULT VALUES")
            assert clients.each_again(5).keys() == {503}
            rows = database.rows("SELECT max(updated_at) AS latest FROM push_tokens")
            assert clients.each_again(5).keys() == {503}
            assert database.rows("SELECT max(updated_at) AS latest FROM push_tokens") == rows
            database.execute("DELETE FROM disk_is_full")
            check_recovery(clients, time.monotonic(), measured)
        assert clients.statuses().keys() == {200, 503}
        assert clients.lost(database.connection) == []
