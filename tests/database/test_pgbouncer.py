"""Behind PgBouncer in transaction mode: DATABASE_POOLER=transaction, with a real one.

Debian 12's is 1.18, which knows no prepared statements and refuses `options` at the start.
"""

import asyncio
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from flask import Flask

from app import create_app
from app.config import ConfigError, Settings
from app.database import embedded
from app.database.connections import connector
from app.database.exchange import Exchange
from app.models import db
from tests.support.activation import SocketUnit
from tests.support.clusters import DATABASE, Cluster
from tests.support.databases import close, migrate, opened
from tests.support.factories import Database, body
from tests.support.live import serve
from tests.support.load import Load, load
from tests.support.parts import part
from tests.support.patience import wait_until
from tests.support.recovery import check_recovery

PATH = "/api/v1/push.token"
SERVER_CONNECTIONS = 3
CONFIG = """
[databases]
{database} = host={socket} user=postgres
[pgbouncer]
unix_socket_dir = {folder}
listen_port = 6432
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 500
logfile = {folder}/log
pidfile = {folder}/pid
"""


class Bouncer:
    """A PgBouncer before a cluster, with few connections to it."""

    def __init__(self, cluster: Cluster):
        self._program = part("pgbouncer")
        self._folder = cluster.folder / "pgbouncer"
        self._folder.mkdir()
        config = self._folder / "pgbouncer.ini"
        values = {"socket": cluster.folder, "folder": self._folder}
        config.write_text(
            CONFIG.format(database=DATABASE, connections=SERVER_CONNECTIONS, **values)
        )
        embedded.server._hand_over(self._folder)
        self._command = embedded.as_unprivileged([self._program, "-q", str(config)])
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql:///{DATABASE}?host={quote(str(self._folder), safe='')}&port=6432"

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, cwd="/", start_new_session=True)
        wait_until(lambda: self._listens() or self._process.poll() is not None)
        assert self._process.poll() is None, "pgbouncer ended"

    def _listens(self) -> bool:
        """Tell whether it takes connections: its socket is there a moment before it does."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._folder / ".s.PGSQL.6432")) == 0

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    part("pgbouncer")
    cluster = Cluster()
    try:
        cluster.serve()
        migrate(cluster.url(), "upgrade", "head")
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture(scope="module")
def bouncer(cluster: Cluster) -> Iterator[Bouncer]:
    bouncer = Bouncer(cluster)
    yield bouncer
    bouncer.stop()


@pytest.fixture(scope="module")
def app(bouncer: Bouncer) -> Iterator[Flask]:
    settings = Settings(
        database_url=bouncer.url, database_pooler="transaction", database_lock_timeout=0.3
    )
    app = create_app(settings)
    yield app
    close(app)


@pytest.fixture(scope="module")
def issuer_app(app: Flask) -> Flask:
    """What issues service keys, on this database."""
    return app


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    """The cluster's database, past PgBouncer."""
    with opened(cluster.url()) as database:
        yield database
        database.execute("DELETE FROM service_keys")
        database.forget_everyone()


def prepared_by_us(bouncer: Bouncer) -> list[object]:
    """Return what is prepared, or set for a session, in any of the connections to PostgreSQL."""
    found: list[object] = []
    with ExitStack() as stack:
        for _ in range(SERVER_CONNECTIONS):  # a transaction each, so each gets one of them
            connection = stack.enter_context(psycopg.connect(bouncer.url, prepare_threshold=None))
            found += connection.execute("SELECT statement FROM pg_prepared_statements").fetchall()
            changed = "SELECT name, setting FROM pg_settings WHERE source = 'session'"
            ours = f"{changed} AND name ~ 'timeout|plan_cache|enable_|synchronous'"
            found += connection.execute(ours).fetchall()
    return found


