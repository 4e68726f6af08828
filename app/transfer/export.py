"""Export: every registration as a line of JSON that the import takes back without loss."""

from collections.abc import Iterator, Sequence
from datetime import datetime

import orjson
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.dialects.postgresql.psycopg import dialect
from sqlalchemy.orm import InstrumentedAttribute

from app.database.connections import Connection
from app.models import PushToken
from app.registry.push_tokens import DEVICE_ID, ENVIRONMENT

CHUNK = 1000  # lines yielded at a time


def _moment(column: InstrumentedAttribute[datetime]) -> ColumnElement[str]:
    """Format a moment as JavaScript does, in SQL: it may be beyond Python's calendar."""
    return func.to_char(func.timezone("UTC", column), 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')


COLUMNS = (
    DEVICE_ID,
    PushToken.type,
    PushToken.token,
    func.encode(PushToken.session_hash, "base64"),
    PushToken.app_name,
    PushToken.user_id,
    func.to_jsonb(PushToken.enabled),
    _moment(PushToken.created_at),
    _moment(PushToken.updated_at),
    ENVIRONMENT,
)


def lines(connection: Connection, app_name: str | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield (number of lines, their bytes), of one snapshot, in no particular order.

    The lines are Rocket.Chat's rows as mongoexport prints them. They are streamed: neither side
    holds the table in memory.
    """
    rows = select(*COLUMNS)
    if app_name is not None:
        rows = rows.where(PushToken.app_name == app_name)
    query = rows.compile(dialect=dialect())  # type: ignore[no-untyped-call]
    chunk: list[bytes] = []
    with connection.cursor().copy(f"COPY ({query}) TO STDOUT", query.params) as copy:
        for row in copy.rows():
            chunk.append(_line(row))
            if len(chunk) == CHUNK:
                yield CHUNK, b"".join(chunk)
                chunk.clear()
    yield len(chunk), b"".join(chunk)


def _line(row: Sequence[str]) -> bytes:
    device_id, type_, token, session_hash, app_name, user_id, enabled, *dates, environment = row
    created_at, updated_at = dates
    document = {
        "_id": device_id,
        "token": {type_: token},
        "authToken": session_hash,
        "appName": app_name,
        "userId": user_id,
        "enabled": enabled == "true",
        "createdAt": {"$date": created_at},
        "updatedAt": {"$date": updated_at},
        "environment": environment,
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
