"""What a layer's weights learn from a batch: their gradient, and their update by the rule."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fcnet.engines.native.codes import ADAM, GRADIENT, NESTEROV, SGD
from fcnet.engines.native.hints import Cube, IntMatrix, Matrix, Number, Numbers
from fcnet.engines.native.kernels.linking import jit, kernel
from fcnet.engines.native.kernels.matrices import ONE, ZERO, change_lines, multiply_nn
from fcnet.engines.native.kernels.vectors import on_stack
from fcnet.engines.native.layout import (
    B_AT,
    BLENDS_AT,
    D_AT,
    GATHER_FROM,
    GATHERED_LINES,
    GATHERED_NUMBERS,
    H_AT,
    HAS_DROPOUT,
    IN_AT,
    IN_PAD,
    IS_TABLE,
    N_IN,
    N_OUT,
    OUT_PAD,
    TILE_NUMBERS,
    TRANSPOSED,
    W_AT,
    Data,
    Work,
)

WEIGHTS, BIASES, BLENDS = range(3)
"""Places of the factors of a layer's arrays, see ``layout.ORDER``."""
number_on_stack = on_stack(8)

LEAST_SCALE = 2.0**-10
"""Where a scale falls below this, the weights are multiplied by it, and it is 1 again."""


@functools.partial(kernel, fastmath=False)  # each number is rounded alike, whichever part of a vector loop does it
def update(rule: int, w: Numbers, g: Numbers, slots: Matrix, at: int, c: Numbers, factors: Numbers, l2: Number) -> None:
    """The update rules of ``fcnet.optimizers``, on a run of numbers; ``slots`` is ``(n_slots, all)``, the run's part at ``at``."""
    n, rate = w.shape[0], c[0] * factors[0]
    if rule == SGD:
        shrink = w.dtype.type(1.0) - rate * l2
        for j in range(n):
            w[j] = shrink * w[j] - rate * g[j]
    elif rule == GRADIENT:
        total = slots[0, at : at + n]
        for j in range(n):
            total[j] += g[j] + l2 * w[j]
    elif rule == ADAM:
        m, v = slots[0, at : at + n], slots[1, at : at + n]
        decay = c[8] * factors[1]
        for j in range(n):
            gradient = g[j] + l2 * w[j]
            m[j] = c[1] * m[j] + c[2] * gradient
            v[j] = c[3] * v[j] + c[4] * gradient * gradient
            w[j] -= rate * (m[j] * c[6]) / (np.sqrt(v[j] * c[7]) + c[5]) + decay * w[j]
    else:
        v = slots[0, at : at + n]
        look_ahead = rule == NESTEROV
        for j in range(n):
            gradient = g[j] + l2 * w[j]
            v[j] = c[1] * v[j] - rate * gradient
            w[j] += c[1] * v[j] - rate * gradient if look_ahead else v[j]


# --- Gradients over rows first to first + n of a batch ------------------------------------------------------------------


@jit()
def gradient_of_biases(line: Any, rows: Any, first: int, n: int, g: Any) -> None:
    """The gradient of a layer's biases: the sum of its errors."""
    _sum_of_rows(rows, line[D_AT] + first * line[OUT_PAD], n, g)


@jit()
def _sum_of_rows(rows: Any, at: int, n: int, g: Any) -> None:
    """The sum of n rows as wide as ``g``, from a place on: a product with ones, whose sums stay in registers."""
    width, one = g.shape[0], number_on_stack(rows)
    one[0] = rows.dtype.type(1.0)
    g[:] = rows.dtype.type(0.0)
    multiply_nn(ONE, width, n, one, ZERO, ZERO, ZERO, rows, at, width, g, ZERO, width)


@jit()
def _of_lines(line: Any, rows: Any, first: int, n: int, start: int, m: int, g: Any, g_at: int) -> None:
    """The gradient of m lines of a layer's weights from ``start`` on: of one input each, or of one output if transposed."""
    in_pad, out_pad = line[IN_PAD], line[OUT_PAD]
    x_at, d_at = line[IN_AT] + first * in_pad, line[D_AT] + first * out_pad
    g[g_at : g_at + m * _width(line)] = rows.dtype.type(0.0)
    if line[TRANSPOSED]:
        multiply_nn(m, in_pad, n, rows, d_at + start, ONE, out_pad, rows, x_at, in_pad, g, g_at, in_pad)
    else:
        multiply_nn(m, out_pad, n, rows, x_at + start, ONE, in_pad, rows, d_at, out_pad, g, g_at, out_pad)


