"""Messages to send and verdicts to report, in an SQLite file.

No push token is kept here for a later send: it may belong to another user by then. Every run looks
the users up again; the file only remembers which push token got which message.
"""

import fcntl
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

MAX_AGE = 24 * 3600  # seconds; a push that comes later than this is of no use

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id TEXT NOT NULL,
    text TEXT NOT NULL,
    added_at REAL NOT NULL,
    is_call INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS deliveries (
    message_id INTEGER NOT NULL REFERENCES messages ON DELETE CASCADE,
    app_name TEXT NOT NULL,
    value TEXT NOT NULL,
    done INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    not_before REAL NOT NULL,
    PRIMARY KEY (message_id, app_name, value)
);
CREATE TABLE IF NOT EXISTS verdicts (id INTEGER PRIMARY KEY AUTOINCREMENT, verdict TEXT NOT NULL);
"""


class Delivery(NamedTuple):
    """One message to one push token."""

    message_id: int
    text: str
    app_name: str
    type: str
    value: str
    tries: int


class Outbox:
    """The file. What is recorded is on the disk when the method returns."""

    def __init__(self, path: Path):
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(f"PRAGMA foreign_keys = ON; {SCHEMA}")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock out other runs, which would send the same; SystemExit when one is running."""
        with self._path.with_name(f"{self._path.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SystemExit("another run is at work on this outbox") from None
            yield

    def add(self, user_id: str, text: str, *, is_call: bool = False) -> int:
        """Take a message for all devices of a user, or for those that ring; returns its id."""
        if not 1 <= len(user_id.encode()) <= 255:
            raise SystemExit("a user id has 1 to 255 bytes")  # else every look-up would fail
        row = "INSERT INTO messages (user_id, text, added_at, is_call) VALUES (?, ?, ?, ?)"
        return int(self._db.execute(row, (user_id, text, time.time(), is_call)).lastrowid or 0)

    def users(self, batch: int) -> Iterator[list[str]]:
        """Yield the users with waiting messages, `batch` at a time."""
        after = ""
        query = "SELECT DISTINCT user_id FROM messages WHERE user_id > ? ORDER BY 1 LIMIT ?"
        while users := [user_id for (user_id,) in self._db.execute(query, (after, batch))]:
            yield users
            after = users[-1]

    def messages(self, users: Sequence[str]) -> list[tuple[int, str, str, int]]:
        """Return id, user, text and whether it is a call of the messages, the oldest first."""
        query = "SELECT id, user_id, text, is_call FROM messages WHERE user_id IN ({}) ORDER BY id"
        marks = ",".join("?" * len(users))
        return self._db.execute(query.format(marks), users).fetchall()

    def state(self, message_id: int) -> dict[tuple[str, str], tuple[bool, int, float]]:
        """Return by (app name, push token): done or not, tries, and the earliest next try."""
        query = "SELECT app_name, value, done, tries, not_before FROM deliveries"
        rows = self._db.execute(f"{query} WHERE message_id = ?", (message_id,))
        return {(app, value): (bool(done), *rest) for app, value, done, *rest in rows}

    def record(
        self, done: Iterable[tuple[Delivery, dict[str, Any] | None]], again: dict[Delivery, float]
    ) -> None:
        """Store which deliveries are done, with verdicts to report, and which wait until when."""
        upsert = "INSERT OR REPLACE INTO deliveries VALUES (?, ?, ?, ?, ?, ?)"
        self._db.execute("BEGIN IMMEDIATE")
        for delivery, verdict in done:
            key = (delivery.message_id, delivery.app_name, delivery.value)
            self._db.execute(upsert, (*key, True, delivery.tries + 1, 0))
            if verdict:
                insert = "INSERT INTO verdicts (verdict) VALUES (?)"
                self._db.execute(insert, (json.dumps(verdict),))
        for delivery, not_before in again.items():
            key = (delivery.message_id, delivery.app_name, delivery.value)
            self._db.execute(upsert, (*key, False, delivery.tries + 1, not_before))
        self._db.execute("COMMIT")

    def forget(self, message_ids: Iterable[int]) -> None:
        """Remove these messages, which are done, and all that are too old."""
        self._db.execute("BEGIN IMMEDIATE")
        rows = [(message_id,) for message_id in message_ids]
        self._db.executemany("DELETE FROM messages WHERE id = ?", rows)
        self._db.execute("DELETE FROM messages WHERE added_at < ?", (time.time() - MAX_AGE,))
        self._db.execute("COMMIT")

    def verdicts(self, limit: int) -> tuple[int, list[dict[str, Any]]]:
        """Return the oldest verdicts that are not reported, and the id of the last of them."""
        query = "SELECT id, verdict FROM verdicts ORDER BY id LIMIT ?"
        rows = self._db.execute(query, (limit,)).fetchall()
        return (rows[-1][0] if rows else 0), [json.loads(verdict) for _, verdict in rows]

    def reported(self, up_to: int) -> None:
        """Remove the verdicts up to an id."""
        self._db.execute("DELETE FROM verdicts WHERE id <= ?", (up_to,))

    def close(self) -> None:
        """Close the file."""
        self._db.close()
