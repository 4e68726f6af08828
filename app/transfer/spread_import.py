"""Merges a batch of imported rows on a distributed PostgreSQL (DATABASE_DISTRIBUTED).

There a temporary table joins no table that is spread. So what the batch concerns of the two tables
is copied beside it first, into `known` and `near`. What to write is decided there, by the very
statements of import_sql.py, and what they change there is then done to the tables by statements of
their own. A row that changed since it was copied stays as it is.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from psycopg.types.string import TextLoader

from app.database.connections import Connection
from app.transfer import import_sql as sql
from app.transfer.import_rows import ImportRow

PREPARE = """
CREATE TEMPORARY TABLE known (
    token_hash bytea, user_id text COLLATE "C", can_sign_in boolean, expires_at timestamptz(3)
) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE near (
    id text COLLATE "C" UNIQUE, app_name text COLLATE "C", token text COLLATE "C",
    type text COLLATE "C", user_id text COLLATE "C", session_hash bytea,
    device_id text COLLATE "C", updated_at timestamptz(3)
) ON COMMIT DELETE ROWS;
CREATE INDEX ON known (token_hash);
CREATE INDEX ON near (app_name, token);
CREATE INDEX ON near (user_id, app_name, device_id);
CREATE INDEX ON near (session_hash);
"""
HASHES = "SELECT DISTINCT session_hash FROM staged"
KNOWN = """
SELECT token_hash, user_id, can_sign_in, expires_at
FROM user_sessions WHERE token_hash = ANY (%s)
"""
_NEAR = """
SELECT p.id, p.app_name, p.token, p.type, p.user_id, p.session_hash, p.device_id, p.updated_at
"""
VALUES = "SELECT array_agg(DISTINCT app_name), array_agg(DISTINCT token) FROM staged"
OF_VALUES = f"{_NEAR} FROM push_tokens p WHERE p.app_name = ANY (%s) AND p.token = ANY (%s)"
OF_SESSIONS = f"{_NEAR} FROM push_tokens p WHERE p.session_hash = ANY (%s)"
DEVICES = """
SELECT user_id, app_name, device_id FROM staged UNION SELECT user_id, app_name, device_id FROM near
"""
OF_DEVICES = f"""
{_NEAR}
FROM unnest(%s::text[], %s::text[], %s::text[]) AS asked (user_id, app_name, device_id)
JOIN push_tokens p ON p.user_id = asked.user_id COLLATE "C"
    AND p.app_name = asked.app_name COLLATE "C" AND p.device_id = asked.device_id COLLATE "C"
"""
COPY = {
    "known": "COPY known FROM STDIN",
    "near": "COPY near FROM STDIN",
}
COPIED = "SELECT id FROM near"
SESSIONS = """
SELECT DISTINCT ON (session_hash) session_hash, user_id FROM {} ORDER BY session_hash, line
"""
KEEP_SESSIONS = """
INSERT INTO user_sessions (token_hash, user_id, can_sign_in, expires_at)
SELECT token_hash, user_id, false, %s::timestamptz
FROM unnest(%s::bytea[], %s::text[]) AS asked (token_hash, user_id)
ON CONFLICT (token_hash) DO UPDATE SET expires_at = excluded.expires_at
WHERE user_sessions.expires_at < excluded.expires_at
"""
# By the id alone: see FEW in registry/distributed/locks.py.
REMOVE = """
DELETE FROM push_tokens WHERE id = ANY (%s::text[]) AND updated_at = ANY (%s::timestamptz[])
"""
WRITTEN = f"""
SELECT {", ".join(f"w.{name}::text" for name in ImportRow._fields)}
FROM winners w
WHERE w.user_id = (SELECT user_id FROM known WHERE token_hash = w.session_hash)
ORDER BY w.app_name, w.token
"""  # noqa: S608 (the names are ours)
CASTS = {str: "text", bytes: "bytea", bool: "boolean", datetime: "timestamptz"}
MERGE = f"""
INSERT INTO push_tokens ({", ".join(ImportRow._fields)})
SELECT * FROM unnest({", ".join(f"%s::{CASTS[kind]}[]" for _, kind in sql.COLUMNS)})
ON CONFLICT ({", ".join(sql.KEY)}) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in sql.RENEWED)}
WHERE push_tokens.updated_at < excluded.updated_at
"""  # noqa: S608 (the names are ours)
# The same to what was copied, for what is decided after it.
MERGE_NEAR = """
WITH gone AS (
    DELETE FROM near n USING winners w
    WHERE n.app_name = w.app_name AND n.token = w.token RETURNING n.id
)
INSERT INTO near
SELECT line::text || E'\\n', app_name, token, type, user_id, session_hash, device_id, updated_at
FROM winners CROSS JOIN (SELECT count(*) FROM gone) deleted
"""
NAME_CALL = """
UPDATE push_tokens p SET device_id = asked.device_id
FROM unnest(%s::text[], %s::text[]) AS asked (token, device_id)
WHERE p.token = asked.token COLLATE "C" AND p.type = 'voip' AND p.session_hash = ANY (%s::bytea[])
"""
HELD = """
SELECT p.id, p.token, s.session_hash, p.session_hash
FROM staged s JOIN near p
    ON p.app_name = s.app_name AND p.token = s.token AND p.user_id = s.user_id
