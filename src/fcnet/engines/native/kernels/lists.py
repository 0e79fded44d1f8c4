"""Lists of the nonzero numbers of dense rows."""

from __future__ import annotations

import numpy as np

from fcnet.engines.native.hints import IntMatrix, Ints, Ints32, Matrix, Numbers
from fcnet.engines.native.kernels.linking import entry
from fcnet.engines.native.kernels.matrices import list_nonzeros
from fcnet.engines.native.layout import ROOM


@entry
def count_nonzeros(dense: Matrix, counts: Ints) -> None:
    """How many numbers of each row are not zero."""
    for r in range(dense.shape[0]):
        n = np.int32(0)
        for j in range(dense.shape[1]):
            n += np.int32(dense[r, j] != 0)
        counts[r] = n


@entry
def nonzero_lists(dense: Matrix, starts: Ints, values: Numbers, columns: Ints32) -> None:
    """Fill the lists of nonzero numbers of dense rows, each row's from its start to the next start, and write nothing beyond the last."""
    end = starts[dense.shape[0]]
    for r in range(dense.shape[0]):
        if starts[r + 1] + ROOM <= end:
            list_nonzeros(dense[r], values, columns, starts[r])
        else:
            p = starts[r]
            for j in range(dense.shape[1]):
                if dense[r, j] != 0:
                    values[p] = dense[r, j]
                    columns[p] = j
                    p += 1


@entry
def count_columns(columns: Ints32, counts: Ints) -> None:
    """Add to ``counts`` how often each column is there."""
    for p in range(columns.shape[0]):
        counts[columns[p]] += 1


@entry
def split_rows(columns: Ints32, starts: Ints, ends: Ints, cuts: Ints, splits: IntMatrix) -> None:
    """Where each thread's columns start and end in each row's list; the lists are in order of columns."""
    for r in range(starts.shape[0]):
        p = starts[r]
        for thread in range(cuts.shape[0]):
            while p < ends[r] and columns[p] < cuts[thread]:
                p += 1
            splits[r, thread] = p
