"""One user who crosses device ids and push tokens on purpose delays nobody else."""

import itertools
import random
import time

import pytest

from tests.support.factories import Caller
from tests.support.load import Client, load

CROSSING = 50
SECONDS = 6
PAIRS = 4


class Own(Client):
    """Registers a device and two push tokens that no other client has, in turn."""

    numbers = itertools.count()

    def __init__(self, address: str, caller: Caller, pace: float):
        super().__init__(address, caller, pace)
        self.number = next(self.numbers)

    def named(self) -> tuple[str, str | None]:
        return f"own-{self.number}-{random.randrange(2)}", f"own-{self.number}"


class Crossing(Client):
    """Registers few devices and few push tokens in all combinations."""

    def named(self) -> tuple[str, str | None]:
        return f"crossed-{random.randrange(4)}", random.choice([None, "a", "b", "c"])


@pytest.mark.alone
def test_who_crosses_ids_and_values_does_not_double_the_others_p99(
    cluster, callers, unit, address, measured
):
    """Beside as many registrations that cross nothing; a stall of the machine hits some pairs."""
    unit.start(cluster.url())
    crosser, *others = callers
    pairs = []
    with load(address, others, 0.05) as clients:
        clients.until_acknowledged(1000)  # connections, plans, caches
        while len(pairs) < PAIRS and not any(crossed <= 2 * own for own, crossed in pairs):
            delays = []
            for kind in (Own, Crossing):
                with load(address, [crosser] * CROSSING, 0.1, kind) as more:
                    more.until_acknowledged(CROSSING)
                    begin = time.monotonic()
                    time.sleep(SECONDS)
                    delays.append(clients.percentile(0.99, begin))
                assert not more.failures()
            pairs.append(delays)
    assert not clients.failures()
    measured(p99_beside_own=pairs[-1][0], p99_beside_crossing=pairs[-1][1])
    assert any(crossed <= 2 * own for own, crossed in pairs), pairs
