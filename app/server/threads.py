"""Threads for what Flask answers: a fixed number of them, and a bounded queue before them."""

import asyncio
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from app.database.failures import UnavailableError

T = TypeVar("T")


class Threads:
    """Runs functions in `number` threads; at most `queued` more wait, for `seconds` at most."""

    def __init__(self, name: str, number: int, queued: int, seconds: float):
        self._executor = ThreadPoolExecutor(number, name)
        self._limit = number + queued
        self._seconds = seconds
        self._pending = 0
        self._numbers = itertools.count()
        self._waiting: dict[int, float] = {}  # since when; the first one waits longest

    async def run(self, work: Callable[[], T]) -> T:
        """Run a function in a thread and return what it returned.

        Raises UnavailableError at once when the queue is full, and when no thread was free in
        time.
        """
        if self._pending >= self._limit:
            raise UnavailableError("too many requests wait for a thread")
        self._pending += 1
        number = next(self._numbers)
        self._waiting[number] = time.monotonic()

        def begin() -> T:
            self._waiting.pop(number, None)
            return work()

        future = self._executor.submit(begin)
        clock = asyncio.get_running_loop().call_later(self._seconds, future.cancel)
        waiting = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if waiting.cancelled():  # the clock; a thread that has begun is not cancelled
                raise UnavailableError("no thread was free within the deadline") from None
            raise
        finally:
            clock.cancel()
            self._pending -= 1
            self._waiting.pop(number, None)

    def oldest_wait(self) -> float:
        """Return the seconds for which the first in line has waited for a thread."""
        since = next(iter(list(self._waiting.values())), None)
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Start nothing more; what runs ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)
