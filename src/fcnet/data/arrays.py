"""Arrays as a network reads them: one type for training, validation and test parts, checked at the door.

Everything a caller hands to fcnet as ``(X, y)`` or ``(X, y, sample_weight)`` passes through ``as_part`` before any work
starts, so nothing further in needs to doubt a shape, a label or a NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fcnet.errors import InputError, unknown_name

Rows = Any
"""Inputs ``(n_rows, n_in)``: a NumPy array, or a ``scipy.sparse.csr_array`` with sorted columns."""

TargetKind = Literal["labels", "values"]
"""Class labels ``(n_rows,)``, integers from 0; or values ``(n_rows, n_out)``: numbers or class probabilities."""

_BLOCK = 1 << 22
"""How many numbers are checked at a time, so that a check needs little memory of its own."""
_CLASS_LIMIT = 1 << 16
"""How many classes any data set may have."""


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of one purpose: training, validation or test.

    Attributes:
        X: ``(n_rows, n_in)`` numbers, of whatever type they came in; an array or a ``scipy.sparse.csr_array``.
        y: int64 labels ``(n_rows,)``, or float values ``(n_rows, n_out)``.
        weights: ``(n_rows,)`` float64, how much each row counts; None where all count 1.
    """

    X: Rows
    y: NDArray[Any]
    weights: NDArray[np.float64] | None = None

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self.y)

    @property
    def kind(self) -> TargetKind:
        """Whether y holds labels or values."""
        return "labels" if self.y.ndim == 1 else "values"


@dataclass(frozen=True, eq=False)
class DataSet:
    """A named data set in parts.

    Attributes:
        name: where it comes from.
        train, validation, test: its parts; validation and test may be missing.
        n_classes: how many classes its labels have; None where y holds values.
    """

    name: str
    train: Part
    validation: Part | None
    test: Part | None
    n_classes: int | None

    @property
    def n_in(self) -> int:
        """Numbers in a row of input."""
        return int(self.train.X.shape[1])

    def part(self, name: str) -> Part:
        """The part of that name: "train", "validation" or "test"."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        if name not in parts:
            raise unknown_name("part", name, parts)
        part = parts[name]
        if part is None:
            has = ", ".join(known for known, found in parts.items() if found is not None)
            raise InputError(f"{self.name} has no {name} part. It has: {has}.")
        return part


def is_sparse(X: Any) -> bool:
    """Whether X is a sparse matrix of SciPy's."""
    return hasattr(X, "tocsr")


def as_rows(X: Any, n_in: int | None = None, name: str = "X", finite: bool = True) -> Rows:
    """Inputs as ``(n_rows, n_in)`` numbers, not copied where they are an array already.

    Args:
        X: ``(n_rows, ...)`` with n_in numbers a row, of any integer, boolean or floating type; or a sparse matrix of
            SciPy's ``(n_rows, n_in)``, which stays sparse.
        n_in: how many numbers a row must have; None where any number will do.
        name: what to call the array in a message.
        finite: look for NaN and infinity; False where the engine that reads the rows does.

    Raises:
        InputError: not numbers, another shape, no rows, NaN or infinity.
    """
    rows = _as_csr(X) if is_sparse(X) else _as_array(X, name)
    if rows.dtype == object or rows.dtype.kind not in "fiub":
        raise InputError(
            f"{name} must hold numbers, got an array of {rows.dtype}. Encode text and categories as numbers first."
        )
    if rows.ndim == 0 or 0 in rows.shape:
        raise InputError(f"{name} is empty: its shape is {rows.shape}. Expected at least one row.")
    shape = rows.shape
    if not is_sparse(rows):
        rows = rows.reshape(len(rows), -1)
    if n_in is not None and rows.shape[1] != n_in:
        raise InputError(
            f"{name} has shape {shape}: {rows.shape[1]} numbers a row, but the network's first layer reads n_in={n_in}."
        )
    if finite:
        check_finite(rows, name)
    return rows