def test_all_calls_work(client, call, alice, bob, register, database, bouncer):
    for n in range(30):  # more than the five after which psycopg prepares
        register(alice, value=f"t{n}")
        register(alice, value=f"t{n}", id=f"device{n}")
    assert register(bob, value="t0")["userId"] == "bob"
    for _ in range(10):
        assert len(client.get(PATH, headers=alice.headers).json["tokens"]) == 29
        assert len(call("/api/v1/push.tokens.lookup", {"userIds": ["alice"]}).json["tokens"]) == 29
        assert len(call("/api/v1/push.tokens.list", {"count": 10}).json["tokens"]) == 10
    assert client.delete(f"{PATH}?token=t1", headers=alice.headers).status_code == 200
    verdict = {"appName": "chat.example", "value": "t2", "provider": "fcm", "status": 404}
    verdict |= {"error": "UNREGISTERED", "sentAt": "2030-01-01T00:00:00Z"}
    assert call("/api/v1/push.tokens.feedback", {"results": [verdict]}).json["invalid"] == 1
    verdict["sentAt"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
    assert call("/api/v1/push.tokens.feedback", {"results": [verdict]}).json["removed"] == 1
    hashed = "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg="
    session = {"userId": "carol", "hashedToken": hashed}
    assert call("/api/v1/sessions.put", {"sessions": [session]}).json["sessions"] == 1
    assert call("/api/v1/sessions.revoke", {"userId": "carol"}).json["sessions"] == 1
    assert client.post("/api/v1/logout", headers=alice.headers).status_code == 200
    assert [row["user_id"] for row in database.push_tokens()] == ["bob"]
    assert client.get("/readyz").status_code == 200
    assert prepared_by_us(bouncer) == []


def test_commands_work_too_and_those_that_need_a_session_say_so(app, runner, alice):
    assert runner.invoke(args=["sessions", "purge"]).exit_code == 0
    assert runner.invoke(args=["push-tokens", "purge", "--unseen-days", "1"]).exit_code == 0
    with pytest.raises(ConfigError, match="DATABASE_POOLER must be unset for this command"):
        connector(app.extensions["push_registry"].settings, batch=True)


def test_the_doctor_names_a_pooler_that_the_settings_do_not(bouncer, new_app, database):
    def doctor(**settings):
        runner = new_app(database_url=bouncer.url, **settings).test_cli_runner()
        checks = json.loads(runner.invoke(args=["doctor", "--json"]).stdout)["checks"]
        return {one["check"]: one for one in checks}

    found = doctor()["database"]
    assert (found["state"], "DATABASE_POOLER=transaction" in found["do"]) == ("wrong", True)
    found = doctor(database_pooler="transaction")
    assert {found[name]["state"] for name in ("database", "session", "connections")} == {"right"}


@pytest.mark.parametrize("named", [{}, {"id": "device"}], ids=["hot path", "pool"])
def test_a_statement_waits_for_a_lock_as_long_as_the_setting_says(
    client, alice, register, database, named
):
    register(alice, value="held")
    database.execute("BEGIN")
    database.execute("SELECT 1 FROM push_tokens FOR UPDATE")
    begin = time.monotonic()
    answer = client.post(PATH, json=body(value="held", **named), headers=alice.headers)
    seconds = time.monotonic() - begin
    database.execute("ROLLBACK")
    assert answer.status_code == 503
    assert 0.3 <= seconds < 30  # as long as anybody holds it, without the setting
    register(alice, value="held", **named)


def test_every_transaction_has_the_limits(app):
    names = ("lock_timeout", "statement_timeout", "synchronous_commit")
    settings = "SELECT name, current_setting(name) FROM unnest(%(names)s::text[]) AS name"
    expected = [
        ("lock_timeout", "300ms"),
        ("statement_timeout", "5s"),
        ("synchronous_commit", "on"),
    ]

    async def of_the_hot_path() -> list[tuple[str, str]]:
        connect = connector(app.extensions["push_registry"].settings)
        exchange = Exchange(connect(autocommit=True), silence=6)
        try:
            return await exchange.fetch(settings, {"names": f"{{{','.join(names)}}}"})
        finally:
            exchange.close()

    assert asyncio.run(of_the_hot_path()) == expected
    with app.app_context():
        for _ in range(2):
            found = db.session.connection().exec_driver_sql(settings, {"names": list(names)})
            assert [tuple(row) for row in found] == expected
            db.session.commit()


@contextmanager
def many_clients(bouncer: Bouncer, database: Database) -> Iterator[Load]:
    """Have 40 clients register with a service behind PgBouncer."""
    callers = [database.sign_in(f"user{number}") for number in range(40)]
    with (
        serve(bouncer.url, workers=2, DATABASE_POOLER="transaction") as live,
        load(f"127.0.0.1:{live.port}", callers, 0.05) as clients,
    ):
        yield clients


@pytest.mark.slow
def test_many_clients_share_few_connections_and_lose_nothing(cluster, bouncer, database):
    with many_clients(bouncer, database) as clients:
        clients.until_acknowledged(1000)
    assert not clients.failures()
    assert clients.lost(database.connection) == []
    assert prepared_by_us(bouncer) == []


@pytest.mark.slow
def test_a_pgbouncer_that_is_away_under_load_loses_nothing(cluster, bouncer, database, measured):
    with many_clients(bouncer, database) as clients:
        for away in (0, 1):  # a restart, and an outage
            clients.until_acknowledged(500)
            bouncer.stop()
            time.sleep(away)
            bouncer.start()
            check_recovery(clients, time.monotonic(), measured)
    assert clients.statuses().keys() <= {200, 503}
    assert clients.lost(database.connection) == []


def test_a_restarted_pgbouncer_fails_nobody(cluster, bouncer, database):
    """All its clients lose their connections at once, and try again on new ones."""
    caller = database.sign_in("alice")
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        unit = SocketUnit(Path(name) / "s")
        unit.start(bouncer.url, DATABASE_POOLER="transaction")
        try:
            for _ in range(3):
                with ThreadPoolExecutor(20) as pool:
                    calls = [("POST", body(value=f"v{n}")) for n in range(20)] + [("GET", None)]
                    answers = pool.map(
                        lambda c: unit.ask(c[0], PATH, caller.headers, c[1])[0], calls
                    )
                    assert set(answers) == {200}
                bouncer.stop()
                bouncer.start()
        finally:
            unit.close()
    assert len(database.push_tokens()) == 20
