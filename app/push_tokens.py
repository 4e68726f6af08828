"""Verbs on push tokens. They never commit; registering, which does, is in registrar.py."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, RowMapping, and_, delete, select

from app.models import PushToken, db
from app.schemas import canonical

VIEW = [
    PushToken.id,
    PushToken.app_name,
    PushToken.token,
    PushToken.type,
    PushToken.user_id,
    PushToken.enabled,
    PushToken.created_at,
    PushToken.updated_at,
]


def of_user(user_id: str) -> Sequence[RowMapping]:
    """Return a user's registrations, the latest renewed first."""
    theirs = select(*VIEW).where(PushToken.user_id == user_id)
    newest_first = theirs.order_by(PushToken.updated_at.desc(), PushToken.id)
    return db.session.execute(newest_first).mappings().all()


def remove_where(condition: ColumnElement[bool]) -> int:
    """Remove the registrations that meet the condition; return how many.

    They are locked first, in the order that every writer keeps, and the condition is checked
    again on whatever changed while we waited for a lock.
    """
    doomed = (
        select(PushToken.id)
        .where(condition)
        .order_by(PushToken.app_name, PushToken.token)
        .with_for_update()
        .cte("doomed")
    )
    gone = delete(PushToken).where(PushToken.id == doomed.c.id).returning(PushToken.id)
    return len(db.session.execute(gone).all())


def remove(user_id: str, push_token: str) -> int:
    """Remove a user's registrations of a push token in every app; return how many.

    An all-hex one is also looked for in lower case, as an APNs one would have been stored.
    """
    values = {push_token, canonical(push_token)}
    return remove_where(and_(PushToken.user_id == user_id, PushToken.token.in_(values)))
