"""A table's columns: what each is, told from the training rows alone, and the features of all of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcnet.data.files import shown
from fcnet.data.table import CLEAR, TIME_FORMATS, order_of_times
from fcnet.errors import InputError
from fcnet.tabular.kinds import TAILS, TRUTH, Boolean, Category, Column, Date, Ignored, Number
from fcnet.tabular.values import days_of, numbers_of, text_of

if TYPE_CHECKING:
    import polars

FEW_CATEGORIES = 9
"""Up to so many categories each has its feature, however rare."""
MOST_CATEGORIES = 1000
"""At most so many features come of one column."""
FREQUENT = 5
"""Where there are more than ``FEW_CATEGORIES``, one in fewer rows is "rare", with all others that are."""
UNIQUE = 0.95
"""Text of which so large a part of the values is distinct names rows and tells nothing about others."""
ENOUGH_ROWS = 50
"""Below so many rows nothing is called id-like."""
DENSE = 0.25
"""Features of which a smaller part is not 0 are kept sparse, where there are at least ``WIDE``."""
WIDE = 64
ROWS = 1 << 16
"""Rows that are encoded at a time."""
_KINDS: dict[str, type] = {"number": Number, "boolean": Boolean, "category": Category, "date": Date}
_IGNORED = ("constant", "empty", "id-like", "dropped")


# --- A table's columns ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """A table's columns, as its training rows showed them.

    Attributes:
        columns: in the training table's order.
        n_rows: how many training rows there were.
        sparse: whether features come as a ``scipy.sparse.csr_array``.
    """

    columns: tuple[Column, ...]
    n_rows: int
    sparse: bool

    @property
    def width(self) -> int:
        """Features in all."""
        return sum(column.width for column in self.columns)

    @functools.cached_property
    def plain(self) -> NDArray[np.int64]:
        """The places of the features that are not linear pieces of a number."""
        places, start = [], 0
        for column in self.used:
            own = np.arange(start, start + column.width)
            if isinstance(column, Number) and column.knots:
                own = np.delete(own, slice(1, len(column.knots)))
            places.append(own)
            start += column.width
        return np.concatenate(places) if places else np.zeros(0, np.int64)

    @property
    def filled(self) -> int:
        """About how many features of a row are not 0."""
        return sum(column.filled if isinstance(column, Category | Number) else column.width for column in self.used)

    @property
    def used(self) -> tuple[Column, ...]:
        """The columns that features come of: the ones that a table to predict for must have."""
        return tuple(column for column in self.columns if column.width)

    def encode(self, frame: polars.DataFrame, first_row: int = 1) -> Any:
        """The features of a table's rows, ``(n_rows, width)`` in float32; columns may come in any order, and more of them.

        Args:
            frame: the table.
            first_row: the number of its first row, for messages.

        Raises:
            InputError: a column is missing or of another type, with its name and row.
        """
        if missing := [column.name for column in self.used if column.name not in frame.columns]:
            raise InputError(
                f"The table lacks the column{'s' * (len(missing) > 1)} {_listed(missing)}, which the training table had. It has "
                f"{_listed(frame.columns)}. Add what is missing, with no values if need be."
            )
        if self.sparse:
            return self._encode_sparse(frame, first_row)
        features = np.empty((frame.height, self.width), np.float32)
        for top in range(0, frame.height, ROWS):  # what passes through float64 is then small
            rows, start = frame[top : top + ROWS], 0
            for column in self.used:
                block = column.encode(rows[column.name], first_row + top)
                features[top : top + ROWS, start : start + column.width] = block
                start += column.width
        return features

    def _encode_sparse(self, frame: polars.DataFrame, first_row: int) -> Any:
        from scipy.sparse import csr_array

        rows, places, values, start = [], [], [], 0
        for column in self.used:
            series = frame[column.name]
            if isinstance(column, Category):
                codes = column.places(series, first_row)
                here = np.flatnonzero(codes < column.width)
                rows.append(here)
                places.append(start + codes[here])
                values.append(np.ones(len(here), np.float32))
            else:
                dense = column.encode(series, first_row)
                here, which = np.nonzero(dense)
                rows.append(here)
                places.append(start + which)
                values.append(dense[here, which])
            start += column.width
        entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(places)))
        matrix = csr_array(entries, shape=(frame.height, self.width))
        matrix.sort_indices()
        return matrix

    def summary(self) -> str:
        """A table of the columns: what each was taken for, and what became of it."""
        header = ("column", "kind", "distinct", "missing", "features", "what was done")
        lines = [
            (shown(c.name), c.kind, f"{c.distinct:,}", f"{c.missing:,}", f"{c.width:,}", c.treatment)
            for c in self.columns
        ]
        widths = [max(map(len, cells)) for cells in zip(header, *lines, strict=True)]
        text = [
            "  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True)).rstrip() for line in (header, *lines)
        ]
        kept = ", kept sparse" if self.sparse else ""
        return "\n".join(
            [*text, f"{self.width:,} features of {len(self.used)} columns, from {self.n_rows:,} rows{kept}"]
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        columns = [{"kind": column.kind, **asdict(column)} for column in self.columns]
        return {"n_rows": self.n_rows, "sparse": self.sparse, "columns": columns}

    @classmethod
    def from_json(cls, description: Any) -> Columns:
        """What ``to_json`` wrote.

        Raises:
            InputError: anything else.
        """
        try:
            columns = tuple(_column_of(one) for one in description["columns"])
            found = cls(columns, description["n_rows"], description["sparse"])
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
            raise InputError(
                "The description of the columns cannot be read. Expected what Columns.to_json wrote."
            ) from None
        if not isinstance(found.n_rows, int) or not isinstance(found.sparse, bool) or not found.used:
            raise InputError("The description of the columns is incomplete. Expected what Columns.to_json wrote.")
        return found


_HOLDS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "bool": lambda value: isinstance(value, bool),
    "float": lambda value: isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value),
    "Tails": lambda value: value in TAILS,
    "Order": lambda value: value in TIME_FORMATS,
    "tuple[float, ...]": lambda value: isinstance(value, tuple) and all(map(_HOLDS["float"], value)),
    "tuple[str, ...]": lambda value: isinstance(value, tuple) and all(isinstance(one, str) for one in value),
}
_BEFORE_VERSION_4: dict[type, dict[str, Any]] = {
    Number: {"tails": "bounded"},
    Date: {"tails": "bounded", "order": CLEAR},
}


def _column_of(one: Mapping[str, Any]) -> Column:
    """A column from plain JSON values, each of its field's type."""
    given = dict(one)
    kind = given["kind"] if given["kind"] in _IGNORED else given.pop("kind")
    made: type = Ignored if kind in _IGNORED else _KINDS[kind]
    for several in ("values", "knots"):
        if several in given:
            given[several] = tuple(given[several])
    given = _BEFORE_VERSION_4.get(made, {}) | given
    wanted = {field.name: str(field.type) for field in fields(made)}
    if given.keys() != wanted.keys() or not all(_HOLDS[type_](given[name]) for name, type_ in wanted.items()):
        raise ValueError(kind)
    knots = given.get("knots", ())
    if len(knots) == 1 or (knots and not _apart(np.array(knots, np.float64)).all()):
        raise ValueError(kind)
    values = given.get("values", ())
    wrong = {Boolean: len(values) != 2, Category: not values}.get(made, False)
    if wrong or len(set(values)) != len(values):
        raise ValueError(kind)
    return made(**given)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 12:,} more" if len(names) > 12 else ""
    return ", ".join(shown(name) for name in names[:12]) + more or "none"


