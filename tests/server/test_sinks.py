"""A log or a metrics folder that takes nothing stops no request, and recovers by itself.

A disk without room is played by the kernel's limit on the size of files, which a test can lower
and raise on a running process.
"""

import json
import os
import re
import resource
import signal
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.factories import body
from tests.support.live import Live, ask, serve

URL = "/api/v1/push.token"
FAILING = 'sink_failing{{sink="{}"}}'


def warnings(live: Live) -> list[str]:
    """Return what `/readyz` warns of; it is 200 all the same."""
    status, _, text = ask(live, "/readyz", method="GET")
    assert status == 200
    return json.loads(text).get("warnings", [])


def metric(live: Live, name: str) -> float:
    _, _, text = ask(live, "/metrics", method="GET")
    found = re.findall(rf"^push_registry_{re.escape(name)} (\S+)", text, re.M)
    return float(found[0]) if found else 0.0


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def register(live: Live, caller, number: int) -> None:
    for n in range(number):
        assert ask(live, URL, body(value=f"t{n}"), **caller.headers)[0] == 200
    assert ask(live, "/healthz", method="GET")[0] == 200


def limit_files(live: Live, size: int) -> None:
    """Have the kernel refuse the service's files beyond a size."""
    for pid in (live.process.pid, *live.workers()):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture
def reader(tmp_path):
    """The path of a named pipe, the log, and functions that open it to read, and close it."""
    path = tmp_path / "log"
    os.mkfifo(path)
    opened = []

    def read() -> int:
        opened.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        return opened[-1]

    def stop() -> None:
        os.close(opened.pop())

    yield path, read, stop
    for descriptor in opened:
        os.close(descriptor)


def drain(descriptor: int) -> bytes:
    """Read what is there."""
    got = b""
    with suppress(BlockingIOError):
        while part := os.read(descriptor, 65536):
            got += part
    return got


@pytest.mark.slow
def test_a_log_whose_reader_stops_stops_no_request(database_url, alice, reader):
    path, read, stop = reader
    read()
    with serve(database_url, log=path, workers=2, LOG_LEVEL="info") as live:
        register(live, alice, 400)  # more than a pipe holds
        until(lambda: any("does not read" in one for one in warnings(live)))
        before = live.workers()
        live.process.send_signal(signal.SIGHUP)  # gunicorn's own lines wait, too
        until(lambda: live.is_renewed(before))
        stop()
        register(live, alice, 5)
        until(lambda: warnings(live) == ["log: lines are lost: Broken pipe"])
        assert metric(live, FAILING.format("log")) == 1
        assert metric(live, "log_lines_lost_total") > 0
        there, got = read(), []
        for _ in range(4):  # of both workers
            until(lambda: got.append(drain(there)) or not warnings(live))
            until(lambda: got.append(drain(there)) or not metric(live, FAILING.format("log")))
        register(live, alice, 1)
        assert b"lines of the log that this process lost" in b"".join([*got, drain(there)])


def test_a_log_that_is_full_stops_no_request_and_is_whole_later(database_url, alice, tmp_path):
    log = tmp_path / "log"
    with serve(database_url, log=log, LOG_LEVEL="info") as live:
        limit_files(live, log.stat().st_size + 100)  # half a line
        register(live, alice, 20)
        assert warnings(live) == ["log: lines are lost: File too large"]
        limit_files(live, resource.RLIM_INFINITY)
        assert warnings(live) == []
        register(live, alice, 1)
    lines = log.read_text().splitlines()
    broken = [line for line in lines if not line.startswith("{") or not line.endswith("}")]
    assert len(broken) <= 1  # the one that was cut
    told = [json.loads(line)["message"] for line in lines if line not in broken]
    (note,) = [message for message in told if "process lost" in message]
    assert int(re.findall(r"\d+", note)[0]) >= 20
    assert told[-1] == "Shutting down: Master"


def test_a_log_that_was_never_there_stops_no_start(database_url, alice):
    with serve(database_url, log=Path("/dev/full"), LOG_LEVEL="debug") as live:
        register(live, alice, 3)
        assert warnings(live) == ["log: lines are lost: No space left on device"]


@pytest.fixture
def limited(tmp_path) -> Path:
    """A Python whose files may not have a byte, until the limit is raised."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nulimit -S -f 0\nexec {sys.executable} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_metrics_folder_without_room_stops_no_request(database_url, alice, limited, tmp_path):
    folder = tmp_path / "metrics"
    folder.mkdir()
    settings = {"PROMETHEUS_MULTIPROC_DIR": str(folder), "python": str(limited)}
    with serve(database_url, **settings) as live:
        register(live, alice, 10)
        assert warnings(live) == ["metrics: this worker counts by itself: File too large"]
        assert metric(live, FAILING.format("metrics")) == 1
        assert list(folder.iterdir()) == []
        limit_files(live, resource.RLIM_INFINITY)
        until(lambda: register(live, alice, 1) or not warnings(live))
        assert metric(live, FAILING.format("metrics")) == 0
        assert metric(live, 'registrations_total{outcome="created"}') == 10  # none is lost
        assert metric(live, "pool_connections_limit") == 5
        for file in folder.iterdir():
            assert file.stat().st_blocks * 512 >= file.stat().st_size, "a hole is a SIGBUS"


@pytest.mark.slow
def test_a_metrics_folder_that_is_removed_comes_back_with_all_counts(
    database_url, alice, tmp_path
):
    """What tidies up /tmp knows nothing of a service that runs for months."""
    folder, created = tmp_path / "metrics", 'registrations_total{outcome="created"}'
    folder.mkdir()
    with serve(database_url, PROMETHEUS_MULTIPROC_DIR=str(folder)) as live:
        register(live, alice, 10)
        folder.rename(tmp_path / "away")
        folder.touch()  # nothing can be made there
        assert metric(live, created) == 10
        until(lambda: "metrics: this worker counts by itself: Not a directory" in warnings(live))
        folder.unlink()
        until(lambda: not warnings(live) and folder.is_dir())
        (tmp_path / "other").mkdir()
        for file in folder.iterdir():
            file.rename(tmp_path / "other" / file.name)
        register(live, alice, 3)
        until(lambda: metric(live, created) == 10)
        assert metric(live, 'registrations_total{outcome="refreshed"}') == 3


def test_counts_need_no_folder_at_all(database_url, alice, tmp_path):
    """Neither TMPDIR nor the memory can take one; a reload tries again."""
    config = tmp_path / "config.py"
    config.write_text(
        "import app.gunicorn_conf as conf\n"
        "from app.gunicorn_conf import *\n"
        f"conf.MEMORY = {str(tmp_path / 'away')!r}\n"
        "conf.tempfile.tempdir = conf.MEMORY\n"
    )
    with serve(database_url, config=str(config)) as live:
        register(live, alice, 3)
        (warning,) = warnings(live)
        assert warning.startswith("metrics: this worker counts by itself: no folder")
        (tmp_path / "away").mkdir()
        before = live.workers()
        live.process.send_signal(signal.SIGHUP)
        until(lambda: live.workers().isdisjoint(before) and not warnings(live))
        register(live, alice, 3)
        assert metric(live, 'registrations_total{outcome="refreshed"}') == 3
