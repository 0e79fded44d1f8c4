"""A chunk of steps as a kernel takes it: which kernel, what its blocks have, and what each step brings."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fcnet import counters
from fcnet.data.arrays import Part
from fcnet.engines.contract import Plan, Program
from fcnet.engines.cuda import layout
from fcnet.engines.cuda.kinds import Kind, RowsKind, kind_of, rows_kind_of
from fcnet.engines.cuda.layout import group_of, in_groups, layers_of, places_of, rows_places_of, shares_of
from fcnet.engines.cuda.library import Kernel

CROSSINGS = 3
"""Numbers that a block which has rows posts and takes, for each parameter: its gradient, a share of all others', and the parameter."""
STEP_TABLES = ("rows", "coefficients", "l2", "dropout", "keys")
"""Of a plan, what has a line for each step."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """A chunk of steps as a kernel takes it.

    Attributes:
        blocks, n_bytes: how many blocks, with so many bytes of shared memory each.
        tables: what each step brings: row indices, numbers, words of dropout.
        constants: places, and what else stays the same.
        exchanged: words for posted numbers.
        numbers: whole numbers after the number of steps.
    """

    kernel: Kernel
    blocks: int
    n_bytes: int
    tables: tuple[NDArray[Any], ...]
    constants: tuple[Any, ...]
    exchanged: int
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Division:
    """Into what a kernel for steps may be divided.

    Attributes:
        blocks, threads: at most so many blocks, of so many threads.
        shared_bytes: shared memory that a block may have.
    """

    blocks: int
    threads: int
    shared_bytes: int


def way_of(program: Program, batch: int, most: Division) -> Literal["units", "rows"] | None:
    """What blocks have in steps of so many rows: that of which less crosses between them; None where neither fits on the chip."""
    model, room = program.model, most.shared_bytes // np.dtype(program.dtype).itemsize
    shares = shares_of(program, batch, most.blocks)
    by_rows = rows_places_of(program, shares, most.threads, labels=False).end <= room
    by_rows = by_rows and model.n_out <= layout.MOST_OUTPUTS
    if len(model.layers) != 2:
        return "rows" if by_rows else None
    n_hidden = model.layers[0].n_out
    units = units_of(n_hidden, most.blocks)[1]
    by_units = places_of(program, in_groups(batch), units, 1, labels=False).end <= room
    if by_units and by_rows:
        return "rows" if CROSSINGS * layout.n_parameters(program) < batch * n_hidden else "units"
    return "units" if by_units else "rows" if by_rows else None


def units_of(n_hidden: int, most_blocks: int) -> tuple[int, int]:
    """Blocks, and the hidden units of each; the last block may have fewer."""
    units = -(-n_hidden // min(most_blocks, n_hidden))
    return -(-n_hidden // units), units


def chunk_of(program: Program, plan: Plan, part: Part, most: Division) -> Chunk | None:
    """The steps of a plan on a part of the data; None where they do not fit on the chip."""
    way = way_of(program, plan.rows.shape[1], most)
    if way is None:
        return None
    plan = replace(plan, **{name: getattr(plan, name)[: plan.n_steps] for name in STEP_TABLES})
    return (_by_rows if way == "rows" else _by_units)(program, plan, part, most)


def _by_units(program: Program, plan: Plan, part: Part, most: Division) -> Chunk:
    """Each block has some hidden units."""
    labels = part.kind == "labels"
    dtype, sizes, batch = np.dtype(program.dtype), _sizes(program), in_groups(plan.rows.shape[1])
    blocks, units = units_of(sizes[1], most.blocks)
    placed = functools.partial(places_of, program, batch, units, labels=labels)
    buffers = 2 if dtype.itemsize * placed(buffers=2).end <= most.shared_bytes else 1
    places = placed(buffers=buffers)
    kernel = units_kernel(kind_of(program, labels, group_of(batch)))
    exchanged = 2 * batch * sizes[1] * dtype.itemsize // 4
    tables = _rows(plan, batch), _table(program, plan), _masks(plan)
    return Chunk(
        kernel, blocks, dtype.itemsize * places.end, tables, (places,), exchanged, (*sizes, batch, units, buffers)
    )


def _by_rows(program: Program, plan: Plan, part: Part, most: Division) -> Chunk:
    """Each block has some rows."""
    labels = part.kind == "labels"
    dtype, batch = np.dtype(program.dtype), plan.rows.shape[1]
    shares = shares_of(program, batch, most.blocks)
    places = rows_places_of(program, shares, most.threads, labels)
    layers = np.array(layers_of(program, shares.tall, most.threads)).reshape(-1)
    weights = plan.rows >= 0 if part.weights is None else np.where(plan.rows >= 0, part.weights[plan.rows], 0.0)
    mass = weights.sum(axis=1, dtype=np.float64)
    tables = plan.rows, _table(program, plan, 1.0 / np.where(mass > 0, mass, 1.0)), _masks(plan)
    exchanged = layout.exchanged(program, shares) * dtype.itemsize // 4
    widest = max(layer.n_out for layer in program.model.layers)
    numbers = len(program.model.layers), batch, shares.tall, shares.share, widest, layout.n_parameters(program)
    kernel = rows_kernel(rows_kind_of(program, labels))
    return Chunk(kernel, shares.blocks, dtype.itemsize * places.end, tables, (places, layers), exchanged, numbers)


def _sizes(program: Program) -> tuple[int, int, int]:
    hidden, last = program.model.layers
    return hidden.n_in, hidden.n_out, last.n_out


# --- Kernels ------------------------------------------------------------------------------------------------------------


def _python_of_units(kind: Kind) -> Any:
    from fcnet.engines.cuda.kernels import units  # imports Numba

    return units.kernel_of(kind)


def _python_of_rows(kind: RowsKind) -> Any:
    from fcnet.engines.cuda.kernels import rows  # imports Numba

    return rows.kernel_of(kind)


def units_kernel(kind: Kind) -> Kernel:
    """Of blocks that have units."""
    return Kernel("-".join(["units", *map(str, kind)]), functools.partial(_python_of_units, kind))


def rows_kernel(kind: RowsKind) -> Kernel:
    """Of blocks that have rows."""
    return Kernel("-".join(["rows", *map(str, kind)]), functools.partial(_python_of_rows, kind))


# --- A chunk's tables as the kernel reads them --------------------------------------------------------------------------


def _rows(plan: Plan, batch: int) -> NDArray[np.int32]:
    """``(length, batch)``: row indices, -1 where a row is absent."""
    missing = batch - plan.rows.shape[1]
    return np.pad(plan.rows, [(0, 0), (0, missing)], constant_values=-1).astype(np.int32)


def _table(program: Program, plan: Plan, *more: NDArray[Any]) -> NDArray[Any]:
    """A line for each step: coefficients of each array, l2, what else is given, and what is multiplied by where dropout keeps a number."""
    gain = 1.0 / (1.0 - plan.dropout) if program.model.dropout_scaling == "training" else np.ones_like(plan.dropout)
    own = [np.stack(program.rule.scaled(tuple(plan.coefficients.T), factors), axis=-1) for factors in plan.factors]
    return np.column_stack([*own, plan.l2, *more, gain]).astype(program.dtype)


def _masks(plan: Plan) -> NDArray[np.uint32]:
    """A line for each step: all layers' thresholds, then their keys."""
    return np.column_stack([counters.drop_threshold(plan.dropout), plan.keys.reshape(len(plan.keys), -1)])
