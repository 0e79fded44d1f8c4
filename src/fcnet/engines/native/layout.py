"""Where everything lies: what the kernels are given, and what the engine makes for them.

Parameters, and a batch on its way through the layers, live in flat arrays, each layer's part at the offsets of its line in
``layout``. Rows are padded with zeros to whole vectors, and the padding stays zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fcnet.engines.native.codes import ACTIVATIONS
from fcnet.engines.native.hints import (
    Cube,
    Doubles,
    Int32Matrix,
    IntCube,
    IntMatrix,
    Ints,
    Ints32,
    Matrix,
    Numbers,
    WordCube,
    WordMatrix,
)
from fcnet.engines.native.processor import CACHE_LINE, VECTOR_BYTES, padded, spread
from fcnet.layers import TableLayer
from fcnet.model import Model, array_name

# Columns of ``layout``, a line for each layer.
N_IN, N_OUT, IN_PAD, OUT_PAD, TRANSPOSED, ACTIVATION, W_AT, B_AT, IN_AT, A_AT, F_AT, D_AT, HAS_DROPOUT = range(13)
# Of parametric layers and of tables: where blends, or scales, lie, else -1; and what their gradient is summed from.
BLENDS_AT, H_AT = range(13, 15)
# Of tables. From STARTS on: where the codes of each column begin, and at last how many there are.
IS_TABLE, N_NUMBERS, N_WAVES, N_SUMS, N_PLAIN, N_CODES, WIDE = range(15, 22)
FREQUENCIES_AT, PHASES_AT, AMPLITUDES_AT, OFFSETS_AT, EMBEDDINGS_AT = range(22, 27)
FIELDS = STARTS = 27
KINDS = 6
"""How many arrays of parameters a layer has at most."""
ORDER = ("weights", "biases", "blends"), ("frequencies", "phases", "scales", "amplitudes", "offsets", "embeddings")
"""The factors of a layer's arrays stand in this order; those of a table in the second."""
PLACES = {
    "biases": B_AT,
    "blends": BLENDS_AT,
    "frequencies": FREQUENCIES_AT,
    "phases": PHASES_AT,
    "scales": BLENDS_AT,
    "amplitudes": AMPLITUDES_AT,
    "offsets": OFFSETS_AT,
    "embeddings": EMBEDDINGS_AT,
}
"""Where the line of a layer says that each of its arrays lies."""
TABLE_ROWS = 64
"""Rows of one column whose waves are computed at a time."""
COST_ROWS = 64
"""Rows whose cost is computed at a time."""
GATHER_FROM = 512
"""From where on two lines of a matrix lie so many numbers apart that they share a few places of the cache: products gather panels."""
TILE_NUMBERS = 4096
"""About so many numbers of a gradient are summed and used at a time."""
GATHERED_LINES, GATHERED_NUMBERS = 24, 1 << 17
"""At least so many lines, and about so many numbers, where lines are so long that products gather panels of them."""
SUM_STEP = 8
"""Sums that threads write for each other lie so many float64 numbers apart, each on a line of the cache."""
ABANDONED = 1 << 40
"""What a barrier counts to where the thread that called was interrupted before it came there: nobody waits for it, or starts."""
SPARSE_BELOW = 0.3
"""Rows with a smaller share of nonzero numbers are read as lists of them."""


TRANSPOSED_BELOW = 32
"""A layer after the first with fewer outputs keeps its weights transposed, so that vectors run along its inputs."""
ROOM = VECTOR_BYTES // 4
"""Room for one vector more, beyond a list of nonzero numbers."""


class Data(NamedTuple):
    """Rows: dense, or as lists of nonzero numbers; the other form is empty."""

    dense: Matrix  # (n_rows, n_in)
    values: Numbers  # nonzero numbers, row after row
    columns: Ints32  # their columns
    splits: IntMatrix  # (n_rows, n_threads + 1): where each thread's columns start and end in the row
    labels: Ints32  # (n_rows,), or empty
    targets: Matrix  # (n_rows, n_out), or empty
    weights: Doubles  # (n_rows,)


class Tables(NamedTuple):
    """A plan, in the network's type; see ``fcnet.engines.contract.Plan``."""

    rows: Int32Matrix
    coefficients: Matrix
    l2: Numbers
    gain: Matrix
    thresholds: WordMatrix
    keys: WordCube
    factors: Cube  # (n_layers, KINDS, 2)
    total: float  # what row weights are divided by; 0 for their sum in each batch


class Work(NamedTuple):
    """What a run computes in."""

    rows: Numbers  # inputs, outputs, derivatives and errors of a batch, at the layout's offsets
    lines: Matrix  # (n_threads, numbers): some lines of a gradient, or a row of a mask
    values: Matrix  # (n_threads, widest): nonzero numbers of a row
    columns: Int32Matrix  # (n_threads, widest): their columns
    gradient: Numbers  # the first layer's whole gradient where its data is sparse; else empty
    outcomes: Cube  # (n_threads, 5, COST_ROWS * n_out): see ``costs.judge``
    batch: IntCube  # (n_threads, batch, 2): of each row, which one of the data it is, and its position in the plan
    costs: Doubles  # (batch,): the cost of each row
    barrier: Ints  # how often a thread has arrived


