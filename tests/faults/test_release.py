"""A change of the schema under load, while the previous release and this one serve at once."""

import subprocess
import sys
import time
from contextlib import ExitStack

from app.config import ROOT
from tests.support.databases import migrate, opened
from tests.support.filled import fill
from tests.support.live import serve
from tests.support.load import load
from tests.support.releases import previous_release

ROWS = 200_000
BEFORE, EXPANDED = "0003_refresh_heavy_tables", "0004_environment"
CLIENTS = 20  # of each release


def backfill(url: str) -> None:
    command = [sys.executable, "-m", "flask", "push-tokens", "backfill"]
    subprocess.run(command, cwd=ROOT, env={"DATABASE_URL": url}, check=True, capture_output=True)


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
    release = previous_release(folder)
    with ExitStack() as stack:
        old = stack.enter_context(serve(url, root=release, workers=2))
        former = stack.enter_context(load(f"127.0.0.1:{old.port}", callers[:CLIENTS]))
        time.sleep(3)
        migrate(url, "upgrade", EXPANDED)
        with (
            # Not /readyz: it is not at its revision yet.
            serve(url, probe="/healthz", workers=2) as new,
            load(f"127.0.0.1:{new.port}", callers[CLIENTS:]) as latter,
        ):
            time.sleep(3)
            begin = time.monotonic()
            backfill(url)
            migrate(url, "upgrade", "head")
            end = time.monotonic()
            time.sleep(10)
        # Both releases and all their clients, with the change and without.
        during = former.percentile(0.99, begin, end)
        quiet = former.percentile(0.99, end + 1, end + 10)
        migrate(url, "downgrade", BEFORE)
        time.sleep(2)
    measured(p99_without=quiet, p99_during=during)
    assert not former.failures()
    assert not latter.failures()
    assert min(former.acknowledged(), latter.acknowledged()) > 500
    assert during <= 2 * quiet
    with opened(url) as database:
        assert former.lost(database.connection) == []
        assert latter.lost(database.connection) == []
        # Back at the earlier revision nothing but the column is gone.
        assert len(database.push_tokens()) >= ROWS
