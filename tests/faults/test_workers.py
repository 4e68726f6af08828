"""gunicorn's workers are killed, replaced, recycled; gunicorn is stopped and started."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from app.config import ROOT
from tests.support.activation import serving, workers
from tests.support.clusters import is_stopped
from tests.support.databases import opened
from tests.support.live import serve
from tests.support.load import load
from tests.support.patience import seconds, wait_until
from tests.support.proxy import NO_LIMITS, nginx


@pytest.mark.parametrize("how_many", [1, 2])
def test_a_killed_worker_fails_what_was_in_flight_and_loses_nothing(cluster, callers, how_many):
    with (
        serve(cluster.url(), workers=2) as live,
        load(f"127.0.0.1:{live.port}", callers, 0.05) as clients,
    ):
        clients.first_success(time.monotonic())
        for _ in range(3):
            clients.until_acknowledged(500)
            dying = serving(live.process.pid)[:how_many]
            # All at one moment: nobody goes from one to the next.
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for worker in dying:
                    os.kill(worker, number)
            clients.first_success(time.monotonic())
            wait_until(lambda: len(serving(live.process.pid)) == 2)
        clients.each_again()
    # One request of a client is in flight when a worker dies, and nobody answers it.
    assert clients.failures().keys() <= {
        *("RemoteDisconnected", "ConnectionResetError", "BrokenPipeError")
    }
    for client in clients.clients:
        assert sum(outcome.status != 200 for outcome in client.outcomes) <= 3
    assert clients.acknowledged() > 200
    with opened(cluster.url()) as database:
        assert clients.lost(database.connection) == []


def test_behind_nginx_not_even_a_killed_worker_fails_a_registration(
    cluster, callers, unit, address
):
    """One of two: the other one takes over. A try that both drop would be a 503."""
    unit.start(cluster.url())
    with load(address, callers, 0.05) as clients:
        for _ in range(3):
            clients.until_acknowledged(500)
            wait_until(lambda: len(unit.serving()) == 2)
            os.kill(unit.workers()[0], signal.SIGKILL)
        wait_until(lambda: len(unit.serving()) == 2)
        clients.each_again()
    assert not clients.failures()
    with opened(cluster.url()) as database:
        assert clients.lost(database.connection) == []


def test_hup_fails_no_request(cluster, callers, unit, address, measured):
    unit.start(cluster.url())
    took = []
    with load(address, callers, 0.05) as clients:
        for _ in range(3):
            clients.until_acknowledged(500)
            before = set(unit.workers())
            os.kill(unit.service.pid, signal.SIGHUP)
            took.append(seconds(partial(wait_until, partial(is_renewed, unit, before))))
        clients.each_again()
    assert not clients.failures()
    # At the most it waits for new workers, which a busy machine takes a while to start.
    measured(slowest=clients.slowest(), renewed_after=max(took))
    assert clients.slowest() < max(took) + 5
    with opened(cluster.url()) as database:
        assert clients.lost(database.connection) == []


def test_stop_and_start_with_a_socket_unit_fails_no_request(
    cluster, callers, unit, address, measured
):
    unit.start(cluster.url())
    with load(address, callers, 0.05) as clients:
        away = []
        for _ in range(2):
            clients.until_acknowledged(500)
            begin = time.monotonic()
            measured(stopping=unit.stop())
            unit.start(cluster.url())
            away.append(time.monotonic() - begin)
        clients.each_again()
    assert not clients.failures()
    # It waits for gunicorn, which takes a while to start, and then for its turn.
    measured(slowest=clients.slowest(), away=max(away))
    assert clients.slowest() < max(away) + 5
    with opened(cluster.url()) as database:
        assert clients.lost(database.connection) == []


def test_recycling_workers_fails_no_request(cluster, callers, unit, address):
    """By count of requests, with a setting that makes it happen all the time."""
    unit.start(cluster.url(), GUNICORN_CMD_ARGS="--max-requests 150 --max-requests-jitter 50")
    seen = set(unit.workers())
    with load(address, callers, 0.05) as clients:

        def six_were_there() -> bool:
            seen.update(unit.workers())
            return len(seen) >= 6

        wait_until(six_were_there)
        clients.each_again()
    assert not clients.failures()
    with opened(cluster.url()) as database:
        assert clients.lost(database.connection) == []


def test_hup_takes_up_new_code_of_every_module(cluster, callers, unit, address, folder):
    """An upgrade: also of what gunicorn's master has imported for its configuration."""
    release = folder / "release"
    shutil.copytree(ROOT, release, ignore=shutil.ignore_patterns(".*", "instance", "tests"))
    unit.start(cluster.url(), ROOT_OF_APP=str(release))
    assert b'"status":"ok"' in unit.get("/healthz")[1]
    package, config, monitoring = (
        release / "app" / name for name in ("__init__.py", "config.py", "api/monitoring.py")
    )
    package.write_text(package.read_text() + '\nRELEASE = "ne"\n')
    config.write_text(config.read_text() + '\nRELEASE = "xt"\n')
    changed = monitoring.read_text().replace('"ok"', "app.RELEASE + config.RELEASE")
    monitoring.write_text(
        changed.replace("from app import ", "import app\nfrom app import config, ")
    )
    with load(address, callers, 0.05) as clients:
        os.kill(unit.service.pid, signal.SIGHUP)
        wait_until(lambda: b'"status":"next"' in unit.get("/healthz")[1])
        clients.each_again()
    assert not clients.failures()


