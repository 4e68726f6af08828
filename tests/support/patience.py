"""Bounds on time, on a machine that stalls: a stall spoils one try, a defect spoils all."""

import threading
import time
from collections.abc import Callable

PAUSES = (0, 2, 5, 10)  # seconds before each try: in all longer than a machine is slow for
LATE = 0.1  # seconds: what is less is no stall
NAP = 0.02


def keeps(bound: float, measure: Callable[[], float]) -> float:
    """Measure until a figure is below the bound, and return it; raises where none is."""
    figures = []
    for pause in PAUSES:
        time.sleep(pause)
        figures.append(measure())
        if figures[-1] < bound:
            return figures[-1]
    raise AssertionError(f"none is below {bound}: {figures}")


def seconds(act: Callable[[], object]) -> float:
    """Return how long it takes."""
    begin = time.monotonic()
    act()
    return time.monotonic() - begin


def wait_until(condition: Callable[[], object], at_most: float = 180) -> None:
    """Wait for a condition; raises when it does not come in so many seconds."""
    deadline = time.monotonic() + at_most
    while not condition():
        assert time.monotonic() < deadline, f"not within {at_most} s"
        time.sleep(0.02)


class Stalls(threading.Thread):
    """Waits and sees how late it wakes: for so long the machine let nobody work.

    For what happens only once, and so cannot be tried again.
    """

    def __init__(self, nap: float = NAP) -> None:
        super().__init__(daemon=True)
        self._nap = nap
        self._ended = threading.Event()
        self._spans: list[tuple[float, float]] = []

    def run(self) -> None:
        """Nap until told to end."""
        while not self._ended.is_set():
            due = time.monotonic() + self._nap
            self._ended.wait(self._nap)  # time.sleep is another one in tests that replace it
            if (now := time.monotonic()) > due + LATE:
                self._spans.append((due, now))

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        self.join()

    def longest(self, since: float) -> float:
        """Return the seconds of the longest stall that was not over by then; 0 if none was."""
        return max((end - due for due, end in list(self._spans) if end > since), default=0)

    def within(self, since: float, until: float) -> float:
        """Return the seconds of a span of time that were stalls."""
        overlaps = (min(until, end) - max(since, begin) for begin, end in list(self._spans))
        return sum(overlap for overlap in overlaps if overlap > 0)
