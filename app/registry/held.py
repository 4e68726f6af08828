"""Which registrations of a group would wait for a lock that another transaction holds."""

from collections.abc import Generator, Sequence
from typing import Any

import orjson

from app.registry.one_node.held_sql import FIND_HELD
from app.registry.registration import Registration


def find_held(
    asked: Sequence[Registration],
) -> Generator[tuple[str, dict[str, Any]], Sequence[Sequence[Any]], set[int]]:
    """Return the places of the registrations whose session or rows are locked.

    Yields a statement with its parameters, and wants its rows sent back.
    """
    members = [_member(2 * place, one, one.token) for place, one in enumerate(asked)]
    for place, one in enumerate(asked):
        if one.voip_token is not None:
            members.append(_member(2 * place + 1, one, one.voip_token))
    rows = yield FIND_HELD, {"asked": orjson.dumps(members).decode()}
    return {number // 2 for (number,) in rows}


def _member(number: int, one: Registration, token: str) -> dict[str, Any]:
    return {
        "place": number,
        "hash": one.token_hash.hex(),
        "user_id": one.user_id,
        "app_name": one.app_name,
        "token": token,
        "device_id": one.device_id,
    }
