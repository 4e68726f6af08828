"""Operations of revisions on tables that are in use."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from psycopg import errors
from sqlalchemy.exc import DBAPIError

BUILDS = 3  # of one concurrent index, before its revision fails

# A build that failed or was interrupted leaves an index that is kept up to date and never used.
IS_VALID = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")

# Of a table that deploy/postgresql/partition.sql made; none of any other.
PARTITIONS = sa.text(
    "SELECT relname FROM pg_class JOIN pg_inherits ON inhrelid = oid"
    " WHERE inhparent = to_regclass(:name) ORDER BY relname"
)


def lock_table(*tables: str) -> None:
    """Keep autovacuum and other DDL off these tables until the revision's end.

    Call it before a statement that takes ACCESS EXCLUSIVE. SHARE UPDATE EXCLUSIVE blocks no reads
    and no writes, so this may wait for the second (deadlock_timeout) after which PostgreSQL ends
    an autovacuum that blocks it; a statement limited to `lock_timeout` gives up before that, and
    autovacuum of a large table takes hours.
    """
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute(f"LOCK TABLE {', '.join(tables)} IN SHARE UPDATE EXCLUSIVE MODE")
    op.execute(op.get_context().opts["limits"].settings()[0].replace("SET", "SET LOCAL", 1))


def without_statement_timeout(statement: str) -> None:
    """Run a statement that reads a whole table and blocks no reads and no writes.

    It may take as long as it needs; the wait for its lock stays limited.
    """
    op.execute("SET LOCAL statement_timeout = 0")
    op.execute(statement)
    op.execute(op.get_context().opts["limits"].settings()[1].replace("SET", "SET LOCAL", 1))


def create_index(name: str, table: str, columns: list[Any], **options: Any) -> None:
    """Build an index while rows are written (CREATE INDEX CONCURRENTLY), without a time limit.

    An index of this name that an earlier try left invalid is dropped first, a valid one is kept.
    Use it in a revision of its own: statements before it are committed.

    PostgreSQL builds none concurrently on a table of partitions. There each partition gets its
    own, and the one of the table adopts them in milliseconds.
    """
    partitions = _partitions(table)
    with op.get_context().autocommit_block():
        _without_limits()
        for partition in partitions:
            _build(f"{name}_of_{partition}", partition, columns, **options)
        if not partitions:
            _build(name, table, columns, **options)
        _with_limits()
    if partitions and not _is_valid(name):
        lock_table(table)
        op.create_index(name, table, columns, **options)


def _build(name: str, table: str, columns: list[Any], **options: Any) -> None:
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


def drop_index(name: str, table: str) -> None:
    """Drop an index while rows are read and written; no error when it does not exist.

    On a table of partitions reads and writes wait for milliseconds.
    """
    if _partitions(table):
        lock_table(table)
        op.drop_index(name, table, if_exists=True)
        return
    with op.get_context().autocommit_block():
        _without_limits()
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        _with_limits()


def _is_valid(name: str) -> bool:
    """Tell whether a valid index exists; a script (--sql) cannot ask and builds it anew."""
    return not op.get_context().as_sql and bool(op.get_bind().scalar(IS_VALID, {"name": name}))


def _partitions(table: str) -> list[str]:
    """Return the names of a table's partitions; a script (--sql) is for a table without."""
    if op.get_context().as_sql:
        return []
    return list(op.get_bind().scalars(PARTITIONS, {"name": table}))


def _without_limits() -> None:
    # The build waits for old transactions, and no other transaction waits for the build.
    op.execute("SET lock_timeout = 0")
    op.execute("SET statement_timeout = 0")


def _with_limits() -> None:
    for setting in op.get_context().opts["limits"].settings():
        op.execute(setting)
