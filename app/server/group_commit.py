"""The hot path: registering a push token, for all who wait in this worker by one statement.

A registration is one statement that authenticates (it checks the session) and upserts, and a
commit. What a commit costs, PostgreSQL's flush of its log and a round trip, it costs once for a
hundred rows as for one. So one task writes for all who wait, and meanwhile others come to wait.
There is no timer: a lone request waits for no other, and groups grow by themselves with the load.

Within a statement rows are locked in one order, sessions by token_hash and then registrations by
(app_name, token), as every other writer does. A group waits for locks for LOCK_TIMEOUT at most.
Members that met one, lost a race, made the statement fail, or want the same push token or device
as another one are written alone, one after the other over a second connection, where they delay
only each other.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import chain

from psycopg import errors

from app import metrics
from app.database.connections import SILENCE_TIMEOUT, Connection
from app.database.failures import (
    RETRYABLE,
    UnavailableError,
    describe,
    is_unavailable,
    may_be_one_rows_fault,
)
from app.database.retries import jitter
from app.registry.registration import RACED, Registered, Registration, rounds
from app.server.writer import Writer

MAX_GROUP = 100  # registrations in one statement; beyond, a larger group saves next to nothing
MAX_WAITING = 2000  # more would only wait to be too late
LOCK_TIMEOUT = 0.1  # seconds for which a group waits for locks
SWEEP = 0.05  # seconds between two looks for registrations that have waited too long

Outcome = Registered | None | Exception
log = logging.getLogger(__name__)


class Waiter:
    """A registration in a queue, until when it may be written, and the function to tell.

    It waits for `turn`, where there is one, and fails with what that comes to, if not None.
    """

    __slots__ = ("_done", "deadline", "registration", "release", "turn")

    def __init__(
        self, registration: Registration, deadline: float, done: Callable[[Outcome], None]
    ):
        self.registration = registration
        self.deadline = deadline
        self.release: Callable[[], None] | None = None
        self.turn: asyncio.Future[Exception | None] | None = None
        self._done = done

    def tell(self, outcome: Outcome) -> None:
        """Pass on what became of the registration."""
        if self.release:
            self.release()
        if isinstance(outcome, Exception) and (
            isinstance(outcome, RETRYABLE) or is_unavailable(outcome)
        ):
            outcome = UnavailableError(describe(outcome))
        try:
            self._done(outcome)
        except Exception:  # the others still want to be told
            log.exception("an answer could not be given")


class Lane:
    """A queue, and the task that writes for it, up to `size` registrations together."""

    def __init__(self, size: int, write: Callable[[list[Waiter]], Awaitable[None]]):
        self.queue: deque[Waiter] = deque()
        self._size = size
        self._write = write
        self._task: asyncio.Task[None] | None = None

    def add(self, waiter: Waiter) -> None:
        """Queue a registration, and have it written."""
        self.queue.append(waiter)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def expire(self, now: float) -> None:
        """Tell those whose deadline has passed; the first in the queue has the earliest."""
        while self.queue and self.queue[0].deadline <= now:
            self.queue.popleft().tell(UnavailableError("not written within the deadline"))

    def close(self) -> None:
        """Stop writing, and tell all who wait."""
        if self._task:
            self._task.cancel()
        while self.queue:
            self.queue.popleft().tell(UnavailableError("the worker ends"))

    async def _run(self) -> None:
        try:
            while self.queue:
                group = [self.queue.popleft() for _ in range(min(self._size, len(self.queue)))]
                try:
                    await self._write(group)
                except asyncio.CancelledError:
                    for waiter in group:
                        waiter.tell(UnavailableError("the worker ends"))
                    raise
        finally:
            self._task = None


class GroupCommit:
    """Writes the registrations of one worker; all of it runs in one event loop."""

    def __init__(
        self,
        connect: Callable[..., Connection],
        *,
        deadline: float,
        statement_timeout: float,
        lock_timeout: float,
        max_age: float,
    ):
        """Take how to connect, and the seconds of a request, a statement, a lock, a connection."""
        self._deadline = deadline
        shared = {"silence": statement_timeout + SILENCE_TIMEOUT, "max_age": max_age}
        short = min(LOCK_TIMEOUT, lock_timeout)
        self._group_writer = Writer(connect, lock_timeout=short, **shared)
        self._lone_writer = Writer(connect, lock_timeout=lock_timeout, **shared)
        self._groups = Lane(MAX_GROUP, self._write_group)
        self._alone = Lane(1, self._write_alone)
        self._held: Counter[object] = Counter()  # what registrations in `_alone` want or wait for
        self._sweeps = False

    def register(self, asked: Registration, done: Callable[[Outcome], None]) -> None:
        """Store a registration durably, then call `done` with what became of it.

        That is the stored row, None without a valid session, or the exception to answer for.
        Raises UnavailableError when too many wait already.
        """
        loop = asyncio.get_running_loop()
        if len(self._groups.queue) + len(self._alone.queue) >= MAX_WAITING:
            raise UnavailableError("too many registrations wait")
        if not self._sweeps:
            self._sweeps = True
            loop.call_later(SWEEP, self._sweep)
        waiter = Waiter(asked, loop.time() + self._deadline, done)
        if self._held and not self._held.keys().isdisjoint(_lockable(asked)):
            self._hold(waiter, _lockable(asked))
        else:
            self._groups.add(waiter)

    def close(self) -> None:
        """Close the connections and tell all who wait; register no more."""
        for lane in (self._groups, self._alone):
            lane.close()
        for writer in (self._group_writer, self._lone_writer):
            writer.close()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        lanes = (self._groups, self._alone)
        for lane in lanes:
            lane.expire(loop.time())
        self._sweeps = any(lane.queue for lane in lanes)
        if self._sweeps:
            loop.call_later(SWEEP, self._sweep)

    async def _write_group(self, group: list[Waiter]) -> None:
        """Write a group; of what wants one push token or device only the first, the rest alone.

        To write it round after round would delay all who wait for the next group.
        """
        metrics.GROUPS.observe(len(group))
        metrics.WAITING.set(len(self._groups.queue))
        first, *others = rounds([waiter.registration for waiter in group])
        written = asyncio.get_running_loop().create_future()
        for place in sorted(chain.from_iterable(others)):
            group[place].turn = written
            self._hold(group[place], _wanted(group[place].registration))
        failure: Exception | None = UnavailableError("the worker ends")
        try:
            failure = await self._write_round([group[place] for place in first])
        finally:
            written.set_result(failure)

    async def _write_round(self, members: list[Waiter], *, again: bool = True) -> Exception | None:
        """Write one round; return the error if the database could not serve any of it."""
        try:
            asked = [waiter.registration for waiter in members]
            outcomes = await self._group_writer.write(asked, members[0].deadline)
        except Exception as error:
            is_away = not self._group_writer.is_connected or not may_be_one_rows_fault(error)
            if is_away:
                for waiter in members:
                    waiter.tell(error)
                return error
            if again and isinstance(error, errors.LockNotAvailable):
                return await self._write_around_locks(members)
            if len(members) == 1 and not isinstance(error, RETRYABLE):
                members[0].tell(error)
                return None
            for waiter in members:
                self._alone.add(waiter)
        else:
            self._answer(members, outcomes)
        return None

    async def _write_around_locks(self, members: list[Waiter]) -> Exception | None:
        """Write the members that met no lock as a group; the others wait for theirs alone."""
        try:
            held = await self._group_writer.find_held([one.registration for one in members])
        except Exception as error:
            for waiter in members:
                waiter.tell(error)
            return error
        for place in held:
            self._hold(members[place], _lockable(members[place].registration))
        free = [waiter for place, waiter in enumerate(members) if place not in held]
        return await self._write_round(free, again=False) if free else None

    def _hold(self, waiter: Waiter, names: Sequence[object]) -> None:
        """Have a registration be written alone; what wants its rows meanwhile waits there too."""
        self._held.update(names)
        waiter.release = partial(self._release, names)
        self._alone.add(waiter)

    def _answer(self, members: Sequence[Waiter], outcomes: Sequence[object]) -> None:
        for waiter, outcome in zip(members, outcomes, strict=True):
            if outcome is RACED:
                self._alone.add(waiter)
            else:
                assert outcome is None or isinstance(outcome, Registered)  # noqa: S101 (for mypy)
                waiter.tell(outcome)
        metrics.count_registrations(
            outcome.outcome for outcome in outcomes if isinstance(outcome, Registered)
        )

    async def _write_alone(self, one: list[Waiter]) -> None:
        """Write one registration, again after each lost race until its deadline."""
        (waiter,) = one
        if waiter.turn and (failure := await waiter.turn):  # the database was away a moment ago
            waiter.tell(failure)
            return
        loop = asyncio.get_running_loop()
        outcome: object = UnavailableError("not written within the deadline")
        while loop.time() < waiter.deadline:
            try:
                (outcome,) = await self._lone_writer.write([waiter.registration], waiter.deadline)
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

    def _release(self, names: Sequence[object]) -> None:
        self._held.subtract(names)
        self._held = +self._held  # without those that are at zero


def _lockable(asked: Registration) -> tuple[object, ...]:
    """Name what a registration locks: its session, and what it writes."""
    return asked.token_hash, *_wanted(asked)


def _wanted(asked: Registration) -> tuple[object, ...]:
    """Name what a registration writes: the rows of its push tokens and of its device."""
    value = asked.app_name, asked.token
    if asked.device_id is None:
        return (value,)
    device = (asked.user_id, asked.app_name, asked.device_id)
    if asked.voip_token is None:
        return value, device
    return value, device, (asked.app_name, asked.voip_token)
