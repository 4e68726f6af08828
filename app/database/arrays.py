"""Arrays as a table: the same statement for any number of rows."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, ColumnCollection, ColumnElement, Select, any_, bindparam, func
from sqlalchemy.orm import InstrumentedAttribute

_Column = ColumnElement[Any] | InstrumentedAttribute[Any]


def as_table(name: str, **columns: tuple[Any, Sequence[Any]]) -> ColumnCollection[str, Any]:
    """Return the columns of `unnest(arrays)`; `columns` gives type and values of each."""
    arrays = (bindparam(None, values, type_=ARRAY(kind)) for kind, values in columns.values())
    return func.unnest(*arrays).table_valued(*columns).render_derived(name=name).c


def among(column: _Column, values: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition that the column has one of the values; it uses the column's index.

    One array instead of many parameters of IN: the plan that PostgreSQL keeps for a prepared
    statement compares those one by one, for every row of a table that was empty at planning time.
    Measured: 1.5 s instead of 9 ms for a thousand of 50,000 rows.
    """
    return column == any_(bindparam(None, values, type_=ARRAY(column.type)))


def among_asked(column: _Column, name: str) -> ColumnElement[bool]:
    """Return the same condition for values that a statement gets by a name when it is executed."""
    return column == any_(bindparam(name, type_=ARRAY(column.type)))


def among_found(column: _Column, found: Select[Any]) -> ColumnElement[bool]:
    """Return the condition that the column has one of the values that a select finds first.

    Instead of a join: where the statistics are of a table that had lost nearly all its rows, that
    compares each row with each value. Measured: 5 s, not 10 ms, for a thousand of 50,000 rows.
    """
    return column == any_(func.array(found.scalar_subquery(), type_=ARRAY(column.type)))
