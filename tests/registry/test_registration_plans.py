"""How much the statements that register read, in small tables and large, however many ask."""

import secrets
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from app.models import PushToken
from app.registry.one_node.registration_sql import REGISTER, REGISTER_UNNAMED
from app.registry.one_node.replacing_sql import REPLACE
from app.registry.registration import Registered, Registration
from tests.support.databases import migrate
from tests.support.registering import connect, run

ROWS = 100_000
CROWD = 43_200  # registrations of one user: a day within the limits of deploy/nginx.conf
GROUP = 100

FILL = f"""
INSERT INTO user_sessions (token_hash, user_id)
SELECT sha256(convert_to('s' || i, 'UTF8')), 'u' || i FROM generate_series(0, {ROWS // 2} - 1) i;
INSERT INTO user_sessions (token_hash, user_id) VALUES (sha256('crowd'), 'crowd');
INSERT INTO push_tokens (id, app_name, token, type, user_id, session_hash, device_id)
SELECT 'i' || i, 'app', 't' || i, 'gcm', 'u' || i / 2,
    sha256(convert_to('s' || i / 2, 'UTF8')), 'd' || i
FROM generate_series(0, {ROWS} - 1) i;
INSERT INTO push_tokens (id, app_name, token, type, user_id, session_hash, device_id)
SELECT 'c' || i, 'app', 'c' || i, 'gcm', 'crowd', sha256('crowd'), 'd' || i
FROM generate_series(1, {CROWD}) i;
"""
# What the transaction so far has read of a table, by the table and by its indexes.
READ = """
SELECT relname, seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables
WHERE relname IN ('push_tokens', 'user_sessions')
"""
# How often it has looked into a page of an index of push_tokens.
PAGES = """
SELECT sum(pg_stat_get_xact_blocks_fetched(indexrelid))::int FROM pg_index
WHERE indrelid = 'push_tokens'::regclass
"""


def digest(connection: psycopg.Connection[Any], name: str) -> bytes:
    query = "SELECT sha256(convert_to(%s, 'UTF8'))"
    return connection.execute(query, [name], prepare=False).fetchone()[0]


def refresh(number: int, **fields: object) -> dict[str, object]:
    return {"token": f"t{number}", **fields}


def named(number: int) -> dict[str, object]:
    return {"token": f"t{number}", "device_id": f"d{number}"}


def create(number: int) -> dict[str, object]:
    return {"token": secrets.token_hex(32)}


def create_named(number: int) -> dict[str, object]:
    """Of a name that comes after nearly all others of a user with many."""
    return {"token": secrets.token_hex(32), "device_id": f"d9{secrets.token_hex(8)}"}


def rotate(number: int) -> dict[str, object]:
    return {"token": secrets.token_hex(32), "device_id": f"d{number}"}


def move(number: int) -> dict[str, object]:
    return {"token": f"t{number + 2 * GROUP}"}


def of_the_crowd(number: int) -> dict[str, object]:
    """One of each kind in turn, all of the user with too many."""
    fields = [refresh, named, create, create_named, rotate][number % 5](number + 1)
    token = str(fields["token"]).replace("t", "c")
    return {**fields, "token": token, "user_id": "crowd"}


def add_to_the_crowd(number: int) -> dict[str, object]:
    return {**create_named(number), "user_id": "crowd"}


def move_to_the_crowd(number: int) -> dict[str, object]:
    return {**add_to_the_crowd(number), **move(number)}


CROWDED = [of_the_crowd, add_to_the_crowd, move_to_the_crowd]
KINDS = [refresh, named, create, create_named, rotate, move, *CROWDED]


@pytest.fixture(params=["empty when it was planned", "full"], scope="module")
def connection(request, new_database):
    """A connection with its plans made, to a database with rows."""
    url = new_database()
    migrate(url, "upgrade", "head")
    filling = psycopg.connect(url, autocommit=True)
    if request.param == "full":
        filling.execute(FILL)
        filling.execute("VACUUM ANALYZE")
    else:
        # So that PostgreSQL believes it; who never vacuumed a table takes it for ten pages.
        filling.execute("VACUUM ANALYZE")
        filling.execute("ALTER TABLE push_tokens SET (autovacuum_enabled = off)")
        filling.execute("ALTER TABLE user_sessions SET (autovacuum_enabled = off)")
    with connect(url) as connection:
        for statement in (REGISTER, REGISTER_UNNAMED, REPLACE):
            for _ in range(2):
                connection.execute(statement, {"asked": "[]"})
        if request.param != "full":
            filling.execute(FILL)
        filling.close()
        yield connection


@pytest.mark.parametrize("size", [1, GROUP])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_reads_few_rows_and_pages_for_each(
    connection, kind: Callable[[int], dict[str, Any]], size
):
    asked = []
    for number in range(0, 2 * size, 2):
        fields = {"user_id": f"u{number // 2}", **kind(number)}
        user = str(fields["user_id"])
        session = "crowd" if user == "crowd" else f"s{user[1:]}"
        asked.append(
            Registration(
                token_hash=digest(connection, session), app_name="app", type="gcm", **fields
            )
        )
    with connection.transaction(force_rollback=True):
        # PostgreSQL 15 and later count on from transactions that were not reported yet.
        before = {name: rest for name, *rest in connection.execute(READ, prepare=False)}
        (pages_before,) = connection.execute(PAGES, prepare=False).fetchone()
        results = run(connection, asked)
        after = {name: rest for name, *rest in connection.execute(READ, prepare=False)}
        (pages,) = connection.execute(PAGES, prepare=False).fetchone()
    assert all(isinstance(result, Registered) for result in results)
    for name, (whole, by_index) in after.items():
        assert whole == before[name][0]
        assert by_index - before[name][1] <= 20 * size
    assert pages - pages_before <= 100 * size


def test_the_statements_write_every_column_of_the_model():
    columns = {column.name for column in PushToken.__table__.columns}
    for statement in (REGISTER, REGISTER_UNNAMED, REPLACE):
        _, _, rest = statement.partition("INSERT INTO push_tokens (")
        written = {name.strip() for name in rest.partition(")")[0].split(",")}
        assert written | {"enabled"} == columns