def _as_csr(X: Any) -> Rows:
    """A sparse matrix as rows of sorted columns, each once; the caller's is left as it is."""
    from scipy.sparse import csr_array  # whoever has a sparse matrix has SciPy loaded

    rows = csr_array(X)
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    return rows


def _as_array(numbers: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(numbers)
    except ValueError:
        raise InputError(
            f"{name} is not an array: its rows have different lengths. Expected as many numbers in each."
        ) from None


def check_finite(rows: Rows, name: str) -> None:
    """Refuse NaN and infinity, naming the first place."""
    if rows.dtype.kind != "f":
        return
    if is_sparse(rows):
        bad = np.flatnonzero(~np.isfinite(rows.data))
        if len(bad):
            where = f"row {_row_of(rows, bad[0])}, column {rows.indices[bad[0]]}"
            raise _not_finite(rows.data[bad[0]], where, name)
        return
    flat = rows.reshape(-1)
    if math.isfinite(np.vdot(flat, flat)):  # the quickest look; squares that overflow are looked at again
        return
    width = max(1, int(np.prod(rows.shape[1:])))
    height = max(1, _BLOCK // width)
    for start in range(0, len(rows), height):
        block = rows[start : start + height]
        finite = np.isfinite(block)
        if not finite.all():
            place = np.argwhere(~finite)[0]
            where = f"row {start + place[0]}" + (f", column {place[1]}" if rows.ndim > 1 else "")
            raise _not_finite(block[tuple(place)], where, name)


def _not_finite(number: Any, where: str, name: str) -> InputError:
    what = "NaN" if np.isnan(number) else "infinity"
    return InputError(
        f"{name} contains {what} (first at {where}). Remove such rows, or fill the missing values, before training."
    )


def check_range(rows: Rows, dtype: str, name: str) -> None:
    """Refuse finite numbers that are infinite in the type that a network computes in."""
    limit = np.finfo(dtype).max
    numbers = rows.data.reshape(-1, 1) if is_sparse(rows) else rows
    if numbers.dtype.kind != "f" or np.finfo(numbers.dtype).max <= limit:
        return
    height = max(1, _BLOCK // max(1, math.prod(numbers.shape[1:])))
    for start in range(0, len(numbers), height):
        block = np.abs(numbers[start : start + height])
        if block.max() > limit:
            row = start + int(np.argwhere(block > limit)[0][0])
            raise InputError(
                f"{name} contains {block.max():g} (first beyond {dtype} in row {_row_of(rows, row)}). Scale such columns to "
                "about -1 to 1, or train with dtype='float64'."
            )


def _row_of(rows: Rows, place: int) -> int:
    """The row of a sparse matrix's number, by its place among them; the place itself where rows are an array."""
    return int(np.searchsorted(rows.indptr, place, side="right")) - 1 if is_sparse(rows) else place


def count_classes(parts: Iterable[Part | None], name: str) -> int:
    """How many classes the labels of all parts have: the highest and one.

    A network has an output a class, so a file must not decide by one number that there are billions: labels go up to
    65,535, and beyond where there are as many rows.

    Raises:
        InputError: a label beyond that.
    """
    labels = [part.y for part in parts if part is not None]
    highest = max(int(y.max()) for y in labels)
    n_rows = sum(map(len, labels))
    if highest >= max(_CLASS_LIMIT, n_rows):
        raise InputError(
            f"{name} has the label {highest} in {n_rows} rows. Expected classes numbered from 0 without large gaps: "
            "number them with numpy.unique(y, return_inverse=True), or save y as floats if it holds values."
        )
    return highest + 1


def as_part(data: Any, n_in: int, n_out: int, name: str, kind: TargetKind | None = None) -> Part:
    """``(X, y)`` or ``(X, y, sample_weight)`` as a checked ``Part``.

    y is read as labels where it is one-dimensional and the network has several outputs, or where it is one-hot; and as
    values otherwise.

    Args:
        data: a ``Part``, or a tuple or list of two or three arrays of as many rows.
        n_in, n_out: the network's input and output sizes.
        name: what to call the data in a message, such as "training data".
        kind: how y must be read, for validation and test data that follow the training data.

    Raises:
        InputError: whatever does not fit, named.
    """
    if isinstance(data, Part):
        data = (data.X, data.y, data.weights)
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise InputError(f"{name} must be (X, y) or (X, y, sample_weight), got {_shape_of(data)}.")
    X = as_rows(data[0], n_in, f"X of the {name}")
    y = _as_array(data[1], f"y of the {name}")
    if len(y.shape) == 0 or len(y) != X.shape[0]:
        raise InputError(f"The {name} has {X.shape[0]} rows in X but y has shape {y.shape}. Expected one target a row.")
    y = _targets(y, n_out, f"y of the {name}", kind)
    weights = None
    if len(data) == 3 and data[2] is not None:
        weights = _row_weights(data[2], X.shape[0], f"sample_weight of the {name}")
    return Part(X, y, weights)


def _targets(y: NDArray[Any], n_out: int, name: str, kind: TargetKind | None) -> NDArray[Any]:
    if y.dtype.kind not in "fiub":
        raise InputError(
            f"{name} must hold numbers (class labels 0, 1, ... or values), got an array of {y.dtype}. "
            "Encode names as integers first, for instance with numpy.unique(y, return_inverse=True)."
        )
    check_finite(y, name)
    column = y.ndim == 2 and y.shape[1] == 1
    if n_out > 1 and (y.ndim == 1 or column):
        return _labels(y.reshape(-1), n_out, name)
    if y.ndim == 1 and n_out == 1:
        y = y[:, None]
    if y.shape[1:] != (n_out,):
        raise InputError(
            f"{name} has shape {y.shape}, but the network writes n_out={n_out} numbers a row. "
            f"Expected labels (n_rows,) or values (n_rows, {n_out})."
        )
    if n_out > 1 and kind != "values" and _is_one_hot(y):
        return np.argmax(y, axis=1).astype(np.int64)
    if kind == "labels":
        raise InputError(f"{name} holds values, but the training data holds class labels. Expected the same kind.")
    return y


def _labels(y: NDArray[Any], n_out: int, name: str) -> NDArray[np.int64]:
    with np.errstate(invalid="ignore"):  # a number beyond int64 is no label, as the next line finds
        labels = y.astype(np.int64)
    if y.dtype.kind == "f" and (labels != y).any():
        row = int(np.argmax(labels != y))
        raise InputError(
            f"{name} must hold integer class labels 0 to {n_out - 1}, got {y[row].item()!r} in row {row}. "
            "For regression, end the network with a layer of n_out=1, or pass y of shape (n_rows, n_out)."
        )
    outside = (labels < 0) | (labels >= n_out)
    if outside.any():
        row = int(np.argmax(outside))
        raise InputError(
            f"{name} has the label {int(labels[row])} in row {row}, but the network's {n_out} outputs stand for labels 0 to "
            f"{n_out - 1}. Give the last layer n_out={int(labels.max()) + 1}, or number the classes from 0."
        )
    return labels


def _is_one_hot(y: NDArray[Any]) -> bool:
    return bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())


def _row_weights(weights: Any, n_rows: int, name: str) -> NDArray[np.float64]:
    array = _as_array(weights, name)
    if array.dtype.kind not in "fiub" or array.shape != (n_rows,):
        raise InputError(f"{name} must be {n_rows} numbers, one a row, got {array.dtype} of shape {array.shape}.")
    array = array.astype(np.float64)
    check_finite(array, name)
    if (array < 0).any() or array.sum() == 0:
        raise InputError(f"{name} must be 0 or above, and not all 0.")
    return array


def _shape_of(data: Any) -> str:
    if isinstance(data, tuple | list):
        return f"a {type(data).__name__} of {len(data)}"
    return f"{type(data).__name__}"
