"""The checks of the doctor on what the service writes to: its metrics' folder, and its log.

Only a running service knows whether its log takes what it writes, so it is asked.
"""

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import Any

from app.cli.finding import Finding
from app.config import Settings

CHECKS = ("metrics", "service")
ROOM = 256 * 1024  # bytes of a worker's counts: three files, one of which may grow
UNIT = "/run/push-token-registry/gunicorn.sock"  # of deploy/systemd
SECONDS = 3.0
MAX_ANSWER = 65536  # bytes
NOT_READY = (
    "mend what is wrong above, the service notices by itself; if nothing is, it was started with"
    " other settings: restart it"
)


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield the findings; a warning where no request is at stake."""
    yield _metrics(settings)
    yield _service(settings)


def _metrics(settings: Settings) -> Finding:
    need = ROOM * settings.web_concurrency
    folder = settings.prometheus_multiproc_dir
    try:
        folder = folder or tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, need)
    except OSError as error:
        says = f"{folder or 'TMPDIR'} has no room for the workers' counts: {error.strerror}"
        do = "make room, or name another folder in PROMETHEUS_MULTIPROC_DIR"
        return Finding("metrics", "warning", says, do)
    return Finding("metrics", "right", f"{folder} has room for the workers' counts")


def _service(settings: Settings) -> Finding:
    port = f"127.0.0.1:{settings.port}"
    for place, family, address in (
        (port, socket.AF_INET, ("127.0.0.1", settings.port)),
        (UNIT, socket.AF_UNIX, UNIT),
    ):
        connection = socket.socket(family)
        with closing(connection):
            connection.settimeout(SECONDS)
            try:
                connection.connect(address)
                answer = _ask(connection)
            except PermissionError:
                do = f"as root: curl --unix-socket {UNIT} http://localhost/readyz"
                return Finding("service", "right", f"not asked: {UNIT} is for nginx alone", do)
            except TimeoutError:
                do = "see its log, under systemd by `journalctl -u push-token-registry`"
                says = f"{place} does not answer within {SECONDS:g} s"
                return Finding("service", "warning", says, do)
            except OSError:
                continue
        return _judge(place, answer)
    return Finding("service", "right", f"not asked: none runs at {port} (PORT) or {UNIT}")


def _judge(place: str, answer: dict[str, Any] | None) -> Finding:
    if answer is None:
        return Finding("service", "right", f"not asked: another program listens at {place}")
    if error := answer.get("error"):
        return Finding("service", "wrong", f"{place} is not ready: {error}", NOT_READY)
    if problems := answer.get("warnings"):
        do = "for a log or metrics make room, or see who reads the log; no restart is needed"
        return Finding("service", "warning", f"{place} says: {'; '.join(problems)}", do)
    return Finding("service", "right", f"ready at {place}, its log and metrics are kept")


def _ask(connection: socket.socket) -> dict[str, Any] | None:
    """Return what `/readyz` says; None where that is not ours. Raises TimeoutError."""
    client = HTTPConnection("localhost")
    client.sock = connection
    try:
        client.request("GET", "/readyz")
        answer = json.loads(client.getresponse().read(MAX_ANSWER))
    except TimeoutError:
        raise
    except (OSError, HTTPException, ValueError):
        return None
    is_ours = isinstance(answer, dict) and ("revision" in answer or "error" in answer)
    return answer if is_ours else None
