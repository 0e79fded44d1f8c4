"""A chunk of steps of a network with one hidden layer, as one kernel whose weights never leave the chip.

Each block of threads owns some hidden units: the first layer's weights into them lie in its shared memory, with the whole of the
small last layer. A step is

    own units      a = f(x . w1 + b1), with dropout, posted for all blocks
    meanwhile      every block changes its copy of the last layer, by what the step before has found, and sends for the next step's rows
    all blocks     take what all have posted
    outputs        every block computes all outputs and their errors for itself, from all hidden outputs
    learning       every block changes its own part of the first layer

Posted numbers have two places that are used by turns: who posts into one place has taken what was posted after the last reader
of it was done. All blocks compute the same numbers of the last layer in the same order, so their copies stay the same to the bit,
and all see a bad step at once. Nothing is added up in an order that changes from run to run, or with blocks or threads.

A step takes as long as its chain of dependent instructions, so nothing is on it that can be elsewhere: rows, targets and tables come
by copies that nobody waits for before the step is over, sums are shared out to as many threads as there are and folded in
two turns, and every output has a thread. Hot loops whose length is not a constant are ``while`` loops: of a ``range`` Numba makes four times
as many instructions.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import cuda, types

from fcnet.engines.cuda.kernels.costs import judge_of
from fcnet.engines.cuda.kernels.elementary import (
    NUMBERS,
    activation_of,
    bits,
    inverse_of,
    kernel,
    quotient,
    unsigned,
)
from fcnet.engines.cuda.kernels.memory import copy, copy_16, number, post, tagged, take, wait_for_copies
from fcnet.engines.cuda.kernels.updates import learn_of
from fcnet.engines.cuda.kinds import RULES, Kind
from fcnet.engines.cuda.layout import ARRAYS, BUNDLES, FOLD, LANES, LAP, MASK_WORDS, OUTPUT_LANES, THREADS, table_width

TILE = 4
"""Inputs of a unit whose gradients a thread sums at once."""
FEW_OUTPUTS, ROW_LANES = 16, 8
"""Up to how many outputs each one's thread sums up its row for itself; so many threads do it where there are more."""


# --- The kernel ---------------------------------------------------------------------------------------------------------


