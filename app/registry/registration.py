"""The hot path: registering push tokens, one or a hundred at once.

Nothing here talks to the database. `register` is a generator: it yields statements, and its
caller executes each one and sends the rows back, in autocommit where there are several members.

Nearly every registration renews a row whose user and device stay, or brings a new value, of a new
device or in place of the device's former one: one statement. What moves to another user, gets a
name or takes a value that the device's user has already goes on to a second one: it locks all rows
at stake, deletes them, and inserts what takes their place. No unique key is ever violated: a row
that another transaction inserted at that moment is left alone, and the member is to be tried
again.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from app.identifiers import fresh_id
from app.limits import PRODUCTION, VOIP
from app.registry.one_node.registration_sql import REGISTER, REGISTER_UNNAMED, REPLACE

__all__ = [
    "RACED",
    "Raced",
    "Registered",
    "Registration",
    "register",
    "rounds",
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


class Raced:
    """Stands for a registration that lost a race: it is to be tried again, alone."""


RACED: Final = Raced()


Statement = tuple[str, dict[str, Any]]
Rows = Sequence[Sequence[Any]]
# By the name that stands for each: the place in what was asked, and what to store.
Members = dict[str, tuple[int, Registration]]


def rounds(asked: Sequence[Registration]) -> list[list[int]]:
    """Split registrations so that no round has a push token or a device twice.

    Returns their places in `asked`, in order. One round nearly always; the second of two is
    answered as if they had come alone.
    """
    places: list[list[int]] = []
    taken: dict[tuple[str, ...], int] = {}  # by value or device: the first round without it
    for place, one in enumerate(asked):
        keys: list[tuple[str, ...]] = [(one.app_name, one.token)]
        if one.device_id is not None:
            keys.append((one.user_id, one.app_name, one.device_id))
        if one.voip_token is not None:
            keys.append((one.app_name, one.voip_token))
        number = max(taken.get(key, 0) for key in keys)
        if number == len(places):
            places.append([])
        places[number].append(place)
        taken.update(dict.fromkeys(keys, number + 1))
    return places


def register(
    asked: Sequence[Registration],
) -> Generator[Statement, Rows, list[Registered | Raced | None]]:
    """Register one round (see `rounds`); return what became of each, in order.

    Yields statements with their parameters, and wants the rows of each sent back. None stands
    for a registration without a valid session, RACED for one that lost a race.
    """
    outcomes: list[Registered | Raced | None] = [None] * len(asked)
    members: Members = {fresh_id(): (place, one) for place, one in enumerate(asked)}
    for place, one in enumerate(asked):
        if one.voip_token is not None:
            members[fresh_id()] = (
                place,
                one._replace(token=one.voip_token, type=VOIP, voip_token=None),
            )
    is_named = any(one.device_id is not None for one in asked)
    rows = yield REGISTER if is_named else REGISTER_UNNAMED, _parameters(members)
    others = _take(rows, members, outcomes)
    if others:
        rows = yield REPLACE, _parameters(others)
        for place, _ in _take(rows, others, outcomes).values():
            outcomes[place] = RACED
    return outcomes


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


def _take(rows: Rows, members: Members, outcomes: list[Registered | Raced | None]) -> Members:
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
