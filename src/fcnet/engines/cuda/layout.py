"""How a chunk of steps lies in a block's shared memory, and what of it each step brings: what host and kernel must see alike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fcnet.engines.contract import Program
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
ARRAYS = 4
"""w1, b1, w2, b2."""
MASK_WORDS = 6
"""Of a step: thresholds of both layers, and their keys of two words."""


def group_of(batch: int) -> int:
    """Rows that a thread takes at once: those with which a batch needs the fewest reads."""
    return min(GROUPS, key=lambda group: -(-batch // group) * (group + 1))


def in_groups(batch: int) -> int:
    """Rows of a batch with absent ones up to a whole number of groups."""
    return batch + -batch % group_of(batch)


# --- Shared memory ------------------------------------------------------------------------------------------------------


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
