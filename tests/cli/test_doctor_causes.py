"""`push-tokens doctor` names the cause of what is wrong with connections, and what helps."""

import json
import secrets

import psycopg
import pytest
from psycopg import sql

from app.cli.doctor_connection import why
from app.config import Settings
from app.database.session_settings import WrongEncodingError
from tests.support.databases import migrate
from tests.support.factories import uri
from tests.support.filled import fill

SETTINGS = Settings(database_url="postgresql:///x")


@pytest.fixture
def doctor(new_app):
    """A function that runs the command for settings; returns the findings by check."""

    def doctor(**settings: object) -> dict[str, dict[str, str]]:
        runner = new_app(**settings).test_cli_runner()
        done = runner.invoke(args=["doctor", "--json"])
        return {one["check"]: one for one in json.loads(done.stdout)["checks"]}

    return doctor


@pytest.mark.parametrize(
    ("said", "helps"),
    [
        ('FATAL:  password authentication failed for user "app"', "correct user and password"),
        ("fe_sendauth: no password supplied", "add the password"),
        ('FATAL:  database "x" does not exist', "createdb"),
        ('FATAL:  role "x" does not exist', "roles.sql"),
        ('FATAL:  role "database x" does not exist', "roles.sql"),
        ("FATAL:  sorry, too many clients already", "max_connections"),
        (
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER",
            "max_connections",
        ),
        ('FATAL:  too many connections for role "x"', "CONNECTION LIMIT"),
        ("FATAL:  unsupported startup parameter: options", "DATABASE_POOLER=transaction"),
        (
            "FATAL:  unsupported startup parameter in options: lock_timeout",
            "DATABASE_POOLER=transaction",
        ),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1"', "pg_hba.conf"),
        ("SSL error: certificate verify failed", "sslrootcert"),
        ("FATAL:  the database system is starting up", "wait"),
        ('could not translate host name "h" to address', "DNS"),
        ("connection timeout expired", "firewall"),
        ("Connection refused\n\tIs the server running on that host", "start the server"),
        ("something else", "start the server, or correct DATABASE_URL"),
    ],
)
def test_what_a_server_says_is_told_with_what_helps(said, helps):
    says, do = why(SETTINGS, psycopg.OperationalError(f"connection failed: {said}"))
    assert helps in do
    assert " ".join(said.split()) in says


def test_a_wrong_encoding_is_told_with_what_helps():
    says, do = why(SETTINGS, WrongEncodingError("the database is in X: make one with createdb"))
    assert (says, do) == ("the database is in X", "make one with createdb")


def test_no_such_database(server_url, doctor):
    found = doctor(database_url=uri(server_url, dbname="no_such_database_here"))["database"]
    assert "no_such_database_here" in found["says"]
    assert "createdb" in found["do"]


