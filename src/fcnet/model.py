"""A model: layers that fit each other, and the names and shapes of their parameters. Pure; no device.

Parameters are named arrays, ``{"layers.0.weights": (n_in, n_out), "layers.0.biases": (n_out,), ...}``: the one layout
for engines, files and people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet import counters
from fcnet.errors import InputError
from fcnet.layers import Dropout, DropoutScaling, FullyConnectedLayer, Layer, SoftmaxLayer, without_dropout

Array = Any
"""A NumPy or JAX array."""


def weights_name(index: int) -> str:
    """The name of a layer's weights."""
    return f"layers.{index}.weights"


def biases_name(index: int) -> str:
    """The name of a layer's biases."""
    return f"layers.{index}.biases"


def is_weights(name: str) -> bool:
    """Whether a parameter is a weight matrix: those are regularised, biases are not."""
    return name.endswith(".weights")


@dataclass(frozen=True)
class Model:
    """A checked list of layers.

    Args:
        layers: at least one layer; each reads as many numbers as the one before writes.
        dropout_scaling: where dropout's factor (1 - p) is applied, see ``fcnet.layers``.

    Raises:
        InputError: no layers, something that is not a layer, or sizes that do not fit.
    """

    layers: tuple[Layer, ...]
    dropout_scaling: DropoutScaling = "inference"

    def __post_init__(self) -> None:
        if not self.layers:
            raise InputError("A network needs at least one layer, got an empty list.")
        for index, layer in enumerate(self.layers):
            if not isinstance(layer, FullyConnectedLayer | SoftmaxLayer):
                raise InputError(f"Layer {index} must be a FullyConnectedLayer or a SoftmaxLayer, got {layer!r}.")
        for index, (before, layer) in enumerate(zip(self.layers, self.layers[1:], strict=False), start=1):
            if layer.n_in != before.n_out:
                raise InputError(
                    f"Layer {index} ({_describe(layer)}) reads {layer.n_in} numbers, but layer {index - 1} "
                    f"({_describe(before)}) writes {before.n_out}. Give layer {index} n_in={before.n_out}, "
                    f"or layer {index - 1} n_out={layer.n_in}."
                )

    @property
    def n_in(self) -> int:
        """Numbers in a row of input."""
        return self.layers[0].n_in

    @property
    def n_out(self) -> int:
        """Numbers in a row of output."""
        return self.layers[-1].n_out

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The name and shape of every parameter, layer by layer, weights first."""
        for index, layer in enumerate(self.layers):
            yield weights_name(index), (layer.n_in, layer.n_out)
            yield biases_name(index), (layer.n_out,)

    def initial_parameters(self, seed: int, dtype: str = "float32") -> dict[str, NDArray[Any]]:
        """The parameters every engine starts from: a pure function of the seed."""
        parameters = {}
        for index, layer in enumerate(self.layers):
            draws = ((weights_name(index), layer.weights), (biases_name(index), layer.biases))
            shapes = ((layer.n_in, layer.n_out), (layer.n_out,))
            for place, ((name, initializer), shape) in enumerate(zip(draws, shapes, strict=True)):
                key = counters.key(seed, counters.Purpose.PARAMETERS, layer=index, step=place)
                parameters[name] = initializer(key, shape, layer.n_in, layer.n_out).astype(dtype)
        return parameters

    def forward(self, parameters: dict[str, Array], x: Array, dropout: Dropout | None = None) -> tuple[Array, Array]:
        """The last layer's weighted inputs z and outputs f(z) for a batch.

        Args:
            parameters: the named arrays.
            x: ``(n_rows, n_in)``.
            dropout: how each layer reads its input; None for the path without dropout.

        Returns:
            z and f(z), each ``(n_rows, n_out)``.
        """
        read = dropout or without_dropout(self.dropout_scaling)
        outputs = x
        for index, layer in enumerate(self.layers):
            inputs = read(index, layer, outputs)
            z = inputs @ parameters[weights_name(index)] + parameters[biases_name(index)]
            outputs = layer.activation_fn(z)
        return z, outputs

    def check_parameters(self, parameters: Mapping[str, NDArray[Any]]) -> None:
        """Refuse arrays that are missing, unknown, or of another shape, by name."""
        expected = dict(self.shapes())
        if missing := expected.keys() - parameters.keys():
            raise InputError(f"Parameters are missing: {', '.join(sorted(missing))}.")
        if unknown := parameters.keys() - expected.keys():
            raise InputError(f"Unknown parameters: {', '.join(sorted(unknown))}. Expected: {', '.join(expected)}.")
        for name, shape in expected.items():
            if parameters[name].shape != shape:
                raise InputError(f"{name} must have shape {shape}, got {parameters[name].shape}.")


def model_of(layers: Sequence[Layer], dropout_scaling: DropoutScaling = "inference") -> Model:
    """A model from a sequence of layers; anything that is not a sequence is refused."""
    if isinstance(layers, FullyConnectedLayer | SoftmaxLayer) or not isinstance(layers, Sequence):
        raise InputError(f"layers must be a list of layers, got {layers!r}. Write [layer, ...].")
    return Model(tuple(layers), dropout_scaling)


def _describe(layer: Layer) -> str:
    return f"{type(layer).__name__}({layer.n_in}, {layer.n_out})"


def rescale_for(model: Model, scaling: DropoutScaling, parameters: Mapping[str, Array]) -> Mapping[str, Array]:
    """Parameters under which the model computes the same function in another dropout convention.

    Where the article reads (1 - p) x . w, the field reads x . w': the weights of a layer with dropout are multiplied by
    (1 - p) on the way to "training" and divided by it on the way back. Both paths of the model are then unchanged.
    """
    if scaling == model.dropout_scaling:
        return parameters
    rescaled = dict(parameters)
    for index, layer in enumerate(model.layers):
        keep = np.asarray(1.0 - layer.p_dropout, parameters[weights_name(index)].dtype)
        name = weights_name(index)
        rescaled[name] = parameters[name] * keep if scaling == "training" else parameters[name] / keep
    return rescaled
