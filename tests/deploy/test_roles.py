"""The roles of deploy/postgresql/roles.sql: who may do what."""

import os
import secrets
import subprocess
import sys

import psycopg
import pytest
from psycopg import errors, sql

from app.config import ROOT
from app.models import db
from tests.support.databases import migrate
from tests.support.factories import uri
from tests.support.filled import fill
from tests.support.roles import KINDS, Roles

TABLES = [*db.metadata.tables, "alembic_version"]


@pytest.fixture(scope="module")
def roles(new_database):
    """The roles on a filled database, made before the migrations and run again after them."""
    with Roles.migrated(new_database()) as roles:
        fill(roles.database)
        yield roles


@pytest.fixture
def as_role(roles):
    """A function that connects as one of the roles."""
    connections = []

    def connect(kind: str) -> psycopg.Connection:
        connections.append(psycopg.connect(roles.url(kind), autocommit=True))
        return connections[-1]

    yield connect
    for connection in connections:
        connection.close()


def rights(connection: psycopg.Connection, table: str) -> set[str]:
    kinds = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]
    query = "SELECT kind FROM unnest(%s::text[]) kind WHERE has_table_privilege(%s, kind)"
    return {kind for (kind,) in connection.execute(query, [kinds, table])}


def test_the_app_has_just_the_rights_that_it_needs(as_role):
    app = as_role("app")
    rows = {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert {table: rights(app, table) for table in TABLES} == {
        "user_sessions": rows,
        "push_tokens": rows,
        "service_keys": {"SELECT"},
        "service_key_uses": rows - {"DELETE"},
        "service_key_events": set(),
        "alembic_version": {"SELECT"},
    }


@pytest.mark.slow
def test_a_command_of_another_role_says_whose_it_is(roles, new_database):
    def said(url: str, *arguments: str) -> str:
        command = [sys.executable, "-m", "app.cli.main", *arguments]
        environ = {**os.environ, "DATABASE_URL": url}
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1
        return done.stderr

    with Roles.on(new_database()) as before:
        assert "run it as the role that owns the tables" in said(before.url("app"), "migrate")
    issue = ("service-keys", "issue", "sender", "--scope", "lookup")
    assert "run it as the role that issues" in said(roles.url("app"), *issue)
    assert "run it as the role that serves" in said(roles.url("issuer"), "show", "alice")
    assert "no host lets this role write" in said(roles.url("report"), "show", "alice")


def test_the_issuer_sees_no_registration_and_adds_to_the_history_only(as_role):
    issuer = as_role("issuer")
    assert {table: rights(issuer, table) for table in TABLES} == {
        "user_sessions": set(),
        "push_tokens": set(),
        "service_keys": {"SELECT", "INSERT"},
        "service_key_uses": {"SELECT"},
        "service_key_events": {"SELECT"},
        "alembic_version": {"SELECT"},
    }
    added = (
        "INSERT INTO service_key_events (event, name, key_id, scopes{})"
        " VALUES ('issued', 'x', 'y', '{{}}'{})"
    )
    issuer.execute(added.format("", ""))
    for forged in (("role", "'mallory'"), ("happened_at", "'2020-01-01'")):
        with pytest.raises(errors.InsufficientPrivilege):
            issuer.execute(added.format(*(f", {part}" for part in forged)))
    role = issuer.execute("SELECT role FROM service_key_events WHERE name = 'x'").fetchone()
    assert role == (issuer.info.user,)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO service_keys (key_hash, name, scopes) VALUES ('x', 'x', '{sessions}')",
        "UPDATE service_keys SET revoked_at = NULL",
        "UPDATE service_keys SET scopes = '{sessions}'",
        "UPDATE service_keys SET expires_at = NULL",
        "INSERT INTO service_key_events (event, name, key_id, scopes) VALUES ('', '', '', '{}')",
    ],
)
def test_the_app_makes_revives_and_widens_no_key(as_role, statement):
    with pytest.raises(errors.InsufficientPrivilege):
        as_role("app").execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE service_keys SET scopes = '{sessions}'",
        "UPDATE service_keys SET app_names = NULL",
        "DELETE FROM service_key_events",
        "UPDATE service_key_events SET name = 'x'",
        "SELECT FROM push_tokens",
        "SELECT FROM user_sessions",
        "INSERT INTO service_key_uses VALUES ('x', now())",
    ],
)
def test_the_issuer_changes_no_key_and_no_history(as_role, statement):
    with pytest.raises(errors.InsufficientPrivilege):
        as_role("issuer").execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE push_tokens",
        "TRUNCATE user_sessions CASCADE",
        "ALTER TABLE push_tokens ADD COLUMN note text",
        "CREATE INDEX ON push_tokens (type)",
        "DROP TABLE push_tokens",
        "CREATE TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "UPDATE alembic_version SET version_num = 'x'",
        "DELETE FROM service_keys",
        "DELETE FROM service_key_events",
    ],
)
def test_none_of_the_others_may(as_role, statement):
    for kind in ("app", "issuer", "report"):
        connection = as_role(kind)
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(statement)


