"""Rows of `_raix_push_app_tokens` as mongoexport prints them."""

import hashlib
import json
from base64 import b64encode
from datetime import UTC, datetime

MOMENT = datetime(2018, 9, 11, 18, 22, 55, 6000, UTC)
DATE = {"$date": "2018-09-11T18:22:55.006Z"}
# The same moment in every form that mongoexport has for it.
DATES = [
    DATE,
    {"$date": {"$numberLong": "1536690175006"}},
    {"$date": "2018-09-12T02:22:55.006+0800"},
    {"$date": 1536690175006},
]
LATER = {"$date": "2019-01-01T00:00:00.000Z"}


def auth_hash(name: str = "session") -> str:
    """Return what a row names its session by: the SHA-256 of the auth token, in base64."""
    return b64encode(hashlib.sha256(name.encode()).digest()).decode()


def row(value: str = "t1", **changes: object) -> dict[str, object]:
    """Return a row of era A; a change to None leaves the field out."""
    made = {
        "_id": f"id-{value}",
        "token": {"gcm": value},
        "authToken": auth_hash(value),
        "appName": "main",
        "userId": "alice",
        "enabled": True,
        "createdAt": DATE,
        "updatedAt": DATE,
        "metadata": {},
        **changes,
    }
    return {name: field for name, field in made.items() if field is not None}


def ndjson(*rows: object) -> bytes:
    """Return one line for each row; bytes are taken as they are."""
    return b"".join(r if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in rows)
