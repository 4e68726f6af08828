"""The check of `push-tokens doctor` on where the tables are, and on what no key holds there."""

from typing import Any, NamedTuple

from psycopg import errors

from app.cli.finding import Finding
from app.config import Settings
from app.database.connections import Connection

README = "deploy/citus/README.md"
SPREAD, PLACED = "h", "n"  # how Citus holds a table: by a column's hash, or whole on one node
# A transaction locks every partition and its indexes: 229 locks of 16, for each who writes.
LOCKS = 16  # of max_locks_per_transaction, for each partition
PART = 10_000  # registrations that are looked at where there are too many for all

KEYS = """
SELECT to_regclass('push_tokens') IS NOT NULL, to_regclass('pg_dist_partition') IS NOT NULL,
    EXISTS (
        SELECT 1 FROM pg_constraint
        WHERE conrelid = to_regclass('push_tokens') AND contype = 'f'
    ),
    (SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass('push_tokens')),
    current_setting('max_locks_per_transaction')::integer
"""
CITUS = """
SELECT
    (SELECT partmethod FROM pg_dist_partition WHERE logicalrelid = to_regclass('push_tokens')),
    (SELECT partmethod FROM pg_dist_partition WHERE logicalrelid = to_regclass('user_sessions')),
    (SELECT groupid FROM pg_dist_local_group)
"""
DOUBLES = """
SELECT coalesce(sum(held - 1), 0) FROM (
    SELECT count(*) AS held FROM ({}) registrations
    GROUP BY user_id, app_name, device_id, is_voip HAVING count(*) > 1
) doubles
"""
DEVICES = "SELECT user_id, app_name, device_id, type = 'voip' AS is_voip FROM push_tokens"


class Tables(NamedTuple):
    """Where the tables are, and which keys they have."""

    exist: bool
    is_citus: bool
    has_foreign_key: bool  # where there is none, nothing holds a device to one registration
    partitions: int  # of push_tokens; 0: it is one table
    locks: int  # max_locks_per_transaction
    tokens: str | None = None  # how Citus holds push_tokens, and user_sessions; None: not
    sessions: str | None = None
    group: int | None = None  # the node that we are connected to; 0 is the coordinator

    @property
    def name(self) -> str:
        """Say in words where they are."""
        if self.tokens == SPREAD:
            return "the tables are spread over the nodes of Citus"
        if self.tokens == PLACED:
            return "the tables are in a schema that Citus places on a node"
        if not self.has_foreign_key:
            return "the tables have the keys of spread ones"
        name = "the tables are on one PostgreSQL"
        if self.partitions:
            name += f", push_tokens in {self.partitions} partitions"
        return name + (", the coordinator of Citus" * self.is_citus)


def check_tables(connection: Connection, settings: Settings) -> Finding:
    """Tell where the tables are, whether DATABASE_DISTRIBUTED fits, and what is held twice."""
    tables = _look(connection)
    if not tables.exist:
        return Finding("tables", "skipped", "there are no tables yet")
    return _misfit(tables, settings) or _few_locks(tables) or _doubles(connection, tables)


def _look(connection: Connection) -> Tables:
    tables = Tables(*_one(connection, KEYS))
    if not tables.is_citus:
        return tables
    tokens, sessions, group = _one(connection, CITUS)
    return tables._replace(tokens=tokens, sessions=sessions, group=group)


def _misfit(tables: Tables, settings: Settings) -> Finding | None:
    """Return what is wrong with where the tables are, for the setting."""
    if tables.tokens != tables.sessions:
        do = f"run spread.sql or gather.sql again, as {README} says: it goes on where it stopped"
        return Finding("tables", "wrong", "only one of two tables is spread", do)
    is_set = settings.database_distributed is not None
    needs_setting = tables.tokens is not None or not tables.has_foreign_key
    if needs_setting and not is_set:
        do = f"set DATABASE_DISTRIBUTED=citus, as {README} says"
        return Finding("tables", "wrong", tables.name, do)
    if is_set and not needs_setting:
        do = f"unset DATABASE_DISTRIBUTED, or spread the tables as {README} says"
        says = f"DATABASE_DISTRIBUTED is set, and {tables.name}"
        return Finding("tables", "warning", says, do)
    if tables.tokens == SPREAD and tables.group:
        do = "name the coordinator in DATABASE_URL: through several nodes devices are held twice"
        return Finding("tables", "wrong", f"{tables.name}, and this one is a worker", do)
    return None


def _few_locks(tables: Tables) -> Finding | None:
    """Return that partitions want more locks than the server has room for, if so."""
    wanted = tables.partitions * LOCKS
    if tables.locks >= wanted:
        return None
    says = f"{tables.name}, and max_locks_per_transaction is {tables.locks}"
    do = f"set it to {wanted} and restart the server: who writes beside many others may get 503"
    return Finding("tables", "warning", says, do)


def _doubles(connection: Connection, tables: Tables) -> Finding:
    """Count the devices that have two registrations, where no key forbids it."""
    if tables.has_foreign_key:
        return Finding("tables", "right", tables.name)
    part = f"{DEVICES} ORDER BY user_id, app_name, device_id LIMIT {PART}"
    for registrations, among in ((DEVICES, ""), (part, f" among {PART:,} registrations")):
        try:
            (doubles,) = _one(connection, DOUBLES.format(registrations))
        except errors.QueryCanceled:  # a large table
            continue
        if doubles:
            says = f"{tables.name}, and devices are held twice: {doubles} registrations{among}"
            return Finding("tables", "warning", says, "run `push-tokens sweep`")
        return Finding("tables", "right", f"{tables.name}, and no device is held twice{among}")
    says = f"{tables.name}; `push-tokens sweep --dry-run` counts the devices that are held twice"
    return Finding("tables", "right", says)


def _one(connection: Connection, query: str) -> Any:
    return connection.execute(query).fetchone()