@functools.cache
def kernel_of(kind: Kind) -> Any:
    """The kernel of a kind; arrays are of one dimension."""
    T, Float = NUMBERS[kind.dtype]
    zero, one = T(0.0), T(1.0)
    (rule,) = (rule for rule in RULES if rule.name == kind.rule)
    n_slots, n_coefficients, width = len(rule.slots), len(rule.coefficients), table_width(rule)
    l2_at, gain_at = ARRAYS * n_coefficients, ARRAYS * n_coefficients + 1
    per_copy = 16 // np.dtype(kind.dtype).itemsize
    drops_inputs, drops_hidden, labels, group = kind.drops_inputs, kind.drops_hidden, kind.labels, kind.group
    drops = drops_inputs or drops_hidden
    activate = activation_of(T, kind.hidden)
    summary, judge = judge_of(T, kind)
    is_softmax = kind.cost == "log_likelihood"
    coefficients, learn = learn_of(T, rule)

    # -- What comes from elsewhere

    @cuda.jit(device=True)
    def fetch(X: Any, targets: Any, weights: Any, rows: Any, table: Any, masks: Any, shared: Any, words: Any, step: int, n_steps: int, n_in: int, n_out: int, batch: int, x: int, row_weights: int, y: int, numbers: int, size: int, pieces: int, inverse: int) -> None:  # fmt: skip
        """Begin to copy what a step needs, whose row indices are here, and the row indices of the step after it."""
        thread, n_threads = cuda.threadIdx.x, cuda.blockDim.x
        turn = step % 2
        down = quotient(n_threads, inverse)
        right = n_threads - down * pieces
        r = quotient(thread, inverse)
        piece = thread - r * pieces
        while r < batch:
            row = np.int64(np.int32(words[unsigned(turn * batch + r)]))
            to = x + r * n_in + piece * size
            if row < 0:
                for k in range(size):
                    shared[unsigned(to + k)] = zero
            elif size == per_copy:
                copy_16(shared, unsigned(to), X, unsigned(row * n_in + piece * size))
            else:
                copy(shared, unsigned(to), X, unsigned(row * n_in + piece * size))
            r += down
            piece += right
            if piece >= pieces:
                piece -= pieces
                r += 1
        r = thread
        while r < batch:
            row = np.int64(np.int32(words[unsigned(turn * batch + r)]))
            if row < 0:
                shared[unsigned(row_weights + r)] = zero
            else:
                copy(shared, unsigned(row_weights + r), weights, unsigned(row))
                if labels:
                    copy(shared, unsigned(y + r), targets, unsigned(row))
            if not labels:
                for j in range(n_out):
                    if row < 0:
                        shared[unsigned(y + r * n_out + j)] = zero
                    else:
                        copy(shared, unsigned(y + r * n_out + j), targets, unsigned(row * n_out + j))
            if step + 1 < n_steps:
                copy(words, unsigned((1 - turn) * batch + r), rows, unsigned((step + 1) * batch + r))
            r += n_threads
        k = n_threads - 1 - thread
        while k < width:
            copy(shared, unsigned(numbers + turn * width + k), table, unsigned(step * width + k))
            k += n_threads
        if drops:
            k = n_threads - 1 - thread
            while k < MASK_WORDS:
                copy(words, unsigned(2 * batch + turn * MASK_WORDS + k), masks, unsigned(step * MASK_WORDS + k))
                k += n_threads

    @cuda.jit(device=True)
    def drop(shared: Any, words: Any, step: int, n_in: int, batch: int, x: int, numbers: int) -> None:
        """A step's inputs with dropout."""
        at = 2 * batch + step % 2 * MASK_WORDS
        threshold, key0, key1 = words[unsigned(at)], words[unsigned(at + 2)], words[unsigned(at + 3)]
        gain = shared[unsigned(numbers + step % 2 * width + gain_at)]
        for r in range(batch):
            i = cuda.threadIdx.x
            while i < n_in:
                value = shared[unsigned(x + r * n_in + i)]
                kept = bits(key0, key1, r, i, n_in) >= threshold
                shared[unsigned(x + r * n_in + i)] = value * gain if kept else zero * value
                i += cuda.blockDim.x

    # -- Sums

    def sums_by(lanes: int) -> Any:
        @cuda.jit(device=True)
        def sums(shared: Any, rows: int, length: int, weights: int, n_units: int, batch: int, inverse: int, partial: int) -> None:  # fmt: skip
            """w[u] . x[r] of rows ``(batch, length)``: lane ``l`` of unit and row ``u * batch + r`` at ``partial``, in lines of ``lanes + 1``."""
            n_groups = batch // group
            q = cuda.threadIdx.x
            while q < n_units * n_groups * lanes:
                task, lane = q // lanes, q % lanes
                u = quotient(task, inverse)
                first = (task - u * n_groups) * group
                totals = cuda.local.array(group, Float)
                for k in range(group):
                    totals[k] = zero
                x, w = rows + first * length, weights + u * length
                i = lane
                while i < length:
                    weight = shared[unsigned(w + i)]
                    for k in range(group):
                        totals[k] += shared[unsigned(x + k * length + i)] * weight
                    i += lanes
                line = partial + (u * batch + first) * (lanes + 1) + lane
                for k in range(group):
                    shared[unsigned(line + k * (lanes + 1))] = totals[k]
                q += cuda.blockDim.x

        return sums

    @cuda.jit(device=True)
    def total_of(shared: Any, at: int, stride: int, n: int) -> Any:
        """The sum of every ``stride``-th number."""
        total, k = zero, 0
        while k < n:
            total += shared[unsigned(at + k * stride)]
            k += 1
        return total

    sums_of_inputs, sums_of_hidden = sums_by(LANES), sums_by(OUTPUT_LANES)

    @cuda.jit(device=True)
    def joined(shared: Any, at: int) -> Any:
        """The sums of a row's outputs from those of its lanes."""
        top = shared[unsigned(at)]
        for lane in range(1, ROW_LANES):
            top = max(top, shared[unsigned(at + 3 * lane)])
        total, mass = zero, zero
        for lane in range(ROW_LANES):
            total += shared[unsigned(at + 3 * lane + 1)] * T(math.exp(shared[unsigned(at + 3 * lane)] - top))
            mass += shared[unsigned(at + 3 * lane + 2)]
        return top, total, mass

    @cuda.jit(device=True)
    def learn_weights(shared: Any, w: int, size: int, n_units: int, rows: int, length: int, errors: int, errors_length: int, batch: int, stride: int, inverse: int, decay: Any, c: Any) -> None:  # fmt: skip
        """The update of w ``(n_units, length)``, whose inputs were rows ``(batch, length)``; a thread has every ``stride``-th one."""
        q = cuda.threadIdx.x
        while q < n_units * stride:
            u = quotient(q, inverse)
            first = q - u * stride
            line = w + u * length
            totals = cuda.local.array(TILE, Float)
            columns = cuda.local.array(TILE, types.int64)
            for t in range(TILE):
                columns[t] = first + t * stride if first + t * stride < length else first
                totals[t] = decay * shared[unsigned(line + columns[t])]
            r = 0
            while r < batch:
                for k in range(group):
                    error = shared[unsigned(errors + (r + k) * errors_length + u)]
                    for t in range(TILE):
                        totals[t] += shared[unsigned(rows + (r + k) * length + columns[t])] * error
                r += group
            for t in range(TILE):
                if first + t * stride < length:
                    learn(shared, line + first + t * stride, size, totals[t], c)
            q += cuda.blockDim.x

    @cuda.jit(device=True)
    def learn_last(shared: Any, w2: int, b2: int, size: int, n_hidden: int, n_out: int, a: int, d2: int, batch: int, stride: int, inverse: int, c: int) -> None:  # fmt: skip
        """A step's update of the last layer, whose copies of hidden outputs and errors are still there."""
        l2 = shared[unsigned(c + l2_at)]
        learn_weights(shared, w2, size, n_out, a, n_hidden, d2, n_out, batch, stride, inverse, l2, coefficients(shared, c, 2))  # fmt: skip
        j = cuda.blockDim.x - 1 - cuda.threadIdx.x  # the last threads have the fewest weights
        while j < n_out:
            learn(shared, b2 + j, size, total_of(shared, d2 + j, n_out, batch), coefficients(shared, c, 3))
            j += cuda.blockDim.x

    @kernel(THREADS, 1)
    def steps(X: Any, targets: Any, weights: Any, state: Any, rows: Any, table: Any, masks: Any, exchange: Any, report: Any, places: Any, n_steps: int, done: int, n_in: int, n_hidden: int, n_out: int, batch: int, units: int, buffers: int) -> None:  # fmt: skip
        """Steps 0 to n_steps - 1 of the tables, or until a cost is not finite. Arrays are rows of numbers. All blocks must be there at once, as they wait for each other.

        Args:
            X, targets, weights: all rows; a row's target is its label, as a number, or ``n_out`` values.
            state: w1, b1, w2, b2, and so their slots, one after the other.
            rows, table, masks: of each step ``batch`` row indices, ``table_width`` numbers and ``MASK_WORDS`` words.
            exchange: two places for ``batch * n_hidden`` posted numbers, 0 or of earlier steps.
            report: where the costs go.
            places: ``Places``.
            done: steps before these.
        """
        shared, words = cuda.shared.array(0, Float), cuda.shared.array(0, types.uint32)
        thread, n_threads, block = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
        first = block * units
        own = min(units, n_hidden - first)
        x_at, w1, row_weights_at, y_at, table_at = places[0], places[1], places[2], places[3], places[4]
        a_at, slopes_at, d1_at, z2_at, d2_at = places[5], places[6], places[7], places[8], places[9]
        costs_at, bundles_at, share_at = places[10], places[11], places[12]
        partial_at, folded_at = places[13], places[14]
        b1 = w1 + units * n_in  # w1 is (units, n_in), w2 (n_out, n_hidden)
        w2 = b1 + units
        b2 = w2 + n_out * n_hidden
        size = units * (n_in + 1) + n_out * (n_hidden + 1)
        n_first, n_posted = n_in * n_hidden, batch * n_hidden
        n_parameters = n_first + n_hidden + n_out * n_hidden + n_out
        n_targets = 1 if labels else n_out
        piece = per_copy if n_in % per_copy == 0 else 1
        pieces, stride1, stride2 = n_in // piece, (n_in + TILE - 1) // TILE, (n_hidden + TILE - 1) // TILE
        by_stride1, by_stride2 = inverse_of(stride1), inverse_of(stride2)
        many = is_softmax and n_out > FEW_OUTPUTS
        by_pieces, by_groups, by_batch = inverse_of(pieces), inverse_of(batch // group), inverse_of(batch)

        for k in range(1 + n_slots):
            q = thread
            while q < own * n_in:
                u, i = q // n_in, q % n_in
                shared[unsigned(k * size + w1 + q)] = state[unsigned(k * n_parameters + i * n_hidden + first + u)]
                q += n_threads
            u = thread
            while u < own:
                shared[unsigned(k * size + b1 + u)] = state[unsigned(k * n_parameters + n_first + first + u)]
                u += n_threads
            q = thread
            while q < n_out * n_hidden:
                j, h = q // n_hidden, q % n_hidden
                shared[unsigned(k * size + w2 + q)] = state[
                    unsigned(k * n_parameters + n_first + n_hidden + h * n_out + j)
                ]
                q += n_threads
            j = thread
            while j < n_out:
                shared[unsigned(k * size + b2 + j)] = state[
                    unsigned(k * n_parameters + n_first + n_hidden + n_hidden * n_out + j)
                ]
                j += n_threads
        r = thread
        while r < batch and n_steps > 0:
            words[unsigned(r)] = np.uint32(rows[r])
            r += n_threads
        cuda.syncthreads()

        pending = False  # whether the last layer is still to learn what the step before has found
        for step in range(n_steps + 1):
            turn, tag = step % 2, unsigned((done + step) % LAP + 1)
            here = turn if buffers == 2 else 0
            there = 1 - turn if buffers == 2 else 0
            x, row_weights = x_at + here * batch * n_in, row_weights_at + here * batch
            y, c = y_at + here * batch * n_targets, table_at + turn * width
            if step < n_steps:
                if step == 0 or buffers == 1:
                    cuda.syncthreads()
                    fetch(X, targets, weights, rows, table, masks, shared, words, step, n_steps, n_in, n_out, batch, x, row_weights, y, table_at, piece, pieces, by_pieces)  # fmt: skip
                wait_for_copies()
            cuda.syncthreads()
            if drops_inputs and step < n_steps:
                drop(shared, words, step, n_in, batch, x, table_at)
                cuda.syncthreads()

            # Own units.
            if step < n_steps:
                sums_of_inputs(shared, x, n_in, w1, own, batch, by_groups, partial_at)
                cuda.syncthreads()
                q = thread
                while q < batch * own * FOLD:
                    pair, m = q // FOLD, q % FOLD
                    total = zero
                    for k in range(LANES // FOLD):
                        total += shared[unsigned(partial_at + pair * (LANES + 1) + m + k * FOLD)]
                    shared[unsigned(folded_at + pair * (FOLD + 1) + m)] = total
                    q += n_threads
                cuda.syncthreads()
                pair = thread
                while pair < batch * own:
                    u = quotient(pair, by_batch)
                    r = pair - u * batch
                    z = shared[unsigned(b1 + u)]
                    for m in range(FOLD):
                        z += shared[unsigned(folded_at + pair * (FOLD + 1) + m)]
                    a, slope = activate(z)
                    if drops_hidden:
                        at = 2 * batch + turn * MASK_WORDS
                        kept = bits(words[unsigned(at + 4)], words[unsigned(at + 5)], r, first + u, n_hidden) >= words[unsigned(at + 1)]  # fmt: skip
                        factor = shared[unsigned(c + gain_at + 1)] if kept else zero
                        a, slope = a * factor, slope * factor
                    post(exchange, unsigned(turn * n_posted + r * n_hidden + first + u), T(a), tag)
                    shared[unsigned(slopes_at + r * units + u)] = slope
                    pair += n_threads
                if thread == n_threads - 1:
                    mass = total_of(shared, row_weights, 1, batch)
                    shared[unsigned(share_at)] = one / mass if mass > zero else one
            # Meanwhile.
            if pending:
                learn_last(shared, w2, b2, size, n_hidden, n_out, a_at, d2_at, batch, stride2, by_stride2, table_at + (1 - turn) * width)  # fmt: skip
            cuda.syncthreads()
            if step == n_steps:
                break
            if buffers == 2 and step + 1 < n_steps:
                fetch(X, targets, weights, rows, table, masks, shared, words, step + 1, n_steps, n_in, n_out, batch, x_at + there * batch * n_in, row_weights_at + there * batch, y_at + there * batch * n_targets, table_at, piece, pieces, by_pieces)  # fmt: skip

            # Everybody's, four at a time.
            q = thread
            while q < n_posted:
                q1, q2 = min(q + n_threads, n_posted - 1), min(q + 2 * n_threads, n_posted - 1)
                q3, at = min(q + 3 * n_threads, n_posted - 1), turn * n_posted
                waiting = True
                while waiting:
                    t0, t1 = take(exchange, unsigned(at + q), zero), take(exchange, unsigned(at + q1), zero)
                    t2, t3 = take(exchange, unsigned(at + q2), zero), take(exchange, unsigned(at + q3), zero)
                    waiting = not (tagged(t0, tag) & tagged(t1, tag) & tagged(t2, tag) & tagged(t3, tag))
                shared[unsigned(a_at + q)] = number(t0, zero)
                shared[unsigned(a_at + q1)] = number(t1, zero)
                shared[unsigned(a_at + q2)] = number(t2, zero)
                shared[unsigned(a_at + q3)] = number(t3, zero)
                q += 4 * n_threads
            cuda.syncthreads()

            # Outputs: in every block the same.
            sums_of_hidden(shared, a_at, n_hidden, w2, n_out, batch, by_groups, partial_at)
            cuda.syncthreads()
            pair = thread
            while pair < batch * n_out:
                j = quotient(pair, by_batch)
                r = pair - j * batch
                z = shared[unsigned(b2 + j)]
                for lane in range(OUTPUT_LANES):
                    z += shared[unsigned(partial_at + pair * (OUTPUT_LANES + 1) + lane)]
                shared[unsigned(z2_at + r * n_out + j)] = z
                pair += n_threads
            cuda.syncthreads()
            if many:
                q = thread
                while q < batch * ROW_LANES:
                    r, lane = q // ROW_LANES, q % ROW_LANES
                    top, total, mass = summary(shared, z2_at + r * n_out, n_out, y + r * n_targets, lane, ROW_LANES)
                    shared[unsigned(partial_at + 3 * q)] = top
                    shared[unsigned(partial_at + 3 * q + 1)] = total
                    shared[unsigned(partial_at + 3 * q + 2)] = mass
                    q += n_threads
                cuda.syncthreads()
            pair = thread
            while pair < batch * n_out:
                j = quotient(pair, by_batch)
                r = pair - j * batch
                at, weight = r * n_out + j, shared[unsigned(row_weights + r)]
                error, cost = zero, zero
                if weight > zero:  # a row of weight 0 is absent
                    if many:
                        top, total, mass = joined(shared, partial_at + 3 * r * ROW_LANES)
                    else:
                        top, total, mass = summary(shared, z2_at + r * n_out, n_out, y + r * n_targets, 0, 1)
                    error, cost = judge(shared, z2_at + r * n_out, n_out, j, y + r * n_targets, top, total, mass)
                    error, cost = error * (shared[unsigned(share_at)] * weight), cost * weight
                shared[unsigned(d2_at + at)] = error
                shared[unsigned(costs_at + at)] = cost
                pair += n_threads
            cuda.syncthreads()

            # The hidden units' errors, and the cost.
            pair = thread
            while pair < batch * own:
                u = quotient(pair, by_batch)
                r = pair - u * batch
                total, j = zero, 0
                while j < n_out:
                    total += shared[unsigned(d2_at + r * n_out + j)] * shared[unsigned(w2 + j * n_hidden + first + u)]
                    j += 1
                shared[unsigned(d1_at + r * units + u)] = total * shared[unsigned(slopes_at + r * units + u)]
                pair += n_threads
            bundle = n_threads - 1 - thread
            while bundle < BUNDLES:
                total = zero
                r = bundle
                while r < batch:
                    total += total_of(shared, costs_at + r * n_out, 1, n_out)
                    r += BUNDLES
                shared[unsigned(bundles_at + bundle)] = total
                bundle += n_threads
            cuda.syncthreads()
            cost = zero
            for bundle in range(BUNDLES):
                cost += shared[unsigned(bundles_at + bundle)]
            cost *= shared[unsigned(share_at)]
            if block == 0 and thread == 0:
                report[step] = cost
            pending = math.isfinite(cost)
            if not pending:  # in all blocks, as all have the same numbers
                break

            # Learning: the first layer now, the last one when hidden outputs are on their way.
            l2 = shared[unsigned(c + l2_at)]
            learn_weights(shared, w1, size, own, x, n_in, d1_at, units, batch, stride1, by_stride1, l2, coefficients(shared, c, 0))  # fmt: skip
            u = n_threads - 1 - thread
            while u < own:
                learn(shared, b1 + u, size, total_of(shared, d1_at + u, units, batch), coefficients(shared, c, 1))
                u += n_threads
        wait_for_copies()  # of a step that is not done, after a bad one
        cuda.syncthreads()

        for k in range(1 + n_slots):
            q = thread
            while q < own * n_in:
                u, i = q // n_in, q % n_in
                state[unsigned(k * n_parameters + i * n_hidden + first + u)] = shared[unsigned(k * size + w1 + q)]
                q += n_threads
            u = thread
            while u < own:
                state[unsigned(k * n_parameters + n_first + first + u)] = shared[unsigned(k * size + b1 + u)]
                u += n_threads
            if block == 0:
                q = thread
                while q < n_out * n_hidden:
                    j, h = q // n_hidden, q % n_hidden
                    state[unsigned(k * n_parameters + n_first + n_hidden + h * n_out + j)] = shared[
                        unsigned(k * size + w2 + q)
                    ]
                    q += n_threads
                j = thread
                while j < n_out:
                    state[unsigned(k * n_parameters + n_first + n_hidden + n_hidden * n_out + j)] = shared[
                        unsigned(k * size + b2 + j)
                    ]
                    j += n_threads

    return steps
