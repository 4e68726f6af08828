"""Reads from a replica (DATABASE_READ_URL), as long as it is close enough to the primary."""

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app import metrics
from app.config import Settings
from app.database import connections
from app.database.failures import describe, original
from app.models import ENGINE, db

T = TypeVar("T")
log = logging.getLogger(__name__)

COOLDOWN = 5.0  # seconds for which a replica that is away is not asked again
LAGGING = 1.0  # the same for one that lags
WRITTEN_EVERY = 1.0  # seconds between two looks at how far the primary has written

WRITTEN = text("SELECT pg_current_wal_lsn()::text")
# Seconds behind. None at all only where all that came was replayed, more is to come, and that was
# as far as the primary had written a moment ago: of an idle primary the last transaction is old,
# and a standby that was cut off has replayed all that it has. A server that is no standby counts
# as current.
_LAG = """
SELECT CASE
    WHEN NOT pg_is_in_recovery() THEN 0
    WHEN pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn()
        AND EXISTS (SELECT 1 FROM pg_stat_wal_receiver)
        AND pg_last_wal_replay_lsn() >= {written} THEN 0
    ELSE coalesce(
        extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 'infinity'
    )
END::float8
"""
LAG = text(_LAG.format(written="coalesce(CAST(:written AS pg_lsn), '0/0')"))
STANDBY_AND_LAG = "SELECT pg_is_in_recovery(), ({})".format(_LAG.format(written="'0/0'"))


def in_words(lag: float) -> str:
    """Say how far behind a standby is; it knows no time before the first transaction comes."""
    return f"{lag:,.1f} s" if lag < float("inf") else "an unknown time"


class UnusableError(Exception):
    """The replica did not answer, or lags; the primary is to be asked."""


class Replica:
    """A pool of connections to the replicas, on which verbs that only read may run."""

    def __init__(self, settings: Settings):
        connect = connections.connector(settings, url=settings.database_read_url, writes=False)
        options = connections.pool_options(settings, connect)
        self._engine = create_engine("postgresql+psycopg://", **options)
        connections.listen(self._engine)
        self._max_lag = settings.read_max_lag_seconds
        self._asked_again = 0.0
        self._written: str | None = None
        self._written_at = -WRITTEN_EVERY
        self.problem: str | None = None  # why the primary is asked instead
        for server in ("replica", "primary"):
            metrics.READS.labels(server)  # counts from nothing on, so that a rate sees the first

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def read(self, verb: Callable[[], T]) -> T:
        """Run a verb that only reads, and return what it returned.

        Raises UnusableError where the replica is away, lags or fails; then the verb is to be run
        on the primary. What the session has begun there is rolled back.
        """
        if time.monotonic() < self._asked_again:
            raise UnusableError
        if self.problem:  # one looks whether it is back, and no other waits for that
            self._asked_again = time.monotonic() + COOLDOWN
        written = self._how_far()
        db.session.rollback()
        db.session.info[ENGINE] = self._engine
        try:
            self._check_lag(written)
            result = verb()
        except (DBAPIError, PoolTimeout) as error:
            self._note(error)
            raise UnusableError from error
        else:
            self.problem, self._asked_again = None, 0.0
            return result
        finally:
            db.session.rollback()
            del db.session.info[ENGINE]

    def _how_far(self) -> str | None:
        """Return how far the primary had written a moment ago; None where it does not say."""
        if time.monotonic() - self._written_at >= WRITTEN_EVERY:
            self._written_at = time.monotonic()
            try:
                self._written = db.session.scalar(WRITTEN)
            except SQLAlchemyError:
                self._written = None
        return self._written

    def _check_lag(self, written: str | None) -> None:
        lag: float = db.session.execute(LAG, {"written": written}).scalar_one()
        if lag > self._max_lag:
            self._pause(LAGGING, f"the replica lags by {in_words(lag)}")
            raise UnusableError

    def _note(self, error: DBAPIError | PoolTimeout) -> None:
        """Leave a replica alone that is away; a statement that it only cancelled says nothing."""
        cause: Any = original(error)
        metrics.count_database_error(cause)
        if (
            getattr(error, "connection_invalidated", False)
            or getattr(cause, "sqlstate", 0) is None
        ):
            self._pause(COOLDOWN, "the replica does not answer", describe(error))

    def _pause(self, seconds: float, problem: str, cause: str = "") -> None:
        if self.problem is None:
            log.warning("%s; the primary is read. %s", problem, cause)
        self.problem = problem
        self._asked_again = time.monotonic() + seconds
