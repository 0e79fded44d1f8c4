"""What a row costs, and the errors of its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import cuda

from fcnet import activations, costs
from fcnet.engines.contract import Program
from fcnet.engines.cuda.elementary import ACTIVATIONS, Number, activation_of, unsigned

COSTS = (costs.log_likelihood, costs.cross_entropy, costs.quadratic)


def judge_of(T: Any, program: Program) -> Callable[..., Number]:
    """(numbers, at, n, targets, row, label): weighted inputs of a row at ``at`` become its errors; its cost is returned.

    ``label`` is the row's class, or -1 where its targets are row ``row`` of ``targets``.
    """
    zero, one, half = T(0.0), T(1.0), T(0.5)
    last = program.model.layers[-1].activation_fn
    activate = activation_of(T, last if last in ACTIVATIONS else activations.linear)  # softmax has its cost

    @cuda.jit(device=True)
    def target(targets: Any, row: int, label: int, j: int) -> Number:
        if label >= 0:
            return one if j == label else zero
        return targets[row, j]

    @cuda.jit(device=True)
    def log_likelihood(numbers: Any, at: int, n: int, targets: Any, row: int, label: int) -> Number:
        top = numbers[unsigned(at)]
        for j in range(n):
            top = numbers[unsigned(at + j)] if numbers[unsigned(at + j)] > top else top
        total, mass, dot = zero, zero, zero
        for j in range(n):
            x, y = numbers[unsigned(at + j)] - top, target(targets, row, label, j)
            total += T(math.exp(x))
            mass += y
            dot += y * x
        for j in range(n):
            a = T(math.exp(numbers[unsigned(at + j)] - top)) / total
            numbers[unsigned(at + j)] = mass * a - target(targets, row, label, j)
        return mass * T(math.log(total)) - dot

    @cuda.jit(device=True)
    def cross_entropy(numbers: Any, at: int, n: int, targets: Any, row: int, label: int) -> Number:
        total = zero
        for j in range(n):
            z, y = numbers[unsigned(at + j)], target(targets, row, label, j)
            total += (z if z > zero else zero) - z * y + T(math.log1p(T(math.exp(-abs(z)))))
            numbers[unsigned(at + j)] = half * (T(math.tanh(half * z)) + one) - y
        return total

    @cuda.jit(device=True)
    def quadratic(numbers: Any, at: int, n: int, targets: Any, row: int, label: int) -> Number:
        total = zero
        for j in range(n):
            a, slope = activate(numbers[unsigned(at + j)])
            error = a - target(targets, row, label, j)
            total += half * error * error
            numbers[unsigned(at + j)] = error * slope
        return total

    return {"log_likelihood": log_likelihood, "cross_entropy": cross_entropy, "quadratic": quadratic}[program.cost.name]
