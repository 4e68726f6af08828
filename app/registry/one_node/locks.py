"""Locks on several rows, in the order that every writer keeps, and what is removed under them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, func, select

from app.database.arrays import among, among_found
from app.models import PushToken, UserSession, db
from app.registry.calls import DEVICE, calls_of
from app.registry.one_node import ONE_NODE, SESSION_SETTINGS


def bring_settings() -> None:
    """Have the rest of this transaction use SESSION_SETTINGS."""
    settings = (func.set_config(name, value, True) for name, value in SESSION_SETTINGS.items())
    db.session.execute(select(*settings).prefix_with(ONE_NODE))


def lock_sessions(which: ColumnElement[bool], *, skip_locked: bool = False) -> Sequence[bytes]:
    """Lock the sessions that `which` selects; return their hashes."""
    ordered = select(UserSession.token_hash).where(which).order_by(UserSession.token_hash)
    locked = ordered.with_for_update(skip_locked=skip_locked).prefix_with(ONE_NODE)
    return db.session.scalars(locked).all()


def lock_registrations(which: ColumnElement[bool], *, skip_locked: bool = False) -> Sequence[str]:
    """Lock the registrations that `which` selects; return their rows' ids."""
    found = _in_order(select(PushToken.id).where(which), skip_locked=skip_locked)
    return db.session.scalars(found).all()


def remove(
    found: Select[str], *, skip_locked: bool = False, limit: int | None = None
) -> tuple[int, Sequence[Any]]:
    """Remove the registrations that a select of ids finds, and the VoIP ones of their devices.

    Of those found at most `limit`. Returns how many went in all, and those that were found: their
    user, app name, device, type and push token. They are locked first, in the order that every
    writer keeps, and the select's conditions are checked again on whatever changed while we waited
    for a lock. With `skip_locked` nothing is waited for: rows that another transaction has locked
    stay.

    The VoIP rows (`calls_of`) are locked after the others, so out of the order: a registration of
    the same device at the same instant may meet that, and is then tried again.
    """
    rows = _doomed(found, skip_locked=skip_locked, limit=limit)
    gone = delete(PushToken).where(among_found(PushToken.id, rows))
    columns = (*DEVICE, PushToken.type, PushToken.token)
    removed: Sequence[Any] = db.session.execute(gone.returning(*columns)).all()
    calls = calls_of(removed)
    if calls is None:
        return len(removed), removed
    silenced = delete(PushToken).where(among_found(PushToken.id, _doomed(calls)))
    return len(removed) + len(db.session.execute(silenced.returning(PushToken.id)).all()), removed


def end_sessions(
    which: ColumnElement[bool], at_once: int, *, skip_locked: bool = False
) -> tuple[int, int]:
    """End the sessions that `which` selects; return how many, and how many registrations.

    Sessions are locked first, in the order that every writer keeps, so a registration at the same
    instant is either seen here or finds its session gone. The cascade would remove the
    registrations too: deleting them here, `at_once` by a statement, counts them.
    """
    locked = lock_sessions(which, skip_locked=skip_locked)
    if not locked:
        return 0, 0
    # An array, as a user may have more sessions than a statement may have parameters.
    registered_in_them = among(PushToken.session_hash, locked)
    removed, removed_now = 0, at_once
    while removed_now >= at_once:
        found = select(PushToken.id).where(registered_in_them)
        removed_now = remove(found, skip_locked=skip_locked, limit=at_once)[0]
        removed += removed_now
    if skip_locked:
        held = select(PushToken.session_hash).where(registered_in_them).distinct()
        locked = sorted(set(locked).difference(db.session.scalars(held)))
    # The cascade looks for registrations once more, session by session, in every partition:
    # 70,000 at once took 16 partitions longer than DATABASE_STATEMENT_TIMEOUT.
    for start in range(0, len(locked), at_once):
        some = locked[start : start + at_once]
        db.session.execute(delete(UserSession).where(among(UserSession.token_hash, some)))
    return len(locked), removed


def _doomed(
    found: Select[str], *, skip_locked: bool = False, limit: int | None = None
) -> Select[str]:
    """Return what a select of ids finds, locked: for the statement that deletes it."""
    return select(_in_order(found, skip_locked=skip_locked).limit(limit).cte("doomed").c.id)


def _in_order(found: Select[str], *, skip_locked: bool = False) -> Select[str]:
    ordered = found.order_by(PushToken.app_name, PushToken.token)
    return ordered.with_for_update(of=PushToken, skip_locked=skip_locked).prefix_with(ONE_NODE)
