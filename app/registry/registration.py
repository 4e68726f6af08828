"""The hot path: registering push tokens, one or a hundred at once.

Nothing here talks to the database. `register` is a generator: it yields statements, and its
caller executes each one and sends the rows back, in autocommit where there are several members.

Nearly every registration renews a row whose user and device stay, or brings a new value, of a new
device or in place of the device's former one: one statement. What moves to another user, gets a
name or takes a value that the device's user has already goes on to a second one: it locks all
rows at stake, deletes them, and inserts what takes their place. No unique key is ever violated: a
row that another transaction inserted at that moment is left alone, and the member is to be tried
again.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from app.identifiers import fresh_id
from app.limits import PRODUCTION, VOIP
from app.registry.one_node.registration_sql import REGISTER, REGISTER_UNNAMED
from app.registry.one_node.replacing_sql import REPLACE

__all__ = [
    "RACED",
    "UNSETTLED",
    "Outcome",
    "Registered",
    "Registration",
    "Steps",
    "Unwritten",
    "first_round",
    "register",
    "renew_or_add",
    "wanted",
]


class Registration(NamedTuple):
    """What an app asks for, validated; the credentials are not checked yet.

    `device_id` is the app's own name of the device. `voip_token` is a second push token, of type
    voip, of the same device, which has to have a name. `max_age` is that of
    `models.is_valid_session`.
    """

    token_hash: bytes
    user_id: str
    app_name: str
    token: str
    type: str
    environment: str = PRODUCTION
    device_id: str | None = None
    max_age: int | None = None
    voip_token: str | None = None


class Registered(NamedTuple):
    """The row as it is now, and what became of it: one of `metrics.OUTCOMES`."""

    row: Mapping[str, Any]
    outcome: str


class Unwritten:
    """Stands for a registration that was not written, though there is a session for it."""


UNSETTLED: Final = Unwritten()  # not by `renew_or_add` alone
RACED: Final = Unwritten()  # it lost a race: it is to be tried again, alone


Outcome = Registered | Unwritten | None
Rows = Sequence[Sequence[Any]]
Statement = tuple[str, dict[str, Any]]
Steps = Generator[Statement, Rows, list[Outcome]]
# By the name that stands for each: the place in what was asked, and what to store.
Members = dict[str, tuple[int, Registration]]


def first_round(asked: Sequence[Registration]) -> tuple[list[int], list[int]]:
    """Split registrations so that the first part has no push token and no device twice.

    Returns the places in `asked` of that part, and of the others, both in order. Others there are
    hardly ever; each wants what one before it wants, and is to be written after that.
    """
    first: list[int] = []
    others: list[int] = []
    taken: set[tuple[str, ...]] = set()
    for place, one in enumerate(asked):
        keys = wanted(one)
        (first if taken.isdisjoint(keys) else others).append(place)
        taken.update(keys)
    return first, others


def wanted(one: Registration) -> tuple[tuple[str, ...], ...]:
    """Name what a registration writes: the rows of its push tokens and of its device."""
    value = (one.app_name, one.token)
    if one.device_id is None:
        return (value,)
    device = (one.user_id, one.app_name, one.device_id)
    if one.voip_token is None:
        return value, device
    return value, device, (one.app_name, one.voip_token)


def register(asked: Sequence[Registration]) -> Steps:
    """Register one round (see `first_round`), whatever it takes.

    Yields statements with their parameters, and wants the rows of each sent back. Returns what
    became of each registration, in order: None stands for one without a valid session, RACED for
    one that lost a race.
    """
    outcomes, left = yield from _renew_or_add(asked)
    if left:
        rows = yield REPLACE, _parameters(left)
        for place, _ in _take(rows, left, outcomes).values():
            outcomes[place] = RACED
    return outcomes


def renew_or_add(asked: Sequence[Registration]) -> Steps:
    """Register of one round what the quick statement can, as `register` does.

    UNSETTLED stands for what wants `register`.
    """
    outcomes, left = yield from _renew_or_add(asked)
    for place, _ in left.values():
        outcomes[place] = UNSETTLED
    return outcomes


def _renew_or_add(
    asked: Sequence[Registration],
) -> Generator[Statement, Rows, tuple[list[Outcome], Members]]:
    """Return the outcomes, and the members that are signed in and were not written."""
    outcomes: list[Outcome] = [None] * len(asked)
    members: Members = {fresh_id(): (place, one) for place, one in enumerate(asked)}
    for place, one in enumerate(asked):
        if one.voip_token is not None:
            members[fresh_id()] = (
                place,
                one._replace(token=one.voip_token, type=VOIP, voip_token=None),
            )
    is_named = any(one.device_id is not None for one in asked)
    rows = yield REGISTER if is_named else REGISTER_UNNAMED, _parameters(members)
    return outcomes, _take(rows, members, outcomes)


def _parameters(members: Members) -> dict[str, Any]:
    """Give the one parameter that both statements have."""
    rows = []
    for name, (_, one) in members.items():
        row = {
            "hash": one.token_hash.hex(),
            "user_id": one.user_id,
            "app_name": one.app_name,
            "token": one.token,
            "type": one.type,
            "environment": one.environment,
            "device_id": one.device_id,
            "max_age": one.max_age,
            "fresh_id": name,
        }
        if one.voip_token is not None:
            row["has_voip"] = True
        rows.append(row)
    return {"asked": orjson.dumps(rows).decode()}


def _take(rows: Rows, members: Members, outcomes: list[Outcome]) -> Members:
    """Note what was written; return the members that are signed in and were not.

    A member of type voip belongs to another one, whose outcome is that of both.
    """
    others: Members = {}
    for name, outcome, device_id, enabled, created_at, updated_at in rows:
        if updated_at is None:
            if name in members:
                others[name] = members[name]
            continue
        place, one = members.pop(name)
        if one.type == VOIP:
            continue
        row = {
            "device_id": device_id,
            "app_name": one.app_name,
            "token": one.token,
            "type": one.type,
            "user_id": one.user_id,
            "enabled": enabled,
            "created_at": created_at,
            "updated_at": updated_at,
        }
        outcomes[place] = Registered(row, outcome)
    return others