@dataclass(frozen=True, eq=False)
class Layout:
    """Where everything lies in the flat arrays.

    Attributes:
        model: the layers.
        lines: ``(n_layers, FIELDS + ...)``, see above.
        n_parameters: length of the array of parameters, and of each slot.
        n_row_numbers: length of the array that holds a batch on its way, for ``height`` rows.
        height: rows of a batch.
    """

    model: Model
    lines: NDArray[np.int64]
    n_parameters: int
    n_row_numbers: int
    height: int  # parameters lie where they lie whatever it is

    @classmethod
    def of(cls, model: Model, dtype: str, height: int, sparse: bool = False) -> Layout:
        """The layout of a model for batches of at most ``height`` rows."""
        lines = np.zeros((len(model.layers), FIELDS + len(_starts(model))), np.int64)
        parameters = 0
        rows = 0 if sparse else height * spread(model.n_in, dtype)
        before = 0
        for index, layer in enumerate(model.layers):
            n_in, n_out = layer.n_in, layer.n_out
            in_pad, out_pad = spread(n_in, dtype), spread(n_out, dtype)
            line = lines[index]
            line[[N_IN, N_OUT, IN_PAD, OUT_PAD, HAS_DROPOUT]] = n_in, n_out, in_pad, out_pad, layer.p_dropout > 0
            line[ACTIVATION], line[BLENDS_AT] = ACTIVATIONS[layer.activation_fn], -1
            if isinstance(layer, TableLayer):
                sums = layer.number_width - 1
                line[[IS_TABLE, N_NUMBERS, N_WAVES, N_SUMS]] = 1, layer.n_numbers, layer.n_waves, sums
                line[[N_PLAIN, N_CODES, WIDE]] = layer.n_plain, len(layer.categories), layer.category_width
                line[STARTS:] = _starts(model)
                for name, shape, _ in layer.arrays:
                    line[PLACES[name]] = parameters
                    parameters += padded(math.prod(shape), dtype)
            else:
                line[TRANSPOSED] = index > 0 and n_out < TRANSPOSED_BELOW
                line[W_AT], line[B_AT] = (
                    parameters,
                    parameters + (n_out * in_pad if line[TRANSPOSED] else n_in * out_pad),
                )
                parameters = int(line[B_AT]) + out_pad
                if getattr(layer, "parametric", False):
                    line[BLENDS_AT] = parameters
                    parameters += out_pad
            a_at, size = rows, height * out_pad
            line[[IN_AT, A_AT, F_AT, D_AT]] = before, a_at, a_at + size, a_at + 2 * size
            rows += 3 * size
            if line[BLENDS_AT] >= 0:
                line[H_AT] = rows
                rows += size
            before = a_at
        return cls(model, lines, parameters, rows, height)

    def pack(self, arrays: Mapping[str, NDArray[Any]], dtype: str) -> NDArray[Any]:
        """Named arrays as one flat array."""
        flat = zeros(self.n_parameters, dtype)
        for name, view in self._views(flat):
            view[...] = arrays[name]
        return flat

    def unpack(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """A flat array as named arrays of their own."""
        return {name: view.copy("C") for name, view in self._views(flat)}

    def _views(self, flat: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Each parameter's name, and its numbers in a flat array."""
        for index, layer in enumerate(self.model.layers):
            line = self.lines[index].tolist()
            for name, shape, _ in layer.arrays:
                if name == "weights":
                    n_in, n_out, at = line[N_IN], line[N_OUT], line[W_AT]
                    height, width = (n_out, line[IN_PAD]) if line[TRANSPOSED] else (n_in, line[OUT_PAD])
                    view = flat[at : at + height * width].reshape(height, width)
                    view = view[:, :n_in].T if line[TRANSPOSED] else view[:, :n_out]
                else:
                    at = line[PLACES[name]]
                    view = flat[at : at + math.prod(shape)].reshape(shape)
                yield array_name(index, name), view


def ordered_factors(model: Model, factors: NDArray[Any]) -> NDArray[Any]:
    """A plan's factors ``(..., n_parameters, 2)`` as the kernels read them, ``(..., n_layers, KINDS, 2)``."""
    ordered = np.ones((*factors.shape[:-2], len(model.layers), KINDS, 2))
    place = 0
    for index, layer in enumerate(model.layers):
        order = ORDER[isinstance(layer, TableLayer)]
        for name, _, _ in layer.arrays:
            ordered[..., index, order.index(name), :] = factors[..., place, :]
            place += 1
    return ordered


def _starts(model: Model) -> tuple[int, ...]:
    """Where each column's codes begin among all, and how many there are; nothing without a table."""
    first = model.layers[0]
    return (*first.starts, sum(first.categories)) if isinstance(first, TableLayer) else ()


def zeros(shape: int | tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Zeros that start on a line of the cache, so that no vector lies across two."""
    n_bytes = math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
    room = np.zeros(n_bytes + CACHE_LINE, np.uint8)
    start = -room.ctypes.data % CACHE_LINE
    return room[start : start + n_bytes].view(dtype).reshape(shape)
