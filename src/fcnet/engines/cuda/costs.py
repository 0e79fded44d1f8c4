"""What an output costs, and its error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import cuda

from fcnet import activations, costs
from fcnet.engines.contract import Program
from fcnet.engines.cuda.elementary import ACTIVATIONS, Number, activation_of, unsigned

COSTS = (costs.log_likelihood, costs.cross_entropy, costs.quadratic)


def judge_of(T: Any, program: Program, labels: bool) -> Callable[..., tuple[Number, Number]]:
    """(numbers, z, n, j, y): the error of output ``j`` of a row, and what it adds to the row's cost.

    The row's ``n`` weighted inputs are at ``z``; at ``y`` its label, as a number, or its ``n`` values.
    """
    zero, one, half = T(0.0), T(1.0), T(0.5)
    last = program.model.layers[-1].activation_fn
    activate = activation_of(T, last if last in ACTIVATIONS else activations.linear)  # softmax has its cost

    @cuda.jit(device=True)
    def target(numbers: Any, y: int, j: int) -> Number:
        if labels:
            return one if numbers[unsigned(y)] == T(j) else zero
        return numbers[unsigned(y + j)]

    @cuda.jit(device=True)
    def log_likelihood(numbers: Any, z: int, n: int, j: int, y: int) -> Any:
        top, k = numbers[unsigned(z)], 1
        while k < n:
            top = max(top, numbers[unsigned(z + k)])
            k += 1
        total, mass, k = zero, zero, 0
        while k < n:
            total += T(math.exp(numbers[unsigned(z + k)] - top))
            if not labels:
                mass += target(numbers, y, k)
            k += 1
        x, wanted = numbers[unsigned(z + j)] - top, target(numbers, y, j)
        error = (one if labels else mass) * (T(math.exp(x)) / total) - wanted
        return error, wanted * (T(math.log(total)) - x)

    @cuda.jit(device=True)
    def cross_entropy(numbers: Any, z: int, n: int, j: int, y: int) -> Any:
        x, wanted = numbers[unsigned(z + j)], target(numbers, y, j)
        cost = (x if x > zero else zero) - x * wanted + T(math.log1p(T(math.exp(-abs(x)))))
        return half * (T(math.tanh(half * x)) + one) - wanted, cost

    @cuda.jit(device=True)
    def quadratic(numbers: Any, z: int, n: int, j: int, y: int) -> Any:
        a, slope = activate(numbers[unsigned(z + j)])
        error = a - target(numbers, y, j)
        return error * slope, half * error * error

    return {"log_likelihood": log_likelihood, "cross_entropy": cross_entropy, "quadratic": quadratic}[program.cost.name]
