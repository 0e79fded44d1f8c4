"""A data set's rows as the kernels read them: dense, or as lists of their nonzero numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet.data.arrays import Part, Rows, TargetKind, is_sparse
from fcnet.engines.native.ahead import entry
from fcnet.engines.native.layout import SPARSE_BELOW, Data
from fcnet.engines.native.threads import in_parts

FEW_NUMBERS = 1 << 20
"""So many are read by one thread: it takes about as long as starting others."""


@dataclass(frozen=True, eq=False)
class NativeData:
    """A part's rows, as the kernels read them."""

    arrays: Data
    n_rows: int
    kind: TargetKind
    n_threads: int

    @property
    def sparse(self) -> bool:
        """Whether rows are lists of nonzero numbers."""
        return len(self.arrays.dense) == 0


def read_rows(part: Part, dtype: str, n_threads: int, dropped: bool) -> NativeData:
    """A part in a network's type; its rows as lists of nonzero numbers where most are zero."""
    labels, targets = np.zeros(0, np.int32), np.zeros((0, 1), dtype)
    if part.kind == "labels":
        labels = part.y.astype(np.int32)
    else:
        targets = as_kernels_read(part.y, dtype)
    weights = np.ones(part.n_rows) if part.weights is None else as_kernels_read(part.weights, "float64")
    dense, values, columns, splits = _rows(part.X, dtype, n_threads, dropped)
    arrays = Data(dense, values, columns, splits, labels, targets, weights)
    return NativeData(arrays, part.n_rows, part.kind, n_threads)


def as_kernels_read(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """An array in a type, one row after the other, not copied where it is so already; and not marked as read-only.

    Kernels write to no data, but would be compiled once more for arrays that may not be written to.
    """
    array = np.ascontiguousarray(array, dtype)
    return array if array.flags.writeable else np.asarray(_Open(array))


class _Open:
    """An array's memory without its mark; it keeps the array."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


def _rows(X: Rows, dtype: str, n_threads: int, dropped: bool) -> tuple[NDArray[Any], ...]:
    """Rows as the kernels read them: dense, values, columns and splits, see ``Data``; dense or the others are empty.

    Lists of nonzero numbers are kept where few numbers are not zero; a dense matrix whose numbers are ``dropped`` stays as it
    is, since its masks are drawn for all of them.
    """
    none = np.zeros(0, dtype), np.zeros(0, np.int32), np.zeros((1, n_threads + 1), np.int64)
    readers = n_threads if math.prod(X.shape) > FEW_NUMBERS else 1
    if is_sparse(X):
        if X.nnz >= SPARSE_BELOW * math.prod(X.shape):
            return X.astype(dtype).toarray(), *none
        values, columns, starts = X.data.astype(dtype), X.indices.astype(np.int32), X.indptr.astype(np.int64)
    else:
        dense = as_kernels_read(X, dtype)
        starts = np.zeros(len(dense) + 1, np.int64)
        count, counts = entry("lists.count_nonzeros", dtype), starts[1:]
        in_parts(readers, len(dense), lambda part, _: count(dense[part], counts[part]))
        np.cumsum(starts, out=starts)
        if dropped or starts[-1] >= SPARSE_BELOW * dense.size:
            return dense, *none
        values, columns = np.empty(starts[-1], dtype), np.empty(starts[-1], np.int32)
        fill = entry("lists.nonzero_lists", dtype)
        in_parts(readers, len(dense), lambda part, _: fill(dense[part], starts[part.start :], values, columns))
    return np.zeros((0, 1), dtype), values, columns, _splits(columns, starts, X.shape[1], n_threads, readers, dtype)


def _splits(
    columns: NDArray[np.int32], starts: NDArray[np.int64], n_in: int, n_threads: int, readers: int, dtype: str
) -> NDArray[np.int64]:
    """Where each thread's columns start and end in each row's list; the last line holds the threads' columns.

    Each of ``n_threads`` has columns of about as many nonzero numbers; ``readers`` threads find out which.
    """
    count, split = entry("lists.count_columns", dtype), entry("lists.split_rows", dtype)
    counts = np.zeros((readers, n_in), np.int64)
    in_parts(readers, len(columns), lambda part, thread: count(columns[part], counts[thread]))
    share = np.cumsum(counts.sum(axis=0)) / max(1, len(columns))
    cuts = np.searchsorted(share, np.arange(n_threads + 1) / n_threads)
    cuts[0], cuts[-1] = 0, n_in
    splits = np.empty((len(starts), n_threads + 1), np.int64)
    begin, end, lines = starts[:-1], starts[1:], splits[:-1]
    in_parts(readers, len(begin), lambda part, _: split(columns, begin[part], end[part], cuts, lines[part]))
    splits[-1] = cuts
    return splits


def for_threads(data: NativeData, n_threads: int) -> Data:
    """The rows for fewer threads than they were put for: one thread has all columns."""
    arrays = data.arrays
    if not data.sparse or n_threads == data.n_threads:
        return arrays
    return arrays._replace(splits=np.ascontiguousarray(arrays.splits[:, [0, -1]]))


def density(data: NativeData) -> float:
    """The share of the inputs that are read."""
    if not data.sparse:
        return 1.0
    return len(data.arrays.values) / max(1, data.n_rows * int(data.arrays.splits[-1, -1]))
