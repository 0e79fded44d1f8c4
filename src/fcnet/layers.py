"""Layers: what a layer is, which arrays it has, and how it reads a batch with and without dropout.

A layer is a value: sizes, activation, dropout, and how its numbers begin. It holds no numbers itself; they live in the
network, as named arrays. Dropout acts on a layer's *input*, in one of two conventions (``DropoutScaling``):

    "inference"  (the article)   training  f((x * mask) . w + b)             without dropout  f((1 - p) x . w + b)
    "training"   (the field)     training  f((x * mask / (1 - p)) . w + b)   without dropout  f(x . w + b)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from numbers import Real
from typing import Any, ClassVar, Literal

import numpy as np

from fcnet import counters
from fcnet.activations import Activation, as_activation, linear, sigmoid, softmax
from fcnet.errors import InputError, check_count, check_flag
from fcnet.initializers import Initializer, article_biases, article_weights, normal, ones, uniform, zeros

Array = Any
"""A NumPy or JAX array."""
DropoutScaling = Literal["inference", "training"]
ArrayOfLayer = tuple[str, tuple[int, ...], Initializer]
"""What an array of a layer's parameters is called, its shape, and how its numbers begin."""


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
        parametric: blend the activation with the identity by a learnt number a for each unit, which begins at 1:
            f_a(z) = z + a * (f(z) - z). As in RealMLP (Holzmüller et al., 2024). Not for the last layer.

    Raises:
        InputError: a size that is not a positive integer, or p_dropout outside [0, 1).
    """

    n_in: int
    n_out: int
    activation_fn: Activation = sigmoid
    p_dropout: float = 0.0
    weights: Initializer = article_weights
    biases: Initializer = article_biases
    parametric: bool = False

    def __post_init__(self) -> None:
        _normalise(self)

    @property
    def arrays(self) -> tuple[ArrayOfLayer, ...]:
        """Its weights, biases, and blends where it is parametric."""
        blends = (("blends", (self.n_out,), ones),) if self.parametric else ()
        return *_weights_and_biases(self), *blends


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

    @property
    def arrays(self) -> tuple[ArrayOfLayer, ...]:
        """Its weights and biases."""
        return _weights_and_biases(self)


@dataclass(frozen=True)
class TableLayer:
    """The first layer of a network that reads a table's rows: numbers, numbers that stay as they are, and codes of categories.

    A row has, in this order, ``n_numbers`` numbers x, ``n_plain`` numbers that pass as they are, and a code for each of
    ``categories``. Each number is written as ``number_width`` numbers, itself first, then sums of waves of its own:

        (x, cos(2 pi x * frequencies + phases) . amplitudes + offsets)

    (Gorishniy, Rubachev and Babenko, "On Embeddings for Numerical Features", 2022; with phases and x itself as in RealMLP,
    Holzmüller, Grinsztajn and Steinwart, 2024.) Each code is written as the ``category_width`` numbers of its line of
    ``embeddings``; code -1, an unknown category, as zeros. At the end each number that is written is multiplied by its ``scales``.

    Args:
        n_numbers: columns that are written as waves.
        n_plain: columns that pass as they are, such as one-hot ones.
        categories: how many codes each column of codes has; they count from 0.
        n_waves: waves of each number.
        number_width: how many numbers each number becomes; with 1 it has no waves.
        category_width: how many numbers each code becomes.
        frequency: standard deviation of the frequencies in the beginning.
        scaled: whether there are scales; they begin at 1.

    Raises:
        InputError: sizes that are not counts, or no columns at all.
    """

    n_numbers: int = 0
    n_plain: int = 0
    categories: tuple[int, ...] = ()
    n_waves: int = 16
    number_width: int = 4
    category_width: int = 8
    frequency: float = 0.1
    scaled: bool = True
    activation_fn: ClassVar[Activation] = linear
    p_dropout: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        kind = type(self).__name__
        for name in ("n_numbers", "n_plain"):
            object.__setattr__(self, name, check_count(f"{kind}: {name}", getattr(self, name), least=0))
        for name in ("n_waves", "number_width", "category_width"):
            object.__setattr__(self, name, check_count(f"{kind}: {name}", getattr(self, name)))
        if not isinstance(self.categories, tuple | list):
            raise InputError(f"{kind}: categories must be a tuple of counts, got {self.categories!r}.")
        categories = tuple(check_count(f"{kind}: a number of categories", count) for count in self.categories)
        if any(count > MOST_CODES for count in categories):
            raise InputError(f"{kind}: a column has {max(categories)} categories, expected {MOST_CODES} at most.")
        object.__setattr__(self, "categories", categories)
        if not isinstance(self.frequency, Real) or not 0 < self.frequency < MOST_FREQUENCY:
            raise InputError(
                f"{kind}: frequency must lie above 0 and below {MOST_FREQUENCY:g}, got {self.frequency!r:.50}."
            )
        check_flag(f"{kind}: scaled", self.scaled)
        object.__setattr__(self, "frequency", float(self.frequency))
        if self.n_in == 0:
            raise InputError(f"{kind} has no columns: give it n_numbers, n_plain or categories.")

    @property
    def n_in(self) -> int:
        """Columns of a row."""
        return self.n_numbers + self.n_plain + len(self.categories)

    @property
    def n_out(self) -> int:
        """Numbers that it writes for a row."""
        return self.n_numbers * self.number_width + self.n_plain + len(self.categories) * self.category_width

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each column's codes begin in ``embeddings``, which has a line for each code of each column."""
        return (0, *accumulate(self.categories))[:-1]

    @property
    def arrays(self) -> tuple[ArrayOfLayer, ...]:
        """Frequencies, phases, amplitudes and offsets where numbers have waves; embeddings; scales."""
        n, waves, sums = self.n_numbers, self.n_waves, self.number_width - 1
        arrays: list[ArrayOfLayer] = []
        if n and sums:
            bound = 1.0 / math.sqrt(waves)
            arrays += [
                ("frequencies", (n, waves), normal(self.frequency)),
                ("phases", (n, waves), uniform(math.pi)),
                ("amplitudes", (n, waves, sums), uniform(bound)),
                ("offsets", (n, sums), uniform(bound)),
            ]
        if self.categories:
            arrays.append(("embeddings", (sum(self.categories), self.category_width), normal(1.0)))
        if self.scaled:
            arrays.append(("scales", (self.n_out,), ones))
        return tuple(arrays)