# --- Telling what a column is -----------------------------------------------------------------------------------------


def describe(frame: polars.DataFrame, drop: Sequence[str] = (), pieces: int = 0) -> Columns:
    """What each column of a training table is.

    Args:
        frame: the training rows alone, without the target.
        drop: names of columns not to use.
        pieces: the most linear pieces that a number is encoded in, beside itself.

    Raises:
        InputError: no column is left to learn from, an unknown name in ``drop``, or infinity, with its column and row.
    """
    if unknown := [name for name in drop if name not in frame.columns]:
        raise InputError(f"There is no column {unknown[0]!r} to drop. The table has {_listed(frame.columns)}.")
    columns = tuple(
        _ignored(series, "dropped") if series.name in drop else column_of(series, pieces)
        for series in frame.get_columns()
    )
    found = Columns(columns, frame.height, False)
    if not found.used:
        kinds = ", ".join(f"{shown(column.name)} is {column.kind}" for column in columns[:8])
        raise InputError(
            f"No column is left to learn from: {kinds or 'the table has none'}. Add one that differs by row."
        )
    return Columns(columns, frame.height, found.width >= WIDE and _density(found) < DENSE)


def _density(columns: Columns) -> float:
    """About which part of the features is not 0."""
    return columns.filled / columns.width


def column_of(series: polars.Series, pieces: int = 0) -> Column:
    """What one column is, from its training rows."""
    import polars

    kind = series.dtype
    missing, distinct = _missing(series), _distinct(series)
    facts: dict[str, Any] = {"name": series.name, "missing": missing, "distinct": distinct}
    if missing == len(series):
        return _ignored(series, "empty")
    if distinct == 1 and not missing:
        return _ignored(series, "constant")
    if kind == polars.Boolean:
        return Boolean(**facts, values=TRUTH)
    if kind.is_numeric():
        return _number(series, facts, pieces)
    if kind.is_temporal() and kind not in (polars.Time, polars.Duration):
        return _date(series, facts, CLEAR)
    if kind in (polars.Time, polars.Duration):
        return _number(series, facts, pieces)
    return _category(series, facts)


