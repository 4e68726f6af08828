"""The retry loop of all verbs: until a deadline."""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app import metrics
from app.database.failures import RETRYABLE, LostRaceError, original
from app.database.session_settings import is_fenced
from app.models import db

T = TypeVar("T")


def retrying(
    verb: Callable[[], T], seconds: float, finish: Callable[[], None] = lambda: None
) -> T:
    """Run a verb that may be run again, for at most `seconds`, and return what it returned.

    Deadlocks and unique violations are retried with jitter until then. A lost connection is
    retried once: that is how a restarted database is noticed, without a test of every connection
    before each use. So is one whose server said, beside an answer, that it takes no more writes:
    what was read there may be old. `finish` follows the verb. Raises the last error of SQLAlchemy.
    """
    deadline = time.monotonic() + seconds
    spare = 1
    while True:
        try:
            result = verb()
            if spare and _is_fenced():
                db.session.rollback()  # the pool replaces the connection before its next use
                spare -= 1
                continue
            finish()
            return result
        except (DBAPIError, LostRaceError) as error:
            cause = original(error)
            metrics.count_database_error(cause)
            db.session.rollback()
            if isinstance(cause, (*RETRYABLE, LostRaceError)):
                if time.monotonic() >= deadline:
                    raise psycopg.OperationalError("lost every race until the deadline") from error
                time.sleep(jitter())
            elif isinstance(error, DBAPIError) and error.connection_invalidated and spare:
                spare -= 1
            else:
                raise


def jitter() -> float:
    """Return the seconds to wait before the next attempt, so that racers do not meet again."""
    return random.uniform(0, 0.05)  # noqa: S311 (no secret)


def committed(verb: Callable[[], T], seconds: float) -> T:
    """Run a verb that may be run again, commit, and return what it returned; see `retrying`."""
    return retrying(verb, seconds, db.session.commit)


def _is_fenced() -> bool:
    """Tell whether the session has a connection whose server takes no more writes."""
    if not db.session().in_transaction():
        return False
    connection: Any = db.session.connection().connection.dbapi_connection
    return is_fenced(connection.pgconn)


def attempted(verb: Callable[[], object]) -> bool:
    """Run a verb that nobody waits for, and commit; tell whether it worked, and raise nothing."""
    try:
        verb()
        db.session.commit()
    except SQLAlchemyError as error:
        metrics.count_database_error(original(error))
        db.session.rollback()
        return False
    return True
