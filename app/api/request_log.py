"""What is kept of a request: a line in the log, its place in the metrics, an id to ask for."""

import logging
import re
import secrets
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson
from flask import Flask, Response, g, request

from app import metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

STARTED, REQUEST_ID = "push_registry.started", "push_registry.request_id"
UNKNOWN = "unknown"  # the route of what is not there

_SAFE_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}\Z")
_log = logging.getLogger("app.requests")


def begin(environ: "WSGIEnvironment") -> str:
    """Start a request's clock; return its id: the caller's `X-Request-Id`, or a fresh one."""
    environ[STARTED] = time.perf_counter()
    request_id: str = environ.get("HTTP_X_REQUEST_ID", "")
    if not _SAFE_ID.match(request_id):
        request_id = secrets.token_hex(8)
    environ[REQUEST_ID] = request_id
    return request_id


def end(
    environ: "WSGIEnvironment",
    route: str,
    status: int,
    user_id: str | None,
    service: str | None = None,
) -> None:
    """Count an answered request, and write its line at level info.

    The line is written past `logging`, whose records cost more than all the rest of a
    registration's Python. It holds the route's pattern, as a path may hold a push token, and who
    was let in: a user, or the service by its key's name.
    """
    seconds = time.perf_counter() - environ[STARTED]
    method = environ["REQUEST_METHOD"] if route != UNKNOWN else UNKNOWN
    metrics.REQUESTS.labels(route, method, status).observe(seconds)
    if not _log.isEnabledFor(logging.INFO):
        return
    line = {
        "time": datetime.now(UTC),
        "level": "INFO",
        "logger": "app.requests",
        "message": "request",
        "request_id": environ[REQUEST_ID],
        "method": method,
        "route": route,
        "status": status,
        "milliseconds": round(seconds * 1000, 2),
        "user_id": user_id,
    }
    if service is not None:
        line["service"] = service
    sys.stderr.write(orjson.dumps(line, option=orjson.OPT_UTC_Z).decode() + "\n")


def _end(response: Response) -> Response:
    """End a request that Flask has answered."""
    environ = request.environ
    if STARTED in environ:  # not a context that a test made
        response.headers["X-Request-Id"] = environ[REQUEST_ID]
        route = request.url_rule.rule if request.url_rule else UNKNOWN
        proven = response.status_code != 401 and "credentials" in g
        user_id = g.credentials.user_id if proven else None
        end(environ, route, response.status_code, user_id, g.get("service"))
    return response


def init_app(app: Flask) -> None:
    """Have all that Flask answers observed."""
    app.after_request(_end)
