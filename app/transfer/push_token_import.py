"""Import of Rocket.Chat's `_raix_push_app_tokens`, as mongoexport prints it, or of our export.

Rows go by COPY into a temporary table, a batch at a time, and are merged from there in one
transaction a batch. A row's `_id` names its device, within its user and app. The newest row of an
(appName, value) and of a device wins, whether the other ones are in the file or in the table, and
it wins as a whole, with its `_id` and dates; of two equally new ones the first stays. So a second
run, or one after a crash, changes nothing that the first one did.

Rows that are to be reachable for a time hang on a session of their user that nobody can sign in
with and that ends then; so do the ones in the table that an import left without a live session.
"""

import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg import errors

from app.database.connections import Connection
from app.database.failures import RETRYABLE
from app.limits import APN, VOIP
from app.transfer import import_sql as sql
from app.transfer import recognition, spread_import
from app.transfer.import_rows import ImportRow, device_key, rows
from app.transfer.mongoexport import Entry
from app.transfer.spread_import import SpreadMerge

# Rows in one transaction. Requests for its rows wait until it ends, for a second at most, so a
# slow or busy server gets smaller batches.
BATCH, SMALLEST_BATCH = 5000, 100
HELD = 0.25  # seconds that a transaction, and so its locks, should last
PATIENCE = 60.0  # seconds for which a batch that lost a race is tried again

Reject = Callable[[Entry, str], None]
Batch = dict[int, tuple[Entry, ImportRow]]  # by place in the file
Merged = tuple[int, int, Mapping[int, bool]]  # rows written, rows there before, misfits
Merging = tuple[Batch, Future[Merged]]

REASONS = {True: "authToken: the session of another user", False: "authToken: no known session"}


@dataclass
class ImportSummary:
    """Counts of registrations by outcome; `read` is the sum of the others.

    A document is one, or two where it has a VoIP push token beside the other.
    """

    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0

    @property
    def taken(self) -> int:
        """Return how many documents the table has now, or had newer."""
        return self.read - self.rejected

    def as_dict(self) -> dict[str, int]:
        """Return the summary as the command prints it."""
        return asdict(self)


