"""How a migration waits: without limit for another deployer, only briefly for a table's lock."""

import random
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from alembic.util import CommandError
from psycopg import errors
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError

from app.database.failures import is_unavailable
from app.database.revision import revisions

# The advisory lock that a deployer holds while it migrates; a second deployer waits for it.
ADVISORY_LOCK = zlib.crc32(b"push-token-registry migrations")
LONGEST_PAUSE = 10.0  # seconds between two tries


@dataclass(frozen=True)
class Limits:
    """Timeouts and number of tries; `alembic -x tries=100 upgrade head` changes one."""

    # Reads and writes queue behind a waiting ALTER TABLE, so it waits for less than the second
    # after which the service's own statements give up (DATABASE_LOCK_TIMEOUT).
    lock_timeout: str = "300ms"
    statement_timeout: str = "5s"
    tries: int = 30

    @classmethod
    def from_arguments(cls, given: Mapping[str, Any]) -> "Limits":
        """Read Alembic's -x arguments; CommandError for an unknown one."""
        names = [field.name for field in fields(cls)]
        if unknown := sorted(set(given).difference(names)):
            raise CommandError(f"-x {unknown[0]}: must be one of {', '.join(names)}")
        changes = dict(given)
        if "tries" in changes:
            try:
                changes["tries"] = max(1, int(changes["tries"]))
            except ValueError:
                raise CommandError("-x tries: must be a whole number") from None
        return replace(cls(), **changes)

    def settings(self) -> list[str]:
        """Return the statements that set the limits for a connection."""
        return [
            f"SET lock_timeout = {_quoted(self.lock_timeout)}",
            f"SET statement_timeout = {_quoted(self.statement_timeout)}",
        ]


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def tell(message: str) -> None:
    """Print a message on stderr; stdout belongs to --sql."""
    with suppress(OSError):  # nobody reads; the migration goes on
        print(message, file=sys.stderr, flush=True)


def wait_for_other_deployers(connection: Connection) -> None:
    """Take the deployers' lock, which the connection keeps until it is closed.

    It polls: a statement that waits for the lock has a snapshot, and the other deployer's CREATE
    INDEX CONCURRENTLY would wait for that snapshot in turn, which is a deadlock.
    """
    waiting = False
    while not connection.scalar(select(func.pg_try_advisory_lock(ADVISORY_LOCK))):
        connection.commit()
        if not waiting:
            tell("Another deployer is migrating this database: waiting until it is done.")
        waiting = True
        time.sleep(0.5)
    connection.commit()


def refuse_other_start(revision: str) -> str:
    """Return the statement that ends a script when the database is not at this revision."""
    return f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM alembic_version WHERE version_num = {_quoted(revision)}) THEN
        RAISE EXCEPTION 'the database is not at revision %, where this script begins',
            {_quoted(revision)};
    END IF;
END $$
""".strip()  # noqa: S608 (a revision of ours)


# For a script that psql runs: it cannot poll as above, so it stops and changes nothing.
REFUSE_OTHER_DEPLOYERS = f"""
DO $$ BEGIN
    IF NOT pg_try_advisory_lock({ADVISORY_LOCK}) THEN
        RAISE EXCEPTION 'another deployer is migrating this database';
    END IF;
END $$
""".strip()


class Steps:
    """The revisions to run, planned once: a new try continues with the one that failed.

    Alembic would plan again from the database's revision, and `upgrade +2` would go one too far.
    """

    def __init__(self, plan: Callable[..., Iterable[Any]]):
        self._plan = plan
        self._left: list[Any] | None = None

    def __call__(self, heads: Any, context: Any) -> Iterator[Any]:
        """Yield the remaining steps; one is done when the next is requested (Alembic's `fn`)."""
        if self._left is None:
            self._left = self._planned(heads, context)
        while self._left:
            start = time.monotonic()
            yield self._left[0]
            tell(f"{self._left[0].short_log}: {time.monotonic() - start:.2f} s")
            del self._left[0]

    def _planned(self, heads: Any, context: Any) -> list[Any]:
        try:
            steps = list(self._plan(heads, context))
        except CommandError:
            later = sorted(set(heads).difference(revisions()))
            if not later:
                raise
            raise CommandError(
                f"the database is at revision {later[0]}, which this release does not have:"
                " deploy the one that it was migrated for"
            ) from None
        if not steps and self._plan.__name__ == "upgrade":  # so Alembic calls it
            tell(f"Nothing to migrate: the database is at revision {', '.join(heads)}.")
        return steps


def says_it_all(error: DBAPIError) -> bool:
    """Tell whether the server's message needs no traceback: away, read-only, or no permission."""
    forbidden = (errors.InsufficientPrivilege, errors.InvalidParameterValue)
    return is_unavailable(error) or isinstance(error.orig, forbidden)


def in_a_line(error: DBAPIError) -> str:
    """Return what the server said, and who may where it was a right that lacked."""
    text = str(error.orig).splitlines()[0]
    if isinstance(error.orig, errors.InsufficientPrivilege):
        text += "; run it as the role that owns the tables (deploy/postgresql/roles.sql)"
    return text


def run_with_retries(connection: Connection, limits: Limits, run: Callable[[], None]) -> None:
    """Call `run` until it gets its locks; a failed revision is rolled back before the next try.

    Raises CommandError, with one line that says what to do, after the last try, when a statement
    takes too long, or when a revision refuses (RAISE EXCEPTION with a hint).
    """
    for number in range(1, limits.tries + 1):
        for setting in limits.settings():  # each time: building an index suspends them
            connection.execute(text(setting))
        connection.commit()
        try:
            run()
            return
        except DBAPIError as error:
            connection.rollback()
            if isinstance(error.orig, errors.RaiseException):  # a revision refuses
                said = error.orig.diag
                raise CommandError(f"{said.message_primary}: {said.message_hint}") from error
            if isinstance(error.orig, errors.QueryCanceled):
                raise CommandError(
                    f"{error.orig.diag.message_primary}, and the revision was rolled back;"
                    f" a statement may take {limits.statement_timeout}:"
                    " -x statement_timeout=... allows for more"
                ) from error
            if not isinstance(error.orig, errors.LockNotAvailable | errors.DeadlockDetected):
                raise
            if number == limits.tries:
                raise CommandError(
                    f"a table stayed in use for {number} tries, and the revision was rolled back;"
                    " migrations/README.md says how to see by whom"
                ) from error
            pause = min(LONGEST_PAUSE, 2 ** (number - 1) * 0.25) * random.uniform(0.5, 1)  # noqa: S311
            tell(f"A table is in use: try {number + 1} of {limits.tries} in {pause:.1f} s.")
            time.sleep(pause)
