"""`make run`, as a newcomer meets it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import psycopg
import pytest

from app import run
from app.config import ROOT
from tests.support.databases import migrate
from tests.support.filled import fill
from tests.support.live import free_port


def run_once(url: str, number: signal.Signals) -> None:
    """Run it until a signal ends it, and have the curl that it prints store a registration."""
    environ = {**os.environ, "DATABASE_URL": url, "PORT": str(free_port()), "WEB_CONCURRENCY": "1"}
    # It asks itself whether it is ready, whatever proxy there is.
    environ |= {"http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    process = subprocess.Popen(
        [sys.executable, "-m", "app.run"],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    printed = ""
    while "Ctrl-C" not in printed:
        line = process.stdout.readline()
        assert line, printed
        printed += line
    (curl,) = re.findall(r"^curl .*?'$", printed, re.M | re.S)
    done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["result"]["token"] == {"gcm": "my-push-token"}
    process.send_signal(number)
    assert process.wait(60) == 0
    process.stdout.close()
    deadline = time.monotonic() + 180
    while processes_of(process.pid):
        assert time.monotonic() < deadline, processes_of(process.pid)
        time.sleep(0.05)


def processes_of(session: int) -> list[str]:
    """Return the processes that still run in a session."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,stat=,args=", "-s", str(session)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [line for line in listed.stdout.splitlines() if " Z" not in line]


def test_a_port_in_use_is_one_line(database_url):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "app.run"],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": database_url, "PORT": port},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, "")
    expected = f"push-token-registry: PORT {port} cannot be used: Address already in use; name"
    assert done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1


def test_it_prints_a_curl_that_stores_and_stops_all_it_started(new_database):
    run_once(new_database(), signal.SIGINT)


@pytest.mark.slow
def test_a_database_of_an_earlier_release_is_filled(new_database):
    """What rows lack that a migration demands is filled on the way; all ends on SIGTERM, too."""
    url = new_database()
    migrate(url, "upgrade", "0003_refresh_heavy_tables")
    fill(url)
    run_once(url, signal.SIGTERM)
    with psycopg.connect(url) as connection:
        query = "SELECT DISTINCT environment, device_id = id FROM push_tokens WHERE token <> %s"
        assert connection.execute(query, ["my-push-token"]).fetchall() == [("production", True)]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b'{"level":"INFO","message":"request"}', None),
        (
            b'{"level":"WARNING","message":"request","status":401,"method":"POST",'
            b'"route":"/r","reason":"why\\u001b[2J"}',
            "\033[33mwarning\033[0m 401 POST /r: why[2J",
        ),
        (b"plain \x1b[2J\xff\n", "plain [2J\ufffd"),
    ],
)
def test_a_terminal_shows_what_was_refused_and_why(line, shown):
    assert run.short(line) == shown
