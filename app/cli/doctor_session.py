"""The checks of `push-tokens doctor` on connections: their settings, and their number."""

from typing import Any

from app.cli.finding import Finding
from app.config import Settings
from app.database.connections import Connection
from app.database.session_settings import RELIED_ON

LIMITS = ("lock_timeout", "statement_timeout", "transaction_timeout", "synchronous_commit")
IN_FORCE = """
SELECT setting::integer, current_setting('synchronous_commit')
FROM pg_settings WHERE name = 'lock_timeout'
"""
# What ALTER ROLE and ALTER DATABASE say, which the connection's own settings override.
OVERRIDDEN = """
SELECT DISTINCT split_part(configured, '=', 1)
FROM pg_db_role_setting, unnest(setconfig) configured
WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = current_user))
    AND lower(split_part(configured, '=', 1)) = ANY (%s)
ORDER BY 1
"""
# The least of what server, database and role allow; a negative limit is none.
CONNECTIONS = """
SELECT least(
    (
        SELECT sum(CASE name WHEN 'max_connections' THEN 1 ELSE -1 END * setting::integer)
        FROM pg_settings
        WHERE name IN (
            'max_connections', 'superuser_reserved_connections', 'reserved_connections'
        )
    ),
    (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()),
    (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user)
)::integer
"""


def check_settings(connection: Connection, settings: Settings) -> Finding:
    """Check that a connection has the settings that it brought along."""
    if connection.limits:
        return Finding("session", "right", "each transaction behind the pooler sets what it needs")
    lock_timeout, synchronous = _one(connection, IN_FORCE)
    if lock_timeout != int(settings.database_lock_timeout * 1000) and not _is_in_uri(connection):
        says = "the limits of a connection are dropped on the way: a pooler ignores `options`"
        return Finding("session", "wrong", says, "set DATABASE_POOLER=transaction")
    if synchronous in ("off", "local"):
        says = f"synchronous_commit is {synchronous}: what was answered with 200 may be lost"
        return Finding("session", "warning", says, "take it out of the options of DATABASE_URL")
    says = "every connection brings its own settings"
    names = [name.lower() for name in (*RELIED_ON, *LIMITS)]
    if settings.database_distributed:
        names.remove("lock_timeout")  # Citus hands no setting on: on its nodes the role's holds
    if overridden := [name for (name,) in connection.execute(OVERRIDDEN, [names])]:
        says += f", so {', '.join(overridden)} of the role or the database changes nothing"
    return Finding("session", "right", says)


def _one(connection: Connection, query: str) -> Any:
    return connection.execute(query).fetchone()


def _is_in_uri(connection: Connection) -> bool:
    """Tell whether the URI has a lock_timeout of its own, which overrides the setting."""
    options = connection.info.get_parameters().get("options", "")
    return options.count("lock_timeout") > 1


def check_number(connection: Connection, settings: Settings) -> Finding:
    """Check that the server takes as many connections as the workers may open."""
    if connection.limits:
        return Finding("connections", "right", "as many as the pooler takes")
    each = settings.database_pool_size + 3
    needed = settings.web_concurrency * each
    allowed = _one(connection, CONNECTIONS)[0]
    says = (
        f"{settings.web_concurrency} workers open up to {each} connections each, twice that during"
        f" a reload; server, database and role allow {allowed}"
    )
    do = "raise max_connections, or lower WEB_CONCURRENCY or DATABASE_POOL_SIZE"
    if needed > allowed:
        return Finding("connections", "wrong", says, do)
    if 2 * needed > allowed:
        return Finding("connections", "warning", says, do)
    return Finding("connections", "right", says)
