"""PostgreSQL servers to be ill-treated: the wheel's binaries, on folders of the test's own."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psycopg

from app.database import embedded
from tests.support.live import family

DATABASE = "push_tokens"


def is_stopped(pid: int) -> bool:
    """Tell whether a process runs no more: it is stopped, dead or gone."""
    return state(pid) in "TZX"


def state(pid: int) -> str:
    """Return the letter by which the kernel tells what a process does: X where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return stat.rpartition(") ")[2][0]


class Cluster:
    """A server whose process is ours, so that it can be killed, frozen and started again."""

    def __init__(self, programs: Path | None = None):
        self.programs = programs or embedded.binaries()
        # A short path, as a socket's has at most 107 bytes; it stays the same over restarts.
        self.folder = Path(tempfile.mkdtemp(prefix="cluster-"))
        self.data = self.folder / "data"
        self.port = 5432  # of TCP, where it listens there, and in the socket's name
        self.process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            shutil.chown(self.folder, embedded.UNPRIVILEGED)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        command = embedded.as_unprivileged([str(self.programs / program), *arguments])
        subprocess.run(command, cwd="/", check=True, capture_output=True)

    def copy(self, stopped: "Cluster") -> None:
        """Become what another server is, which does not run: sooner made than a new one."""
        subprocess.run(["cp", "-a", str(stopped.data), str(self.data)], check=True)

    def create(self) -> None:
        """Make an empty server."""
        options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        self.run("initdb", "-D", str(self.data), *options)

    def start(self, *settings: str) -> None:
        """Start it, or start it again, with settings such as `max_connections=20`.

        Without fsync: what is killed, but by no power cut, loses nothing all the same, and the
        machine's disk, which may stall for seconds, is none of the tests' business.
        """
        here = ["fsync=off", f"unix_socket_directories={self.folder}", f"port={self.port}"]
        named = ["listen_addresses=", *here, *settings]
        flags = [part for setting in named for part in ("-c", setting)]
        command = [str(self.programs / "postgres"), "-D", str(self.data), *flags]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                embedded.as_unprivileged(command),
                cwd="/",
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_up(self, seconds: float = 180) -> None:
        """Wait until it takes connections."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                log = (self.folder / "log").read_text()[-3000:]
                assert self.process, log
                assert self.process.poll() is None, log
                assert time.monotonic() < deadline, log
                time.sleep(0.01)
            else:
                return

    def create_database(self) -> None:
        """Make the registry's database, empty."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")

    def url(self, dbname: str = DATABASE) -> str:
        """Return the URI of a database."""
        host = quote(str(self.folder), safe="")
        return f"postgresql:///{dbname}?user=postgres&host={host}&port={self.port}"

    def serve(self) -> None:
        """Make it, start it, and make the registry's database, empty."""
        self.create()
        self.start()
        self.wait_until_up()
        self.create_database()

    def follow(self, primary: "Cluster") -> None:
        """Copy a running server and follow it as a streaming standby."""
        self.run(
            *("pg_basebackup", "-D", str(self.data), "-d", primary.url("postgres")),
            *("-R", "-X", "stream", "--checkpoint=fast", "--no-sync"),
        )
        self.start()
        self.wait_until_up()

    def alter(self, *settings: str) -> None:
        """Change settings while it runs: `SET name = value`, `RESET name`."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            for setting in settings:
                connection.execute(f"ALTER SYSTEM {setting}")
            connection.execute("SELECT pg_reload_conf()")

    def signal(self, number: int) -> None:
        """Send a signal to the server and all its processes."""
        assert self.process
        for pid in family(self.process.pid):
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, number)

    def freeze(self) -> None:
        """Stop the server and all its processes, those too that are born meanwhile."""
        assert self.process
        deadline = time.monotonic() + 60
        while not all(is_stopped(pid) for pid in family(self.process.pid)):
            assert time.monotonic() < deadline
            self.signal(signal.SIGSTOP)  # parents first: one that is stopped bears no more
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a power cut would, but for what the kernel had not written yet.

        It can be started again then: its shared memory is in use until its last process is dead.
        """
        assert self.process
        self.freeze()  # so that none is born meanwhile
        pids = family(self.process.pid)
        self.signal(signal.SIGKILL)
        self.process.wait(60)
        deadline = time.monotonic() + 60
        while not all(state(pid) in "ZX" for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> None:
        """End it in order."""
        assert self.process
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0

    def remove(self) -> None:
        """End it and remove its folder."""
        if self.process and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
