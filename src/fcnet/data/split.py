"""Random splits: one set of rows into training, validation and test parts, the same on every machine.

Labels are split class by class, so that every part holds the classes in the proportions of the whole. The idea: shuffle
the rows, then spread each class evenly over the unit interval (its j-th row of c sits at (j + 1/2) / c) and sort by
place. Any stretch of that line holds each class in proportion, so the test and the validation part are its first two
stretches. A class of a single row sits in the middle and so lands in the training part.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet import counters
from fcnet.data.arrays import DataSet, Part
from fcnet.errors import InputError


def split(
    X: NDArray[Any],
    y: NDArray[Any],
    weights: NDArray[np.float64] | None = None,
    *,
    seed: int = 0,
    validation: float = 1 / 6,
    test: float = 1 / 6,
    name: str,
    n_classes: int | None,
) -> DataSet:
    """Rows in random order, cut into training, validation and test parts.

    Args:
        X: ``(n_rows, n_in)`` numbers.
        y: int64 labels ``(n_rows,)``, or values ``(n_rows, n_out)``.
        weights: ``(n_rows,)``, how much each row counts; None where all count 1.
        seed: decides the order.
        validation, test: the share of the rows in that part, rounded to whole rows, at least one.
        name: what to call the data set.
        n_classes: how many classes the labels have; None for values.

    Raises:
        InputError: arrays of unequal length, shares that leave no training row, fewer than 3 rows.
    """
    n = len(X)
    if len(y) != n or (weights is not None and len(weights) != n):
        raise InputError(
            f"{name} has {n} rows in X, {len(y)} in y"
            + (f" and {len(weights)} in weights" if weights is not None else "")
            + ". Expected as many in each."
        )
    if n < 3:
        raise InputError(
            f"{name} has {n} row(s), too few to split into training, validation and test parts. Expected at least 3."
        )
    n_validation, n_test = _n_rows(n, validation, "validation"), _n_rows(n, test, "test")
    if n_validation + n_test >= n:
        raise InputError(
            f"validation={validation!r} and test={test!r} leave no training row of the {n} in {name}. "
            "Expected shares that sum to less than 1."
        )
    order = _random_order(n, seed)
    line = _spread(y, order)
    cuts = _cut(order, line, n_test, n_validation)
    whole = Part(X, y, weights)
    test_part, validation_part, train = (_rows(whole, rows) for rows in cuts)
    return DataSet(name, train, validation_part, test_part, n_classes)


def hold_out(part: Part, fraction: float, seed: int = 0, name: str = "The data") -> tuple[Part, Part]:
    """``(rest, held)``: a random share of the rows, class by class, held out; both keep the order of the rows.

    Args:
        part: the rows to cut, at least 2.
        fraction: the share that is held out, rounded to whole rows, at least one.
        seed: decides which rows.
        name: what to call the part in a message.

    Raises:
        InputError: a share that leaves no row, or fewer than 2 rows.
    """
    n = part.n_rows
    if n < 2:
        raise InputError(f"{name} has {n} row(s), too few to hold some out for validation. Expected at least 2.")
    n_held = _n_rows(n, fraction, "fraction")
    if n_held >= n:
        raise InputError(f"fraction={fraction!r} holds out all {n} rows. Expected a share that leaves at least one.")
    line = _spread(part.y, _random_order(n, seed))
    held, rest = _cut(np.arange(n), line, n_held)
    return _rows(part, rest), _rows(part, held)


def folds(y: NDArray[Any], n_folds: int, seed: int = 0) -> NDArray[np.int64]:
    """The fold of each row, ``(n_rows,)`` of 0 to n_folds - 1: about equally large, with the classes in proportion.

    Args:
        y: int64 labels ``(n_rows,)``, or values ``(n_rows, n_out)``.
        n_folds: how many there are.
        seed: decides which rows.
    """
    fold = np.empty(len(y), np.int64)
    fold[_spread(y, _random_order(len(y), seed))] = np.arange(len(y)) * n_folds // len(y)
    return fold


def _n_rows(n: int, fraction: float, name: str) -> int:
    if not isinstance(fraction, Real) or not 0.0 < fraction < 1.0:
        raise InputError(f"{name} must be a share of the rows between 0 and 1, both excluded, got {fraction!r}.")
    return max(1, round(n * fraction))


def _random_order(n: int, seed: int) -> NDArray[np.int64]:
    return counters.permutation(counters.key(counters.check_seed(seed), counters.Purpose.SPLIT), n)


def _spread(y: NDArray[Any], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of ``order`` on a line of which any stretch holds the classes of y in proportion."""
    if y.ndim > 1:
        return order
    _, classes, counts = np.unique(y[order], return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    turn = np.empty(len(order), np.int64)
    turn[by_class] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = (turn + 0.5) / counts[classes]
    return order[np.argsort(place, kind="stable")]


def _cut(order: NDArray[np.int64], line: NDArray[np.int64], *sizes: int) -> list[NDArray[np.int64]]:
    """The rows in stretches of ``line`` of these sizes, and those left over; each in the sequence of ``order``."""
    stretch = np.empty(len(line), np.int64)
    stretch[line] = np.searchsorted(np.cumsum(sizes), np.arange(len(line)), side="right")
    return [order[stretch[order] == number] for number in range(len(sizes) + 1)]


def _rows(part: Part, rows: NDArray[np.int64]) -> Part:
    return Part(part.X[rows], part.y[rows], None if part.weights is None else part.weights[rows])
