"""What is kept of each request: a line in the log, its place in the metrics, an id to ask for.

The same for all ways to be answered: by a view, by the fast path, or refused before either.
"""

import logging
import re
import secrets
import time
from datetime import UTC, datetime

import orjson
from flask import Flask, Response, request

from app import log, metrics
from app.limits import MAX_USER_ID, escape_invisible, is_text

UNKNOWN = "unknown"  # the route of what is not there
# That the log names where there is no route: a plain WSGI server takes any text for a method.
METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
# Of every answer: it may hold push tokens, and its type is what it says.
HEADERS = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))
CREDENTIALS = ("X-Auth-Token", "Authorization")
KEY = "push_registry.request"  # in the WSGI environment

_SAFE_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}\Z")
_TOKEN = re.compile(r"[A-Za-z0-9_+/=-]{40}")  # also within more: a key, or a hash
_log = logging.getLogger("app.requests")


class RequestRecord:
    """One request, from its head on; `route` is a pattern, as a path may hold a push token."""

    __slots__ = (
        "claim",
        "error_type",
        "method",
        "reason",
        "request_id",
        "route",
        "service",
        "started",
        "trace",
        "user_id",
    )

    def __init__(self, method: str, route: str = UNKNOWN, given_id: str = "", claim: str = ""):
        """Start the clock; `given_id` is the caller's `X-Request-Id`, kept if harmless.

        `claim` is the caller's `X-User-Id`, a character a byte.
        """
        self.started = time.perf_counter()
        self.method = method
        self.route = route
        self.request_id = given_id if _SAFE_ID.match(given_id) else secrets.token_hex(8)
        self.claim = claim
        self.user_id: str | None = None  # proven, not only claimed
        self.service: str | None = None  # the name of its key
        self.error_type: str | None = None
        self.reason: str | None = None
        self.trace: str | None = None

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the headers that every answer has."""
        return (*HEADERS, ("X-Request-Id", self.request_id))

    def end(self, status: int) -> None:
        """Count the request, and write its line.

        The line is written past `logging`, whose records cost more than all the rest of a
        registration's Python.
        """
        seconds = time.perf_counter() - self.started
        has_route = self.route != UNKNOWN
        label = self.method if has_route else UNKNOWN
        metrics.REQUESTS.labels(self.route, label, status).observe(seconds)
        level = _level(status)
        if not _log.isEnabledFor(level):
            return
        line = {
            "time": datetime.now(UTC),
            "level": logging.getLevelName(level),
            "logger": "app.requests",
            "message": "request",
            "request_id": self.request_id,
            "method": self.method if has_route or self.method in METHODS else UNKNOWN,
            "route": self.route,
            "status": status,
            "milliseconds": round(seconds * 1000, 2),
            "user_id": self.user_id,
        }
        if status >= 400 or self.service is not None:
            line |= self._more()
        data = orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
        if not (self.user_id or "").isprintable() or status >= 400 or self.service is not None:
            data = escape_invisible(data[:-1].decode()).encode() + b"\n"
        log.stderr.write(data)

    def _more(self) -> dict[str, str]:
        """Return what only some lines have."""
        claimed = None if self.user_id is not None else _claimed(self.claim)
        more = {
            "claimed_user_id": claimed,
            "service": self.service,
            "error_type": self.error_type,
            "reason": self.reason,
            "trace": self.trace,
        }
        return {name: value for name, value in more.items() if value is not None}


def _level(status: int) -> int:
    """Return the level of a line: warning for what was refused, error for our own mistakes."""
    if status < 400:
        return logging.INFO
    return logging.WARNING if status < 500 or status == 503 else logging.ERROR


def _claimed(claim: str) -> str | None:
    """Return the user that a caller claims to be; None where that is no user id.

    An auth token that was sent as a user id by mistake is not repeated.
    """
    try:
        user_id = claim.encode("latin-1").decode()
    except UnicodeError:
        return None
    if not is_text(user_id, MAX_USER_ID):
        return None
    return "(not logged: it looks like an auth token)" if _TOKEN.search(user_id) else user_id


def without_secret(given_id: str, *credentials: str) -> str:
    """Return an `X-Request-Id`, or nothing where it is one of the request's own credentials."""
    return "" if given_id and given_id in " ".join(credentials).split() else given_id


def _begin() -> None:
    """Take the server's record of the request, or make one under a plain WSGI server."""
    if KEY not in request.environ:
        credentials = (request.headers.get(name, "") for name in CREDENTIALS)
        given_id = without_secret(request.headers.get("X-Request-Id", ""), *credentials)
        claim = request.headers.get("X-User-Id", "")
        request.environ[KEY] = RequestRecord(request.method, given_id=given_id, claim=claim)


def name_route(route: str) -> None:
    """Have the request be known by a route, where it is answered without a rule of Flask's."""
    request.environ[KEY].route = route


def _end(response: Response) -> Response:
    """End a request that Flask has answered."""
    record: RequestRecord | None = request.environ.get(KEY)
    if record is not None:  # there is none in a context that a test made
        for name, value in record.headers():
            response.headers[name] = value
        if request.url_rule:
            record.route = request.url_rule.rule
        record.end(response.status_code)
    return response


def init_app(app: Flask) -> None:
    """Have all that Flask answers recorded."""
    app.before_request(_begin)
    app.after_request(_end)
