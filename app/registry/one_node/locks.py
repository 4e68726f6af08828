"""Locks on several rows, in the order that every writer keeps, and what is removed under them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    delete,
    func,
    literal_column,
    select,
    text,
    true,
    tuple_,
)

from app.database.arrays import among, among_asked, among_found
from app.limits import APN, VOIP
from app.models import PushToken, UserSession, db
from app.registry.calls import DEVICE, calls_of
from app.registry.one_node import ONE_NODE, SESSION_SETTINGS

# Not the classes: what the ORM does of its own accord for them costs as much as the statements.
TOKENS, SESSIONS = PushToken.__table__, UserSession.__table__

END = delete(SESSIONS).where(among_asked(SESSIONS.c.token_hash, "hashes"))


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


def removing(
    found: Select[str], *, skip_locked: bool = False, limit: int | None = None
) -> Callable[..., int]:
    """Return a function that does as `remove` for a select's parameters, and counts what went.

    It is one statement, made once for many calls, and takes the VoIP rows that are there as it
    begins. One that comes with the device's other row while this waits for that row's lock would
    stay; so it is for what nobody can register meanwhile, or what would not go once renewed. (An
    import may renew a row by an old date. Then its VoIP row is as old, and the next purge's.)
    """
    statement = _removal(_doomed(found, skip_locked=skip_locked, limit=limit))

    def remove_those(**asked: Any) -> int:
        return sum(db.session.execute(statement, asked).one())

    return remove_those


# The row that follows a device's place among the VoIP ones, in the order of the index of devices:
# no other index has that order, and the scan begins at the place. An equality of the app would
# let PostgreSQL read all of an app; a range of whole rows, up to 17, all of a user.
NEXT_OF_DEVICE = f"""
    (p.user_id, p.app_name, p.device_id, p.type = '{VOIP}')
        >= (gone.user_id, gone.app_name, gone.device_id, true)
    AND p.user_id <= gone.user_id
"""
IN_ORDER_OF_DEVICES = f"p.user_id, p.app_name, p.device_id, p.type = '{VOIP}'"


def _removal(doomed: Select[str]) -> Select[int, int]:
    """Return the statement that removes both kinds of rows, and counts each.

    As a rule there are no VoIP rows, and then nothing is sorted or locked.
    """
    columns = [TOKENS.c[column.key] for column in (*DEVICE, PushToken.type)]
    gone = delete(TOKENS).where(among_found(TOKENS.c.id, doomed)).returning(*columns).cte("gone")
    p = TOKENS.alias("p")
    first = select(p).where(text(NEXT_OF_DEVICE)).order_by(text(IN_ORDER_OF_DEVICES))
    call = first.limit(literal_column("1")).lateral("call")
    same = (call.c[column.key] == gone.c[column.key] for column in DEVICE)
    calls = (
        select(call)
        .select_from(gone.join(call, true()))
        .where(gone.c.type == APN, call.c.type == VOIP, *same)
    )
    in_order = calls.order_by(call.c.app_name, call.c.token).subquery("in_order")
    still = tuple_(*columns) == tuple_(*(in_order.c[column.key] for column in columns))
    # Nothing but the id is for an index.
    one = select(TOKENS.c.id).where(TOKENS.c.id == in_order.c.id, still.is_(true()))
    held = one.with_for_update().lateral("held")
    locked = select(held.c.id).select_from(in_order.join(held, true()))
    silenced = delete(TOKENS).where(among_found(TOKENS.c.id, locked)).returning(TOKENS.c.id)
    numbers = (
        select(func.count()).select_from(rows).scalar_subquery()
        for rows in (gone, silenced.cte("silenced"))
    )
    return select(*numbers)


@functools.cache
def _removing_in_sessions(limit: int, *, skip_locked: bool) -> Callable[..., int]:
    # An array, as a user may have more sessions than a statement may have parameters.
    found = select(PushToken.id).where(among_asked(PushToken.session_hash, "hashes"))
    return removing(found, skip_locked=skip_locked, limit=limit)


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
    remove_those = _removing_in_sessions(at_once, skip_locked=skip_locked)
    removed, removed_now = 0, at_once
    while removed_now >= at_once:
        removed_now = remove_those(hashes=locked)
        removed += removed_now
    if skip_locked:
        held = select(PushToken.session_hash).where(among(PushToken.session_hash, locked))
        locked = sorted(set(locked).difference(db.session.scalars(held.distinct())))
    # The cascade looks for registrations once more, session by session, in every partition:
    # 70,000 at once took 16 partitions longer than DATABASE_STATEMENT_TIMEOUT.
    for start in range(0, len(locked), at_once):
        db.session.execute(END, {"hashes": locked[start : start + at_once]})
    return len(locked), removed


def _doomed(
    found: Select[str], *, skip_locked: bool = False, limit: int | None = None
) -> Select[str]:
    """Return what a select of ids finds, locked: for the statement that deletes it."""
    return select(_in_order(found, skip_locked=skip_locked).limit(limit).cte("doomed").c.id)


def _in_order(found: Select[str], *, skip_locked: bool = False) -> Select[str]:
    ordered = found.order_by(PushToken.app_name, PushToken.token)
    return ordered.with_for_update(of=PushToken, skip_locked=skip_locked).prefix_with(ONE_NODE)
