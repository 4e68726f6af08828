"""The embedded PostgreSQL: shared, outliving who is killed, gone when the last one leaves."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from app.config import ROOT, ConfigError
from app.database import embedded
from tests.support.clusters import state
from tests.support.patience import wait_until

USE = """
import sys, time, pathlib
from app.database.embedded import Server
server = Server(pathlib.Path(sys.argv[1]))
print(server.acquire(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    tmp_path.chmod(0o700)
    yield tmp_path / "postgresql"
    embedded.Server(tmp_path / "postgresql").stop("immediate")


def start(folder: Path, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USE, str(folder)],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def url_of(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip()


def leave(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode == 0


def answers(url: str) -> bool:
    try:
        with psycopg.connect(url) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def test_several_start_it_at_once_and_the_last_one_stops_it(folder):
    """Whatever the shell has for other servers."""
    others = {"PGSERVICE": "none", "PGOPTIONS": "-c none=1", "PGSSLMODE": "require"}
    processes = [start(folder, **others) for _ in range(4)]
    urls = {url_of(process) for process in processes}
    (url,) = urls
    for process in processes[:-1]:
        leave(process)
        assert answers(url)
    leave(processes[-1])
    assert not answers(url)
    assert not embedded.Server(folder).is_running()


def test_it_survives_whoever_started_it_and_still_stops_with_the_last(folder):
    first = start(folder)
    url = url_of(first)
    first.kill()
    first.communicate()
    assert answers(url)
    second = start(folder)
    assert url_of(second) == url
    leave(second)
    assert not answers(url)


def test_it_comes_back_after_its_own_kill_with_what_was_committed(folder):
    first = start(folder)
    with psycopg.connect(url_of(first), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS x")
    killed = embedded.Server(folder).pid()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: state(killed) in "ZX")  # or whoever leaves stops it while it dies
    leave(first)
    second = start(folder)
    url = url_of(second)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT x FROM kept").fetchone() == (1,)
    leave(second)


def test_it_opens_nothing_to_anybody_else(folder):
    parents = [folder.parent, *folder.parent.parents]
    before = [stat.S_IMODE(parent.stat().st_mode) for parent in parents]
    process = start(folder)
    url = url_of(process)
    sockets = Path(psycopg.conninfo.conninfo_to_dict(url)["host"])
    assert [stat.S_IMODE(parent.stat().st_mode) for parent in parents] == before
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "data").stat().st_mode) == 0o700
    leave(process)
    assert not sockets.exists()


def test_ctrl_c_reaches_the_user_and_not_the_server(folder):
    process = start(folder)
    url = url_of(process)
    other = start(folder)
    url_of(other)
    process.send_signal(signal.SIGINT)
    process.communicate()
    time.sleep(0.2)
    assert answers(url)
    leave(other)


def test_it_runs_from_a_folder_that_only_its_owner_may_enter(folder, monkeypatch):
    programs = folder.parent / "bin"
    programs.symlink_to(embedded.binaries())
    monkeypatch.setattr(embedded, "binaries", lambda: programs)
    server = embedded.Server(folder)
    assert answers(server.acquire())
    server.release()


def test_without_the_wheel_an_unset_url_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        embedded.binaries()
    assert "DATABASE_URL is not set" in str(error.value.code)
