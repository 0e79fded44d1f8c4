"""The fast engine's loops: forward, backward and update of many steps in one call, compiled by Numba.

A step has two halves with a barrier after each. In the first, every thread takes some of the batch's rows forward and
backward through all layers. In the second, every thread takes some lines of each layer's weights: it sums their gradient
over all rows, a few lines at a time in the cache, and updates them there and then. No gradient is ever added up between
threads, so every number is summed in the same order whatever their number, and the bytes do not depend on it.

Everything lives in flat arrays, each layer's part at the offsets of its line in ``layout``. Rows are padded with zeros to
whole vectors, and the padding stays zero.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from fcnet.engines.native.vectors import (
    SPARSE_VECTORS,
    TILE_ROWS,
    TILE_VECTORS,
    VECTOR_BYTES,
    arrive,
    arrived,
    blend,
    fill_rows,
    gather,
    give_way,
    power_of_two,
    scatter,
    tile_nn,
    tile_nt,
)

# Columns of ``layout``, a line for each layer.
N_IN, N_OUT, IN_PAD, OUT_PAD, TRANSPOSED, ACTIVATION, W_AT, B_AT, IN_AT, A_AT, F_AT, D_AT, HAS_DROPOUT = range(13)
FIELDS = 13

# Codes of activations, costs and update rules.
SIGMOID, TANH, RELU, LEAKY_RELU, ELU, SELU, GELU, SILU, MISH, SOFTPLUS, LINEAR, SOFTMAX = range(12)
LOG_LIKELIHOOD, CROSS_ENTROPY, QUADRATIC = range(3)
SGD, MOMENTUM, NESTEROV, ADAM, GRADIENT = range(5)

ZERO, ONE = np.int64(0), np.int64(1)
"""Where a literal would make Numba compile a function once more for it."""

DEPTH = 1024
"""Numbers of the inner dimension at a time, so that a panel of the right-hand matrix stays in the cache."""
TILE_NUMBERS = 4096
"""About so many numbers of a gradient are summed and used at a time."""
SPARSE_BELOW = 0.3
"""Rows with a smaller share of nonzero numbers are read as lists of them."""
SPINS = 2000
"""How often a waiting thread looks again before it lets others run."""

FAST = {"contract", "reassoc", "nsz", "arcp"}
"""Sums may be reordered; NaN and infinity keep their meaning."""


class Data(NamedTuple):
    """Rows: dense, or as lists of nonzero numbers; the other form is empty."""

    dense: NDArray[Any]  # (n_rows, n_in)
    values: NDArray[Any]  # nonzero numbers, row after row
    columns: NDArray[np.int32]  # their columns
    splits: NDArray[np.int64]  # (n_rows, n_threads + 1): where each thread's columns start and end in the row
    labels: NDArray[np.int32]  # (n_rows,), or empty
    targets: NDArray[Any]  # (n_rows, n_out), or empty
    weights: NDArray[np.float64]  # (n_rows,)


class Tables(NamedTuple):
    """A plan, in the network's type; see ``fcnet.engines.contract.Plan``."""

    rows: NDArray[np.int32]
    coefficients: NDArray[Any]
    l2: NDArray[Any]
    gain: NDArray[Any]
    thresholds: NDArray[np.uint32]
    keys: NDArray[np.uint32]
    total: float  # what row weights are divided by; 0 for their sum in each batch


class Work(NamedTuple):
    """What a run computes in."""

    rows: NDArray[Any]  # inputs, outputs, derivatives and errors of a batch, at the layout's offsets
    lines: NDArray[Any]  # (n_threads, numbers): some lines of a gradient, or a row of a mask
    values: NDArray[Any]  # (n_threads, widest): nonzero numbers of a row
    columns: NDArray[np.int32]  # (n_threads, widest): their columns
    turned: NDArray[Any]  # (n_threads, numbers): a hidden layer's weights, turned
    gradient: NDArray[Any]  # the first layer's whole gradient where its data is sparse; else empty
    costs: NDArray[np.float64]  # (batch,): the cost of each row
    barrier: NDArray[np.int64]  # how often a thread has arrived


def _jit(**options: Any) -> Any:
    return numba.njit(nogil=True, error_model="numpy", cache=True, **{"fastmath": FAST, **options})


# --- Elementary functions, in operations that vectorise ---------------------------------------------------------------


@_jit(fastmath={"contract"})
def _exp32(x: Any) -> Any:
    x = np.float32(-87.0) if x < np.float32(-87.0) else x
    x = np.float32(88.0) if x > np.float32(88.0) else x
    n = math.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375)
    r = r - n * np.float32(-2.12194440e-4)
    p = np.float32(1.0 / 5040.0)
    p = p * r + np.float32(1.0 / 720.0)
    p = p * r + np.float32(1.0 / 120.0)
    p = p * r + np.float32(1.0 / 24.0)
    p = p * r + np.float32(1.0 / 6.0)
    p = p * r + np.float32(0.5)
    return (p * r * r + r + np.float32(1.0)) * power_of_two(np.int32(n), x)


