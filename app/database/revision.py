"""The revision that the code expects, and the estimated number of rows."""

from functools import cache

from alembic.script import ScriptDirectory
from sqlalchemy import text

from app.config import ROOT
from app.models import PushToken, db


@cache
def code_revision() -> str | None:
    """Return the newest migration that this code comes with."""
    return ScriptDirectory(str(ROOT / "migrations")).get_current_head()


def estimated_rows() -> float:
    """Return the estimated number of registrations; 0 or less when there is no estimate."""
    size = text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:name)")
    return db.session.scalar(size, {"name": PushToken.__tablename__}) or 0
