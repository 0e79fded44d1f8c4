"""Columns that give the answer away: known only after it, or a copy of it.

Two signs, each by a simple rule on one column at a time. A value that alone predicts the target nearly perfectly: the most frequent
class (the mean) of the other training rows with the same value, or in the same of 64 bins. And a value whose being there, or
missing, decides the class, as where it is filled in after the event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcnet.tabular.columns import Columns
from fcnet.tabular.kinds import Date, Number
from fcnet.tabular.values import days_of, numbers_of, text_of

if TYPE_CHECKING:
    import polars

NEARLY_ALL = 0.95
"""The part of the mistakes (of the variance) that remain without the column, and that it takes away."""
DECIDED = 0.97
"""The part of the rows with a value, or of those without, that are of one class."""
ENOUGH_ROWS = 50
_BINS = 64


def leaking(columns: Columns, frame: polars.DataFrame, target: NDArray[Any]) -> dict[str, str]:
    """The columns that probably leak the target, and why.

    Args:
        columns, frame: the training table.
        target: ``(n_rows,)`` int64 places of classes, or float64 values.
    """
    if frame.height < ENOUGH_ROWS:
        return {}
    found = {}
    classes = target.dtype.kind == "i"
    for column in columns.used:
        series = frame[column.name]
        groups = _groups(column, series)
        share = _classes_known(groups, target) if classes else _variance_known(groups, target)
        if share >= NEARLY_ALL:
            found[column.name] = f"alone it tells {share:.0%} of what there is to know"
        elif classes and (words := _decided_by_presence(series, target)):
            found[column.name] = words
    return found


def _groups(column: object, series: polars.Series) -> NDArray[np.int64]:
    """Rows with one value, or in one bin, have one number."""
    if isinstance(column, Number | Date):
        numbers = days_of(series, 1) if isinstance(column, Date) else numbers_of(series, 1)
        values = np.unique(numbers[~np.isnan(numbers)])
        edges = (
            values if len(values) <= _BINS else np.unique(np.nanquantile(numbers, np.linspace(0, 1, _BINS + 1)[1:-1]))
        )
        return np.where(np.isnan(numbers), len(edges) + 1, np.searchsorted(edges, numbers))
    return np.unique(text_of(series).fill_null("").to_numpy().astype(str), return_inverse=True)[1].astype(np.int64)


def _classes_known(groups: NDArray[np.int64], target: NDArray[np.int64]) -> float:
    """The part of the mistakes of guessing the commonest class that the groups take away, each row judged by the others."""
    n_classes = int(target.max()) + 1
    pairs, which = np.unique(groups * n_classes + target, return_inverse=True)
    counts = np.bincount(which)
    owner, known = np.unique(pairs // n_classes, return_inverse=True)
    most = np.zeros(len(owner), np.int64)
    np.maximum.at(most, known, counts)
    second = np.zeros(len(owner), np.int64)  # the most of the other classes
    is_most = counts == most[known]
    np.maximum.at(second, known[~is_most], counts[~is_most])
    ties = np.bincount(known, weights=is_most) > 1
    right = np.where(ties, 0, np.where(most - 1 >= np.maximum(second, 1), most, 0)).sum()
    wrong_alone = len(target) - np.bincount(target).max()
    return 0.0 if wrong_alone == 0 else 1.0 - (len(target) - right) / wrong_alone


def _variance_known(groups: NDArray[np.int64], target: NDArray[np.float64]) -> float:
    """The part of the variance that the groups' means take away, each row judged by the others."""
    which = np.unique(groups, return_inverse=True)[1]
    counts = np.bincount(which)[which]
    others = np.bincount(which, weights=target)[which] - target
    alone = counts == 1
    means = np.where(alone, target.mean(), others / np.maximum(counts - 1, 1))
    variance = np.square(target - target.mean()).sum()
    return 0.0 if variance == 0 else float(1.0 - np.square(target - means).sum() / variance)


def _decided_by_presence(series: polars.Series, target: NDArray[np.int64]) -> str:
    missing = series.is_null().to_numpy()
    if series.dtype.is_float():
        missing = missing | series.is_nan().fill_null(True).to_numpy()
    if np.bincount(target).max() > 0.9 * len(target):
        return ""
    for words, part in (("has a value", ~missing), ("has none", missing)):
        rows = int(part.sum())
        if ENOUGH_ROWS <= rows <= len(target) - ENOUGH_ROWS:
            share = np.bincount(target[part]).max() / rows
            if share >= DECIDED:
                return f"where it {words}, {share:.0%} of the rows are of one class"
    return ""
