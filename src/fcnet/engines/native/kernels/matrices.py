"""Products of matrices in tiles, and of rows that are lists of nonzero numbers; C += A . B throughout.

Every number of C is summed in the order of the inner dimension, whatever tile it falls into.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fcnet.engines.native.hints import Numbers
from fcnet.engines.native.kernels.linking import jit, kernel
from fcnet.engines.native.kernels.vectors import (
    blend,
    compress,
    gather,
    gather_panel,
    on_stack,
    scatter,
    tile_nn,
    tile_nt,
    turn_block,
)
from fcnet.engines.native.layout import GATHER_FROM
from fcnet.engines.native.processor import MOVES_TOGETHER, SPARSE_VECTORS, TILE_VECTORS, VECTOR_BYTES

ZERO, ONE = np.int64(0), np.int64(1)
"""Where a literal would make Numba compile a function once more for it."""
DEPTH = 1024
"""Numbers of the inner dimension at a time, so that a panel of the right-hand matrix stays in the cache."""
PANEL = 128 if VECTOR_BYTES == 64 else 256
"""The same where a panel is gathered into memory of its own: half of the nearest cache, or all of it."""
GATHER_ROWS = 16
"""Gathering panels pays for so many rows, where lines of the matrix are as long as ``GATHER_FROM``."""


@jit()
def _lines_nn(m: int, wide: int, k: int, a: Any, a_at: int, a_row: int, a_step: int, b: Any, b_at: int, b_row: int, c: Any, c_at: int, c_row: int) -> None:  # fmt: skip
    """All rows of C, for some columns: a wide tile's or one vector's."""
    i = ZERO
    if wide:
        while i + 6 <= m:
            tile_nn_full(k, a, a_at + i * a_row, a_row, a_step, b, b_at, b_row, c, c_at + i * c_row, c_row)
            i += 6
        while i + 2 <= m:
            tile_nn_pair(k, a, a_at + i * a_row, a_row, a_step, b, b_at, b_row, c, c_at + i * c_row, c_row)
            i += 2
        while i < m:
            tile_nn_line(k, a, a_at + i * a_row, a_row, a_step, b, b_at, b_row, c, c_at + i * c_row, c_row)
            i += 1
    else:
        while i + 6 <= m:
            tile_nn_column(k, a, a_at + i * a_row, a_row, a_step, b, b_at, b_row, c, c_at + i * c_row, c_row)
            i += 6
        while i + 2 <= m:
            tile_nn_two(k, a, a_at + i * a_row, a_row, a_step, b, b_at, b_row, c, c_at + i * c_row, c_row)
            i += 2
        while i < m:
            tile_nn_one(k, a, a_at + i * a_row, a_row, a_step, b, b_at, b_row, c, c_at + i * c_row, c_row)
            i += 1


@kernel
def multiply_nn(m: int, n: int, k: int, a: Numbers, a_at: int, a_row: int, a_step: int, b: Numbers, b_at: int, b_row: int, c: Numbers, c_at: int, c_row: int) -> None:  # fmt: skip
    """C += A . B: A ``(m, k)`` with any strides, B ``(k, n)`` and C ``(m, n)`` with whole vectors in a row."""
    lanes = VECTOR_BYTES // a.itemsize
    wide = TILE_VECTORS * lanes
    gathered = m >= GATHER_ROWS and n >= wide and b_row >= GATHER_FROM
    panel = panel_on_stack(a)
    depths = PANEL if gathered else DEPTH
    for done in range(0, k, depths):
        depth = min(depths, k - done)
        a_here, b_here = a_at + done * a_step, b_at + done * b_row
        j = ZERO
        while j + wide <= n:
            if gathered:
                gather_panel(depth, b, b_here + j, b_row, panel)
                _lines_nn(m, ONE, depth, a, a_here, a_row, a_step, panel, ZERO, wide, c, c_at + j, c_row)
            else:
                _lines_nn(m, ONE, depth, a, a_here, a_row, a_step, b, b_here + j, b_row, c, c_at + j, c_row)
            j += wide
        while j < n:
            _lines_nn(m, ZERO, depth, a, a_here, a_row, a_step, b, b_here + j, b_row, c, c_at + j, c_row)
            j += lanes


@kernel
def multiply_nt(m: int, n: int, k: int, a: Numbers, a_at: int, a_row: int, b: Numbers, b_at: int, b_row: int, c: Numbers, c_at: int, c_row: int) -> None:  # fmt: skip
    """C += A . B': A ``(m, k)`` and B ``(n, k)`` with whole vectors in a row, C ``(m, n)``; sums run across vectors."""
    j = 0
    while j < n:
        wide = j + 4 <= n
        i = 0
        while i < m:
            a_here, b_here, c_here = a_at + i * a_row, b_at + j * b_row, c_at + i * c_row + j
            if wide and i + 4 <= m:
                tile_nt_full(k, a, a_here, a_row, b, b_here, b_row, c, c_here, c_row)
                i += 4
            elif wide:
                tile_nt_line(k, a, a_here, a_row, b, b_here, b_row, c, c_here, c_row)
                i += 1
            else:
                tile_nt_one(k, a, a_here, a_row, b, b_here, b_row, c, c_here, c_row)
                i += 1
        j += 4 if wide else 1


