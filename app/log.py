"""The log on stderr: lines that never stop who writes them.

A log may be full, its reader may have ended, or may read no more. So nobody waits for it: what
cannot be written at once waits in a bounded queue for a thread, and what does not fit there, or
fails, is dropped and counted. Regular files are written at once, as nothing tells beforehand
whether a disk answers.
"""

import atexit
import os
import select
import socket
import stat
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime

import orjson

STDERR = 2
MAX_WAITING = 1024 * 1024  # bytes of lines that a process keeps for a reader who does not read
STALLED = 2.0  # seconds after which that is worth a warning
LAST_SECONDS = 0.2  # for which a process that ends waits for its last lines
STOPPED = "its reader does not read"


def trace(error: BaseException | None) -> str:
    """Return the trace of an exception without its text, which may repeat what a client sent."""
    seen: set[int] = set()
    parts: list[str] = []
    while error and id(error) not in seen:
        seen.add(id(error))
        parts += f"{type(error).__name__}\n", *traceback.format_tb(error.__traceback__)
        error = error.__cause__ or error.__context__
    return "".join(parts)


class _Note(bytes):
    """A line of the sink's own, which is not counted."""


class Sink:
    """The lines of this process for one descriptor."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._send: Callable[[bytes], int] | None = None  # at once, or BlockingIOError
        self._begin()
        os.register_at_fork(
            before=self._hold, after_in_parent=self._let_go, after_in_child=self._begin
        )

    def _begin(self) -> None:
        """Begin in a process, which may be a fork: what waits is its parent's to write."""
        self._mutex = threading.RLock()
        self._news = threading.Condition(self._mutex)
        self._waiting: deque[bytes] = deque()
        self._size = 0  # bytes that wait
        self._since = 0.0  # when the first of them began to
        self._is_cut = False  # the last line was written in part
        self._thread: threading.Thread | None = None
        self._problem: str | None = None
        self._fails = False  # the last line could not be written
        self.lost = 0  # lines, in this process
        self.on_loss: Callable[[int], object] = lambda number: None

    def _hold(self) -> None:
        self._mutex.acquire()

    def _let_go(self) -> None:
        self._mutex.release()

    def write(self, line: bytes) -> None:
        """Write a line that ends with a newline, or keep it for later, or drop and count it."""
        with self._mutex:
            if self._waiting:
                self._keep(line)
            elif self._put(line) and self._problem:
                self._recover()

    def problem(self) -> str | None:
        """Return why lines are lost or wait; try before whether that is over."""
        with self._mutex:
            if self._waiting:
                is_long = time.monotonic() - self._since > STALLED
                return self._problem or (STOPPED if is_long else None)
            if self._problem:
                self._recover()
            return self._problem

    def flush(self, seconds: float) -> None:
        """Wait for the lines that wait, so long at most."""
        deadline = time.monotonic() + seconds
        while self._waiting and time.monotonic() < deadline:
            time.sleep(0.01)

    def _put(self, line: bytes) -> bool:
        """Write a line at once if that can be; tell whether it was written."""
        if self._send is None:
            self._send = _sender(self._descriptor)
        if self._send is None:
            self._keep(line)
            return False
        try:
            whole = b"\n" + line if self._is_cut or self._may_follow_a_cut_line() else line
            written = self._send(whole)
        except BlockingIOError:
            self._keep(line)
            return False
        except OSError as error:
            self._lose([line], error.strerror or type(error).__name__)
            return False
        self._is_cut = self._fails = False
        if written < len(whole):
            self._is_cut = True
            self._keep(whole[written:])
            return False
        return True

    def _may_follow_a_cut_line(self) -> bool:
        """Tell whether a file's last line may be half of another process's: the disk was full."""
        return self._fails and stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def _keep(self, line: bytes) -> None:
        if self._size + len(line) > MAX_WAITING:
            self._lose([line], self._problem or STOPPED)
            return
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(line)
        self._size += len(line)
        self._news.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._drain, name="log", daemon=True)
            self._thread.start()

    def _lose(self, lines: Iterable[bytes], why: str) -> None:
        number = sum(not isinstance(line, _Note) for line in lines)
        self.lost += number
        self.on_loss(number)
        self._problem = why
        self._fails = True

    def _recover(self) -> None:
        """Say what was lost, and that it is over; if that can be written."""
        text = f"lines of the log that this process lost: {self.lost}; the reason: {self._problem}"
        note = {
            "time": datetime.now(UTC),
            "level": "WARNING",
            "logger": __name__,
            "message": text,
        }
        line = orjson.dumps(note, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
        if self._put(_Note(line)):
            self._problem = None

    def _drain(self) -> None:
        """Write what waits, in a thread, until nothing does."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        while True:
            with self._mutex:
                if not self._waiting and not self._wait_for_more():
                    return
                line, send = self._waiting[0], self._send
            try:
                if send is None:
                    written = os.write(self._descriptor, line)
                else:
                    poll.poll(1000)
                    written = send(line)
            except BlockingIOError:
                time.sleep(0.01)  # another process was faster
                continue
            except OSError as error:
                self._drop(error)
                continue
            self._took(line, written)

    def _wait_for_more(self) -> bool:
        """Tell whether there is more to write; where only this thread may, wait for it a while."""
        if self._problem and not self._fails:
            self._recover()
        if not self._waiting and self._send is None:
            self._news.wait(1.0)
        if not self._waiting:
            self._thread = None
        return bool(self._waiting)

    def _took(self, line: bytes, written: int) -> None:
        with self._mutex:
            self._size -= written
            self._is_cut, self._fails = written < len(line), False
            if self._is_cut:
                self._waiting[0] = line[written:]
            else:
                self._waiting.popleft()
                self._problem = None if isinstance(line, _Note) else self._problem
                self._since = time.monotonic()

    def _drop(self, error: OSError) -> None:
        """Drop all that waits: the log is full or dead."""
        with self._mutex:
            self._lose(self._waiting, error.strerror or type(error).__name__)
            self._waiting.clear()
            self._size = 0


def _sender(descriptor: int) -> Callable[[bytes], int] | None:
    """Return a function that writes without waiting; None where only a thread may write.

    The descriptor itself stays as it is: other processes share it, a shell for one.
    """
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            connection = socket.socket(fileno=os.dup(descriptor))
            return lambda data: connection.send(data, socket.MSG_DONTWAIT)
        if stat.S_ISFIFO(mode) or os.isatty(descriptor):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:  # nobody reads, or it is another user's
        return None
    return lambda data: os.write(descriptor, data)


stderr = Sink(STDERR)


@atexit.register
def _end() -> None:
    with suppress(RuntimeError):
        stderr.flush(LAST_SECONDS)
