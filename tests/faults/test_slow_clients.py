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
TRIES = 5


@contextmanager
def slow_clients(address: str) -> Iterator[Callable[[], tuple[int, int]]]:
    """Start them; give a function that counts the heads and bodies that nginx still waits for."""
    command = [sys.executable, "-m", "tests.support.dawdle", *address.split(":"), str(SLOW)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def alive() -> tuple[int, int]:
            print(file=process.stdin, flush=True)
            heads, bodies = map(int, process.stdout.readline().split())
            return heads, bodies

        alive()  # all of them are connected
        yield alive
        process.stdin.close()


@pytest.mark.alone
def test_500_slow_clients_do_not_double_the_others_p99(cluster, callers, unit, address, measured):
    """A stall of the machine hits some of the tries; slow clients would hit them all."""
    unit.start(cluster.url())
    tries = []
    with load(address, callers, 0.05) as clients:
        clients.until_acknowledged(1000)  # connections, plans, caches
        while len(tries) < TRIES and not (tries and slow_and_harmless(*tries[-1])):
            begin = time.monotonic()
            time.sleep(SECONDS)
            alone = clients.percentile(0.99, begin)
            with slow_clients(address) as alive:
                begin = time.monotonic()
                time.sleep(SECONDS)
                among = clients.percentile(0.99, begin)
                wait_until(lambda: alive()[0] == 0)  # who is in his head is given up
                tries.append((alone, among, alive()[1]))
    measured(p99_alone=tries[-1][0], p99_among_slow=tries[-1][1])
    assert not clients.failures()
    assert slow_and_harmless(*tries[-1]), tries


def slow_and_harmless(alone: float, among: float, bodies: int) -> bool:
    """Whether no body was given up, as after a stall of 10 s, and the others hardly waited."""
    return bodies == SLOW // 2 and among <= 2 * alone


def test_a_slow_client_costs_the_registry_no_connection(cluster, unit, address):
    """They wait in nginx; gunicorn has not even heard of them."""
    unit.start(cluster.url(), WEB_CONCURRENCY="1")
    wait_until(lambda: connections(unit) == 1)  # what asked whether it is ready may linger
    with slow_clients(address) as alive:
        time.sleep(2)
        # All of them, unless connecting took so long that nginx gave up the first heads.
        assert SLOW // 2 <= sum(alive()) <= SLOW
        assert connections(unit) == 1


def connections(unit) -> int:
    """Count the connections on the unit's socket, and the one that listens."""
    with open("/proc/net/unix") as file:
        return sum(line.rstrip().endswith(str(unit.path)) for line in file)
