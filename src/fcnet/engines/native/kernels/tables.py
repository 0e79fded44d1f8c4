"""A table's first layer: numbers as sums of waves, codes as lines of embeddings; forward, and what it learns.

Waves are computed for many rows of one column at once, always as many, so that vectors run along the rows and no number depends
on how rows are shared out. On the way back they are computed once more: they would take more memory than all other layers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fcnet.engines.native.hints import Ints, Matrix, Numbers
from fcnet.engines.native.kernels.elementary import like
from fcnet.engines.native.kernels.linking import jit, kernel
from fcnet.engines.native.kernels.updates import update
from fcnet.engines.native.layout import (
    A_AT,
    AMPLITUDES_AT,
    BLENDS_AT,
    D_AT,
    EMBEDDINGS_AT,
    F_AT,
    FREQUENCIES_AT,
    H_AT,
    IN_AT,
    IN_PAD,
    N_CODES,
    N_NUMBERS,
    N_PLAIN,
    N_SUMS,
    N_WAVES,
    OFFSETS_AT,
    OUT_PAD,
    PHASES_AT,
    STARTS,
    TABLE_ROWS,
    WIDE,
)

FREQUENCIES, PHASES, SCALES, AMPLITUDES, OFFSETS, EMBEDDINGS = range(6)
"""Places of the factors of a table's arrays; those of scales stand where other layers have their blends'."""


@jit()
def _wave(t: Any) -> Any:
    """cos(2 pi t) and sin(2 pi t): Taylor's series within an eighth of a turn of the nearest quarter, which then turns them."""
    quarter = np.floor(like(t, 4.0) * t + like(t, 0.5))
    x = (t - like(t, 0.25) * quarter) * like(t, 2.0 * math.pi)
    s = x * x
    c = like(t, 1.0 / 20922789888000.0)
    c = c * s + like(t, -1.0 / 87178291200.0)
    c = c * s + like(t, 1.0 / 479001600.0)
    c = c * s + like(t, -1.0 / 3628800.0)
    c = c * s + like(t, 1.0 / 40320.0)
    c = c * s + like(t, -1.0 / 720.0)
    c = c * s + like(t, 1.0 / 24.0)
    c = c * s + like(t, -0.5)
    c = c * s + like(t, 1.0)
    d = like(t, 1.0 / 355687428096000.0)
    d = d * s + like(t, -1.0 / 1307674368000.0)
    d = d * s + like(t, 1.0 / 6227020800.0)
    d = d * s + like(t, -1.0 / 39916800.0)
    d = d * s + like(t, 1.0 / 362880.0)
    d = d * s + like(t, -1.0 / 5040.0)
    d = d * s + like(t, 1.0 / 120.0)
    d = d * s + like(t, -1.0 / 6.0)
    d = (d * s + like(t, 1.0)) * x
    turn = quarter - like(t, 4.0) * np.floor(like(t, 0.25) * quarter)
    half = turn >= like(t, 2.0)
    odd = turn - (like(t, 2.0) if half else like(t, 0.0)) >= like(t, 1.0)
    cosine, sine = (-d if odd else c), (c if odd else d)
    return (-cosine if half else cosine), (-sine if half else sine)


