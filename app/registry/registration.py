"""The statement that registers push tokens, for one and for many."""

from collections.abc import Generator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

import orjson

from app.identifiers import fresh_id
from app.limits import PRODUCTION


class Registration(NamedTuple):
    """What an app asks for, validated; the credentials are not checked yet."""

    token_hash: bytes
    user_id: str
    app_name: str
    token: str
    type: str
    environment: str = PRODUCTION
    device_id: str | None = None
    max_age: int | None = None


class Registered(NamedTuple):
    """A registration that is stored, and what it was to the one before."""

    row: Mapping[str, Any]
    outcome: str


class Raced(Enum):
    """A registration that lost a race and is to be tried again alone."""

    RACED = "raced"


RACED: Final = Raced.RACED
Rows = Sequence[Sequence[Any]]
SESSION_SETTINGS = (
    "SET jit = off",
    "SET plan_cache_mode = force_generic_plan",
    "SET enable_seqscan = off",
    "SET enable_nestloop = off",
)

ASKED = """
asked AS MATERIALIZED (
    SELECT place, decode(hash, 'hex') AS token_hash, user_id COLLATE "C" AS user_id,
        app_name COLLATE "C" AS app_name, token COLLATE "C" AS token, type, environment, id,
        max_age
    FROM json_to_recordset(%(asked)s::json) AS j (
        place int, hash text, user_id text, app_name text, token text, type text,
        environment text, id text, max_age int
    )
)"""

STATEMENT = f"""
WITH {ASKED}, signed_in AS MATERIALIZED (
    SELECT token_hash, user_id, verified_at FROM user_sessions
    WHERE token_hash = ANY (ARRAY(SELECT token_hash FROM asked))
    AND can_sign_in AND (expires_at IS NULL OR expires_at > now())
    ORDER BY token_hash FOR KEY SHARE
), written AS (
    INSERT INTO push_tokens (id, app_name, token, type, environment, user_id, session_hash,
        created_at, updated_at)
    SELECT id, app_name, token, type, environment, a.user_id, a.token_hash, now(), now()
    FROM asked a JOIN signed_in s ON s.token_hash = a.token_hash AND s.user_id = a.user_id
    AND (a.max_age IS NULL OR s.verified_at IS NULL
        OR s.verified_at > now() - a.max_age * interval '1 second')
    ORDER BY app_name, token
    ON CONFLICT (app_name, token) DO UPDATE SET type = excluded.type,
        environment = excluded.environment, user_id = excluded.user_id,
        session_hash = excluded.session_hash, updated_at = excluded.updated_at
    RETURNING app_name, token, id, enabled, created_at, updated_at
)
SELECT a.place, w.id, w.enabled, w.created_at, w.updated_at,
    (SELECT p.user_id FROM push_tokens p WHERE p.app_name = a.app_name AND p.token = a.token)
FROM written w JOIN asked a ON a.app_name = w.app_name AND a.token = w.token
"""

FIND_HELD = f"""
WITH {ASKED}, free AS MATERIALIZED (
    SELECT token_hash FROM user_sessions
    WHERE token_hash = ANY (ARRAY(SELECT token_hash FROM asked))
    FOR KEY SHARE SKIP LOCKED
), free_rows AS MATERIALIZED (
    SELECT id FROM push_tokens WHERE id = ANY (ARRAY(
        SELECT (SELECT p.id FROM push_tokens p WHERE p.app_name = a.app_name AND p.token = a.token)
        FROM asked a))
    FOR UPDATE SKIP LOCKED
)
SELECT place FROM asked a
WHERE (EXISTS (SELECT 1 FROM user_sessions s WHERE s.token_hash = a.token_hash)
    AND a.token_hash NOT IN (SELECT token_hash FROM free))
OR (SELECT p.id FROM push_tokens p WHERE p.app_name = a.app_name AND p.token = a.token)
    NOT IN (SELECT id FROM free_rows)
"""


def rounds(asked: Sequence[Registration]) -> list[list[int]]:
    """Split registrations so that no round has a push token twice; their order stays."""
    split: list[list[int]] = []
    seen: list[set[Any]] = []
    for place, one in enumerate(asked):
        key = one.app_name, one.token
        for members, keys in zip(split, seen, strict=True):
            if key not in keys:
                members.append(place)
                keys.add(key)
                break
        else:
            split.append([place])
            seen.append({key})
    return split


def _parameter(asked: Sequence[Registration]) -> dict[str, Any]:
    return {
        "asked": orjson.dumps(
            [
                {
                    "place": place,
                    "hash": one.token_hash.hex(),
                    "user_id": one.user_id,
                    "app_name": one.app_name,
                    "token": one.token,
                    "type": one.type,
                    "environment": one.environment,
                    "id": fresh_id(),
                    "max_age": one.max_age,
                }
                for place, one in enumerate(asked)
            ]
        ).decode()
    }


def register(
    asked: Sequence[Registration],
) -> Generator[tuple[str, dict[str, Any]], Rows, list["Registered | None | Raced"]]:
    """Store one round."""
    rows = yield STATEMENT, _parameter(asked)
    results: list[Registered | Raced | None] = [None] * len(asked)
    for place, id_, enabled, created_at, updated_at, before in rows:
        one = asked[place]
        outcome = (
            "created" if before is None else "moved" if before != one.user_id else "refreshed"
        )
        row = {
            "id": id_,
            "app_name": one.app_name,
            "token": one.token,
            "type": one.type,
            "user_id": one.user_id,
            "enabled": enabled,
            "created_at": created_at,
            "updated_at": updated_at,
        }
        results[place] = Registered(row, outcome)
    return results


def find_held(
    asked: Sequence[Registration],
) -> Generator[tuple[str, dict[str, Any]], Rows, set[int]]:
    """Return the places of the registrations whose session or row another transaction holds."""
    rows = yield FIND_HELD, _parameter(asked)
    return {row[0] for row in rows}
