"""The kinds of columns, and their numbers for a network.

A number is scaled by its median and quartiles, and far from them by its logarithm, so that an outlier is one and drowns nothing. A
category becomes a feature for each frequent value, a date elapsed time and the calendar's cycles, a missing value the median with a
flag beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from fcnet.data.files import shown
from fcnet.data.table import CLEAR, as_booleans
from fcnet.tabular.values import days_of, names_of, numbers_of, parsed, text_of

if TYPE_CHECKING:
    import polars

TRUTH = ("false", "true")
"""A column of booleans has these two values."""

Features = NDArray[np.float32]


def _logarithmic(u: NDArray[np.float64]) -> NDArray[np.float64]:
    return 10.0 * np.arcsinh(u / 10.0)


def _bounded(u: NDArray[np.float64]) -> NDArray[np.float64]:
    return u / np.sqrt(1.0 + (u / 3.0) ** 2)


TAILS = {"logarithmic": _logarithmic, "bounded": _bounded}
Tails = str
"""One of ``TAILS``; files are checked for it by this name."""
Order = str
"""One of ``fcnet.data.table.TIME_FORMATS``; the same."""


def _scaled(numbers: NDArray[np.float64], center: float, scale: float, tails: str) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return TAILS[tails](np.clip((numbers - center) * scale, -1e100, 1e100))


@dataclass(frozen=True)
class Number:
    """A column of numbers: g((x - center) * scale) with g(u) = 10 arsinh(u / 10); missing -> 0.

    g is u within a few distances of the quartiles and grows as a logarithm beyond ten.

    Attributes:
        center: the median.
        scale: 1 / (distance of the quartiles); 2 / (maximum - minimum) where those are equal.
        flag: whether a last feature is 1 where the value is missing.
        knots: quantiles t_0 < t_1 < ...; for each stretch between two, one more feature is (x - t_k) / (t_(k + 1) - t_k), clipped to
            [0, 1]: a piecewise linear encoding (Gorishniy, Rubachev and Babenko, 2022).
        tails: "logarithmic", or "bounded" as before version 4 of the files: g(u) = u / sqrt(1 + (u / 3)^2).
    """

    name: str
    missing: int
    distinct: int
    center: float
    scale: float
    flag: bool
    knots: tuple[float, ...] = ()
    tails: Tails = "logarithmic"
    kind: ClassVar[str] = "number"

    @property
    def width(self) -> int:
        """Features."""
        return 1 + max(0, len(self.knots) - 1) + self.flag

    @property
    def filled(self) -> int:
        """About how many of them are not 0 in a row: half of the pieces."""
        return 1 + len(self.knots) // 2 + self.flag

    @property
    def treatment(self) -> str:
        """What is done, in words."""
        pieces = f", {len(self.knots) - 1} linear pieces" if self.knots else ""
        return (
            f"(x - {self.center:.4g}) * {self.scale:.4g}, {self.tails} tails{pieces}"
            + ", a flag where missing" * self.flag
        )

    def encode(self, column: polars.Series, first_row: int) -> Features:
        """The features ``(n_rows, width)``."""
        numbers = numbers_of(column, first_row)
        missing = np.isnan(numbers)
        numbers = np.where(missing, self.center, numbers)
        features = [_scaled(numbers, self.center, self.scale, self.tails)[:, None]]
        if self.knots:
            knots = np.array(self.knots)
            with np.errstate(over="ignore"):  # far beyond a knot, infinity is clipped too
                features.append(np.clip((numbers[:, None] - knots[:-1]) / np.diff(knots), 0.0, 1.0))
        if self.flag:
            features.append(missing[:, None])
        return np.column_stack(features).astype(np.float32)


@dataclass(frozen=True)
class Boolean:
    """A column of two values: -1 and 1; missing, and any other, 0.

    Attributes:
        values: the two, as text.
    """

    name: str
    missing: int
    distinct: int
    values: tuple[str, ...]
    kind: ClassVar[str] = "boolean"
    width: ClassVar[int] = 1

    @property
    def treatment(self) -> str:
        """What is done, in words."""
        return f"{shown(self.values[0])} is -1, {shown(self.values[1])} is 1, anything else 0"

    def encode(self, column: polars.Series, first_row: int) -> Features:
        """The features ``(n_rows, 1)``."""
        text = text_of(column)
        if self.values == TRUTH:
            lower = text.str.to_lowercase().replace({"0": "false", "1": "true"})
            text = parsed(lower, as_booleans(lower), first_row, "true or false").cast(text.dtype)
        codes = names_of(text, self.values, first_row, column.dtype.is_numeric())
        return np.array([-1.0, 1.0, 0.0], np.float32)[codes][:, None]


@dataclass(frozen=True)
class Category:
    """A column of names: a feature each, 1 where the row has it; missing -> all 0.

    Attributes:
        values: the ones with a feature, the most frequent first.
        rare: whether one more feature stands for every other value.
    """

    name: str
    missing: int
    distinct: int
    values: tuple[str, ...]
    rare: bool
    kind: ClassVar[str] = "category"
    filled: ClassVar[int] = 1

    @property
    def width(self) -> int:
        """Features."""
        return len(self.values) + self.rare

    @property
    def treatment(self) -> str:
        """What is done, in words."""
        return f"one-hot of {len(self.values)}" + (
            f", {self.distinct - len(self.values)} rare ones as one" if self.rare else ""
        )

    def places(self, column: polars.Series, first_row: int) -> NDArray[np.int64]:
        """Which feature is 1 in each row; ``width`` where none is."""
        text = text_of(column)
        codes = names_of(text, self.values, first_row, column.dtype.is_numeric())
        if self.rare:  # a rare value's place is the one behind the others; a missing value has none
            codes[text.is_null().to_numpy()] = len(self.values) + 1
        return codes

    def encode(self, column: polars.Series, first_row: int) -> Features:
        """The features ``(n_rows, width)``."""
        return np.eye(self.width + 1, self.width, dtype=np.float32)[self.places(column, first_row)]


@dataclass(frozen=True)
class Date:
    """A column of dates or times: days elapsed as a ``Number``'s, and sine and cosine of its place in year and week.

    Attributes:
        center, scale: of the days since 1970.
        hours: whether sine and cosine of the time of day come too.
        flag: whether one more feature is 1 where the value is missing.
        order: of month and day in text, see ``fcnet.data.table.TIME_FORMATS``.
        tails: as a ``Number``'s.
    """

    name: str
    missing: int
    distinct: int
    center: float
    scale: float
    hours: bool
    flag: bool
    order: Order = CLEAR
    tails: Tails = "logarithmic"
    kind: ClassVar[str] = "date"

    @property
    def width(self) -> int:
        """Features."""
        return 5 + 2 * self.hours + self.flag

    @property
    def treatment(self) -> str:
        """What is done, in words."""
        return (
            f"{self.order}, " * (self.order != CLEAR)
            + "days elapsed; cycles of year"
            + (", week and day" if self.hours else " and week")
            + ", a flag where missing" * self.flag
        )

    def encode(self, column: polars.Series, first_row: int) -> Features:
        """The features ``(n_rows, width)``."""
        days = days_of(column, first_row, self.order)
        features = [_scaled(days, self.center, self.scale, self.tails)]
        periods = [365.2425, 7.0] + [1.0] * self.hours
        for period in periods:
            angle = 2.0 * math.pi * (days / period)
            features += [np.sin(angle), np.cos(angle)]
        matrix = np.column_stack(features)
        flags = [np.isnan(days)] if self.flag else []
        return np.column_stack([np.nan_to_num(matrix), *flags]).astype(np.float32)


@dataclass(frozen=True)
class Ignored:
    """A column that is not used.

    Attributes:
        kind: "constant", "empty", "id-like" or "dropped".
    """

    name: str
    missing: int
    distinct: int
    kind: str
    width: ClassVar[int] = 0

    @property
    def treatment(self) -> str:
        """What is done, in words."""
        return "not used"

    def encode(self, column: polars.Series, first_row: int) -> Features:
        """No features, ``(n_rows, 0)``."""
        return np.empty((len(column), 0), np.float32)


Column = Number | Boolean | Category | Date | Ignored
