"""Outputs of a small network of any depth, as one kernel: all layers in one launch.

A block of threads takes some rows at a time through all layers; what a layer hands on stays in shared memory, and so do the
weights where they fit and enough rows come to pay for it (elsewhere they come from the L2 cache). A layer is

    sums       every thread multiplies ``GROUP`` rows with some of a unit's weights, and so reads each weight once for all of them
    outputs    a = f(keep * sum + b), from the sums of the threads that share a unit

There is one kernel for all networks of a number type: sizes, places and activations are a table, so that nothing is compiled for a
network that is only asked.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from fcnet.activations import softmax
from fcnet.engines.contract import Dtype
from fcnet.engines.cuda.device import Chip
from fcnet.engines.cuda.elementary import ACTIVATIONS, NUMBERS, activation_of, divided, kernel, unsigned
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer
from fcnet.model import Model

THREADS = 512
"""Of a block, at most."""
GROUP = 4
"""Rows that a thread takes at once."""
DEPTH = 8
"""Weights of a thread that are under way at once: they may come from the L2 cache, some 300 cycles away."""
MOST_ROWS = 32
"""Rows that a block takes at once."""
BLOCKS_OF_A_MULTIPROCESSOR = 2
"""While one fetches rows, the other multiplies."""
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
    """``(n_layers, 5)``: inputs, outputs, where weights and biases begin among the parameters, activation."""
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


# --- The kernel ---------------------------------------------------------------------------------------------------------


@functools.cache
def kernel_of(dtype: Dtype) -> Any:
    """The kernel of a number type; Numba compiles it when it is first launched, and keeps it on disk."""
    T, kind = NUMBERS[dtype]
    zero, one = T(0.0), T(1.0)
    sigmoid, tanh, relu, leaky_relu, elu, silu, gelu, _ = (activation_of(T, activation) for activation in ACTIVATIONS)

    @cuda.jit(device=True)
    def activated(code: int, z: Any) -> Any:
        """f(z) of ``ACTIVATIONS[code]``; a linear layer's and softmax's are z, for now."""
        if code == 0:
            return sigmoid(z)[0]
        if code == 1:
            return tanh(z)[0]
        if code == 2:
            return relu(z)[0]
        if code == 3:
            return leaky_relu(z)[0]
        if code == 4:
            return elu(z)[0]
        if code == 5:
            return silu(z)[0]
        if code == 6:
            return gelu(z)[0]
        return z

    @cuda.jit(device=True)
    def one_layer(shared: Any, weights: Any, w: int, b: int, n_in: int, n_out: int, code: int, keep: Any, tile: int, partial_at: int) -> None:  # fmt: skip
        """A layer's outputs in the place of its inputs; softmax's are weighted inputs still."""
        thread, n_threads = cuda.threadIdx.x, cuda.blockDim.x
        groups = tile // GROUP
        lanes = max(1, min(n_in, n_threads // (groups * n_out)))

        # Sums, of some inputs by each lane.
        q = thread
        while q < groups * lanes * n_out:
            mine, j = divided(q, n_out)
            group, lane = divided(mine, lanes)
            x = group * GROUP * n_in
            totals, read = cuda.local.array(GROUP, kind), cuda.local.array(DEPTH, kind)
            for g in range(GROUP):
                totals[g] = zero
            i = lane
            while i + (DEPTH - 1) * lanes < n_in:
                for k in range(DEPTH):
                    read[k] = weights[unsigned(w + (i + k * lanes) * n_out + j)]
                for k in range(DEPTH):
                    for g in range(GROUP):
                        totals[g] += shared[unsigned(x + g * n_in + i + k * lanes)] * read[k]
                i += DEPTH * lanes
            while i < n_in:
                weight = weights[unsigned(w + i * n_out + j)]
                for g in range(GROUP):
                    totals[g] += shared[unsigned(x + g * n_in + i)] * weight
                i += lanes
            at = partial_at + (group * GROUP * lanes + lane) * n_out + j
            for g in range(GROUP):
                shared[unsigned(at + g * lanes * n_out)] = totals[g]
            q += n_threads
        cuda.syncthreads()

        # Outputs.
        q = thread
        while q < tile * n_out:
            r, j = divided(q, n_out)
            total, lane = zero, 0
            while lane < lanes:
                total += shared[unsigned(partial_at + (r * lanes + lane) * n_out + j)]
                lane += 1
            shared[unsigned(q)] = activated(code, keep * total + weights[unsigned(b + j)])
            q += n_threads
        cuda.syncthreads()

    @kernel(THREADS, BLOCKS_OF_A_MULTIPROCESSOR)
    def outputs(X: Any, parameters: Any, layers: Any, keeps: Any, answers: Any, n_rows: int, tile: int, partial_at: int, weights_at: int, stays: int) -> None:  # fmt: skip
        """``answers`` ``(n_rows * n_out,)`` for rows ``X`` ``(n_rows * n_in,)``.

        Args:
            parameters: w1 ``(n_in, n_out)``, b1, w2, b2, ... in one row.
            layers, keeps: ``table_of``, ``keeps_of``.
            tile, partial_at, weights_at, stays: see ``Tiles``.
        """
        shared = cuda.shared.array(0, kind)
        thread, n_threads = cuda.threadIdx.x, cuda.blockDim.x
        n_layers = layers.shape[0]
        n_first, n_last = layers[0, 0], layers[n_layers - 1, 1]
        if stays:
            q = thread
            while q < parameters.shape[0]:
                shared[unsigned(weights_at + q)] = parameters[q]
                q += n_threads

        first = cuda.blockIdx.x * tile
        while first < n_rows:
            here = min(tile, n_rows - first)
            q = thread
            while q < tile * n_first:
                shared[unsigned(q)] = X[unsigned(first * n_first + q)] if q < here * n_first else zero
                q += n_threads
            cuda.syncthreads()
            layer = 0
            while layer < n_layers:
                n_in, n_out, w, b = layers[layer, 0], layers[layer, 1], layers[layer, 2], layers[layer, 3]
                code, keep = layers[layer, 4], keeps[layer]
                if stays:  # two calls, so that the compiler knows which memory it reads
                    one_layer(shared, shared, weights_at + w, weights_at + b, n_in, n_out, code, keep, tile, partial_at)
                else:
                    one_layer(shared, parameters, w, b, n_in, n_out, code, keep, tile, partial_at)
                if code == SOFTMAX:
                    r = thread
                    while r < here:
                        at, j = r * n_out, 1
                        top = shared[unsigned(at)]
                        while j < n_out:
                            top = max(top, shared[unsigned(at + j)])
                            j += 1
                        total, j = zero, 0
                        while j < n_out:
                            a = T(math.exp(shared[unsigned(at + j)] - top))
                            shared[unsigned(at + j)] = a
                            total += a
                            j += 1
                        share, j = one / total, 0
                        while j < n_out:
                            shared[unsigned(at + j)] *= share
                            j += 1
                        r += n_threads
                    cuda.syncthreads()
                layer += 1

            q = thread
            while q < here * n_last:
                answers[unsigned(first * n_last + q)] = shared[unsigned(q)]
                q += n_threads
            cuda.syncthreads()
            first += cuda.gridDim.x * tile

    return outputs
