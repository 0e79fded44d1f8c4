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
from numpy.typing import NDArray

from fcnet.engines.native.elementary import SOFTMAX, activate, draw_mask, exp, like, sigmoid, softmax
from fcnet.engines.native.matrices import (
    ONE,
    ZERO,
    add_lines,
    change_lines,
    list_nonzeros,
    multiply_nn,
    multiply_nt,
)
from fcnet.engines.native.vectors import TILE_ROWS, arrive, arrived, fill_rows, give_way, jit

# Columns of ``layout``, a line for each layer.
N_IN, N_OUT, IN_PAD, OUT_PAD, TRANSPOSED, ACTIVATION, W_AT, B_AT, IN_AT, A_AT, F_AT, D_AT, HAS_DROPOUT = range(13)
FIELDS = 13

# Codes of costs and update rules.
LOG_LIKELIHOOD, CROSS_ENTROPY, QUADRATIC = range(3)
SGD, MOMENTUM, NESTEROV, ADAM, GRADIENT = range(5)

TILE_NUMBERS = 4096
"""About so many numbers of a gradient are summed and used at a time."""
SPARSE_BELOW = 0.3
"""Rows with a smaller share of nonzero numbers are read as lists of them."""
SPINS = 2000
"""How often a waiting thread looks again before it lets others run."""


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


# --- One step's halves ------------------------------------------------------------------------------------------------


@jit()
def _forward(layout: Any, parameters: Any, data: Any, work: Any, batch: Any, first: int, last: int, gain: Any, thresholds: Any, keys: Any, thread: int) -> None:  # fmt: skip
    """Rows ``first`` to ``last`` of a batch through all layers: outputs, derivatives, the last layer's weighted inputs.

    ``batch`` is ``(n, 2)``: the row of the data, and the position in the batch that its masks are drawn for.
    """
    rows = work.rows
    zero = rows.dtype.type(0.0)
    for layer in range(layout.shape[0]):
        line = layout[layer]
        n_in, in_pad, n_out, out_pad = line[N_IN], line[IN_PAD], line[N_OUT], line[OUT_PAD]
        lists = data.dense.shape[0] == 0
        sparse = layer == 0 and lists and not line[HAS_DROPOUT]
        if layer == 0 and not sparse:
            for r in range(first, last):
                row, at = batch[r, 0], line[IN_AT] + r * in_pad
                if lists:
                    rows[at : at + n_in] = zero
                    for p in range(data.splits[row, 0], data.splits[row, data.splits.shape[1] - 1]):
                        rows[at + data.columns[p]] = data.values[p]
                else:
                    for j in range(n_in):
                        rows[at + j] = data.dense[row, j]
        if line[HAS_DROPOUT]:
            for r in range(first, last):
                at = line[IN_AT] + r * in_pad
                masked = work.lines[thread, :n_in]
                if thresholds[layer]:
                    draw_mask(keys[layer], batch[r, 1], thresholds[layer], gain[layer], masked)
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
                add_lines(data.values, data.columns, start, stop, parameters, line[W_AT], out_pad, rows, at)
        else:
            m, x_at, a_at = last - first, line[IN_AT] + first * in_pad, line[A_AT] + first * out_pad
            if m == 1 and not line[TRANSPOSED]:  # one row reads no more of the weights than it needs
                values, columns = work.values[thread], work.columns[thread]
                stop = list_nonzeros(rows[x_at : x_at + n_in], values, columns, ZERO)
                add_lines(values, columns, ZERO, stop, parameters, line[W_AT], out_pad, rows, a_at)
            elif line[TRANSPOSED]:
                multiply_nt(m, n_out, in_pad, rows, x_at, in_pad, parameters, line[W_AT], in_pad, rows, a_at, out_pad)
            else:
                multiply_nn(m, out_pad, n_in, rows, x_at, in_pad, ONE, parameters, line[W_AT], out_pad, rows, a_at, out_pad)  # fmt: skip
        if layer < layout.shape[0] - 1:
            a_at, f_at = line[A_AT] + first * out_pad, line[F_AT] + first * out_pad
            size = (last - first) * out_pad
            activate(line[ACTIVATION], rows[a_at : a_at + size], rows[f_at : f_at + size])
            for r in range(last - first):  # f(0) need not be 0, the padding must
                for j in range(n_out, out_pad):
                    rows[a_at + r * out_pad + j] = zero


@jit()
def _target(data: Any, row: int, j: int) -> Any:
    if data.labels.shape[0]:
        return data.weights.dtype.type(1.0) if data.labels[row] == j else data.weights.dtype.type(0.0)
    return data.weights.dtype.type(data.targets[row, j])