def test_a_reporter_counts_and_reads_no_secret(as_role):
    reporter = as_role("report")
    query = "SELECT type, count(*), max(updated_at) FROM push_tokens GROUP BY type ORDER BY type"
    assert [row[0] for row in reporter.execute(query)] == ["apn", "gcm"]
    readable = (
        "SELECT table_name || '.' || column_name FROM information_schema.column_privileges"
        " WHERE grantee = current_user AND privilege_type = 'SELECT'"
    )
    columns = {name for (name,) in reporter.execute(readable)}
    assert columns == {
        *(f"push_tokens.{n}" for n in ("app_name", "type", "user_id", "enabled")),
        *(f"push_tokens.{n}" for n in ("created_at", "updated_at", "environment")),
        *(f"user_sessions.{n}" for n in ("user_id", "created_at", "expires_at", "verified_at")),
        "user_sessions.can_sign_in",
        *(f"service_keys.{n}" for n in ("name", "scopes", "app_names", "created_at")),
        *(f"service_keys.{n}" for n in ("expires_at", "revoked_at")),
        *(f"service_key_events.{n}" for n in ("id", "happened_at", "role", "event", "name")),
        *(f"service_key_events.{n}" for n in ("key_id", "scopes", "app_names")),
        "alembic_version.version_num",
    }
    for secret in ("token", "session_hash"):
        with pytest.raises(errors.InsufficientPrivilege):
            reporter.execute(sql.SQL("SELECT {} FROM push_tokens").format(sql.Identifier(secret)))
    # Neither among the values that ANALYZE keeps.
    kept = "SELECT DISTINCT attname FROM pg_stats WHERE tablename IN ('push_tokens')"
    assert {"token", "session_hash", "id"}.isdisjoint(name for (name,) in reporter.execute(kept))


def test_a_reporter_writes_nothing_and_stops_in_time(as_role):
    reporter = as_role("report")
    limits = ("default_transaction_read_only", "statement_timeout")
    found = [reporter.execute(f"SHOW {name}").fetchone()[0] for name in limits]
    assert found == ["on", "5min"]
    with pytest.raises(errors.ReadOnlySqlTransaction):
        reporter.execute("DELETE FROM push_tokens")


def test_the_owner_migrates_tables_that_somebody_else_made(new_database):
    url = new_database()
    migrate(url, "upgrade", "head")
    with Roles.on(url) as roles:
        migrate(roles.url("owner"), "downgrade", "base")
        migrate(roles.url("owner"), "upgrade", "head")


def test_an_administrator_who_is_no_superuser_is_enough(server_url):
    """As on a managed server: before the first migration, and after it."""
    suffix = secrets.token_hex(6)
    admin, name = f"test_admin_{suffix}", f"test_{suffix}"
    names = {kind: f"test_{kind}_{suffix}" for kind in KINDS}
    with psycopg.connect(server_url, autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD 'x'")
        superuser.execute(f"CREATE DATABASE {name} OWNER {admin}")
        try:
            roles = Roles(uri(server_url, dbname=name, user=admin, password="x"), names, "x")
            roles.grant()
            for one in names.values():
                superuser.execute(f"ALTER ROLE {one} PASSWORD 'x'")
            migrate(roles.url("owner"), "upgrade", "head")
            roles.grant()
            with psycopg.connect(roles.url("app")) as app:
                assert "INSERT" in rights(app, "push_tokens")
        finally:
            superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
            for one in (*names.values(), admin):
                superuser.execute(f"DROP ROLE IF EXISTS {one}")


def test_whoever_else_is_on_the_server_may_nothing(roles):
    query = """
        SELECT has_database_privilege('public', current_database(), 'CONNECT, TEMPORARY'),
            has_schema_privilege('public', 'public', 'USAGE, CREATE')
    """
    with psycopg.connect(roles.database) as connection:
        assert connection.execute(query).fetchone() == (False, False)
