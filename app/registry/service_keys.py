"""Verbs on service keys. They never commit.

Issuing and revoking is for a role of the database of its own; the role that serves only reads
keys, and notes when they were used.
"""

import secrets
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, func, insert, or_, select, true, update
from sqlalchemy.dialects.postgresql import insert as upsert

from app.identifiers import hash_secret
from app.models import ServiceKey, ServiceKeyEvent, ServiceKeyUse, db

SCOPES = ("lookup", "feedback", "sessions")
UNBINDABLE = "sessions"  # belong to no app
USE_LOCK_TIMEOUT = "100ms"  # a request waits no longer to note that its key was used

_key_id = func.left(func.encode(ServiceKey.key_hash, "hex"), 8)  # to name a key, and no way in


def _is_live() -> ColumnElement[bool]:
    ends_later = or_(ServiceKey.expires_at.is_(None), ServiceKey.expires_at > func.now())
    return and_(ServiceKey.revoked_at.is_(None), ends_later)


def issue(
    name: str,
    scopes: Iterable[str],
    *,
    app_names: Iterable[str] = (),
    days: int | None = None,
) -> str:
    """Make a key beside those that bear the name already; return it, 43 characters.

    With `app_names` it sees only these apps' registrations (not with the scope UNBINDABLE); with
    `days` it has an end.
    """
    key = secrets.token_urlsafe(32)
    issued = (
        insert(ServiceKey)
        .values(
            key_hash=hash_secret(key.encode()),
            name=name,
            scopes=sorted(set(scopes)),
            app_names=sorted(set(app_names)) or None,
            expires_at=None if days is None else func.now() + timedelta(days=days),
        )
        .returning(*_EVENT_COLUMNS)
    )
    _record("issued", db.session.execute(issued).all())
    return key


_EVENT_COLUMNS = (ServiceKey.name, _key_id, ServiceKey.scopes, ServiceKey.app_names)


def _record(event: str, keys: Sequence[Any]) -> None:
    """Keep what happened to keys; the database adds the moment and the role."""
    names = ("name", "key_id", "scopes", "app_names")
    rows = [{"event": event, **dict(zip(names, key, strict=True))} for key in keys]
    if rows:
        # Into the table and not through the model, which would ask for the new ids.
        db.session.execute(insert(ServiceKeyEvent.__table__), rows)


def find(key_hash: bytes) -> RowMapping | None:
    """Return name, scopes and app names of the live key of this SHA-256, None without one."""
    columns = (ServiceKey.name, ServiceKey.scopes, ServiceKey.app_names)
    live = select(*columns).where(ServiceKey.key_hash == key_hash, _is_live())
    return db.session.execute(live).mappings().one_or_none()


def note_use(key_hash: bytes) -> None:
    """Note that a key is used now; waits for no lock for long."""
    db.session.execute(select(func.set_config("lock_timeout", USE_LOCK_TIMEOUT, True)))
    use = upsert(ServiceKeyUse).values(key_hash=key_hash, used_at=func.now())
    changes = {"used_at": use.excluded.used_at}
    db.session.execute(use.on_conflict_do_update(index_elements=["key_hash"], set_=changes))


def all_keys() -> Sequence[RowMapping]:
    """Return what may be shown of all keys, by name and age."""
    shown = select(
        ServiceKey.name,
        ServiceKey.scopes,
        ServiceKey.app_names,
        _key_id.label("key_id"),
        ServiceKey.created_at,
        ServiceKey.expires_at,
        ServiceKeyUse.used_at,
        ServiceKey.revoked_at,
    ).outerjoin(ServiceKeyUse, ServiceKeyUse.key_hash == ServiceKey.key_hash)
    return (
        db.session.execute(shown.order_by(ServiceKey.name, ServiceKey.created_at)).mappings().all()
    )


def events() -> Sequence[RowMapping]:
    """Return what happened to all keys, the oldest first."""
    kept = select(*ServiceKeyEvent.__table__.columns).order_by(ServiceKeyEvent.id)
    return db.session.execute(kept).mappings().all()


def revoke(name: str, *, keep_latest: bool = False, key_id: str | None = None) -> int:
    """Revoke the live keys of a name: all, all but the latest, or one; return how many."""
    live = select(ServiceKey.key_hash).where(ServiceKey.name == name, _is_live())
    if key_id is not None:  # "" is the id of none
        live = live.where(_key_id == key_id)
    oldest_last = live.order_by(ServiceKey.created_at.desc(), ServiceKey.key_hash)
    doomed = db.session.scalars(oldest_last.offset(1 if keep_latest else 0)).all()
    gone = update(ServiceKey).where(ServiceKey.key_hash.in_(doomed)).values(revoked_at=func.now())
    _record("revoked", db.session.execute(gone.returning(*_EVENT_COLUMNS)).all())
    return len(doomed)


def has_live(name: str) -> bool:
    """Tell whether a live key bears the name."""
    live = select(true()).where(ServiceKey.name == name, _is_live()).limit(1)
    return db.session.scalar(live) is not None
