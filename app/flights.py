"""One does what several want at the same moment; the others wait for what comes of it."""

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from app.errors import UnavailableError

T = TypeVar("T")


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.landed = threading.Event()
        self.result: T | None = None
        self.error: Exception = UnavailableError("who was asked for all did not come back")


class Flights(Generic[T]):
    """What is under way in this process."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._under_way: dict[Hashable, _Flight[T]] = {}

    def join(self, key: Hashable, work: Callable[[], T], patience: float) -> T:
        """Run `work`, or wait up to `patience` seconds for whoever runs it under this key.

        Returns and raises what it did; UnavailableError when it takes longer.
        """
        with self._mutex:
            flight = self._under_way.get(key)
            is_first = flight is None
            if flight is None:
                flight = self._under_way[key] = _Flight()
        if is_first:
            self._fly(key, flight, work)
        elif not flight.landed.wait(patience):
            raise UnavailableError("waited too long for who asks for all")
        if flight.result is None:
            raise flight.error
        return flight.result

    def _fly(self, key: Hashable, flight: _Flight[T], work: Callable[[], T]) -> None:
        try:
            flight.result = work()
        except Exception as error:  # everybody raises it
            flight.error = error
        finally:
            with self._mutex:
                del self._under_way[key]
            flight.landed.set()
