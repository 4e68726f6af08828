"""The database's checks of `push-tokens doctor`: server, revision, the role's rights, clock."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
from psycopg import errors, sql

from app.cli import doctor_session, doctor_tables
from app.cli.doctor_connection import in_a_line, why
from app.cli.finding import Finding
from app.cli.terminal import printable
from app.config import ConfigError, Settings
from app.database import connections
from app.database.connections import Connection
from app.database.revision import code_revision, revisions
from app.registry.maintenance import FILLING

OLDEST = 140000  # PostgreSQL 14, as libpq counts
CLOCK = 5.0  # seconds that the clocks may differ
ROLES = "have a superuser run deploy/postgresql/roles.sql on the database"
GRANT = f"{ROLES}, or serve as the app role that it makes"
SERVE = "serve as the app role that deploy/postgresql/roles.sql makes"

# What roles.sql grants to the role that serves; tests/cli/test_doctor.py compares.
RIGHTS = {
    "alembic_version": {"SELECT"},
    "user_sessions": {"SELECT", "INSERT", "UPDATE", "DELETE"},
    "push_tokens": {"SELECT", "INSERT", "UPDATE", "DELETE"},
    "service_keys": {"SELECT"},
    "service_key_uses": {"SELECT", "INSERT", "UPDATE"},
}


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield the findings, one check after the other; an error is a finding too."""
    try:
        connection = connections.connector(settings, writes=False)(autocommit=True)
    except (psycopg.Error, ConfigError, RuntimeError, OSError) as error:
        yield Finding("database", "wrong", *why(settings, error))
        for check in CHECKS[1:]:
            yield Finding(check, "skipped", "needs the database")
        return
    with closing(connection):
        for check, find in FINDERS.items():
            yield _try(check, find, connection, settings)


def _try(
    check: str,
    find: Callable[[Connection, Settings], Finding],
    connection: Connection,
    settings: Settings,
) -> Finding:
    try:
        return find(connection, settings)
    except psycopg.Error as error:
        says = f"the database does not tell: {in_a_line(error)}"
        return Finding(check, "wrong", says, "see the server's log")


def _one(connection: Connection, query: str, *parameters: object) -> Any:
    return connection.execute(query, parameters).fetchone()


def _server(connection: Connection, settings: Settings) -> Finding:
    version = connection.info.server_version
    name = f"PostgreSQL {version // 10000}"
    if version < OLDEST:
        do = "upgrade the server to PostgreSQL 14 or later"
        return Finding("database", "wrong", f"{name} is too old", do)
    is_standby, is_read_only = _one(
        connection, "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean"
    )
    if is_standby:
        do = "name the primary in DATABASE_URL, or all hosts: the one that takes writes is found"
        return Finding("database", "wrong", f"{name} is a standby and takes no writes", do)
    if is_read_only:
        do = "reset default_transaction_read_only of role, database or server"
        return Finding("database", "wrong", f"{name} takes no writes from this role", do)
    return Finding("database", "right", f"{name} answers and takes writes")


def _revision(connection: Connection, settings: Settings) -> Finding:
    head = code_revision()
    try:
        row = _one(connection, "SELECT version_num FROM alembic_version")
    except errors.InsufficientPrivilege:
        return Finding("revision", "wrong", "the role may not read alembic_version", ROLES)
    except errors.UndefinedTable:
        if _one(connection, "SELECT current_schema()")[0] is None:
            return Finding("revision", "wrong", "the role may not look into the schema", ROLES)
        row = None
    (found,) = row or (None,)
    if found == head:
        return Finding("revision", "right", f"the database is at the code's revision, {head}")
    says = f"the database is at revision {found}, the code at {head}"
    if unfilled := _unfilled(connection):
        do = "run `push-tokens backfill`, and then `push-tokens migrate` as the tables' owner"
        return Finding("revision", "wrong", f"{says}; rows have no {unfilled} yet", do)
    if found is None or found in revisions():
        do = "run `push-tokens migrate` (`alembic upgrade head`) as the role that owns the tables"
    else:
        do = "deploy the release that the database was migrated for"
    return Finding("revision", "wrong", says, do)


def _unfilled(connection: Connection) -> str | None:
    """Return the column that a migration added and a backfill has not filled in every row."""
    added = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('push_tokens')"
    not_demanded = f"{added} AND attname::text = ANY (%s) AND NOT attnotnull ORDER BY attnum"
    for (name,) in connection.execute(not_demanded, [list(FILLING)]).fetchall():
        missing = sql.SQL("SELECT 1 FROM push_tokens WHERE {} IS NULL LIMIT 1")
        try:
            if connection.execute(missing.format(sql.Identifier(name))).fetchone():
                return str(name)
        except errors.QueryCanceled:  # a large table; a backfill does no harm
            return str(name)
    return None


def _rights(connection: Connection, settings: Settings) -> Finding:
    role, is_superuser, may_make_temporary = _one(
        connection,
        "SELECT current_user, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),"
        " has_database_privilege(current_database(), 'TEMPORARY')",
    )
    rows = connection.execute(
        "SELECT asked.name, asked.kind, has_table_privilege(to_regclass(asked.name), asked.kind)"
        " FROM unnest(%s::text[], %s::text[]) AS asked (name, kind)",
        [list(column) for column in zip(*_asked(), strict=True)],
    ).fetchall()
    lacking = [f"{kind} on {name}" for name, kind, is_granted in rows if is_granted is False]
    if not may_make_temporary:
        lacking.append("TEMPORARY on the database")
    who = f"role {printable(role)}"
    owns = _one(
        connection,
        "SELECT count(*) FROM pg_class WHERE oid = ANY (SELECT to_regclass(name)::oid"
        " FROM unnest(%s::text[]) AS name) AND pg_has_role(relowner, 'USAGE')",
        list(RIGHTS),
    )[0]
    if lacking:
        return Finding(
            "rights", "wrong", f"{who} lacks {', '.join(lacking)}", SERVE if owns else GRANT
        )
    if any(is_granted is None for _, _, is_granted in rows):
        return Finding("rights", "skipped", f"{who} sees no tables yet")
    if not settings.database_url:
        return Finding("rights", "right", f"{who} may do all, on the embedded server")
    if is_superuser or owns:
        what = "is a superuser" if is_superuser else "owns the tables"
        return Finding("rights", "warning", f"{who} {what}: more than serving needs", SERVE)
    return Finding("rights", "right", f"{who} may do what serving needs, and no more")


def _asked() -> list[tuple[str, str]]:
    return [(name, kind) for name, kinds in RIGHTS.items() for kind in sorted(kinds)]


def _clock(connection: Connection, settings: Settings) -> Finding:
    before = time.time()
    there = float(_one(connection, "SELECT extract(epoch FROM clock_timestamp())")[0])
    after = time.time()
    ahead = there - (before + after) / 2
    if abs(ahead) > CLOCK:
        side = "ahead of" if ahead > 0 else "behind"
        says = f"the database's clock is {abs(ahead):,.1f} s {side} this host's"
        return Finding("clock", "wrong", says, "have both hosts set their clocks by NTP")
    return Finding("clock", "right", f"database and host differ by {abs(ahead):.1f} s")


FINDERS: dict[str, Callable[[Connection, Settings], Finding]] = {
    "database": _server,
    "session": doctor_session.check_settings,
    "connections": doctor_session.check_number,
    "revision": _revision,
    "tables": doctor_tables.check_tables,
    "rights": _rights,
    "clock": _clock,
}
CHECKS = tuple(FINDERS)
