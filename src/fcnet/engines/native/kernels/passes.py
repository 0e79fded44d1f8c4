"""Rows of a batch through the layers, forward and backward."""

from __future__ import annotations

from typing import Any

from fcnet.engines.native.hints import IntMatrix, Numbers, WordMatrix, Words
from fcnet.engines.native.kernels.elementary import activate, draw_mask
from fcnet.engines.native.kernels.linking import jit, kernel
from fcnet.engines.native.kernels.matrices import (
    ONE,
    ZERO,
    add_lines,
    list_nonzeros,
    multiply_nn,
    multiply_nt,
    multiply_turned,
)
from fcnet.engines.native.kernels.tables import write_table
from fcnet.engines.native.kernels.vectors import fill_rows
from fcnet.engines.native.layout import (
    A_AT,
    ACTIVATION,
    B_AT,
    BLENDS_AT,
    D_AT,
    F_AT,
    H_AT,
    HAS_DROPOUT,
    IN_AT,
    IN_PAD,
    IS_TABLE,
    N_IN,
    N_OUT,
    OUT_PAD,
    TRANSPOSED,
    W_AT,
    Data,
    Work,
)

TURN_ROWS = 128
"""Turning a layer's weights on the way back pays for so many rows of a batch."""


@kernel
def forward(layout: IntMatrix, start: int, parameters: Numbers, scale: float, data: Data, work: Work, batch: IntMatrix, first: int, last: int, gain: Numbers, thresholds: Words, keys: WordMatrix, thread: int) -> None:  # fmt: skip
    """Rows ``first`` to ``last`` of a batch through layers ``start`` on: outputs, derivatives, the last weighted inputs.

    The weights of a first layer that reads lists are ``scale`` times what stands in ``parameters``, see ``updates.learn_sparse``.

    ``batch`` is ``(n, 2)``: the row of the data, and the position in the batch that its masks are drawn for.
    """
    rows = work.rows
    zero = rows.dtype.type(0.0)
    for layer in range(start, layout.shape[0]):
        line = layout[layer]
        n_in, in_pad, n_out, out_pad = line[N_IN], line[IN_PAD], line[N_OUT], line[OUT_PAD]
        lists = data.dense.shape[0] == 0
        sparse = layer == 0 and lists and not line[HAS_DROPOUT]
        if layer == 0 and not sparse:  # also what a table writes
            for r in range(first, last):
                row, at = batch[r, 0], line[IN_AT] + r * in_pad
                if lists:
                    rows[at : at + n_in] = zero
                    for p in range(data.splits[row, 0], data.splits[row, data.splits.shape[1] - 1]):
                        rows[at + data.columns[p]] = data.values[p]
                else:
                    for j in range(n_in):
                        rows[at + j] = data.dense[row, j]
        if line[IS_TABLE]:
            write_table(line, parameters, rows, first, last, work.lines[thread])
            continue
        if line[HAS_DROPOUT]:
            for r in range(first, last):
                at = line[IN_AT] + r * in_pad
                masked = work.lines[thread, :n_in]
                if thresholds[layer]:
                    draw_mask(keys[layer], batch[r, 1], thresholds[layer], gain[layer], masked)
                else:
                    masked[:] = gain[layer]
                x = rows[at : at + n_in]
                for j in range(n_in):
                    x[j] *= masked[j]
                if layer:
                    before = layout[layer - 1, F_AT] + r * in_pad
                    f = rows[before : before + n_in]
                    for j in range(n_in):
                        f[j] *= masked[j]
                    if layout[layer - 1, BLENDS_AT] >= 0:
                        before = layout[layer - 1, H_AT] + r * in_pad
                        h = rows[before : before + n_in]
                        for j in range(n_in):
                            h[j] *= masked[j]
        fill_rows(last - first, out_pad, parameters, line[B_AT], rows, line[A_AT] + first * out_pad)
        if sparse:
            factor = rows.dtype.type(scale)
            for r in range(first, last):
                row, at = batch[r, 0], line[A_AT] + r * out_pad
                start, stop = data.splits[row, 0], data.splits[row, data.splits.shape[1] - 1]
                add_lines(data.values, data.columns, start, stop, factor, parameters, line[W_AT], out_pad, rows, at)
        else:
            m, x_at, a_at = last - first, line[IN_AT] + first * in_pad, line[A_AT] + first * out_pad
            if m == 1 and not line[TRANSPOSED]:  # one row reads no more of the weights than it needs
                values, columns = work.values[thread], work.columns[thread]
                stop = list_nonzeros(rows[x_at : x_at + n_in], values, columns, ZERO)
                one = rows.dtype.type(1.0)
                add_lines(values, columns, ZERO, stop, one, parameters, line[W_AT], out_pad, rows, a_at)
            elif line[TRANSPOSED]:
                multiply_nt(m, n_out, in_pad, rows, x_at, in_pad, parameters, line[W_AT], in_pad, rows, a_at, out_pad)
            else:
                multiply_nn(m, out_pad, n_in, rows, x_at, in_pad, ONE, parameters, line[W_AT], out_pad, rows, a_at, out_pad)  # fmt: skip
        if layer < layout.shape[0] - 1:
            a_at, f_at = line[A_AT] + first * out_pad, line[F_AT] + first * out_pad
            size = (last - first) * out_pad
            blended = line[BLENDS_AT] >= 0
            if blended:
                copy(rows[a_at : a_at + size], rows[line[H_AT] + first * out_pad :])
            activate(line[ACTIVATION], rows[a_at : a_at + size], rows[f_at : f_at + size])
            if blended:
                for r in range(first, last):
                    _blend(parameters[line[BLENDS_AT] : line[BLENDS_AT] + out_pad], rows, line[A_AT] + r * out_pad, line[F_AT] + r * out_pad, line[H_AT] + r * out_pad)  # fmt: skip
            for r in range(last - first):  # f(0) need not be 0, the padding must
                for j in range(n_out, out_pad):
                    rows[a_at + r * out_pad + j] = zero


