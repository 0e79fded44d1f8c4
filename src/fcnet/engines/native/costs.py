"""What the last layer's weighted inputs cost, and the error they send back: ``fcnet.costs`` for many rows.

A network has few outputs, so that a row alone fills no vector. Exponentials, which take the time, are therefore computed for
many rows at once, side by side without padding; what is left is short sums along each row.
"""

from __future__ import annotations

import math
from typing import Any

from fcnet import costs
from fcnet.engines.native.elementary import SOFTMAX, activate, exp, like, log1p, sigmoid
from fcnet.engines.native.layout import A_AT, ACTIVATION, D_AT, N_OUT, OUT_PAD
from fcnet.engines.native.vectors import jit

LOG_LIKELIHOOD, CROSS_ENTROPY, QUADRATIC = range(3)
"""Codes of the costs."""
COSTS = {
    costs.log_likelihood: LOG_LIKELIHOOD,
    costs.cross_entropy: CROSS_ENTROPY,
    costs.quadratic: QUADRATIC,
}
ROWS = 64
"""Rows at a time."""


@jit()
def judge(cost: int, line: Any, data: Any, batch: Any, first: int, last: int, scale: float, rows: Any, room: Any, costs: Any) -> None:  # fmt: skip
    """Rows ``first`` to ``last`` of a batch: the last layer's weighted inputs become outputs, its errors are set.

    Args:
        line: the last layer's line of the layout.
        batch: ``(n, 2)``, whose first column says which row of the data each row is.
        scale: what row weights are multiplied by in the errors.
        rows: where the batch lies.
        room: ``(2, ROWS * n_out)`` to compute in.
        costs: ``(n,)``, where the cost of each row goes, without its weight.
    """
    n, pad, activation = line[N_OUT], line[OUT_PAD], line[ACTIVATION]
    zero, one = rows.dtype.type(0.0), rows.dtype.type(1.0)
    for start in range(first, last, ROWS):
        m = min(ROWS, last - start)
        some, others = room[0, : m * n], room[1, : m * n]
        for r in range(m):
            at = line[A_AT] + (start + r) * pad
            z, own = rows[at : at + n], some[r * n : (r + 1) * n]
            top = zero
            if activation == SOFTMAX:
                top = z[0]
                for j in range(n):
                    top = z[j] if z[j] > top else top
            for j in range(n):
                own[j] = z[j] - top
        if activation == SOFTMAX:
            for i in range(m * n):
                others[i] = exp(some[i])
        elif cost == CROSS_ENTROPY:
            for i in range(m * n):
                others[i] = log1p(exp(-abs(some[i])))
        else:
            activate(activation, some, others)
        for r in range(m):
            row = batch[start + r, 0]
            at, d_at = line[A_AT] + (start + r) * pad, line[D_AT] + (start + r) * pad
            x, e, a, d = (
                some[r * n : (r + 1) * n],
                others[r * n : (r + 1) * n],
                rows[at : at + n],
                rows[d_at : d_at + n],
            )
            if data.labels.shape[0]:
                d[:] = zero
                d[data.labels[row]] = one
            else:
                for j in range(n):
                    d[j] = data.targets[row, j]
            share = like(zero, scale * data.weights[row])
            if cost == LOG_LIKELIHOOD:
                costs[start + r] = _log_likelihood(n, x, e, a, d, share)
            elif cost == CROSS_ENTROPY:
                costs[start + r] = _cross_entropy(n, x, e, a, d, share)
            elif activation == SOFTMAX:
                costs[start + r] = _quadratic_of_softmax(n, x, e, a, d, share)
            else:
                costs[start + r] = _quadratic(n, x, e, a, d, share)


# --- A row of n outputs: a becomes the outputs; d holds the targets, and becomes the error dC/dz times the row's share ---


@jit()
def _log_likelihood(n: int, x: Any, e: Any, a: Any, d: Any, share: Any) -> Any:
    """-sum_j y_j log a_j with a = softmax(z), x = z - max z and e = e^x; dC/dz_j = a_j * (sum_k y_k) - y_j."""
    mass = total = sums = x.dtype.type(0.0)
    for j in range(n):
        mass += d[j]
        total -= d[j] * x[j]
        sums += e[j] + (x[j] - x[j])  # NaN where x is not finite
    inverse = like(sums, 1.0) / sums
    for j in range(n):
        a[j] = e[j] * inverse
        d[j] = share * (mass * a[j] - d[j])
    return total + mass * like(sums, math.log(sums))


@jit()
def _cross_entropy(n: int, x: Any, e: Any, a: Any, d: Any, share: Any) -> Any:
    """-sum_j [y_j log a_j + (1 - y_j) log(1 - a_j)], a = sigmoid(z), x = z, e = log(1 + e^-|z|); dC/dz_j = a_j - y_j."""
    total = zero = x.dtype.type(0.0)
    for j in range(n):
        total += (x[j] if x[j] > zero else zero) - x[j] * d[j] + e[j]
        a[j] = sigmoid(x[j])
        d[j] = share * (a[j] - d[j])
    return total


@jit()
def _quadratic_of_softmax(n: int, x: Any, e: Any, a: Any, d: Any, share: Any) -> Any:
    """0.5 * sum_j g_j^2, g = a - y, a = softmax(z), x = z - max z and e = e^x; dC/dz_j = a_j * (g_j - sum_k a_k g_k)."""
    total = sums = dot = x.dtype.type(0.0)
    for j in range(n):
        sums += e[j] + (x[j] - x[j])
    for j in range(n):
        a[j] = e[j] / sums
        d[j] = a[j] - d[j]
        total += like(sums, 0.5) * d[j] * d[j]
        dot += d[j] * a[j]
    for j in range(n):
        d[j] = share * a[j] * (d[j] - dot)
    return total


@jit()
def _quadratic(n: int, x: Any, f: Any, a: Any, d: Any, share: Any) -> Any:
    """0.5 * sum_j (a_j - y_j)^2, x being a and f its derivatives; dC/dz_j = (a_j - y_j) * f_j."""
    total = x.dtype.type(0.0)
    for j in range(n):
        g = x[j] - d[j]
        total += like(total, 0.5) * g * g
        a[j] = x[j]
        d[j] = share * g * f[j]
    return total
