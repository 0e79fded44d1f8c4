"""Rows as they lie on a device: padded so that few shapes are ever compiled, dense or as lists of nonzero numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fcnet.data.arrays import Rows, is_sparse

BLOCK = 1024
"""Rows at a time in ``evaluate`` and ``cost_and_gradient``; data is padded to a multiple of it."""


class NonzeroLists(NamedTuple):
    """Rows as lists of their nonzero numbers, all as long as the longest; a column beyond the last one fills up.

    Attributes:
        values: ``(n_rows, longest)``.
        columns: ``(n_rows, longest)`` int32.
    """

    values: Any
    columns: Any


Inputs = jax.Array | NonzeroLists


def padded_length(n_rows: int) -> int:
    """The next power of two from 8 up to a block, then multiples of a block."""
    if n_rows >= BLOCK:
        return -(-n_rows // BLOCK) * BLOCK
    return max(8, 1 << (n_rows - 1).bit_length())


def padded_rows(rows: Rows, length: int, dtype: Any) -> NDArray[Any] | NonzeroLists:
    """Rows, and rows of zeros up to a length; as lists where they come from a sparse matrix and are short."""
    n_rows, n_in = rows.shape
    if is_sparse(rows):
        counts = np.diff(rows.indptr)
        longest = int(counts.max())
        if 2 * longest < n_in:
            lists = NonzeroLists(np.zeros((length, longest), dtype), np.full((length, longest), n_in, np.int32))
            used = np.arange(longest) < counts[:, None]
            lists.values[:n_rows][used], lists.columns[:n_rows][used] = rows.data, rows.indices
            return lists
        rows = rows.toarray()
    padded = np.zeros((length, n_in), dtype)
    padded[:n_rows] = rows
    return padded


def padded_batches(rows: NDArray[np.int32], shards: int) -> NDArray[np.int32]:
    """Row indices of each step with -1 added, so that every device takes as many."""
    missing = -rows.shape[-1] % shards
    return rows if not missing else np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, missing)], constant_values=-1)


def dense(x: Inputs, n_in: int) -> jax.Array:
    """Some rows as ``(n, n_in)`` numbers."""
    if not isinstance(x, NonzeroLists):
        return x
    n_rows = x.values.shape[0]
    zeros = jnp.zeros((n_rows, n_in), x.values.dtype)
    return zeros.at[jnp.arange(n_rows)[:, None], x.columns].add(x.values, mode="drop")


def in_blocks(X: Inputs, y: jax.Array, weights: jax.Array) -> tuple[Any, ...]:
    """Arrays ``(length, ...)`` as ``(n_blocks, block, ...)``."""
    length = len(weights)
    return jax.tree.map(lambda a: a.reshape(-1, min(length, BLOCK), *a.shape[1:]), (X, y, weights))
