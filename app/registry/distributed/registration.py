"""Registering on a distributed PostgreSQL: a look at the sessions and rows, then one INSERT.

What is decided in a statement on one PostgreSQL is decided here: which row a registration takes
the place of, and what it keeps of it. Each value and each named device is claimed first, and then
whatever else a registration would end or take.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from psycopg import errors

from app.registry.distributed import statements as sql
from app.registry.distributed.members import (
    Device,
    Member,
    Row,
    Value,
    join,
    members_of,
    registered,
    row_of,
)
from app.registry.distributed.statements import array
from app.registry.registration import RACED, Outcome, Registration, Steps, wanted

Part = Generator[tuple[str, dict[str, Any]], Sequence[Sequence[Any]], Any]


def register(asked: Sequence[Registration]) -> Steps:
    """Register one round within a transaction; as `registration.register`."""
    outcomes: list[Outcome] = [RACED] * len(asked)
    lost, now = yield from _claim(
        (place, key) for place, one in enumerate(asked) for key in wanted(one)
    )
    members = yield from _signed_in(asked, lost, now, outcomes)
    if not members:
        return outcomes
    yield from _look_at_rows(members)
    members, taken = yield from _look_further(members)
    doomed = {id_: row for one in members for id_, row in one.goes.items()}
    if doomed:
        tokens = array(row.token for row in doomed.values())
        yield sql.REMOVE, {"tokens": tokens, "ids": array(doomed)}
    stored = yield from _write(members, taken)
    for member in members:
        if not member.is_voip:
            outcomes[member.place] = registered(member, stored)
    return outcomes


def register_and_commit(asked: Sequence[Registration]) -> Steps:
    """Register one round in a transaction of its own."""
    yield "BEGIN", {}
    try:
        outcomes = yield from register(asked)
    except Exception:
        with suppress(Exception):  # the connection may be gone
            yield "ROLLBACK", {}
        raise
    yield "COMMIT", {}
    return outcomes


def find_held(asked: Sequence[Registration]) -> Part:
    """Return the places of the registrations whose rows are locked, each looked at by itself."""
    named = [one for one in asked if one.device_id is not None]
    devices = _devices((one.user_id, one.app_name, one.device_id) for one in named)  # type: ignore[misc]
    rows = yield sql.OF_DEVICES, devices
    of_devices: dict[Device, list[Row]] = {}
    for row in (Row(*row) for row in rows):
        of_devices.setdefault(row.device, []).append(row)
    held = set()
    for place, one in enumerate(asked):
        values = {key for key in wanted(one) if len(key) == 2}
        if one.device_id is not None:
            former = of_devices.get((one.user_id, one.app_name, one.device_id), ())
            values |= {row.value for row in former}
        for app_name, token in sorted(values):
            try:
                yield sql.LOCK_ONE, {"app_name": app_name, "token": token}
            except errors.LockNotAvailable:
                held.add(place)
                break
    return held


def _claim(asked: Iterable[tuple[int, tuple[str, ...]]]) -> Part:
    """Claim names until the commit, without waiting.

    Returns the places of those that were lost, and the moment of the transaction.
    """
    places, names = zip(*((place, "\n".join(key)) for place, key in asked), strict=True)
    rows = yield sql.CLAIM, {"names": array(names)}
    numbers, are_ours, (now, *_) = zip(*rows, strict=True)
    return {
        places[n - 1] for n, is_ours in zip(numbers, are_ours, strict=True) if not is_ours
    }, now


def _signed_in(
    asked: Sequence[Registration], lost: set[int], now: datetime, outcomes: list[Outcome]
) -> Part:
    """Return the claimed members with a valid session, and note who has none."""
    hashes = array(sql.bytes_(one.token_hash) for one in asked)
    rows = yield sql.SESSIONS, {"hashes": hashes}
    sessions = {hash_: (user_id, verified_at) for hash_, user_id, verified_at in rows}
    members: list[Member] = []
    for place, one in enumerate(asked):
        session = sessions.get(one.token_hash.hex())
        if session is None or not _lets_in(one, *session, now):
            outcomes[place] = None
        elif place not in lost:
            members += members_of(place, one, now)
    return members


def _lets_in(one: Registration, user_id: str, verified_at: datetime | None, now: datetime) -> bool:
    if user_id != one.user_id:
        return False
    is_young = one.max_age is None or verified_at is None
    return is_young or verified_at > now - timedelta(seconds=one.max_age)  # type: ignore[arg-type]


def _look_at_rows(members: Sequence[Member]) -> Part:
    """Find each member's rows."""
    apps = array({one.asked.app_name for one in members})
    rows = yield sql.OF_VALUES, {"apps": apps, "tokens": array(one.value[1] for one in members)}
    valued = [Row(*row) for row in rows]
    devices = {one.device for one in members if one.device}
    rows = (yield sql.OF_DEVICES, _devices(devices)) if devices else ()
    join(members, valued, [Row(*row) for row in rows])


def _look_further(members: list[Member]) -> Part:
    """Claim what members would end or take beside what they name, and look at that too.

    Returns those that got it, and the names that are taken: that an unnamed row can't bring along.
    """
    taken = {(one.device, one.is_voip) for one in members if one.device}
    devices = {device for one in members for device in (one.left, one.coming) if device}
    rows: Sequence[Sequence[Any]] = ()
    if devices:
        rows = yield sql.OF_DEVICES, _devices(devices)
    of_devices: dict[Device, list[Row]] = {}
    for row in (Row(*row) for row in rows):
        of_devices.setdefault(row.device, []).append(row)
        taken.add((row.device, row.is_voip))
    for one in members:
        for row in of_devices.get(one.left, ()) if one.left else ():
            if row.is_voip and row.value != one.value:
                one.goes[row.id] = row
    more = [(one.place, row.value) for one in members for row in one.goes.values()]
    more += [(one.place, one.coming) for one in members if one.coming]  # type: ignore[misc]
    if not more:
        return members, taken
    lost, _ = yield from _claim(more)
    lost |= {one.place for one in members if one.cedes_to in lost}
    return [one for one in members if one.place not in lost], taken


def _write(members: Sequence[Member], taken: set[tuple[Device, bool]]) -> Part:
    """Write the rows, in the order that every writer keeps; return what is stored, by value."""
    in_order = sorted(members, key=lambda one: one.value)
    stored: dict[Value, Sequence[Any]] = {}
    for start in range(0, len(in_order), sql.AT_ONCE):
        parameters: dict[str, Any] = {}
        some = in_order[start : start + sql.AT_ONCE]
        for number, member in enumerate(some):
            row = row_of(member, taken)
            parameters |= {f"{name}_{number}": row[name] for name in sql.COLUMNS}
        written = yield sql.write(len(some)), parameters
        stored |= {(app_name, token): rest for app_name, token, *rest in written}
    return stored


def _devices(devices: Iterable[Device]) -> dict[str, str]:
    names = list(zip(*devices, strict=True)) or [(), (), ()]
    return dict(zip(("users", "apps", "devices"), map(array, names), strict=True))
