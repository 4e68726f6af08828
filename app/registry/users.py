"""Verbs on all that is known of one user, for support and operators. They never commit."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, RowMapping, and_, func, select

from app.database.arrays import among
from app.models import PushToken, UserSession, db, is_reachable
from app.registry import sessions, ways
from app.registry.reading_sql import DEVICE_ID, MAX_OF_USER, PUBLIC_COLUMNS

SESSION_COLUMNS = [
    UserSession.token_hash,
    UserSession.created_at,
    UserSession.expires_at,
    UserSession.verified_at,
    UserSession.can_sign_in,
    is_reachable().label("is_reachable"),
]


def _theirs(user_id: str, device_id: str | None) -> ColumnElement[bool]:
    theirs = PushToken.user_id == user_id
    return and_(theirs, DEVICE_ID.element == device_id) if device_id is not None else theirs


def registrations(user_id: str, device_id: str | None = None) -> tuple[int, Sequence[RowMapping]]:
    """Return how many registrations a user or a user's device has, and the latest renewed ones.

    They are MAX_OF_USER at most, each with the hash of its session.
    """
    theirs = _theirs(user_id, device_id)
    number = db.session.scalars(select(func.count()).select_from(PushToken).where(theirs)).one()
    latest = select(*PUBLIC_COLUMNS, PushToken.session_hash).where(theirs)
    latest = latest.order_by(PushToken.updated_at.desc(), PushToken.id).limit(MAX_OF_USER)
    return number, db.session.execute(latest).mappings().all()


def sessions_of(user_id: str) -> tuple[int, Sequence[RowMapping]]:
    """Return how many sessions a user has, and the MAX_OF_USER latest ones."""
    theirs = UserSession.user_id == user_id
    number = db.session.scalars(select(func.count()).select_from(UserSession).where(theirs)).one()
    latest = select(*SESSION_COLUMNS).where(theirs)
    latest = latest.order_by(UserSession.created_at.desc(), UserSession.token_hash)
    return number, db.session.execute(latest.limit(MAX_OF_USER)).mappings().all()


def sessions_by_hash(hashes: Sequence[bytes]) -> dict[bytes, RowMapping]:
    """Return the sessions of these hashes, by hash."""
    found = select(*SESSION_COLUMNS).where(among(UserSession.token_hash, hashes))
    return {row["token_hash"]: row for row in db.session.execute(found).mappings()}


def remove(user_id: str, device_id: str | None = None) -> int:
    """Remove the registrations of a user, or of one device of theirs; return how many.

    Sessions stay, so an app that still runs registers anew at its next start.
    """
    theirs = select(PushToken.id).where(_theirs(user_id, device_id))
    removed, removed_now = 0, sessions.AT_ONCE
    while removed_now >= sessions.AT_ONCE:
        removed_now = ways.current().locks.remove(theirs, limit=sessions.AT_ONCE)[0]
        removed += removed_now
    return removed


def erase(user_id: str) -> tuple[int, int]:
    """Remove all that is kept of a user; return how many sessions and registrations that was.

    Sessions first, as every writer: what registers at the same instant is refused, or goes too.
    """
    ended, removed = sessions.end(UserSession.user_id == user_id)
    return ended, removed + remove(user_id)
