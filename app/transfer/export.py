"""Export: every registration as a line of JSON that the import takes back without loss."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.dialects.postgresql.psycopg import dialect
from sqlalchemy.orm import InstrumentedAttribute

from app.database.connections import Connection
from app.models import PushToken
from app.registry.reading_sql import DEVICE_ID, ENVIRONMENT
from app.transfer.import_rows import ImportRow

CHUNK = 1000  # lines yielded at a time


def _moment(column: InstrumentedAttribute[datetime]) -> ColumnElement[str]:
    """Format a moment as JavaScript does, in SQL: it may be beyond Python's calendar."""
    return func.to_char(func.timezone("UTC", column), 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')


# The columns that COPY's text cannot have as they are.
WRITTEN: dict[str, ColumnElement[Any]] = {
    "device_id": DEVICE_ID,
    "session_hash": func.encode(PushToken.session_hash, "base64"),
    "enabled": func.to_jsonb(PushToken.enabled),
    "created_at": _moment(PushToken.created_at),
    "updated_at": _moment(PushToken.updated_at),
    "environment": ENVIRONMENT,
}
NAMES = [name for name in ImportRow._fields if name != "id"]  # each import makes it anew
COLUMNS = [WRITTEN.get(name, getattr(PushToken, name)) for name in NAMES]


def lines(connection: Connection, app_name: str | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield (number of lines, their bytes), of one snapshot, in no particular order.

    The lines are Rocket.Chat's rows as mongoexport prints them. They are streamed: neither side
    holds the table in memory.
    """
    rows = select(*COLUMNS)
    if app_name is not None:
        rows = rows.where(PushToken.app_name == app_name)
    query = rows.compile(dialect=dialect())  # type: ignore[no-untyped-call]  # SQLAlchemy's
    chunk: list[bytes] = []
    with connection.cursor().copy(f"COPY ({query}) TO STDOUT", query.params) as copy:
        for row in copy.rows():
            chunk.append(_line(row))
            if len(chunk) == CHUNK:
                yield CHUNK, b"".join(chunk)
                chunk.clear()
    yield len(chunk), b"".join(chunk)


def _line(texts: Sequence[str]) -> bytes:
    row = dict(zip(NAMES, texts, strict=True))
    document = {
        "_id": row["device_id"],
        "token": {row["type"]: row["token"]},
        "authToken": row["session_hash"],
        "appName": row["app_name"],
        "userId": row["user_id"],
        "enabled": row["enabled"] == "true",
        "createdAt": {"$date": row["created_at"]},
        "updatedAt": {"$date": row["updated_at"]},
        "environment": row["environment"],
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
