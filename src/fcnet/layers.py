"""Layers: what a layer is, and how it reads a batch with and without dropout.

A layer is a value: sizes, activation, dropout, and how its numbers begin. It holds no numbers itself; they live in the
network, as named arrays. Dropout acts on a layer's *input*, in one of two conventions (``DropoutScaling``):

    "inference"  (the article)   training  f((x * mask) . w + b)             without dropout  f((1 - p) x . w + b)
    "training"   (the field)     training  f((x * mask / (1 - p)) . w + b)   without dropout  f(x . w + b)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

from fcnet import counters
from fcnet.activations import Activation, as_activation, sigmoid, softmax
from fcnet.errors import InputError, check_count
from fcnet.initializers import Initializer, article_biases, article_weights, zeros

Array = Any
"""A NumPy or JAX array."""
DropoutScaling = Literal["inference", "training"]


def check_p_dropout(owner: str, p_dropout: object) -> float:
    """The dropout probability as a float in [0, 1); anything else is refused."""
    # compared as it is: an integer of very many digits has no float
    if not isinstance(p_dropout, Real) or not 0.0 <= p_dropout < 1.0:  # type: ignore[operator]
        raise InputError(
            f"{owner}: p_dropout must lie in [0, 1), got {p_dropout!r}. "
            "It is the probability that an input of the layer is dropped in a training step."
        )
    return float(p_dropout)


@dataclass(frozen=True)
class FullyConnectedLayer:
    """A fully connected layer: outputs f(x . w + b).

    Args:
        n_in: inputs of a row. A batch of any shape ``(n_rows, ...)`` with n_in numbers a row is read as
            ``(n_rows, n_in)``: images ``(n, 28, 28)`` are fine as they are.
        n_out: outputs of a row, the number of neurons.
        activation_fn: an ``Activation`` such as ``fcnet.relu``, or a callable of ``jax.numpy`` operations.
        p_dropout: probability in [0, 1) that an input is dropped in a training step.
        weights: how w, ``(n_in, n_out)``, begins; N(0, sqrt(1 / n_out)) as in the article.
        biases: how b, ``(n_out,)``, begins; N(0, 1) as in the article.

    Raises:
        InputError: a size that is not a positive integer, or p_dropout outside [0, 1).
    """

    n_in: int
    n_out: int
    activation_fn: Activation = sigmoid
    p_dropout: float = 0.0
    weights: Initializer = article_weights
    biases: Initializer = article_biases

    def __post_init__(self) -> None:
        _normalise(self)


@dataclass(frozen=True)
class SoftmaxLayer:
    """The usual last layer of a classifier: outputs softmax(x . w + b), a probability for each class.

    Its weights and biases begin at zero, as in the article. Arguments as in ``FullyConnectedLayer``.
    """

    n_in: int
    n_out: int
    p_dropout: float = 0.0
    weights: Initializer = zeros
    biases: Initializer = zeros
    activation_fn: Activation = field(default=softmax, init=False)

    def __post_init__(self) -> None:
        _normalise(self)


Layer = FullyConnectedLayer | SoftmaxLayer


def _normalise(layer: Layer) -> None:
    """Check a new layer's fields and give each its plain type."""
    kind = type(layer).__name__
    checked: dict[str, Any] = {
        "n_in": check_count(f"{kind}: n_in", layer.n_in),
        "n_out": check_count(f"{kind}: n_out", layer.n_out),
        "p_dropout": check_p_dropout(kind, layer.p_dropout),
        "activation_fn": as_activation(layer.activation_fn),
    }
    for name, value in checked.items():
        object.__setattr__(layer, name, value)


def dropout_layer(layer: Array, p_dropout: float, key: Array) -> Array:
    """A layer's outputs with each number dropped (set to 0) with probability p_dropout.

    The mask is Bernoulli(1 - p_dropout), a pure function of the key: every layer and every step has its own.

    Args:
        layer: ``(n_rows, n_units)`` numbers, NumPy or JAX.
        p_dropout: probability in [0, 1).
        key: two uint32 words from ``counters.key``.
    """
    return layer * keep_mask(layer, counters.drop_threshold(p_dropout), key)


def keep_mask(layer: Array, threshold: Array, key: Array) -> Array:
    """True where a unit is kept: where its random bits are not below the threshold. Shape of the layer."""
    xp = layer.__array_namespace__()
    n_rows, n_units = layer.shape
    return counters.bits(key, xp.arange(n_rows, dtype="uint32"), n_units) >= threshold


Dropout = Callable[[int, Layer, Array], Array]
"""(index of the layer, layer, its input) -> the input it reads in this pass."""


def without_dropout(scaling: DropoutScaling) -> Dropout:
    """How layers read their input at inference: scaled by (1 - p) under the article's convention, else as it is."""

    def read(index: int, layer: Layer, x: Array) -> Array:
        return (1.0 - layer.p_dropout) * x if scaling == "inference" and layer.p_dropout else x

    return read
