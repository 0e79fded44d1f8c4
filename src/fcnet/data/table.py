"""Tables: CSV and Parquet as Polars frames, whole or in batches, and text as numbers, booleans and times.

A CSV file says nothing of types. ``read_table`` decides them from all rows of a column; ``read_batches`` leaves text as it is, for
a reader who knows what he expects (``as_numbers``, ``as_times``, ``as_booleans``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fcnet.data.delimited import read_delimited
from fcnet.data.files import TABLE_ENDINGS, decompressed_limit, is_table
from fcnet.data.parquet import read_parquet
from fcnet.errors import FileError, InputError
from fcnet.host import room_for

if TYPE_CHECKING:
    import polars

CLEAR, MONTH_FIRST, DAY_FIRST = "clear", "month first", "day first"
_DAYS = {
    CLEAR: ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%y", "%d.%m.%Y", "%d-%B-%y", "%d-%B-%Y", "%d %B %Y", "%B %d, %Y"),
    MONTH_FIRST: ("%m/%d/%y", "%m/%d/%Y"),
    DAY_FIRST: ("%d/%m/%y", "%d/%m/%Y"),
}
_HOURS = ("", " %H:%M", " %H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p")
_ISO = ("%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f")
_ZONED = tuple(f"{moment}%:z" for moment in (*_ISO, "%Y-%m-%d %H:%M:%S%.f"))
TIME_FORMATS = {order: tuple(day + hour for hour in _HOURS for day in days) for order, days in _DAYS.items()}
TIME_FORMATS[CLEAR] += _ISO + _ZONED
"""By the order of month and day: "clear" where text tells it alone, as 03/04/2025 does not."""
_DATED = (
    r"^(\d{4}[-/]\d\d?[-/]\d\d?|\d\d?[./]\d\d?[./](\d{4}|\d\d)|\d\d?[- ][A-Za-z]{3,9}[- ](\d{4}|\d\d)|[A-Za-z]{3,9} \d\d?, \d{4})"
    r"([ T]\d.*)?$"
)
"""How a date begins, with years of two or four digits, and that nothing but a time follows."""
_BOOLEANS = {"true": True, "false": False}


def read_batches(path: str | Path) -> Iterator[polars.DataFrame]:
    """A table in frames of a bounded number of rows, in the file's order; the columns of a CSV file are text.

    Raises:
        InputError: the name ends in none of ``TABLE_ENDINGS``.
        FileError: the file cannot be read, with its row or column.
    """
    path = Path(path)
    if not is_table(path):
        raise InputError(f"{path} is no table by its name. Expected one that ends in {', '.join(TABLE_ENDINGS)}.")
    yield from read_parquet(path) if path.name.lower().endswith(".parquet") else read_delimited(path)


def read_table(path: str | Path) -> polars.DataFrame:
    """A whole table; a CSV file's columns are integers, numbers, booleans or times where all their values are, else text.

    Raises:
        InputError, FileError: as ``read_batches``.
    """
    import polars

    frames, size = [], 0.0
    with room_for(f"The table in {path}"):
        for frame in read_batches(path):
            frames.append(frame)
            size += frame.estimated_size()
            if size > decompressed_limit(Path(path)):
                raise FileError(
                    f"{path} grows beyond {size:,.0f} bytes in memory. Use a part of its rows, or predict from it in batches."
                )
        table = polars.concat(frames, rechunk=True)
    if Path(path).name.lower().endswith(".parquet"):
        return table
    return table.with_columns(_typed(column) for column in table.get_columns())


def _typed(text: polars.Series) -> polars.Series:
    """A column of text as what all of its values are."""
    import polars

    if text.null_count() == len(text):
        return text.cast(polars.Null)
    if text.str.contains(r"^[+-]?0\d").any():  # 007 is a name
        return text
    whole = text.cast(polars.Int64, strict=False)
    for typed in (whole, as_numbers(text), as_booleans(text), as_times(text)):
        if typed.null_count() == text.null_count():
            return typed
    return text


def as_numbers(text: polars.Series) -> polars.Series:
    """Text as Float64; null where it is none."""
    import polars

    return text.cast(polars.Float64, strict=False).fill_nan(None)


def as_booleans(text: polars.Series) -> polars.Series:
    """The text true or false, in any case, as booleans; null where it is neither."""
    import polars

    return text.str.to_lowercase().replace_strict(_BOOLEANS, default=None, return_dtype=polars.Boolean)


def as_times(text: polars.Series, order: str = CLEAR) -> polars.Series:
    """Dates and times in one of the ``TIME_FORMATS`` of an order as Datetime in microseconds; null where they are none.

    Those that name their zone come in UTC.
    """
    import polars

    found = polars.Series(text.name, [None] * len(text), polars.Datetime("us"))
    dated = text.str.contains(_DATED).fill_null(False)
    if not dated.any():
        return found
    text = text.str.replace("Z$", "+00:00")
    for form in TIME_FORMATS[order]:
        left = dated & found.is_null()
        if not left.any():
            break
        found = found.zip_with(~left, _as_times(text.zip_with(left, text.clear(len(text))), form))
    return found.zip_with(found.dt.year() >= 1000, found.clear(len(found)))  # 1/3/16 is no day of the year 1


def _as_times(text: polars.Series, form: str) -> polars.Series:
    import polars

    if "%M" not in form:
        return text.str.to_date(form, strict=False).cast(polars.Datetime("us"))
    times = text.str.to_datetime(form, strict=False, time_unit="us")
    return times.dt.replace_time_zone(None) if "z" in form else times


def order_of_times(text: polars.Series) -> str | None:
    """The only order of month and day in which all of the text are dates or times; None where there is none or two."""
    orders = [order for order in TIME_FORMATS if as_times(text, order).null_count() == text.null_count()]
    return orders[0] if len(orders) == 1 else None
