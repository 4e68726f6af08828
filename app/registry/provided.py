"""Verbs on the sessions that the identity provider answers for, to end those that it ended.

They are those that it confirmed or that an import of its users brought. What was issued or
announced here is not the provider's to end, nor is what only holds imported registrations.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, cast

from sqlalchemy import ColumnElement, and_, func, select

from app.database.arrays import among
from app.models import UserSession, db
from app.registry import sessions

PAGE = 10_000  # sessions that one query looks at


class Found(NamedTuple):
    """A session and its user."""

    token_hash: bytes
    user_id: str


def is_provided(before: datetime) -> ColumnElement[bool]:
    """Give the condition that the provider answers for a session, confirmed before that moment."""
    # `verified_at` is rounded to milliseconds, maybe down.
    moment = before.replace(microsecond=before.microsecond // 1000 * 1000)
    return and_(UserSession.can_sign_in, UserSession.verified_at < moment)


def current_time() -> datetime:
    """Return the database's time, whose clock stamps `verified_at`."""
    return cast(datetime, db.session.scalar(select(func.now())))


def of_users(user_ids: Sequence[str], before: datetime) -> list[Found]:
    """Return the provided sessions of these users that were confirmed before that."""
    theirs = select(UserSession.token_hash, UserSession.user_id).where(
        among(UserSession.user_id, user_ids), is_provided(before)
    )
    return [Found(*row) for row in db.session.execute(theirs)]


def page(after: bytes, before: datetime) -> tuple[list[Found], bytes | None]:
    """Return the provided sessions among the next PAGE ones after a hash, and where to go on.

    That is None at the end of the table.
    """
    columns = (UserSession.token_hash, UserSession.user_id, is_provided(before))
    ordered = select(*columns).where(UserSession.token_hash > after)
    rows = db.session.execute(ordered.order_by(UserSession.token_hash).limit(PAGE)).all()
    found = [Found(token_hash, user_id) for token_hash, user_id, is_theirs in rows if is_theirs]
    return found, rows[-1].token_hash if len(rows) == PAGE else None


def end(token_hashes: Sequence[bytes], before: datetime) -> tuple[int, int]:
    """End those of the sessions that are still provided and were not confirmed since.

    See `sessions.end`.
    """
    return sessions.end(and_(among(UserSession.token_hash, token_hashes), is_provided(before)))
