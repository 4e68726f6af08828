"""What every connection brings along, whatever role, database and environment say."""

import json
import os
import subprocess
import sys

import psycopg
import pytest
from psycopg import sql

from app.config import ROOT, ConfigError, Settings
from app.database import session_settings
from app.database.connections import connector
from tests.support.databases import migrate, opened
from tests.support.factories import body, uri

ODD = {
    "client_encoding": "LATIN1",
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "exit_on_error": "on",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "300ms",
    "lock_timeout": "300ms",
    "idle_session_timeout": "100ms",
    "idle_in_transaction_session_timeout": "100ms",
    "synchronous_commit": "off",
}
HASHED = "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg="


@pytest.fixture(scope="module")
def timeouts():
    """The settings that the tests' own connection does without."""
    return {}


@pytest.fixture(scope="module")
def odd_url(new_database, timeouts):
    """A migrated database whose defaults are as odd as can be."""
    url = new_database()
    migrate(url, "upgrade", "head")
    with psycopg.connect(url, autocommit=True) as connection:
        settings = dict(ODD)
        if connection.info.server_version >= session_settings.TRANSACTION_TIMEOUT:
            settings["transaction_timeout"] = "300ms"
        name = sql.Identifier(connection.info.dbname)
        for setting, value in settings.items():
            alter = sql.SQL("ALTER DATABASE {} SET {} = {}")
            connection.execute(alter.format(name, sql.Identifier(setting), value))
    timeouts.update(dict.fromkeys((one for one in settings if one.endswith("timeout")), "0"))
    return url


@pytest.fixture
def sane(odd_url, timeouts):
    """The tests' own connection to it."""
    reset = " ".join(f"-c {name}={value}" for name, value in timeouts.items())
    with opened(uri(odd_url, options=reset)) as database:
        database.execute("SET client_encoding = UTF8")
        yield database
        database.forget_everyone()


def test_no_default_of_the_database_reaches_a_connection(odd_url, sane):
    for batch in (False, True):
        with connector(Settings(database_url=odd_url), batch=batch)() as connection:
            for name, odd in ODD.items():
                (value,) = connection.execute(f"SHOW {name}").fetchone()
                assert value != odd, name


def test_a_server_that_was_fenced_stays_fenced():
    everything = {**session_settings.RELIED_ON, **session_settings.RELIED_ON_BY_BATCHES}
    assert not [name for name in everything if "read_only" in name or "search_path" in name]


@pytest.mark.parametrize("pooler", [None, "transaction"])
def test_every_call_works_on_an_odd_database(
    odd_url, sane, new_app, monkeypatch, pooler, is_spread
):
    if pooler and is_spread:
        with pytest.raises(ConfigError, match="name the entry node itself"):
            new_app(database_url=odd_url, database_pooler=pooler)
        return
    monkeypatch.setenv("PGDATESTYLE", "SQL, DMY")
    monkeypatch.setenv("PGTZ", "America/Caracas")
    app = new_app(database_url=odd_url, database_pooler=pooler)
    client = app.test_client()
    user = sane.sign_in("Zoë ₿")
    headers = {**user.headers, "X-User-Id": "Zoë ₿".encode().decode("latin-1")}
    answer = client.post("/api/v1/push.token", json=body(appName="Ü₿"), headers=headers)
    assert answer.status_code == 200, answer.text
    listed = client.get("/api/v1/push.token", headers=headers).json["tokens"]
    assert listed == [answer.json["result"]]
    assert (listed[0]["userId"], listed[0]["appName"]) == ("Zoë ₿", "Ü₿")
    scopes = ("--scope", "lookup", "--scope=sessions")
    issued = app.test_cli_runner().invoke(args=["service-keys", "issue", "s", *scopes])
    assert issued.exit_code == 0, issued.output
    key = {"Authorization": f"Bearer {json.loads(issued.stdout)['key']}"}
    announced = [
        {"userId": "a\\b", "hashedToken": HASHED, "expiresAt": None},
        {"userId": "c", "hashedToken": HASHED.lower(), "expiresAt": "2040-01-02T00:00:00Z"},
    ]
    put = client.post("/api/v1/sessions.put", json={"sessions": announced}, headers=key)
    assert put.status_code == 200, put.text
    rows = sane.rows("SELECT expires_at FROM user_sessions WHERE user_id IN ('a\\\\b', 'a\\b')")
    assert rows == [{"expires_at": None}]
    found = client.post("/api/v1/push.tokens.lookup", json={"userIds": ["Zoë ₿"]}, headers=key)
    assert found.json["tokens"] == listed


def test_a_roles_timeout_cuts_no_command(odd_url):
    with connector(Settings(database_url=odd_url), batch=True)() as connection:
        assert connection.execute("SELECT 1 FROM pg_sleep(0.5)").fetchone() == (1,)


@pytest.fixture(scope="module")
def ascii_url(server_url, new_database):
    """A database in SQL_ASCII."""
    url = new_database()
    with psycopg.connect(server_url, autocommit=True) as connection:
        name = sql.Identifier(psycopg.conninfo.conninfo_to_dict(url)["dbname"])
        connection.execute(sql.SQL("DROP DATABASE {}").format(name))
        create = "CREATE DATABASE {} ENCODING SQL_ASCII TEMPLATE template0 LOCALE 'C'"
        connection.execute(sql.SQL(create).format(name))
    return url


def test_a_database_that_is_not_utf8_is_refused_in_one_line(ascii_url, new_app, logged_here):
    advice = "is in SQL_ASCII and must be in UTF8: make one with `createdb --encoding=UTF8"
    for program in (["alembic", "upgrade", "head"], ["flask", "sessions", "issue", "alice"]):
        done = subprocess.run(
            [sys.executable, "-m", *program],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": ascii_url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode not in (0, None)
        (line,) = (done.stdout + done.stderr).splitlines()
        assert advice in line
    client = new_app(database_url=ascii_url).test_client()
    answer = client.get("/readyz")
    assert (answer.status_code, "not in UTF8" in answer.json["error"]) == (503, True)
    headers = {"X-User-Id": "alice", "X-Auth-Token": "x"}
    assert client.post("/api/v1/push.token", json=body(), headers=headers).status_code == 503
    assert advice in str(logged_here[-1]["reason"])
