"""The retry loop of all verbs: until a deadline."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app import metrics
from app.database.failures import RETRYABLE, LostRaceError, original
from app.models import db

T = TypeVar("T")


def retrying(verb: Callable[[], T], seconds: float) -> T:
    """Run a verb that may be run again, for at most `seconds`, and return what it returned.

    Deadlocks and unique violations are retried with jitter until then. A lost connection is
    retried once: that is how a restarted database is noticed, without a test of every connection
    before each use. Raises the last error of SQLAlchemy.
    """
    deadline = time.monotonic() + seconds
    spare = 1
    while True:
        try:
            return verb()
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

    def verb_and_commit() -> T:
        result = verb()
        db.session.commit()
        return result

    return retrying(verb_and_commit, seconds)


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
