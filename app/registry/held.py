"""Which registrations of a group would wait for a lock that another transaction holds."""

from collections.abc import Generator, Sequence
from typing import Any

import orjson

from app.registry.registration import Registration

# Each row is looked up by an index of its own accord (LATERAL with a lock is no join). What is
# there and was not skipped is free.
FIND_HELD = """
WITH asked AS MATERIALIZED (
    SELECT decode(hash, 'hex') AS session_hash, j.*
    FROM json_to_recordset(%(asked)s::json) AS j (
        place integer, hash text, user_id text COLLATE "C", app_name text COLLATE "C",
        token text COLLATE "C", device_id text COLLATE "C"
    )
),
free_sessions AS MATERIALIZED (
    SELECT a.place FROM asked a CROSS JOIN LATERAL (
        SELECT 1 FROM user_sessions WHERE token_hash = a.session_hash
        FOR KEY SHARE SKIP LOCKED
    ) s
),
free_values AS MATERIALIZED (
    SELECT a.place FROM asked a CROSS JOIN LATERAL (
        SELECT 1 FROM push_tokens WHERE app_name = a.app_name AND token = a.token
        FOR UPDATE SKIP LOCKED
    ) p
),
free_devices AS MATERIALIZED (
    SELECT a.place FROM asked a CROSS JOIN LATERAL (
        SELECT 1 FROM push_tokens
        WHERE user_id = a.user_id AND app_name = a.app_name AND device_id = a.device_id
        FOR UPDATE SKIP LOCKED
    ) p
)
SELECT a.place
FROM asked a
WHERE (SELECT count(*) FROM user_sessions WHERE token_hash = a.session_hash)
        > (SELECT count(*) FROM free_sessions f WHERE f.place = a.place)
    OR (SELECT count(*) FROM push_tokens WHERE app_name = a.app_name AND token = a.token)
        > (SELECT count(*) FROM free_values f WHERE f.place = a.place)
    OR (
        SELECT count(*) FROM push_tokens
        WHERE user_id = a.user_id AND app_name = a.app_name AND device_id = a.device_id
    ) > (SELECT count(*) FROM free_devices f WHERE f.place = a.place)
"""


def find_held(
    asked: Sequence[Registration],
) -> Generator[tuple[str, dict[str, Any]], Sequence[Sequence[Any]], set[int]]:
    """Return the places of the registrations whose session or rows are locked.

    Yields a statement with its parameters, and wants its rows sent back.
    """
    members = [
        {
            "place": place,
            "hash": one.token_hash.hex(),
            "user_id": one.user_id,
            "app_name": one.app_name,
            "token": one.token,
            "device_id": one.device_id,
        }
        for place, one in enumerate(asked)
    ]
    rows = yield FIND_HELD, {"asked": orjson.dumps(members).decode()}
    return {place for (place,) in rows}
