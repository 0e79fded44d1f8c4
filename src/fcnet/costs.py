"""Cost functions: one record each.

A ``Cost`` gives a number for every row, from the last layer's weighted inputs z, its outputs a = f(z) and the targets,
all ``(n_rows, n_out)``. Class labels reach it as one-hot targets. Costs that pair with an activation read z, which
keeps them finite where log(a) would not be. The mean over rows is what training minimises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from fcnet.activations import Activation, exponential, sigmoid, softmax
from fcnet.errors import InputError, unknown_name

Array = Any
"""A NumPy or JAX array."""


@dataclass(frozen=True)
class Cost:
    """A cost function.

    Attributes:
        name: as the command line and saved files know it.
        function: (z, a, targets), each ``(n_rows, n_out)``, and the constants -> the cost of each row, ``(n_rows,)``.
        pairs_with: the activation that the last layer must have; None where any will do.
        constants: numbers that the function is given after the arrays, so that two costs with equal ones are equal.
    """

    name: str
    function: Callable[..., Array]
    pairs_with: Activation | None = None
    constants: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not callable(self.function):
            raise InputError(
                f"Cost: name must be a text and function callable, got {self.name!r} and {self.function!r}."
            )
        if not (self.pairs_with is None or isinstance(self.pairs_with, Activation)):
            raise InputError(f"Cost {self.name!r}: pairs_with must be an activation or None, got {self.pairs_with!r}.")
        if not isinstance(self.constants, tuple) or not all(isinstance(one, Real) for one in self.constants):
            raise InputError(f"Cost {self.name!r}: constants must be a tuple of numbers, got {self.constants!r}.")

    def __call__(self, z: Array, a: Array, targets: Array) -> Array:
        """The cost of each row."""
        return self.function(z, a, targets, *self.constants)

    def __repr__(self) -> str:
        constants = ", ".join(f"{constant:g}" for constant in self.constants)
        return f"fcnet.{self.name}({constants})" if constants else f"fcnet.{self.name}"

    def check_pairing(self, activation: Activation) -> None:
        """Refuse a last layer whose outputs this cost cannot read."""
        if self.pairs_with is None or self.pairs_with == activation:
            return
        advice = {
            softmax: "End the network with a SoftmaxLayer, or use fcnet.quadratic.",
            sigmoid: "For a SoftmaxLayer use fcnet.log_likelihood (the categorical cross-entropy); "
            "otherwise end the network with a FullyConnectedLayer(..., activation_fn=fcnet.sigmoid).",
        }.get(
            self.pairs_with,
            f"End the network with a FullyConnectedLayer(..., activation_fn=fcnet.{self.pairs_with.name}).",
        )
        raise InputError(
            f"The cost {self.name} needs {self.pairs_with.name} outputs, but the last layer's activation is "
            f"{activation.name}. {advice}"
        )


def _log_likelihood(z: Array, a: Array, targets: Array) -> Array:
    xp = z.__array_namespace__()
    shifted = z - xp.max(z, axis=-1, keepdims=True)
    log_sum = xp.log(xp.sum(xp.exp(shifted), axis=-1))
    return xp.sum(targets, axis=-1) * log_sum - xp.sum(targets * shifted, axis=-1)


def _cross_entropy(z: Array, a: Array, targets: Array) -> Array:
    xp = z.__array_namespace__()
    positive = z > 0  # max(z, 0) and |z| would do, but for their kinks at 0: there the derivative must be 1/2 - y
    costs = xp.where(positive, z, 0.0) - z * targets + xp.log1p(xp.exp(xp.where(positive, -z, z)))
    return xp.sum(costs, axis=-1)


def _quadratic(z: Array, a: Array, targets: Array) -> Array:
    return 0.5 * ((a - targets) ** 2).sum(axis=-1)


def _softplus(z: Array) -> Array:
    """log(1 + exp(z)), smooth at 0."""
    xp = z.__array_namespace__()
    positive = z > 0
    return xp.where(positive, z, 0.0) + xp.log1p(xp.exp(xp.where(positive, -z, z)))


def _absolute(z: Array, a: Array, targets: Array) -> Array:
    xp = a.__array_namespace__()
    error = a - targets
    return xp.where(error > 0, error, xp.where(error < 0, -error, 0.0)).sum(axis=-1)


def _huber(z: Array, a: Array, targets: Array, delta: float) -> Array:
    xp = a.__array_namespace__()
    error = a - targets
    inside = xp.clip(error, -delta, delta)
    return (inside * (error - 0.5 * inside)).sum(axis=-1)


def _log_cosh(z: Array, a: Array, targets: Array) -> Array:
    error = a - targets
    return (error + _softplus(-2.0 * error) - math.log(2.0)).sum(axis=-1)


def _quantile(z: Array, a: Array, targets: Array, *levels: float) -> Array:
    xp = a.__array_namespace__()
    error = targets - a
    level = xp.asarray(levels, dtype=a.dtype)
    slope = xp.where(error > 0, level, xp.where(error < 0, level - 1.0, 0.0 * level))
    return (slope * error).sum(axis=-1)


def _poisson(z: Array, a: Array, targets: Array) -> Array:
    xp = a.__array_namespace__()
    positive = xp.where(targets > 0, targets, 1.0)
    return (a - targets * z + xp.where(targets > 0, targets * xp.log(positive), 0.0) - targets).sum(axis=-1)


def _log_softmax(z: Array) -> Array:
    xp = z.__array_namespace__()
    shifted = z - xp.max(z, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def _focal(z: Array, a: Array, targets: Array, gamma: float) -> Array:
    xp = z.__array_namespace__()
    log_a = _log_softmax(z)
    missing = xp.maximum(-xp.expm1(log_a), 1e-12)  # 1 - a; a power below 1 has no derivative at 0
    return -(targets * missing**gamma * log_a).sum(axis=-1)


def _binary_focal(z: Array, a: Array, targets: Array, gamma: float) -> Array:
    xp = z.__array_namespace__()
    cost_1, cost_0 = _softplus(-z), _softplus(z)  # -log a and -log(1 - a)
    ones, zeros = targets * xp.exp(-gamma * cost_0) * cost_1, (1.0 - targets) * xp.exp(-gamma * cost_1) * cost_0
    return (ones + zeros).sum(axis=-1)


def _label_smoothing(z: Array, a: Array, targets: Array, epsilon: float) -> Array:
    return _log_likelihood(z, a, (1.0 - epsilon) * targets + epsilon / z.shape[-1])


def _binary_label_smoothing(z: Array, a: Array, targets: Array, epsilon: float) -> Array:
    return _cross_entropy(z, a, (1.0 - epsilon) * targets + 0.5 * epsilon)


log_likelihood = Cost("log_likelihood", _log_likelihood, pairs_with=softmax)
"""-sum_j y_j log a_j with softmax outputs: Nielsen, chapter 3; also called categorical cross-entropy."""

cross_entropy = Cost("cross_entropy", _cross_entropy, pairs_with=sigmoid)
"""-sum_j [y_j log a_j + (1 - y_j) log(1 - a_j)] with sigmoid outputs: Nielsen, chapter 3, equation 63."""

quadratic = Cost("quadratic", _quadratic)
"""0.5 * sum_j (a_j - y_j)^2: Nielsen, chapter 1, equation 6, a row at a time."""

absolute = Cost("absolute", _absolute)
"""sum_j |a_j - y_j|: its best constant is the median. The derivative where a_j = y_j is taken as 0."""

log_cosh = Cost("log_cosh", _log_cosh)
"""sum_j log cosh(a_j - y_j): quadratic near 0, absolute far from it, smooth in between."""

poisson = Cost("poisson", _poisson, pairs_with=exponential)
"""sum_j [a_j - y_j log a_j] + y_j log y_j - y_j with exponential outputs: half the Poisson deviance, for counts y_j >= 0."""


def huber(delta: float = 1.0) -> Cost:
    """sum_j h(a_j - y_j) with h(e) = e^2 / 2 where |e| <= delta, else delta * (|e| - delta / 2): Huber, 1964."""
    return Cost("huber", _huber, constants=(_within("huber", "delta", delta, 0.0, math.inf),))


def quantile(levels: float | Sequence[float] = 0.5) -> Cost:
    """The pinball cost, whose best constant is a quantile: Koenker and Bassett, 1978.

    sum_j [q_j * max(y_j - a_j, 0) + (1 - q_j) * max(a_j - y_j, 0)]. The derivative where a_j = y_j is taken as 0.

    Args:
        levels: one q in (0, 1) for all outputs, or one for each.
    """
    given = tuple(levels) if isinstance(levels, Sequence) else (levels,)
    if not given:
        raise InputError("quantile: levels is empty. Expected at least one number in (0, 1).")
    return Cost("quantile", _quantile, constants=tuple(_within("quantile", "levels", q, 0.0, 1.0) for q in given))


def focal(gamma: float = 2.0) -> Cost:
    """-sum_j y_j (1 - a_j)^gamma log a_j with softmax outputs: rows that are easy count less. Lin et al., 2017."""
    return Cost("focal", _focal, softmax, (_within("focal", "gamma", gamma, 0.0, math.inf, closed=True),))


def binary_focal(gamma: float = 2.0) -> Cost:
    """-sum_j [y_j (1 - a_j)^gamma log a_j + (1 - y_j) a_j^gamma log(1 - a_j)] with sigmoid outputs: Lin et al., 2017."""
    return Cost("binary_focal", _binary_focal, sigmoid, (_within("focal", "gamma", gamma, 0.0, math.inf, closed=True),))


def label_smoothing(epsilon: float = 0.1) -> Cost:
    """The log-likelihood cost of targets (1 - epsilon) y_j + epsilon / n_out, with softmax outputs: Szegedy et al., 2016."""
    constants = (_within("label_smoothing", "epsilon", epsilon, 0.0, 1.0, closed=True),)
    return Cost("label_smoothing", _label_smoothing, softmax, constants)


def binary_label_smoothing(epsilon: float = 0.1) -> Cost:
    """The cross-entropy cost of targets (1 - epsilon) y_j + epsilon / 2, with sigmoid outputs: Szegedy et al., 2016."""
    constants = (_within("label_smoothing", "epsilon", epsilon, 0.0, 1.0, closed=True),)
    return Cost("binary_label_smoothing", _binary_label_smoothing, sigmoid, constants)


def _within(owner: str, name: str, number: object, low: float, high: float, closed: bool = False) -> float:
    """A number above low, or low itself where the interval is closed, and below high."""
    if not isinstance(number, Real) or not (low < float(number) < high or (closed and number == low)):
        start = "[" if closed else "("
        raise InputError(f"{owner}: {name} must lie in {start}{low:g}, {high:g}), got {number!r}.")
    return float(number)


COSTS = {cost.name: cost for cost in (log_likelihood, cross_entropy, quadratic)}
"""The costs by name: for files and the command line."""


def cost_named(name: str) -> Cost:
    """The cost of that name; an unknown one is refused with the closest."""
    if name not in COSTS:
        raise unknown_name("cost", name, COSTS)
    return COSTS[name]


def default_cost(activation: Activation) -> Cost:
    """The cost that pairs with the last layer's activation; quadratic where none does."""
    return {softmax: log_likelihood, sigmoid: cross_entropy, exponential: poisson}.get(activation, quadratic)