@_jit(fastmath={"contract"})
def _exp64(x: Any) -> Any:
    x = -708.0 if x < -708.0 else x
    x = 709.0 if x > 709.0 else x
    n = math.floor(x * 1.4426950408889634 + 0.5)
    r = x - n * 6.93145751953125e-1
    r = r - n * 1.42860682030941723212e-6
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    return (p * r * r + r + 1.0) * power_of_two(np.int32(n), x)


def exp(x: Any) -> Any:
    """e**x: 2**n times a Taylor polynomial on [-ln 2 / 2, ln 2 / 2]; ln 2 in two parts, after Cody and Waite (1980)."""


@overload(exp, strict=False)
def _exp(x: Any) -> Any:
    if x == types.float32:
        return lambda x: _exp32(x)
    return lambda x: _exp64(x)


def like(z: Any, x: float) -> Any:
    """x in the type of z."""


@overload(like, strict=False)
def _like(z: Any, x: Any) -> Any:
    if z == types.float32:
        return lambda z, x: np.float32(x)
    return lambda z, x: np.float64(x)


@_jit()
def _sigmoid(z: Any) -> Any:
    one = like(z, 1.0)
    return one / (one + exp(-z))


@_jit()
def _tanh(z: Any) -> Any:
    """Taylor's series to z^9 where it is exact enough, (1 - e^-2|z|) / (1 + e^-2|z|) elsewhere."""
    one = like(z, 1.0)
    t = exp(like(z, -2.0) * abs(z))
    far = (one - t) / (one + t)
    s = z * z
    near = like(z, -17.0 / 315.0) + s * like(z, 62.0 / 2835.0)
    near = like(z, -1.0 / 3.0) + s * (like(z, 2.0 / 15.0) + s * near)
    return z * (one + s * near) if abs(z) < like(z, 0.05) else (far if z > 0 else -far)


@_jit()
def _activate(code: int, a: Any, f: Any) -> None:
    """In place: weighted inputs in ``a`` become outputs, ``f`` the derivatives."""
    n = a.shape[0]
    zero, one, half = a.dtype.type(0.0), a.dtype.type(1.0), a.dtype.type(0.5)
    if code == SIGMOID:
        for j in range(n):
            y = _sigmoid(a[j])
            a[j] = y
            f[j] = y * (one - y)
    elif code == TANH:
        for j in range(n):
            y = _tanh(a[j])
            a[j] = y
            f[j] = one - y * y
    elif code == RELU:
        for j in range(n):
            z = a[j]
            f[j] = one if z > zero else zero
            a[j] = zero if z < zero else z
    elif code == LEAKY_RELU:
        leak = a.dtype.type(0.01)
        for j in range(n):
            z = a[j]
            f[j] = one if z > zero else leak
            a[j] = z if z > zero else leak * z
    elif code == ELU:
        for j in range(n):
            z = a[j]
            e = exp(zero if z > zero else z)
            f[j] = one if z > zero else e
            a[j] = z if z > zero else e - one
    elif code == SELU:
        scale, alpha = a.dtype.type(1.0507009873554805), a.dtype.type(1.6732632423543772)
        for j in range(n):
            z = a[j]
            e = exp(zero if z > zero else z)
            f[j] = scale * (one if z > zero else alpha * e)
            a[j] = scale * (z if z > zero else alpha * (e - one))
    elif code == GELU:
        for j in range(n):
            z = a[j]
            cdf = half * (one + a.dtype.type(math.erf(z * a.dtype.type(0.7071067811865476))))
            f[j] = cdf + z * exp(-half * z * z) * a.dtype.type(0.3989422804014327)
            a[j] = z * cdf
    elif code == SILU:
        for j in range(n):
            z = a[j]
            s = _sigmoid(z)
            f[j] = s * (one + z * (one - s))
            a[j] = z * s
    elif code == MISH:
        for j in range(n):
            z = a[j]
            t = _tanh(_softplus(z))
            f[j] = t + z * (one - t * t) * _sigmoid(z)
            a[j] = z * t
    elif code == SOFTPLUS:
        for j in range(n):
            z = a[j]
            f[j] = _sigmoid(z)
            a[j] = _softplus(z)
    else:
        for j in range(n):
            f[j] = one


@_jit()
def _softplus(z: Any) -> Any:
    return like(z, (z if z > 0 else like(z, 0.0)) + math.log1p(exp(-abs(z))))


