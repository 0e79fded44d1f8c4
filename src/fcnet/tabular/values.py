"""A column's values as what a kind of column needs: numbers, days, text; refused by row where they are of another type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fcnet.data.delimited import MISSING
from fcnet.data.files import shown
from fcnet.data.table import CLEAR, DAY_FIRST, MONTH_FIRST, as_numbers, as_times
from fcnet.errors import InputError

if TYPE_CHECKING:
    import polars

_DAY = 86_400e6
"""Microseconds."""
_DATES = {CLEAR: "2024-02-29", MONTH_FIRST: "2/29/2024", DAY_FIRST: "29/2/2024"}
_MUCH = 10
"""So many values, all of them numbers, are no names that happen to be new."""


def numbers_of(column: polars.Series, first_row: int) -> NDArray[np.float64]:
    """A column's values as numbers, NaN where missing.

    Raises:
        InputError: a value that is no number, or infinite, by row.
    """
    import polars

    kind = column.dtype
    if kind == polars.Null:
        return np.full(len(column), np.nan)
    if kind.is_numeric() or kind == polars.Boolean:
        numbers = column.cast(polars.Float64)
    elif kind == polars.Duration:
        numbers = column.dt.total_microseconds().cast(polars.Float64) / 1e6
    elif kind == polars.Time:
        numbers = column.cast(polars.Int64).cast(polars.Float64) / 1e9
    elif kind.is_temporal():
        raise another_type(column, 0, first_row, "a number", "a date")
    else:
        text = text_of(column)
        numbers = parsed(text, as_numbers(text), first_row, "a number")
    values = numbers.fill_null(math.nan).to_numpy()
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values)))
        raise InputError(
            f"The column {shown(column.name)!r} contains infinity (inf), first in row {first_row + row}. Expected finite numbers, "
            "or missing values."
        )
    return values


def days_of(column: polars.Series, first_row: int, order: str = CLEAR) -> NDArray[np.float64]:
    """A column's dates and times as days since 1970, NaN where missing; text has its month and day in an order.

    Raises:
        InputError: a value that is no date, by row.
    """
    import polars

    kind = column.dtype
    if kind == polars.Null:
        return np.full(len(column), np.nan)
    if kind == polars.Date or kind == polars.Datetime:
        times = (
            column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
            if getattr(kind, "time_zone", None)
            else column
        )
    elif kind.is_numeric() or kind == polars.Boolean or kind.is_temporal():
        raise another_type(column, 0, first_row, "a date", "a number")
    else:
        text = text_of(column)
        times = parsed(text, as_times(text, order), first_row, f"a date such as {_DATES[order]}")
    microseconds = times.cast(polars.Datetime("us")).cast(polars.Int64).cast(polars.Float64)
    return microseconds.fill_null(math.nan).to_numpy() / _DAY


def text_of(column: polars.Series) -> polars.Series:
    """A column's values as text, null where missing: the same for 3, 3.0 and "3"."""
    import polars

    kind = column.dtype
    if kind == polars.String or kind == polars.Categorical or kind == polars.Enum:
        text = column.cast(polars.String).str.strip_chars()
        return text.to_frame().select(
            polars.when(~polars.first().is_in(MISSING)).then(polars.first()).alias(column.name)
        )[column.name]
    if kind.is_float():
        column = column.fill_nan(None)
        whole = column.cast(polars.Int64, strict=False)
        as_written = column.cast(polars.String)
        return whole.cast(polars.String).zip_with((whole.cast(kind) == column).fill_null(False), as_written)
    return column.cast(polars.String)


def parsed(text: polars.Series, values: polars.Series, first_row: int, expected: str) -> polars.Series:
    """Values that text stands for; refused where there is text and no value."""
    if values.null_count() > text.null_count():
        bad = int((values.is_null() & text.is_not_null()).arg_max() or 0)
        raise another_type(text, bad, first_row, expected, repr(shown(text[bad])))
    return values


def another_type(column: polars.Series, place: int, first_row: int, expected: str, found: str) -> InputError:
    """The error for a value of another type than the training table had."""
    return InputError(
        f"The column {shown(column.name)!r} holds {found} in row {first_row + place}, and had {expected.split(' such')[0]} in each row of the "
        f"training table. Expected {expected}, or a missing value."
    )


def codes_of(text: polars.Series, values: Sequence[str]) -> NDArray[np.int64]:
    """The place of each text among the values; their number where it is none of them, or missing."""
    import polars

    places = polars.int_range(len(values), eager=True)
    found = text.replace_strict(
        polars.Series(values, dtype=polars.String), places, default=len(values), return_dtype=polars.Int64
    )
    return found.fill_null(len(values)).to_numpy().copy()


def names_of(text: polars.Series, values: Sequence[str], first_row: int, numbers: bool = False) -> NDArray[np.int64]:
    """As ``codes_of``; refused where numbers have come in place of names, which is another column or type.

    A frame's column of numbers (``numbers``) is that in any row; text that could be numbers only where there is much of it, because
    one name that was never seen may be "12".
    """
    import polars

    codes = codes_of(text, values)
    present = len(text) - text.null_count()
    if present and (numbers or present >= _MUCH) and (codes == len(values)).all():
        came = as_numbers(text).null_count() == text.null_count()
        if came and as_numbers(polars.Series(values, dtype=polars.String)).null_count() == len(values):
            bad = int(text.is_not_null().arg_max() or 0)
            raise another_type(text, bad, first_row, f"a name such as {shown(values[0])}", repr(text[bad]))
    return codes
