"""Arrays as a table: the same statement for any number of rows."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, ColumnCollection, ColumnElement, any_, bindparam, func
from sqlalchemy.orm import InstrumentedAttribute


def as_table(name: str, **columns: tuple[Any, Sequence[Any]]) -> ColumnCollection[str, Any]:
    """Return the columns of `unnest(arrays)`; `columns` gives type and values of each."""
    arrays = (bindparam(None, values, type_=ARRAY(kind)) for kind, values in columns.values())
    return func.unnest(*arrays).table_valued(*columns).render_derived(name=name).c


def among(column: InstrumentedAttribute[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition that the column has one of the values; it uses the column's index.

    One array instead of many parameters of IN: the plan that PostgreSQL keeps for a prepared
    statement compares those one by one, for every row of a table that was empty at planning time.
    Measured: 1.5 s instead of 9 ms for a thousand of 50,000 rows.
    """
    return column == any_(bindparam(None, values, type_=ARRAY(column.type)))