@_jit()
def _softmax(a: Any) -> None:
    """In place: weighted inputs become probabilities."""
    top = a[0]
    for j in range(a.shape[0]):
        top = max(top, a[j])
    total = a.dtype.type(0.0)
    for j in range(a.shape[0]):
        a[j] = exp(a[j] - top)
        total += a[j]
    for j in range(a.shape[0]):
        a[j] /= total


@_jit()
def _u32(x: Any) -> Any:
    return np.uint32(x & 0xFFFFFFFF)


@_jit()
def _rounds(x0: Any, x1: Any, r0: int, r1: int, r2: int, r3: int) -> Any:
    for r in (r0, r1, r2, r3):
        x0 = _u32(x0 + x1)
        x1 = _u32((x1 << np.uint32(r)) | (x1 >> np.uint32(32 - r))) ^ x0
    return x0, x1


@_jit()
def _threefry(k0: Any, k1: Any, x0: Any, x1: Any) -> Any:
    """As ``fcnet.counters.threefry2x32``, for single words."""
    k2 = k0 ^ k1 ^ np.uint32(0x1BD11BDA)
    x0, x1 = _u32(x0 + k0), _u32(x1 + k1)
    x0, x1 = _rounds(x0, x1, 13, 15, 26, 6)
    x0, x1 = _u32(x0 + k1), _u32(x1 + k2 + np.uint32(1))
    x0, x1 = _rounds(x0, x1, 17, 29, 16, 24)
    x0, x1 = _u32(x0 + k2), _u32(x1 + k0 + np.uint32(2))
    x0, x1 = _rounds(x0, x1, 13, 15, 26, 6)
    x0, x1 = _u32(x0 + k0), _u32(x1 + k1 + np.uint32(3))
    x0, x1 = _rounds(x0, x1, 17, 29, 16, 24)
    x0, x1 = _u32(x0 + k1), _u32(x1 + k2 + np.uint32(4))
    x0, x1 = _rounds(x0, x1, 13, 15, 26, 6)
    return _u32(x0 + k2), _u32(x1 + k0 + np.uint32(5))


@_jit()
def _mask(key: Any, row: Any, threshold: Any, gain: Any, mask: Any) -> None:
    """``gain`` where a unit of this row of the batch is kept, 0 where it is dropped; as ``fcnet.counters.bits``."""
    n = mask.shape[0]
    half = (n + 1) // 2
    k0, k1, r = key[0], key[1], np.uint32(row)
    first, second = mask[:half], mask[half:]
    zero = mask.dtype.type(0.0)
    for u in range(n - half):
        x0, x1 = _threefry(k0, k1, r, np.uint32(u))
        first[u] = gain if x0 >= threshold else zero
        second[u] = gain if x1 >= threshold else zero
    if n % 2:
        x0, x1 = _threefry(k0, k1, r, np.uint32(half - 1))
        first[half - 1] = gain if x0 >= threshold else zero


# --- Matrices ---------------------------------------------------------------------------------------------------------


@_jit()
def _lines_nn(m: int, wide: bool, k: int, a: Any, a_at: int, a_row: int, a_step: int, b: Any, b_at: int, b_row: int, c: Any, c_at: int, c_row: int) -> None:  # fmt: skip
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


@_jit()
def _multiply_nn(m: int, n: int, k: int, a: Any, a_at: int, a_row: int, a_step: int, b: Any, b_at: int, b_row: int, c: Any, c_at: int, c_row: int) -> None:  # fmt: skip
    """C += A . B: A ``(m, k)`` with any strides, B ``(k, n)`` and C ``(m, n)`` with whole vectors in a row."""
    lanes = VECTOR_BYTES // a.itemsize
    for done in range(0, k, DEPTH):
        depth = min(DEPTH, k - done)
        a_here, b_here = a_at + done * a_step, b_at + done * b_row
        j = 0
        while j + TILE_VECTORS * lanes <= n:
            _lines_nn(m, True, depth, a, a_here, a_row, a_step, b, b_here + j, b_row, c, c_at + j, c_row)
            j += TILE_VECTORS * lanes
        while j < n:
            _lines_nn(m, False, depth, a, a_here, a_row, a_step, b, b_here + j, b_row, c, c_at + j, c_row)
            j += lanes


@_jit()
def _multiply_nt(m: int, n: int, k: int, a: Any, a_at: int, a_row: int, b: Any, b_at: int, b_row: int, c: Any, c_at: int, c_row: int) -> None:  # fmt: skip
    """C += A . B': A ``(m, k)`` and B ``(n, k)`` with whole vectors in a row, C ``(m, n)``."""
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


