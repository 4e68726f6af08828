"""The connection of the hot path: one statement for a group, gone again when that is worth it."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from app import metrics
from app.database.connections import Connection
from app.database.failures import RETRYABLE, is_broken, is_end
from app.identifiers import fresh_id
from app.registry.registration import LOCAL, PLAN, register


class Writer:
    """A connection in autocommit, opened when it is needed."""

    def __init__(self, connect: Callable[..., Connection], statements: tuple[str, str] = LOCAL):
        self._connect = connect
        self._statements = statements
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

    def write(self, asked: Sequence[tuple[Any, ...]], deadline: float) -> dict[Any, Sequence[Any]]:
        """Store registrations; return the rows by (app_name, token), only of who is signed in.

        A connection found dead is replaced once, as registering twice is registering. Deadlocks
        and unique violations are tried again. Both end at the deadline (of time.monotonic());
        then what psycopg raised is raised.
        """
        spare = 1
        while True:
            rows = [(*one, fresh_id()) for one in asked]
            statement, parameters = register(rows, self._statements)
            try:
                written = self._connected().fetch(statement, parameters)
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
            else:
                return {row[:2]: row for row in written}

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
            for setting in () if self._connection.limits else PLAN:
                self._connection.execute(setting, prepare=False)
        return self._connection