@pytest.fixture
def role(migrated):
    """A role of the server that may log in, without rights; its URI."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(migrated.tests, autocommit=True) as connection:
        quoted = sql.Identifier(name)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(quoted))
        database = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, quoted))
        yield connection, quoted, uri(migrated.tests, user=name, password="x")
        connection.execute(sql.SQL("DROP OWNED BY {}").format(quoted))
        connection.execute(sql.SQL("DROP ROLE {}").format(quoted))


def test_a_limit_of_connections_is_told_before_and_after_it_is_met(role, doctor):
    connection, name, url = role
    limit = sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}")
    for number, state in ((20, "warning"), (10, "wrong")):
        connection.execute(limit.format(name, number))
        found = doctor(database_url=url)["connections"]
        assert found["state"] == state
        assert "2 workers open up to 8 connections each" in found["says"]
        assert f"allow {number}" in found["says"]
        assert "WEB_CONCURRENCY" in found["do"]
    connection.execute(limit.format(name, 0))
    found = doctor(database_url=url)
    assert "CONNECTION LIMIT" in found["database"]["do"]
    assert found["connections"]["state"] == "skipped"


def test_settings_of_the_role_that_change_nothing_are_told(role, doctor):
    connection, name, url = role
    for setting in ("DateStyle", "statement_timeout", "work_mem"):
        value = {"DateStyle": "German"}.get(setting, "1000")
        alter = sql.SQL("ALTER ROLE {} SET {} = {}")
        connection.execute(alter.format(name, sql.Identifier(setting), value))
    found = doctor(database_url=url)["session"]
    assert found["state"] == "right"
    assert "so DateStyle, statement_timeout of the role" in found["says"]


def test_a_commit_that_is_not_waited_for_is_a_warning(database_url, doctor):
    url = uri(database_url, options="-c synchronous_commit=off")
    found = doctor(database_url=url)["session"]
    assert (found["state"], "may be lost" in found["says"]) == ("warning", True)


def test_limits_that_a_pooler_drops_are_told(database_url, doctor, monkeypatch):
    """As with `ignore_startup_parameters = options`."""
    monkeypatch.setattr("app.database.connections._milliseconds", lambda seconds: "7ms")
    found = doctor(database_url=database_url)["session"]
    assert (found["state"], found["do"]) == ("wrong", "set DATABASE_POOLER=transaction")


def test_a_lock_timeout_of_the_uri_is_none_that_was_dropped(database_url, doctor):
    url = uri(database_url, options="-c lock_timeout=7ms")
    assert doctor(database_url=url)["session"]["state"] == "right"


def test_a_replica_that_is_none_or_away_is_a_warning(database_url, doctor, tmp_path):
    assert "not used" in doctor(database_url=database_url)["replica"]["says"]
    found = doctor(database_url=database_url, database_read_url=database_url)["replica"]
    assert (found["state"], "is no standby" in found["says"]) == ("warning", True)
    away = f"postgresql:///x?host={tmp_path}"
    found = doctor(database_url=database_url, database_read_url=away)["replica"]
    assert (found["state"], "start the server" in found["do"]) == ("warning", True)
    refused = "postgresql://127.0.0.1:1/x"
    found = doctor(database_url=database_url, database_read_url=refused)["replica"]
    assert found["do"] == "start the server, or correct host and port in DATABASE_READ_URL"


@pytest.mark.parametrize(
    ("before", "column", "expanded"),
    [
        ("0003_refresh_heavy_tables", "environment", "0004_environment"),
        ("0007_environment_not_null", "device_id", "0009_device_id_index"),
    ],
)
def test_rows_that_are_not_filled_want_a_backfill_first(
    new_database, doctor, before, column, expanded
):
    url = new_database()
    migrate(url, "upgrade", before)
    fill(url, 10)
    migrate(url, "upgrade", expanded)
    found = doctor(database_url=url)["revision"]
    assert f"rows have no {column} yet" in found["says"]
    assert found["do"].startswith("run `push-tokens backfill`")
    with psycopg.connect(url) as connection:
        connection.execute(f"UPDATE push_tokens SET {column} = 'production'")
        connection.execute("UPDATE push_tokens SET environment = 'production'")
    found = doctor(database_url=url)["revision"]
    assert "run `push-tokens migrate`" in found["do"]


def test_a_release_that_serves_too_early_names_every_device(new_database, new_app):
    """Rows from before device ids have a name in every answer, before the backfill too."""
    url = new_database()
    migrate(url, "upgrade", "0007_environment_not_null")
    fill(url, 10)
    migrate(url, "upgrade", "0009_device_id_index")
    with psycopg.connect(url, autocommit=True) as connection:
        query = "SELECT id, user_id, app_name, token, type FROM push_tokens LIMIT 1"
        name, user_id, app_name, value, kind = connection.execute(query).fetchone()
        connection.execute(
            "INSERT INTO user_sessions (token_hash, user_id) VALUES (sha256('secret'), %s)",
            [user_id],
        )
    client = new_app(database_url=url).test_client()
    headers = {"X-User-Id": user_id, "X-Auth-Token": "secret"}
    listed = client.get("/api/v1/push.token", headers=headers).json["tokens"]
    assert {one["_id"] for one in listed} >= {name}
    fields = {"type": kind, "value": value, "appName": app_name}
    answer = client.post("/api/v1/push.token", json=fields, headers=headers)
    assert answer.json["result"]["_id"] == name
    ready = client.get("/readyz")
    assert (ready.status_code, "0009_device_id_index" in ready.json["error"]) == (503, True)
