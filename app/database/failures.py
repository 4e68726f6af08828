"""Classifies errors: worth a retry, unavailable (503), or neither; names them for the log."""

import psycopg
from psycopg import errors
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

# Errors worth a retry: the transaction that was in the way has finished by then. A foreign key is
# violated where a session ended after it was looked at without a lock (registry/distributed/): the
# next look does not find it.
RETRYABLE = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.UniqueViolation,
    errors.ForeignKeyViolation,
)


class UnavailableError(Exception):
    """The service cannot answer now, and the caller is not at fault; the text says why."""


class LostRaceError(Exception):
    """A statement came second and did nothing; tried again it does what was asked."""


def original(error: BaseException) -> BaseException:
    """Return the driver's error within one of SQLAlchemy's, any other error as it is."""
    return (error.orig or error) if isinstance(error, DBAPIError) else error


def is_end(error: BaseException) -> bool:
    """Tell whether the connection is of no use after this error, even if it is not closed yet.

    A PostgreSQL that stops sends such an error, and a pooler that has lost PostgreSQL. One that
    takes no writes (it was fenced or demoted) is no longer the primary: another host may be.
    """
    if not isinstance(error, psycopg.Error):
        return False
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return True
    return "FATAL" in (error.diag.severity, error.diag.severity_nonlocalized)


def is_unavailable(error: BaseException) -> bool:
    """Tell whether the database is away, overloaded, full or read-only: not the caller's fault.

    The classes are PostgreSQL's (appendix A of its manual): 08, 53, 55, 57 and 40 arrive as
    OperationalError; 25 is what a standby answers to a write during a failover.
    """
    if isinstance(error, PoolTimeout):
        return True
    error = original(error)
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or (
        isinstance(error, psycopg.InternalError) and (error.sqlstate or "").startswith("25")
    )


def may_be_one_rows_fault(error: BaseException) -> bool:
    """Tell whether a failed statement of many rows could succeed for some of them alone.

    True when it waited too long for a lock or refused a row; False when the database is away.
    """
    waited = (errors.LockNotAvailable, errors.QueryCanceled, *RETRYABLE)
    return isinstance(error, waited) or not is_unavailable(error)


def describe(error: BaseException) -> str:
    """Name an error for the log; what the server says of a statement may repeat its values."""
    if isinstance(error, UnavailableError):
        return str(error)
    if isinstance(error, PoolTimeout):  # whose text is a paragraph, with a link
        return "every connection of the pool is in use"
    sqlstate = getattr(error, "sqlstate", None)
    return f"{type(error).__name__} {sqlstate or ' '.join(str(error).split())}"