tile_nn_full, tile_nn_pair, tile_nn_line = (tile_nn[m, TILE_VECTORS] for m in (6, 2, 1))
tile_nn_column, tile_nn_two, tile_nn_one = (tile_nn[m, 1] for m in (6, 2, 1))
tile_nt_full, tile_nt_line, tile_nt_one = tile_nt[4, 4], tile_nt[1, 4], tile_nt[1, 1]
blend_one, blend_four = blend[1], blend[4]
gather_1, gather_2, gather_3, gather_4, gather_5, gather_6, gather_7, gather_8 = (gather[v] for v in range(1, 9))
scatter_1, scatter_2, scatter_3, scatter_4, scatter_5, scatter_6, scatter_7, scatter_8 = (
    scatter[v] for v in range(1, 9)
)


@_jit()
def _gather(values: Any, columns: Any, start: int, stop: int, w: Any, w_at: int, n: int, z: Any, z_at: int) -> None:
    """z += values . W over a row's nonzero numbers; W has rows of n numbers."""
    lanes = VECTOR_BYTES // values.itemsize
    if n > SPARSE_VECTORS * lanes:  # rows too wide for the registers are read whole, as memory likes it
        while start + 4 <= stop:
            blend_four(n, values, columns, start, w, w_at, z, z_at)
            start += 4
        while start < stop:
            blend_one(n, values, columns, start, w, w_at, z, z_at)
            start += 1
        return
    j = 0
    while j < n:
        v = min(SPARSE_VECTORS, (n - j) // lanes)
        if v == 8:
            gather_8(values, columns, start, stop, w, w_at + j, n, z, z_at + j)
        elif v == 7:
            gather_7(values, columns, start, stop, w, w_at + j, n, z, z_at + j)
        elif v == 6:
            gather_6(values, columns, start, stop, w, w_at + j, n, z, z_at + j)
        elif v == 5:
            gather_5(values, columns, start, stop, w, w_at + j, n, z, z_at + j)
        elif v == 4:
            gather_4(values, columns, start, stop, w, w_at + j, n, z, z_at + j)
        elif v == 3:
            gather_3(values, columns, start, stop, w, w_at + j, n, z, z_at + j)
        elif v == 2:
            gather_2(values, columns, start, stop, w, w_at + j, n, z, z_at + j)
        else:
            gather_1(values, columns, start, stop, w, w_at + j, n, z, z_at + j)
        j += v * lanes


@_jit()
def _scatter(values: Any, columns: Any, start: int, stop: int, factor: Any, d: Any, d_at: int, w: Any, w_at: int, n: int) -> None:  # fmt: skip
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


@_jit()
def _list_nonzeros(x: Any, values: Any, columns: Any, p: int) -> int:
    """The nonzero numbers of x and their columns, written from p on, where there is room for all; where they end."""
    for j in range(x.shape[0]):
        values[p] = x[j]
        columns[p] = j
        p += x[j] != 0
    return p


# --- One step's halves ------------------------------------------------------------------------------------------------


@_jit()
def _forward(layout: Any, parameters: Any, data: Any, work: Any, batch: Any, first: int, last: int, gain: Any, thresholds: Any, keys: Any, thread: int) -> None:  # fmt: skip
    """Rows ``first`` to ``last`` of a batch through all layers: outputs, derivatives, the last layer's weighted inputs.

    ``batch`` is ``(n, 2)``: the row of the data, and the position in the batch that its masks are drawn for.
    """
    rows = work.rows
    zero = rows.dtype.type(0.0)
    for layer in range(layout.shape[0]):
        line = layout[layer]
        n_in, in_pad, n_out, out_pad = line[N_IN], line[IN_PAD], line[N_OUT], line[OUT_PAD]
        sparse = layer == 0 and data.dense.shape[0] == 0
        if layer == 0 and not sparse:
            for r in range(first, last):
                row, at = batch[r, 0], line[IN_AT] + r * in_pad
                for j in range(n_in):
                    rows[at + j] = data.dense[row, j]
        if line[HAS_DROPOUT]:
            for r in range(first, last):
                at = line[IN_AT] + r * in_pad
                masked = work.lines[thread, :n_in]
                if thresholds[layer]:
                    _mask(keys[layer], batch[r, 1], thresholds[layer], gain[layer], masked)
                else:
                    masked[:] = gain[layer]
                x = rows[at : at + n_in]
                for j in range(n_in):
                    x[j] *= masked[j]
                if layer:
                    before = layout[layer - 1, F_AT] + r * in_pad
                    f = rows[before : before + n_in]
                    for j in range(n_in):
                        f[j] *= masked[j]
        fill_rows(last - first, out_pad, parameters, line[B_AT], rows, line[A_AT] + first * out_pad)
        if sparse:
            for r in range(first, last):
                row = batch[r, 0]
                start, stop = data.splits[row, 0], data.splits[row, data.splits.shape[1] - 1]
                at = line[A_AT] + r * out_pad
                _gather(data.values, data.columns, start, stop, parameters, line[W_AT], out_pad, rows, at)
        else:
            m, x_at, a_at = last - first, line[IN_AT] + first * in_pad, line[A_AT] + first * out_pad
            if m == 1 and not line[TRANSPOSED]:  # one row reads no more of the weights than it needs
                values, columns = work.values[thread], work.columns[thread]
                stop = _list_nonzeros(rows[x_at : x_at + n_in], values, columns, ZERO)
                _gather(values, columns, ZERO, stop, parameters, line[W_AT], out_pad, rows, a_at)
            elif line[TRANSPOSED]:
                _multiply_nt(m, n_out, in_pad, rows, x_at, in_pad, parameters, line[W_AT], in_pad, rows, a_at, out_pad)
            else:
                _multiply_nn(m, out_pad, n_in, rows, x_at, in_pad, ONE, parameters, line[W_AT], out_pad, rows, a_at, out_pad)  # fmt: skip
        if layer < layout.shape[0] - 1:
            a_at, f_at = line[A_AT] + first * out_pad, line[F_AT] + first * out_pad
            size = (last - first) * out_pad
            _activate(line[ACTIVATION], rows[a_at : a_at + size], rows[f_at : f_at + size])
            for r in range(last - first):  # f(0) need not be 0, the padding must
                for j in range(n_out, out_pad):
                    rows[a_at + r * out_pad + j] = zero


@_jit()
def _target(data: Any, row: int, j: int) -> Any:
    if data.labels.shape[0]:
        return data.weights.dtype.type(1.0) if data.labels[row] == j else data.weights.dtype.type(0.0)
    return data.weights.dtype.type(data.targets[row, j])


@_jit()
def _cost(cost: int, activation: int, data: Any, row: int, scale: float, z: Any, f: Any, d: Any) -> float:
    """The cost of a row from its weighted inputs z; z becomes the outputs, d the scaled error dC/dz."""
    n = z.shape[0]
    total = 0.0
    number = z.dtype.type
    if cost == LOG_LIKELIHOOD:
        mass, top = 0.0, z[0]
        for j in range(n):
            top = max(top, z[j])
            t = _target(data, row, j)
            mass += t
            total -= t * z[j]
        for j in range(n):
            if not math.isfinite(z[j]):  # max() may have passed over a NaN
                top = z[j]
        total += mass * top
        sum_ = number(0.0)
        for j in range(n):
            z[j] = exp(z[j] - top)
            sum_ += z[j]
        total += mass * math.log(sum_)
        for j in range(n):
            z[j] /= sum_
            d[j] = number(scale * (mass * z[j] - _target(data, row, j)))
    elif cost == CROSS_ENTROPY:
        for j in range(n):
            t = _target(data, row, j)
            total += max(z[j], number(0.0)) - z[j] * t + math.log1p(math.exp(-abs(z[j])))
            z[j] = _sigmoid(z[j])
            d[j] = number(scale * (z[j] - t))
    elif activation == SOFTMAX:
        _softmax(z)
        dot = 0.0
        for j in range(n):
            g = z[j] - _target(data, row, j)
            total += 0.5 * g * g
            dot += g * z[j]
        for j in range(n):
            d[j] = number(scale * z[j] * (z[j] - _target(data, row, j) - dot))
    else:
        _activate(activation, z, f)
        for j in range(n):
            g = z[j] - _target(data, row, j)
            total += 0.5 * g * g
            d[j] = number(scale * g) * f[j]
    return total


@_jit()
def _backward(layout: Any, parameters: Any, rows: Any, turned: Any, first: int, last: int) -> None:
    """The errors dC/dz of every layer before the last, for some rows; ``turned`` has room for a layer's weights."""
    m = last - first
    for layer in range(layout.shape[0] - 1, 0, -1):
        line, before = layout[layer], layout[layer - 1]
        in_pad, out_pad = line[IN_PAD], line[OUT_PAD]
        d_at, e_at = line[D_AT] + first * out_pad, before[D_AT] + first * in_pad
        rows[e_at : e_at + m * in_pad] = 0.0
        if line[TRANSPOSED]:
            _multiply_nn(m, in_pad, line[N_OUT], rows, d_at, out_pad, ONE, parameters, line[W_AT], in_pad, rows, e_at, in_pad)  # fmt: skip
        elif (
            out_pad * in_pad <= turned.shape[0] and line[N_OUT] < 2 * m
        ):  # turning them costs less than sums across vectors
            w = parameters[line[W_AT] : line[W_AT] + line[N_IN] * out_pad].reshape(line[N_IN], out_pad)
            w_turned = turned[: out_pad * in_pad].reshape(out_pad, in_pad)
            w_turned[:, line[N_IN] :] = 0.0
            for k in range(w.shape[0]):
                for j in range(w.shape[1]):
                    w_turned[j, k] = w[k, j]
            _multiply_nn(m, in_pad, line[N_OUT], rows, d_at, out_pad, ONE, turned, ZERO, in_pad, rows, e_at, in_pad)
        else:
            _multiply_nt(m, line[N_IN], out_pad, rows, d_at, out_pad, parameters, line[W_AT], out_pad, rows, e_at, in_pad)  # fmt: skip
        f_at = before[F_AT] + first * in_pad
        e, f = rows[e_at : e_at + m * in_pad], rows[f_at : f_at + m * in_pad]
        for j in range(m * in_pad):
            e[j] *= f[j]


@_jit(fastmath=False)  # each number is rounded alike, whichever part of a vector loop does it
def _update(rule: int, w: Any, g: Any, slots: Any, at: int, c: Any, l2: Any, decays: bool) -> None:
    """The update rules of ``fcnet.optimizers``, on a run of numbers; ``slots`` is ``(n_slots, all)``, the run's part at ``at``."""
    n = w.shape[0]
    if rule == SGD:
        rate, shrink = c[0], w.dtype.type(1.0) - c[0] * l2
        for j in range(n):
            w[j] = shrink * w[j] - rate * g[j]
    elif rule == GRADIENT:
        total = slots[0, at : at + n]
        for j in range(n):
            total[j] += g[j] + l2 * w[j]
    elif rule == ADAM:
        m, v = slots[0, at : at + n], slots[1, at : at + n]
        decay = c[8] if decays else w.dtype.type(0.0)
        for j in range(n):
            gradient = g[j] + l2 * w[j]
            m[j] = c[1] * m[j] + c[2] * gradient
            v[j] = c[3] * v[j] + c[4] * gradient * gradient
            w[j] -= c[0] * (m[j] * c[6]) / (np.sqrt(v[j] * c[7]) + c[5]) + decay * w[j]
    else:
        v = slots[0, at : at + n]
        look_ahead = rule == NESTEROV
        for j in range(n):
            gradient = g[j] + l2 * w[j]
            v[j] = c[1] * v[j] - c[0] * gradient
            w[j] += c[1] * v[j] - c[0] * gradient if look_ahead else v[j]


@_jit()
def _learn(layout: Any, parameters: Any, slots: Any, data: Any, work: Any, batch: Any, n: int, thread: int, n_threads: int, rule: int, c: Any, l2: Any) -> None:  # fmt: skip
    """One thread's lines of every layer's weights: their gradient over the batch's n rows, and their update."""
    rows, scratch = work.rows, work.lines[thread]
    number = rows.dtype.type
    one = np.ones(1, rows.dtype)
    for layer in range(layout.shape[0]):
        line = layout[layer]
        in_pad, out_pad = line[IN_PAD], line[OUT_PAD]
        if layer % n_threads == thread:
            g = scratch[:out_pad]
            g[:] = number(0.0)
            _multiply_nn(ONE, out_pad, n, one, ZERO, ZERO, ZERO, rows, line[D_AT], out_pad, g, ZERO, out_pad)
            b = parameters[line[B_AT] : line[B_AT] + out_pad]
            _update(rule, b, g, slots, line[B_AT], c, number(0.0), False)
        if layer == 0 and data.dense.shape[0] == 0:
            _learn_sparse(line, parameters, slots, data, work, batch, n, thread, n_threads, rule, c, l2)
            continue
        # A line of weights is those of one input, or of one output where they are kept transposed.
        n_lines, width = (line[N_OUT], in_pad) if line[TRANSPOSED] else (line[N_IN], out_pad)
        first, last = n_lines * thread // n_threads, n_lines * (thread + 1) // n_threads
        some = max(6, TILE_NUMBERS // width // 6 * 6)
        for start in range(first, last, some):
            m = min(some, last - start)
            g = scratch[: m * width]
            g[:] = number(0.0)
            if line[TRANSPOSED]:
                _multiply_nn(
                    m, width, n, rows, line[D_AT] + start, ONE, out_pad, rows, line[IN_AT], in_pad, g, ZERO, width
                )
            else:
                _multiply_nn(
                    m, width, n, rows, line[IN_AT] + start, ONE, in_pad, rows, line[D_AT], out_pad, g, ZERO, width
                )
            at = line[W_AT] + start * width
            _update(rule, parameters[at : at + m * width], g, slots, at, c, l2, True)


@_jit()
def _learn_sparse(line: Any, parameters: Any, slots: Any, data: Any, work: Any, batch: Any, n: int, thread: int, n_threads: int, rule: int, c: Any, l2: Any) -> None:  # fmt: skip
    """One thread's lines of the first layer's weights, from rows as lists of nonzero numbers."""
    width = line[OUT_PAD]
    start = data.splits[data.splits.shape[0] - 1, thread]  # the last line of splits holds the threads' columns
    stop = data.splits[data.splits.shape[0] - 1, thread + 1]
    at, end = line[W_AT] + start * width, line[W_AT] + stop * width
    direct = rule == SGD
    into, into_at, factor = (parameters, line[W_AT], -c[0]) if direct else (work.gradient, 0, c.dtype.type(1.0))
    if direct:
        if l2 != 0:
            w = parameters[at:end]
            shrink = c.dtype.type(1.0) - c[0] * l2
            for j in range(end - at):
                w[j] *= shrink
    else:
        into[start * width : stop * width] = 0.0
    for r in range(n):
        row = batch[r, 0]
        d_at = line[D_AT] + r * width
        p, q = data.splits[row, thread], data.splits[row, thread + 1]
        _scatter(data.values, data.columns, p, q, factor, work.rows, d_at, into, into_at, width)
    if not direct:
        _update(rule, parameters[at:end], into[start * width : stop * width], slots, at, c, l2, True)


@_jit()
def _wait(barrier: Any, passed: int, n_threads: int) -> int:
    """Wait until every thread has arrived as often as this one; how often that is."""
    passed += 1
    if n_threads > 1:
        arrive(barrier)
        spins = 0
        while arrived(barrier) < passed * n_threads:
            spins += 1
            if spins > SPINS:
                give_way()
    return passed


# --- What Python calls ------------------------------------------------------------------------------------------------


@_jit()
def advance(layout: Any, parameters: Any, slots: Any, data: Any, tables: Any, work: Any, n_steps: int, thread: int, n_threads: int, cost: int, rule: int, costs: Any) -> int:  # fmt: skip
    """Steps 0 to n_steps - 1 of the tables, by one of n_threads threads that call this at the same time.

    Returns the first step whose cost is not finite, or -1; from it on nothing is changed. ``costs`` is written by thread 0.
    """
    length = tables.rows.shape[1]
    batch = np.empty((length, 2), np.int64)
    last_line = layout[layout.shape[0] - 1]
    n_out, out_pad = last_line[N_OUT], last_line[OUT_PAD]
    passed = ZERO
    for step in range(n_steps):
        n, total = ZERO, 0.0
        for position in range(length):
            row = tables.rows[step, position]
            if row >= 0 and data.weights[row] > 0:
                batch[n, 0], batch[n, 1] = row, position
                total += data.weights[row]
                n += 1
        if tables.total > 0:
            total = tables.total
        scale = 1.0 / total if total > 0 else 0.0
        first, last = n * thread // n_threads, n * (thread + 1) // n_threads
        _forward(layout, parameters, data, work, batch, first, last, tables.gain[step], tables.thresholds[step], tables.keys[step], thread)  # fmt: skip
        for r in range(first, last):
            row = batch[r, 0]
            share = data.weights[row] * scale
            at, f_at, d_at = last_line[A_AT] + r * out_pad, last_line[F_AT] + r * out_pad, last_line[D_AT] + r * out_pad
            z, f, d = work.rows[at : at + n_out], work.rows[f_at : f_at + n_out], work.rows[d_at : d_at + n_out]
            work.costs[r] = share * like(z[0], _cost(cost, last_line[ACTIVATION], data, row, share, z, f, d))
        _backward(layout, parameters, work.rows, work.turned[thread], first, last)
        passed = _wait(work.barrier, passed, n_threads)
        mean = 0.0
        for r in range(n):
            mean += work.costs[r]
        if thread == 0:
            costs[step] = mean
        if not math.isfinite(mean):
            return step
        _learn(layout, parameters, slots, data, work, batch, n, thread, n_threads, rule, tables.coefficients[step], tables.l2[step])  # fmt: skip
        passed = _wait(work.barrier, passed, n_threads)
    return -1


@_jit()
def outputs(layout: Any, n_row_numbers: int, height: int, parameters: Any, X: Any, gain: Any, answers: Any, thread: int, n_threads: int) -> None:  # fmt: skip
    """The network's outputs for dense rows, ``height`` of them at a time, by one of n_threads threads."""
    layers, n_in = layout.shape[0], X.shape[1]
    thresholds, keys = np.zeros(layers, np.uint32), np.zeros((layers, 2), np.uint32)
    rows = np.zeros(n_row_numbers, parameters.dtype)
    shape = (1, np.max(layout[:, N_IN]))
    work = Work(
        rows,
        np.empty(shape, parameters.dtype),
        np.empty(shape, parameters.dtype),
        np.empty(shape, np.int32),
        np.empty((1, 0), parameters.dtype),
        rows[:0],
        np.zeros(0),
        np.zeros(0, np.int64),
    )
    values, columns = np.empty(height * n_in, parameters.dtype), np.empty(height * n_in, np.int32)
    splits = np.empty((height + 1, 2), np.int64)
    labels, targets, weights = np.zeros(0, np.int32), np.zeros((0, 1), parameters.dtype), np.zeros(0)
    batch = np.empty((height, 2), np.int64)
    batch[:, 0] = np.arange(height)
    line = layout[layers - 1]
    for start in range(thread * height, X.shape[0], n_threads * height):
        block = X[start : start + height]
        n = block.shape[0]
        dense = block
        if layout[0, HAS_DROPOUT] == 0 and (n < TILE_ROWS or _share_of_nonzeros(block[0]) < SPARSE_BELOW):
            p = ZERO
            for r in range(n):
                splits[r, 0] = p
                p = _list_nonzeros(block[r], values, columns, p)
                splits[r, 1] = p
            dense = block[:0]
        data = Data(dense, values, columns, splits, labels, targets, weights)
        _forward(layout, parameters, data, work, batch, ZERO, n, gain, thresholds, keys, ZERO)
        for r in range(n):
            at, f_at = line[A_AT] + r * line[OUT_PAD], line[F_AT] + r * line[OUT_PAD]
            z = rows[at : at + line[N_OUT]]
            if line[ACTIVATION] == SOFTMAX:
                _softmax(z)
            else:
                _activate(line[ACTIVATION], z, rows[f_at : f_at + line[N_OUT]])
            answers[start + r] = z


@_jit()
def _share_of_nonzeros(x: Any) -> float:
    n = 0
    for j in range(x.shape[0]):
        n += x[j] != 0
    return n / x.shape[0]


@_jit()
def evaluate(layout: Any, parameters: Any, data: Any, work: Any, first: int, last: int, gain: Any, cost: int, threshold: bool, sums: Any) -> None:  # fmt: skip
    """Sums over rows ``first`` to ``last``: weighted cost, weighted count of right answers, weight."""
    layers = layout.shape[0]
    thresholds, keys = np.zeros(layers, np.uint32), np.zeros((layers, 2), np.uint32)
    n = last - first
    batch = np.empty((n, 2), np.int64)
    for r in range(n):
        batch[r, 0] = first + r
    _forward(layout, parameters, data, work, batch, ZERO, n, gain, thresholds, keys, ZERO)
    line = layout[layers - 1]
    out_pad = line[OUT_PAD]
    sums[:] = 0.0
    for r in range(n):
        row = first + r
        weight = data.weights[row]
        if weight == 0:
            continue
        at, f_at, d_at = line[A_AT] + r * out_pad, line[F_AT] + r * out_pad, line[D_AT] + r * out_pad
        z = work.rows[at : at + line[N_OUT]]
        f, d = work.rows[f_at : f_at + line[N_OUT]], work.rows[d_at : d_at + line[N_OUT]]
        sums[0] += weight * _cost(cost, line[ACTIVATION], data, row, 0.0, z, f, d)
        sums[1] += weight * _right(data, row, z, threshold)
        sums[2] += weight


@_jit()
def _right(data: Any, row: int, a: Any, threshold: bool) -> float:
    """1 where the outputs are right, else 0: by the side of 0.5 that one is on, or by the first largest."""
    if threshold:
        return 1.0 if (a[0] > 0.5) == (_target(data, row, ZERO) > 0.5) else 0.0
    guess = answer = ZERO
    for j in range(1, a.shape[0]):
        if a[j] > a[guess]:
            guess = j
        if _target(data, row, j) > _target(data, row, answer):
            answer = j
    return 1.0 if guess == answer else 0.0


@numba.njit(nogil=True, cache=True)
def nonzero_lists(dense: Any, starts: Any, values: Any, columns: Any) -> None:
    """Fill the lists of nonzero numbers of dense rows, each row's from its start on."""
    for r in range(dense.shape[0]):
        p = starts[r]
        for j in range(dense.shape[1]):
            if dense[r, j] != 0:
                values[p] = dense[r, j]
                columns[p] = j
                p += 1


@numba.njit(nogil=True, cache=True)
def split_rows(columns: Any, starts: Any, cuts: Any, splits: Any) -> None:
    """Where each thread's columns start and end in each row's list; the lists are in order of columns."""
    for r in range(starts.shape[0] - 1):
        p = starts[r]
        for thread in range(cuts.shape[0]):
            while p < starts[r + 1] and columns[p] < cuts[thread]:
                p += 1
            splits[r, thread] = p
