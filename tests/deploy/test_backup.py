"""Back-ups as migrations/README.md describes them, and the service on what came back."""

import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path

import psycopg
import pytest

from app.database import embedded
from tests.support.databases import migrate
from tests.support.factories import APNS_TOKEN, body
from tests.support.filled import contents, fill
from tests.support.live import serve

# Of a session that tests.support.filled makes.
HEADERS = {"X-User-Id": "user1", "X-Auth-Token": "session 2", "Content-Type": "application/json"}


def run(program: str, *arguments: str, folder: Path | None = None) -> None:
    command = [str((folder or embedded.binaries()) / program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def register(url: str) -> dict[str, object]:
    """Have the service, started on a database, register a push token."""
    with serve(url) as live:
        data = json.dumps(body(value=APNS_TOKEN)).encode()
        request = urllib.request.Request(f"{live.url}/api/v1/push.token", data, HEADERS)
        with urllib.request.urlopen(request, timeout=60) as answer:
            result: dict[str, object] = json.load(answer)["result"]
            return result


def check_serves(url: str, rows: dict[str, list[dict[str, object]]]) -> None:
    """Expect just these rows, and one more after a registration."""
    assert contents(url) == rows
    assert register(url)["userId"] == "user1"
    assert len(contents(url)["push_tokens"]) == len(rows["push_tokens"]) + 1


def tools(url: str) -> Path:
    """Return the folder of the programs of the server's own version, which alone restore on it."""
    with psycopg.connect(url) as connection:
        version = connection.info.server_version // 10000
    if version == 18:
        return embedded.binaries()
    folder = Path(f"/usr/lib/postgresql/{version}/bin")  # Debian's place
    if not folder.exists() and os.environ.get("CI_PARTS") != "required":
        pytest.skip(f"the client programs of PostgreSQL {version} are missing")
    return folder


def test_a_dump_comes_back_and_serves(new_database, tmp_path):
    url, restored = new_database(), new_database()
    migrate(url, "upgrade", "head")
    fill(url, 3000)
    dump = str(tmp_path / "push-tokens.dump")
    folder = tools(url)
    run("pg_dump", "-Fc", "-f", dump, url, folder=folder)
    to = ("--no-owner", "--no-acl", "-d", restored)
    run("pg_restore", "--exit-on-error", *to, dump, folder=folder)
    check_serves(restored, contents(url))


@pytest.fixture
def server(tmp_path):
    """A server of its own, whose files a copy is made of."""
    server = embedded.Server(tmp_path / "server")
    yield server
    server.release()


@pytest.mark.slow
def test_a_copy_of_the_server_comes_back_and_serves(server, tmp_path):
    url = server.acquire()
    migrate(url, "upgrade", "head")
    fill(url, 3000)
    rows = contents(url)
    copy = embedded.Server(tmp_path / "copy")
    copy.folder.mkdir()
    # What is written after this is in the stream of WAL that comes along.
    run("pg_basebackup", "-D", str(copy.data), "-X", "stream", "-c", "fast", "-d", url)
    server.stop("immediate")
    if os.geteuid() == 0:
        for path in [copy.data, *copy.data.rglob("*")]:
            shutil.chown(path, embedded.UNPRIVILEGED)
    try:
        check_serves(copy.acquire(), rows)
    finally:
        copy.release()
