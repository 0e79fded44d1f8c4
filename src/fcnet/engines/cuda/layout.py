"""How a chunk of steps lies in a block's shared memory, and what of it each step brings: what host and kernels must see alike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fcnet.engines.contract import Program
from fcnet.engines.cuda.kinds import ACTIVATIONS
from fcnet.optimizers import UpdateRule

THREADS = 256
"""Of a block, at most: so many leave each of them all the registers that a thread may have."""
LANES, OUTPUT_LANES = 64, 8
"""Threads that share a sum over inputs, and one over hidden units."""
FOLD = 8
"""Sums of lanes are added up in two turns, this many at first."""
GROUPS = (1, 4, 5, 8)
"""Rows that a thread may multiply with a weight that it has read."""
BUNDLES = 8
"""Threads that sum a batch's costs."""
LAP = 1 << 31
"""So many steps have different tags."""
ARRAYS = 4
"""w1, b1, w2, b2."""
MASK_WORDS = 6
"""Of a step: thresholds of both layers, and their keys of two words."""


def group_of(batch: int) -> int:
    """Rows that a thread takes at once: those with which a batch needs the fewest reads."""
    return min(GROUPS, key=lambda group: -(-batch // group) * (group + 1))


def inverse_of(by: int) -> int:
    """What kernels multiply by instead of dividing, see ``kernels.elementary.quotient``."""
    return ((1 << 32) + by - 1) // by


def in_groups(batch: int) -> int:
    """Rows of a batch with absent ones up to a whole number of groups."""
    return batch + -batch % group_of(batch)


# --- Blocks that have units ---------------------------------------------------------------------------------------------


class Places(NamedTuple):
    """Where what begins in a block's shared memory, in numbers; before all that, in words of 4 bytes, two steps' row indices and
    words of dropout."""

    x: int
    parameters: int
    row_weights: int
    targets: int
    table: int
    hidden: int
    slopes: int
    hidden_errors: int
    outputs: int
    errors: int
    costs: int
    bundles: int
    share: int
    partial: int
    folded: int
    end: int


def block_parameters(n_in: int, n_out: int, n_hidden: int, units: int) -> int:
    """Parameters that lie in a block's shared memory: the first layer's of its units, and the last layer's."""
    return units * (n_in + 1) + n_out * (n_hidden + 1)


def places_of(program: Program, batch: int, units: int, buffers: int, labels: bool) -> Places:
    """How a block's shared memory is laid out.

    Args:
        batch: rows of a mini-batch, a multiple of their group.
        units: hidden units that a block owns.
        buffers: places for a batch's rows.
        labels: whether a row's target is one number.
    """
    hidden, last = program.model.layers
    n_in, n_hidden, n_out = hidden.n_in, hidden.n_out, last.n_out
    itemsize = np.dtype(program.dtype).itemsize
    words = 2 * (batch + MASK_WORDS)
    at = 4 * -(-words // 4) * 4 // itemsize  # rows begin at a multiple of 16 bytes
    sizes = Places(
        x=buffers * batch * n_in,
        parameters=(1 + len(program.rule.slots)) * block_parameters(n_in, n_out, n_hidden, units),
        row_weights=buffers * batch,
        targets=buffers * batch * (1 if labels else n_out),
        table=2 * table_width(program.rule),
        hidden=batch * n_hidden,
        slopes=batch * units,
        hidden_errors=batch * units,
        outputs=batch * n_out,
        errors=batch * n_out,
        costs=batch * n_out,
        bundles=BUNDLES,
        share=1,
        partial=batch * max(units * (LANES + 1), n_out * (OUTPUT_LANES + 1)),
        folded=batch * units * (FOLD + 1),
        end=0,
    )
    return Places(*(at + sum(sizes[:k]) for k in range(len(sizes))))


def table_width(rule: UpdateRule) -> int:
    """Numbers of a step: coefficients of the four arrays, l2, and what is multiplied by where dropout keeps a number, by layer."""
    return ARRAYS * len(rule.coefficients) + 3


# --- Blocks that have rows ----------------------------------------------------------------------------------------------

LAYER_LINE = 12
"""Numbers of a layer in ``layers_of``."""
MOST_OUTPUTS = 64
"""Of a network whose blocks have rows: each output sums up its row for itself."""


class Shares(NamedTuple):
    """How rows and parameters are shared out to blocks.

    Attributes:
        blocks: how many there are.
        tall: rows of each; the last one may have fewer.
        share: parameters that each owns; the last ones may own fewer.
    """

    blocks: int
    tall: int
    share: int


def shares_of(program: Program, batch: int, most_blocks: int) -> Shares:
    """Each block has as few rows as can be."""
    tall = -(-batch // min(batch, most_blocks))
    blocks = -(-batch // tall)
    return Shares(blocks, tall, -(-n_parameters(program) // blocks))


def n_parameters(program: Program) -> int:
    """Of all layers."""
    return sum(layer.n_in * layer.n_out + layer.n_out for layer in program.model.layers)


def pitch_of(n_out: int) -> int:
    """From one input's weights to the next one's: an odd number, so that threads that read a column read from all banks."""
    return n_out | 1


def layers_of(program: Program, tall: int, threads: int) -> list[tuple[int, ...]]:
    """Of each layer its inputs and outputs, where its parameters begin among all, where among those in shared memory, their pitch, the
    activation of a hidden layer, where its outputs begin among all hidden ones, the inverses of inputs and outputs (see ``inverse_of``),
    the threads that share a sum over inputs, their inverse, and the inputs of each: a GPU takes 300 cycles to divide."""
    lines: list[tuple[int, ...]] = []
    first, at, hidden = 0, 0, 0
    for layer in program.model.layers:
        pitch = pitch_of(layer.n_out)
        code = ACTIVATIONS.index(layer.activation_fn) if layer.activation_fn in ACTIVATIONS else len(ACTIVATIONS)
        lanes = max(1, min(layer.n_in, threads // (tall * layer.n_out), OUTPUT_LANES))
        inverses = inverse_of(layer.n_in), inverse_of(layer.n_out), lanes, inverse_of(lanes), -(-layer.n_in // lanes)
        lines.append((layer.n_in, layer.n_out, first, at, pitch, code, hidden, *inverses))
        first += (layer.n_in + 1) * layer.n_out
        at += (layer.n_in + 1) * pitch
        hidden += tall * layer.n_out
    return lines


class RowsPlaces(NamedTuple):
    """Where what begins in a block's shared memory, in numbers; before all that, in words of 4 bytes, two steps' row indices and words of
    dropout, and which array each own parameter is of."""

    x: int
    targets: int
    row_weights: int
    table: int
    parameters: int
    own: int
    hidden: int
    slopes: int
    sums: int
    errors: int
    costs: int
    partial: int
    taken: int
    bundles: int
    end: int


def rows_places_of(program: Program, shares: Shares, threads: int, labels: bool) -> RowsPlaces:
    """How the shared memory of a block that has rows is laid out."""
    layers, itemsize = program.model.layers, np.dtype(program.dtype).itemsize
    n_in, n_out, widest = layers[0].n_in, layers[-1].n_out, max(layer.n_out for layer in layers)
    blocks, tall, share = shares
    n_hidden = sum(layer.n_out for layer in layers[:-1])
    words = 2 * (tall + 3 * len(layers)) + share
    at = 4 * -(-words // 4) * 4 // itemsize
    sizes = RowsPlaces(
        x=2 * tall * n_in,
        targets=2 * tall * (1 if labels else n_out),
        row_weights=2 * tall,
        table=2 * rows_table_width(program),
        parameters=sum((layer.n_in + 1) * pitch_of(layer.n_out) for layer in layers),
        own=(1 + len(program.rule.slots)) * share,
        hidden=tall * n_hidden,
        slopes=tall * n_hidden,
        sums=tall * n_out,
        errors=2 * tall * widest,
        costs=tall * n_out,
        partial=max(threads, tall * widest, share),
        taken=share * blocks,
        bundles=BUNDLES + blocks,
        end=0,
    )
    return RowsPlaces(*(at + sum(sizes[:k]) for k in range(len(sizes))))


def rows_table_width(program: Program) -> int:
    """Numbers of a step: coefficients of all arrays, l2, one over the weight of its rows, and dropout's gain of each layer."""
    n_layers = len(program.model.layers)
    return 2 * n_layers * len(program.rule.coefficients) + 2 + n_layers


def exchanged(program: Program, shares: Shares) -> int:
    """Places for posted numbers: twice what each block says of each parameter, the parameters, and each block's cost."""
    return 2 * ((shares.blocks + 1) * n_parameters(program) + shares.blocks)
