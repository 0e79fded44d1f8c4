"""What the last layer's weighted inputs cost, and the error they send back: ``fcnet.costs`` for many rows.

A network has few outputs, so that a row alone fills no vector. Exponentials, which take the time, are therefore computed for
many rows at once, side by side without padding; what is left is short sums along each row.
"""

from __future__ import annotations

import math
from typing import Any

from fcnet.engines.native.codes import (
    ABSOLUTE,
    BINARY_FOCAL,
    CROSS_ENTROPY,
    FOCAL,
    HUBER,
    LOG_COSH,
    LOG_LIKELIHOOD,
    POISSON,
    QUANTILE,
    SOFTMAX,
)
from fcnet.engines.native.hints import Doubles, IntMatrix, Ints, Matrix, Numbers
from fcnet.engines.native.kernels.elementary import activate, exp, like, log, log1p, sigmoid
from fcnet.engines.native.kernels.linking import jit, kernel
from fcnet.engines.native.layout import A_AT, ACTIVATION, COST_ROWS, D_AT, N_OUT, OUT_PAD, Data


@kernel
def judge(cost: int, constants: Numbers, line: Ints, data: Data, batch: IntMatrix, first: int, last: int, scale: float, rows: Numbers, room: Matrix, costs: Doubles) -> None:  # fmt: skip
    """Rows ``first`` to ``last`` of a batch: the last layer's weighted inputs become outputs, its errors are set.

    Args:
        constants: of the cost, see ``codes.constants_of``.
        line: the last layer's line of the layout.
        batch: ``(n, 2)``, whose first column says which row of the data each row is.
        scale: what row weights are multiplied by in the errors.
        rows: where the batch lies.
        room: ``(5, COST_ROWS * n_out)`` to compute in.
        costs: ``(n,)``, where the cost of each row goes, without its weight.
    """
    n, pad, activation = line[N_OUT], line[OUT_PAD], line[ACTIVATION]
    zero, one = rows.dtype.type(0.0), rows.dtype.type(1.0)
    keep, add = constants[0], constants[1]
    for start in range(first, last, COST_ROWS):
        m = min(COST_ROWS, last - start)
        some, others, more = room[0, : m * n], room[1, : m * n], room[2, : m * n]
        sums, logs = room[3, :m], room[4, :m]
        for r in range(m):
            at, i = line[A_AT] + (start + r) * pad, r * n
            top = zero
            if activation == SOFTMAX:
                top = rows[at]
                for j in range(n):
                    top = rows[at + j] if rows[at + j] > top else top
            for j in range(n):
                some[i + j] = rows[at + j] - top
        if activation == SOFTMAX:
            for i in range(m * n):
                others[i] = exp(some[i])
            for r in range(m):
                total = zero
                for i in range(r * n, (r + 1) * n):
                    total += others[i] + (some[i] - some[i])  # NaN where an input is not finite
                sums[r] = total
            for r in range(m):
                logs[r] = log(sums[r])
                sums[r] = one / sums[r]
        elif cost in (CROSS_ENTROPY, BINARY_FOCAL):
            for i in range(m * n):
                others[i] = log1p(exp(-abs(some[i])))
            for i in range(m * n):
                more[i] = sigmoid(some[i])
        else:
            for i in range(m * n):
                more[i] = some[i]
            activate(activation, some, others)
        for r in range(m):
            row, i = batch[start + r, 0], r * n
            at, d_at = line[A_AT] + (start + r) * pad, line[D_AT] + (start + r) * pad
            share = like(zero, scale * data.weights[row])
            if (
                cost == LOG_LIKELIHOOD and data.labels.shape[0] and keep == one
            ):  # the usual one, with no sum over targets
                costs[start + r] = logs[r] - some[i + data.labels[row]]
                for j in range(n):
                    a = others[i + j] * sums[r]
                    rows[at + j], rows[d_at + j] = a, share * a
                rows[d_at + data.labels[row]] -= share
                continue
            for j in range(n):
                y = one if data.labels.shape[0] and data.labels[row] == j else zero
                rows[d_at + j] = keep * (y if data.labels.shape[0] else data.targets[row, j]) + add
            if activation == SOFTMAX:
                for j in range(n):
                    rows[at + j] = others[i + j] * sums[r]
                if cost == LOG_LIKELIHOOD:
                    total = _log_likelihood(n, some, i, rows, at, d_at, logs[r])
                elif cost == FOCAL:
                    total = _focal(n, some, i, rows, at, d_at, logs[r], constants[2])
                else:
                    total = _elementwise(cost, constants, n, rows, at, d_at)
                    _through_softmax(n, rows, at, d_at)
            elif cost == CROSS_ENTROPY:
                total = _cross_entropy(n, some, others, more, i, rows, at, d_at)
            elif cost == BINARY_FOCAL:
                total = _binary_focal(n, some, others, more, i, rows, at, d_at, constants[2])
            else:
                for j in range(n):
                    rows[at + j] = some[i + j]
                if cost == POISSON:
                    total = _poisson(n, more, i, rows, at, d_at)
                else:
                    total = _elementwise(cost, constants, n, rows, at, d_at)
                    for j in range(n):
                        rows[d_at + j] *= others[i + j]
            for j in range(n):
                rows[d_at + j] *= share
            costs[start + r] = total


