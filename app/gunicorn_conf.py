"""How gunicorn serves: `gunicorn -c python:app.gunicorn_conf wsgi:app`."""

import gc
import subprocess
import sys
from typing import Any

from app import embedded
from app.config import ROOT, Settings

settings = Settings.from_env()

bind = f"127.0.0.1:{settings.port}"
workers = settings.web_concurrency
worker_class = "app.gunicorn_worker.JsonGeventWorker"
worker_connections = 1000
timeout = 30
graceful_timeout = 30
keepalive = 5
# A push token of 2,048 bytes in the query of a DELETE, percent-encoded, and its path.
limit_request_line = 8190
loglevel = settings.log_level
# Its default is one path for all instances of a user.
control_socket_disable = True


def on_starting(server: Any) -> None:
    """Try the settings once before any worker does, and start the embedded PostgreSQL.

    A worker that cannot start is started again for ever. The trial is another process because
    this one must not load psycopg (see app/__init__.py).
    """
    trial = "from app import create_app; create_app()"
    if code := subprocess.run([sys.executable, "-c", trial], cwd=ROOT, check=False).returncode:
        sys.exit(code)
    if not settings.database_url:
        embedded.server.acquire()


def on_exit(server: Any) -> None:
    """Stop the embedded PostgreSQL unless another command uses it."""
    embedded.server.release()


def post_worker_init(worker: Any) -> None:
    """Take what the worker has loaded out of the garbage collector's rounds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
