"""Verbs on user sessions. They never commit."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    ColumnElement,
    and_,
    delete,
    func,
    insert,
    not_,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from app import push_tokens
from app.models import PushToken, UserSession, db, is_live, lets_in


def is_signed_in(token_hash: bytes, user_id: str, within: int | None = None) -> bool:
    """Tell whether this user is signed in with the auth token of this SHA-256.

    `within` is that of `models.lets_in`.
    """
    found = select(true()).where(
        UserSession.token_hash == token_hash, UserSession.user_id == user_id, lets_in(within)
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


class Known(NamedTuple):
    """A session of somebody who waits to be confirmed."""

    is_live: bool
    is_fresh: bool
    is_in_grace: bool
    asked_at: datetime


def known(token_hash: bytes, user_id: str, fresh: int, grace: int) -> Known | None:
    """Return what is known of a user's session, None where nothing is.

    `fresh` and `grace` are the seconds within which it was confirmed (`models.lets_in`).
    """
    row = select(is_live(), lets_in(fresh), lets_in(grace), func.now()).where(
        UserSession.token_hash == token_hash, UserSession.user_id == user_id
    )
    found = db.session.execute(row).one_or_none()
    return Known(*found) if found else None


def confirm(token_hash: bytes, user_id: str, days: int, *, was_live: bool) -> bool:
    """Keep that the identity provider confirmed a session just now; it lives on for `days` days.

    Whoever only held imported registrations can sign in from here on. A session that `was_live`
    and is gone was logged out meanwhile: False, and it stays gone. Of a hash that is known for
    another user the identity provider knows better: that session ends.
    """
    values = {
        "verified_at": func.now(),
        "expires_at": func.now() + timedelta(days=days),
        "can_sign_in": true(),
    }
    own = and_(UserSession.token_hash == token_hash, UserSession.user_id == user_id)
    if was_live:
        renewed = update(UserSession).where(own).values(values).returning(true())
        return db.session.scalar(renewed) is not None
    end(and_(UserSession.token_hash == token_hash, UserSession.user_id != user_id))
    row = upsert(UserSession).values(token_hash=token_hash, user_id=user_id, **values)
    upserted = row.on_conflict_do_update(
        index_elements=[UserSession.token_hash],
        set_=values,
        where=UserSession.user_id == row.excluded.user_id,
    )
    return db.session.scalar(upserted.returning(true())) is not None


def deny(token_hash: bytes, user_id: str, asked_at: datetime) -> tuple[int, int]:
    """End a session that the identity provider denied when it was asked; see `end`.

    Not one that was announced, issued or confirmed since.
    """
    own = and_(UserSession.token_hash == token_hash, UserSession.user_id == user_id)
    issued_here = and_(is_live(), UserSession.verified_at.is_(None))
    older = or_(UserSession.verified_at.is_(None), UserSession.verified_at <= asked_at)
    return end(and_(own, not_(issued_here), older))


class ForeignHashError(Exception):
    """A session that was announced is somebody else's: its place in the list."""

    def __init__(self, place: int):
        super().__init__()
        self.place = place


def put(announced: Sequence[Mapping[str, Any]], days: int, *, confirmed: bool = False) -> None:
    """Take over sessions: `user_id`, `token_hash` and maybe `expires_at` of each.

    Without an end it is `days` days from now, with None it never ends. Whoever was only a holder
    of imported registrations can sign in from here on. What is announced needs nobody to confirm
    it; with `confirmed` it was true just now, and the identity provider is asked again in time.
    Raises ForeignHashError, with nothing done, for a hash that is known for another user.
    """
    users: dict[bytes, str] = {}
    for place, one in enumerate(announced):
        if users.setdefault(one["token_hash"], one["user_id"]) != one["user_id"]:
            raise ForeignHashError(place)
    default = db.session.scalars(select(func.now())).one() + timedelta(days=days)
    ends = {one["token_hash"]: one.get("expires_at", default) for one in announced}
    row = upsert(UserSession).values(
        [
            {
                "token_hash": digest,
                "user_id": users[digest],
                "expires_at": ends[digest],
                "verified_at": func.now() if confirmed else null(),
            }
            for digest in sorted(users)
        ]
    )
    same_user = row.on_conflict_do_update(
        index_elements=[UserSession.token_hash],
        set_={
            "expires_at": row.excluded.expires_at,
            "verified_at": row.excluded.verified_at,
            "can_sign_in": true(),
        },
        where=UserSession.user_id == row.excluded.user_id,
    )
    written = set(db.session.scalars(same_user.returning(UserSession.token_hash)))
    for place, one in enumerate(announced):
        if one["token_hash"] not in written:
            raise ForeignHashError(place)
