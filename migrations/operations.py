"""What revisions do to tables that are in use."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from psycopg import errors
from sqlalchemy.exc import DBAPIError

BUILDS = 3  # of one concurrent index, before its revision fails

# A build that failed or was cut short leaves an index that is kept up to date and never used.
IS_VALID = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


def lock_table(*tables: str) -> None:
    """Keep autovacuum and other DDL off these tables until the revision's end.

    Goes before a statement that needs a table for itself. SHARE UPDATE EXCLUSIVE is in the way
    of nobody who reads or writes rows, so this may wait for the second (deadlock_timeout) after
    which PostgreSQL ends an autovacuum for us; a statement limited to `lock_timeout` gives up
    before that, and autovacuum of a large table takes hours.
    """
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute(f"LOCK TABLE {', '.join(tables)} IN SHARE UPDATE EXCLUSIVE MODE")
    op.execute(op.get_context().opts["limits"].settings()[0].replace("SET", "SET LOCAL", 1))


def without_statement_timeout(statement: str) -> None:
    """Run a statement that reads a whole table and is in nobody's way, however long it takes.

    A lock that it needs is waited for as briefly as ever.
    """
    op.execute("SET LOCAL statement_timeout = 0")
    op.execute(statement)
    op.execute(op.get_context().opts["limits"].settings()[1].replace("SET", "SET LOCAL", 1))


def create_index(name: str, table: str, columns: list[Any], **options: Any) -> None:
    """Build an index beside whoever writes (CREATE INDEX CONCURRENTLY), however long it takes.

    An index of this name that an earlier try left invalid is dropped first, a valid one kept.
    Belongs into a revision of its own: what comes before is committed.
    """
    with op.get_context().autocommit_block():
        _without_limits()
        for build in range(1, BUILDS + 1):
            if _is_valid(name):
                break
            op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
            try:
                op.create_index(
                    name,
                    table,
                    columns,
                    if_not_exists=True,  # for squawk: it was dropped just before
                    postgresql_concurrently=True,
                    **options,
                )
                break
            except DBAPIError as error:
                if build == BUILDS or not isinstance(error.orig, errors.OperationalError):
                    raise
        _with_limits()


def drop_index(name: str, table: str) -> None:
    """Drop an index beside whoever reads and writes; it may be gone already."""
    with op.get_context().autocommit_block():
        _without_limits()
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        _with_limits()


def _is_valid(name: str) -> bool:
    """Tell whether the index is there and whole; a script (--sql) cannot ask and builds anew."""
    return not op.get_context().as_sql and bool(op.get_bind().scalar(IS_VALID, {"name": name}))


def _without_limits() -> None:
    # Waiting for old transactions is what the build does, and nobody waits for it meanwhile.
    op.execute("SET lock_timeout = 0")
    op.execute("SET statement_timeout = 0")


def _with_limits() -> None:
    for setting in op.get_context().opts["limits"].settings():
        op.execute(setting)
