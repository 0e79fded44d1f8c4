"""Where everything lies: what the kernels are given, and what the engine makes for them.

Parameters, and a batch on its way through the layers, live in flat arrays, each layer's part at the offsets of its line in
``layout``. Rows are padded with zeros to whole vectors, and the padding stays zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fcnet.engines.native.elementary import ACTIVATIONS
from fcnet.engines.native.vectors import VECTOR_BYTES, padded
from fcnet.model import Model, biases_name, weights_name

# Columns of ``layout``, a line for each layer.
N_IN, N_OUT, IN_PAD, OUT_PAD, TRANSPOSED, ACTIVATION, W_AT, B_AT, IN_AT, A_AT, F_AT, D_AT, HAS_DROPOUT = range(13)
FIELDS = 13


TRANSPOSED_BELOW = 32
"""A layer after the first with fewer outputs keeps its weights transposed, so that vectors run along its inputs."""
ROOM = VECTOR_BYTES // 4
"""Room for one vector more, beyond a list of nonzero numbers."""
CACHE_LINE = 64
"""Bytes that a processor's core fetches and owns together."""


class Data(NamedTuple):
    """Rows: dense, or as lists of nonzero numbers; the other form is empty."""

    dense: NDArray[Any]  # (n_rows, n_in)
    values: NDArray[Any]  # nonzero numbers, row after row
    columns: NDArray[np.int32]  # their columns
    splits: NDArray[np.int64]  # (n_rows, n_threads + 1): where each thread's columns start and end in the row
    labels: NDArray[np.int32]  # (n_rows,), or empty
    targets: NDArray[Any]  # (n_rows, n_out), or empty
    weights: NDArray[np.float64]  # (n_rows,)


class Tables(NamedTuple):
    """A plan, in the network's type; see ``fcnet.engines.contract.Plan``."""

    rows: NDArray[np.int32]
    coefficients: NDArray[Any]
    l2: NDArray[Any]
    gain: NDArray[Any]
    thresholds: NDArray[np.uint32]
    keys: NDArray[np.uint32]
    factors: NDArray[Any]  # (n_parameters, 2): each layer's weights, then its biases
    total: float  # what row weights are divided by; 0 for their sum in each batch


class Work(NamedTuple):
    """What a run computes in."""

    rows: NDArray[Any]  # inputs, outputs, derivatives and errors of a batch, at the layout's offsets
    lines: NDArray[Any]  # (n_threads, numbers): some lines of a gradient, or a row of a mask
    values: NDArray[Any]  # (n_threads, widest): nonzero numbers of a row
    columns: NDArray[np.int32]  # (n_threads, widest): their columns
    turned: NDArray[Any]  # (n_threads, numbers): a hidden layer's weights, turned
    gradient: NDArray[Any]  # the first layer's whole gradient where its data is sparse; else empty
    groups: NDArray[
        Any
    ]  # (n_groups, n_parameters): gradients of a batch's parts, where rows are shared out so; else no groups
    outcomes: NDArray[Any]  # (n_threads, 5, ROWS * n_out): see ``costs.judge``
    costs: NDArray[np.float64]  # (batch,): the cost of each row
    barrier: NDArray[np.int64]  # how often a thread has arrived


@dataclass(frozen=True, eq=False)
class Layout:
    """Where everything lies in the flat arrays.

    Attributes:
        lines: ``(n_layers, FIELDS)``, see ``kernels``.
        n_parameters: length of the array of parameters, and of each slot.
        n_row_numbers: length of the array that holds a batch on its way, for ``height`` rows.
        height: rows of a batch.
    """

    lines: NDArray[np.int64]
    n_parameters: int
    n_row_numbers: int
    height: int

    @classmethod
    def of(cls, model: Model, dtype: str, height: int, sparse: bool = False) -> Layout:
        """The layout of a model for batches of at most ``height`` rows."""
        lines = np.zeros((len(model.layers), FIELDS), np.int64)
        parameters = 0
        rows = 0 if sparse else height * padded(model.n_in, dtype)
        before = 0
        for index, layer in enumerate(model.layers):
            n_in, n_out = layer.n_in, layer.n_out
            in_pad, out_pad = padded(n_in, dtype), padded(n_out, dtype)
            transposed = index > 0 and n_out < TRANSPOSED_BELOW
            w_at, b_at = parameters, parameters + (n_out * in_pad if transposed else n_in * out_pad)
            parameters = b_at + out_pad
            a_at = rows
            rows += 3 * height * out_pad
            f_at, d_at = a_at + height * out_pad, a_at + 2 * height * out_pad
            code = ACTIVATIONS[layer.activation_fn]
            has_dropout = layer.p_dropout > 0
            lines[index] = (
                n_in, n_out, in_pad, out_pad, transposed, code, w_at, b_at, before, a_at, f_at, d_at, has_dropout,
            )  # fmt: skip
            before = a_at
        return cls(lines, parameters, rows, height)

    def pack(self, arrays: Mapping[str, NDArray[Any]], dtype: str) -> NDArray[Any]:
        """Named arrays as one flat array."""
        flat = zeros(self.n_parameters, dtype)
        for index in range(len(self.lines)):
            weights, biases = self._views(flat, index)
            weights[...] = arrays[weights_name(index)]
            biases[...] = arrays[biases_name(index)]
        return flat

    def unpack(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """A flat array as named arrays of their own."""
        arrays = {}
        for index in range(len(self.lines)):
            weights, biases = self._views(flat, index)
            arrays[weights_name(index)], arrays[biases_name(index)] = weights.copy("C"), biases.copy()
        return arrays

    def _views(self, flat: NDArray[Any], index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """A layer's weights ``(n_in, n_out)`` and biases ``(n_out,)`` in a flat array."""
        line = self.lines[index]
        n_in, n_out, w_at, b_at = line[[N_IN, N_OUT, W_AT, B_AT]]
        if line[TRANSPOSED]:
            width = line[IN_PAD]
            weights = flat[w_at : w_at + n_out * width].reshape(n_out, width)[:, :n_in].T
        else:
            width = line[OUT_PAD]
            weights = flat[w_at : w_at + n_in * width].reshape(n_in, width)[:, :n_out]
        return weights, flat[b_at : b_at + n_out]


def zeros(shape: int | tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Zeros that start on a line of the cache, so that no vector lies across two."""
    n_bytes = math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
    room = np.zeros(n_bytes + CACHE_LINE, np.uint8)
    start = -room.ctypes.data % CACHE_LINE
    return room[start : start + n_bytes].view(dtype).reshape(shape)
