"""Cost functions: one record each.

A ``Cost`` gives a number for every row, from the last layer's weighted inputs z, its outputs a = f(z) and the targets,
all ``(n_rows, n_out)``. Class labels reach it as one-hot targets. Costs that pair with an activation read z, which
keeps them finite where log(a) would not be. The mean over rows is what training minimises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fcnet.activations import Activation, sigmoid, softmax
from fcnet.errors import InputError, unknown_name

Array = Any
"""A NumPy or JAX array."""


@dataclass(frozen=True)
class Cost:
    """A cost function.

    Attributes:
        name: as the command line and saved files know it.
        function: (z, a, targets), each ``(n_rows, n_out)`` -> the cost of each row, ``(n_rows,)``.
        pairs_with: the activation that the last layer must have; None where any will do.
    """

    name: str
    function: Callable[[Array, Array, Array], Array]
    pairs_with: Activation | None = None

    def __call__(self, z: Array, a: Array, targets: Array) -> Array:
        """The cost of each row."""
        return self.function(z, a, targets)

    def __repr__(self) -> str:
        return f"fcnet.{self.name}"

    def check_pairing(self, activation: Activation) -> None:
        """Refuse a last layer whose outputs this cost cannot read."""
        if self.pairs_with is None or self.pairs_with == activation:
            return
        advice = {
            "log_likelihood": "End the network with a SoftmaxLayer, or use fcnet.quadratic.",
            "cross_entropy": "For a SoftmaxLayer use fcnet.log_likelihood (the categorical cross-entropy); "
            "otherwise end the network with a FullyConnectedLayer(..., activation_fn=fcnet.sigmoid).",
        }[self.name]
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


log_likelihood = Cost("log_likelihood", _log_likelihood, pairs_with=softmax)
"""-sum_j y_j log a_j with softmax outputs: Nielsen, chapter 3; also called categorical cross-entropy."""

cross_entropy = Cost("cross_entropy", _cross_entropy, pairs_with=sigmoid)
"""-sum_j [y_j log a_j + (1 - y_j) log(1 - a_j)] with sigmoid outputs: Nielsen, chapter 3, equation 63."""

quadratic = Cost("quadratic", _quadratic)
"""0.5 * sum_j (a_j - y_j)^2: Nielsen, chapter 1, equation 6, a row at a time."""

COSTS = {cost.name: cost for cost in (log_likelihood, cross_entropy, quadratic)}
"""The costs by name: for files and the command line."""


def cost_named(name: str) -> Cost:
    """The cost of that name; an unknown one is refused with the closest."""
    if name not in COSTS:
        raise unknown_name("cost", name, COSTS)
    return COSTS[name]


def default_cost(activation: Activation) -> Cost:
    """The cost that pairs with the last layer's activation; quadratic where none does."""
    return {softmax: log_likelihood, sigmoid: cross_entropy}.get(activation, quadratic)
