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

TIME_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y/%m/%d", "%d.%m.%Y")
"""Dates that mean one thing; 03/04/2025 means two, and stays text."""
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


def as_times(text: polars.Series) -> polars.Series:
    """Dates and times in one of ``TIME_FORMATS`` as Datetime in microseconds; null where they are none."""
    import polars

    found = polars.Series(text.name, [None] * len(text), polars.Datetime("us"))
    for form in TIME_FORMATS:
        if found.null_count() == text.null_count():
            break
        if "%H" in form:
            parsed = text.str.to_datetime(form, strict=False, time_unit="us")
        else:
            parsed = text.str.to_date(form, strict=False).cast(polars.Datetime("us"))
        found = found.zip_with(found.is_not_null(), parsed)
    return found