@kernel
def write_table(line: Ints, parameters: Numbers, rows: Numbers, first: int, last: int, scratch: Numbers) -> None:
    """Rows ``first`` to ``last`` of a batch as the layer writes them, what it multiplies errors by, and the numbers before scales."""
    n, waves, sums = line[N_NUMBERS], line[N_WAVES], line[N_SUMS]
    width, in_pad, out_pad = sums + 1, line[IN_PAD], line[OUT_PAD]
    zero, turns = rows.dtype.type(0.0), rows.dtype.type(0.5 / math.pi)
    x, waved = scratch[:TABLE_ROWS], scratch[TABLE_ROWS : 2 * TABLE_ROWS]
    for start in range(first, last, TABLE_ROWS):
        m = min(TABLE_ROWS, last - start)
        x_at, a_at = line[IN_AT] + start * in_pad, line[A_AT] + start * out_pad
        for c in range(n):
            for r in range(TABLE_ROWS):
                x[r] = rows[x_at + r * in_pad + c] if r < m else zero
            for r in range(m):
                rows[a_at + r * out_pad + c * width] = x[r]
            if sums == 0:
                continue
            for s in range(sums):
                total = scratch[(2 + s) * TABLE_ROWS : (3 + s) * TABLE_ROWS]
                offset = parameters[line[OFFSETS_AT] + c * sums + s]
                for r in range(TABLE_ROWS):
                    total[r] = offset
            for w in range(waves):
                frequency = parameters[line[FREQUENCIES_AT] + c * waves + w]
                phase = parameters[line[PHASES_AT] + c * waves + w] * turns
                for r in range(TABLE_ROWS):
                    waved[r] = _wave(x[r] * frequency + phase)[0]
                for s in range(sums):
                    total = scratch[(2 + s) * TABLE_ROWS : (3 + s) * TABLE_ROWS]
                    amplitude = parameters[line[AMPLITUDES_AT] + (c * waves + w) * sums + s]
                    for r in range(TABLE_ROWS):
                        total[r] += amplitude * waved[r]
            for s in range(sums):
                for r in range(m):
                    rows[a_at + r * out_pad + c * width + 1 + s] = scratch[(2 + s) * TABLE_ROWS + r]
        for r in range(m):
            at, from_at = a_at + r * out_pad + n * width, x_at + r * in_pad + n
            for j in range(line[N_PLAIN]):
                rows[at + j] = rows[from_at + j]
            at, from_at = at + line[N_PLAIN], from_at + line[N_PLAIN]
            for j in range(line[N_CODES]):
                code = np.int64(rows[from_at + j])
                embedding_at = line[EMBEDDINGS_AT] + (line[STARTS + j] + code) * line[WIDE]
                for k in range(line[WIDE]):
                    rows[at + j * line[WIDE] + k] = parameters[embedding_at + k] if code >= 0 else zero
    for r in range(first, last):
        a, f = rows[line[A_AT] + r * out_pad :][:out_pad], rows[line[F_AT] + r * out_pad :][:out_pad]
        if line[BLENDS_AT] < 0:
            for j in range(out_pad):
                f[j] = rows.dtype.type(1.0)
            continue
        h, scales = rows[line[H_AT] + r * out_pad :][:out_pad], parameters[line[BLENDS_AT] :][:out_pad]
        for j in range(out_pad):
            h[j] = a[j]
            a[j] *= scales[j]
            f[j] = scales[j]


