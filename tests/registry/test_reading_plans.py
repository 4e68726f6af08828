"""Lookup and list find rows by indexes too where their plans were made on empty tables."""

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

from app import create_app
from app.config import Settings
from app.models import db
from app.registry import push_tokens, reading_sql
from tests.support.databases import close, migrate
from tests.support.filled import FILL

ROWS = 20_000
# After five executions PostgreSQL may keep a plan; psycopg prepares the sixth and those after.
UNTIL_KEPT = 14
USERS = ["user1", "user2", "user4000"]
SCANS = (
    "SELECT sum(seq_scan), sum(idx_scan) FROM pg_stat_xact_user_tables WHERE relname = ANY (:t)"
)
CALLS: dict[str, Callable[[], object]] = {
    "lookup": lambda: push_tokens.look_up(USERS),
    "lookup of an app": lambda: push_tokens.look_up(USERS, app_name="app1", type="apn"),
    "lookup of the latest": lambda: db.session.execute(
        reading_sql.of_users((), latest_only=True), {"user_ids": USERS}
    ).all(),
    "list": lambda: push_tokens.page(count=100, cursor=None),
    "list of an app": lambda: push_tokens.page(count=100, cursor="3", app_name="app1"),
}


@pytest.fixture(scope="module")
def url(new_database) -> str:
    """A database whose tables are empty, and that PostgreSQL believes to be."""
    url = new_database()
    migrate(url, "upgrade", "head")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        for table in ("push_tokens", "user_sessions"):
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    return url


def scans() -> tuple[int, int]:
    """Return how often this connection read a table whole, and by an index."""
    tables = {"t": ["push_tokens", "user_sessions"]}
    whole, by_index = db.session.execute(text(SCANS), tables).one()
    return int(whole), int(by_index)


@pytest.fixture(scope="module")
def planned(url) -> Iterator[None]:
    """All calls' plans, made before the tables are filled."""
    app = create_app(Settings(database_url=url))
    with app.app_context():
        for call in CALLS.values():
            for _ in range(UNTIL_KEPT):
                call()
        db.session.commit()
        names = {"columns": ", device_id", "values": ", left(md5('id ' || i), 17)"}
        rows = {"rows": sql.Literal(ROWS), "sessions": sql.Literal(ROWS * 2 // 3)}
        with psycopg.connect(url, autocommit=True) as connection:
            parts = {name: sql.SQL(part) for name, part in names.items()}
            connection.execute(sql.SQL(FILL).format(**parts, **rows))
        yield
        db.session.remove()
    close(app)


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize("name", CALLS)
def test_a_plan_of_empty_tables_reads_no_full_one_whole(name):
    whole, by_index = scans()
    assert CALLS[name]()
    after = scans()
    assert after[0] == whole
    assert after[1] > by_index
