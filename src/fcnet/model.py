"""A model: layers that fit each other, and the names and shapes of their parameters. Pure; no device.

Parameters are named arrays, ``{"layers.0.weights": (n_in, n_out), "layers.0.biases": (n_out,), ...}``: the one layout
for engines, files and people. After the layer's number stands the array's own name, see ``arrays`` of each kind of layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet import counters
from fcnet.errors import InputError
from fcnet.host import room_for
from fcnet.layers import Dropout, DropoutScaling, Layer, TableLayer, table_outputs, without_dropout

Array = Any
"""A NumPy or JAX array."""
Multiply = Callable[[int, Array, Array], Array]
"""(index of the layer, its input, its weights) -> their product."""


def array_name(index: int, name: str) -> str:
    """The name among all parameters of a layer's array."""
    return f"layers.{index}.{name}"


def weights_name(index: int) -> str:
    """The name of a layer's weights."""
    return array_name(index, "weights")


def biases_name(index: int) -> str:
    """The name of a layer's biases."""
    return array_name(index, "biases")


def arrays_of(index: int, layer: Layer, parameters: Mapping[str, Array]) -> dict[str, Array]:
    """A layer's arrays by its own names."""
    return {name: parameters[array_name(index, name)] for name, _, _ in layer.arrays}


def is_weights(name: str) -> bool:
    """Whether a parameter is a weight matrix: those are regularised, biases and other arrays are not."""
    return name.endswith(".weights")


@dataclass(frozen=True)
class Model:
    """A checked list of layers.

    Args:
        layers: at least one layer; each reads as many numbers as the one before writes. A ``TableLayer`` is the first, and not
            the only one.
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
            if not isinstance(layer, Layer):
                raise InputError(f"Layer {index} must be a FullyConnectedLayer or a SoftmaxLayer, got {layer!r}.")
            if isinstance(layer, TableLayer) and index:
                raise InputError(f"Layer {index} is a TableLayer, which reads a table's rows. Make it the first layer.")
        if isinstance(self.layers[-1], TableLayer):
            raise InputError("A TableLayer needs a layer after it, such as a SoftmaxLayer.")
        if getattr(self.layers[-1], "parametric", False):
            raise InputError(
                f"Layer {len(self.layers) - 1} is the last one, whose activation the cost reads. Set parametric=False."
            )
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
            for name, shape, _ in layer.arrays:
                yield array_name(index, name), shape

    def initial_parameters(self, seed: int, dtype: str = "float32") -> dict[str, NDArray[Any]]:
        """The parameters every engine starts from: a pure function of the seed."""
        parameters = {}
        size = sum(math.prod(shape) for _, shape in self.shapes())
        with room_for(f"A network of {size:,} parameters", size * np.dtype(dtype).itemsize):
            for index, layer in enumerate(self.layers):
                for place, (name, shape, initializer) in enumerate(layer.arrays):
                    key = counters.key(seed, counters.Purpose.PARAMETERS, layer=index, step=place)
                    numbers = initializer(key, shape, layer.n_in, layer.n_out)
                    parameters[array_name(index, name)] = numbers.astype(dtype)
        return parameters

    def through(
        self, index: int, parameters: Mapping[str, Array], inputs: Array, multiply: Multiply | None = None
    ) -> tuple[Array, Array]:
        """One layer's weighted inputs z and outputs f(z), each ``(n_rows, n_out)``, for what it reads ``(n_rows, n_in)``."""
        layer = self.layers[index]
        if isinstance(layer, TableLayer):
            outputs = table_outputs(layer, arrays_of(index, layer, parameters), inputs)
            return outputs, outputs
        weights = parameters[weights_name(index)]
        z = (multiply(index, inputs, weights) if multiply else inputs @ weights) + parameters[biases_name(index)]
        outputs = layer.activation_fn(z)
        if getattr(layer, "parametric", False):
            outputs = z + parameters[array_name(index, "blends")] * (outputs - z)
        return z, outputs

    def forward(
        self,
        parameters: dict[str, Array],
        x: Array,
        dropout: Dropout | None = None,
        multiply: Multiply | None = None,
    ) -> tuple[Array, Array]:
        """The last layer's weighted inputs z and outputs f(z) for a batch.

        Args:
            parameters: the named arrays.
            x: ``(n_rows, n_in)``.
            dropout: how each layer reads its input; None for the path without dropout.
            multiply: the product of each layer's input and its weights; None for ``input @ weights``.

        Returns:
            z and f(z), each ``(n_rows, n_out)``.
        """
        read = dropout or without_dropout(self.dropout_scaling)
        outputs = x
        for index, layer in enumerate(self.layers):
            z, outputs = self.through(index, parameters, read(index, layer, outputs), multiply)
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
    if isinstance(layers, Layer) or not isinstance(layers, Sequence):
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
        if isinstance(layer, TableLayer):
            continue
        keep = np.asarray(1.0 - layer.p_dropout, parameters[weights_name(index)].dtype)
        name = weights_name(index)
        rescaled[name] = parameters[name] * keep if scaling == "training" else parameters[name] / keep
    return rescaled
