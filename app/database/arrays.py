"""Many rows in one statement: arrays as a table, for any number of rows the same statement."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, ColumnCollection, ColumnElement, any_, bindparam, func
from sqlalchemy.orm import InstrumentedAttribute


def as_table(name: str, **columns: tuple[Any, Sequence[Any]]) -> ColumnCollection[str, Any]:
    """Return the columns of a table made of arrays: of each column its type and its values."""
    arrays = (bindparam(None, values, type_=ARRAY(kind)) for kind, values in columns.values())
    return func.unnest(*arrays).table_valued(*columns).render_derived(name=name).c


def among(column: InstrumentedAttribute[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """Give the condition that the column has one of the values, by the column's index.

    As one array and not as so many parameters of IN: in the plan that PostgreSQL keeps for a
    prepared statement these are compared one by one, for every row of a table that was thought to
    be empty. Seen: 1.5 s instead of 9 ms for a thousand of 50,000 rows.
    """
    return column == any_(bindparam(None, values, type_=ARRAY(column.type)))
