"""The fast engine's loops: forward, backward and update of many steps in one call, compiled by Numba.

How threads share out a step depends on what would cross from core to core, see ARCHITECTURE.md. Whichever way it is, every
number is summed in the same order whatever the number of threads, and the bytes do not depend on it.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from fcnet.engines.native.codes import SOFTMAX
from fcnet.engines.native.hints import Cube, DoubleMatrix, Doubles, IntMatrix, Ints, Matrix, Numbers, WordMatrix, Words
from fcnet.engines.native.kernels.costs import judge
from fcnet.engines.native.kernels.elementary import activate, softmax
from fcnet.engines.native.kernels.linking import entry, jit
from fcnet.engines.native.kernels.matrices import ONE, ZERO, add_lines, list_nonzeros
from fcnet.engines.native.kernels.passes import backward, copy, forward
from fcnet.engines.native.kernels.tables import learn_table
from fcnet.engines.native.kernels.updates import (
    BIASES,
    SGD,
    WEIGHTS,
    add_pairs,
    gradient_of_biases,
    gradient_of_rows,
    learn_from_groups,
    learn_lines,
    learn_sparse,
    shrink_of,
    shrunk,
    update,
)
from fcnet.engines.native.kernels.vectors import arrive, arrived, fetch, fill_rows, give_way
from fcnet.engines.native.layout import (
    A_AT,
    ABANDONED,
    ACTIVATION,
    B_AT,
    D_AT,
    F_AT,
    HAS_DROPOUT,
    IS_TABLE,
    N_IN,
    N_OUT,
    OUT_PAD,
    SPARSE_BELOW,
    SUM_STEP,
    W_AT,
    Data,
    Tables,
    Work,
)
from fcnet.engines.native.processor import TILE_ROWS, VECTOR_BYTES

SPINS = 2000
"""How often a waiting thread looks again before it lets others run."""


@jit()
def _target(data: Any, row: int, j: int) -> Any:
    if data.labels.shape[0]:
        return data.weights.dtype.type(1.0) if data.labels[row] == j else data.weights.dtype.type(0.0)
    return data.weights.dtype.type(data.targets[row, j])


@jit()
def _wait(barrier: Any, passed: int, n_threads: int) -> int:
    """Wait until every thread has arrived as often as this one; how often that is."""
    passed += 1
    if n_threads > 1:
        arrive(barrier)
        spins = 0
        while arrived(barrier) < passed * n_threads:
            spins += 1
            if spins > SPINS:
                give_way()
    return passed


@jit()
def _abandoned(barrier: Any, n_threads: int) -> bool:
    """Wait until every thread is here; whether one will not come, see ``layout.ABANDONED``."""
    _wait(barrier, ZERO, n_threads)
    return n_threads > 1 and arrived(barrier) >= ABANDONED


@jit()
def _read_batch(data: Any, tables: Any, step: int, batch: Any) -> Any:
    """Fill ``batch`` with the rows of a step that count, and their positions; how many, and what their weights are scaled by."""
    n, total = ZERO, 0.0
    for position in range(tables.rows.shape[1]):
        row = tables.rows[step, position]
        if row >= 0 and data.weights[row] > 0:
            batch[n, 0], batch[n, 1] = row, position
            total += data.weights[row]
            n += 1
    if tables.total > 0:
        total = tables.total
    return n, 1.0 / total if total > 0 else 0.0


@jit()
def _fetch_rows(data: Any, rows: Any, first: int, last: int) -> None:
    """Ask for some rows of the next step, which lie anywhere in memory."""
    n_in, end = data.dense.shape[1], data.splits.shape[1] - 1
    for position in range(first, last):
        row = rows[position]
        if row < 0:
            continue
        fetch(data.weights, row, row + 1)
        if data.labels.shape[0]:
            fetch(data.labels, row, row + 1)
        if data.dense.shape[0]:
            fetch(data.dense, row * n_in, (row + 1) * n_in)
        else:
            start, stop = data.splits[row, 0], data.splits[row, end]
            fetch(data.values, start, stop)
            fetch(data.columns, start, stop)


@jit()
def _after(line: Any, data: Any, rule: int, c: Any, factors: Any, l2: Any, scale: float) -> float:
    """What the first layer's weights are to be multiplied by after a step, see ``learn_sparse``."""
    if rule == SGD and data.dense.shape[0] == 0 and not line[HAS_DROPOUT]:
        return shrunk(scale * shrink_of(c, factors[0, WEIGHTS], l2))
    return scale


