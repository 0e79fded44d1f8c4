"""How a gradient changes a parameter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import cuda

from fcnet import optimizers
from fcnet.engines.contract import Program
from fcnet.engines.cuda.elementary import Number, unsigned

RULES = (optimizers.SGD_RULE, optimizers.MOMENTUM_RULE, optimizers.NESTEROV_RULE, optimizers.ADAM_RULE)


def learn_of(T: Any, program: Program) -> Callable[..., None]:
    """(numbers, at, size, g, c, step, own): the update of the parameter at ``at``, whose slots lie ``size`` and ``2 * size`` on.

    ``own`` is the array's place in the model's order, which has coefficients of its own.
    """

    @cuda.jit(device=True)
    def sgd(numbers: Any, at: int, size: int, g: Number, c: Any, step: int, own: int) -> None:
        numbers[unsigned(at)] -= c[step, own, 0] * g

    @cuda.jit(device=True)
    def momentum(numbers: Any, at: int, size: int, g: Number, c: Any, step: int, own: int) -> None:
        velocity = c[step, own, 1] * numbers[unsigned(at + size)] - c[step, own, 0] * g
        numbers[unsigned(at + size)] = velocity
        numbers[unsigned(at)] += velocity

    @cuda.jit(device=True)
    def nesterov(numbers: Any, at: int, size: int, g: Number, c: Any, step: int, own: int) -> None:
        velocity = c[step, own, 1] * numbers[unsigned(at + size)] - c[step, own, 0] * g
        numbers[unsigned(at + size)] = velocity
        numbers[unsigned(at)] += c[step, own, 1] * velocity - c[step, own, 0] * g

    @cuda.jit(device=True)
    def adam(numbers: Any, at: int, size: int, g: Number, c: Any, step: int, own: int) -> None:
        w = numbers[unsigned(at)]
        first = c[step, own, 1] * numbers[unsigned(at + size)] + c[step, own, 2] * g
        second = c[step, own, 3] * numbers[unsigned(at + 2 * size)] + c[step, own, 4] * g * g
        numbers[unsigned(at + size)], numbers[unsigned(at + 2 * size)] = first, second
        change = (
            c[step, own, 0] * (first * c[step, own, 6]) / (T(math.sqrt(second * c[step, own, 7])) + c[step, own, 5])
        )
        numbers[unsigned(at)] = w - (change + c[step, own, 8] * w)

    return {"sgd": sgd, "momentum": momentum, "nesterov": nesterov, "adam": adam}[program.rule.name]
