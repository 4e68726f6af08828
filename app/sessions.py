"""Verbs on user sessions. They never commit."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    LargeBinary,
    Text,
    any_,
    bindparam,
    delete,
    func,
    insert,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.dialects.postgresql import insert as upsert

from app import push_tokens
from app.arrays import as_table
from app.hashes import hash_secret
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
        token_hash=hash_secret(auth_token.encode()),
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
    What is registered at that instant goes, or is refused. A session that is announced (`put`) at
    that instant, is announced after it, and lives: who announces knows when to stop.
    """
    ordered = select(UserSession.token_hash).where(which).order_by(UserSession.token_hash)
    locked = db.session.scalars(ordered.with_for_update()).all()
    # An array, as a user may have more sessions than a statement may have parameters.
    theirs = any_(bindparam("locked", locked, type_=ARRAY(LargeBinary)))
    removed = push_tokens.remove_where(PushToken.session_hash == theirs)
    db.session.execute(delete(UserSession).where(UserSession.token_hash == theirs))
    return len(locked), removed


class ForeignHashError(Exception):
    """Sessions that were announced are somebody else's: their places in the list."""

    def __init__(self, places: Sequence[int]):
        super().__init__()
        self.places = places


def put(announced: Sequence[Mapping[str, Any]], days: int) -> None:
    """Take over sessions: `user_id`, `token_hash` and maybe `expires_at` of each.

    Without an end it is `days` days from now, with None it never ends. Whoever was only a holder
    of imported registrations can sign in from here on. Raises ForeignHashError for hashes that are
    known for another user: then nothing may be committed.
    """
    default = db.session.scalars(select(func.now())).one() + timedelta(days=days)
    users: dict[bytes, str] = {}
    ends: dict[bytes, datetime | None] = {}
    for one in announced:
        users.setdefault(one["token_hash"], one["user_id"])
        ends[one["token_hash"]] = one.get("expires_at", default)
    written = _write(users, ends)
    foreign = [
        place
        for place, one in enumerate(announced)
        if one["token_hash"] not in written or users[one["token_hash"]] != one["user_id"]
    ]
    if foreign:
        raise ForeignHashError(foreign)


def _write(users: Mapping[bytes, str], ends: Mapping[bytes, datetime | None]) -> set[bytes]:
    """Make or renew sessions; return the hashes of those that are not another user's."""
    asked = as_table(
        "announced",
        token_hash=(LargeBinary, list(users)),
        user_id=(Text, list(users.values())),
        expires_at=(TIMESTAMP(timezone=True), [ends[digest] for digest in users]),
    )
    rows = select(*asked, func.now()).order_by(asked.token_hash)
    row = upsert(UserSession).from_select([*asked.keys(), "verified_at"], rows)
    renewed = ("expires_at", "verified_at")
    same_user = row.on_conflict_do_update(
        index_elements=[UserSession.token_hash],
        set_={"can_sign_in": true(), **{name: row.excluded[name] for name in renewed}},
        where=UserSession.user_id == row.excluded.user_id,
    )
    return set(db.session.scalars(same_user.returning(UserSession.token_hash)))
