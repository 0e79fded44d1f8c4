"""How the inference kernel sees a network, and how rows are shared out to its blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcnet.activations import softmax
from fcnet.engines.cuda.device import Chip
from fcnet.engines.cuda.kinds import ACTIVATIONS
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer
from fcnet.model import Model

THREADS = 512
"""Of a block, at most."""
GROUP = 4
"""Rows that a thread takes at once."""
MOST_ROWS = 32
"""Rows that a block takes at once."""
BLOCKS_OF_A_MULTIPROCESSOR = 2
"""While one fetches rows, the other multiplies."""
LINE = 5
"""Numbers of a layer in the table of layers."""
SOFTMAX = len(ACTIVATIONS)
"""Its place in the table of layers; the others' is their place in ``ACTIVATIONS``."""


# --- A network as the kernel reads it -----------------------------------------------------------------------------------


def why_not(model: Model) -> str | None:
    """Why the kernel cannot compute a model; None where it can."""
    last = len(model.layers) - 1
    for index, layer in enumerate(model.layers):
        if not isinstance(layer, FullyConnectedLayer | SoftmaxLayer) or getattr(layer, "parametric", False):
            return f"layer {index} is of a kind that only the engine xla reads."
        if layer.activation_fn not in ACTIVATIONS and not (index == last and layer.activation_fn == softmax):
            return f"the activation {layer.activation_fn.name} of layer {index} is not among its own; the engine xla takes any."
    return None


def table_of(model: Model) -> NDArray[np.int64]:
    """``(n_layers, LINE)``: inputs, outputs, where weights and biases begin among the parameters, activation."""
    lines, at = [], 0
    for layer in model.layers:
        fn = layer.activation_fn
        biases = at + layer.n_in * layer.n_out
        lines.append((layer.n_in, layer.n_out, at, biases, SOFTMAX if fn == softmax else ACTIVATIONS.index(fn)))
        at = biases + layer.n_out
    return np.array(lines, np.int64)


def keeps_of(model: Model) -> NDArray[np.float64]:
    """What each layer's input is multiplied by: 1 - p under the article's convention of dropout, 1 under the field's."""
    return np.array([1.0 - layer.p_dropout if model.dropout_scaling == "inference" else 1.0 for layer in model.layers])


def n_weights(model: Model) -> int:
    """Without biases."""
    return sum(layer.n_in * layer.n_out for layer in model.layers)


# --- How rows are shared out --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tiles:
    """How rows are shared out to blocks.

    Attributes:
        blocks: how many there are.
        rows: that a block takes at once, a multiple of ``GROUP``.
        partial_at, weights_at: where a block's sums and weights begin in its shared memory, after its rows.
        stays: whether the weights lie there too.
        numbers: of a block's shared memory.
    """

    blocks: int
    rows: int
    partial_at: int
    weights_at: int
    stays: bool
    numbers: int


def tiles_for(model: Model, n_rows: int, threads: int, chip: Chip, itemsize: int) -> Tiles | None:
    """How so many rows are shared out on a chip; None where not even ``GROUP`` rows of the widest layer fit."""
    widest = max(model.n_in, *(layer.n_out for layer in model.layers))
    most_out = max(layer.n_out for layer in model.layers)
    room = chip.shared_bytes // itemsize
    rows = GROUP * min(MOST_ROWS // GROUP, max(1, -(-n_rows // (GROUP * chip.multiprocessors))))
    without = lambda rows: rows * widest + max(GROUP * threads, rows * most_out)  # noqa: E731
    while rows > GROUP and without(rows) * BLOCKS_OF_A_MULTIPROCESSOR > room:
        rows -= GROUP
    if without(rows) > room:
        return None
    n_tiles, parameters = -(-n_rows // rows), n_weights(model) + sum(layer.n_out for layer in model.layers)
    blocks = min(n_tiles, BLOCKS_OF_A_MULTIPROCESSOR * chip.multiprocessors)
    stays = without(rows) + parameters <= room and n_tiles > 2 * blocks
    partial_at, weights_at = rows * widest, without(rows)
    return Tiles(blocks, rows, partial_at, weights_at, stays, weights_at + (parameters if stays else 0))
