"""Verbs on service keys. They never commit."""

import secrets
from collections.abc import Iterable, Sequence

from sqlalchemy import RowMapping, func, select, update

from app.identifiers import hash_secret
from app.models import ServiceKey, db

SCOPES = ("lookup", "feedback", "sessions")
_key_id = func.left(func.encode(ServiceKey.key_hash, "hex"), 8)  # to name a key, and no way in


def issue(name: str, scopes: Iterable[str]) -> str:
    """Make a key beside those that bear the name already; return it, 43 characters."""
    key = secrets.token_urlsafe(32)
    key_hash = hash_secret(key.encode())
    db.session.add(ServiceKey(key_hash=key_hash, name=name, scopes=sorted(set(scopes))))
    return key


def find(key_hash: bytes) -> RowMapping | None:
    """Return `name` and `scopes` of the live key of this SHA-256, None when there is none."""
    live = select(ServiceKey.name, ServiceKey.scopes).where(
        ServiceKey.key_hash == key_hash, ServiceKey.revoked_at.is_(None)
    )
    return db.session.execute(live).mappings().one_or_none()


def all_keys() -> Sequence[RowMapping]:
    """Return what may be shown of all keys, by name and age."""
    shown = select(
        ServiceKey.name,
        ServiceKey.scopes,
        _key_id.label("key_id"),
        ServiceKey.created_at,
        ServiceKey.revoked_at,
    )
    return (
        db.session.execute(shown.order_by(ServiceKey.name, ServiceKey.created_at)).mappings().all()
    )


def revoke(name: str, *, keep_latest: bool = False, key_id: str | None = None) -> int:
    """Revoke the live keys of a name: all, all but the latest, or one; return how many."""
    live = select(ServiceKey.key_hash).where(
        ServiceKey.name == name, ServiceKey.revoked_at.is_(None)
    )
    if key_id:
        live = live.where(_key_id == key_id)
    oldest_last = live.order_by(ServiceKey.created_at.desc(), ServiceKey.key_hash)
    doomed = db.session.scalars(oldest_last.offset(1 if keep_latest else 0)).all()
    gone = update(ServiceKey).where(ServiceKey.key_hash.in_(doomed))
    db.session.execute(gone.values(revoked_at=func.now()))
    return len(doomed)
