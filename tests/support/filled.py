"""Tables with rows in them, made in the database: quick, and of any revision from the first."""

import json
from typing import Any

import psycopg
from psycopg import sql

from tests.support.factories import Database

AT_ONCE = 5000  # where there are partitions each row of a transaction takes a lock

# Three registrations a user, in one of two sessions; push tokens and ids are scattered.
FILL = """
INSERT INTO user_sessions (token_hash, user_id, created_at, expires_at, can_sign_in)
SELECT sha256(convert_to('session ' || i, 'UTF8')), 'user' || i / 2,
    '2026-01-01'::timestamptz + i * interval '1 second',
    CASE WHEN i % 5 > 0 THEN now() + interval '90 days' END, i % 7 > 0
FROM generate_series(0, {sessions} - 1) i;
INSERT INTO push_tokens
    (id, app_name, token, type, user_id, session_hash, enabled, created_at, updated_at{columns})
SELECT left(md5('id ' || i), 17), 'app' || i % 3, md5('a ' || i) || md5('b ' || i),
    CASE WHEN i % 2 = 0 THEN 'apn' ELSE 'gcm' END, 'user' || i % {sessions} / 2,
    sha256(convert_to('session ' || i % {sessions}, 'UTF8')), i % 100 > 0,
    '2026-01-01'::timestamptz + i * interval '1 second', now() - i % 300 * interval '1 day'{values}
FROM generate_series(0, {rows} - 1) i;
"""
SERVICE_KEYS = """
INSERT INTO service_keys (key_hash, name, scopes, revoked_at)
SELECT sha256(convert_to('key ' || i, 'UTF8')), 'service' || i / 2, ARRAY['lookup', 'feedback'],
    CASE WHEN i % 2 = 0 THEN now() END
FROM generate_series(1, 9) i
ON CONFLICT DO NOTHING
"""
HAS_DEVICE_ID = """
SELECT 1 FROM pg_attribute
WHERE attrelid = 'push_tokens'::regclass AND attname = 'device_id' AND attnotnull
"""


def fill(url: str, rows: int = 300, *, analyze: bool = True) -> None:
    """Add registrations, of 2 users for 3 of them, and service keys where there is the table."""
    with psycopg.connect(url, autocommit=True) as connection:
        columns, values = "", ""
        if connection.execute(HAS_DEVICE_ID).fetchone():
            columns, values = ", device_id", ", left(md5('id ' || i), 17)"
        statement = sql.SQL(FILL).format(
            rows=rows,
            sessions=rows * 2 // 3,
            columns=sql.SQL(columns),
            values=sql.SQL(values),
        )
        connection.execute(statement)
        if connection.execute("SELECT to_regclass('service_keys')").fetchone() != (None,):
            connection.execute(SERVICE_KEYS)
        if analyze:
            connection.execute("VACUUM ANALYZE")


def contents(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table of ours, in an order of their own."""
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    with psycopg.connect(url, options="-c timezone=UTC") as connection:
        found = {}
        for (table,) in connection.execute(tables).fetchall():
            if table == "alembic_version":
                continue
            rows = sql.SQL("SELECT to_jsonb(t) FROM {} t").format(sql.Identifier(table))
            found[table] = in_order([row for (row,) in connection.execute(rows)])
        return found


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows in an order that does not depend on where they are stored."""
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def register_many(database: Database, rows: int, end: str = "") -> None:
    """Put registrations of as many users in, with ids in order; `end` ends the push tokens."""
    database.execute(
        "INSERT INTO user_sessions (token_hash, user_id)"
        f" SELECT sha256(n::text::bytea), 'u' || n FROM generate_series(0, {rows - 1}) n"
    )
    # Or the foreign key is checked by the plan of a connection that knew few sessions.
    database.execute("ANALYZE user_sessions")
    for start in range(0, rows, AT_ONCE):
        database.execute(
            "INSERT INTO push_tokens (id, device_id, app_name, token, type, user_id, session_hash)"
            " SELECT d, d, 'app', 'token' || n || %s, 'gcm', 'u' || n, sha256(n::text::bytea)"
            f" FROM generate_series({start}, {min(rows, start + AT_ONCE) - 1}) n,"
            " LATERAL (SELECT 'id' || lpad(n::text, 6, '0') AS d) named",
            end,
        )
    database.execute("ANALYZE push_tokens")
