"""Verbs on push tokens. They never commit."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, RowMapping, Text, and_, func, select, true

from app.database.arrays import as_table
from app.database.failures import LostRaceError
from app.limits import PRODUCTION, VOIP, normalize_apns_token
from app.models import PushToken, UserSession, db, is_reachable
from app.registry import registration
from app.registry.one_node import locks
from app.registry.registration import RACED, Registered, Registration

EXAMINED = 1000  # rows that one page of the list looks at
MAX_OF_USER = 100  # registrations of one user in an answer; a person has a few devices
LOOKUP_USERS = 50  # so many users are looked up in one statement, however many rows they have
LOOKUP_ROWS = LOOKUP_USERS * MAX_OF_USER

# Rows from before revision 0004 have none until they are backfilled.
ENVIRONMENT = func.coalesce(PushToken.environment, PRODUCTION).label("environment")
# Likewise before revision 0008, whose rows' ids were the devices' names.
DEVICE_ID = func.coalesce(PushToken.device_id, PushToken.id).label("device_id")

IS_NO_VOIP = PushToken.type != VOIP

PUBLIC_COLUMNS = [
    PushToken.id,
    PushToken.app_name,
    PushToken.token,
    PushToken.type,
    PushToken.user_id,
    PushToken.enabled,
    PushToken.created_at,
    PushToken.updated_at,
    ENVIRONMENT,
    DEVICE_ID,
]


def register(asked: Registration) -> Registered | None:
    """Store a registration and return it, None without a valid session.

    Raises LostRaceError where another registration of the same instant was first.
    """
    connection = db.session.connection()
    locks.keep_one_plan()
    steps = registration.register([asked])
    statement, parameters = next(steps)
    while True:
        rows = connection.exec_driver_sql(statement, parameters).all()
        try:
            statement, parameters = steps.send(rows)
        except StopIteration as end:
            (outcome,) = end.value
            if outcome is RACED:
                raise LostRaceError from None
            return outcome  # type: ignore[no-any-return]


def of_user(user_id: str) -> Sequence[RowMapping]:
    """Return a user's MAX_OF_USER latest renewed registrations, but for VoIP; the latest first."""
    theirs = select(*PUBLIC_COLUMNS).where(PushToken.user_id == user_id, IS_NO_VOIP)
    newest_first = theirs.order_by(PushToken.updated_at.desc(), PushToken.id).limit(MAX_OF_USER)
    return db.session.execute(newest_first).mappings().all()


# By what a sender may narrow what it asks for.
NARROWING = {
    "app_name": PushToken.app_name,
    "type": PushToken.type,
    "environment": ENVIRONMENT.element,
}


def _filters(wanted: Mapping[str, str | Sequence[str]]) -> list[ColumnElement[bool]]:
    """Return the conditions: a column has the value, or `app_names` (of a key) has the app.

    VoIP push tokens are only for who asks for their type.
    """
    no_calls = [] if "type" in wanted else [IS_NO_VOIP]
    return no_calls + [
        PushToken.app_name.in_(value) if name == "app_names" else NARROWING[name] == value
        for name, value in wanted.items()
    ]


def look_up(user_ids: Sequence[str], **wanted: str | Sequence[str]) -> Sequence[RowMapping] | None:
    """Return users' latest renewed, enabled registrations in sessions that are not over.

    They are ordered by user, device and app.

    `wanted` narrows them, by the names in NARROWING or to a list `app_names`. Of what is left,
    MAX_OF_USER of each user at most are returned. None where that is over LOOKUP_ROWS: then ask
    for fewer users at a time, LOOKUP_USERS of them never have more.

    A user's rows are found by the index and sorted, one user after the other, until there are
    enough: what a lookup costs is bounded by what the asked have, not by the table.
    """
    asked = as_table("asked", user_id=(Text, list(user_ids)))
    latest = (
        select(*PUBLIC_COLUMNS)
        .join(UserSession, PushToken.session_hash == UserSession.token_hash)
        .where(PushToken.user_id == asked.user_id, PushToken.enabled, is_reachable())
        .where(*_filters(wanted))
        .order_by(PushToken.updated_at.desc(), PushToken.id)
        .limit(MAX_OF_USER)
        .lateral("latest")
    )
    of_each = select(latest).select_from(asked.user_id.table.join(latest, true()))
    found = of_each.limit(LOOKUP_ROWS + 1).subquery("found")
    by_device = (found.c.user_id, found.c.device_id, found.c.app_name, found.c.id)
    rows = db.session.execute(select(found).order_by(*by_device)).mappings().all()
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
    after = PushToken.id > (cursor or "")
    boundary = (
        select(PushToken.id).where(after).order_by(PushToken.id).offset(EXAMINED - 1).limit(1)
    )
    last = db.session.scalar(boundary)
    within = and_(after, PushToken.id <= last) if last else after
    matching = (
        select(*PUBLIC_COLUMNS)
        .join(UserSession, PushToken.session_hash == UserSession.token_hash)
        .where(within, is_reachable(), *_filters(wanted))
        .order_by(PushToken.id)
        .limit(count)
    )
    if updated_since:
        matching = matching.where(PushToken.updated_at >= updated_since)
    rows = db.session.execute(matching).mappings().all()
    return rows, rows[-1]["id"] if len(rows) == count else last


def remove(user_id: str, push_token: str) -> int:
    """Remove a user's registrations of a push token in every app; return how many.

    An all-hex one is also looked for in lower case, as an APNs one would have been stored.
    """
    values = {push_token, normalize_apns_token(push_token)}
    return locks.remove_where(and_(PushToken.user_id == user_id, PushToken.token.in_(values)))
