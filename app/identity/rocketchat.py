"""Asks Rocket.Chat whether somebody is signed in there: `GET /api/v1/me` with their credentials.

What it answers is believed only where it reads like Rocket.Chat: a 200 that names the same user,
or a 401 in its JSON. All else confirms nothing and denies nothing: a proxy's own 401 must not end
everybody's session. Redirects are not followed, as credentials must not travel.
"""

import json
import logging
import queue
import socket
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from enum import Enum
from http.client import RemoteDisconnected
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import BaseHTTPResponse

from app import metrics

log = logging.getLogger(__name__)

LINES = 20  # checks at one moment in a process; as many connections are kept open
MAX_BODY = 256 * 1024  # bytes; a user of many settings has 10 KiB
REST = 1.0  # seconds in which nobody asks after Rocket.Chat was away; then one tries
DENIED_FOR = 5.0  # seconds in which the same wrong credentials are not asked about again
MAX_DENIED = 10_000  # wrong credentials that are remembered; 1 MiB
# Somebody before Rocket.Chat, or its limiter, says that it cannot now: true of everybody.
AWAY = (429, 502, 503, 504)


class Verdict(Enum):
    """What Rocket.Chat says of credentials."""

    CONFIRMED = "confirmed"
    DENIED = "denied"
    UNSURE = "unsure"  # it is away, or does not answer as Rocket.Chat does


class RocketChat:
    """The way to one Rocket.Chat, for all of a process."""

    def __init__(self, url: str, timeout: float):
        """Take the URL, whose path is kept, and the seconds that a check may take as a whole."""
        parts = urlsplit(url)
        self._timeout = timeout
        self._lines: queue.LifoQueue[_Line] = queue.LifoQueue()
        for _ in range(LINES):
            self._lines.put(_Line(parts.scheme, parts.hostname or "", parts.port, parts.path))
        self._mutex = threading.Lock()
        self._denied: OrderedDict[bytes, float] = OrderedDict()
        self._away_until: float | None = None
        self.problem: str | None = None  # why it was unsure last

    def ask(self, token_hash: bytes, auth_token: bytes, user_id: str) -> Verdict:
        """Return what Rocket.Chat says, within the timeout; `token_hash` only serves to remember.

        Credentials that no header can carry are denied unasked. Raises nothing.
        """
        began = time.monotonic()
        secret, user = auth_token.decode("latin-1"), user_id.encode().decode("latin-1")
        if not (_is_header(secret) and _is_header(user)):
            return Verdict.DENIED
        key = token_hash + user_id.encode()
        with self._mutex:
            if self._denied.get(key, 0) > began:
                return Verdict.DENIED
            if self._away_until is not None:
                if began < self._away_until:
                    return Verdict.UNSURE
                self._away_until = began + self._timeout + REST  # this one tries
        verdict, is_away = self._check(secret, user, user_id, began + self._timeout)
        with self._mutex:
            self._away_until = time.monotonic() + REST if is_away else None
            if verdict is Verdict.DENIED:
                self._remember(key)
        metrics.ROCKETCHAT_CHECKS.labels(verdict.value).observe(time.monotonic() - began)
        return verdict

    def close(self) -> None:
        """Close the connections that nobody uses; the next check opens another."""
        for line in list(self._lines.queue):
            line.close()

    def _remember(self, key: bytes) -> None:
        """Keep that credentials were denied; the oldest go first."""
        self._denied[key] = time.monotonic() + DENIED_FOR
        self._denied.move_to_end(key)
        if len(self._denied) > MAX_DENIED:
            self._denied.popitem(last=False)

    def _check(
        self, secret: str, user: str, user_id: str, deadline: float
    ) -> tuple[Verdict, bool]:
        """Ask over a free line; return the verdict, and whether Rocket.Chat is away."""
        try:
            line = self._lines.get(timeout=self._timeout)
        except queue.Empty:
            log.warning("Rocket.Chat: all %d lines are taken", LINES)
            return Verdict.UNSURE, False
        try:
            status, body = line.get({"X-Auth-Token": secret, "X-User-Id": user}, deadline)
        except Exception as error:  # whatever it was, nobody was confirmed
            # Its text is not repeated: http.client's may hold a header.
            self.problem = f"does not answer: {type(error).__name__}"
            log.warning("Rocket.Chat %s", self.problem)
            return Verdict.UNSURE, True
        finally:
            self._lines.put(line)
        verdict = _read(status, body, user_id)
        if verdict is Verdict.UNSURE:
            self.problem = f"answers {status}, not as Rocket.Chat does"
            log.warning("Rocket.Chat %s", self.problem)
        return verdict, status in AWAY


class _Line:
    """A connection to Rocket.Chat, opened where there is none."""

    def __init__(self, scheme: str, host: str, port: int | None, path: str):
        kind = HTTPSConnection if scheme == "https" else HTTPConnection
        self._connection = kind(host, port)
        self._path = f"{path.rstrip('/')}/api/v1/me"

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        self._connection.close()

    def get(self, headers: dict[str, str], deadline: float) -> tuple[int, bytes]:
        """Return status and body, both read before the deadline.

        A connection that was kept may have been closed meanwhile; then another one is opened.
        """
        headers |= {"Accept": "application/json", "Accept-Encoding": "identity"}
        was_kept = self._connection.is_connected
        try:
            return self._get(headers, deadline)
        except (RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            if not was_kept:
                raise
            return self._get(headers, deadline)

    def _get(self, headers: dict[str, str], deadline: float) -> tuple[int, bytes]:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if not self._connection.is_connected:
            self._connection.close()
        self._connection.timeout = left
        if self._connection.sock:
            self._connection.sock.settimeout(left)
        # A socket's timeout is for one wait; who sends a byte a second is cut off by the clock.
        clock = threading.Timer(left, self._cut)
        clock.daemon = True
        clock.start()
        try:
            self._connection.request("GET", self._path, headers=headers, preload_content=False)
            response: BaseHTTPResponse = self._connection.getresponse()
            body = response.read(MAX_BODY + 1)
            if len(body) > MAX_BODY:
                raise ValueError("too large")
            if time.monotonic() >= deadline:
                raise TimeoutError
            if response.headers.get("Connection", "").lower() == "close":
                self._connection.close()
        except BaseException:
            self._connection.close()  # nobody knows what it is about to say
            raise
        finally:
            clock.cancel()
        return response.status, body

    def _cut(self) -> None:
        """End whatever waits for the other side."""
        if sock := self._connection.sock:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _is_header(text: str) -> bool:
    """Tell whether the text, a character a byte, can be the value of a header as it is."""
    return text == text.strip() and all(c >= " " and c != "\x7f" for c in text)


def _read(status: int, body: bytes, user_id: str) -> Verdict:
    """Say what an answer means; the bodies of a 401 are those of several eras."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return Verdict.UNSURE
    if not isinstance(said, dict):
        return Verdict.UNSURE
    if status == 200 and said.get("success") is True and said.get("_id") == user_id:
        return Verdict.CONFIRMED
    if status == 401 and (said.get("status") == "error" or said.get("success") is False):
        return Verdict.DENIED
    return Verdict.UNSURE
