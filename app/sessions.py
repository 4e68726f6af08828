"""Verbs on user sessions. They never commit."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import ColumnElement, delete, func, insert, select, true
from sqlalchemy.dialects.postgresql import insert as upsert

from app import push_tokens
from app.models import PushToken, UserSession, db, is_live


def is_signed_in(token_hash: bytes, user_id: str) -> bool:
    """Tell whether this user is signed in with the auth token of this SHA-256."""
    found = select(true()).where(
        UserSession.token_hash == token_hash, UserSession.user_id == user_id, is_live()
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


class ForeignHashError(Exception):
    """A session that was announced is somebody else's: its place in the list."""

    def __init__(self, place: int):
        super().__init__()
        self.place = place


def put(announced: Sequence[Mapping[str, Any]], days: int) -> None:
    """Take over sessions: `user_id`, `token_hash` and maybe `expires_at` of each.

    Without an end it is `days` days from now, with None it never ends. Whoever was only a holder
    of imported registrations can sign in from here on. Raises ForeignHashError, with nothing done,
    for a hash that is known for another user.
    """
    users: dict[bytes, str] = {}
    for place, one in enumerate(announced):
        if users.setdefault(one["token_hash"], one["user_id"]) != one["user_id"]:
            raise ForeignHashError(place)
    default = db.session.scalars(select(func.now())).one() + timedelta(days=days)
    ends = {one["token_hash"]: one.get("expires_at", default) for one in announced}
    row = upsert(UserSession).values(
        [
            {"token_hash": digest, "user_id": users[digest], "expires_at": ends[digest]}
            for digest in sorted(users)
        ]
    )
    same_user = row.on_conflict_do_update(
        index_elements=[UserSession.token_hash],
        set_={"expires_at": row.excluded.expires_at, "can_sign_in": true()},
        where=UserSession.user_id == row.excluded.user_id,
    )
    written = set(db.session.scalars(same_user.returning(UserSession.token_hash)))
    for place, one in enumerate(announced):
        if one["token_hash"] not in written:
            raise ForeignHashError(place)
