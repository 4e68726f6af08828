"""gunicorn as systemd runs it: the socket is the unit's, and outlives every gunicorn."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from types import MappingProxyType

from app.config import ROOT

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
BACKLOG = 4096  # as deploy/systemd/push-token-registry.socket says


class SocketUnit:
    """Holds a listening unix socket and hands it to one gunicorn after the other."""

    def __init__(self, path: Path):
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(BACKLOG)
        self.service: subprocess.Popen[bytes] | None = None

    def start(self, database_url: str, log: Path | None = None, **environ: str) -> None:
        """Start gunicorn; requests wait in the socket until it takes them.

        What it logs may go to a file.
        """
        descriptor = self._listener.fileno()
        defaults = {"LOG_LEVEL": "warning", "WEB_CONCURRENCY": "2"}
        settings = {**defaults, "DATABASE_URL": database_url, **environ}
        # LISTEN_PID is the process's own id, so a shell sets it and becomes gunicorn.
        become = f'exec 3<&{descriptor}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
        program = str(Path(sys.executable).with_name("gunicorn"))
        gunicorn = [program, "-c", "python:app.gunicorn_conf", "wsgi:app"]
        with log.open("ab") if log else nullcontext() as stderr:
            self.service = subprocess.Popen(
                ["bash", "-c", become, "unit", *gunicorn],
                cwd=environ.get("ROOT_OF_APP", ROOT),
                env={**os.environ, **settings},
                pass_fds=(descriptor,),
                stderr=stderr,
            )
        try:
            self.wait_until_ready(int(settings["WEB_CONCURRENCY"]))
        except BaseException:
            self.service.kill()  # its workers end by themselves
            raise

    def stop(self) -> float:
        """Stop gunicorn as `systemctl stop` does; return the seconds that it took."""
        assert self.service
        begin = time.monotonic()
        self.service.send_signal(signal.SIGTERM)
        assert self.service.wait(60) == 0
        self.service = None
        return time.monotonic() - begin

    def serving(self) -> list[int]:
        """Return the process ids of the workers whose event loop runs: they have loaded all."""
        assert self.service
        return serving(self.service.pid)

    def workers(self) -> list[int]:
        """Return the process ids of gunicorn's workers."""
        assert self.service
        return workers(self.service.pid)

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] = NO_HEADERS,
        fields: object = None,
        timeout: float = 60,
    ) -> tuple[int, bytes]:
        """Call gunicorn itself; return status and body."""
        content = json.dumps(fields) if fields is not None else ""
        head = [f"{method} {path} HTTP/1.1", "Host: t", "Connection: close"]
        head += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(timeout)
            client.connect(str(self.path))
            client.sendall("\r\n".join([*head, "", content]).encode())
            answer = b""
            while received := client.recv(65536):
                answer += received
        start, _, body = answer.partition(b"\r\n\r\n")
        return (int(start.split()[1]) if start else 0), body

    def get(self, path: str) -> tuple[int, bytes]:
        """Ask gunicorn itself; return status and body."""
        return self.ask("GET", path)

    def is_ready(self) -> bool:
        """Tell whether /readyz says 200; no answer is a no."""
        with suppress(TimeoutError):
            return self.ask("GET", "/readyz", timeout=5)[0] == 200
        return False

    def wait_until_ready(self, workers: int = 2, seconds: float = 180) -> None:
        """Wait until all its workers have loaded all and it takes requests.

        The first worker answers while the others start, on a busy machine for seconds: who then
        notes the workers, or changes their code, meets one that does neither yet.
        """
        assert self.service
        deadline = time.monotonic() + seconds
        while not (len(self.serving()) == workers and self.is_ready()):
            assert self.service.poll() is None, "gunicorn ended"
            assert time.monotonic() < deadline, "gunicorn is not ready"
            time.sleep(0.05)

    def close(self) -> None:
        """Stop all."""
        try:
            if self.service and self.service.poll() is None:
                self.stop()
        finally:
            self._listener.close()
            self.path.unlink()


def workers(master: int) -> list[int]:
    """Return the process ids of a gunicorn's workers; none when it has ended."""
    children = Path(f"/proc/{master}/task/{master}/children")
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(pid) for pid in children.read_text().split()]
    return []


def serving(master: int) -> list[int]:
    """Return those of them whose event loop runs: they have loaded all."""
    return [pid for pid in workers(master) if "anon_inode:[eventpoll]" in _opened(pid)]


def _opened(pid: int) -> list[str]:
    """Return what the file descriptors of a process are of."""
    with suppress(FileNotFoundError):
        return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return []
