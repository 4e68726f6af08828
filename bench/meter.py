"""What PostgreSQL uses: CPU of a process, bytes of WAL, and images of pages by relation.

After a checkpoint the first change of each page writes an image of the page to the WAL. How many
that are, and of which relation, is read from the WAL itself, by pg_waldump.
"""

import os
import re
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from app.database import embedded
from app.registry import registration
from app.registry.one_node import SESSION_SETTINGS
from tests.support.clusters import Cluster

PAGE = 8192
IMAGE = re.compile(
    r"blkref #\d+: rel \d+/\d+/(\d+) .*?\(FPW\); hole: offset: \d+, length: (\d+)"
    r"(?:, compression saved: (\d+))?"
)
# No checkpoint and no vacuum comes while something is measured.
SETTINGS = (
    *("shared_buffers=2GB", "max_wal_size=64GB", "checkpoint_timeout=1d", "autovacuum=off"),
    *("maintenance_work_mem=256MB", "max_connections=100"),
)


def cpu_us(pid: int) -> float:
    """Return the microseconds of CPU that a process has used; exact while it does not run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1000


def put_first(pid: int) -> None:
    """Have a process run before others, where that is allowed: they would empty its caches."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, -15)


@dataclass
class Used:
    """What so many pieces of work used; `cpu` has a figure for each measurement of one piece."""

    number: int = 0
    cpu: list[float] = field(default_factory=list)
    wal: float = 0.0
    images: dict[str, list[int]] = field(default_factory=dict)  # by relation: pages, bytes

    def cpu_us(self) -> float:
        """Return the CPU of one piece of work: the median."""
        return round(statistics.median(self.cpu), 1)

    def wal_bytes(self) -> int:
        """Return the WAL of one piece of work."""
        return round(self.wal / self.number)

    def images_each(self) -> dict[str, list[float]]:
        """Return the images of one piece of work, and the bytes of an image, by relation."""
        return {
            name: [round(pages / self.number, 3), round(size / pages)]
            for name, (pages, size) in sorted(self.images.items())
            if pages / self.number >= 0.005
        }


class Meter:
    """A connection that registers as the service does, and one that looks on."""

    def __init__(self, cluster: Cluster, url: str):
        self._cluster = cluster
        self.work = psycopg.connect(url, autocommit=True, prepare_threshold=0)
        self.watch = psycopg.connect(url, autocommit=True, options="-c synchronous_commit=off")
        for name, value in SESSION_SETTINGS.items():
            self.work.execute(f"SET {name} = '{value}'")
        put_first(self.work.info.backend_pid)

    def close(self) -> None:
        """Close both."""
        self.work.close()
        self.watch.close()

    def one(self, query: str, *parameters: Any) -> Any:
        """Return the only value of a query."""
        return self.watch.execute(query, parameters).fetchone()[0]

    def here(self) -> str:
        """Return how far the WAL is, all of it flushed."""
        self.watch.execute("SELECT pg_logical_emit_message(false, 'bench', '', true)")
        return str(self.one("SELECT pg_current_wal_flush_lsn()"))

    def fresh_pages(self, **settings: str) -> None:
        """Change settings and make a checkpoint, after which each page's image is due again."""
        self._cluster.alter(*(f"SET {name} = {value}" for name, value in settings.items()))
        for name, value in settings.items():
            while self.one(f"SHOW {name}") != value:
                pass
        self.watch.execute("CHECKPOINT")

    def register(self, groups: Iterable[Sequence[registration.Registration]]) -> Used:
        """Register groups, one statement each; every member must be stored at once."""
        used, pid, start = Used(), self.work.info.backend_pid, self.here()
        for group in groups:
            before = cpu_us(pid)
            steps = registration.register(group)
            statement = next(steps)
            try:
                while True:
                    rows = self.work.execute(*statement, prepare=True).fetchall()
                    statement = steps.send(rows)
            except StopIteration as end:
                outcomes = end.value
            used.cpu.append((cpu_us(pid) - before) / len(group))
            used.number += len(group)
            assert all(isinstance(one, registration.Registered) for one in outcomes), outcomes
        return self.written(used, start)

    def written(self, used: Used, start: str) -> Used:
        """Note the WAL since `start`, and the images in it."""
        end = self.here()
        used.wal = float(self.one("SELECT %s::pg_lsn - %s::pg_lsn", end, start))
        classes = "SELECT relfilenode::text, relname FROM pg_class"
        names = dict(self.watch.execute(classes).fetchall())
        command = [str(self._cluster.programs / "pg_waldump"), "--bkp-details", "-p"]
        command += [str(self._cluster.data / "pg_wal"), "-s", start, "-e", end]
        as_server = embedded.as_unprivileged(command)
        dump = subprocess.run(as_server, cwd="/", capture_output=True, text=True, check=True)
        for node, hole, saved in IMAGE.findall(dump.stdout):
            found = used.images.setdefault(names.get(node, "others"), [0, 0])
            found[0] += 1
            found[1] += PAGE - int(hole) - int(saved or 0)
        return used
