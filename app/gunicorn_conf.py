"""gunicorn's configuration: `gunicorn -c python:app.gunicorn_conf wsgi:app`."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from app import log
from app.config import ROOT, Settings, export_setting
from app.database import embedded
from app.server.worker import DRAINING, ENDING, is_draining

settings = Settings.from_env()

bind = f"127.0.0.1:{settings.port}"
# One a core: more of them write smaller groups (group_commit.py), and each takes its memory.
workers = settings.web_concurrency
worker_class = "app.server.worker.EventLoopWorker"
# A worker whose event loop does not run for so long is killed. Waiting for PostgreSQL does not
# block the loop, so a frozen database kills no worker.
timeout = 30
# HUP, TERM and recycling let requests end. The longest takes REQUEST_DEADLINE (10 s) and a
# statement (6 s) more. Tried by a HUP while 40 requests waited for a frozen database: at 5 s all
# were cut off, at 10, 20 and 30 s all got their 503, the last after 11.9 s.
graceful_timeout = 30
# Longer than the 2 s for which nginx keeps a connection: the client must be the one that closes
# first, or it sends a request into a closing connection.
keepalive = 5
# Nothing is known to leak; this bounds what is not known. At 1,000 requests a second a worker
# lasts three hours, and the jitter keeps workers from ending together. Not less: each that ended
# leaves 128 KB of counts, and 1,000 of them cost /metrics 0.3 s. With 150, too, no request fails
# (tests/faults).
max_requests = 10_000_000
max_requests_jitter = 2_000_000
loglevel = settings.log_level
logger_class = "app.server.logger.GunicornLogger"
# Its default is one path for all instances of a user.
control_socket_disable = True
# Workers' signs of life. gunicorn's default is a folder that may be full, and then it ends.
MEMORY = "/dev/shm"  # noqa: S108 (files in it are made by mkstemp and mkdtemp)
worker_tmp_dir = MEMORY if os.access(MEMORY, os.W_OK | os.X_OK) else None


def on_starting(server: Any) -> None:
    """Try the settings once before any worker does, and start the embedded PostgreSQL.

    gunicorn restarts a worker that cannot start, without end. The trial is another process because
    what this one imports stays as it is when HUP brings new code.
    """
    server.spawn_worker = partial(_spawn, server.spawn_worker)
    if code := _try_to_start():
        sys.exit(code)
    if not settings.database_url:
        embedded.server.acquire()
    if not settings.prometheus_multiproc_dir:
        _make_metrics_folder(server)
    else:  # left by workers that were killed together with their master
        for gauge in Path(settings.prometheus_multiproc_dir).glob("gauge_live*.db"):
            gauge.unlink(missing_ok=True)


def _make_metrics_folder(server: Any) -> None:
    """Make the folder in which workers share their counts; without one each counts by itself."""
    for parent in (None, MEMORY):
        try:
            folder = tempfile.mkdtemp(prefix="push-registry-metrics-", dir=parent)
        except OSError as error:  # no room, or not even a folder that takes files
            server.log.warning("no folder for metrics in %s: %s", parent or "TMPDIR", error)
            continue
        server.metrics_folder = folder
        export_setting("prometheus_multiproc_dir", folder)
        return


def _spawn(spawn_worker: Callable[[], Any]) -> Any:
    """Fork a worker with the signals that end it blocked, until it can handle them itself.

    Until then the child has the master's handlers, which would only take note of a TERM.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        return spawn_worker()
    finally:  # in the master; a worker exits in there
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _try_to_start() -> int:
    trial = [sys.executable, "-c", "from app import create_app; create_app()"]
    done = subprocess.run(trial, cwd=ROOT, check=False, stderr=subprocess.PIPE)
    if done.stderr:
        log.stderr.write(done.stderr)
    return done.returncode


def when_ready(server: Any) -> None:
    """Have HUP try the code first, and TERM wait until load balancers have noticed."""
    _try_before_reload(server)
    if settings.drain_seconds:
        _drain_before_end(server)


def _drain_before_end(server: Any) -> None:
    """Have TERM make /readyz 503 first, and end the instance DRAIN_SECONDS later.

    Until then master and workers keep their listeners, and everything else goes on. A second TERM
    ends it at once.
    """
    end = server.handle_term

    def handle_term() -> None:
        if is_draining():
            end()
        DRAINING[0] = 1
        server.log.info("draining for %s s", settings.drain_seconds)
        signal.signal(signal.SIGALRM, lambda *_: server.signal(signal.SIGTERM, None))
        signal.alarm(settings.drain_seconds)

    server.handle_term = handle_term


def _try_before_reload(server: Any) -> None:
    """Have HUP try the code first: a master whose new workers cannot start ends all workers.

    gunicorn has no hook that could refuse a reload.
    """
    reload = server.handle_hup

    def handle_hup(*args: Any) -> None:
        if _try_to_start():
            server.log.error("not reloaded: the code or a setting cannot be used (see above)")
        else:
            if not settings.prometheus_multiproc_dir and not hasattr(server, "metrics_folder"):
                _make_metrics_folder(server)
            reload(*args)

    server.handle_hup = handle_hup


def on_exit(server: Any) -> None:
    """Stop the embedded PostgreSQL unless another command uses it."""
    embedded.server.release()
    # After an upgrade by USR2 the new master has a folder of its own: gunicorn starts it with the
    # environment that this one was started with.
    if folder := getattr(server, "metrics_folder", None):
        shutil.rmtree(folder, ignore_errors=True)


def child_exit(server: Any, worker: Any) -> None:
    """Remove the gauges of a worker that has ended; its counts stay."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 (unpatched)

    folder = settings.prometheus_multiproc_dir or getattr(server, "metrics_folder", None)
    if folder:
        with suppress(OSError):
            mark_process_dead(worker.pid, folder)
