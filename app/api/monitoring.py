"""What operators and load balancers ask."""

from flask import Blueprint, Response, jsonify
from flask.typing import ResponseReturnValue
from psycopg.errors import UndefinedTable
from sqlalchemy import column, select, table
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app import metrics, services
from app.api.errors import RETRY_AFTER
from app.database.revision import code_revision
from app.models import db

bp = Blueprint("monitoring", __name__)

ALIVE = {"status": "ok"}  # what a living process answers

ALEMBIC_VERSION = table("alembic_version", column("version_num"))


@bp.get("/healthz")
def healthz() -> ResponseReturnValue:
    """Tell that the process lives. It touches nothing: a restart mends no database."""
    return ALIVE


@bp.get("/readyz")
def readyz() -> ResponseReturnValue:
    """Tell whether requests can be served: the database answers and is at the code's revision."""
    try:
        found = services.current().retrying(
            lambda: db.session.scalar(select(ALEMBIC_VERSION.c.version_num))
        )
    except ProgrammingError as error:
        if not isinstance(error.orig, UndefinedTable):
            return _not_ready("the database does not let us read alembic_version")
        found = None
    except (DBAPIError, PoolTimeout):
        return _not_ready("the database does not answer")
    if found != code_revision():
        return _not_ready(f"the database is at revision {found}, the code at {code_revision()}")
    return {"status": "ok", "revision": found}


@bp.get("/metrics")
def show_metrics() -> ResponseReturnValue:
    """Show what Prometheus reads; nginx lets nobody outside see it."""
    folder = services.current().settings.prometheus_multiproc_dir
    return Response(metrics.render(folder), content_type=metrics.CONTENT_TYPE)


def _not_ready(reason: str) -> ResponseReturnValue:
    return jsonify({"success": False, "error": reason}), 503, {"Retry-After": str(RETRY_AFTER)}
