"""The verbs of `push-tokens purge` and `push-tokens backfill`: whole tables, a slice at a time.

There is no index on `updated_at`, on purpose (see models.py), so the table is walked in the order
of its primary key, a slice at a time. Only what a slice found is locked, for as long as it takes
to delete it; rows that another transaction has locked are being renewed and stay. Nothing is kept
between two slices but where to go on, so a purge may be killed and run again.

The verbs are generators: after each slice they yield what it did, for the caller to commit.

A backfill fills a new column between the revision that adds it (expand) and the one that demands
it (contract). What is registered meanwhile has its value already, by the column's default or by a
trigger; so the rows that are left only get fewer.
"""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    and_,
    bindparam,
    delete,
    func,
    not_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import InstrumentedAttribute

from app.database.arrays import among
from app.database.failures import UnavailableError
from app.limits import PRODUCTION
from app.models import PushToken, UserSession, db
from app.registry import sessions, ways

SLICE = 1000  # rows looked at, and at most deleted, in one transaction: milliseconds
# Seconds before each return to rows that another transaction had locked.
PAUSES = (0.5, 2.0, 5.0)
USERS_SLICE = 10_000  # entries of the index on user_id that one query counts

# What a backfill writes: before revision 0004 there was nothing else, and before 0008 the
# row's id was the device's name.
FILLING = {"environment": PRODUCTION, "device_id": PushToken.id}
UNFILLED = text(
    "SELECT attname FROM pg_attribute WHERE attrelid = 'push_tokens'::regclass"
    " AND attname::text = ANY (:names) AND NOT attnotnull ORDER BY attnum"
)


class Step(NamedTuple):
    """What one slice did; in a dry run `changed` is what would have gone."""

    examined: int
    changed: int


def days_ago(days: int) -> datetime:
    """Return the moment `days` days ago, by the clock that stamps the registrations."""
    return cast(datetime, db.session.scalar(select(func.now() - timedelta(days=days))))


def unseen(since: datetime, *, dry_run: bool) -> Iterator[Step]:
    """Remove the registrations that were last renewed before that moment."""
    doomed = PushToken.updated_at < since
    # By the slice's bounds, not by its ids: writing and reading a thousand ids costs more.
    within = (PushToken.id > bindparam("after"), PushToken.id <= bindparam("last"))
    remove_those = ways.current().locks.removing(
        select(PushToken.id).where(*within, doomed), skip_locked=True
    )
    after = ""
    for examined, ids, last in slices(PushToken.id, doomed):
        removed = remove_those(after=after, last=last) if ids and not dry_run else len(ids)
        yield Step(examined, removed)
        after = last


def beyond(keep: int, since: datetime, *, dry_run: bool) -> Iterator[Step]:
    """Remove what a user has beyond the `keep` latest seen; those unseen are not looked at."""
    for user_id in _crowded(keep):
        theirs = PushToken.user_id == user_id
        place = tuple_(PushToken.updated_at, PushToken.id)
        latest = select(PushToken.updated_at, PushToken.id).where(theirs)
        newest_first = latest.order_by(PushToken.updated_at.desc(), PushToken.id.desc())
        last_kept = db.session.execute(newest_first.offset(keep - 1).limit(1)).one_or_none()
        if last_kept is None:
            continue
        doomed = and_(theirs, PushToken.updated_at >= since, place < tuple_(*last_kept))
        ids = db.session.scalars(select(PushToken.id).where(doomed)).all()
        for start in range(0, len(ids), SLICE):
            some = ids[start : start + SLICE]
            yield Step(len(some), len(some) if dry_run else _remove(some, doomed))


def empty_placeholder_sessions() -> Iterator[Step]:
    """Remove sessions that an import made and that hold no registration any more.

    The lock comes first, and then another look at the registrations: who has the lock keeps the
    registration of an import that came in between.
    """
    placeholder = not_(UserSession.can_sign_in)
    for examined, found, _ in slices(UserSession.token_hash, placeholder):
        removed = 0
        if hollow := _without_registrations(found):
            locked = ways.current().locks.lock_sessions(
                and_(among(UserSession.token_hash, hollow), placeholder), skip_locked=True
            )
            ours = among(UserSession.token_hash, _without_registrations(locked))
            gone = delete(UserSession).where(ours, placeholder).returning(UserSession.token_hash)
            removed = len(db.session.execute(gone).all())
        yield Step(examined, removed)


def _without_registrations(hashes: Sequence[bytes]) -> list[bytes]:
    """Return those of the sessions that hold no registration."""
    if not hashes:
        return []
    held = select(PushToken.session_hash).where(among(PushToken.session_hash, hashes)).distinct()
    return sorted(set(hashes).difference(db.session.scalars(held)))


class Ended(NamedTuple):
    """What one slice did; `held` expired sessions are locked so far, and stay."""

    examined: int
    sessions: int
    registrations: int
    held: int


