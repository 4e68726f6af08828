"""`make run`: database, migrations, gunicorn and a curl to paste, until Ctrl-C."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from threading import Thread
from types import FrameType
from typing import IO

from app.config import ROOT, ConfigError, Settings
from app.database import connections, embedded

# Whatever proxy the shell names: it is this machine that is asked.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

CURL = """
The registry listens on {url}. Register a push token:

curl -s {url}/api/v1/push.token \\
  -H 'X-User-Id: {userId}' -H 'X-Auth-Token: {authToken}' \\
  -H 'Content-Type: application/json' \\
  -d '{{"type":"gcm","value":"my-push-token","appName":"my-app"}}'

{log}Ctrl-C stops it.
"""
LOG = ROOT / "instance" / "service.log"
COLOURS = {"WARNING": 33, "ERROR": 31, "CRITICAL": 31}


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _is_ready(url: str) -> bool:
    try:
        with DIRECT.open(f"{url}/readyz", timeout=5):
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
            do = f"name another one (make run PORT={min(port + 1, 65535)}), or stop what has it"
            raise ConfigError("PORT", f"{port} cannot be used: {error.strerror}; {do}") from None


def _command(*arguments: str) -> bytes:
    """Run a command of `push-tokens`; return its result."""
    command = [sys.executable, "-m", "app.cli.main", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout


def _tell(doing: str) -> None:
    """Say what is being done, which may take a while."""
    print(f"{doing} …", file=sys.stderr, flush=True)


def _open_log() -> IO[bytes] | None:
    """Open the file for the service's log where this is a terminal, else None: stderr has it."""
    if not sys.stderr.isatty():
        return None
    try:
        LOG.parent.mkdir(exist_ok=True)
        return LOG.open("wb")
    except OSError:  # the terminal has it, then
        return None


def short(line: bytes) -> str | None:
    """Return what a terminal shows of a line of the log: warnings and errors, short."""
    try:
        said = json.loads(line)
        level = said["level"]
    except (ValueError, TypeError, KeyError):
        return _printable(line.decode(errors="replace").rstrip())
    if level not in COLOURS:
        return None
    message = str(said.get("message", ""))
    if "reason" in said and "status" in said:
        message = f"{said['status']} {said.get('method')} {said.get('route')}: {said['reason']}"
    message = _printable(message)
    return f"\033[{COLOURS[level]}m{level.lower()}\033[0m {message}"


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())


def _follow(pipe: IO[bytes], log: IO[bytes]) -> None:
    """Keep the log in its file, so that the curl stays in sight."""
    for line in pipe:
        with suppress(OSError):  # a full disk stops no service
            log.write(line)
            log.flush()
        if shown := short(line):
            print(shown, file=sys.stderr, flush=True)


def _serve(url: str) -> int:
    """Migrate, issue a demo session and serve; return gunicorn's exit status."""
    _tell("Migrating the database")
    _command("migrate", "--backfill")
    demo = json.loads(_command("sessions", "issue", "demo"))
    # As a module: the script in .venv/bin has the path of a checkout that may have been moved.
    serve = ("-m", "gunicorn", "-c", "python:app.gunicorn_conf", "wsgi:app")
    command = [sys.executable, *serve]
    # In its own process group: Ctrl-C goes to this process, which stops gunicorn gracefully.
    log = _open_log()
    to = subprocess.PIPE if log else None
    _tell("Starting the service")
    gunicorn = subprocess.Popen(command, cwd=ROOT, process_group=0, stderr=to)
    if log and gunicorn.stderr:
        Thread(target=_follow, args=(gunicorn.stderr, log), daemon=True).start()
    try:
        while gunicorn.poll() is None and not _is_ready(url):
            time.sleep(0.1)
        if gunicorn.poll() is None:
            told = f"Each request is a line in {LOG.relative_to(ROOT)}. " if log else ""
            print(CURL.format(url=url, log=told, **demo), flush=True)
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
    connections.check_url(settings)
    _check_port(settings.port)
    try:
        if not settings.database_url:
            _tell("Starting PostgreSQL")
            embedded.server.acquire()  # so that it keeps running between the commands
        return _serve(f"http://127.0.0.1:{settings.port}")
    except KeyboardInterrupt:
        return 0
    except subprocess.CalledProcessError as error:
        return error.returncode
    except (embedded.EmbeddedError, OSError) as error:
        print(f"push-token-registry: {error}", file=sys.stderr)
        return 1
    finally:
        embedded.server.release()


if __name__ == "__main__":
    sys.exit(main())
