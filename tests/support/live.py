"""The service as operators run it: gunicorn with its workers, on a free port."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from app.config import ROOT, Settings

PORTS = range(20_000, 32_000)  # the kernel gives away those from 32768 on


@dataclass
class Live:
    """A running gunicorn."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def says_yes(self, probe: str) -> bool:
        try:
            with urllib.request.urlopen(self.url + probe, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def workers(self) -> set[int]:
        """Return the process ids of its workers."""
        pid = self.process.pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def serving(self) -> int:
        """Return how many workers have loaded the service, by their share in a gauge."""
        _, _, text = ask(self, "/metrics", method="GET")
        (limit,) = re.findall(r"^push_registry_pool_connections_limit (\S+)", text, re.M)
        return int(float(limit)) // Settings().database_pool_size

    def is_renewed(self, before: set[int], workers: int = 2) -> bool:
        """Tell whether other workers than before serve, and none of those is left."""
        now = self.workers()
        return len(now) == workers and not now & before and self.serving() == workers

    def exchange(self, request: bytes, timeout: float = 10) -> bytes:
        """Send bytes as they are, end sending, and return all that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as client:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            answer = b""
            while received := client.recv(65536):
                answer += received
        return answer


def ask(
    live: Live,
    path: str,
    fields: object = None,
    method: str = "POST",
    timeout: float = 60,
    **headers: str,
) -> tuple[int, Message, str]:
    """Make a call; return status, headers and body."""
    is_sent_as_it_is = fields is None or isinstance(fields, bytes)
    data = fields if is_sent_as_it_is else json.dumps(fields).encode()
    request = urllib.request.Request(live.url + path, data, method=method)
    for name, value in {"Content-Type": "application/json", **headers}.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers, answer.read().decode()


def free_port() -> int:
    """Return a port that nobody listens on, and that no other test was given lately.

    One that the kernel chooses is given away again before a slow server has taken it: to a test
    beside this one, or to whoever connects. So those below its own go round, over all processes.
    """
    path = Path(tempfile.gettempdir()) / f"push-tokens-ports-{os.geteuid()}"
    with path.open("a+") as last:
        fcntl.flock(last, fcntl.LOCK_EX)
        last.seek(0)
        port = int(last.read() or PORTS[-1])
        while True:
            port = port + 1 if port < PORTS[-1] else PORTS[0]
            with socket.socket() as listener, suppress(OSError):
                listener.bind(("127.0.0.1", port))
                break
        last.truncate(0)
        last.write(str(port))
    return port


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it, parents first."""
    found = [pid]
    with suppress(FileNotFoundError, ProcessLookupError):  # it, or a thread of it, has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


@contextmanager
def serve(
    database_url: str,
    app: str = "wsgi:app",
    *,
    log: Path | None = None,
    root: Path = ROOT,
    probe: str = "/readyz",
    workers: int = 1,
    python: str = sys.executable,
    config: str = "python:app.gunicorn_conf",
    **environ: str,
) -> Iterator[Live]:
    """Run gunicorn on a database until the end of the `with`; what it logs may go to a file.

    `root` is the checkout whose code serves, by the packages of `python`; `probe` says that it
    does. All workers serve when it begins.
    """
    port = int(environ.get("PORT") or free_port())
    settings = {
        "DATABASE_URL": database_url,
        "PORT": str(port),
        "LOG_LEVEL": "warning",
        "WEB_CONCURRENCY": str(workers),
    }
    with log.open("ab") if log else nullcontext() as stderr:
        process = subprocess.Popen(
            [python, "-m", "gunicorn", "-c", config, app],
            cwd=root,
            env={**os.environ, **settings, **environ},
            stderr=stderr,
        )
    live = Live(process, port)
    try:
        deadline = time.monotonic() + 180  # a busy machine takes long to start it
        while not live.says_yes(probe) or (workers > 1 and live.serving() < workers):
            assert process.poll() is None, "gunicorn ended"
            assert time.monotonic() < deadline, "gunicorn is not ready"
            time.sleep(0.05)
        yield live
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
