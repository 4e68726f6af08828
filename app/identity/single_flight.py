"""Calls with the same key at the same time: one runs, the others wait for its result."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from app.database.failures import UnavailableError

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """The calls that run now in this process, by their key."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._under_way: dict[Hashable, Future[T]] = {}

    def join(self, key: Hashable, work: Callable[[], T], seconds: float) -> T:
        """Run `work`, or wait up to `seconds` for the call that runs it under this key.

        Returns and raises what that call does; UnavailableError when it takes longer.
        """
        with self._mutex:
            flight = self._under_way.get(key)
            is_first = flight is None
            if flight is None:
                flight = self._under_way[key] = Future()
        if is_first:
            self._fly(key, flight, work)
        try:
            return flight.result(seconds)
        except TimeoutError:
            if flight.done():
                raise  # it is the TimeoutError of `work`
            raise UnavailableError("the request that others wait for takes too long") from None

    def _fly(self, key: Hashable, flight: Future[T], work: Callable[[], T]) -> None:
        try:
            flight.set_result(work())
        except Exception as error:  # every caller raises it
            flight.set_exception(error)
        except BaseException:
            flight.set_exception(UnavailableError("the request that others wait for was ended"))
            raise
        finally:
            with self._mutex:
                del self._under_way[key]
