"""What /metrics tells of the processes of an instance: read from /proc when it is asked for."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily

PAGE = os.sysconf("SC_PAGE_SIZE")


def of_this_instance() -> list[int]:
    """Return the ids of gunicorn's processes: the parent of this one, and its workers."""
    master = os.getppid()
    with suppress(OSError):
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return [master, *map(int, children)]
    return [os.getpid()]  # no /proc, or a parent that is no gunicorn of ours


class Processes:
    """A collector (prometheus_client): memory and descriptors of master and workers together."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges; a process that ends meanwhile counts as nothing."""
        resident = descriptors = found = 0
        for pid in of_this_instance():
            with suppress(OSError):
                resident += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
                descriptors += len(os.listdir(f"/proc/{pid}/fd"))
                found += 1
        for name, text, value in (
            ("processes", "Processes of this instance: gunicorn's master and its workers.", found),
            ("resident_memory_bytes", "Memory of all of them.", resident),
            ("open_fds", "File descriptors that they have open.", descriptors),
        ):
            yield GaugeMetricFamily(f"push_registry_{name}", text, value=value)
