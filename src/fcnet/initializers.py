"""Initial weights and biases: (key, shape) -> array.

An ``Initializer`` draws from a normal or a uniform distribution whose width depends on the layer's size. The article's
own are ``article_weights`` and ``article_biases``; ``glorot_uniform`` and ``he_normal`` are the usual ones of the field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcnet import counters


@dataclass(frozen=True)
class Initializer:
    """How the numbers of one array begin.

    Attributes:
        name: as saved files know it.
        draw: (key, shape, n_in, n_out) -> float64 array of that shape.
    """

    name: str
    draw: Callable[[NDArray[np.uint32], tuple[int, ...], int, int], NDArray[np.float64]]

    def __call__(self, key: NDArray[np.uint32], shape: tuple[int, ...], n_in: int, n_out: int) -> NDArray[np.float64]:
        """The initial array of a layer with n_in inputs and n_out outputs."""
        return self.draw(key, shape, n_in, n_out)

    def __repr__(self) -> str:
        return f"fcnet.initializers.{self.name}"


article_weights = Initializer(
    "article_weights",
    lambda key, shape, n_in, n_out: counters.normal(key, shape) * np.sqrt(1.0 / n_out),
)
"""N(0, sqrt(1 / n_out)): mean and standard deviation, as in the article and the book's network3."""

article_biases = Initializer("article_biases", lambda key, shape, n_in, n_out: counters.normal(key, shape))
"""N(0, 1), as in the article and the book's network3."""

zeros = Initializer("zeros", lambda key, shape, n_in, n_out: np.zeros(shape))
ones = Initializer("ones", lambda key, shape, n_in, n_out: np.ones(shape))


def normal(deviation: float) -> Initializer:
    """N(0, deviation), whatever the layer's size."""
    return Initializer("normal", lambda key, shape, n_in, n_out: deviation * counters.normal(key, shape))


def uniform(bound: float) -> Initializer:
    """U(-bound, bound), whatever the layer's size."""
    return Initializer("uniform", lambda key, shape, n_in, n_out: bound * (2.0 * counters.uniform(key, shape) - 1.0))


glorot_uniform = Initializer(
    "glorot_uniform",
    lambda key, shape, n_in, n_out: (2.0 * counters.uniform(key, shape) - 1.0) * np.sqrt(6.0 / (n_in + n_out)),
)
"""U(-r, r), r = sqrt(6 / (n_in + n_out)): Glorot and Bengio, 2010; for sigmoid, tanh and linear layers."""

he_normal = Initializer("he_normal", lambda key, shape, n_in, n_out: counters.normal(key, shape) * np.sqrt(2.0 / n_in))
"""N(0, sqrt(2 / n_in)): He et al., 2015; for relu and its relatives."""

INITIALIZERS = {
    initializer.name: initializer for initializer in (article_weights, article_biases, zeros, glorot_uniform, he_normal)
}
"""The initializers by name: for saved files."""