@kernel
def multiply_turned(m: int, n: int, k: int, a: Numbers, a_at: int, a_row: int, b: Numbers, b_at: int, b_row: int, c: Numbers, c_at: int, c_row: int) -> None:  # fmt: skip
    """The same with B turned, panel by panel, so that no sums run across vectors; C has whole vectors in a row."""
    lanes = VECTOR_BYTES // a.itemsize
    wide = TILE_VECTORS * lanes
    panel = panel_on_stack(a)
    for done in range(0, k, PANEL):
        depth = min(PANEL, k - done)
        for j in range(0, n, wide):
            for row in range(j, min(j + wide, n), lanes):
                _turn(depth, min(lanes, n - row), b, b_at + row * b_row + done, b_row, panel, row - j, wide)
            if j + wide <= n:
                _lines_nn(m, ONE, depth, a, a_at + done, a_row, ONE, panel, ZERO, wide, c, c_at + j, c_row)
                continue
            for row in range(j, n, lanes):
                _lines_nn(m, ZERO, depth, a, a_at + done, a_row, ONE, panel, row - j, wide, c, c_at + row, c_row)


@jit()
def _turn(k: int, n: int, b: Any, b_at: int, b_row: int, panel: Any, at: int, wide: int) -> None:
    """k numbers of n lines of B, at most a vector's, as a column of a panel; without a line there are zeros."""
    lanes = VECTOR_BYTES // b.itemsize
    if n == lanes:
        for i in range(0, k, lanes):
            turn_block(b, b_at + i, b_row, panel, i * wide + at, wide)
        return
    for i in range(k):
        for row in range(lanes):
            panel[i * wide + at + row] = b[b_at + row * b_row + i] if row < n else b.dtype.type(0.0)


panel_on_stack = on_stack(PANEL * TILE_VECTORS * VECTOR_BYTES)
tile_nn_full, tile_nn_pair, tile_nn_line = (tile_nn[m, TILE_VECTORS] for m in (6, 2, 1))
tile_nn_column, tile_nn_two, tile_nn_one = (tile_nn[m, 1] for m in (6, 2, 1))
tile_nt_full, tile_nt_line, tile_nt_one = tile_nt[4, 4], tile_nt[1, 4], tile_nt[1, 1]
blend_one, blend_four = blend[1], blend[4]
gather_1, gather_2, gather_3, gather_4, gather_5, gather_6, gather_7, gather_8 = (gather[v] for v in range(1, 9))
scatter_1, scatter_2, scatter_3, scatter_4, scatter_5, scatter_6, scatter_7, scatter_8 = (
    scatter[v] for v in range(1, 9)
)


@jit()
def add_lines(values: Any, columns: Any, start: int, stop: int, factor: Any, w: Any, w_at: int, n: int, z: Any, z_at: int) -> None:  # fmt: skip
    """z += factor * values . W over a row's nonzero numbers; W has rows of n numbers."""
    v = n // (VECTOR_BYTES // values.itemsize)
    if v > SPARSE_VECTORS:  # rows too wide for the registers are read whole, as memory likes it
        while start + 4 <= stop:
            blend_four(n, values, columns, start, factor, w, w_at, z, z_at)
            start += 4
        while start < stop:
            blend_one(n, values, columns, start, factor, w, w_at, z, z_at)
            start += 1
    elif v == 8:
        gather_8(values, columns, start, stop, factor, w, w_at, n, z, z_at)
    elif v == 7:
        gather_7(values, columns, start, stop, factor, w, w_at, n, z, z_at)
    elif v == 6:
        gather_6(values, columns, start, stop, factor, w, w_at, n, z, z_at)
    elif v == 5:
        gather_5(values, columns, start, stop, factor, w, w_at, n, z, z_at)
    elif v == 4:
        gather_4(values, columns, start, stop, factor, w, w_at, n, z, z_at)
    elif v == 3:
        gather_3(values, columns, start, stop, factor, w, w_at, n, z, z_at)
    elif v == 2:
        gather_2(values, columns, start, stop, factor, w, w_at, n, z, z_at)
    else:
        gather_1(values, columns, start, stop, factor, w, w_at, n, z, z_at)


@jit()
def change_lines(values: Any, columns: Any, start: int, stop: int, factor: Any, d: Any, d_at: int, w: Any, w_at: int, n: int) -> None:  # fmt: skip
    """W += factor * values' . d over a row's nonzero numbers; W has rows of n numbers."""
    lanes = VECTOR_BYTES // values.itemsize
    j = 0
    while j < n:
        v = min(SPARSE_VECTORS, (n - j) // lanes)
        if v == 8:
            scatter_8(values, columns, start, stop, factor, d, d_at + j, w, w_at + j, n)
        elif v == 7:
            scatter_7(values, columns, start, stop, factor, d, d_at + j, w, w_at + j, n)
        elif v == 6:
            scatter_6(values, columns, start, stop, factor, d, d_at + j, w, w_at + j, n)
        elif v == 5:
            scatter_5(values, columns, start, stop, factor, d, d_at + j, w, w_at + j, n)
        elif v == 4:
            scatter_4(values, columns, start, stop, factor, d, d_at + j, w, w_at + j, n)
        elif v == 3:
            scatter_3(values, columns, start, stop, factor, d, d_at + j, w, w_at + j, n)
        elif v == 2:
            scatter_2(values, columns, start, stop, factor, d, d_at + j, w, w_at + j, n)
        else:
            scatter_1(values, columns, start, stop, factor, d, d_at + j, w, w_at + j, n)
        j += v * lanes


@jit()
def list_nonzeros(x: Any, values: Any, columns: Any, p: int) -> int:
    """The nonzero numbers of x and their columns, from p on, where there is room for all and a vector more; where they end."""
    j = ZERO
    if MOVES_TOGETHER:
        lanes = VECTOR_BYTES // x.itemsize
        j = x.shape[0] // lanes * lanes
        p = compress(x, j, values, columns, p)
    for k in range(j, x.shape[0]):
        values[p] = x[k]
        columns[p] = k
        p += x[k] != 0
    return p
