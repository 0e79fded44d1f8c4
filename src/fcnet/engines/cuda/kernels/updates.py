"""How a gradient changes a parameter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import cuda

from fcnet.engines.cuda.kernels.elementary import Number, unsigned
from fcnet.optimizers import UpdateRule


def learn_of(T: Any, rule: UpdateRule) -> tuple[Callable[..., Any], Callable[..., None]]:
    """Two functions of an update rule.

    (numbers, at, own): the rule's coefficients for the parameters that are array ``own`` in the model's order; a step's begin at ``at``.

    (numbers, at, size, g, c): the update of the parameter at ``at``, whose slots lie ``size`` and ``2 * size`` on.
    """
    n = len(rule.coefficients)

    @cuda.jit(device=True)
    def one(numbers: Any, at: int, own: int) -> Any:
        return (numbers[unsigned(at + own)],)

    @cuda.jit(device=True)
    def two(numbers: Any, at: int, own: int) -> Any:
        first = at + n * own
        return numbers[unsigned(first)], numbers[unsigned(first + 1)]

    @cuda.jit(device=True)
    def nine(numbers: Any, at: int, own: int) -> Any:
        f = at + n * own
        return (
            numbers[unsigned(f)], numbers[unsigned(f + 1)], numbers[unsigned(f + 2)], numbers[unsigned(f + 3)],
            numbers[unsigned(f + 4)], numbers[unsigned(f + 5)], numbers[unsigned(f + 6)], numbers[unsigned(f + 7)],
            numbers[unsigned(f + 8)],
        )  # fmt: skip

    @cuda.jit(device=True)
    def sgd(numbers: Any, at: int, size: int, g: Number, c: Any) -> None:
        numbers[unsigned(at)] -= c[0] * g

    @cuda.jit(device=True)
    def momentum(numbers: Any, at: int, size: int, g: Number, c: Any) -> None:
        velocity = c[1] * numbers[unsigned(at + size)] - c[0] * g
        numbers[unsigned(at + size)] = velocity
        numbers[unsigned(at)] += velocity

    @cuda.jit(device=True)
    def nesterov(numbers: Any, at: int, size: int, g: Number, c: Any) -> None:
        velocity = c[1] * numbers[unsigned(at + size)] - c[0] * g
        numbers[unsigned(at + size)] = velocity
        numbers[unsigned(at)] += c[1] * velocity - c[0] * g

    @cuda.jit(device=True)
    def adam(numbers: Any, at: int, size: int, g: Number, c: Any) -> None:
        w = numbers[unsigned(at)]
        first = c[1] * numbers[unsigned(at + size)] + c[2] * g
        second = c[3] * numbers[unsigned(at + 2 * size)] + c[4] * g * g
        numbers[unsigned(at + size)], numbers[unsigned(at + 2 * size)] = first, second
        change = c[0] * (first * c[6]) / (T(math.sqrt(second * c[7])) + c[5])
        numbers[unsigned(at)] = w - (change + c[8] * w)

    rules = {"sgd": sgd, "momentum": momentum, "nesterov": nesterov, "adam": adam}
    return {1: one, 2: two, 9: nine}[n], rules[rule.name]
