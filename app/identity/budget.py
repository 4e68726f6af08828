"""How often Rocket.Chat is asked about credentials that it never confirmed.

Its rate limiter counts all questions of the registry as one address. Credentials that were made up
must not use it up: a denial costs one of few tokens, which come back slowly, and a confirmation
costs none. Who finds none waits for one, a newcomer before a source that was denied lately.
"""

import fcntl
import ipaddress
import os
import struct
import threading
import time
from collections import OrderedDict
from pathlib import Path

BURST = 0.3  # of a minute's questions: denials that may come at once
REFILL = 0.66  # of a minute's questions: denials that come back in a minute
PLACES = {False: 5, True: 1}  # so many requests of a process wait, newcomers and suspects
SUSPECT = 2  # denials of a source within a minute
MAX_SOURCES = 10_000  # whose denials are remembered; 1 MiB
POLL = 0.1  # seconds

_STATE = struct.Struct("dd")  # tokens, and the moment (of the monotonic clock) they were counted


class Budget:
    """The tokens, which the processes that share `folder` share (None: this one alone)."""

    def __init__(self, per_minute: int, folder: str | None):
        """Take the questions a minute that Rocket.Chat's limiter allows."""
        self._capacity = max(1.0, per_minute * BURST)
        self._per_second = per_minute * REFILL / 60
        self._mutex = threading.Lock()
        self._waiting = {False: 0, True: 0}
        self._denials: OrderedDict[str, list[float]] = OrderedDict()
        self._file = _shared(folder)
        self._tokens, self._counted_at = self._capacity, time.monotonic()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def take(self, source: str, seconds: float) -> bool:
        """Take a token for a question of this source, within `seconds`; False when there is none.

        Give it back unless the question is denied.
        """
        suspect = self._is_suspect(source)
        if not (suspect and self._waiting[False]) and self._add(-1):
            return True
        with self._mutex:
            if self._waiting[suspect] >= PLACES[suspect]:
                return False
            self._waiting[suspect] += 1
        try:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                time.sleep(POLL)
                if not (suspect and self._waiting[False]) and self._add(-1):
                    return True
            return False
        finally:
            with self._mutex:
                self._waiting[suspect] -= 1

    def give_back(self) -> None:
        """Give a token back: the question was not denied, or not asked."""
        self._add(1)

    def denied(self, source: str) -> None:
        """Remember that a question of this source was denied."""
        now = time.monotonic()
        with self._mutex:
            recent = [moment for moment in self._denials.pop(source, ()) if moment > now - 60]
            self._denials[source] = [*recent[-SUSPECT:], now]
            if len(self._denials) > MAX_SOURCES:
                self._denials.popitem(last=False)

    def _is_suspect(self, source: str) -> bool:
        since = time.monotonic() - 60
        with self._mutex:
            moments = self._denials.get(source, ())
            return sum(moment > since for moment in moments) >= SUSPECT

    def _add(self, number: int) -> bool:
        """Add tokens, or take some away if they are there; tell whether it was done."""
        with self._mutex:
            self._read()
            now = time.monotonic()
            grown = self._tokens + max(0.0, now - self._counted_at) * self._per_second
            tokens = min(grown, self._capacity) + number
            is_possible = tokens >= 0
            if is_possible:
                self._tokens, self._counted_at = min(tokens, self._capacity), now
            self._write()
            return is_possible

    def _read(self) -> None:
        """Take over what the file says, and lock it until `_write`."""
        if self._file is None:
            return
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        if len(state := os.pread(self._file, _STATE.size, 0)) == _STATE.size:
            self._tokens, self._counted_at = _STATE.unpack(state)

    def _write(self) -> None:
        if self._file is not None:
            try:
                os.pwrite(self._file, _STATE.pack(self._tokens, self._counted_at), 0)
            except OSError:
                pass  # the folder is full: the last state that was written is good enough
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)


def source_of(address: str, user_id: str) -> str:
    """Name whom a question is from: its address, of IPv6 the network of 56 bits, else its user."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return user_id
    return str(ipaddress.ip_network((ip, 56), strict=False)) if ip.version == 6 else address


def _shared(folder: str | None) -> int | None:
    """Open the file in which processes share their tokens; None where there is none."""
    if folder is None:
        return None
    try:
        return os.open(Path(folder) / "unconfirmed", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