class Importer:
    """Merges documents into the registrations, over its own connection in autocommit."""

    def __init__(
        self,
        connection: Connection,
        reject: Reject,
        *,
        known_only: bool = False,
        reachable_days: int | None = None,
        is_distributed: bool = False,
    ):
        self._connection = connection
        self._reject = reject
        self._known_only = known_only
        self._ends_at: datetime | None = None
        self._batch: Batch = {}
        # Of a batch: names of devices by `device_key`, and VoIP rows that want one, by place.
        self._names: dict[tuple[Any, ...], str] = {}
        self._unnamed: dict[int, tuple[Any, ...]] = {}
        self._has_calls = False  # the file has VoIP rows with an `_id` of their own
        self._size = BATCH / 10
        self._place = 0
        self._first: dict[str, Any] | None = None
        self.summary = ImportSummary()
        connection.prepare_threshold = None  # a plan must not outlive the size it was made for
        connection.execute(sql.PREPARE)
        if reachable_days:
            ((self._ends_at,),) = connection.execute(sql.ENDS_AT, {"days": reachable_days})
        self._spread: SpreadMerge | None = None
        if is_distributed:
            connection.execute(spread_import.PREPARE)
            self._spread = SpreadMerge(connection, self._ends_at, known_only=known_only)

    @property
    def why_nothing(self) -> str:
        """Return why nothing was taken of a file that had entries; "" where something was."""
        if not self.summary.read or self.summary.taken:
            return ""
        if self._first is None:
            return "no line of it is a JSON object; this is not what mongoexport prints"
        found = recognition.of_document(self._first)
        if found and "token" not in self._first and "tokenValue" not in self._first:
            return f"it is {found}"
        return "every row of it was rejected"

    def run(self, entries: Iterable[Entry], progress: Callable[[ImportSummary], None]) -> None:
        """Import all entries; when reading fails, what was read before is imported too."""
        # The writer's thread gets the interpreter within a millisecond of PostgreSQL's answer; by
        # default the reading thread keeps it for five.
        sys.setswitchinterval(0.001)
        with ThreadPoolExecutor(1) as writer:
            merging: Merging | None = None
            try:
                for entry in entries:
                    self._take(entry)
                    if len(self._batch) >= self._size:
                        merging = self._hand_over(writer, merging)
                        progress(self.summary)
            finally:
                merging = self._hand_over(writer, merging)
                self._hand_over(writer, merging)
                progress(self.summary)

    def _hand_over(self, writer: ThreadPoolExecutor, merging: Merging | None) -> Merging | None:
        """Have the batch merged while the next one is read; first count the previous one.

        Reading takes two fifths of the time, in Python; the database takes the rest.
        """
        batch, self._batch = self._batch, {}
        unnamed = self._name_calls(batch)
        staged = "".join(_staged(place, row) for place, (_, row) in batch.items())
        if merging:
            merged, outcome = merging
            self._count(merged, outcome.result())
        return (batch, writer.submit(self._flush, staged, unnamed)) if batch else None

    def _take(self, entry: Entry) -> None:
        problem = entry.problem
        if entry.document is not None:
            self._first = self._first or entry.document
            try:
                for row in rows(entry.document, for_a_time=self._ends_at is not None):
                    self._place += 1
                    self._batch[self._place] = (entry, row)
                    if key := device_key(entry.document):
                        self._note(row, key)
                return
            except ValueError as error:
                problem = str(error)
        self._refuse(entry, problem)

    def _note(self, row: ImportRow, key: tuple[Any, ...]) -> None:
        """Note the device of a row whose VoIP row is another one, or that it is that one."""
        if row.type == APN:
            self._names[key] = row.device_id
        elif row.type == VOIP:
            self._unnamed[self._place] = key
            self._has_calls = True

    def _name_calls(self, batch: Batch) -> list[int]:
        """Name VoIP rows after their devices; return the places of those not in this batch."""
        unnamed = []
        for place, key in self._unnamed.items():
            entry, row = batch[place]
            if name := self._names.get(key):
                batch[place] = entry, row._replace(device_id=name)
            else:
                unnamed.append(place)
        self._names, self._unnamed = {}, {}
        return unnamed

    def _refuse(self, entry: Entry, problem: str) -> None:
        self._reject(entry, problem)
        self.summary.read += 1
        self.summary.rejected += 1

    def _flush(self, staged: str, unnamed: list[int]) -> Merged:
        """Merge a batch and commit; retry when it lost a race."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                started = time.monotonic()
                with self._connection.transaction():
                    outcome = self._merge(staged, unnamed)
            except (*RETRYABLE, errors.LockNotAvailable):
                if time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0, 0.05))  # noqa: S311 (jitter)
            else:
                self._fit(time.monotonic() - started, staged.count("\n"))
                return outcome

    def _fit(self, seconds: float, rows: int) -> None:
        """Set the size of the next batches by the duration of the last one."""
        fitting = rows * HELD / seconds
        self._size = max(SMALLEST_BATCH, min(BATCH, fitting, self._size * 2))

    def _count(self, batch: Batch, outcome: Merged) -> None:
        written, old, misfits = outcome
        for place, is_foreign in sorted(misfits.items()):
            self._refuse(batch[place][0], REASONS[is_foreign])
        # Off by one for each registration that the service renewed during this batch.
        updated = min(old, written)
        self.summary.updated += updated
        self.summary.inserted += written - updated
        self.summary.unchanged += len(batch) - len(misfits) - written
        self.summary.read += len(batch) - len(misfits)

    def _merge(self, staged: str, unnamed: list[int]) -> Merged:
        """Merge; return rows written, rows that existed before, and the misfits' places."""
        if self._spread:
            return self._spread.merge(staged, unnamed, has_calls=self._has_calls)
        execute = self._connection.execute
        with self._connection.cursor().copy(sql.STAGE) as copy:
            copy.write(staged)
        if unnamed and not self._ends_at:
            execute(sql.NAME_CALLS, {"lines": unnamed})
        misfits = dict(execute(sql.MISFITS, {"known_only": self._known_only}).fetchall())
        if misfits:
            execute(sql.DROP_MISFITS, {"lines": list(misfits)})
        has_winners = execute(sql.PICK_WINNERS).rowcount > 0
        held: list[str] = []
        placeholders: list[bytes] = []
        if self._ends_at:
            execute(sql.KEEP_REACHABLE, {"ends_at": self._ends_at})
            held, placeholders = self._held()
        elif has_winners:
            execute(sql.LOCK_SESSIONS if self._known_only else sql.KEEP_SESSIONS)
        if not has_winners and not held:
            return 0, 0, misfits
        execute(sql.LOCK_OLD, {"held": held})
        (goes,) = execute(sql.WHAT_GOES)
        for statement, is_needed in zip((sql.DELETE_FORMER, sql.SILENCE), goes, strict=True):
            if is_needed:
                execute(statement)
        written = execute(sql.MERGE).rowcount
        if self._has_calls and not self._ends_at:
            execute(sql.NAME_FORMER_CALLS)
        ((old,),) = execute(sql.COUNT_OLD)
        if held:
            moved = execute(sql.MOVE_HELD, {"held": held, "placeholders": placeholders}).rowcount
            written, old = written + moved, old + moved
        return written, old, misfits

    def _held(self) -> tuple[list[str], list[bytes]]:
        """Find the table's rows that hang on another session without sign-in, and these."""
        execute = self._connection.execute
        found = execute(sql.FIND_HELD).fetchall()
        hashes = {"hashes": list({session_hash for _, session_hash in found})}
        placeholders = [one for (one,) in execute(sql.FIND_PLACEHOLDERS, hashes)]
        wanted = set(placeholders)
        return [row_id for row_id, held_by in found if held_by in wanted], placeholders


def _staged(place: int, row: ImportRow) -> str:
    """Format a row for COPY."""
    values = [write(value) for write, value in zip(WRITERS, row, strict=True)]
    return "\t".join([str(place), *values]) + "\n"


def _escape(text: str) -> str:
    if "\\" in text or "\n" in text or "\t" in text or "\r" in text:
        text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
        return text.replace("\r", "\\r")
    return text


# How COPY reads a value, by its type; one for each column.
_BY_TYPE: dict[type, Callable[[Any], str]] = {
    str: _escape,
    bytes: lambda value: f"\\\\x{value.hex()}",
    bool: lambda value: "t" if value else "f",
    datetime: datetime.isoformat,
}
WRITERS = [_BY_TYPE[kind] for kind in ImportRow.__annotations__.values()]
