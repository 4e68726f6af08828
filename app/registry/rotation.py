"""Registrations that name their device with an `id`: rarer, and more than one row at stake."""

import hashlib

from sqlalchemy import (
    ARRAY,
    BigInteger,
    RowMapping,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from app.identifiers import fresh_id
from app.models import PushToken, UserSession, db, is_valid_session
from app.registry.push_tokens import PUBLIC_COLUMNS
from app.registry.registration import Registration


def _lock(*names: tuple[str, ...]) -> None:
    """Take transaction-level advisory locks on these names, in an order all callers share."""
    digests = (hashlib.sha256("\0".join(name).encode()).digest() for name in names)
    keys = sorted(int.from_bytes(digest[:8], signed=True) for digest in digests)
    key = func.unnest(bindparam("keys", keys, type_=ARRAY(BigInteger))).column_valued("key")
    db.session.execute(select(func.pg_advisory_xact_lock(key)))


def register_device(
    asked: Registration, device_id: str, max_age: int | None = None
) -> tuple[RowMapping, str | None] | None:
    """Register a push token of a device with an id; return its row, and whose it was before.

    None without a live session. `max_age` is that of `models.is_valid_session`.

    The push token's row wins over an unknown id; the caller's own id
    takes the new push token and drops the row that held it; an id that is another user's or
    another app's is ignored. Whoever registers without an id takes no lock here, and meets our
    insert with a unique violation: run this by `database.committed`, which goes again.
    """
    session = select(UserSession.token_hash).where(
        UserSession.token_hash == asked.token_hash,
        UserSession.user_id == asked.user_id,
        is_valid_session(max_age),
    )
    if db.session.scalar(session.with_for_update(read=True, key_share=True)) is None:
        return None
    _lock(("id", device_id), ("push token", asked.app_name, asked.token))
    key = tuple_(PushToken.app_name, PushToken.token)
    this_push_token = and_(PushToken.app_name == asked.app_name, PushToken.token == asked.token)
    involved = select(*PUBLIC_COLUMNS).where(or_(PushToken.id == device_id, this_push_token))
    rows = db.session.execute(involved.order_by(key).with_for_update()).mappings().all()
    named = next((row for row in rows if row["id"] == device_id), None)
    holder = next(
        (r for r in rows if (r["app_name"], r["token"]) == (asked.app_name, asked.token)), None
    )
    own = named and (named["user_id"], named["app_name"]) == (asked.user_id, asked.app_name)
    values = {
        "type": asked.type,
        "environment": asked.environment,
        "user_id": asked.user_id,
        "session_hash": asked.token_hash,
        "updated_at": func.statement_timestamp(),
    }
    if holder and (holder is named or not own):
        refresh = update(PushToken).where(PushToken.id == holder["id"]).values(values)
        return db.session.execute(refresh.returning(*PUBLIC_COLUMNS)).mappings().one(), holder[
            "user_id"
        ]
    values |= {"app_name": asked.app_name, "token": asked.token}
    if named and own:
        # Delete and insert, as Citus does not let a row change the column it is placed by.
        gone = [row["id"] for row in (named, holder) if row]
        db.session.execute(delete(PushToken).where(PushToken.id.in_(gone)))
        values |= {"id": device_id, "created_at": named["created_at"]}
    else:
        values |= {
            "id": fresh_id() if named else device_id,
            "created_at": func.statement_timestamp(),
        }
    row = (
        db.session.execute(insert(PushToken).values(values).returning(*PUBLIC_COLUMNS))
        .mappings()
        .one()
    )
    before = holder or (named if own else None)
    return row, before["user_id"] if before else None
