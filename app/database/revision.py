"""The revision that the code expects, and the estimated number of rows."""

from functools import cache

from sqlalchemy import text

from app.config import ROOT
from app.models import PushToken, db


@cache
def revisions() -> tuple[str, ...]:
    """Return the migrations that this code comes with, the oldest first.

    A revision is called as its file, and they are numbered: Alembic, a fifth of all that a worker
    would load, is left to those who migrate.
    """
    scripts = (ROOT / "migrations" / "versions").glob("[0-9]*.py")
    return tuple(sorted(script.stem for script in scripts))


def code_revision() -> str:
    """Return the newest of them."""
    return revisions()[-1]


def estimated_rows() -> float:
    """Return the estimated number of registrations; 0 or less when there is no estimate."""
    size = text(
        "SELECT sum(reltuples) FROM pg_class WHERE relkind = 'r' AND (oid = to_regclass(:name)"
        " OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass(:name)))"
    )
    return db.session.scalar(size, {"name": PushToken.__tablename__}) or 0
