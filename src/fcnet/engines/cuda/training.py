"""A chunk of steps of a network with one hidden layer, as one kernel whose weights never leave the chip.

Each block of threads owns some hidden units: the first layer's weights into them lie in its shared memory, with the whole of the
small last layer. A step is

    own units      a = f(x . w1 + b1), with dropout, into global memory for all
    all blocks     meet: the one barrier over the grid
    outputs        every block computes all outputs and their errors for itself, from all hidden outputs
    learning       every block changes its own part of the first layer, and its copy of the last one

The exchange of hidden outputs has two places that are used by turns: who writes one place is past the barrier after which
the last reader of it was done. All blocks compute the same numbers of the last layer in the same order, so their copies stay
the same to the bit, and all see a bad step at once. Nothing is added up in an order that changes from run to run.

Loops are ``while`` loops, since a ``range`` whose step Numba does not know divides before it begins.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from numba import cuda

from fcnet.engines.contract import Program
from fcnet.engines.cuda.costs import judge_of
from fcnet.engines.cuda.elementary import NUMBERS, activation_of, bits, divided, unsigned
from fcnet.engines.cuda.updates import learn_of

LANES, OUTPUT_LANES = 32, 8
"""Threads that share a sum over inputs, and one over hidden units."""
WARP = 32

# --- Shared memory ------------------------------------------------------------------------------------------------------


def block_parameters(n_in: int, n_out: int, n_hidden: int, units: int) -> int:
    """Parameters that lie in a block's shared memory: the first layer's of its units, and the last layer's."""
    return units * (n_in + 1) + n_out * (n_hidden + 1)


def shared_numbers(sizes: tuple[int, int, int], batch: int, units: int, n_slots: int, buffers: int) -> int:
    """Numbers of a block's shared memory, in the order in which ``steps`` lays them out.

    Args:
        sizes: inputs, hidden units, outputs.
        batch: rows of a mini-batch.
        units: hidden units that a block owns.
        n_slots: arrays of the update rule.
        buffers: places for a batch's rows.
    """
    n_in, n_hidden, n_out = sizes
    partial = max(batch * units * (LANES + 1), batch * n_out * (OUTPUT_LANES + 1))
    rows = buffers * batch * (n_in + 1) + batch * (n_hidden + 2 * units + n_out + 1)
    return (1 + n_slots) * block_parameters(n_in, n_out, n_hidden, units) + rows + partial


# --- The kernel ---------------------------------------------------------------------------------------------------------


