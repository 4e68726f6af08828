"""The verb of `push-tokens backfill`: what a new column says of rows that were there before it.

Between the revision that adds a column (expand) and the one that demands it (contract). Whatever
is registered meanwhile says it by itself, by the previous release with the column's default; so
the rows that are left only get fewer, and a backfill may be killed and run again.
"""

from collections.abc import Iterator

from sqlalchemy import and_, select, update

from app.arrays import among
from app.models import PushToken, db
from app.purge import Step, slices
from app.schemas import PRODUCTION

UNFILLED = PushToken.environment.is_(None)


def environment() -> Iterator[Step]:
    """Say `production`, as nobody could say anything else; a step is a slice, to be committed.

    Rows are locked in the order that every writer keeps, and looked at again once they are.
    """
    for examined, ids in slices(PushToken.id, UNFILLED):
        filled = 0
        if ids:
            unfilled = and_(among(PushToken.id, ids), UNFILLED)
            in_order = select(PushToken.id).where(unfilled)
            in_order = in_order.order_by(PushToken.app_name, PushToken.token).with_for_update()
            ours = db.session.scalars(in_order).all()
            fill = update(PushToken).where(among(PushToken.id, ours), UNFILLED)
            done = db.session.execute(
                fill.values(environment=PRODUCTION).returning(PushToken.id),
                execution_options={"synchronize_session": False},
            )
            filled = len(done.all())
        yield Step(examined, filled)
