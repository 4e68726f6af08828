"""Files in which workers share their counts; without room for them, a worker counts by itself.

prometheus_client maps sparse files: a write to a page for which the disk has no block ends the
process with SIGBUS. Here a file has all its blocks before it is mapped. Where there are none, the
counts stay in memory, and go into the file once it has room. A file that somebody removed is made
again with what it had.
"""

import mmap
import os
import time
from contextlib import suppress
from typing import Any

from prometheus_client import mmap_dict, values

LOOK = 1.0  # seconds between two looks at whether the files are there, or can be now

_files: "dict[str, RoomyDict]" = {}  # that are open, by name
_problems: dict[str, str] = {}  # of those without room
_next_look = 0.0


def problem() -> str | None:
    """Return why this process counts by itself; None where it shares its counts."""
    return next(iter(_problems.values()), None)


class RoomyDict(mmap_dict.MmapedDict):
    """prometheus_client's file of one kind of metric of a process.

    Not thread safe; the caller holds prometheus_client's lock, one for all files.
    """

    _f: Any = None  # without a file

    def __init__(self, filename: str):
        self._name = filename
        self._positions: dict[str, int] = {}
        self._alone: dict[str, tuple[float, float]] = {}  # values that have no place in the file
        _files[filename] = self
        self.share()

    def read_value(self, key: str) -> tuple[float, float]:
        """Return value and time of a key, which begins at 0."""
        if key not in self._positions:
            self.write_value(key, 0.0, 0.0)
        if key in self._alone:
            return self._alone[key]
        value: tuple[float, float] = super().read_value(key)  # type: ignore[no-untyped-call]  # theirs has no types
        return value

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Keep a value, in the file if that has room."""
        if key not in self._positions:
            self._alone[key] = value, timestamp
            if not _problems:
                self.share()
        else:
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]  # theirs has no types
        if time.monotonic() >= _next_look:
            for file in _files.values():
                file.share()

    def share(self) -> None:
        """Move what has no place in the file there, or note why that cannot be."""
        global _next_look  # noqa: PLW0603 (one for all files)
        _next_look = time.monotonic() + LOOK
        try:
            self._leave_if_removed()
            if self._f is None:
                self._open()
            for key, (value, timestamp) in [*self._alone.items()]:
                self._init_value(key)
                super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]  # theirs has no types
                del self._alone[key]
        except OSError as error:
            _problems[self._name] = error.strerror or type(error).__name__
        else:
            _problems.pop(self._name, None)

    def _leave_if_removed(self) -> None:
        """Keep all values in memory where the file lost its name: something tidied up there."""
        with suppress(FileNotFoundError):
            if self._f is None or os.path.samestat(
                os.stat(self._name), os.fstat(self._f.fileno())
            ):
                return
        kept = {key: self.read_value(key) for key in self._positions}
        super().close()  # type: ignore[no-untyped-call]  # theirs has no types
        self._positions, self._alone = {}, kept | self._alone

    def close(self) -> None:
        """Close the file."""
        _files.pop(self._name, None)
        _problems.pop(self._name, None)
        super().close()  # type: ignore[no-untyped-call]  # theirs has no types

    def _open(self) -> None:
        """Make the file with its blocks, under another name until it has them. Raises OSError."""
        with suppress(FileExistsError):
            os.mkdir(os.path.dirname(self._name), 0o700)
        new = f"{self._name}.new"
        with suppress(FileNotFoundError):  # of an earlier process of this number
            os.rename(self._name, new)
        try:
            with open(new, "ab") as file:
                size = max(file.tell(), mmap_dict._INITIAL_MMAP_SIZE)
                os.posix_fallocate(file.fileno(), 0, size)
            os.rename(new, self._name)
        except OSError:
            with suppress(OSError):
                os.unlink(new)
            raise
        super().__init__(self._name)  # type: ignore[no-untyped-call]  # theirs has no types

    def _init_value(self, key: str) -> None:
        """Add a key to the file, which grows before that if it must. Raises OSError."""
        size = len(key.encode()) + 32  # with its length, padding, value and time
        while self._used + size > self._capacity:
            os.posix_fallocate(self._f.fileno(), 0, 2 * self._capacity)
            self._capacity *= 2
            self._m = mmap.mmap(self._f.fileno(), self._capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]  # theirs has no types


def use() -> None:
    """Have prometheus_client share its counts in such files; before any metric is made."""
    values.MmapedDict = RoomyDict  # type: ignore[attr-defined, assignment]  # ours in its place
