"""Registrations that wait to be written by one connection: the queues of group_commit.py."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from app.database.failures import RETRYABLE, UnavailableError, describe, is_unavailable
from app.registry.registration import Registered, Registration

Told = Registered | None | Exception
log = logging.getLogger(__name__)

# Fewer than these wait a turn of the event loop for who has been answered just now and asks again.
# At 16 connections groups are larger by it: 7 to 11 % more registrations/s for 6 to 12 % less CPU,
# p50 a tenth less, p99 a tenth more. Larger groups gain nothing.
FEW = 12


class Waiter:
    """A registration in a queue, until when it may be written, and the function to tell."""

    __slots__ = ("_done", "deadline", "registration", "release")

    def __init__(self, registration: Registration, deadline: float, done: Callable[[Told], None]):
        self.registration = registration
        self.deadline = deadline
        self.release: Callable[[], None] | None = None
        self._done: Callable[[Told], None] | None = done

    def tell(self, outcome: Told) -> None:
        """Pass on what became of the registration; once, at the end of the worker it is in two."""
        if self._done is None:
            return
        done, self._done = self._done, None
        if self.release:
            self.release()
        if isinstance(outcome, Exception) and (
            isinstance(outcome, RETRYABLE) or is_unavailable(outcome)
        ):
            outcome = UnavailableError(describe(outcome))
        try:
            done(outcome)
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
                if 0 < len(self.queue) < FEW:
                    await asyncio.sleep(0)
        finally:
            self._task = None
