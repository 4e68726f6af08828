"""The connection of the hot path: one statement for a group, gone again when that is worth it."""

import random
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import psycopg

from app import metrics
from app.database.connections import Connection
from app.database.failures import RETRYABLE, is_broken, is_end
from app.registry.registration import (
    SESSION_SETTINGS,
    Raced,
    Registered,
    Registration,
    register,
)


class Writer:
    """A connection in autocommit, opened when it is needed."""

    def __init__(self, connect: Callable[..., Connection]):
        self._connect = connect
        self._connection: Connection | None = None

    @property
    def is_connected(self) -> bool:
        """Tell whether there is a connection; not that it still works."""
        return self._connection is not None

    def close(self) -> None:
        """Close the connection; the next statement opens another."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def write(
        self, asked: Sequence[Registration], deadline: float
    ) -> list[Registered | Raced | None]:
        """Store one round of registrations; return what became of each, in order.

        A connection found dead is replaced once, as registering twice is registering. Deadlocks
        and lost races are tried again. Both end at the deadline (of time.monotonic()); then what
        psycopg raised is raised.
        """
        spare = 1
        while True:
            try:
                return self._run(register(asked))
            except psycopg.Error as error:
                metrics.count_database_error(error)
                too_late = time.monotonic() >= deadline
                if isinstance(error, RETRYABLE) and not too_late:
                    time.sleep(random.uniform(0, 0.05))  # noqa: S311 (jitter)
                    continue
                lost = self._is_lost(error)
                if lost:
                    self.close()
                if not lost or not spare or too_late:
                    raise
                spare -= 1
            except BaseException:
                # Killed in the middle of it: nobody knows what the connection is about to say.
                self.close()
                raise

    def _run(self, steps: Generator[Any, Any, list[Any]]) -> list[Registered | Raced | None]:
        """Execute what a generator of statements wants, and return its result."""
        rows: Sequence[Any] | None = None
        while True:
            try:
                statement, parameters = steps.send(rows)
            except StopIteration as end:
                result: list[Registered | Raced | None] = end.value
                return result
            rows = self._connected().fetch(statement, parameters)

    def _is_lost(self, error: psycopg.Error) -> bool:
        """Tell whether the connection that failed is gone, or about to go.

        A server that ends the connection says so before libpq sees it closed.
        """
        return self._connection is not None and (is_broken(self._connection) or is_end(error))

    def _connected(self) -> Connection:
        """Return the connection, opened where there is none."""
        if self._connection is None:
            self._connection = self._connect(autocommit=True, prepare_threshold=0)
            # Behind a pooler nothing is prepared: a plan is made for each statement, and fits it.
            for setting in () if self._connection.limits else SESSION_SETTINGS:
                self._connection.execute(setting, prepare=False)
        return self._connection
