"""The database's checks of `push-tokens doctor`: server, revision, the role's rights, clock."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg
from alembic.script import ScriptDirectory
from psycopg import errors

from app.cli.terminal import printable
from app.config import ROOT, ConfigError, Settings
from app.database import connections
from app.database.connections import Connection
from app.database.revision import code_revision

OLDEST = 140000  # PostgreSQL 14, as libpq counts
CLOCK = 5.0  # seconds that the clocks may differ
ROLES = "have a superuser run deploy/postgresql/roles.sql on the database"
SERVE = "serve as the app role that deploy/postgresql/roles.sql makes"

# What roles.sql grants to the role that serves; tests/cli/test_doctor.py compares.
RIGHTS = {
    "alembic_version": {"SELECT"},
    "user_sessions": {"SELECT", "INSERT", "UPDATE", "DELETE"},
    "push_tokens": {"SELECT", "INSERT", "UPDATE", "DELETE"},
    "service_keys": {"SELECT"},
    "service_key_uses": {"SELECT", "INSERT", "UPDATE"},
}


@dataclass(frozen=True)
class Finding:
    """The result of a check: `state` is right, warning, wrong or skipped."""

    check: str
    state: str
    says: str
    do: str | None = None


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield the findings, one check after the other; an error is a finding too."""
    rest = {"revision": _revision, "rights": _rights, "clock": _clock}
    try:
        connection = connections.connector(settings, writes=False)(autocommit=True)
    except (psycopg.Error, ConfigError, RuntimeError, OSError) as error:
        do = "start the server, or correct DATABASE_URL"
        says = f"cannot be reached: {_in_a_line(error)}"
        yield Finding("database", "wrong", says, do)
        for check in rest:
            yield Finding(check, "skipped", "needs the database")
        return
    with closing(connection):
        yield _try("database", _server, connection, settings)
        for check, find in rest.items():
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
        says = f"the database does not tell: {_in_a_line(error)}"
        return Finding(check, "wrong", says, "see the server's log")


def _in_a_line(error: BaseException) -> str:
    """Return an error's text in a line.

    It holds no password: libpq names hosts, users and databases only, and a URI of whose password
    it takes a part for one of these is refused before (`connections.check_url`).
    """
    return printable(" ".join(str(error).split()))


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
        do = "name the primary in DATABASE_URL, or all hosts with target_session_attrs=read-write"
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
        if not _one(connection, "SELECT has_schema_privilege('public', 'USAGE')")[0]:
            return Finding("revision", "wrong", "the role may not look into the schema", ROLES)
        row = None
    found = row[0] if row else None
    if found == head:
        return Finding("revision", "right", f"the database is at the code's revision, {head}")
    says = f"the database is at revision {found}, the code at {head}"
    scripts = ScriptDirectory(str(ROOT / "migrations")).walk_revisions()
    if found is None or found in {script.revision for script in scripts}:
        do = "run `alembic upgrade head` as the role that owns the tables"
    else:
        do = "deploy the release that the database was migrated for"
    return Finding("revision", "wrong", says, do)


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
            "rights", "wrong", f"{who} lacks {', '.join(lacking)}", SERVE if owns else ROLES
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
