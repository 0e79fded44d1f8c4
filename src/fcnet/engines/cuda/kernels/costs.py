"""What an output costs, and its error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import cuda

from fcnet.engines.cuda.kernels.elementary import Number, activation_of, unsigned
from fcnet.engines.cuda.kinds import Kind, RowsKind


def judge_of(T: Any, kind: Kind | RowsKind) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Two functions of a kernel's cost, for rows whose ``n`` weighted inputs are at ``z``, and at ``y`` their label, as a number, or their
    ``n`` values.

    (numbers, z, n, y, first, stride): what all outputs of a row need of each other, of every ``stride``-th one from ``first`` on: the
    largest z, the sum of exp(z - largest), and the sum of the targets.

    (numbers, z, n, j, y, top, total, mass): the error of output ``j``, and what it adds to the row's cost, by these sums of all outputs.
    """
    zero, one, half = T(0.0), T(1.0), T(0.5)
    labels = kind.labels
    activate = activation_of(
        T, kind.last if kind.cost == "quadratic" else "linear"
    )  # the other costs read what it is given

    @cuda.jit(device=True)
    def target(numbers: Any, y: int, j: int) -> Number:
        if labels:
            return one if numbers[unsigned(y)] == T(j) else zero
        return numbers[unsigned(y + j)]

    @cuda.jit(device=True)
    def of_softmax(numbers: Any, z: int, n: int, y: int, first: int, stride: int) -> Any:
        top, k = numbers[unsigned(z + first)], first + stride
        while k < n:
            top = max(top, numbers[unsigned(z + k)])
            k += stride
        total, k = zero, first
        mass = one if labels and first == 0 else zero
        while k < n:
            total += T(math.exp(numbers[unsigned(z + k)] - top))
            if not labels:
                mass += target(numbers, y, k)
            k += stride
        return top, total, mass

    @cuda.jit(device=True)
    def of_nothing(numbers: Any, z: int, n: int, y: int, first: int, stride: int) -> Any:
        return zero, zero, zero

    @cuda.jit(device=True)
    def log_likelihood(numbers: Any, z: int, n: int, j: int, y: int, top: Any, total: Any, mass: Any) -> Any:
        x, wanted = numbers[unsigned(z + j)] - top, target(numbers, y, j)
        return mass * (T(math.exp(x)) / total) - wanted, wanted * (T(math.log(total)) - x)

    @cuda.jit(device=True)
    def cross_entropy(numbers: Any, z: int, n: int, j: int, y: int, top: Any, total: Any, mass: Any) -> Any:
        x, wanted = numbers[unsigned(z + j)], target(numbers, y, j)
        cost = (x if x > zero else zero) - x * wanted + T(math.log1p(T(math.exp(-abs(x)))))
        return half * (T(math.tanh(half * x)) + one) - wanted, cost

    @cuda.jit(device=True)
    def quadratic(numbers: Any, z: int, n: int, j: int, y: int, top: Any, total: Any, mass: Any) -> Any:
        a, slope = activate(numbers[unsigned(z + j)])
        error = a - target(numbers, y, j)
        return error * slope, half * error * error

    judges = {"log_likelihood": log_likelihood, "cross_entropy": cross_entropy, "quadratic": quadratic}
    return of_softmax if kind.cost == "log_likelihood" else of_nothing, judges[kind.cost]