@kernel
def backward(layout: IntMatrix, parameters: Numbers, rows: Numbers, n: int, first: int, last: int) -> None:
    """The errors dC/dz of every layer before the last, for some of a batch's n rows."""
    m = last - first
    for layer in range(layout.shape[0] - 1, 0, -1):
        line, before = layout[layer], layout[layer - 1]
        in_pad, out_pad = line[IN_PAD], line[OUT_PAD]
        d_at, e_at = line[D_AT] + first * out_pad, before[D_AT] + first * in_pad
        rows[e_at : e_at + m * in_pad] = 0.0
        if line[TRANSPOSED]:
            multiply_nn(m, in_pad, line[N_OUT], rows, d_at, out_pad, ONE, parameters, line[W_AT], in_pad, rows, e_at, in_pad)  # fmt: skip
        elif n >= TURN_ROWS:  # not by m, which the number of threads decides: the two round differently
            multiply_turned(m, line[N_IN], out_pad, rows, d_at, out_pad, parameters, line[W_AT], out_pad, rows, e_at, in_pad)  # fmt: skip
        else:
            multiply_nt(m, line[N_IN], out_pad, rows, d_at, out_pad, parameters, line[W_AT], out_pad, rows, e_at, in_pad)  # fmt: skip
        f_at = before[F_AT] + first * in_pad
        e, f = rows[e_at : e_at + m * in_pad], rows[f_at : f_at + m * in_pad]
        if before[BLENDS_AT] >= 0:
            h_at = before[H_AT] + first * in_pad
            h = rows[h_at : h_at + m * in_pad]
            for j in range(m * in_pad):
                h[j] *= e[j]
        for j in range(m * in_pad):
            e[j] *= f[j]


@jit()
def copy(some: Any, others: Any) -> None:
    """Numbers of one array into the other's places."""
    for j in range(some.shape[0]):
        others[j] = some[j]


@jit()
def _blend(blends: Any, rows: Any, a_at: int, f_at: int, h_at: int) -> None:
    """z + b (f(z) - z) for a row, where ``a`` is f(z), ``f`` its derivative and ``h`` is z, which becomes f(z) - z."""
    n = blends.shape[0]
    a, f, h = rows[a_at : a_at + n], rows[f_at : f_at + n], rows[h_at : h_at + n]
    one = rows.dtype.type(1.0)
    for j in range(n):
        z = h[j]
        h[j] = a[j] - z
        a[j] = z + blends[j] * h[j]
        f[j] = one + blends[j] * (f[j] - one)
