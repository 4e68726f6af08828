"""How the log is written when gunicorn serves: one JSON object a line, on stderr.

gunicorn's master loads this, and what it imports, once. A worker configures its log anew, so that
HUP brings new code of it too.
"""

import io
import logging
import logging.config
import sys
from typing import Any

import orjson
from gunicorn.glogging import Logger
from pythonjsonlogger.orjson import OrjsonFormatter

from app import log
from app.limits import escape_invisible
from app.version import VERSION

OURS = ("app", "gunicorn.error")  # whose lines are wanted at LOG_LEVEL; of others only warnings


class Formatter(OrjsonFormatter):
    """A line of JSON, without what came over the wire and without what a terminal obeys."""

    def __init__(self) -> None:
        super().__init__(
            "%(levelname)s%(name)s%(message)s",
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp="time",
        )

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line."""
        if record.name == "asyncio":  # which repeats the arguments of a function that failed
            record.msg, record.args = "an error in the event loop", ()
        if record.exc_info and record.name != "gunicorn.error":  # which does not see requests
            record.exc_text = log.trace(record.exc_info[1])
            record.exc_info = None
        return escape_invisible(super().format(record))


class Handler(logging.Handler):
    """Hands lines to the sink, which waits for nobody."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            log.stderr.write(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except Exception:  # a line that cannot be made fails no request
            log.stderr.write(b'{"level":"ERROR","message":"a line could not be formatted"}\n')


class Stderr(io.TextIOBase):
    """`sys.stderr` of a server: what Python prints there becomes lines of the log."""

    def __init__(self) -> None:
        self._rest = ""

    def fileno(self) -> int:
        """Return the descriptor, for what writes past Python."""
        return log.STDERR

    def writable(self) -> bool:
        """Tell that it may be written to."""
        return True

    def write(self, text: str) -> int:
        """Take text; write the lines that are complete."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(None, lines):
            data = orjson.dumps({"level": "WARNING", "logger": "stderr", "message": _clean(line)})
            log.stderr.write(escape_invisible(data.decode()).encode() + b"\n")
        return len(text)


def _clean(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


class WithRequestId(logging.Filter):
    """Name the request during which a line was written."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add `request_id` to the record where there is a request; keep it always."""
        from flask import has_request_context, request  # noqa: PLC0415 (the master needs none)

        if has_request_context() and (known := request.environ.get("push_registry.request")):
            record.request_id = known.request_id
        return True


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log in the same form, without an access log: request_log.py writes it."""

    _has_begun = False

    def setup(self, cfg: Any) -> None:
        """Configure all logging of the process."""
        super().setup(cfg)
        configure(cfg.loglevel)
        if not self._has_begun:
            self._has_begun = True
            self.info("push-token-registry %s", VERSION)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Write nothing; a request line holds what is in the path."""


def configure(level: str) -> None:
    """Have all that this process says go to the log; libraries say warnings only."""
    quiet = {"level": max(level.upper(), "WARNING", key=logging.getLevelName), "handlers": ["log"]}
    loud = {"level": level.upper(), "handlers": ["log"], "propagate": False}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": Formatter}},
            "filters": {"with_request_id": {"()": WithRequestId}},
            "handlers": {
                "log": {"()": Handler, "formatter": "json", "filters": ["with_request_id"]}
            },
            "root": quiet,
            "loggers": dict.fromkeys(OURS, loud),
        }
    )
    sys.stderr = Stderr()
