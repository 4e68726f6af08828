"""Every statement is spelled so that a distributed PostgreSQL plans it, but for those of one room.

All tests watch for it (tests/support/shapes.py). Here each form that Citus refuses is planted.
"""

import asyncio
import subprocess
import sys

import pytest
from sqlalchemy import text

from app.config import ROOT, Settings
from app.database.connections import connector
from app.database.exchange import Exchange
from app.models import db
from app.registry.one_node import ONE_NODE
from tests.support import shapes
from tests.support.shapes import (
    BOTH,
    CHAIN,
    CLAIM,
    FUNCTION,
    LOCAL,
    LOCK,
    MOMENT,
    MOVED,
    NO_COLUMN,
    NUMBERED,
    ON_ONE_NODE,
    PLAN,
    RETURNING,
    SETTINGS,
    SHOWN,
    SKIP,
    TRIGGER,
    VALUE,
    VOLATILE,
)

INSERT = "INSERT INTO push_tokens (id, token) VALUES ('1', 't')"
PLANTED = [
    ("SET plan_cache_mode = force_generic_plan", {PLAN}),
    (f"{INSERT} RETURNING id, (SELECT user_id FROM push_tokens p WHERE p.id = 'x')", {RETURNING}),
    (f"WITH w AS ({INSERT} RETURNING id, (SELECT 1)) SELECT id FROM w", {RETURNING, CHAIN}),
    ("WITH gone AS (DELETE FROM user_sessions RETURNING 1) SELECT count(*) FROM gone", {CHAIN}),
    ("INSERT INTO push_tokens (id, token) VALUES ('1', (SELECT max(id) FROM known))", {VALUE}),
    ("UPDATE user_sessions SET user_id = to_char(created_at, 'YYYY')", {SETTINGS}),
    ("DELETE FROM push_tokens WHERE updated_at + interval '1 day' < now()", {SETTINGS}),
    ("DELETE FROM push_tokens WHERE (updated_at::date) = current_date", {SETTINGS}),
    ("SELECT id, updated_at::text FROM push_tokens WHERE token = ANY (%s)", {SHOWN}),
    ("SELECT 1 FROM user_sessions WHERE token_hash = ANY (%s) FOR KEY SHARE", {LOCK}),
    ("SELECT 1 FROM push_tokens WHERE user_id = 'a' FOR UPDATE", {LOCK}),
    ("SELECT 1 FROM push_tokens WHERE id = %s FOR UPDATE NOWAIT", {LOCK}),
    ("SELECT 1 FROM push_tokens WHERE token = ANY (%s) FOR UPDATE NOWAIT", {LOCK}),
    ("SELECT 1 FROM push_tokens FOR NO KEY UPDATE SKIP LOCKED", {LOCK, SKIP}),
    ("SELECT 1 FROM push_tokens p JOIN user_sessions s ON s.token_hash = p.session_hash", {BOTH}),
    ("SELECT 1 FROM push_tokens p, user_sessions s WHERE s.user_id = p.user_id", {BOTH}),
    (
        "DELETE FROM user_sessions s WHERE NOT EXISTS"
        " (SELECT 1 FROM push_tokens WHERE session_hash = s.token_hash)",
        {BOTH},
    ),
    ("DELETE FROM push_tokens USING user_sessions WHERE session_hash = token_hash", {BOTH}),
    (
        "INSERT INTO user_sessions (token_hash) VALUES ('') ON CONFLICT (token_hash)"
        " DO UPDATE SET verified_at = now() WHERE true RETURNING 1",
        {FUNCTION},
    ),
    (f"{INSERT} ON CONFLICT (id) DO UPDATE SET updated_at = current_timestamp", {FUNCTION}),
    ("SELECT 1 FROM staged s LEFT JOIN user_sessions u ON u.token_hash = s.session_hash", {LOCAL}),
    ("DELETE FROM push_tokens p USING (SELECT id FROM winners) w WHERE p.id = w.id", {LOCAL}),
    ("DO $$ BEGIN IF EXISTS (SELECT FROM push_tokens) THEN NULL; END IF; END $$", {NO_COLUMN}),
    ("UPDATE push_tokens SET updated_at = now(), token = 'other' WHERE id = 'x'", {MOVED}),
    (f"{INSERT} ON CONFLICT (id) DO UPDATE SET token = excluded.token", {MOVED}),
    ("SELECT pg_try_advisory_xact_lock(1) FROM push_tokens", {CLAIM}),
    (
        "SELECT 1 FROM unnest(%s) WITH ORDINALITY AS asked (name, place)"
        " JOIN push_tokens p ON p.token = asked.name",
        {NUMBERED},
    ),
    ("UPDATE push_tokens SET updated_at = clock_timestamp() WHERE token = 'x'", {VOLATILE}),
    ("DELETE FROM user_sessions WHERE random() < 0.5", {VOLATILE}),
    (f"{INSERT} RETURNING id, now()", {MOMENT}),
    ("DELETE FROM push_tokens WHERE id = 'x' RETURNING current_timestamp", {MOMENT}),
    (
        f"{INSERT} ON CONFLICT (id) DO UPDATE SET type = excluded.type"
        " WHERE push_tokens.updated_at < now()",
        {MOMENT},
    ),
    (
        "CREATE TRIGGER fill BEFORE INSERT ON push_tokens FOR EACH ROW EXECUTE FUNCTION fill()",
        {TRIGGER},
    ),
]
GOOD = [
    "UPDATE user_sessions SET verified_at = now() WHERE expires_at > now()"
    " RETURNING left(user_id, 1)",
    "INSERT INTO push_tokens (id) VALUES (gen_random_uuid()) RETURNING id",
    "DELETE FROM push_tokens WHERE updated_at = ANY (%s::timestamptz(3)[]) AND created_at < now()"
    " - interval '1 day'",
    "WITH gone AS (DELETE FROM near RETURNING updated_at::text) SELECT count(*) FROM gone",
    "SELECT clock_timestamp(), random()",
    "WITH a AS (SELECT token_hash FROM user_sessions), b AS MATERIALIZED (SELECT session_hash FROM"
    " push_tokens) SELECT 1 FROM a JOIN b ON a.token_hash = b.session_hash",
    "INSERT INTO user_sessions (token_hash) SELECT unnest(%s) ON CONFLICT (token_hash)"
    " DO UPDATE SET expires_at = excluded.expires_at"
    " WHERE user_sessions.user_id = excluded.user_id RETURNING token_hash",
    "UPDATE push_tokens SET session_hash = %s, updated_at = now() WHERE token = 'x'",
    "SELECT 'for update', user_sessions.token_hash -- of push_tokens\nFROM user_sessions",
    "SELECT pg_try_advisory_lock(1)",
    "SELECT 1 FROM push_tokens WHERE app_name = $1 AND token = $2 FOR UPDATE NOWAIT",
    'SELECT push_tokens.id FROM push_tokens WHERE push_tokens.token = %(a)s::VARCHAR COLLATE "C"'
    " AND push_tokens.id = %(b)s::VARCHAR FOR UPDATE NOWAIT",
]


