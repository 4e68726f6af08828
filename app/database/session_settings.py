"""The settings that every connection brings along, and what it demands of its server.

A role, a database or a server may have any setting as its default (`ALTER ROLE … SET`), and a
client's environment too (`PGTZ`). What the statements rely on is set by the connection itself.
`default_transaction_read_only` is never among it: a server that was fenced by it stays fenced.
`search_path` is the operator's: it may choose a tenant's schema.
"""

from collections.abc import Mapping

import psycopg
from psycopg import pq

# `client_encoding` is a parameter of the connection, as libpq has to know it too.
ENCODING = "UTF8"

_RELIED_ON_BY_ALL = {
    "DateStyle": "ISO, YMD",  # how psycopg reads moments
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",  # off: `\x…` in a quoted hash means something else
    "array_nulls": "on",  # off: a null in an array is the text NULL
    "quote_all_identifiers": "off",  # on: a type's name is no longer what SQLAlchemy expects
    "exit_on_error": "off",  # on: a lost race ends the connection
    # After a wait for a lock a statement sees what others have committed meanwhile.
    "default_transaction_isolation": "read committed",
    "idle_session_timeout": "0",  # connections of a pool rest
    # Ends the transaction of a process that was stopped in it, and so its locks.
    "idle_in_transaction_session_timeout": "1min",
}
# No request's statement has a table to read from end to end. Left to itself PostgreSQL does so
# where a connection made its plan while the table was empty, until the table is analyzed.
# Up to PostgreSQL 17 switched off means dear, and what is dear is compiled (JIT) each time.
RELIED_ON = {**_RELIED_ON_BY_ALL, "enable_seqscan": "off", "jit": "off"}
# Commands' statements may take long, and may have a whole table to read.
RELIED_ON_BY_BATCHES = {**_RELIED_ON_BY_ALL, "statement_timeout": "0"}

TRANSACTION_TIMEOUT = 170000  # the version that brought it: PostgreSQL 17, as libpq counts


class ReadOnlyServerError(psycopg.OperationalError):
    """No host of the URI takes writes: they are standbys, fenced, or read-only for this role."""


class WrongEncodingError(psycopg.OperationalError):
    """The database is not in UTF-8."""


def statement(settings: Mapping[str, str], version: int, *, is_local: bool) -> str:
    """Return the query that sets settings, for the transaction or for the session.

    `version` is the server's: PostgreSQL 17 has one more timeout, which is switched off.
    """
    if version >= TRANSACTION_TIMEOUT:
        settings = {**settings, "transaction_timeout": "0"}
    scope = "true" if is_local else "false"
    return "SELECT " + ", ".join(
        f"set_config('{name}', '{value}', {scope})" for name, value in settings.items()
    )


def check_encoding(connection: psycopg.Connection) -> None:
    """Raise WrongEncodingError for a database that is not in UTF-8."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in (None, ENCODING):
        raise WrongEncodingError(
            f"the database is in {encoding} and must be in UTF8: make one with"
            " `createdb --encoding=UTF8 --template=template0 NAME` and name it in DATABASE_URL"
        )


def is_fenced(connection: pq.abc.PGconn) -> bool:
    """Tell whether the server said, beside its last answer, that it takes no more writes.

    PostgreSQL reports these two by itself when they change, so this asks nothing.
    """
    names = (b"default_transaction_read_only", b"in_hot_standby")
    return any(connection.parameter_status(name) == b"on" for name in names)
