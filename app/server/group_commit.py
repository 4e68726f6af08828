"""The hot path: registering a push token, for all who wait in this worker by one statement.

A registration is one statement that authenticates (it joins the live session) and upserts, and a
commit. What a commit costs, PostgreSQL's flush of its log and a round trip, it costs once for a
hundred rows as for one. So whoever finds nobody writing writes for all who wait (a group commit)
and then hands over to the first of those who came meanwhile. There is no timer: a lone request
waits for nobody, and groups grow by themselves as the load does.

Within a statement rows are locked in one order, sessions by token_hash and then registrations by
(app_name, token), as every other writer does; so groups of several workers cannot deadlock. What
still goes wrong for one member's sake, such as a row that somebody holds, is tried one by one.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app import metrics
from app.config import Settings
from app.database.connections import Connection
from app.database.failures import (
    RETRYABLE,
    UnavailableError,
    describe,
    is_unavailable,
    may_be_one_rows_fault,
)
from app.identity.confirmation import Confirmation
from app.registry.registration import Raced, Registration, rounds
from app.server.registration_writer import Writer
from app.services import Services

MAX_GROUP = 100  # registrations in one statement; beyond, a larger group saves next to nothing
MAX_WAITING = 2000  # more would only wait to be too late


class _Waiter:
    """A registration in the queue, and what became of it."""

    __slots__ = ("deadline", "error", "group", "ready", "registration", "row")

    def __init__(self, registration: Registration, deadline: float):
        self.registration = registration
        self.deadline = deadline
        self.ready = threading.Event()
        self.group: Sequence[_Waiter] = ()  # whoever has one leads
        self.row: Mapping[Any, Any] | None = None
        self.error: Exception | None = UnavailableError("not written")


class Registrar:
    """Writes the registrations of one process, over a connection of its own in autocommit."""

    def __init__(
        self, connect: Callable[..., Connection], deadline: float, max_age: int | None = None
    ):
        """Take how to connect, a request's seconds, and those of `models.is_valid_session`."""
        self.patience = deadline
        self.max_age = max_age
        self._mutex = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._writing = False
        self._writer = Writer(connect)

    def register(self, registration: Registration) -> Mapping[Any, Any] | None:
        """Store a registration durably and return its row, or None without a live session.

        Raises UnavailableError when too many wait already or the deadline has passed, and what
        psycopg raises when the database cannot.
        """
        registration = registration._replace(max_age=self.max_age)
        waiter = _Waiter(registration, time.monotonic() + self.patience)
        with self._mutex:
            if len(self._waiting) >= MAX_WAITING:
                raise UnavailableError("too many registrations wait")
            self._waiting.append(waiter)
            self._appoint()
        if not waiter.group:
            self._wait(waiter)
        if waiter.group:
            self._lead(waiter)
        if waiter.error:
            raise waiter.error
        return waiter.row

    def close(self) -> None:
        """Close the connection; the next registration opens another."""
        self._writer.close()

    def _appoint(self) -> "_Waiter | None":
        """Have the first who waits write for all who wait, if nobody writes."""
        if self._writing or not self._waiting:
            return None
        leader, self._writing = self._waiting[0], True
        leader.group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
        return leader

    def _wait(self, waiter: _Waiter) -> None:
        """Wait until the row is written, the turn to lead has come or the deadline has passed."""
        try:
            if waiter.ready.wait(self.patience):
                return
        except BaseException:  # the worker ends; whoever is left still wants to be written
            with self._mutex:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                self._waiting[:0] = [other for other in waiter.group if other is not waiter]
            if waiter.group:
                self._hand_over()
            raise
        with self._mutex:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def _lead(self, leader: _Waiter) -> None:
        """Write for the group, then hand over to the first who came meanwhile."""
        group, leader.group = leader.group, ()  # no cycle is left to the garbage collector
        metrics.GROUPS.observe(len(group))
        metrics.WAITING.set(len(self._waiting))
        try:
            self._write(group)
        finally:
            self._hand_over()
            for waiter in group:
                waiter.ready.set()

    def _hand_over(self) -> None:
        """Let the first who waits write next; nobody, if nobody does."""
        with self._mutex:
            self._writing = False
            successor = self._appoint()
        if successor:
            successor.ready.set()

    def _write(self, group: Sequence[_Waiter]) -> None:
        """Give every waiter its row or its error."""
        for places in rounds([waiter.registration for waiter in group]):
            self._write_together([group[place] for place in places])
            if not self._writer.is_connected:  # nor is there a connection for whoever is left
                return

    def _write_together(self, group: Sequence[_Waiter]) -> None:
        asked = [one.registration for one in group]
        try:
            outcomes = self._writer.write(asked, group[0].deadline)
        except Exception as error:
            if len(group) == 1 or not (self._writer.is_connected and may_be_one_rows_fault(error)):
                for waiter in group:
                    waiter.error = _own(error)
            else:
                self._write_one_by_one(group)
            return
        raced = []
        for waiter, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Raced):
                waiter.error = UnavailableError("lost every race until the deadline")
                raced.append(waiter)
                continue
            waiter.row, waiter.error = outcome and outcome.row, None
            if outcome:
                metrics.count_registrations([outcome.outcome])
        self._write_one_by_one(raced)

    def _write_one_by_one(self, group: Sequence[_Waiter]) -> None:
        """Write a group that failed as one, as long as there is a connection and time."""
        for waiter in group:
            if self._writer.is_connected and time.monotonic() < waiter.deadline:
                self._write_together([waiter])


def _own(error: Exception) -> Exception:
    """Give one of several waiters an exception that it alone raises."""
    unavailable = isinstance(error, RETRYABLE) or is_unavailable(error)
    return UnavailableError(describe(error)) if unavailable else error


def services_of(settings: Settings, connect: Callable[..., Connection]) -> Services:
    """Make the services of an app: its registrars, and the confirmation of sessions."""
    deadline, max_age = settings.request_deadline, settings.recheck
    shared = Services(settings, connect, Registrar(connect, deadline, max_age))
    if max_age is not None:
        grace = max_age + settings.rocketchat_grace_seconds
        shared.grace_registrar = Registrar(connect, deadline, grace)
        shared.confirmation = Confirmation(settings)
    return shared
