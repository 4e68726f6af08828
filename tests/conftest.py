"""One migrated database for the run, emptied after each test; requests go through HTTP.

Everything commits for real, as the hot path does by itself: no savepoint could take that back.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from app import create_app, log
from app.config import ROOT, Settings
from app.database import embedded
from app.models import db
from tests.support import shapes, standing_still
from tests.support.databases import close, migrate
from tests.support.factories import Caller, Database, body, uri
from tests.support.live import Live, serve
from tests.support.roles import Roles, partition, psql


class Urls(NamedTuple):
    """The URIs by which a database is used: by the tests, the service, and who issues keys."""

    tests: str
    app: str
    issuer: str


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--as-app-role",
        action="store_true",
        help="migrate as the owner, and serve as the app role, of deploy/postgresql/roles.sql",
    )
    parser.addoption(
        "--partitioned",
        action="store_true",
        help="on the partitions of deploy/postgresql/partition.sql",
    )
    parser.addoption(
        "--spread",
        action="store_true",
        help="on the keys of deploy/citus/keys.sql, with DATABASE_DISTRIBUTED=citus",
    )


def pytest_configure(config: pytest.Config) -> None:
    """With --spread every service of the run is told so, here and in what the tests start."""
    config.pluginmanager.register(standing_still)
    if config.getoption("--spread"):
        os.environ["DATABASE_DISTRIBUTED"] = "citus"
        Settings.__init__.__kwdefaults__["database_distributed"] = "citus"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that are in no folder, or the longest of them is the last to begin."""
    items.sort(key=lambda item: item.path.parent != ROOT / "tests")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests of delays and faults measured."""
    found = [
        f"{report.nodeid}: {name} {figure:.3f}"
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
        for name, figure in report.user_properties
    ]
    if found:
        terminalreporter.section("measured, in seconds")
        terminalreporter.write("\n".join(found) + "\n")


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that notes figures for the summary."""
    return lambda **figures: request.node.user_properties.extend(figures.items())


@pytest.fixture(scope="session", autouse=True)
def watch(tmp_path_factory) -> Iterator[shapes.Watch]:
    """Sees every statement of the service, here and in the processes that tests start."""
    folder = tmp_path_factory.mktemp("refused")
    watch = shapes.Watch(folder)
    shapes.watch_cursors(watch)
    shapes.watch_exchanges(watch)
    watched = str(ROOT / "tests" / "support" / "watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFUSED_STATEMENTS", str(folder))
        patch.setenv("PYTHONPATH", watched, prepend=":")
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # or each compiles all of the app
        yield watch


@pytest.fixture(autouse=True)
def no_statement_is_refused(watch: shapes.Watch) -> Iterator[None]:
    """Fail a test whose statements a distributed PostgreSQL refuses."""
    yield
    refused = watch.take()
    assert not refused, "a distributed PostgreSQL refuses: " + " | ".join(refused)


@pytest.fixture(scope="session")
def is_spread(request) -> bool:
    """Whether the tables have the keys of spread ones, which promise less (docs/contract.md)."""
    return bool(request.config.getoption("--spread"))


@pytest.fixture
def sweep(is_spread, runner) -> Callable[[], None]:
    """Mend what a race left: on one PostgreSQL there is nothing, so nothing is done."""

    def mend() -> None:
        if is_spread:
            assert runner.invoke(args=["push-tokens", "sweep"]).exit_code == 0

    return mend


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A server to make databases on: DATABASE_URL's, or an embedded one for the tests only.

    All workers of a run share it. Nothing on it has to survive a power cut, and without fsync the
    checkpoint of each DROP DATABASE takes no time; a killed server loses nothing all the same.
    """
    if url := Settings.from_env().database_url:
        yield url
        return
    server = embedded.Server(ROOT / "instance" / "tests")
    url = server.acquire()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    yield url
    server.release()


@pytest.fixture(scope="session")
def new_database(server_url: str) -> Iterator[object]:
    """A function that makes a database and returns its URI; all go at the end.

    It is empty, or a copy of another one: sooner made than migrated. Who is still connected to
    that one is thrown out.
    """
    made = []
    with psycopg.connect(server_url, autocommit=True) as connection:

        def make(copied: str = "") -> str:
            name = f"test_{secrets.token_hex(6)}"
            create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
            if copied:
                template = str(conninfo_to_dict(copied)["dbname"])
                end = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                connection.execute(f"{end} WHERE datname = %s", [template])
                create += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
            connection.execute(create)
            made.append(name)
            return uri(server_url, dbname=name)

        yield make
        for name in made:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            connection.execute(drop)


@pytest.fixture(scope="session")
def migrated(new_database, request, is_spread) -> Iterator[Urls]:
    """A migrated database of this run's own."""
    url = new_database()
    split = partition if request.config.getoption("--partitioned") else lambda _: None
    if is_spread:
        keys = (ROOT / "deploy/citus/keys.sql").read_text()
        split = partial(psql, script=keys)
    if not request.config.getoption("--as-app-role"):
        migrate(url, "upgrade", "head")
        split(url)
        yield Urls(url, url, url)
        return
    with Roles.on(url) as roles:
        migrate(roles.url("owner"), "upgrade", "head")
        split(url)
        roles.grant()
        yield Urls(url, roles.url("app"), roles.url("issuer"))


