"""Calls for operators, load balancers and Prometheus."""

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue
from psycopg.errors import UndefinedTable
from sqlalchemy import column, func, select, table
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app import metrics, services
from app.api.errors import RETRY_AFTER, ApiError
from app.database.failures import describe, original
from app.database.revision import code_revision
from app.database.session_settings import ReadOnlyServerError, WrongEncodingError
from app.models import db
from app.version import VERSION

bp = Blueprint("monitoring", __name__)

ALIVE = {"status": "ok", "version": VERSION}  # what a living process answers

READ_ONLY = "the database takes no writes: it is a standby, or read-only"
REFUSED = "the database refuses the connection; the log says why"
UNREADY: dict[type[BaseException], str] = {
    ReadOnlyServerError: READ_ONLY,
    WrongEncodingError: "the database is not in UTF8; `push-tokens doctor` says what to do",
}

ALEMBIC_VERSION = table("alembic_version", column("version_num"))


@bp.get("/healthz")
def healthz() -> ResponseReturnValue:
    """Tell that the process lives.

    It asks neither the database nor anything else, as restarting this process would not mend that.
    """
    return ALIVE


@bp.get("/readyz")
def readyz() -> ResponseReturnValue:
    """Tell whether requests can be served.

    They can if the database answers, takes writes and is at the code's revision; else 503 says
    what is wrong. A log or metrics that are not kept stop nothing: they are `warnings`.
    """
    if services.current().is_draining():
        raise _not_ready("this instance is about to end")
    try:
        found, takes_writes = services.current().retrying(_revision)
        if not takes_writes:  # the pool replaces its connection now: another host may take writes
            db.session.rollback()
            found, takes_writes = services.current().retrying(_revision)
    except ProgrammingError as error:
        if not isinstance(error.orig, UndefinedTable):
            raise _not_ready("the database does not let us read alembic_version") from error
        found, takes_writes = None, True
    except (DBAPIError, PoolTimeout) as error:
        cause = original(error)
        other = REFUSED if "FATAL" in str(cause) else "the database does not answer"
        says = UNREADY.get(type(cause), other)
        raise _not_ready(says, describe(cause)) from error
    if not takes_writes:
        raise _not_ready(READ_ONLY)
    if found != code_revision():
        raise _not_ready(f"the database is at revision {found}, the code at {code_revision()}")
    warnings = [f"{sink}: {problem}" for sink, problem in metrics.problems()]
    replica = services.current().replica
    if replica and replica.problem:
        warnings.append(f"{replica.problem}; the primary is read")
    return ALIVE | {"revision": found} | ({"warnings": warnings} if warnings else {})


def _revision() -> tuple[str | None, bool]:
    """Return the database's revision, and whether it takes writes."""
    is_read_only = func.current_setting("transaction_read_only").label("is_read_only")
    row = db.session.execute(select(ALEMBIC_VERSION.c.version_num, is_read_only)).first()
    return (row.version_num, row.is_read_only == "off") if row else (None, True)


@bp.get("/metrics")
def show_metrics() -> ResponseReturnValue:
    """Show the metrics for Prometheus.

    The nginx configuration in deploy/ does not pass this path on.
    """
    folder = services.current().settings.prometheus_multiproc_dir
    metrics.BUILD.labels(VERSION, code_revision()).set(1)
    return Response(metrics.render(folder), content_type=metrics.CONTENT_TYPE)


def _not_ready(says: str, reason: str | None = None) -> ApiError:
    """Make the 503; the log has its reason too, which may name hosts and roles."""
    body = {"success": False, "error": says, "version": VERSION}
    return ApiError(503, body, reason, **{"Retry-After": str(RETRY_AFTER)})