def expired_sessions() -> Iterator[Ended]:
    """End the sessions that are over, those last that another transaction has locked meanwhile."""
    expired = UserSession.expires_at <= func.now()
    held: list[bytes] = []
    for examined, found, _ in slices(UserSession.token_hash, expired):
        ended, left = _end(found, expired)
        held += left
        yield Ended(examined, *ended, len(held))
    for pause in PAUSES:
        if not held:
            return
        time.sleep(pause)
        left_over: list[bytes] = []
        for start in range(0, len(held), SLICE):
            ended, left = _end(held[start : start + SLICE], expired)
            left_over += left
            yield Ended(0, *ended, len(held))
        held = left_over
        yield Ended(0, 0, 0, len(held))


def _end(
    found: Sequence[bytes], expired: ColumnElement[bool]
) -> tuple[tuple[int, int], Sequence[bytes]]:
    """End expired sessions; return how many, with how many registrations, and those that stay."""
    if not found:
        return (0, 0), ()
    # The condition again: a session may have been announced anew meanwhile.
    still = and_(among(UserSession.token_hash, found), expired)
    ended = sessions.end(still, skip_locked=True)
    left = () if ended[0] == len(found) else _keys(UserSession.token_hash, still)
    return ended, left


def fill() -> Iterator[Step]:
    """Fill what a revision added and the next one demands; commit after each step.

    Rows that another transaction has locked come last. Raises HeldRowsError where they stay
    locked, because the next revision would refuse.
    """
    for name in db.session.scalars(UNFILLED, {"names": list(FILLING)}).all():
        missing = getattr(PushToken, name).is_(None)
        held: list[str] = []
        for examined, ids, _ in slices(PushToken.id, missing):
            filled, left = _fill(name, ids)
            held += left
            yield Step(examined, filled)
        for pause in PAUSES:
            time.sleep(pause if held else 0)
            some, held = held, []
            for start in range(0, len(some), SLICE):
                filled, left = _fill(name, some[start : start + SLICE])
                held += left
                yield Step(0, filled)
        if held:
            raise HeldRowsError(f"{len(held)} rows have no {name} and are locked")


class HeldRowsError(UnavailableError):
    """Rows stayed locked by another transaction; what was done is committed."""


def _fill(name: str, ids: Sequence[str]) -> tuple[int, Sequence[str]]:
    """Fill a column of these rows; return how many, and those that stay as they were.

    Rows are locked in the order that every writer keeps, and looked at again once they are.
    """
    if not ids:
        return 0, ()
    column = getattr(PushToken, name)
    missing = and_(among(PushToken.id, ids), column.is_(None))
    ours = ways.current().locks.lock_registrations(missing, skip_locked=True)
    filling = update(PushToken).where(among(PushToken.id, ours), column.is_(None))
    done = db.session.execute(
        filling.values({name: FILLING[name]}).returning(PushToken.id),
        execution_options={"synchronize_session": False},
    )
    filled = len(done.all())
    return filled, () if filled == len(ids) else _keys(PushToken.id, missing)


def _keys(key: InstrumentedAttribute[Any], condition: ColumnElement[bool]) -> Sequence[Any]:
    return db.session.scalars(select(key).where(condition).order_by(key)).all()


def slices(
    key: InstrumentedAttribute[Any], doomed: ColumnElement[bool]
) -> Iterator[tuple[int, list[Any], Any]]:
    """Walk a table by its primary key; give each slice's number of rows, doomed keys, last key.

    PostgreSQL counts and gathers them: a thousand rows cost more to read here than to find there.
    """
    page = select(key.label("key"), doomed.label("is_doomed")).order_by(key).limit(SLICE)
    first, following = (
        _gathered(rows) for rows in (page, page.where(key > bindparam("after", type_=key.type)))
    )
    examined, keys, last = db.session.execute(first).one()
    while examined:
        yield examined, keys or [], last
        examined, keys, last = db.session.execute(following, {"after": last}).one()


def _gathered(page: Select[Any, bool]) -> Select[int, list[Any] | None, Any]:
    """Return the number of a page's rows, its doomed keys in order, and its last key."""
    rows = page.subquery("page").c
    keys = func.array_agg(aggregate_order_by(rows.key, rows.key), type_=ARRAY(rows.key.type))
    number = func.count()
    return select(number, keys.filter(rows.is_doomed), keys[number])


def _remove(ids: Sequence[str], doomed: ColumnElement[bool]) -> int:
    """Remove those of the ids that are still doomed and that are not locked; return how many."""
    if not ids:
        return 0
    still = select(PushToken.id).where(among(PushToken.id, ids), doomed)
    return ways.current().locks.removing(still, skip_locked=True)()


def _crowded(keep: int) -> Iterator[str]:
    """Give the users with more than `keep` registrations."""
    size = max(USERS_SLICE, keep + 1)
    after = ""
    while True:
        page = select(PushToken.user_id).where(PushToken.user_id > after)
        entries = page.order_by(PushToken.user_id).limit(size).subquery().c
        count = func.count().label("number")
        counts = select(entries.user_id, count).group_by(entries.user_id)
        rows = list(db.session.execute(counts.order_by(entries.user_id)).all())
        is_full = sum(row.number for row in rows) == size
        if is_full and len(rows) > 1:
            rows.pop()  # the slice may end in the midst of this user, who is counted again
        yield from (row.user_id for row in rows if row.number > keep)
        if not is_full:
            return
        after = rows[-1].user_id