# --- A row of n outputs. Its numbers from a on hold the outputs; those from d on hold the targets, and become the error. ----


@jit()
def _log_likelihood(n: int, x: Any, i: int, rows: Any, a: int, d: int, log_sum: Any) -> Any:
    """-sum_j y_j log a_j with a = softmax(z), x = z - max z from i on; dC/dz_j = a_j * (sum_k y_k) - y_j."""
    mass = total = like(log_sum, 0.0)
    for j in range(n):
        mass += rows[d + j]
        total -= rows[d + j] * x[i + j]
    for j in range(n):
        rows[d + j] = mass * rows[a + j] - rows[d + j]
    return total + mass * log_sum


@jit()
def _focal(n: int, x: Any, i: int, rows: Any, a: int, d: int, log_sum: Any, gamma: Any) -> Any:
    """-sum_j y_j (1 - a_j)^gamma log a_j; with g_j = dC/d(log a_j), dC/dz_j = g_j - a_j * sum_k g_k."""
    one = like(log_sum, 1.0)
    total = dot = like(log_sum, 0.0)
    for j in range(n):
        y, log_a = rows[d + j], x[i + j] - log_sum
        missing = max(like(log_sum, -math.expm1(log_a)), like(log_sum, 1e-12))
        power = like(log_sum, missing ** (gamma - one))
        total -= y * missing * power * log_a
        g = -y * power * (missing - gamma * rows[a + j] * log_a)
        rows[d + j] = g
        dot += g
    for j in range(n):
        rows[d + j] -= rows[a + j] * dot
    return total


@jit()
def _through_softmax(n: int, rows: Any, a: int, d: int) -> None:
    """Errors s_j by outputs a = softmax(z) become errors by z: a_j * (s_j - sum_k a_k s_k)."""
    dot = rows[d] - rows[d]
    for j in range(n):
        dot += rows[a + j] * rows[d + j]
    for j in range(n):
        rows[d + j] = rows[a + j] * (rows[d + j] - dot)


@jit()
def _cross_entropy(n: int, z: Any, e: Any, s: Any, i: int, rows: Any, a: int, d: int) -> Any:
    """-sum_j [y_j log a_j + (1 - y_j) log(1 - a_j)]; s = a = sigmoid(z), e = log(1 + e^-|z|); dC/dz_j = a_j - y_j."""
    total = zero = like(z[i], 0.0)
    for j in range(n):
        x = z[i + j]
        total += (x if x > zero else zero) - x * rows[d + j] + e[i + j]
        rows[d + j] = s[i + j] - rows[d + j]
        rows[a + j] = s[i + j]
    return total


@jit()
def _binary_focal(n: int, z: Any, e: Any, s: Any, i: int, rows: Any, a: int, d: int, gamma: Any) -> Any:
    """-sum_j [y_j (1 - a_j)^gamma log a_j + (1 - y_j) a_j^gamma log(1 - a_j)]; s and e as for the cross-entropy."""
    zero, one = like(gamma, 0.0), like(gamma, 1.0)
    total = zero
    for j in range(n):
        x, y, p = z[i + j], rows[d + j], s[i + j]
        cost_1, cost_0 = e[i + j] + (-x if x < zero else zero), e[i + j] + (x if x > zero else zero)
        ones, zeros = y * exp(-gamma * cost_0), (one - y) * exp(-gamma * cost_1)
        total += ones * cost_1 + zeros * cost_0
        rows[d + j] = zeros * (gamma * (one - p) * cost_0 + p) - ones * (gamma * p * cost_1 + (one - p))
        rows[a + j] = p
    return total


@jit()
def _poisson(n: int, z: Any, i: int, rows: Any, a: int, d: int) -> Any:
    """sum_j [a_j - y_j z_j + y_j log y_j - y_j] with a = e^z; dC/dz_j = a_j - y_j."""
    total = like(z[i], 0.0)
    for j in range(n):
        y = rows[d + j]
        total += rows[a + j] - y * z[i + j] + (like(y, y * math.log(y)) if y > 0 else like(y, 0.0)) - y
        rows[d + j] = rows[a + j] - y
    return total


@jit()
def _elementwise(cost: int, constants: Any, n: int, rows: Any, a: int, d: int) -> Any:
    """The costs that are a sum of functions of e = a_j - y_j; the errors are dC/da_j."""
    zero, half = like(constants[0], 0.0), like(constants[0], 0.5)
    one, two = like(constants[0], 1.0), like(constants[0], 2.0)
    total = zero
    for j in range(n):
        e = rows[a + j] - rows[d + j]
        value, slope = half * e * e, e
        if cost == ABSOLUTE:
            slope = one if e > zero else (-one if e < zero else e)
            value = abs(e)
        elif cost == HUBER:
            slope = min(max(e, -constants[2]), constants[2])
            value = slope * (e - half * slope)
        elif cost == LOG_COSH:
            t = exp(-two * abs(e))
            slope = (one - t) / (one + t)
            slope = slope if e > zero else -slope
            value = abs(e) + log1p(t) - like(e, 0.6931471805599453)
        elif cost == QUANTILE:
            slope = one - constants[2 + j] if e > zero else (-constants[2 + j] if e < zero else e)
            value = slope * e
        total += value + (e - e)
        rows[d + j] = slope
    return total