@jit()
def _n_lines(line: Any) -> int:
    return line[N_OUT] if line[TRANSPOSED] else line[N_IN]


@jit()
def _width(line: Any) -> int:
    return line[IN_PAD] if line[TRANSPOSED] else line[OUT_PAD]


@jit()
def lines_at_a_time(width: int) -> int:
    """How many lines of weights, each of ``width`` numbers, a thread learns at a time: whole tiles."""
    if width < GATHER_FROM:
        return max(6, TILE_NUMBERS // width // 6 * 6)
    return max(GATHERED_LINES, GATHERED_NUMBERS // width // 6 * 6)


@kernel
def gradient_of_rows(layout: IntMatrix, rows: Numbers, first: int, n: int, g: Numbers) -> None:
    """The gradient of every layer, in the parameters' places."""
    for layer in range(layout.shape[0]):
        line = layout[layer]
        gradient_of_biases(line, rows, first, n, g[line[B_AT] : line[B_AT] + line[OUT_PAD]])
        _of_lines(line, rows, first, n, ZERO, _n_lines(line), g, line[W_AT])


# --- Weights as a product ---------------------------------------------------------------------------------------------


@jit()
def shrink_of(c: Any, factors: Any, l2: Any) -> float:
    """What an L2 penalty multiplies weights by in a step of plain SGD."""
    return 1.0 - float(c[0]) * float(factors[0]) * float(l2)


@jit()
def shrunk(after: float) -> float:
    """The scale after a step: 1 where it got so small that the weights were multiplied by it."""
    return after if after >= LEAST_SCALE else 1.0


# --- Learning ---------------------------------------------------------------------------------------------------------


@kernel
def learn_sparse(w_at: int, width: int, d_at: int, d_row: int, first: int, last: int, parameters: Numbers, slots: Matrix, data: Data, work: Work, batch: IntMatrix, n: int, rule: int, c: Numbers, factors: Numbers, l2: Number, scale: float) -> None:  # fmt: skip
    """The first layer's weights, from rows as lists of nonzero numbers: the inputs of threads ``first`` to ``last``.

    The weights begin at w_at, with lines of ``width`` numbers; row r's errors at d_at + r * d_row. What stands there is divided by
    ``scale``: with plain SGD an L2 penalty shrinks all weights alike, so that ``scale`` shrinks in their place, see ``shrunk``, and
    lines of inputs that are zero need not be touched.
    """
    cuts = data.splits[data.splits.shape[0] - 1]
    begin, end = cuts[first] * width, cuts[last] * width
    at, w = w_at + begin, parameters[w_at + begin : w_at + end]
    direct = rule == SGD  # the lines of inputs that are zero learn nothing, and are left alone
    into, into_at, factor = (parameters, w_at, -c[0] * factors[0]) if direct else (work.gradient, ZERO, c[0])
    if direct:
        after = scale * shrink_of(c, factors, l2)
        if after < LEAST_SCALE:
            whole = c.dtype.type(after)
            for j in range(end - begin):
                w[j] *= whole
        factor = c.dtype.type(factor / shrunk(after))
    else:
        factor = c.dtype.type(1.0)
        into[begin:end] = c.dtype.type(0.0)
    for r in range(n):
        p, q = data.splits[batch[r, 0], first], data.splits[batch[r, 0], last]
        change_lines(data.values, data.columns, p, q, factor, work.rows, d_at + r * d_row, into, into_at, width)
    if not direct:
        update(rule, w, into[begin:end], slots, at, c, factors, l2)


@kernel
def learn_lines(layout: IntMatrix, start: int, parameters: Numbers, slots: Matrix, data: Data, work: Work, batch: IntMatrix, n: int, thread: int, n_threads: int, rule: int, c: Numbers, factors: Cube, l2: Number, scale: float) -> None:  # fmt: skip
    """One thread's lines of the weights of layers ``start`` on: their gradient over the batch's n rows, and their update.

    A few lines at a time, so that the gradient never leaves the cache.
    """
    rows, scratch = work.rows, work.lines[thread]
    none = rows.dtype.type(0.0)
    for layer in range(start, layout.shape[0]):
        line = layout[layer]
        if layer % n_threads == thread and line[BLENDS_AT] >= 0:  # or a table's scales
            at, end = line[BLENDS_AT], line[BLENDS_AT] + line[OUT_PAD]
            g = scratch[: end - at]
            _sum_of_rows(rows, line[H_AT], n, g)
            update(rule, parameters[at:end], g, slots, at, c, factors[layer, BLENDS], none)
        if line[IS_TABLE]:
            continue
        if layer % n_threads == thread:
            at, end = line[B_AT], line[B_AT] + line[OUT_PAD]
            g = scratch[: end - at]
            gradient_of_biases(line, rows, ZERO, n, g)
            update(rule, parameters[at:end], g, slots, at, c, factors[layer, BIASES], none)
        if layer == 0 and data.dense.shape[0] == 0 and not line[HAS_DROPOUT]:
            learn_sparse(line[W_AT], line[OUT_PAD], line[D_AT], line[OUT_PAD], thread, thread + 1, parameters, slots, data, work, batch, n, rule, c, factors[layer, WEIGHTS], l2, scale)  # fmt: skip
            continue
        n_lines, width = _n_lines(line), _width(line)
        first, last = n_lines * thread // n_threads, n_lines * (thread + 1) // n_threads
        some = lines_at_a_time(width)
        for i in range(first, last, some):
            m = min(some, last - i)
            at, end = line[W_AT] + i * width, line[W_AT] + (i + m) * width
            g = scratch[: end - at]
            _of_lines(line, rows, ZERO, n, i, m, g, ZERO)
            update(rule, parameters[at:end], g, slots, at, c, factors[layer, WEIGHTS], l2)


@functools.partial(kernel, fastmath=False)
def add_pairs(groups: Matrix, first: int, last: int) -> None:
    """Groups' gradients ``(n_groups, n_parameters)``: of the groups first to last, each second one added to the one before."""
    for k in range(first, last - 1, 2):
        g, other = groups[k], groups[k + 1]
        for j in range(g.shape[0]):
            g[j] += other[j]


@functools.partial(kernel, fastmath=False)
def sum_groups(groups: Matrix, at: int, paired: bool, g: Numbers) -> None:
    """g = (group 0 + group 1) + (group 2 + group 3) + ..., from a place on; with ``paired`` these pairs are added up already.

    In this order whoever adds them up, so that no byte depends on the number of threads.
    """
    for k in range(0, groups.shape[0], 2):
        one = groups[k, at : at + g.shape[0]]
        if paired or k + 1 == groups.shape[0]:
            for j in range(g.shape[0]):
                g[j] = g[j] + one[j] if k else one[j]
            continue
        other = groups[k + 1, at : at + g.shape[0]]
        for j in range(g.shape[0]):
            g[j] = g[j] + (one[j] + other[j]) if k else one[j] + other[j]


@kernel
def learn_from_groups(layout: IntMatrix, parameters: Numbers, slots: Matrix, groups: Matrix, paired: bool, scratch: Numbers, rule: int, c: Numbers, factors: Cube, l2: Number) -> None:  # fmt: skip
    """The sum of the groups' gradients, ``(n_groups, n_parameters)``, and the update of all parameters."""
    none = parameters.dtype.type(0.0)
    for layer in range(layout.shape[0]):
        line = layout[layer]
        for kind in range(WEIGHTS, BIASES + 1):
            first = line[W_AT] if kind == WEIGHTS else line[B_AT]
            last = line[B_AT] if kind == WEIGHTS else line[B_AT] + line[OUT_PAD]
            for at in range(first, last, TILE_NUMBERS):
                end = min(at + TILE_NUMBERS, last)
                g = scratch[: end - at]
                sum_groups(groups, at, paired, g)
                update(rule, parameters[at:end], g, slots, at, c, factors[layer, kind], l2 if kind == WEIGHTS else none)
