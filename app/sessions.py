"""Verbs on user sessions. They never commit."""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import ColumnElement, and_, delete, func, insert, or_, select, true

from app import push_tokens
from app.models import PushToken, UserSession, db


def live() -> ColumnElement[bool]:
    """Give the condition under which a session lets its user in."""
    return and_(
        UserSession.can_sign_in,
        or_(UserSession.expires_at.is_(None), UserSession.expires_at > func.now()),
    )


def is_live(token_hash: bytes, user_id: str) -> bool:
    """Tell whether this user is signed in with the auth token of this SHA-256."""
    found = select(true()).where(
        UserSession.token_hash == token_hash, UserSession.user_id == user_id, live()
    )
    return db.session.scalar(found) is not None


def issue(user_id: str, days: int) -> tuple[str, datetime]:
    """Sign a user in for `days` days; return the auth token (43 characters) and its end (UTC)."""
    auth_token = secrets.token_urlsafe(32)
    user_session = insert(UserSession).values(
        token_hash=hashlib.sha256(auth_token.encode()).digest(),
        user_id=user_id,
        expires_at=func.now() + timedelta(days=days),
    )
    # The database says when it ends: its clock is the one that will judge.
    ends = db.session.scalars(user_session.returning(UserSession.expires_at)).one()
    return auth_token, cast(datetime, ends)


def end(which: ColumnElement[bool]) -> tuple[int, int]:
    """End the sessions that `which` selects; return how many, and how many registrations.

    Sessions are locked first, in the order that every writer keeps, so a registration at the
    same instant is either seen here or finds its session gone. The cascade would remove the
    registrations too: deleting them here counts them, and works where there is no foreign key.
    """
    ordered = select(UserSession.token_hash).where(which).order_by(UserSession.token_hash)
    locked = db.session.scalars(ordered.with_for_update()).all()
    removed = push_tokens.remove_where(PushToken.session_hash.in_(locked))
    db.session.execute(delete(UserSession).where(UserSession.token_hash.in_(locked)))
    return len(locked), removed