@functools.cache
def kernel_of(program: Program, labels: bool) -> Any:
    """The kernel of a program, for targets that are labels or values; Numba compiles it when it is first launched, and keeps it on disk."""
    T, kind = NUMBERS[program.dtype]
    zero, one = T(0.0), T(1.0)
    n_slots = len(program.rule.slots)
    hidden, last = program.model.layers
    drops_inputs, drops_hidden = bool(hidden.p_dropout), bool(last.p_dropout)
    activate, judge, learn = activation_of(T, hidden.activation_fn), judge_of(T, program), learn_of(T, program)

    @cuda.jit(device=True)
    def stage(X: Any, weights: Any, rows: Any, gain: Any, thresholds: Any, keys: Any, step: int, batch: int, n_in: int, shared: Any, x_at: int, weights_at: int, thread: int, n_threads: int) -> None:  # fmt: skip
        """A step's rows and their weights into shared memory, by threads ``thread``, ``thread + n_threads``, ..."""
        for r in range(batch):
            row = rows[step, r]
            if thread == 0:
                shared[unsigned(weights_at + r)] = weights[row] if row >= 0 else zero
            i = thread
            while i < n_in:
                x = X[row, i] if row >= 0 else zero
                if drops_inputs:
                    kept = bits(keys[step, 0, 0], keys[step, 0, 1], r, i, n_in) >= thresholds[step, 0]
                    x = x * gain[step, 0] if kept else zero * x
                shared[unsigned(x_at + r * n_in + i)] = x
                i += n_threads

    @cuda.jit(cache=True)
    def steps(X: Any, y: Any, targets: Any, weights: Any, state: Any, rows: Any, c: Any, l2: Any, gain: Any, thresholds: Any, keys: Any, exchange: Any, report: Any, n_steps: int, n_in: int, n_hidden: int, n_out: int, batch: int, units: int, buffers: int) -> None:  # fmt: skip
        """Steps 0 to n_steps - 1 of the tables, or until a cost is not finite.

        Args:
            X, y, targets, weights: all rows; labels ``(n_rows,)`` or values ``(n_rows, n_out)``, the other one empty.
            state: ``(1 + n_slots, n_parameters)``: w1, b1, w2, b2 in one row, and so their slots.
            exchange: ``(2, batch * n_hidden)``.
            report: ``(n_steps,)``, where the costs go.
        """
        shared = cuda.shared.array(0, kind)
        grid = cuda.cg.this_grid()
        thread, n_threads, block = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
        first = block * units
        own = min(units, n_hidden - first)
        w1, b1 = 0, units * n_in  # (units, n_in), (units,)
        w2, b2 = b1 + units, b1 + units + n_out * n_hidden  # (n_out, n_hidden), (n_out,)
        size = b2 + n_out
        x_at = (1 + n_slots) * size
        weights_at = x_at + buffers * batch * n_in
        a_at = weights_at + buffers * batch
        slopes_at = a_at + batch * n_hidden
        d1_at = slopes_at + batch * units
        d2_at = d1_at + batch * units
        costs_at = d2_at + batch * n_out
        partial_at = costs_at + batch
        n_first = n_in * n_hidden

        for k in range(1 + n_slots):
            q = thread
            while q < own * n_in:
                u, i = divided(q, n_in)
                shared[unsigned(k * size + w1 + q)] = state[k, i * n_hidden + first + u]
                q += n_threads
            u = thread
            while u < own:
                shared[unsigned(k * size + b1 + u)] = state[k, n_first + first + u]
                u += n_threads
            q = thread
            while q < n_out * n_hidden:
                j, h = divided(q, n_hidden)
                shared[unsigned(k * size + w2 + q)] = state[k, n_first + n_hidden + h * n_out + j]
                q += n_threads
            j = thread
            while j < n_out:
                shared[unsigned(k * size + b2 + j)] = state[k, n_first + n_hidden + n_hidden * n_out + j]
                j += n_threads
        if n_steps > 0:
            stage(X, weights, rows, gain, thresholds, keys, 0, batch, n_in, shared, x_at, weights_at, thread, n_threads)
        cuda.syncthreads()

        for step in range(n_steps):
            turn = step % 2
            x = x_at + (turn * batch * n_in if buffers == 2 else 0)
            row_weights = weights_at + (turn * batch if buffers == 2 else 0)

            # Own units: sums over inputs, some by each lane, then lane by lane.
            q = thread
            while q < batch * own * LANES:
                pair, lane = q // LANES, q % LANES
                r, u = divided(pair, own)
                total = zero
                i = lane
                while i < n_in:
                    total += shared[unsigned(x + r * n_in + i)] * shared[unsigned(w1 + u * n_in + i)]
                    i += LANES
                shared[unsigned(partial_at + pair * (LANES + 1) + lane)] = total
                q += n_threads
            cuda.syncthreads()
            pair = thread
            while pair < batch * own:
                r, u = divided(pair, own)
                z = shared[unsigned(b1 + u)]
                for lane in range(LANES):
                    z += shared[unsigned(partial_at + pair * (LANES + 1) + lane)]
                a, slope = activate(z)
                if drops_hidden:
                    kept = bits(keys[step, 1, 0], keys[step, 1, 1], r, first + u, n_hidden) >= thresholds[step, 1]
                    factor = gain[step, 1] if kept else zero
                    a, slope = a * factor, slope * factor
                shared[unsigned(slopes_at + r * units + u)] = slope
                exchange[turn, r * n_hidden + first + u] = a
                pair += n_threads

            grid.sync()

            # Outputs: in every block the same.
            q = thread
            while q < batch * n_hidden:
                shared[unsigned(a_at + q)] = exchange[turn, q]
                q += n_threads
            cuda.syncthreads()
            q = thread
            while q < batch * n_out * OUTPUT_LANES:
                pair, lane = q // OUTPUT_LANES, q % OUTPUT_LANES
                r, j = divided(pair, n_out)
                total = zero
                h = lane
                while h < n_hidden:
                    total += shared[unsigned(a_at + r * n_hidden + h)] * shared[unsigned(w2 + j * n_hidden + h)]
                    h += OUTPUT_LANES
                shared[unsigned(partial_at + pair * (OUTPUT_LANES + 1) + lane)] = total
                q += n_threads
            cuda.syncthreads()
            pair = thread
            while pair < batch * n_out:
                z = shared[unsigned(b2 + divided(pair, n_out)[1])]
                for lane in range(OUTPUT_LANES):
                    z += shared[unsigned(partial_at + pair * (OUTPUT_LANES + 1) + lane)]
                shared[unsigned(d2_at + pair)] = z
                pair += n_threads
            cuda.syncthreads()
            mass = zero
            for r in range(batch):
                mass += shared[unsigned(row_weights + r)]
            share = one / mass if mass > zero else one
            r = thread
            while r < batch:
                row, weight = rows[step, r], shared[unsigned(row_weights + r)]
                shared[unsigned(costs_at + r)] = zero
                if weight > zero:  # a row of weight 0 is absent
                    label = y[row] if labels else -1
                    cost = judge(shared, d2_at + r * n_out, n_out, targets, row, label)
                    shared[unsigned(costs_at + r)] = cost * weight
                for j in range(n_out):
                    d = d2_at + r * n_out + j
                    shared[unsigned(d)] = shared[unsigned(d)] * (share * weight) if weight > zero else zero
                r += n_threads
            # Meanwhile the threads that judge no row fetch the next step's rows.
            if buffers == 2 and step + 1 < n_steps:
                idle = n_threads > 2 * WARP and batch <= WARP
                if not idle:
                    stage(X, weights, rows, gain, thresholds, keys, step + 1, batch, n_in, shared, x_at + (1 - turn) * batch * n_in, weights_at + (1 - turn) * batch, thread, n_threads)  # fmt: skip
                elif thread >= WARP:
                    stage(X, weights, rows, gain, thresholds, keys, step + 1, batch, n_in, shared, x_at + (1 - turn) * batch * n_in, weights_at + (1 - turn) * batch, thread - WARP, n_threads - WARP)  # fmt: skip
            cuda.syncthreads()
            cost = zero
            for r in range(batch):
                cost += shared[unsigned(costs_at + r)]
            cost *= share
            if block == 0 and thread == 0:
                report[step] = cost
            if not math.isfinite(cost):  # in all blocks, as all have the same numbers
                break

            # Learning.
            pair = thread
            while pair < batch * own:
                r, u = divided(pair, own)
                total = zero
                for j in range(n_out):
                    total += shared[unsigned(d2_at + r * n_out + j)] * shared[unsigned(w2 + j * n_hidden + first + u)]
                shared[unsigned(d1_at + r * units + u)] = total * shared[unsigned(slopes_at + r * units + u)]
                pair += n_threads
            cuda.syncthreads()
            q = thread
            while q < n_out * n_hidden:
                j, h = divided(q, n_hidden)
                g = l2[step] * shared[unsigned(w2 + q)]
                for r in range(batch):
                    g += shared[unsigned(a_at + r * n_hidden + h)] * shared[unsigned(d2_at + r * n_out + j)]
                learn(shared, w2 + q, size, g, c, step, 2)
                q += n_threads
            j = thread
            while j < n_out:
                g = zero
                for r in range(batch):
                    g += shared[unsigned(d2_at + r * n_out + j)]
                learn(shared, b2 + j, size, g, c, step, 3)
                j += n_threads
            for u in range(own):
                i = thread
                while i < n_in:
                    g = l2[step] * shared[unsigned(w1 + u * n_in + i)]
                    for r in range(batch):
                        g += shared[unsigned(x + r * n_in + i)] * shared[unsigned(d1_at + r * units + u)]
                    learn(shared, w1 + u * n_in + i, size, g, c, step, 0)
                    i += n_threads
            u = thread
            while u < own:
                g = zero
                for r in range(batch):
                    g += shared[unsigned(d1_at + r * units + u)]
                learn(shared, b1 + u, size, g, c, step, 1)
                u += n_threads
            cuda.syncthreads()
            if buffers == 1 and step + 1 < n_steps:
                stage(X, weights, rows, gain, thresholds, keys, step + 1, batch, n_in, shared, x_at, weights_at, thread, n_threads)  # fmt: skip
                cuda.syncthreads()

        for k in range(1 + n_slots):
            q = thread
            while q < own * n_in:
                u, i = divided(q, n_in)
                state[k, i * n_hidden + first + u] = shared[unsigned(k * size + w1 + q)]
                q += n_threads
            u = thread
            while u < own:
                state[k, n_first + first + u] = shared[unsigned(k * size + b1 + u)]
                u += n_threads
            if block == 0:
                q = thread
                while q < n_out * n_hidden:
                    j, h = divided(q, n_hidden)
                    state[k, n_first + n_hidden + h * n_out + j] = shared[unsigned(k * size + w2 + q)]
                    q += n_threads
                j = thread
                while j < n_out:
                    state[k, n_first + n_hidden + n_hidden * n_out + j] = shared[unsigned(k * size + b2 + j)]
                    j += n_threads

    return steps
