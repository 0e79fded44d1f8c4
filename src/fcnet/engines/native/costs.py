"""What the last layer's weighted inputs cost, and the error they send back: ``fcnet.costs`` for many rows.

A network has few outputs, so that a row alone fills no vector. Exponentials, which take the time, are therefore computed for
many rows at once, side by side without padding; what is left is short sums along each row.
"""

from __future__ import annotations

from typing import Any

from fcnet import costs
from fcnet.engines.native.elementary import SOFTMAX, activate, exp, like, log, log1p, sigmoid
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
        room: ``(5, ROWS * n_out)`` to compute in.
        costs: ``(n,)``, where the cost of each row goes, without its weight.
    """
    n, pad, activation = line[N_OUT], line[OUT_PAD], line[ACTIVATION]
    zero, one = rows.dtype.type(0.0), rows.dtype.type(1.0)
    for start in range(first, last, ROWS):
        m = min(ROWS, last - start)
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
        elif cost == CROSS_ENTROPY:
            for i in range(m * n):
                others[i] = log1p(exp(-abs(some[i])))
            for i in range(m * n):
                more[i] = sigmoid(some[i])
        else:
            activate(activation, some, others)
        for r in range(m):
            row, i = batch[start + r, 0], r * n
            at, d_at = line[A_AT] + (start + r) * pad, line[D_AT] + (start + r) * pad
            share = like(zero, scale * data.weights[row])
            if cost == LOG_LIKELIHOOD and data.labels.shape[0]:
                costs[start + r] = logs[r] - some[i + data.labels[row]]
                for j in range(n):
                    a = others[i + j] * sums[r]
                    rows[at + j], rows[d_at + j] = a, share * a
                rows[d_at + data.labels[row]] -= share
                continue
            for j in range(n):
                if data.labels.shape[0]:
                    rows[d_at + j] = one if data.labels[row] == j else zero
                else:
                    rows[d_at + j] = data.targets[row, j]
            if cost == LOG_LIKELIHOOD:
                total = _log_likelihood(n, some, others, i, rows, at, d_at, share, sums[r], logs[r])
            elif cost == CROSS_ENTROPY:
                total = _cross_entropy(n, some, others, more, i, rows, at, d_at, share)
            elif activation == SOFTMAX:
                total = _quadratic_of_softmax(n, others, i, rows, at, d_at, share, sums[r])
            else:
                total = _quadratic(n, some, others, i, rows, at, d_at, share)
            costs[start + r] = total


# --- A row of n outputs, at numbers i of ``x`` and ``e``. Its numbers from a on become the outputs; those from d on hold the
# --- targets, and become the error dC/dz times the row's share.


@jit()
def _log_likelihood(n: int, x: Any, e: Any, i: int, rows: Any, a: int, d: int, share: Any, inverse: Any, log_sum: Any) -> Any:  # fmt: skip
    """-sum_j y_j log a_j with a = softmax(z), x = z - max z and e = e^x; dC/dz_j = a_j * (sum_k y_k) - y_j."""
    mass = total = like(share, 0.0)
    for j in range(n):
        mass += rows[d + j]
        total -= rows[d + j] * x[i + j]
    for j in range(n):
        rows[a + j] = e[i + j] * inverse
        rows[d + j] = share * (mass * rows[a + j] - rows[d + j])
    return total + mass * log_sum


@jit()
def _cross_entropy(n: int, x: Any, e: Any, s: Any, i: int, rows: Any, a: int, d: int, share: Any) -> Any:
    """-sum_j [y_j log a_j + (1 - y_j) log(1 - a_j)], s = a = sigmoid(z), x = z, e = log(1 + e^-|z|); dC/dz_j = a_j - y_j."""
    total = zero = like(share, 0.0)
    for j in range(n):
        z = x[i + j]
        total += (z if z > zero else zero) - z * rows[d + j] + e[i + j]
        rows[d + j] = share * (s[i + j] - rows[d + j])
        rows[a + j] = s[i + j]
    return total


@jit()
def _quadratic_of_softmax(n: int, e: Any, i: int, rows: Any, a: int, d: int, share: Any, inverse: Any) -> Any:
    """0.5 * sum_j g_j^2, g = a - y, a = softmax(z), e = e^(z - max z); dC/dz_j = a_j * (g_j - sum_k a_k g_k)."""
    total = dot = like(share, 0.0)
    for j in range(n):
        rows[a + j] = e[i + j] * inverse
        g = rows[a + j] - rows[d + j]
        rows[d + j] = g
        total += like(total, 0.5) * g * g
        dot += g * rows[a + j]
    for j in range(n):
        rows[d + j] = share * rows[a + j] * (rows[d + j] - dot)
    return total


@jit()
def _quadratic(n: int, x: Any, f: Any, i: int, rows: Any, a: int, d: int, share: Any) -> Any:
    """0.5 * sum_j (a_j - y_j)^2, x being a and f its derivatives; dC/dz_j = (a_j - y_j) * f_j."""
    total = like(share, 0.0)
    for j in range(n):
        rows[a + j] = x[i + j]
        g = x[i + j] - rows[d + j]
        total += like(total, 0.5) * g * g
        rows[d + j] = share * g * f[i + j]
    return total