@jit()
def _mean_cost(data: Any, batch: Any, first: int, last: int, scale: float, costs: Any) -> float:
    mean = 0.0
    for r in range(first, last):
        mean += data.weights[batch[r, 0]] * scale * costs[r]
    return mean


# --- What Python calls ------------------------------------------------------------------------------------------------


@entry
def advance(layout: IntMatrix, parameters: Numbers, slots: Matrix, scales: Doubles, data: Data, tables: Tables, work: Work, n_steps: int, thread: int, n_threads: int, cost: int, constants: Numbers, rule: int, costs: Doubles, bad: Ints) -> None:  # fmt: skip
    """Steps 0 to n_steps - 1 of the tables, by one of n_threads threads that call this at the same time.

    Threads share out rows, then lines of weights. ``bad[thread]`` becomes the first step whose cost is not finite, or -1; from it on
    nothing is changed. ``costs`` and ``scales``, one number that the first layer's weights are multiplied by, are thread 0's to write.
    """
    batch, last_line = work.batch[thread], layout[layout.shape[0] - 1]
    passed, scale_of_weights = ONE, scales[0]
    bad[thread] = -ONE
    if _abandoned(work.barrier, n_threads):
        return
    for step in range(n_steps):
        n, scale = _read_batch(data, tables, step, batch)
        first, last = n * thread // n_threads, n * (thread + 1) // n_threads
        forward(layout, ZERO, parameters, scale_of_weights, data, work, batch, first, last, tables.gain[step], tables.thresholds[step], tables.keys[step], thread)  # fmt: skip
        judge(cost, constants, last_line, data, batch, first, last, scale, work.rows, work.outcomes[thread], work.costs)
        if step + 1 < n_steps:
            _fetch_rows(data, tables.rows[step + 1], first, last)
        backward(layout, parameters, work.rows, n, first, last)
        passed = _wait(work.barrier, passed, n_threads)
        mean = _mean_cost(data, batch, ZERO, n, scale, work.costs)
        if thread == 0:
            costs[step] = mean
        if not math.isfinite(mean):
            bad[thread] = step
            break
        c, l2 = tables.coefficients[step], tables.l2[step]
        if layout[0, IS_TABLE]:
            learn_table(layout[0], parameters, slots, work.rows, n, thread, n_threads, work.lines[thread], work.gradient, rule, c, tables.factors[0])  # fmt: skip
        learn_lines(layout, ZERO, parameters, slots, data, work, batch, n, thread, n_threads, rule, c, tables.factors, l2, scale_of_weights)  # fmt: skip
        scale_of_weights = _after(layout[0], data, rule, c, tables.factors, l2, scale_of_weights)
        passed = _wait(work.barrier, passed, n_threads)
    if thread == 0:
        scales[0] = scale_of_weights


