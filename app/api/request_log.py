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

UNKNOWN = "unknown"  # the route of what is not there
# Of every answer: it may hold push tokens, and its type is what it says.
HEADERS = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))
KEY = "push_registry.request"  # in the WSGI environment

_SAFE_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}\Z")
_log = logging.getLogger("app.requests")


class RequestRecord:
    """One request, from its head on; `route` is a pattern, as a path may hold a push token."""

    __slots__ = ("method", "request_id", "route", "service", "started", "user_id")

    def __init__(self, method: str, route: str = UNKNOWN, given_id: str = ""):
        """Start the clock; `given_id` is the caller's `X-Request-Id`, kept if harmless."""
        self.started = time.perf_counter()
        self.method = method
        self.route = route
        self.request_id = given_id if _SAFE_ID.match(given_id) else secrets.token_hex(8)
        self.user_id: str | None = None  # proven, not only claimed
        self.service: str | None = None  # the name of its key

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the headers that every answer has."""
        return (*HEADERS, ("X-Request-Id", self.request_id))

    def end(self, status: int) -> None:
        """Count the request, and write its line at level info.

        The line is written past `logging`, whose records cost more than all the rest of a
        registration's Python.
        """
        seconds = time.perf_counter() - self.started
        method = self.method if self.route != UNKNOWN else UNKNOWN
        metrics.REQUESTS.labels(self.route, method, status).observe(seconds)
        if not _log.isEnabledFor(logging.INFO):
            return
        line = {
            "time": datetime.now(UTC),
            "level": "INFO",
            "logger": "app.requests",
            "message": "request",
            "request_id": self.request_id,
            "method": method,
            "route": self.route,
            "status": status,
            "milliseconds": round(seconds * 1000, 2),
            "user_id": self.user_id,
        }
        if self.service is not None:
            line["service"] = self.service
        log.stderr.write(orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE))


def _begin() -> None:
    """Take the server's record of the request, or make one under a plain WSGI server."""
    if KEY not in request.environ:
        given_id = request.headers.get("X-Request-Id", "")
        request.environ[KEY] = RequestRecord(request.method, given_id=given_id)


def _end(response: Response) -> Response:
    """End a request that Flask has answered."""
    record: RequestRecord | None = request.environ.get(KEY)
    if record is not None:  # there is none in a context that a test made
        for name, value in record.headers():
            response.headers[name] = value
        record.route = request.url_rule.rule if request.url_rule else UNKNOWN
        record.end(response.status_code)
    return response


def init_app(app: Flask) -> None:
    """Have all that Flask answers recorded."""
    app.before_request(_begin)
    app.after_request(_end)