@pytest.fixture(scope="session")
def database_url(migrated: Urls) -> str:
    """The URI by which the service uses that database."""
    return migrated.app


@pytest.fixture(scope="session")
def app(database_url: str) -> Iterator[Flask]:
    """The service on that database."""
    app = create_app(Settings(database_url=database_url, database_pool_size=20))
    yield app
    close(app)


@pytest.fixture
def new_app() -> Iterator[Callable[..., Flask]]:
    """A function that makes the service from other settings."""
    made: list[Flask] = []

    def make(**settings: object) -> Flask:
        made.append(create_app(Settings(**settings)))
        return made[-1]

    yield make
    for app in made:
        close(app)


@pytest.fixture(scope="session")
def owner(migrated: Urls) -> Iterator[Database]:
    """The tests' own connection, for what no call of ours does."""
    with psycopg.connect(migrated.tests, autocommit=True, row_factory=dict_row) as connection:
        yield Database(connection)


@pytest.fixture(autouse=True)
def database(owner: Database) -> Iterator[Database]:
    """The database, empty before each test."""
    yield owner
    owner.execute("DELETE FROM service_key_events")
    owner.execute("DELETE FROM service_keys")
    owner.forget_everyone()


@pytest.fixture(scope="session")
def live(database_url: str) -> Iterator[Live]:
    """The service as operators run it, for what only a real server shows."""
    with serve(database_url, workers=2) as live:
        yield live


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def runner(app: Flask) -> FlaskCliRunner:
    return app.test_cli_runner()


@pytest.fixture(scope="session")
def issuer_app(migrated: Urls) -> Iterator[Flask]:
    """The commands as the role runs them that issues service keys."""
    app = create_app(Settings(database_url=migrated.issuer, database_pool_size=1))
    yield app
    close(app)


@pytest.fixture
def issuer(issuer_app: Flask) -> FlaskCliRunner:
    """Run the commands of that role; a test before may have ended its connection."""
    with issuer_app.app_context():
        db.engine.dispose()
    return issuer_app.test_cli_runner()


@pytest.fixture
def logged_here(monkeypatch) -> list[dict[str, object]]:
    """The lines that this process writes to the log from now on."""
    lines: list[dict[str, object]] = []
    monkeypatch.setattr(log.stderr, "write", lambda line: lines.append(json.loads(line)))
    return lines


@pytest.fixture
def alice(database: Database) -> Caller:
    """A signed-in user."""
    return database.sign_in("alice")


@pytest.fixture
def bob(database: Database) -> Caller:
    """Another one."""
    return database.sign_in("bob")


@pytest.fixture
def issue(issuer):
    """A function that issues a service key and returns its header."""

    def issue(*scopes: str, name: str = "sender", apps: Sequence[str] = ()) -> dict[str, str]:
        flags = [flag for scope in scopes for flag in ("--scope", scope)]
        flags += [flag for app in apps for flag in ("--app-name", app)]
        result = issuer.invoke(args=["service-keys", "issue", name, *flags])
        assert result.exit_code == 0, result.output
        return {"Authorization": f"Bearer {json.loads(result.stdout)['key']}"}

    return issue


@pytest.fixture
def call(client, issue):
    """A function that makes a call with a key of all scopes, and returns the answer."""
    headers = issue("lookup", "feedback", "sessions")
    return lambda path, fields: client.post(path, json=fields, headers=headers)


@pytest.fixture
def register(client):
    """A function that registers for a caller, and returns the result."""

    def register(caller, **fields):
        answer = client.post("/api/v1/push.token", json=body(**fields), headers=caller.headers)
        assert answer.status_code == 200, answer.text
        return answer.json["result"]

    return register
