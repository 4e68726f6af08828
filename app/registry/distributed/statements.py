"""The statements that register push tokens on a distributed PostgreSQL (see registration.py).

Arrays come as PostgreSQL writes them, so that the event loop's connection can send them too.
"""

from collections.abc import Iterable
from functools import cache

from app.registry.one_node.fragments import IS_LIVE

# Names that nobody else writes until the commit: who does not get one tries again. The lock is one
# of the node that all instances connect to, and the statement is on no table. So is the moment: in
# a query on a table Citus has each node tell its own.
CLAIM = """
SELECT place, pg_try_advisory_xact_lock(hashtextextended(name, 0)), now()
FROM unnest(%(names)s::text[]) WITH ORDINALITY AS asked (name, place)
"""

# No lock on the session: a logout at this instant may leave a row, which no lookup finds.
SESSIONS = f"""
SELECT encode(token_hash, 'hex'), user_id, verified_at
FROM user_sessions
WHERE token_hash = ANY (%(hashes)s::bytea[]) AND {IS_LIVE}
"""  # noqa: S608 (no value of a caller)

_ROW = """
p.id, p.app_name, p.token, p.user_id, p.device_id, p.type, p.enabled, p.created_at, p.updated_at
"""

# Of any of these apps, as Citus finds the nodes by the push tokens of an array.
OF_VALUES = f"""
SELECT {_ROW}
FROM push_tokens p
WHERE p.app_name = ANY (%(apps)s::text[]) AND p.token = ANY (%(tokens)s::text[])
"""  # noqa: S608

OF_DEVICES = f"""
SELECT {_ROW}
FROM unnest(%(users)s::text[], %(apps)s::text[], %(devices)s::text[])
    AS asked (user_id, app_name, device_id)
JOIN push_tokens p ON p.user_id = asked.user_id COLLATE "C"
    AND p.app_name = asked.app_name COLLATE "C" AND p.device_id = asked.device_id COLLATE "C"
"""  # noqa: S608

# Fails where another transaction holds the row. A lock of one value is one of one node.
LOCK_ONE = """
SELECT 1 FROM push_tokens WHERE app_name = %(app_name)s AND token = %(token)s FOR UPDATE NOWAIT
"""

REMOVE = """
DELETE FROM push_tokens WHERE token = ANY (%(tokens)s::text[]) AND id = ANY (%(ids)s::text[])
RETURNING id
"""

COLUMNS = {
    "id": "text",
    "app_name": "text",
    "token": "text",
    "type": "text",
    "user_id": "text",
    "session_hash": "bytea",
    "enabled": "boolean",
    "created_at": "timestamptz",
    "updated_at": "timestamptz",
    "environment": "text",
    "device_id": "text",
}

# Rows of one INSERT: a connection keeps a statement prepared for each number of rows.
AT_ONCE = 32


@cache
def write(rows: int) -> str:
    """Return the statement that writes so many rows, new ones or in the place of their values."""
    names = [name for name in COLUMNS if name not in {"app_name", "token"}]
    values = (
        ", ".join(f"%({name}_{row})s::{kind}" for name, kind in COLUMNS.items())
        for row in range(rows)
    )
    return f"""
INSERT INTO push_tokens ({", ".join(COLUMNS)})
VALUES {", ".join(f"({one})" for one in values)}
ON CONFLICT (app_name, token) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in names)}
RETURNING app_name, token, device_id, enabled, created_at, updated_at
"""  # noqa: S608 (the names are ours)


def array(texts: Iterable[str]) -> str:
    """Write texts as PostgreSQL's array."""
    escaped = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in escaped) + "}"


def bytes_(value: bytes) -> str:
    """Write bytes as PostgreSQL does."""
    return f"\\x{value.hex()}"
