"""What the code expects of the database, and what the database knows of its size."""

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
    """Return about how many registrations there are; 0 or less when the database can't say."""
    size = text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:name)")
    return db.session.scalar(size, {"name": PushToken.__tablename__}) or 0