@jit()
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
            z[j] = sigmoid(z[j])
            d[j] = number(scale * (z[j] - t))
    elif activation == SOFTMAX:
        softmax(z)
        dot = 0.0
        for j in range(n):
            g = z[j] - _target(data, row, j)
            total += 0.5 * g * g
            dot += g * z[j]
        for j in range(n):
            d[j] = number(scale * z[j] * (z[j] - _target(data, row, j) - dot))
    else:
        activate(activation, z, f)
        for j in range(n):
            g = z[j] - _target(data, row, j)
            total += 0.5 * g * g
            d[j] = number(scale * g) * f[j]
    return total


@jit()
def _backward(layout: Any, parameters: Any, rows: Any, turned: Any, first: int, last: int) -> None:
    """The errors dC/dz of every layer before the last, for some rows; ``turned`` has room for a layer's weights."""
    m = last - first
    for layer in range(layout.shape[0] - 1, 0, -1):
        line, before = layout[layer], layout[layer - 1]
        in_pad, out_pad = line[IN_PAD], line[OUT_PAD]
        d_at, e_at = line[D_AT] + first * out_pad, before[D_AT] + first * in_pad
        rows[e_at : e_at + m * in_pad] = 0.0
        if line[TRANSPOSED]:
            multiply_nn(m, in_pad, line[N_OUT], rows, d_at, out_pad, ONE, parameters, line[W_AT], in_pad, rows, e_at, in_pad)  # fmt: skip
        elif (
            out_pad * in_pad <= turned.shape[0] and line[N_OUT] < 2 * m
        ):  # turning them costs less than sums across vectors
            w = parameters[line[W_AT] : line[W_AT] + line[N_IN] * out_pad].reshape(line[N_IN], out_pad)
            w_turned = turned[: out_pad * in_pad].reshape(out_pad, in_pad)
            w_turned[:, line[N_IN] :] = 0.0
            for k in range(w.shape[0]):
                for j in range(w.shape[1]):
                    w_turned[j, k] = w[k, j]
            multiply_nn(m, in_pad, line[N_OUT], rows, d_at, out_pad, ONE, turned, ZERO, in_pad, rows, e_at, in_pad)
        else:
            multiply_nt(m, line[N_IN], out_pad, rows, d_at, out_pad, parameters, line[W_AT], out_pad, rows, e_at, in_pad)  # fmt: skip
        f_at = before[F_AT] + first * in_pad
        e, f = rows[e_at : e_at + m * in_pad], rows[f_at : f_at + m * in_pad]
        for j in range(m * in_pad):
            e[j] *= f[j]


@jit(fastmath=False)  # each number is rounded alike, whichever part of a vector loop does it
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


@jit()
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
            multiply_nn(ONE, out_pad, n, one, ZERO, ZERO, ZERO, rows, line[D_AT], out_pad, g, ZERO, out_pad)
            b = parameters[line[B_AT] : line[B_AT] + out_pad]
            _update(rule, b, g, slots, line[B_AT], c, number(0.0), False)
        if layer == 0 and data.dense.shape[0] == 0 and not line[HAS_DROPOUT]:
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
                multiply_nn(
                    m, width, n, rows, line[D_AT] + start, ONE, out_pad, rows, line[IN_AT], in_pad, g, ZERO, width
                )
            else:
                multiply_nn(
                    m, width, n, rows, line[IN_AT] + start, ONE, in_pad, rows, line[D_AT], out_pad, g, ZERO, width
                )
            at = line[W_AT] + start * width
            _update(rule, parameters[at : at + m * width], g, slots, at, c, l2, True)


@jit()
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
        change_lines(data.values, data.columns, p, q, factor, work.rows, d_at, into, into_at, width)
    if not direct:
        _update(rule, parameters[at:end], into[start * width : stop * width], slots, at, c, l2, True)


@jit()
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


@jit()
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


@jit()
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
                p = list_nonzeros(block[r], values, columns, p)
                splits[r, 1] = p
            dense = block[:0]
        data = Data(dense, values, columns, splits, labels, targets, weights)
        _forward(layout, parameters, data, work, batch, ZERO, n, gain, thresholds, keys, ZERO)
        for r in range(n):
            at, f_at = line[A_AT] + r * line[OUT_PAD], line[F_AT] + r * line[OUT_PAD]
            z = rows[at : at + line[N_OUT]]
            if line[ACTIVATION] == SOFTMAX:
                softmax(z)
            else:
                activate(line[ACTIVATION], z, rows[f_at : f_at + line[N_OUT]])
            answers[start + r] = z


@jit()
def _share_of_nonzeros(x: Any) -> float:
    n = 0
    for j in range(x.shape[0]):
        n += x[j] != 0
    return n / x.shape[0]


@jit()
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


@jit()
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