WHERE p.session_hash <> s.session_hash
"""
MOVE_HELD = """
UPDATE push_tokens p SET session_hash = asked.session_hash
FROM unnest(%s::text[], %s::text[], %s::bytea[]) AS asked (id, token, session_hash)
WHERE p.token = asked.token COLLATE "C" AND p.id = asked.id COLLATE "C"
    AND p.session_hash = ANY (%s)
"""

Merged = tuple[int, int, dict[int, bool]]  # rows written, rows there before, misfits


class SpreadMerge:
    """Merges batches over a connection, each in a transaction of its own."""

    def __init__(self, connection: Connection, ends_at: datetime | None, *, known_only: bool):
        self._execute = connection.execute
        self._connection = connection
        # Moments stay text: Python's calendar ends before PostgreSQL's. Not by a cast, as each
        # node would write its rows' by its own DateStyle.
        connection.adapters.register_loader("timestamptz", TextLoader)
        self._ends_at = ends_at
        self._known_only = known_only

    def merge(self, staged: str, unnamed: list[int], *, has_calls: bool) -> Merged:
        """Merge a batch; `unnamed` are the places of VoIP rows that want a device's name."""
        with self._connection.cursor().copy(sql.STAGE) as copy:
            copy.write(staged)
        self._bring_sessions()
        self._bring_near(unnamed, has_calls=has_calls and not self._ends_at)
        known_only = {"known_only": self._known_only}
        misfits = dict(self._execute(_beside(sql.MISFITS), known_only).fetchall())
        if misfits:
            self._execute(sql.DROP_MISFITS, {"lines": list(misfits)})
        has_winners = self._execute(_beside(sql.PICK_WINNERS)).rowcount > 0
        held: list[Sequence[Any]] = []
        placeholders: list[bytes] = []
        if self._ends_at or (has_winners and not self._known_only):
            kept = self._execute(SESSIONS.format("staged" if self._ends_at else "winners"))
            self._execute(KEEP_SESSIONS, [self._ends_at, *_columns(kept.fetchall(), 2)])
            self._bring_sessions()
        if self._ends_at:
            held, placeholders = self._held()
        if not has_winners and not held:
            return 0, 0, misfits
        written = self._write(has_calls=has_calls and not self._ends_at)
        ((old,),) = self._execute(sql.COUNT_OLD)
        if held:
            moved = [*_columns(held, 3), placeholders]
            number = self._execute(MOVE_HELD, moved).rowcount
            written, old = written + number, old + number
        return written, old, misfits

    def _write(self, *, has_calls: bool) -> int:
        """Do to the tables what the winners take; return how many rows were written."""
        for statement, table in ((sql.DELETE_FORMER, "p"), (sql.SILENCE, "v")):
            key = ", ".join(f"{table}.{name}" for name in ("id", "updated_at::text"))
            if doomed := self._execute(f"{_beside(statement)} RETURNING {key}").fetchall():
                self._execute(REMOVE, _columns(doomed, 2))
        rows = self._execute(WRITTEN).fetchall()
        written = (
            self._execute(MERGE, _columns(rows, len(ImportRow._fields))).rowcount if rows else 0
        )
        if has_calls:
            self._execute(MERGE_NEAR)
            named = (
                f"{_beside(sql.NAME_FORMER_CALLS)} RETURNING v.token, v.device_id, v.session_hash"
            )
            if calls := self._execute(named).fetchall():
                self._execute(NAME_CALL, _columns(calls, 3))
        return written

    def _bring_sessions(self) -> None:
        """Copy the sessions that the batch concerns, anew after some were made."""
        hashes = [one for (one,) in self._execute(HASHES)]
        self._execute("DELETE FROM known")
        self._copy("known", self._execute(KNOWN, [hashes]).fetchall())

    def _bring_near(self, unnamed: list[int], *, has_calls: bool) -> None:
        """Copy the registrations that the batch concerns; name VoIP rows after their devices."""
        values = self._execute(VALUES).fetchone()
        self._copy("near", self._execute(OF_VALUES, values).fetchall())
        if has_calls:
            hashes = [one for (one,) in self._execute(HASHES)]
            self._bring_more(OF_SESSIONS, [hashes])
        if unnamed and has_calls:
            self._execute(_beside(sql.NAME_CALLS), {"lines": unnamed})
        self._bring_more(OF_DEVICES, _columns(self._execute(DEVICES).fetchall(), 3))

    def _bring_more(self, query: str, asked: Sequence[Any]) -> None:
        copied = {one for (one,) in self._execute(COPIED)}
        rows = self._execute(query, asked).fetchall()
        self._copy("near", [(id_, *rest) for id_, *rest in rows if id_ not in copied])

    def _copy(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._connection.cursor().copy(COPY[table]) as copy:
            for row in rows:
                copy.write_row(row)

    def _held(self) -> tuple[list[Sequence[Any]], list[bytes]]:
        """Find the table's rows that hang on another session without sign-in, and these."""
        found = self._execute(HELD).fetchall()
        hashes = {"hashes": list({former for *_, former in found})}
        placeholders = [one for (one,) in self._execute(sql.FIND_PLACEHOLDERS, hashes)]
        wanted = set(placeholders)
        return [moved for *moved, former in found if former in wanted], placeholders


def _beside(statement: str) -> str:
    """Return a statement of import_sql.py on what was copied beside the batch."""
    return statement.replace("user_sessions", "known").replace("push_tokens", "near").strip()


def _columns(rows: Sequence[Sequence[Any]], number: int) -> list[list[Any]]:
    """Turn rows into one list for each column."""
    return [[row[place] for row in rows] for place in range(number)]