def _ignored(series: polars.Series, kind: str) -> Ignored:
    return Ignored(series.name, _missing(series), _distinct(series), kind)


def _missing(series: polars.Series) -> int:
    return series.null_count() + (int(series.is_nan().sum() or 0) if series.dtype.is_float() else 0)


def _distinct(series: polars.Series) -> int:
    present = series.drop_nulls()
    return int((present.drop_nans() if present.dtype.is_float() else present).n_unique())


def _number(series: polars.Series, facts: dict[str, Any], pieces: int) -> Column:
    numbers = numbers_of(series, 1)
    if facts["distinct"] == 1:  # there or missing: the flag is all that it tells
        return Number(**facts, center=float(np.nanmedian(numbers)), scale=0.0, flag=True)
    if _counts_rows(series, numbers):
        return Ignored(facts["name"], facts["missing"], facts["distinct"], "id-like")
    center, scale = _robust(numbers)
    return Number(
        **facts, center=center, scale=scale, flag=facts["missing"] > 0, knots=_knots(numbers, facts["distinct"], pieces)
    )


def _knots(numbers: NDArray[np.float64], distinct: int, pieces: int) -> tuple[float, ...]:
    """Quantiles, each once; where one value is most of a column, those of its distinct values. None where one piece would be all."""
    if not pieces or distinct < 3:
        return ()
    shares = np.linspace(0.0, 1.0, pieces + 1)
    knots = np.unique(np.nanquantile(numbers, shares, method="nearest"))
    if len(knots) <= pieces / 2:
        knots = np.unique(np.nanquantile(np.unique(numbers), shares, method="nearest"))
    knots = knots[np.concatenate([[True], _apart(knots)])]
    return tuple(knots.tolist()) if len(knots) > 2 else ()


def _apart(knots: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each knot but the first is far enough above the one before to divide by, and not too far."""
    with np.errstate(over="ignore"):
        widths = np.diff(knots)
    return np.isfinite(widths) & (widths > 1e-12 * np.abs(knots).max())


def _counts_rows(series: polars.Series, numbers: NDArray[np.float64]) -> bool:
    """Whole numbers, every one another, that rise or fall from row to row or lie side by side: they number the rows."""
    n = len(series)
    if not series.dtype.is_integer() or n < ENOUGH_ROWS or series.null_count() or series.n_unique() < n:
        return False
    steps = np.diff(numbers)
    return bool((steps > 0).all() or (steps < 0).all() or numbers.max() - numbers.min() + 1 == n)


def _robust(numbers: NDArray[np.float64]) -> tuple[float, float]:
    """The median, and the factor that makes the quartiles lie 1 apart; by the whole range where they are equal."""
    low, first, middle, third, high = np.nanquantile(numbers, [0.0, 0.25, 0.5, 0.75, 1.0])
    span = third - first if third > first else (high - low) / 2.0
    scale = 1.0 / span if span > 0 else 0.0
    return float(middle), float(scale) if math.isfinite(scale) else 0.0


def _date(series: polars.Series, facts: dict[str, Any], order: str) -> Date:
    days = days_of(series, 1, order)
    center, scale = _robust(days)
    hours = bool((np.nan_to_num(days) % 1.0 != 0.0).any())
    return Date(**facts, center=center, scale=scale, hours=hours, flag=facts["missing"] > 0, order=order)


def _category(series: polars.Series, facts: dict[str, Any]) -> Column:
    text = text_of(series)
    counts = text.drop_nulls().value_counts(name="rows").sort(["rows", text.name], descending=[True, False])
    if counts.height == 0:
        return Ignored(facts["name"], len(series), 0, "empty")
    facts |= {"missing": text.null_count(), "distinct": counts.height}
    values = counts[text.name].to_list()
    if len(values) == 1 and not facts["missing"]:
        return Ignored(facts["name"], 0, 1, "constant")
    if order := order_of_times(counts[text.name]):
        return _date(series, facts, order)
    if len(values) == 2:
        return Boolean(**facts, values=tuple(sorted(values)))
    present = len(series) - facts["missing"]
    if len(values) > FEW_CATEGORIES:
        if len(series) >= ENOUGH_ROWS and len(values) >= UNIQUE * present:
            return Ignored(facts["name"], facts["missing"], facts["distinct"], "id-like")
        frequent = int((counts["rows"] >= FREQUENT).sum())
        kept = values[: min(max(frequent, FEW_CATEGORIES), MOST_CATEGORIES)]
    else:
        kept = values
    return Category(**facts, values=tuple(kept), rare=len(kept) < len(values))


def id_like(columns: Columns) -> list[str]:
    """The names of the columns that number or name rows."""
    return [column.name for column in columns.columns if column.kind == "id-like"]
