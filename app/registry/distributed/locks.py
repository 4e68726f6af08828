"""Removing on a distributed PostgreSQL: by what was just read, without locks on several rows.

Where one PostgreSQL passes over locked rows, this waits for them, DATABASE_LOCK_TIMEOUT at most,
and then asks for a lock on each row by itself: that is one of one node.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from psycopg import errors
from sqlalchemy import ColumnElement, Select, and_, delete, func, select
from sqlalchemy.exc import OperationalError

from app.database.arrays import among
from app.limits import VOIP
from app.models import PushToken, UserSession, db
from app.registry.calls import DEVICE, calls_of
from app.registry.distributed import SESSION_SETTINGS

KEY = (PushToken.id, PushToken.token, PushToken.updated_at)

# So many rows are looked for on their nodes, by their push tokens. More are on all nodes anyway,
# and up to PostgreSQL 16 the index is asked for each pair of an id and a token.
FEW = 10

Done = TypeVar("Done")


def bring_settings() -> None:
    """Have the rest of this transaction use SESSION_SETTINGS."""
    settings = (func.set_config(name, value, True) for name, value in SESSION_SETTINGS.items())
    db.session.execute(select(*settings))


def lock_sessions(which: ColumnElement[bool], *, skip_locked: bool = False) -> Sequence[bytes]:
    """Return the hashes of the sessions that `which` selects; no lock."""
    return db.session.scalars(select(UserSession.token_hash).where(which)).all()


def lock_registrations(which: ColumnElement[bool], *, skip_locked: bool = False) -> Sequence[str]:
    """Return the ids of the registrations that `which` selects; no lock."""
    return db.session.scalars(select(PushToken.id).where(which)).all()


def remove(
    found: Select[str],
    *,
    skip_locked: bool = False,
    limit: int | None = None,
    asked: Mapping[str, Any] | None = None,
) -> tuple[int, Sequence[Any]]:
    """Remove the registrations that a select finds, and the VoIP ones of their devices.

    As in one_node/locks.py; but with `skip_locked` it first waits for what is locked. `asked` are
    the select's parameters.
    """

    def read() -> Sequence[Any]:
        return db.session.execute(found.with_only_columns(*KEY).limit(limit), asked).all()

    def work(rows: Sequence[Any]) -> tuple[int, Sequence[Any]]:
        removed = delete_rows(rows, _still(found, rows), asked)
        return len(removed) + _silence(removed), removed

    if not skip_locked:
        return work(read())
    done = unless_locked(lambda: work(read()), None)
    if done is None:
        free = [row for row in read() if _is_free(row)]
        done = unless_locked(lambda: work(free), None)
    return done or (0, ())


def removing(
    found: Select[str], *, skip_locked: bool = False, limit: int | None = None
) -> Callable[..., int]:
    """Return a function that does as `remove` for a select's parameters, and counts what went."""

    def remove_those(**asked: Any) -> int:
        return remove(found, skip_locked=skip_locked, limit=limit, asked=asked)[0]

    return remove_those


def end_sessions(
    which: ColumnElement[bool], at_once: int, *, skip_locked: bool = False
) -> tuple[int, int]:
    """End the sessions that `which` selects, first these and then what was registered in them.

    A registration that looked at its session before that may stay; no lookup finds it. With
    `skip_locked` it first waits for what is locked, and then does without.
    """

    def work(which: ColumnElement[bool]) -> tuple[int, int]:
        gone = delete(UserSession).where(which).returning(UserSession.token_hash)
        ended = db.session.scalars(gone).all()
        registered = among(PushToken.session_hash, ended)
        removed, read = 0, at_once if ended else 0
        while read >= at_once:
            rows = db.session.execute(select(*KEY).where(registered).limit(at_once)).all()
            gone_now = delete_rows(rows, registered)
            removed, read = removed + len(gone_now) + _silence(gone_now), len(rows)
        return len(ended), removed

    if not skip_locked:
        return work(which)
    done = unless_locked(lambda: work(which), None)
    if done is None:
        free = and_(which, among(UserSession.token_hash, _free_sessions(which)))
        done = unless_locked(lambda: work(free), None)
    return done or (0, 0)


def _free_sessions(which: ColumnElement[bool]) -> list[bytes]:
    """Lock, one by one, the sessions that nobody holds, nor anything registered in them."""
    free = [one for one in lock_sessions(which) if _is_free_session(one)]
    held = select(*KEY, PushToken.session_hash).where(among(PushToken.session_hash, free))
    rows = db.session.execute(held).all()
    return sorted(set(free) - {row.session_hash for row in rows if not _is_free(row)})


def _is_free_session(token_hash: bytes) -> bool:
    one = select(UserSession.token_hash).where(UserSession.token_hash == token_hash)
    return unless_locked(lambda: [*db.session.scalars(one.with_for_update(nowait=True))], []) != []


def _is_free(row: Any) -> bool:
    one = select(PushToken.id).where(PushToken.token == row.token, PushToken.id == row.id)
    return unless_locked(lambda: [*db.session.scalars(one.with_for_update(nowait=True))], []) != []


def unless_locked(work: Callable[[], Done], nothing: Done) -> Done:
    """Do something, or nothing of it where another transaction is in the way all the time.

    That is for DATABASE_LOCK_TIMEOUT, or because each waits for the other.
    """
    try:
        with db.session.begin_nested():
            return work()
    except OperationalError as error:
        if isinstance(error.orig, errors.LockNotAvailable | errors.DeadlockDetected):
            return nothing
        raise


def _silence(removed: Sequence[Any]) -> int:
    """Remove the VoIP registrations of devices that lost their APNs one; return how many."""
    calls = calls_of(removed)
    if calls is None:
        return 0
    rows = db.session.execute(calls.with_only_columns(*KEY)).all()
    return len(delete_rows(rows, PushToken.type == VOIP))


def _still(found: Select[str], rows: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition to check again on what changed since it was read.

    That of the select; where it compares with what is asked, a row that was renewed stays.
    """
    if found.whereclause is not None and found.get_final_froms() == [PushToken.__table__]:
        return found.whereclause
    return unchanged(rows)


def unchanged(rows: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition that rows were not renewed since they were read."""
    return among(PushToken.updated_at, list({row.updated_at for row in rows}))


def delete_rows(
    rows: Sequence[Any], still: ColumnElement[bool], asked: Mapping[str, Any] | None = None
) -> Sequence[Any]:
    """Remove those of the rows (id, token) that still meet a condition; return what went.

    `asked` are the condition's parameters. Not the VoIP registrations of their devices.
    """
    if not rows:
        return ()
    gone = delete(PushToken).where(among(PushToken.id, [row.id for row in rows]), still)
    if len(rows) <= FEW:
        gone = gone.where(among(PushToken.token, [row.token for row in rows]))
    columns = (*DEVICE, PushToken.type, PushToken.token)
    removed: Sequence[Any] = db.session.execute(gone.returning(*columns), asked).all()
    return removed
