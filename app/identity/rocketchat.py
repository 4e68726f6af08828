"""Client that asks Rocket.Chat whether a user is signed in: `GET /api/v1/me` with the credentials.

An answer counts only if it has the form of Rocket.Chat's own: a 200 that names the same user, or
a 401 in its JSON. Any other answer neither confirms nor denies: a proxy's own 401 must not end
sessions. Redirects are not followed, so that the credentials reach no other host.
"""

import json
import logging
import queue
import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from urllib.parse import SplitResult, urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import BaseHTTPResponse

from app import metrics

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 20  # checks at the same time in one process
MAX_ANSWER = 256 * 1024  # bytes; a user of many settings has 10 KiB
COOLDOWN = 1.0  # seconds without a check after Rocket.Chat was away; then one request tries
DENIED_FOR = 5.0  # seconds for which a denial is remembered
MAX_DENIED = 10_000  # remembered denials; 1 MiB
# Statuses of a proxy or of a rate limiter: they say nothing of one caller.
AWAY = (429, 502, 503, 504)


class CheckResult(Enum):
    """What a check of credentials found."""

    CONFIRMED = "confirmed"
    DENIED = "denied"
    UNSURE = "unsure"  # it is away, or the answer is not of Rocket.Chat's form


class RocketChat:
    """What one process asks one Rocket.Chat, and what that said recently."""

    def __init__(self, url: str, timeout: float):
        """Take the URL, whose path is kept, and the seconds that a check may take as a whole."""
        parts = urlsplit(url)
        # Made once: it reads all authorities.
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._timeout = timeout
        self._connections: queue.LifoQueue[_Connection] = queue.LifoQueue()
        for _ in range(MAX_CONNECTIONS):
            self._connections.put(_Connection(parts, tls))
        self._mutex = threading.Lock()
        self._denied: OrderedDict[bytes, float] = OrderedDict()
        self._away_until: float | None = None
        self.problem: str | None = None  # why it was unsure last

    def ask(
        self,
        token_hash: bytes,
        auth_token: bytes,
        user_id: str,
        may_ask: Callable[[], bool] = lambda: True,
    ) -> CheckResult:
        """Check credentials, within the timeout; `token_hash` is only the key of a denial.

        Credentials that a header cannot carry are denied without a request, and so are those that
        were denied a moment ago. `may_ask` is called before a request, and may wait; where it
        says no, the result is unsure. Raises nothing.
        """
        secret, user = auth_token.decode("latin-1"), user_id.encode().decode("latin-1")
        if not (_is_header(secret) and _is_header(user)):
            return CheckResult.DENIED
        key = token_hash + user_id.encode()
        with self._mutex:
            if self._denied.get(key, 0) > time.monotonic():
                return CheckResult.DENIED
        if not may_ask():
            metrics.ROCKETCHAT_CHECKS.labels("refused").observe(0)
            return CheckResult.UNSURE
        began = time.monotonic()
        with self._mutex:
            if self._away_until is not None:
                if began < self._away_until:
                    return CheckResult.UNSURE
                self._away_until = began + self._timeout + COOLDOWN  # this request tries
        result, is_away = self._check(secret, user, user_id, began + self._timeout)
        with self._mutex:
            self._away_until = time.monotonic() + COOLDOWN if is_away else None
            if result is CheckResult.DENIED:
                self._remember(key)
        metrics.ROCKETCHAT_CHECKS.labels(result.value).observe(time.monotonic() - began)
        return result

    def _remember(self, key: bytes) -> None:
        """Remember a denial; beyond MAX_DENIED the oldest is forgotten."""
        self._denied[key] = time.monotonic() + DENIED_FOR
        self._denied.move_to_end(key)
        if len(self._denied) > MAX_DENIED:
            self._denied.popitem(last=False)

    def _check(
        self, secret: str, user: str, user_id: str, deadline: float
    ) -> tuple[CheckResult, bool]:
        """Check over a free connection; return the result, and whether Rocket.Chat is away."""
        try:
            connection = self._connections.get(timeout=self._timeout)
        except queue.Empty:
            log.warning("Rocket.Chat: all %d connections are in use", MAX_CONNECTIONS)
            return CheckResult.UNSURE, False
        try:
            status, body = connection.get({"X-Auth-Token": secret, "X-User-Id": user}, deadline)
        except Exception as error:  # of any kind: it confirms nothing
            # Its text is not repeated: http.client's may hold a header.
            self.problem = f"does not answer: {type(error).__name__}"
            log.warning("Rocket.Chat %s", self.problem)
            return CheckResult.UNSURE, True
        finally:
            self._connections.put(connection)
        result = _read(status, body, user_id)
        if result is CheckResult.UNSURE:
            self.problem = f"answers {status}, not as Rocket.Chat does"
            log.warning("Rocket.Chat %s", self.problem)
        return result, status in AWAY


class _Connection:
    """Asks Rocket.Chat, over a new connection each time.

    On a kept one an answer could come late, or twice, and would be believed for the next caller:
    HTTP does not say which question an answer is to.
    """

    def __init__(self, url: SplitResult, tls: ssl.SSLContext | None):
        host, port = url.hostname or "", url.port
        self._connection = (
            HTTPSConnection(host, port, ssl_context=tls) if tls else HTTPConnection(host, port)
        )
        self._path = f"{url.path.rstrip('/')}/api/v1/me"

    def get(self, headers: dict[str, str], deadline: float) -> tuple[int, bytes]:
        """Request `/api/v1/me`; return status and body, both read before the deadline.

        Raises TimeoutError after the deadline, ValueError for a body over MAX_ANSWER, and what
        urllib3 and http.client raise.
        """
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        headers |= {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        self._connection.timeout = left
        # A socket's timeout is of one read; the timer also ends an answer of a byte a second.
        clock = threading.Timer(left, self._cut)
        clock.daemon = True
        clock.start()
        response: BaseHTTPResponse | None = None
        try:
            self._connection.request("GET", self._path, headers=headers, preload_content=False)
            response = self._connection.getresponse()
            body = response.read(MAX_ANSWER + 1)
            if len(body) > MAX_ANSWER:
                raise ValueError("too large")
            if time.monotonic() >= deadline:
                raise TimeoutError
        finally:
            clock.cancel()
            if response is not None:
                response.close()
            self._connection.close()
        return response.status, body

    def _cut(self) -> None:
        """Shut the socket down, which ends a read that waits."""
        if sock := self._connection.sock:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _is_header(text: str) -> bool:
    """Tell whether the text, a character a byte, can be the value of a header as it is."""
    return text == text.strip() and all(c >= " " and c != "\x7f" for c in text)


def _read(status: int, body: bytes, user_id: str) -> CheckResult:
    """Return what an answer means; Rocket.Chat's versions have two forms of a 401's body."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return CheckResult.UNSURE
    if not isinstance(answer, dict):
        return CheckResult.UNSURE
    if status == 200 and answer.get("success") is True and answer.get("_id") == user_id:
        return CheckResult.CONFIRMED
    if status == 401 and (answer.get("status") == "error" or answer.get("success") is False):
        return CheckResult.DENIED
    return CheckResult.UNSURE