def test_hup_with_code_that_cannot_start_changes_nothing(cluster, callers, unit, address, folder):
    release = folder / "release"
    shutil.copytree(ROOT, release, ignore=shutil.ignore_patterns(".*", "instance", "tests"))
    log = folder / "log"
    unit.start(cluster.url(), log, ROOT_OF_APP=str(release))
    before = set(unit.workers())
    broken = release / "app" / "api" / "monitoring.py"
    whole = broken.read_text()
    broken.write_text("import not_installed\n" + whole)
    with load(address, callers, 0.05) as clients:
        os.kill(unit.service.pid, signal.SIGHUP)
        wait_until(lambda: "not reloaded" in log.read_text())
        assert set(unit.workers()) == before
        broken.write_text(whole)
        os.kill(unit.service.pid, signal.SIGHUP)
        wait_until(lambda: is_renewed(unit, before))
        clients.each_again()
    assert not clients.failures()


def test_an_upgrade_of_gunicorn_itself_by_usr2_fails_no_request(cluster, callers, folder):
    """A second master beside the first, which then ends: for a gunicorn without a socket unit.

    gunicorn 27 closes the unit's descriptor, so there its second master ends at once.
    """
    path = folder / "own.sock"
    program = str(Path(sys.executable).with_name("gunicorn"))
    command = [program, "-c", "python:app.gunicorn_conf", "-b", f"unix:{path}", "wsgi:app"]
    environ = {**os.environ, "DATABASE_URL": cluster.url(), "LOG_LEVEL": "warning"}
    environ["TMPDIR"] = str(folder)
    metrics = "push-registry-metrics-*"
    with (
        subprocess.Popen(command, cwd=ROOT, env=environ) as old,
        nginx(folder / "nginx", path, changes=NO_LIMITS) as proxy,
    ):
        wait_until(lambda: len(workers(old.pid)) == 2 and path.exists())
        before = set(workers(old.pid))
        with load(f"127.0.0.1:{proxy.public}", callers, 0.05) as clients:
            ready = clients.first_success(time.monotonic())
            old.send_signal(signal.SIGUSR2)
            wait_until(lambda: second_master(old.pid, before))
            new = second_master(old.pid, before)
            wait_until(lambda: len(serving(new)) == 2)
            old.terminate()
            assert old.wait(60) == 0
            ended = time.monotonic()
            clients.each_again(3)
        (kept,) = folder.glob(metrics)
        assert list(kept.iterdir())
        os.kill(new, signal.SIGTERM)
        wait_until(lambda: is_stopped(new))
    assert not list(folder.glob(metrics))
    assert clients.statuses(ready).keys() == {200}
    assert len(clients.outcomes(ended)) > 100
    with opened(cluster.url()) as database:
        assert clients.lost(database.connection) == []


def second_master(first: int, its_workers: set[int]) -> int:
    """Return the child of a master that has two workers of its own, or 0."""
    children = set(workers(first)) - its_workers
    return next((pid for pid in children if len(workers(pid)) == 2), 0)


def is_renewed(unit, before: set[int]) -> bool:
    """Tell whether other workers than before serve, and none of those is left."""
    now = unit.workers()
    return not before & set(now) and len(now) == len(unit.serving()) == 2
