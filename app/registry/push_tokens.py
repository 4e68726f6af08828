"""Verbs on push tokens. They never commit."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, select

from app.database.failures import LostRaceError
from app.limits import VOIP, normalize_apns_token
from app.models import PushToken, db
from app.registry import reading_sql, ways
from app.registry.reading_sql import (
    IS_NO_VOIP,
    LOOKUP_ROWS,
    LOOKUP_USERS,
    MAX_OF_USER,
    PUBLIC_COLUMNS,
)
from app.registry.registration import RACED, Registered, Registration

__all__ = ["LOOKUP_USERS", "MAX_OF_USER", "look_up", "of_user", "page", "register", "remove"]

EXAMINED = 1000  # rows that one page of the list looks at


def register(asked: Registration) -> Registered | None:
    """Store a registration and return it, None without a valid session.

    Raises LostRaceError where another registration of the same instant was first.
    """
    connection = db.session.connection()
    way = ways.current()
    way.locks.bring_settings()
    steps = way.register([asked])
    statement, parameters = next(steps)
    while True:
        rows = connection.exec_driver_sql(statement, parameters).all()
        try:
            statement, parameters = steps.send(rows)
        except StopIteration as end:
            (outcome,) = end.value
            if outcome is RACED:
                raise LostRaceError from None
            return outcome  # type: ignore[no-any-return]  # what a generator returns


def of_user(user_id: str) -> Sequence[RowMapping]:
    """Return a user's MAX_OF_USER latest renewed registrations, but for VoIP; the latest first."""
    theirs = select(*PUBLIC_COLUMNS).where(PushToken.user_id == user_id, IS_NO_VOIP)
    newest_first = theirs.order_by(PushToken.updated_at.desc(), PushToken.id).limit(MAX_OF_USER)
    return db.session.execute(newest_first).mappings().all()


def look_up(user_ids: Sequence[str], **wanted: str | Sequence[str]) -> Sequence[RowMapping] | None:
    """Return users' latest renewed, enabled registrations in sessions that are not over.

    They are ordered by user, device and app.

    `wanted` narrows them, by the names in reading_sql.NARROWING. Of what is left, MAX_OF_USER of
    each user at most are returned. None where that is over LOOKUP_ROWS: then ask for fewer users
    at a time, LOOKUP_USERS of them never have more.

    A user's rows are found by the index: what a lookup costs is bounded by what the asked have,
    not by the table.
    """
    asked = {"user_ids": list(user_ids), **wanted}
    names = tuple(sorted(wanted))
    rows = db.session.execute(reading_sql.of_users(names), asked).mappings().all()
    crowd = Counter(row["user_id"] for row in rows)
    if len(rows) > LOOKUP_ROWS or any(number > MAX_OF_USER for number in crowd.values()):
        latest = reading_sql.of_users(names, latest_only=True)
        rows = db.session.execute(latest, asked).mappings().all()
    return rows if len(rows) <= LOOKUP_ROWS else None


def page(
    *,
    count: int,
    cursor: str | None,
    updated_since: datetime | None = None,
    **wanted: str | Sequence[str],
) -> tuple[Sequence[RowMapping], str | None]:
    """Return up to `count` registrations after the row `cursor`, and the row to go on after.

    By id, which never changes: a row that stays is visited once, whatever comes and goes. At
    most EXAMINED rows are looked at, so that a rare filter costs no more than a common one.
    """
    asked: dict[str, Any] = dict(wanted)
    if updated_since:
        asked["updated_since"] = updated_since
    last = None
    if is_narrowed := bool(asked):
        last = db.session.scalar(reading_sql.boundary(EXAMINED), {"after": cursor or ""})
        asked["last"] = last
    statement = reading_sql.page(tuple(sorted(name for name in asked if asked[name] is not None)))
    found: list[RowMapping] = []
    place, left = cursor or "", EXAMINED
    size = count
    while True:
        size = size if is_narrowed else min(size, left)
        asked |= {"after": place, "size": size}
        some = db.session.execute(statement, asked).mappings().all()
        wanted_here = (row for row in some if is_narrowed or row["type"] != VOIP)
        found += [row for row in wanted_here if row["is_reachable"]]
        if len(found) >= count:
            return found[:count], found[count - 1]["id"]
        if len(some) < size:
            return found, last
        place, left = some[-1]["id"], left - size
        if not (is_narrowed or left):
            return found, place
        size = min(count, (count - len(found)) * 2)


def remove(user_id: str, push_token: str) -> int:
    """Remove a user's registrations of a push token in every app; return how many.

    An all-hex one is also looked for in lower case, as an APNs one would have been stored.
    """
    values = {push_token, normalize_apns_token(push_token)}
    theirs = select(PushToken.id).where(PushToken.user_id == user_id, PushToken.token.in_(values))
    return ways.current().locks.remove(theirs)[0]
