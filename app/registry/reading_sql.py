"""The statements by which senders read: lookup and list, each made once.

The tables are read beside each other, each in a CTE of its own, and the CTEs are joined: a
distributed PostgreSQL has their rows on different nodes.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    Integer,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    func,
    join,
    literal_column,
    outerjoin,
    select,
)

from app.limits import PRODUCTION, VOIP
from app.models import PushToken, UserSession, is_reachable

MAX_OF_USER = 100  # registrations of one user in an answer; a person has a few devices
LOOKUP_ROWS = 5000  # of one statement: 10 MB of JSON where all are of the longest
# So many users are looked up in one statement, however many rows they have: where there are more
# than LOOKUP_ROWS for all who are asked for, the answer is long, and each part is kept until its
# client has taken it.
LOOKUP_USERS = 10

# Rows from before revision 0004 have none until they are backfilled.
ENVIRONMENT = func.coalesce(PushToken.environment, PRODUCTION).label("environment")
# Likewise before revision 0008, whose rows' ids were the devices' names.
DEVICE_ID = func.coalesce(PushToken.device_id, PushToken.id).label("device_id")

PUBLIC_COLUMNS = [
    PushToken.id,
    PushToken.app_name,
    PushToken.token,
    PushToken.type,
    PushToken.user_id,
    PushToken.enabled,
    PushToken.created_at,
    PushToken.updated_at,
    ENVIRONMENT,
    DEVICE_ID,
]
IS_NO_VOIP = PushToken.type != VOIP  # they are only for who asks for their type
PUBLIC_NAMES = [str(getattr(column, "key", "")) for column in PUBLIC_COLUMNS]


def _asked(name: str) -> Any:
    return bindparam(name, type_=ARRAY(Text) if name.endswith("s") else None)


# By users or by ids rows are found, and no index has the app first for this expression. Where the
# statistics are of a table with one row, the index that has it would look as good, and be read for
# all of the app.
_app_name = PushToken.app_name.concat(literal_column("''"))

# By what senders may narrow what they ask for, and by the apps of their key.
NARROWING: dict[str, Callable[[], ColumnElement[bool]]] = {
    "app_name": lambda: _app_name == _asked("app_name"),
    "app_names": lambda: _app_name == any_(_asked("app_names")),
    "type": lambda: PushToken.type == _asked("type"),
    "environment": lambda: ENVIRONMENT.element == _asked("environment"),
    "updated_since": lambda: PushToken.updated_at >= _asked("updated_since"),
    "last": lambda: PushToken.id <= _asked("last"),
}


def _rows(names: tuple[str, ...]) -> Select[Any]:
    columns: list[Any] = [*PUBLIC_COLUMNS, PushToken.session_hash]
    return select(*columns).where(*(NARROWING[name]() for name in names))


def _no_calls(names: tuple[str, ...]) -> list[ColumnElement[bool]]:
    return [] if "type" in names else [IS_NO_VOIP]


def _reachable(rows: CTE) -> CTE:
    """Return the sessions of rows from which senders may still be told of registrations."""
    hashes = func.array(select(rows.c.session_hash).scalar_subquery())  # not IN: it may read all
    theirs = select(UserSession.token_hash).where(UserSession.token_hash == any_(hashes))
    return theirs.where(is_reachable()).cte("reachable").prefix_with("MATERIALIZED")


@lru_cache
def of_users(names: tuple[str, ...], *, latest_only: bool = False) -> Select[Any]:
    """Return the statement that looks up `user_ids`, narrowed by `names`.

    It gives LOOKUP_ROWS and one more at most, in order; with `latest_only` the MAX_OF_USER latest
    of each user, else whichever.
    """
    asked = and_(PushToken.user_id == any_(_asked("user_ids")), *_no_calls(names))
    theirs = _rows(names).where(asked, PushToken.enabled).cte("theirs").prefix_with("MATERIALIZED")
    live = _reachable(theirs)
    both = join(theirs, live, live.c.token_hash == theirs.c.session_hash)
    if latest_only:
        newest_first = (theirs.c.updated_at.desc(), theirs.c.id)
        place = func.row_number().over(partition_by=theirs.c.user_id, order_by=newest_first)
        placed = select(theirs, place.label("place")).select_from(both).subquery("placed")
        found = select(placed).where(placed.c.place <= MAX_OF_USER)
    else:
        found = select(theirs).select_from(both)
    some = found.limit(LOOKUP_ROWS + 1).subquery("found").c
    shown = (some[name] for name in PUBLIC_NAMES)
    return select(*shown).order_by(some.user_id, some.device_id, some.app_name, some.id)


@lru_cache
def boundary(examined: int) -> Select[str]:
    """Return the statement that finds the last row that a page looks at, after `after`."""
    after = select(PushToken.id).where(PushToken.id > _asked("after")).order_by(PushToken.id)
    return after.offset(examined - 1).limit(1)


@lru_cache
def page(names: tuple[str, ...]) -> Select[Any]:
    """Return the statement of a page: `size` rows `after`, and of each if it is reachable."""
    no_calls = _no_calls(names) if names else []  # without names who asks leaves them out
    rows = _rows(names).where(*no_calls, PushToken.id > _asked("after"))
    after = rows.order_by(PushToken.id)
    some = after.limit(bindparam("size", type_=Integer, literal_execute=True)).cte("some")
    live = _reachable(some)
    is_there = live.c.token_hash.is_not(None).label("is_reachable")
    each = outerjoin(some, live, live.c.token_hash == some.c.session_hash)
    shown = (some.c[name] for name in PUBLIC_NAMES)
    return select(*shown, is_there).select_from(each).order_by(some.c.id)
