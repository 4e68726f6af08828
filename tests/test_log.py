"""The log's sink: nobody waits for it, what it loses is counted, and it recovers."""

import json
import os
import resource
import socket
import threading
import time
from contextlib import suppress

import pytest

from app import log
from app.log import Sink

LINES = 20_000
LINE = b"%0200d\n"


@pytest.fixture
def pipe():
    """Both ends of a pipe; a test may close either."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


class Reader:
    """Reads a pipe or socket to its end, in a thread, by a descriptor that nobody else closes."""

    def __init__(self, descriptor: int):
        self.got = b""
        self._descriptor = os.dup(descriptor)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while part := os.read(self._descriptor, 65536):
            self.got += part
        os.close(self._descriptor)

    def wait_for(self, end: bytes) -> list[bytes]:
        """Return the lines when the last one is `end`."""
        until(lambda: self.got.endswith(end + b"\n"))
        return self.got.splitlines()


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_reader_that_does_not_read_holds_nobody_up(pipe):
    there, here = pipe
    sink, lost = Sink(here), []
    sink.on_loss = lost.append
    for number in range(LINES):
        sink.write(LINE % number)
    assert 0 < sink.lost < LINES
    assert sink.lost == sum(lost)
    assert sink._size <= log.MAX_WAITING
    assert sink.problem() == log.STOPPED
    reader = Reader(there)
    until(lambda: sink.problem() is None)
    sink.write(b"after\n")
    lines = reader.wait_for(b"after")
    numbers = [int(line) for line in lines if line.isdigit()]
    assert numbers == list(range(LINES - sink.lost))  # whole lines, the earliest, in order
    assert json.loads(lines[-2])["message"].startswith(
        f"lines of the log that this process lost: {sink.lost}; "
    )
    os.close(here)


def test_a_reader_that_pauses_misses_nothing(pipe):
    there, here = pipe
    sink = Sink(here)
    for number in range(1000):
        sink.write(LINE % number)
    reader = Reader(there)
    for number in range(1000, 2000):
        sink.write(LINE % number)
    lines = reader.wait_for((LINE % 1999).strip())
    assert [int(line) for line in lines] == list(range(2000))
    assert (sink.lost, sink.problem()) == (0, None)
    os.close(here)


def test_what_waits_long_is_a_problem_before_anything_is_lost(pipe, monkeypatch):
    sink = Sink(pipe[1])
    for number in range(1000):
        sink.write(LINE % number)
    assert sink.problem() is None
    monkeypatch.setattr(log, "STALLED", 0)
    assert sink.problem() == log.STOPPED
    assert sink.lost == 0


def test_a_full_disk_loses_lines_and_says_so_once_it_is_over():
    full = os.open("/dev/full", os.O_WRONLY)
    sink = Sink(full)
    for _ in range(3):
        sink.write(b"x\n")
    assert sink.problem() == "No space left on device"
    assert sink.lost == 3
    there, here = os.pipe()
    os.dup2(here, full)
    assert sink.problem() is None
    sink.write(b"y\n")
    note, line = os.read(there, 4096).splitlines()
    assert "process lost: 3; the reason: No space left on device" in json.loads(note)["message"]
    assert line == b"y"
    for descriptor in (full, there, here):
        os.close(descriptor)


def test_no_line_is_glued_to_half_a_line_of_another_process(tmp_path):
    path = tmp_path / "log"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    descriptors = [os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) for _ in range(2)]
    one, other = map(Sink, descriptors)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))  # a full disk
    try:
        one.write(b"the first\n")
        while not one.lost:  # a thread tries to write the rest
            time.sleep(0.01)
        other.write(b"lost\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert other.problem() is None
    other.write(b"more\n")
    half, note, line = path.read_bytes().splitlines()
    assert (half, json.loads(note)["level"], line) == (b"the firs", "WARNING", b"more")
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_named_pipe_is_written_again_when_somebody_reads_again(tmp_path):
    path = tmp_path / "log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)
    sink = Sink(writer)
    sink.write(b"one\n")
    assert os.read(reader, 4096) == b"one\n"
    os.close(reader)
    sink.write(b"two\n")
    assert (sink.problem(), sink.lost) == ("Broken pipe", 1)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink.write(b"three\n")
    assert os.read(reader, 4096).startswith(b"three\n")
    assert sink.problem() is None
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_who_was_dead_from_the_beginning_costs_one_thread(pipe):
    there, here = pipe
    os.close(there)
    sink, before = Sink(here), threading.active_count()
    for _ in range(100):
        sink.write(b"x\n")
    until(lambda: sink.lost == 100)
    assert sink.problem() == "Broken pipe"
    assert threading.active_count() <= before + 1
    until(lambda: not sink._waiting)
    assert sink.lost == 100  # the sink's own notes are not counted


def test_a_socket_that_is_full_holds_nobody_up():
    """As journald's."""
    here, there = socket.socketpair()
    with here, there:
        sink = Sink(here.fileno())
        for number in range(LINES):
            sink.write(LINE % number)
        assert sink.lost > 0
        reader = Reader(there.fileno())
        until(lambda: sink.problem() is None)
        assert reader.got.startswith(LINE % 0 + LINE % 1)
        sink._send.__closure__[0].cell_contents.close()
        here.close()


def test_a_fork_does_not_write_what_its_parent_keeps(pipe):
    there, here = pipe
    sink = Sink(here)
    for number in range(1000):
        sink.write(LINE % number)
    child = os.fork()
    if child == 0:
        sink.write(LINE % 5000)
        os._exit(len(sink._waiting))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    reader = Reader(there)
    assert len(reader.wait_for((LINE % 999).strip())) == 1000
    os.close(here)
