"""What every measurement stands on: a server, a filled table, services, counters."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import psycopg

from app.config import ROOT
from app.database import embedded
from tests.support.live import family, free_port

KNOWN = 20_000  # registrations that the load refreshes, spread over the table
ROTATED = 0.1  # of the registrations with a device id, those of a new push token
WORKERS = 2
STARTUP = 60  # seconds that a server is given to answer


def start_server(folder: Path) -> embedded.Server:
    """Start the embedded server on a folder of its own, migrated and empty."""
    server = embedded.Server(folder)
    url = server.acquire()
    with psycopg.connect(url, autocommit=True) as connection:
        # What an older release left would have to be filled in between its migrations.
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    migrate(url)
    return server


def migrate(url: str) -> None:
    """Bring a database to the newest revision."""
    alembic = [sys.executable, "-m", "alembic", "upgrade", "head"]
    subprocess.run(alembic, cwd=ROOT, env={**os.environ, "DATABASE_URL": url}, check=True)


def auth_token(number: int) -> str:
    """Return the auth token of user `number`: 43 characters, as SQL can make it too."""
    return f"{number:043}"


def push_token(number: int) -> tuple[str, str]:
    """Return type and push token of row `number`: 64 hex (apn), or 163 characters as FCM's."""
    parts = [hashlib.sha256(f"{part} {number}".encode()).hexdigest() for part in range(3)]
    text = "".join(parts)
    return ("apn", parts[0]) if number % 2 else ("gcm", f"{text[:22]}:APA91b{text[29:163]}")


def device_id(number: int) -> str:
    """Return the device id of row `number`: a UUID as of iOS, or 16 hex digits as of Android."""
    digest = hashlib.sha256(f"device {number}".encode()).hexdigest()
    return str(UUID(digest[:32])).upper() if number % 2 else digest[:16]


def fill(connection: psycopg.Connection, rows: int, users: int = 10_000) -> None:
    """Replace all that is stored by `rows` registrations of `users` signed-in users.

    It ends with a checkpoint: what is measured next begins by writing whole pages to the WAL.
    """
    refill(connection, rows, users)
    connection.execute("CHECKPOINT")


def refill(connection: psycopg.Connection, rows: int, users: int = 10_000) -> None:
    """Do as `fill`, but leave checkpoints, which are of all databases of a server, to the server.

    In one transaction: what an ended load still had under way waits, and finds its row. Where that
    holds a lock already, the two wait for each other: then it is done again.
    """
    while True:
        try:
            _fill(connection, rows, users)
            break
        except psycopg.errors.DeadlockDetected:
            continue
    connection.execute("VACUUM (ANALYZE) push_tokens, user_sessions")


def _fill(connection: psycopg.Connection, rows: int, users: int) -> None:
    hashes = [hashlib.sha256(auth_token(n).encode()).digest() for n in range(users)]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("TRUNCATE user_sessions CASCADE")
        # Every row's session is there: 10 million checks of that would take minutes.
        cursor.execute("SET LOCAL session_replication_role = replica")
        with cursor.copy("COPY user_sessions (token_hash, user_id) FROM STDIN") as copy:
            for number, digest in enumerate(hashes):
                copy.write_row((digest, f"user{number}"))
        columns = "id, device_id, app_name, token, type, user_id, session_hash"
        with cursor.copy(f"COPY push_tokens ({columns}) FROM STDIN") as copy:
            for number in range(rows):
                kind, token = push_token(number)
                user, name = number % users, device_id(number)
                id_ = f"{number:023}"  # the later, the higher
                row = id_, name, "chat.example", token, kind, f"user{user}", hashes[user]
                copy.write_row(row)


def write_known(
    path: Path, rows: int, *, ids: float = 0.5, users: int = 10_000, most: int = KNOWN
) -> None:
    """Write the registrations that the load refreshes, for post.lua.

    A share of them, `ids`, are of apps that send the device id. It is the name of every row, so
    that all shares have the same table.
    """
    step = max(1, rows // most) | 1  # odd, so that both types come
    with path.open("w") as file:
        for place, number in enumerate(range(0, rows, step)):
            kind, token = push_token(number)
            user = number % users
            # In pairs, one of each type.
            named = int((place // 2 + 1) * ids) > int(place // 2 * ids)
            name = device_id(number) if named else "-"
            file.write(f"user{user} {auth_token(user)} {kind} {token} {name}\n")


def answers(address: int | str) -> bool:
    """Say if something answers HTTP at a port, or at the path of a socket."""
    unix = isinstance(address, str)
    with suppress(OSError), socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as client:
        client.settimeout(STARTUP)
        client.connect(address if unix else ("127.0.0.1", address))
        client.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        return bool(client.recv(1))
    return False


@contextmanager
def process(
    command: list[str], address: int | str, cwd: Path = ROOT, **environ: str
) -> Iterator[int]:
    """Run a server until the end of the `with`; give its process id once it answers.

    Raises RuntimeError with what it wrote when it ends instead, or does not answer in time.
    """
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(command, cwd=cwd, env={**os.environ, **environ}, stderr=log)
        deadline = time.monotonic() + STARTUP
        try:
            while not answers(address):
                if started.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(log.read().decode())
                time.sleep(0.1)
            time.sleep(1)  # the second worker
            yield started.pid
        finally:
            started.terminate()
            started.wait(30)


@contextmanager
def service(url: str, unix: str | None = None) -> Iterator[tuple[str, int]]:
    """Run the service as by default, a line a request logged; give its address and process id.

    It listens on a port, or on the socket of that path.
    """
    port = free_port()
    settings = {"DATABASE_URL": url, "PORT": str(port), "WEB_CONCURRENCY": str(WORKERS)}
    command = [sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf"]
    command += ["-b", f"unix:{unix}"] if unix else []
    with process([*command, "wsgi:app"], unix or port, **settings) as pid:
        yield f"http://127.0.0.1:{port}", pid


NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream registry {{ server unix:{folder}/registry.sock; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://registry; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
}}
"""


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """Run nginx in front of the unix socket `registry.sock` in the folder; give its address."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port))
    with process(["nginx", "-c", str(config)], port):
        yield f"http://127.0.0.1:{port}"


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process and its descendants have used."""
    ticks = 0
    for member in family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def pss_mib(pid: int) -> float:
    """Return the memory of a process and its descendants, shared pages split, in MiB."""
    total = 0
    for member in family(pid):
        for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def wrk(
    url: str,
    known: Path,
    connections: int,
    seconds: float,
    new: float,
    *,
    rotated: float = ROTATED,
) -> dict[str, float]:
    """Load an address; return what post.lua reports. `new` and `rotated` are its shares."""
    script = str(Path(__file__).with_name("post.lua"))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{int(seconds)}s", "--latency", "-s", script]
    command += [url, "--", str(known), str(new), str(rotated)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    result: dict[str, float] = json.loads(line.removeprefix("RESULT "))
    return result
