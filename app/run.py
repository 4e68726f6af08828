"""`make run`: database, migrations, gunicorn and a curl to paste, until Ctrl-C."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType

from app.config import ROOT, ConfigError, Settings
from app.database import embedded

BIN = Path(sys.executable).parent

CURL = """
The registry listens on {url}. Register a push token:

curl -s {url}/api/v1/push.token \\
  -H 'X-User-Id: {userId}' -H 'X-Auth-Token: {authToken}' \\
  -H 'Content-Type: application/json' \\
  -d '{{"type":"gcm","value":"my-push-token","appName":"my-app"}}'

Ctrl-C stops it.
"""


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5):  # noqa: S310 (http, ours)
            return True
    except (urllib.error.URLError, OSError):
        return False


def _check_port(port: int) -> None:
    """Raise ConfigError when another process listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError("PORT", f"{port} cannot be used: {error.strerror}") from None


def _command(*arguments: str) -> bytes:
    """Run a command of `push-tokens`; return its result."""
    command = [sys.executable, "-m", "app.cli.main", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout


def _serve(url: str) -> int:
    """Migrate, issue a demo session and serve; return gunicorn's exit status."""
    _command("migrate", "--backfill")
    demo = json.loads(_command("sessions", "issue", "demo"))
    command = [f"{BIN}/gunicorn", "-c", "python:app.gunicorn_conf", "wsgi:app"]
    # In its own process group: Ctrl-C goes to this process, which stops gunicorn gracefully.
    gunicorn = subprocess.Popen(command, cwd=ROOT, process_group=0)
    try:
        while gunicorn.poll() is None and not _is_ready(url):
            time.sleep(0.1)
        if gunicorn.poll() is None:
            print(CURL.format(url=url, **demo), flush=True)
        return gunicorn.wait()
    finally:
        # A second Ctrl-C must not leave processes running.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if gunicorn.poll() is None:
            gunicorn.terminate()
        gunicorn.wait()


def main() -> int:
    """Run everything until a signal, and stop what was started; return the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)  # also where a shell without job control ignores SIGINT
    settings = Settings.from_env()
    _check_port(settings.port)
    try:
        if not settings.database_url:
            embedded.server.acquire()  # so that it keeps running between the commands
        return _serve(f"http://127.0.0.1:{settings.port}")
    except KeyboardInterrupt:
        return 0
    except subprocess.CalledProcessError as error:
        return error.returncode
    finally:
        embedded.server.release()


if __name__ == "__main__":
    sys.exit(main())
