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
from typing import Any

from numba import cuda

from fcnet.engines.contract import Dtype
from fcnet.engines.cuda.kernels.elementary import NUMBERS, activation_by_code, divided, kernel, unsigned
from fcnet.engines.cuda.tiles import BLOCKS_OF_A_MULTIPROCESSOR, GROUP, LINE, SOFTMAX, THREADS

DEPTH = 8
"""Weights of a thread that are under way at once: they may come from the L2 cache, some 300 cycles away."""


@functools.cache
def kernel_of(dtype: Dtype) -> Any:
    """The kernel of a number type; arrays are of one dimension."""
    T, kind = NUMBERS[dtype]
    zero, one = T(0.0), T(1.0)
    activate = activation_by_code(T)

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
            shared[unsigned(q)] = activate(code, keep * total + weights[unsigned(b + j)])[0]
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
        n_layers = layers.shape[0] // LINE
        n_first, n_last = layers[0], layers[(n_layers - 1) * LINE + 1]
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
                line = layer * LINE
                n_in, n_out, w, b = layers[line], layers[line + 1], layers[line + 2], layers[line + 3]
                code, keep = layers[line + 4], keeps[layer]
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