@pytest.mark.parametrize(("statement", "found"), PLANTED)
def test_each_refused_form_is_seen(statement, found, is_spread):
    assert shapes.refused(statement) == found
    assert shapes.refused(f"EXPLAIN (FORMAT JSON) {statement}") >= found - {PLAN, NO_COLUMN}
    excepted = set() if is_spread else ON_ONE_NODE
    assert shapes.refused(ONE_NODE + statement) == found - excepted
    assert shapes.refused(shapes.BEFORE + statement) == found - ON_ONE_NODE - {TRIGGER}


@pytest.mark.parametrize("statement", GOOD)
def test_what_a_distributed_one_runs_is_not_refused(statement):
    assert shapes.refused(statement) == set()


PLANT = "SELECT 1 FROM push_tokens WHERE user_id = 'planted' FOR UPDATE"


def test_every_kind_of_connection_is_watched(watch, app, database_url):
    connect = connector(Settings(database_url=database_url))
    with app.app_context():
        db.session.execute(text(PLANT))
        db.session.rollback()
        db.session.connection().exec_driver_sql(PLANT)
        db.session.rollback()
    assert len(watch.take()) == 2
    with connect() as connection:
        connection.execute(PLANT)
        with connection.cursor().copy(f"COPY ({GOOD[0]}) TO STDOUT") as copy:
            list(copy)
    assert len(watch.take()) == 1

    async def on_the_loop() -> None:
        exchange = Exchange(connect(autocommit=True), 5)
        await exchange.fetch(PLANT, {})
        exchange.close()

    asyncio.run(on_the_loop())
    assert len(watch.take()) == 1


CHILD = f"""
import asyncio
from app.config import Settings
from app.database.connections import connector
from app.database.exchange import Exchange
connection = connector(Settings.from_env())(autocommit=True)
connection.execute({PLANT!r})
async def on_the_loop():
    await Exchange(connection, 5).fetch({PLANT!r}, {{}})
asyncio.run(on_the_loop())
"""


def test_the_processes_that_tests_start_are_watched(watch, database_url, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", database_url)
    subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, check=True)
    assert len(watch.take()) == 2


def test_what_runs_on_one_node_only_is_in_one_room():
    """One room of verbs, the import's statements, and migrations from before tables spread."""
    with_mark = {
        str(path.relative_to(ROOT))
        for folder in ("app", "migrations")
        for path in (ROOT / folder).rglob("*.py")
        if any(mark in path.read_text() for mark in (ONE_NODE, "ONE_NODE", shapes.BEFORE))
    }
    room = {path for path in with_mark if path.startswith("app/registry/one_node/")}
    assert with_mark - room == {
        "app/transfer/import_sql.py",
        "migrations/versions/0008_device_id.py",
        "migrations/versions/0011_device_unique.py",
    }
