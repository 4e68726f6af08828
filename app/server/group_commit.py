"""The hot path: registering a push token, for all who wait in this worker by one statement.

A registration is one statement that authenticates (it checks the session) and upserts, and a
commit. What a commit costs, PostgreSQL's flush of its log and a round trip, it costs once for a
hundred rows as for one. So one task writes for all who wait, and meanwhile others come to wait.
There is no timer: a lone request waits for no other, and groups grow by themselves with the load.

Within a statement rows are locked in one order, sessions by token_hash and then registrations by
(app_name, token), as every other writer does. A group does only what is quick. What takes the row
of another device or user, or wants the same push token or device as another member, goes on in
groups over a second connection. A group waits for locks for LOCK_TIMEOUT at most: members that
met one, lost a race or made the statement fail are written alone, one after the other over a
third connection. So they delay only each other.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from psycopg import errors

from app import metrics
from app.config import Settings
from app.database.connections import SILENCE_TIMEOUT, Connection
from app.database.failures import (
    RETRYABLE,
    UnavailableError,
    may_be_one_rows_fault,
)
from app.database.retries import jitter
from app.registry import ways
from app.registry.registration import (
    RACED,
    UNSETTLED,
    Outcome,
    Registered,
    Registration,
    Steps,
    Unwritten,
    first_round,
    wanted,
)
from app.server.lane import Lane, Told, Waiter
from app.server.writer import Writer

MAX_GROUP = 100  # registrations in one statement; beyond, a larger group saves next to nothing
MAX_WAITING = 2000  # more would only wait to be too late
# Seconds for which a group waits for locks. Who comes while one waits may meet another in his own
# group, and is to be written within a quarter of a second.
LOCK_TIMEOUT = 0.05
SWEEP = 0.05  # seconds between two looks for registrations that have waited too long

Verb = Callable[[Sequence[Registration]], Steps]


class GroupCommit:
    """Writes the registrations of one worker; all of it runs in one event loop."""

    def __init__(self, connect: Callable[..., Connection], settings: Settings):
        """Take how to connect, and the settings that say how to write and how long it may take."""
        self._way = ways.way(is_distributed=settings.database_distributed is not None)
        self._deadline = settings.request_deadline
        writer = partial(
            Writer,
            connect,
            self._way,
            silence=settings.database_statement_timeout + SILENCE_TIMEOUT,
            max_age=settings.database_max_age_seconds,
        )
        short = min(LOCK_TIMEOUT, settings.database_lock_timeout)
        self._group_writer = writer(lock_timeout=short)
        self._second_writer = writer(lock_timeout=short)
        self._lone_writer = writer(lock_timeout=settings.database_lock_timeout)
        self._groups = Lane(MAX_GROUP, self._write_group)
        self._second = Lane(MAX_GROUP, self._write_second)
        self._alone = Lane(1, self._write_alone)
        self._lanes = (self._groups, self._second, self._alone)
        # What registrations in the other two lanes want: who wants the same queues behind them.
        self._in_second: Counter[object] = Counter()
        self._in_alone: Counter[object] = Counter()
        self._sweeps = False

    def register(self, asked: Registration, done: Callable[[Told], None]) -> None:
        """Store a registration durably, then call `done` with what became of it.

        That is the stored row, None without a valid session, or the exception to answer for.
        Raises UnavailableError when too many wait already.
        """
        loop = asyncio.get_running_loop()
        if sum(len(lane.queue) for lane in self._lanes) >= MAX_WAITING:
            raise UnavailableError("too many registrations wait")
        if not self._sweeps:
            self._sweeps = True
            loop.call_later(SWEEP, self._sweep)
        waiter = Waiter(asked, loop.time() + self._deadline, done)
        if self._in_alone and not self._in_alone.keys().isdisjoint(_lockable(asked)):
            self._go_alone(waiter)
        elif self._in_second and not self._in_second.keys().isdisjoint(wanted(asked)):
            self._go_second(waiter)
        else:
            self._groups.add(waiter)

    def close(self) -> None:
        """Close the connections and tell all who wait; register no more."""
        for lane in self._lanes:
            lane.close()
        for writer in (self._group_writer, self._second_writer, self._lone_writer):
            writer.close()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for lane in self._lanes:
            lane.expire(loop.time())
        self._sweeps = any(lane.queue for lane in self._lanes)
        if self._sweeps:
            loop.call_later(SWEEP, self._sweep)

    async def _write_group(self, group: list[Waiter]) -> None:
        """Write what a group can; the rest goes on in the second lane, in its order."""
        metrics.GROUPS.observe(len(group))
        metrics.WAITING.set(len(self._groups.queue))
        first, others = first_round([waiter.registration for waiter in group])
        followers = [group[place] for place in others]
        for waiter in followers:
            self._mark(waiter, wanted(waiter.registration), self._in_second)
        members = [group[place] for place in first]
        failure = await self._write_together(self._group_writer, self._way.renew_or_add, members)
        for waiter in followers:
            if failure:
                waiter.tell(failure)
            else:
                self._second.add(waiter)

    async def _write_second(self, group: list[Waiter]) -> None:
        """Write a group of what the first lane left, whatever that takes."""
        first, others = first_round([waiter.registration for waiter in group])
        self._second.queue.extendleft(group[place] for place in reversed(others))
        await self._write_together(
            self._second_writer, self._way.settle, [group[place] for place in first]
        )

    async def _write_together(
        self, writer: Writer, verb: Verb, members: list[Waiter], *, again: bool = True
    ) -> Exception | None:
        """Write members of one round; return the error if the database could not serve any."""
        try:
            asked = [waiter.registration for waiter in members]
            outcomes = await writer.write(verb, asked, members[0].deadline)
        except Exception as error:
            is_away = not writer.is_connected or not may_be_one_rows_fault(error)
            if is_away:
                for waiter in members:
                    waiter.tell(error)
                return error
            if again and isinstance(error, errors.LockNotAvailable):
                return await self._write_around_locks(writer, verb, members)
            if len(members) == 1 and not isinstance(error, (*RETRYABLE, errors.LockNotAvailable)):
                members[0].tell(error)
                return None
            for waiter in members:
                self._alone.add(waiter)
        else:
            self._answer(members, outcomes)
        return None

    async def _write_around_locks(
        self, writer: Writer, verb: Verb, members: list[Waiter]
    ) -> Exception | None:
        """Write the members that met no lock as a group; the others wait for theirs alone."""
        try:
            held = await writer.find_held([one.registration for one in members])
        except Exception as error:
            for waiter in members:
                waiter.tell(error)
            return error
        for place in held:
            self._go_alone(members[place])
        free = [waiter for place, waiter in enumerate(members) if place not in held]
        return await self._write_together(writer, verb, free, again=False) if free else None

    def _go_second(self, waiter: Waiter) -> None:
        """Have a registration be written beside the groups, and what wants its rows after it."""
        self._mark(waiter, wanted(waiter.registration), self._in_second)
        self._second.add(waiter)

    def _go_alone(self, waiter: Waiter) -> None:
        """Have a registration be written alone; what wants its rows meanwhile waits there too."""
        self._mark(waiter, _lockable(waiter.registration), self._in_alone)
        self._alone.add(waiter)

    def _mark(self, waiter: Waiter, names: Iterable[object], where: Counter[object]) -> None:
        """Note where a registration is, until it is told what became of it."""
        if waiter.release:
            waiter.release()
        where.update(names)
        waiter.release = partial(_release, names, where)

    def _answer(self, members: Sequence[Waiter], outcomes: Sequence[Outcome]) -> None:
        for waiter, outcome in zip(members, outcomes, strict=True):
            if outcome is UNSETTLED:
                self._go_second(waiter)
            elif isinstance(outcome, Unwritten):
                self._alone.add(waiter)
            else:
                waiter.tell(outcome)
        metrics.count_registrations(
            outcome.outcome for outcome in outcomes if isinstance(outcome, Registered)
        )

    async def _write_alone(self, one: list[Waiter]) -> None:
        """Write one registration, again after each lost race until its deadline."""
        (waiter,) = one
        loop = asyncio.get_running_loop()
        outcome: object = UnavailableError("not written within the deadline")
        while loop.time() < waiter.deadline:
            try:
                (outcome,) = await self._lone_writer.write(
                    self._way.settle, [waiter.registration], waiter.deadline
                )
            except RETRYABLE as error:
                outcome = error
            except Exception as error:
                outcome = error
                break
            if outcome is not RACED and not isinstance(outcome, RETRYABLE):
                break
            await asyncio.sleep(jitter())
        if outcome is RACED:
            outcome = UnavailableError("lost every race until the deadline")
        if isinstance(outcome, Registered):
            metrics.count_registrations([outcome.outcome])
        waiter.tell(outcome)  # type: ignore[arg-type]


def _lockable(asked: Registration) -> tuple[object, ...]:
    """Name what a registration locks: its session, and what it writes."""
    return asked.token_hash, *wanted(asked)


def _release(names: Iterable[object], where: Counter[object]) -> None:
    for name in names:
        where[name] -= 1
        if not where[name]:
            del where[name]