@kernel
def learn_table(line: Ints, parameters: Numbers, slots: Matrix, rows: Numbers, n: int, thread: int, n_threads: int, scratch: Numbers, gradient: Numbers, rule: int, c: Numbers, factors: Matrix) -> None:  # fmt: skip
    """One thread's columns of numbers, and its lines of embeddings: their gradient over the batch's n rows, and their update.

    ``gradient`` has a number for each of the embeddings'. Scales are learnt as blends are.
    """
    if line[N_SUMS]:
        columns = line[N_NUMBERS]
        for column in range(columns * thread // n_threads, columns * (thread + 1) // n_threads):
            _learn_waves(line, parameters, slots, rows, n, column, scratch, rule, c, factors)
    none = rows.dtype.type(0.0)
    wide, in_pad, out_pad = line[WIDE], line[IN_PAD], line[OUT_PAD]
    first_code = line[N_NUMBERS] + line[N_PLAIN]
    d_at = line[D_AT] + line[N_NUMBERS] * (line[N_SUMS] + 1) + line[N_PLAIN]
    for column in range(line[N_CODES]):
        start, codes = line[STARTS + column], line[STARTS + column + 1] - line[STARTS + column]
        low, high = codes * thread // n_threads, codes * (thread + 1) // n_threads
        at, end = (start + low) * wide, (start + high) * wide
        gradient[at:end] = none
        for r in range(n):
            code = np.int64(rows[line[IN_AT] + r * in_pad + first_code + column])
            if low <= code < high:
                for k in range(wide):
                    gradient[(start + code) * wide + k] += rows[d_at + r * out_pad + column * wide + k]
        at, end, g = line[EMBEDDINGS_AT] + at, line[EMBEDDINGS_AT] + end, gradient[at:end]
        update(rule, parameters[at:end], g, slots, at, c, factors[EMBEDDINGS], none)


@jit()
def _learn_waves(line: Any, parameters: Any, slots: Any, rows: Any, n: int, column: int, scratch: Any, rule: int, c: Any, factors: Any) -> None:  # fmt: skip
    """One column of numbers: frequencies, phases, amplitudes and offsets of its waves."""
    waves, sums = line[N_WAVES], line[N_SUMS]
    in_pad, out_pad = line[IN_PAD], line[OUT_PAD]
    zero, turns, full = rows.dtype.type(0.0), rows.dtype.type(0.5 / math.pi), rows.dtype.type(2.0 * math.pi)
    x, waved, back = (
        scratch[:TABLE_ROWS],
        scratch[TABLE_ROWS : 2 * TABLE_ROWS],
        scratch[2 * TABLE_ROWS : 3 * TABLE_ROWS],
    )
    errors = scratch[3 * TABLE_ROWS : (3 + sums) * TABLE_ROWS]
    g = scratch[(3 + sums) * TABLE_ROWS :]
    of_frequencies, of_phases = g[:waves], g[waves : 2 * waves]
    of_amplitudes, of_offsets = g[2 * waves : (2 + sums) * waves], g[(2 + sums) * waves : (2 + sums) * waves + sums]
    g[: (2 + sums) * waves + sums] = zero
    frequencies_at, phases_at = line[FREQUENCIES_AT] + column * waves, line[PHASES_AT] + column * waves
    amplitudes_at, offsets_at = line[AMPLITUDES_AT] + column * waves * sums, line[OFFSETS_AT] + column * sums
    for start in range(0, n, TABLE_ROWS):
        m = min(TABLE_ROWS, n - start)
        x_at = line[IN_AT] + start * in_pad + column
        d_at = line[D_AT] + start * out_pad + column * (sums + 1) + 1
        for r in range(TABLE_ROWS):
            x[r] = rows[x_at + r * in_pad] if r < m else zero
        for s in range(sums):
            d, total = errors[s * TABLE_ROWS : (s + 1) * TABLE_ROWS], zero
            for r in range(TABLE_ROWS):
                d[r] = rows[d_at + r * out_pad + s] if r < m else zero
            for r in range(TABLE_ROWS):
                total += d[r]
            of_offsets[s] += total
        for w in range(waves):
            frequency, phase = parameters[frequencies_at + w], parameters[phases_at + w] * turns
            for r in range(TABLE_ROWS):
                waved[r], back[r] = _wave(x[r] * frequency + phase)
            for s in range(sums):
                d, total = errors[s * TABLE_ROWS : (s + 1) * TABLE_ROWS], zero
                for r in range(TABLE_ROWS):
                    total += d[r] * waved[r]
                of_amplitudes[w * sums + s] += total
            for r in range(TABLE_ROWS):
                waved[r] = zero
            for s in range(sums):
                d, amplitude = errors[s * TABLE_ROWS : (s + 1) * TABLE_ROWS], parameters[amplitudes_at + w * sums + s]
                for r in range(TABLE_ROWS):
                    waved[r] += amplitude * d[r]
            shift = stretch = zero
            for r in range(TABLE_ROWS):
                shift -= back[r] * waved[r]
            for r in range(TABLE_ROWS):
                stretch -= back[r] * waved[r] * x[r]
            of_phases[w] += shift
            of_frequencies[w] += full * stretch
    at = frequencies_at
    update(rule, parameters[at : at + waves], of_frequencies, slots, at, c, factors[FREQUENCIES], zero)
    at = phases_at
    update(rule, parameters[at : at + waves], of_phases, slots, at, c, factors[PHASES], zero)
    at = amplitudes_at
    update(rule, parameters[at : at + waves * sums], of_amplitudes, slots, at, c, factors[AMPLITUDES], zero)
    at = offsets_at
    update(rule, parameters[at : at + sums], of_offsets, slots, at, c, factors[OFFSETS], zero)
