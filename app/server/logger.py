"""How the log is written when gunicorn serves: one JSON object a line, on stderr.

gunicorn's master loads this too, so it imports nothing else of ours: that would outlive a HUP.
"""

import logging
import logging.config
import re
from typing import Any

from gunicorn.glogging import Logger

from app.version import VERSION

_HIDDEN = "(not logged)"


class NoRequestText(logging.Filter):
    """Take the text of requests out of gunicorn's messages.

    A header that it cannot read may be a user's auth token, and a URI may hold a push token.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; keep it always."""
        message = str(record.msg)
        if message.startswith("Invalid request from ip="):
            record.msg = re.sub(r"(?s): .*", f": {_HIDDEN}", message)
        elif message.startswith("Error handling request"):
            record.args = tuple(_HIDDEN if "/" in str(one) else one for one in record.args or ())
        elif message == "%s %s":  # method and path, at level debug
            record.args = (_HIDDEN, "")
        return True


class WithRequestId(logging.Filter):
    """Name the request during which a line was written."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add `request_id` to the record where there is a request; keep it always."""
        from flask import has_request_context, request  # noqa: PLC0415 (see above)

        if has_request_context():
            record.request_id = request.environ.get("push_registry.request_id")
        return True


class GunicornLogger(Logger):  # type: ignore[misc]
    """gunicorn's log in the same form, without an access log: request_log.py writes it."""

    _has_begun = False

    def setup(self, cfg: Any) -> None:
        """Configure all logging of the process."""
        super().setup(cfg)
        logging.config.dictConfig(config(cfg.loglevel))
        if not self._has_begun:
            self._has_begun = True
            self.info("push-token-registry %s", VERSION)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Write nothing; a request line holds what is in the path."""


def config(level: str) -> dict[str, Any]:
    """Return the configuration of `logging` (the format of dictConfig)."""
    loud = {"level": level.upper(), "handlers": ["stderr"], "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": "pythonjsonlogger.orjson.OrjsonFormatter",
                "fmt": "%(levelname)s%(name)s%(message)s",
                "rename_fields": {"levelname": "level", "name": "logger"},
                "timestamp": "time",
            }
        },
        "filters": {
            "no_request_text": {"()": "app.server.logger.NoRequestText"},
            "with_request_id": {"()": "app.server.logger.WithRequestId"},
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "json",
                "filters": ["no_request_text", "with_request_id"],
            }
        },
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        # alembic names each of its plugins to every worker, uvicorn each step of its start.
        "loggers": {
            "gunicorn.error": loud,
            "alembic": {"level": "WARNING"},
            "uvicorn": {"level": "WARNING"},
        },
    }
