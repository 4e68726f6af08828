"""The verb of `push-tokens sweep`: mends what races leave on a distributed PostgreSQL.

There no foreign key ties a registration to its session, and no unique index holds a device to one
registration. The table is walked in the order of its devices, a part at a time; the caller commits
after each. On one PostgreSQL it finds nothing.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Row, select, tuple_

from app.database.arrays import among
from app.limits import VOIP
from app.models import PushToken, UserSession, db
from app.registry.calls import DEVICE
from app.registry.distributed.locks import KEY, delete_rows, unchanged, unless_locked

SLICE = 5000  # rows looked at in one transaction


class Swept(NamedTuple):
    """What one part of the table had; in a dry run what would have gone."""

    examined: int
    orphans: int  # registrations without a session
    doubles: int  # all but the latest registration of a device


def sweep(*, dry_run: bool) -> Iterator[Swept]:
    """Remove registrations without a session, and all but the latest of each device.

    What was renewed since it was looked at stays.
    """
    columns = (*DEVICE, *KEY, PushToken.session_hash, PushToken.type)
    page = select(*columns).order_by(*DEVICE, PushToken.id).limit(SLICE)
    rows: list[Row[Any]] = list(db.session.execute(page))
    while rows:
        is_last = len(rows) < SLICE
        complete = rows if is_last else _complete(rows)
        orphans = _orphans(complete)
        if orphans and not dry_run:
            # Nodes show a commit one after the other: of an import the rows, and then the session.
            yield Swept(0, 0, 0)
            orphans = _orphans(orphans)
        gone = set(orphans)
        doubles = _doubles([row for row in complete if row not in gone])
        if not dry_run:
            orphans, doubles = _remove(orphans), _remove(doubles)
        yield Swept(len(complete), len(orphans), len(doubles))
        if is_last:
            return
        after = tuple_(*DEVICE) > tuple_(*_device(complete[-1]))
        rows = list(db.session.execute(page.where(after)))


def _complete(rows: list[Row[Any]]) -> list[Row[Any]]:
    """Return the rows without the last device, of which there may be more; unless it is all."""
    last = _device(rows[-1])
    return [row for row in rows if _device(row) != last] or rows


def _device(row: Row[Any]) -> tuple[str, str, str]:
    """Return the device that a row is of."""
    return row.user_id, row.app_name, row.device_id


def _orphans(rows: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """Return the rows whose session is gone; it was made before they were."""
    hashes = list({row.session_hash for row in rows})
    there = select(UserSession.token_hash).where(among(UserSession.token_hash, hashes))
    known = set(db.session.scalars(there))
    return [row for row in rows if row.session_hash not in known]


def _doubles(rows: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """Return all rows but the latest of each device; calls have a registration of their own."""

    def device(row: Row[Any]) -> tuple[Any, ...]:
        return (*_device(row), row.type == VOIP)

    found: list[Row[Any]] = []
    for _, same in groupby(sorted(rows, key=device), key=device):
        _, *older = sorted(same, key=lambda row: (row.updated_at, row.id), reverse=True)
        found += older
    return found


def _remove(rows: Sequence[Row[Any]]) -> Sequence[Any]:
    """Remove rows, and not the VoIP ones of their devices, which are those of a row that stays."""
    return unless_locked(lambda: delete_rows(rows, unchanged(rows)), ())
