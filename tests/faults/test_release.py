"""A change of the schema under load, while the previous release and this one serve at once."""

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from app.config import ROOT
from tests.support.databases import migrate, opened
from tests.support.factories import Caller, body
from tests.support.filled import fill
from tests.support.live import serve
from tests.support.load import Load, load, percentile
from tests.support.patience import wait_until
from tests.support.releases import previous_release

ROWS = 200_000
BEFORE, EXPANDED = "0007_environment_not_null", "0009_device_id_index"
CLIENTS = 20  # of each release
TRIES = 4
QUIET = 4  # seconds before a change and after it, of which its p99 is no more than the double


def backfill(url: str) -> None:
    command = [sys.executable, "-m", "flask", "push-tokens", "backfill"]
    subprocess.run(command, cwd=ROOT, env={"DATABASE_URL": url}, check=True, capture_output=True)


@contextmanager
def crossing(ports: list[int], caller: Caller) -> Iterator[Counter[int]]:
    """Have few devices register few values with both releases at once; count the answers."""
    statuses = Counter[int]()
    ended = threading.Event()

    def work(port: int) -> None:
        choose = random.Random(port)
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=caller.headers, timeout=60
        ) as client:
            while not ended.wait(0.01):
                fields = body(value=f"v{choose.randrange(4)}", id=f"d{choose.randrange(3)}")
                statuses[client.post("/api/v1/push.token", json=fields).status_code] += 1

    threads = [threading.Thread(target=work, args=(port,)) for port in ports * 3]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        ended.set()
        for thread in threads:
            thread.join(60)


def contract(url: str, clients: Load) -> tuple[float, float]:
    """Contract under load; return the p99 without it, from before and after, and meanwhile."""
    before = time.monotonic()
    time.sleep(QUIET)
    begin = time.monotonic()
    migrate(url, "upgrade", "head")
    end = time.monotonic()
    time.sleep(QUIET)
    without = clients.outcomes(before, begin) + clients.outcomes(end)
    return percentile(0.99, without), percentile(0.99, clients.outcomes(begin, end))


def is_no_delay(without: float, during: float) -> bool:
    """An index is built beside them on one of the cores. Less than 50 ms is none to a phone."""
    return during <= max(2 * without, 0.05)


@pytest.mark.alone
def test_expand_backfill_and_contract_fail_no_request_of_either_release(
    new_cluster, folder, measured
):
    cluster = new_cluster()
    cluster.serve()
    url = cluster.url()
    migrate(url, "upgrade", BEFORE)
    fill(url, ROWS)
    with opened(url) as database:
        callers = [database.sign_in(f"release{number}") for number in range(2 * CLIENTS)]
        crosser = database.sign_in("crosser")
    release, python = previous_release(folder)
    with ExitStack() as stack:
        with (
            serve(url, root=release, python=python, workers=2) as old,
            load(f"127.0.0.1:{old.port}", callers[:CLIENTS]) as former,
        ):
            former.until_acknowledged(500)
            begin = time.monotonic()
            migrate(url, "upgrade", EXPANDED)
            backfill(url)
            # Not /readyz: it is not at its revision yet.
            new = stack.enter_context(serve(url, probe="/healthz"))
            latter = stack.enter_context(load(f"127.0.0.1:{new.port}", callers[CLIENTS:]))
            with crossing([old.port, new.port], crosser) as statuses:
                former.until_acknowledged(500)
                latter.until_acknowledged(500)
                wait_until(lambda: statuses.total() > 500)
        measured(both=time.monotonic() - begin)
        # The previous release is gone; what both left of one device is merged.
        pairs = [contract(url, latter)]
        while not is_no_delay(*pairs[-1]) and len(pairs) < TRIES:
            migrate(url, "downgrade", EXPANDED)
            pairs.append(contract(url, latter))
    measured(p99_without=pairs[-1][0], p99_during=pairs[-1][1])
    assert set(statuses) == {200}
    assert not former.failures()
    assert not latter.failures()
    assert is_no_delay(*pairs[-1]), pairs
    with opened(url) as database:
        assert former.lost(database.connection) == []
        assert latter.lost(database.connection) == []
        devices = database.rows("SELECT device_id FROM push_tokens WHERE user_id = 'crosser'")
        assert len({row["device_id"] for row in devices}) == len(devices)
        before = len(database.push_tokens())
    migrate(url, "downgrade", BEFORE)
    with opened(url) as database:
        assert len(database.push_tokens()) == before >= ROWS
    with (
        serve(url, root=release, python=python) as old,
        load(f"127.0.0.1:{old.port}", callers) as again,
    ):
        again.until_acknowledged(500)
    assert not again.failures()