MOST_FREQUENCY = 1e6
MOST_CODES = 1 << 24
"""Rows are numbers, and float32 holds the whole ones up to here."""

Layer = FullyConnectedLayer | SoftmaxLayer | TableLayer


def _weights_and_biases(layer: FullyConnectedLayer | SoftmaxLayer) -> tuple[ArrayOfLayer, ...]:
    return ("weights", (layer.n_in, layer.n_out), layer.weights), ("biases", (layer.n_out,), layer.biases)


def _normalise(layer: FullyConnectedLayer | SoftmaxLayer) -> None:
    """Check a new layer's fields and give each its plain type."""
    kind = type(layer).__name__
    for name in ("weights", "biases"):
        if not isinstance(getattr(layer, name), Initializer):
            raise InputError(
                f"{kind}: {name} must be an initializer such as fcnet.initializers.he_normal, got {getattr(layer, name)!r}."
            )
    checked: dict[str, Any] = {
        "n_in": check_count(f"{kind}: n_in", layer.n_in),
        "n_out": check_count(f"{kind}: n_out", layer.n_out),
        "p_dropout": check_p_dropout(kind, layer.p_dropout),
        "activation_fn": as_activation(layer.activation_fn),
    }
    for name, value in checked.items():
        object.__setattr__(layer, name, value)
    check_flag(f"{kind}: parametric", getattr(layer, "parametric", False))


def table_outputs(layer: TableLayer, arrays: Mapping[str, Array], x: Array) -> Array:
    """What a table's rows ``(n_rows, n_in)`` are written as, ``(n_rows, n_out)``; ``arrays`` by the layer's own names."""
    xp, n_rows, n, plain = x.__array_namespace__(), x.shape[0], layer.n_numbers, layer.n_plain
    numbers, parts = x[:, :n, None], []
    if n and layer.number_width > 1:
        waves = xp.cos(2.0 * math.pi * numbers * arrays["frequencies"] + arrays["phases"])
        sums = xp.einsum("rnw,nws->rns", waves, arrays["amplitudes"]) + arrays["offsets"]
        numbers = xp.concatenate([numbers, sums], axis=2)
    parts += [numbers.reshape(n_rows, n * layer.number_width), x[:, n : n + plain]]
    if layer.categories:
        codes = x[:, n + plain :].astype("int32")
        lines = arrays["embeddings"][xp.maximum(codes, 0) + xp.asarray(layer.starts, dtype="int32")]
        parts.append(
            xp.where((codes >= 0)[:, :, None], lines, 0.0).reshape(n_rows, codes.shape[1] * layer.category_width)
        )
    outputs = xp.concatenate(parts, axis=1)
    return outputs * arrays["scales"] if layer.scaled else outputs


def check_codes(layer: Layer, X: Any, what: str) -> None:
    """Refuse codes that a ``TableLayer`` has no embedding for, by row and column; ``X`` is ``(n_rows, n_in)``, dense or sparse."""
    if not isinstance(layer, TableLayer) or not layer.categories:
        return
    first = layer.n_in - len(layer.categories)
    codes = X[:, first:]
    codes = codes.toarray() if hasattr(codes, "toarray") else np.asarray(codes)
    bad = ~((codes >= -1) & (codes < np.array(layer.categories)) & (codes == np.floor(codes)))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"{what}: row {row} has {codes[row, column]:g} in column {first + column}, expected a category's code, a whole number from 0 "
            f"to {layer.categories[column] - 1}, or -1 for an unknown category."
        )


def dropout_layer(layer: Array, p_dropout: float, key: Array) -> Array:
    """A layer's outputs with each number dropped (set to 0) with probability p_dropout.

    The mask is Bernoulli(1 - p_dropout), a pure function of the key: every layer and every step has its own.

    Args:
        layer: ``(n_rows, n_units)`` numbers, NumPy or JAX.
        p_dropout: probability in [0, 1).
        key: two uint32 words from ``counters.key``.

    Raises:
        InputError: anything else.
    """
    check_p_dropout("dropout_layer", p_dropout)
    if not hasattr(layer, "__array_namespace__") or layer.ndim != 2:
        raise InputError(f"dropout_layer: layer must be an array (n_rows, n_units), got {_described(layer)}.")
    if getattr(key, "shape", None) != (2,) or str(key.dtype) != "uint32":
        raise InputError(f"dropout_layer: key must be two uint32 words, got {_described(key)}.")
    return layer * keep_mask(layer, counters.drop_threshold(p_dropout), key)


def _described(array: Any) -> str:
    return f"{array.dtype} of shape {array.shape}" if hasattr(array, "dtype") else type(array).__name__


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