@functools.partial(entry, usual=False)
def advance_by_groups(layout: IntMatrix, parameters: Numbers, slots: Matrix, scales: Doubles, data: Data, tables: Tables, work: Work, own: Matrix, groups: Cube, sums: DoubleMatrix, n_steps: int, thread: int, n_threads: int, cost: int, constants: Numbers, rule: int, costs: Doubles, bad: Ints) -> None:  # fmt: skip
    """As ``advance``, with groups of a batch's rows that the threads share out, each group with a gradient of its own.

    A thread keeps all parameters and slots in ``own`` ``(1 + n_slots, n_parameters)``, and updates all of them. Only gradients cross over, ``groups`` ``(2,
    n_groups, n_parameters)``, and costs, ``sums`` ``(2, n_groups * SUM_STEP)``, used by turns so that one barrier a step is enough.
    """
    last_line, n_groups = layout[layout.shape[0] - 1], groups.shape[1]
    n_pairs = (n_groups + 1) // 2
    paired = n_threads <= n_pairs  # each thread has whole pairs of groups, and adds them up before they cross over
    if paired:
        first_group = 2 * (n_pairs * thread // n_threads)
        last_group = min(n_groups, 2 * (n_pairs * (thread + 1) // n_threads))
    else:
        first_group, last_group = thread, thread + 1
    mine, my_slots = own[0], own[1:]
    copy(parameters, mine)
    for k in range(slots.shape[0]):
        copy(slots[k], my_slots[k])
    batch, passed = work.batch[thread], ONE
    bad[thread] = -ONE
    if _abandoned(work.barrier, n_threads):
        return
    for step in range(n_steps):
        n, scale = _read_batch(data, tables, step, batch)
        first, last = n * first_group // n_groups, n * last_group // n_groups
        forward(layout, ZERO, mine, 1.0, data, work, batch, first, last, tables.gain[step], tables.thresholds[step], tables.keys[step], thread)  # fmt: skip
        judge(cost, constants, last_line, data, batch, first, last, scale, work.rows, work.outcomes[thread], work.costs)
        if step + 1 < n_steps:
            _fetch_rows(data, tables.rows[step + 1], first, last)
        backward(layout, mine, work.rows, n, first, last)
        shared, shared_sums = groups[step % 2], sums[step % 2]
        for group in range(first_group, last_group):
            start, stop = n * group // n_groups, n * (group + 1) // n_groups
            gradient_of_rows(layout, work.rows, start, stop - start, shared[group])
            shared_sums[group * SUM_STEP] = _mean_cost(data, batch, start, stop, scale, work.costs)
        if paired:
            add_pairs(shared, first_group, last_group)
        passed = _wait(work.barrier, passed, n_threads)
        mean = 0.0
        for group in range(n_groups):
            mean += shared_sums[group * SUM_STEP]
        if thread == 0:
            costs[step] = mean
        if not math.isfinite(mean):
            bad[thread] = step
            break
        learn_from_groups(layout, mine, my_slots, shared, paired, work.lines[thread], rule, tables.coefficients[step], tables.factors, tables.l2[step])  # fmt: skip
    if thread == 0:
        copy(mine, parameters)
        for k in range(slots.shape[0]):
            copy(my_slots[k], slots[k])


@functools.partial(entry, usual=False)
def advance_by_units(layout: IntMatrix, parameters: Numbers, slots: Matrix, scales: Doubles, data: Data, tables: Tables, work: Work, own: Matrix, exchange: Matrix, barrier: Ints, n_steps: int, thread: int, n_threads: int, cost: int, constants: Numbers, rule: int, costs: Doubles, bad: Ints) -> None:  # fmt: skip
    """As ``advance``, with a sparse first layer whose units the threads share out, each with all that follows to itself.

    A thread keeps its units' weights, and the whole of the later layers, in ``own`` ``(1 + n_slots, n_parameters)``; ``work`` is its
    own too. Only the first layer's outputs cross over, through ``exchange`` ``(2, batch * units)``, used by turns so that one
    barrier a step is enough.
    """
    line, last_line = layout[0], layout[layout.shape[0] - 1]
    out_pad, length = line[OUT_PAD], tables.rows.shape[1]
    w_at, b_at = line[W_AT], line[B_AT]
    first, last = _units(out_pad, parameters.itemsize, thread, n_threads)
    width = last - first
    mine, my_slots = own[0], own[1:]
    _take_out(line, first, last, parameters, mine)
    for k in range(slots.shape[0]):
        _take_out(line, first, last, slots[k], my_slots[k])
    rows, f = work.rows, work.lines[0]
    none = rows.dtype.type(0.0)
    batch, passed, scale_of_weights = work.batch[0], ONE, scales[0]
    bad[thread] = -ONE
    if _abandoned(barrier, n_threads):
        return
    for step in range(n_steps):
        n, scale = _read_batch(data, tables, step, batch)
        c, l2 = tables.coefficients[step], tables.l2[step]
        shared = exchange[step % 2]
        at = first * length
        fill_rows(n, width, mine, b_at + first, shared, at)
        factor = rows.dtype.type(scale_of_weights)
        for r in range(n):
            p, q = data.splits[batch[r, 0], 0], data.splits[batch[r, 0], data.splits.shape[1] - 1]
            add_lines(data.values, data.columns, p, q, factor, mine, w_at, width, shared, at + r * width)
        for r in range(n):
            f_at = line[F_AT] + r * out_pad + first
            activate(line[ACTIVATION], shared[at + r * width : at + (r + 1) * width], rows[f_at : f_at + width])
            for j in range(line[N_OUT] - first, width):  # f(0) need not be 0, the padding must
                shared[at + r * width + j] = none
        if step + 1 < n_steps:
            _fetch_rows(data, tables.rows[step + 1], ZERO, length)
        passed = _wait(barrier, passed, n_threads)
        for other in range(n_threads):
            u, v = _units(out_pad, parameters.itemsize, other, n_threads)
            for r in range(n):
                for j in range(v - u):
                    rows[line[A_AT] + r * out_pad + u + j] = shared[u * length + r * (v - u) + j]
        forward(layout, ONE, mine, 1.0, data, work, batch, ZERO, n, tables.gain[step], tables.thresholds[step], tables.keys[step], ZERO)  # fmt: skip
        judge(cost, constants, last_line, data, batch, ZERO, n, scale, rows, work.outcomes[0], work.costs)
        mean = _mean_cost(data, batch, ZERO, n, scale, work.costs)
        if thread == 0:
            costs[step] = mean
        if not math.isfinite(mean):
            bad[thread] = step
            break
        backward(layout, mine, rows, n, ZERO, n)
        learn_lines(layout, ONE, mine, my_slots, data, work, batch, n, ZERO, ONE, rule, c, tables.factors, l2, 1.0)  # fmt: skip
        gradient_of_biases(line, rows, ZERO, n, f[:out_pad])
        update(rule, mine[b_at : b_at + out_pad], f[:out_pad], my_slots, b_at, c, tables.factors[0, BIASES], none)
        learn_sparse(w_at, width, line[D_AT] + first, out_pad, ZERO, data.splits.shape[1] - 1, mine, my_slots, data, work, batch, n, rule, c, tables.factors[0, WEIGHTS], l2, scale_of_weights)  # fmt: skip
        scale_of_weights = _after(line, data, rule, c, tables.factors, l2, scale_of_weights)
    if thread == 0:
        scales[0] = scale_of_weights
    _put_back(line, first, last, thread, mine, parameters)
    for k in range(slots.shape[0]):
        _put_back(line, first, last, thread, my_slots[k], slots[k])


@jit()
def _units(out_pad: int, itemsize: int, thread: int, n_threads: int) -> tuple[int, int]:
    """The units of a layer, by whole vectors, that one of n_threads threads owns."""
    lanes = VECTOR_BYTES // itemsize
    n_vectors = out_pad // lanes
    return n_vectors * thread // n_threads * lanes, n_vectors * (thread + 1) // n_threads * lanes


@jit()
def _take_out(line: Any, first: int, last: int, whole: Any, own: Any) -> None:
    """Some units' weights, in lines of their own, and all that follows the first layer's weights."""
    at, out_pad, width = line[W_AT], line[OUT_PAD], last - first
    for i in range(line[N_IN]):
        for j in range(width):
            own[at + i * width + j] = whole[at + i * out_pad + first + j]
    for j in range(line[B_AT], whole.shape[0]):
        own[j] = whole[j]


@jit()
def _put_back(line: Any, first: int, last: int, thread: int, own: Any, whole: Any) -> None:
    """Some units' weights and biases back into whole lines, and by thread 0 the later layers."""
    at, b_at, out_pad, width = line[W_AT], line[B_AT], line[OUT_PAD], last - first
    for i in range(line[N_IN]):
        for j in range(width):
            whole[at + i * out_pad + first + j] = own[at + i * width + j]
    for j in range(b_at + first, b_at + last):
        whole[j] = own[j]
    if thread == 0:
        for j in range(b_at + out_pad, whole.shape[0]):
            whole[j] = own[j]


@entry
def outputs(layout: IntMatrix, work: Work, lists: Data, gain: Numbers, thresholds: Words, keys: WordMatrix, doubtful: Ints, parameters: Numbers, X: Matrix, answers: Matrix, n_threads: int, thread: int) -> None:  # fmt: skip
    """The network's outputs for dense rows, as many at a time as ``work`` is for, by one of n_threads threads.

    Rows whose numbers are mostly zero are listed in ``lists``, which has room for as many rows. In ``doubtful`` is then how
    many rows hold NaN or infinity, or have a sum beyond the numbers' range.
    """
    rows, batch, splits = work.rows, work.batch[0], lists.splits
    height = batch.shape[0]
    doubtful[0] = ZERO
    for r in range(height):
        batch[r, 0] = r
    line = layout[layout.shape[0] - 1]
    for start in range(thread * height, X.shape[0], n_threads * height):
        block = X[start : start + height]
        n = block.shape[0]
        for r in range(n):
            doubtful[0] += not math.isfinite(_sum(block[r]))
        dense = block
        plain = layout[0, HAS_DROPOUT] == 0 and layout[0, IS_TABLE] == 0
        if plain and (n < TILE_ROWS or _share_of_nonzeros(block[0]) < SPARSE_BELOW):
            p = ZERO
            for r in range(n):
                splits[r, 0] = p
                p = list_nonzeros(block[r], lists.values, lists.columns, p)
                splits[r, 1] = p
            dense = block[:0]
        data = Data(dense, lists.values, lists.columns, splits, lists.labels, lists.targets, lists.weights)
        forward(layout, ZERO, parameters, 1.0, data, work, batch, ZERO, n, gain, thresholds, keys, ZERO)
        for r in range(n):
            at, f_at = line[A_AT] + r * line[OUT_PAD], line[F_AT] + r * line[OUT_PAD]
            z = rows[at : at + line[N_OUT]]
            if line[ACTIVATION] == SOFTMAX:
                softmax(z)
            else:
                activate(line[ACTIVATION], z, rows[f_at : f_at + line[N_OUT]])
            for j in range(line[N_OUT]):
                answers[start + r, j] = z[j]


@jit()
def _sum(x: Any) -> Any:
    total = x.dtype.type(0.0)
    for j in range(x.shape[0]):
        total += x[j]
    return total


@jit()
def _share_of_nonzeros(x: Any) -> float:
    n = 0
    for j in range(x.shape[0]):
        n += x[j] != 0
    return n / x.shape[0]


@entry
def evaluate(layout: IntMatrix, parameters: Numbers, data: Data, work: Work, gain: Numbers, thresholds: Words, keys: WordMatrix, cost: int, constants: Numbers, threshold: bool, height: int, n_threads: int, thread: int, sums: DoubleMatrix) -> None:  # fmt: skip
    """For each ``height`` rows their sums: weighted cost, weighted count of right answers, weight; by one of n_threads threads."""
    line, batch, n_rows = layout[layout.shape[0] - 1], work.batch[0], data.weights.shape[0]
    for block in range(thread, sums.shape[0], n_threads):
        first = block * height
        n = min(height, n_rows - first)
        for r in range(n):
            batch[r, 0] = first + r
        forward(layout, ZERO, parameters, 1.0, data, work, batch, ZERO, n, gain, thresholds, keys, ZERO)
        judge(cost, constants, line, data, batch, ZERO, n, 1.0, work.rows, work.outcomes[0], work.costs)
        sums[block] = 0.0
        for r in range(n):
            row, at = batch[r, 0], line[A_AT] + r * line[OUT_PAD]
            weight = data.weights[row]
            if weight > 0:
                sums[block, 0] += weight * work.costs[r]
                sums[block, 1] += weight * _right(data, row, work.rows[at : at + line[N_OUT]], threshold)
                sums[block, 2] += weight


@jit()
def _right(data: Any, row: int, a: Any, threshold: bool) -> float:
    """1 where the outputs are right, else 0: by the side of 0.5 that one is on, or by the first largest."""
    if threshold:
        return 1.0 if (a[0] > 0.5) == (_target(data, row, ZERO) > 0.5) else 0.0
    guess = answer = ZERO
    for j in range(1, a.shape[0]):
        if a[j] > a[guess]:
            guess = j
        if _target(data, row, j) > _target(data, row, answer):
            answer = j
    return 1.0 if guess == answer else 0.0
