"""Many rows in one statement: arrays as a table, for any number of rows the same statement."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, ColumnCollection, bindparam, func


def as_table(name: str, **columns: tuple[Any, Sequence[Any]]) -> ColumnCollection[str, Any]:
    """Return the columns of a table made of arrays: of each column its type and its values."""
    arrays = (bindparam(None, values, type_=ARRAY(kind)) for kind, values in columns.values())
    return func.unnest(*arrays).table_valued(*columns).render_derived(name=name).c
