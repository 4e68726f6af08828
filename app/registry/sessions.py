"""Verbs on user sessions. They never commit."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from typing import cast as as_type

from sqlalchemy import (
    ColumnElement,
    LargeBinary,
    Text,
    and_,
    cast,
    func,
    insert,
    not_,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.dialects.postgresql import insert as upsert

from app.database.arrays import among, as_table
from app.identifiers import hash_secret
from app.models import UserSession, db, is_live, is_valid_session
from app.registry import ways

# Batch size: removing so many registrations takes about a tenth of statement_timeout. A session
# may have hundreds of thousands.
AT_ONCE = 10_000


def is_signed_in(token_hash: bytes, user_id: str, max_age: int | None = None) -> bool:
    """Tell whether this user is signed in with the auth token of this SHA-256.

    `max_age` is that of `models.is_valid_session`.
    """
    found = select(true()).where(
        UserSession.token_hash == token_hash,
        UserSession.user_id == user_id,
        is_valid_session(max_age),
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
    return auth_token, as_type(datetime, ends)


def end(which: ColumnElement[bool], *, skip_locked: bool = False) -> tuple[int, int]:
    """End the sessions that `which` selects; return how many, and how many registrations.

    What is registered at that instant goes, or is refused. A session that is announced (`put`) at
    that instant, is announced after it, and lives: who announces knows when to stop.

    With `skip_locked` nothing is waited for: a session stays while another transaction has locked
    it, or any of its registrations.
    """
    return ways.current().locks.end_sessions(which, AT_ONCE, skip_locked=skip_locked)


class Known(NamedTuple):
    """A session as it is stored, while the identity provider is asked about it."""

    is_live: bool
    is_fresh: bool
    is_in_grace: bool
    asked_at: datetime


def known(token_hash: bytes, user_id: str, fresh: int, grace: int) -> Known | None:
    """Return what is known of a user's session, None where nothing is.

    `fresh` and `grace` are the seconds within which it was confirmed (`models.is_valid_session`).
    """
    row = select(is_live(), is_valid_session(fresh), is_valid_session(grace), func.now()).where(
        UserSession.token_hash == token_hash, UserSession.user_id == user_id
    )
    found = db.session.execute(row).one_or_none()
    return Known(*found) if found else None


def confirm(token_hash: bytes, user_id: str, days: int, *, was_live: bool) -> bool:
    """Store that the identity provider confirmed a session just now; it lives for `days` days.

    A session that only held imported registrations can sign in from here on. Returns False for one
    that `was_live` and is gone: it was logged out meanwhile, and stays so. A session that is known
    for another user is ended, as the identity provider decides whose it is.
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
        set_={name: row.excluded[name] for name in values},
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
    """Announced sessions are known for another user; `places` are theirs in the list."""

    def __init__(self, places: Sequence[int]):
        super().__init__()
        self.places = places


def put(announced: Sequence[Mapping[str, Any]], days: int, *, confirmed: bool = False) -> None:
    """Take over sessions: `user_id`, `token_hash` and maybe `expires_at` of each.

    Without an end it is `days` days from now, with None it never ends. A placeholder session that
    only held imported registrations can sign in from here on; one that held them for another user
    is ended. An announced session is not checked with the identity provider; with `confirmed` it
    counts as confirmed now, and is checked again in time. Raises ForeignHashError for hashes that
    are known for another user: then nothing may be committed.
    """
    default = db.session.scalars(select(func.now())).one() + timedelta(days=days)
    users: dict[bytes, str] = {}
    ends: dict[bytes, datetime | None] = {}
    for one in announced:
        users.setdefault(one["token_hash"], one["user_id"])
        ends[one["token_hash"]] = one.get("expires_at", default)
    _end_wrong_holders(users)
    written = _write(users, ends, confirmed=confirmed)
    foreign = [
        place
        for place, one in enumerate(announced)
        if one["token_hash"] not in written or users[one["token_hash"]] != one["user_id"]
    ]
    if foreign:
        raise ForeignHashError(foreign)


def _end_wrong_holders(users: Mapping[bytes, str]) -> None:
    """End what only holds imported registrations, of another user than the session's.

    Rocket.Chat once left the former user in a row whose device had signed in anew.
    """
    holding = and_(among(UserSession.token_hash, list(users)), not_(UserSession.can_sign_in))
    found = db.session.execute(select(UserSession.token_hash, UserSession.user_id).where(holding))
    wrong = [row.token_hash for row in found if users[row.token_hash] != row.user_id]
    if wrong:
        end(and_(among(UserSession.token_hash, wrong), not_(UserSession.can_sign_in)))


def _write(
    users: Mapping[bytes, str], ends: Mapping[bytes, datetime | None], *, confirmed: bool
) -> set[bytes]:
    """Make or renew sessions; return the hashes of those that are not another user's."""
    asked = as_table(
        "announced",
        token_hash=(LargeBinary, list(users)),
        user_id=(Text, list(users.values())),
        expires_at=(TIMESTAMP(timezone=True), [ends[digest] for digest in users]),
    )
    verified_at = func.now() if confirmed else cast(null(), TIMESTAMP(timezone=True))
    rows = select(*asked, verified_at).order_by(asked.token_hash)
    row = upsert(UserSession).from_select([*asked.keys(), "verified_at"], rows)
    renewed = ("expires_at", "verified_at")
    same_user = row.on_conflict_do_update(
        index_elements=[UserSession.token_hash],
        set_={"can_sign_in": true(), **{name: row.excluded[name] for name in renewed}},
        where=UserSession.user_id == row.excluded.user_id,
    )
    return set(db.session.scalars(same_user.returning(UserSession.token_hash)))
