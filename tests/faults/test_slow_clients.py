"""500 phones that send a byte a second, through nginx: nobody else waits for them."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from app.config import ROOT
from tests.support.load import load
from tests.support.patience import wait_until

SLOW = 500
SECONDS = 8  # nginx gives up who has not said his head in 10
PAIRS = 5


@contextmanager
def slow_clients(address: str) -> Iterator[Callable[[], int]]:
    """Start them; give a function that counts those nginx has neither answered nor cut off."""
    command = [sys.executable, "-m", "tests.support.dawdle", *address.split(":"), str(SLOW)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def alive() -> int:
            print(file=process.stdin, flush=True)
            return int(process.stdout.readline())

        alive()  # all of them are connected
        yield alive
        process.stdin.close()


@pytest.mark.alone
def test_500_slow_clients_do_not_double_the_others_p99(cluster, callers, unit, address, measured):
    """A stall of the machine hits some of the pairs; slow clients would hit them all."""
    unit.start(cluster.url())
    pairs = []
    with load(address, callers, 0.05) as clients:
        clients.until_acknowledged(1000)  # connections, plans, caches
        while len(pairs) < PAIRS and not any(among <= 2 * alone for alone, among in pairs):
            begin = time.monotonic()
            time.sleep(SECONDS)
            alone = clients.percentile(0.99, begin)
            with slow_clients(address) as alive:
                begin = time.monotonic()
                time.sleep(SECONDS)
                pairs.append((alone, clients.percentile(0.99, begin)))
                # Those in their heads are given up; bodies may take for ever.
                wait_until(lambda: alive() == SLOW // 2)
    measured(p99_alone=pairs[-1][0], p99_among_slow=pairs[-1][1])
    assert not clients.failures()
    assert any(among <= 2 * alone for alone, among in pairs), pairs


def test_a_slow_client_costs_the_registry_no_connection(cluster, unit, address):
    """They wait in nginx; gunicorn has not even heard of them."""
    unit.start(cluster.url(), WEB_CONCURRENCY="1")
    wait_until(lambda: connections(unit) == 1)  # what asked whether it is ready may linger
    with slow_clients(address) as alive:
        time.sleep(2)
        # All of them, unless connecting took so long that nginx gave up the first heads.
        assert SLOW // 2 <= alive() <= SLOW
        assert connections(unit) == 1


def connections(unit) -> int:
    """Count the connections on the unit's socket, and the one that listens."""
    with open("/proc/net/unix") as file:
        return sum(line.rstrip().endswith(str(unit.path)) for line in file)
