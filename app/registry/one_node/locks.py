"""Locks on several rows, in the order that every writer keeps, and what is removed under them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import CTE, ColumnElement, Select, Text, collate, delete, func, select

from app.database.arrays import as_table
from app.limits import APN, VOIP
from app.models import PushToken, UserSession, db
from app.registry.one_node import ONE_NODE, SESSION_SETTINGS

DEVICE = (PushToken.user_id, PushToken.app_name, PushToken.device_id)


def keep_one_plan() -> None:
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


def doomed(found: Select[str], *, skip_locked: bool = False, limit: int | None = None) -> CTE:
    """Return what a select of ids finds, locked: for the statement that deletes it."""
    return _in_order(found, skip_locked=skip_locked).limit(limit).cte("doomed")


def remove_where(
    condition: ColumnElement[bool], *, skip_locked: bool = False, limit: int | None = None
) -> int:
    """Remove the registrations that meet the condition, at most `limit`; return how many.

    They are locked first, in the order that every writer keeps, and the condition is checked
    again on whatever changed while we waited for a lock. With `skip_locked` nothing is waited
    for: rows that another transaction has locked stay. The VoIP registrations of their devices go
    with them, beyond `limit`.
    """
    rows = doomed(select(PushToken.id).where(condition), skip_locked=skip_locked, limit=limit)
    return remove_doomed(rows)[0]


def remove_doomed(rows: CTE) -> tuple[int, Sequence[Any]]:
    """Remove the registrations that `doomed` found, and the VoIP ones of their devices.

    Returns how many went in all, and those that were found: their user, app name, device, type
    and push token.

    Nobody's calls are to ring on a phone that has lost its APNs registration. The VoIP rows are
    locked after the others, so out of the order: a registration of the same device at the same
    instant may meet that, and is then tried again.
    """
    gone = delete(PushToken).where(PushToken.id == rows.c.id)
    columns = (*DEVICE, PushToken.type, PushToken.token)
    removed: Sequence[Any] = db.session.execute(gone.returning(*columns)).all()
    devices = [row[: len(DEVICE)] for row in removed if row.type == APN]
    if not devices:
        return len(removed), removed
    values = zip(*devices, strict=True)
    names = {column.key: (Text, list(each)) for column, each in zip(DEVICE, values, strict=True)}
    asked = as_table("asked", **names)
    same = (column == collate(asked[column.key], "C") for column in DEVICE)
    calls = select(PushToken.id).where(*same, PushToken.type == VOIP)
    silenced = delete(PushToken).where(PushToken.id == doomed(calls).c.id)
    return len(removed) + len(db.session.execute(silenced.returning(PushToken.id)).all()), removed


def _in_order(found: Select[str], *, skip_locked: bool = False) -> Select[str]:
    ordered = found.order_by(PushToken.app_name, PushToken.token)
    return ordered.with_for_update(of=PushToken, skip_locked=skip_locked).prefix_with(ONE_NODE)
