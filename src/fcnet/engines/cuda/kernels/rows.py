"""A chunk of steps of a small network of any depth, as one kernel in which each block of threads has the whole network and some rows.

A step is

    own rows       forward and backward through all layers, within the block
    gradients      what own rows say of each parameter is posted for the block that owns it: each owns a share of all parameters, with
                   their slots
    own share      a block takes what all have posted for its share, adds it up, changes its parameters, and posts them
    all blocks     take all parameters

So numbers cross twice, however many layers there are and however large the batch is; what crosses is as much as the network has
parameters. Posted numbers have two places that are used by turns: who posts into one has taken what others could post only after
the last reader of it was done. Sums of rows, lanes and blocks have one order.
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
    activation_by_code,
    bits,
    inverse_of,
    kernel,
    quotient,
    unsigned,
)
from fcnet.engines.cuda.kernels.memory import copy, number, post, tagged, take, wait_for_copies
from fcnet.engines.cuda.kernels.updates import learn_of
from fcnet.engines.cuda.kinds import RULES, RowsKind
from fcnet.engines.cuda.layout import BUNDLES, LAP, LAYER_LINE, THREADS

DEPTH = 8
"""Posted numbers of a thread that are under way at once."""
TILE = 4
"""Parameters whose gradients a thread sums at once."""


@functools.cache
def kernel_of(kind: RowsKind) -> Any:
    """The kernel of a kind; arrays are of one dimension."""
    T, Float = NUMBERS[kind.dtype]
    zero, one = T(0.0), T(1.0)
    (rule,) = (rule for rule in RULES if rule.name == kind.rule)
    n_slots, n_coefficients = len(rule.slots), len(rule.coefficients)
    drops, labels = kind.drops, kind.labels
    activate = activation_by_code(T)
    summary, judge = judge_of(T, kind)
    coefficients, learn = learn_of(T, rule)

    @cuda.jit(device=True)
    def fetch(X: Any, targets: Any, weights: Any, rows: Any, table: Any, masks: Any, shared: Any, words: Any, step: int, n_steps: int, n_in: int, n_out: int, batch: int, first: int, tall: int, x: int, y: int, row_weights: int, numbers: int, width: int, n_words: int) -> None:  # fmt: skip
        """Begin to copy what a step brings for own rows, whose indices are here, and the indices of the step after it."""
        thread, n_threads, turn = cuda.threadIdx.x, cuda.blockDim.x, step % 2
        for r in range(tall):
            row = np.int64(np.int32(words[unsigned(turn * tall + r)])) if first + r < batch else np.int64(-1)
            i = thread
            while i < n_in:
                to = x + (turn * tall + r) * n_in + i
                if row < 0:
                    shared[unsigned(to)] = zero
                else:
                    copy(shared, unsigned(to), X, unsigned(row * n_in + i))
                i += n_threads
            n_targets = 1 if labels else n_out
            k = n_threads - 1 - thread
            while k < n_targets + 1:
                to = row_weights + turn * tall + r if k == n_targets else y + (turn * tall + r) * n_targets + k
                if row < 0:
                    shared[unsigned(to)] = zero
                elif k == n_targets:
                    copy(shared, unsigned(to), weights, unsigned(row))
                else:
                    copy(shared, unsigned(to), targets, unsigned(row * n_targets + k))
                k += n_threads
        r = thread
        while r < tall and first + r < batch and step + 1 < n_steps:
            copy(words, unsigned((1 - turn) * tall + r), rows, unsigned((step + 1) * batch + first + r))
            r += n_threads
        k = thread
        while k < width:
            copy(shared, unsigned(numbers + turn * width + k), table, unsigned(step * width + k))
            k += n_threads
        if drops:
            k = thread
            while k < n_words:
                copy(words, unsigned(2 * tall + turn * n_words + k), masks, unsigned(step * n_words + k))
                k += n_threads

    @cuda.jit(device=True)
    def factor_of(shared: Any, words: Any, at: int, n_layers: int, layer: int, gains: int, row: int, unit: int, n_units: int) -> Any:  # fmt: skip
        """What dropout multiplies an input of a layer by: its step's words begin at ``at``."""
        key = at + n_layers + 2 * layer
        kept = bits(words[unsigned(key)], words[unsigned(key + 1)], row, unit, n_units) >= words[unsigned(at + layer)]
        return shared[unsigned(gains + layer)] if kept else zero

    @cuda.jit(device=True)
    def take_some(exchange: Any, at: int, q: int, n: int, by_run: Any, skip: int, tag: Any, found: Any) -> None:
        """Of ``n`` numbers posted from ``at`` on, number ``q`` and every one a block's threads further: ``DEPTH`` are under way at once.
        After each run of them ``skip`` places are left out; ``by_run`` is the inverse of a run's length."""
        low, high = cuda.local.array(DEPTH, types.uint64), cuda.local.array(DEPTH, types.uint64)
        waiting = True
        while waiting:
            for k in range(DEPTH):
                here = min(q + k * cuda.blockDim.x, n - 1)
                low[k], high[k] = take(exchange, unsigned(at + here + quotient(here, by_run) * skip), zero)
            waiting = False
            for k in range(DEPTH):
                waiting |= not tagged((low[k], high[k]), tag)
        for k in range(DEPTH):
            found[k] = number((low[k], high[k]), zero)

    @kernel(THREADS, 1)
    def steps(X: Any, targets: Any, weights: Any, state: Any, rows: Any, table: Any, masks: Any, exchange: Any, report: Any, places: Any, layers: Any, n_steps: int, done: int, n_layers: int, batch: int, tall: int, share: int, widest: int, n_parameters: int) -> None:  # fmt: skip
        """Steps 0 to n_steps - 1 of the tables, or until a cost is not finite. All blocks must be there at once, as they wait for each other.

        Args:
            X, targets, weights: all rows; a row's target is its label, as a number, or ``n_out`` values.
            state: the parameters and their slots, one after the other.
            rows, table, masks: of each step ``batch`` row indices, ``rows_table_width`` numbers, and thresholds and keys of all layers.
            exchange: places for posted numbers, see ``exchanged``, 0 or of earlier steps.
            report: where the costs go.
            places, layers: ``RowsPlaces``; ``layers_of``, ``LAYER_LINE`` numbers a layer.
            done: steps before these.
            tall: rows of a block.
            share: parameters of a block.
            widest: units of the widest layer.
        """
        shared, words = cuda.shared.array(0, Float), cuda.shared.array(0, types.uint32)
        thread, n_threads, block, n_blocks = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x, cuda.gridDim.x
        x_at, y_at, row_weights_at, table_at = places[0], places[1], places[2], places[3]
        w_at, own_at, hidden_at, slopes_at = places[4], places[5], places[6], places[7]
        z_at, errors_at, costs_at, partial_at, taken_at, bundles_at = places[8], places[9], places[10], places[11], places[12], places[13]  # fmt: skip
        n_in, last = layers[0], (n_layers - 1) * LAYER_LINE
        n_out = layers[last + 1]
        n_targets = 1 if labels else n_out
        width, n_words = 2 * n_layers * n_coefficients + 2 + n_layers, 3 * n_layers
        first, mine = block * tall, block * share
        own = max(0, min(share, n_parameters - mine))
        by_own = inverse_of(max(1, own))
        found, sums = cuda.local.array(DEPTH, Float), cuda.local.array(TILE, Float)
        input_at, error_at = cuda.local.array(TILE, types.int64), cuda.local.array(TILE, types.int64)
        weights_from = 2 * n_blocks * n_parameters
        costs_from = weights_from + 2 * n_parameters
        lanes_of_share = max(1, min(n_blocks, n_threads // max(1, own)))
        blocks_of_lane = (n_blocks + lanes_of_share - 1) // lanes_of_share

        # Parameters, of which rows of weights have a place more where their length is even; and the own ones with their slots.
        for layer in range(n_layers):
            line = layer * LAYER_LINE
            units = layers[line + 1]
            by_units = inverse_of(units)
            q = thread
            while q < layers[line] * units + units:
                i = quotient(q, by_units)
                shared[unsigned(w_at + layers[line + 3] + i * layers[line + 4] + q - i * units)] = state[unsigned(layers[line + 2] + q)]  # fmt: skip
                q += n_threads
        k, arrays_at = thread, 2 * tall + 2 * n_words
        while k < own:
            array = 0
            while array + 1 < 2 * n_layers:  # weights of layer l are array 2 l, and its biases the next one
                line = array // 2 * LAYER_LINE
                ends = layers[line + 2] + layers[line + 1] * (layers[line] if array % 2 == 0 else layers[line] + 1)
                if mine + k < ends:
                    break
                array += 1
            words[unsigned(arrays_at + k)] = np.uint32(array)
            k += n_threads
        for k in range(1 + n_slots):
            q = thread
            while q < own:
                shared[unsigned(own_at + k * share + q)] = state[unsigned(k * n_parameters + mine + q)]
                q += n_threads
        r = thread
        while r < tall and first + r < batch and n_steps > 0:
            words[unsigned(r)] = np.uint32(rows[unsigned(first + r)])
            r += n_threads
        cuda.syncthreads()
        if n_steps > 0:
            fetch(X, targets, weights, rows, table, masks, shared, words, 0, n_steps, n_in, n_out, batch, first, tall, x_at, y_at, row_weights_at, table_at, width, n_words)  # fmt: skip

        for step in range(n_steps):
            turn, tag = step % 2, unsigned((done + step) % LAP + 1)
            x, y, row_weights = x_at + turn * tall * n_in, y_at + turn * tall * n_targets, row_weights_at + turn * tall
            c, drawn = table_at + turn * width, 2 * tall + turn * n_words
            l2_at = c + 2 * n_layers * n_coefficients
            gains = l2_at + 2
            wait_for_copies()
            cuda.syncthreads()
            if drops:
                q, by_in = thread, layers[7]
                while q < tall * n_in:
                    r = quotient(q, by_in)
                    shared[unsigned(x + q)] *= factor_of(shared, words, drawn, n_layers, 0, gains, first + r, q - r * n_in, n_in)  # fmt: skip
                    q += n_threads
                cuda.syncthreads()

            # Forward.
            inputs = x
            for layer in range(n_layers):
                line = layer * LAYER_LINE
                length, units, w, pitch = layers[line], layers[line + 1], w_at + layers[line + 3], layers[line + 4]
                lanes, inputs_of_lane = layers[line + 9], layers[line + 11]
                by_lanes, by_units = layers[line + 10], layers[line + 8]
                q = thread
                while q < tall * units * lanes:  # units side by side, which read weights side by side
                    task = quotient(q, by_units)
                    j = q - task * units
                    r = quotient(task, by_lanes)
                    i = (task - r * lanes) * inputs_of_lane
                    total, end = zero, min(length, i + inputs_of_lane)
                    while i < end:
                        total += shared[unsigned(inputs + r * length + i)] * shared[unsigned(w + i * pitch + j)]
                        i += 1
                    shared[unsigned(partial_at + q)] = total
                    q += n_threads
                cuda.syncthreads()
                outputs, slopes = hidden_at + layers[line + 6], slopes_at + layers[line + 6]
                q = thread
                while q < tall * units:
                    r = quotient(q, by_units)
                    j = q - r * units
                    z, lane = shared[unsigned(w + length * pitch + j)], 0
                    while lane < lanes:
                        z += shared[unsigned(partial_at + (r * lanes + lane) * units + j)]
                        lane += 1
                    if layer == n_layers - 1:
                        shared[unsigned(z_at + q)] = z
                    else:
                        a, slope = activate(layers[line + 5], z)
                        if drops:
                            factor = factor_of(shared, words, drawn, n_layers, layer + 1, gains, first + r, j, units)
                            a, slope = a * factor, slope * factor
                        shared[unsigned(outputs + q)] = a
                        shared[unsigned(slopes + q)] = slope
                    q += n_threads
                cuda.syncthreads()
                inputs = outputs

            # Errors of own rows' outputs, and their cost.
            q, by_out = thread, layers[last + 8]
            while q < tall * n_out:
                r = quotient(q, by_out)
                weight = shared[unsigned(row_weights + r)]
                error, cost = zero, zero
                if weight > zero:  # a row of weight 0 is absent
                    top, total, mass = summary(shared, z_at + r * n_out, n_out, y + r * n_targets, 0, 1)
                    error, cost = judge(shared, z_at + r * n_out, n_out, q - r * n_out, y + r * n_targets, top, total, mass)  # fmt: skip
                    error, cost = error * (shared[unsigned(l2_at + 1)] * weight), cost * weight
                shared[unsigned(errors_at + q)] = error
                shared[unsigned(costs_at + q)] = cost
                q += n_threads
            cuda.syncthreads()
            if thread == n_threads - 1:
                cost = zero
                for q in range(tall * n_out):
                    cost += shared[unsigned(costs_at + q)]
                post(exchange, unsigned(costs_from + turn * n_blocks + block), T(cost), tag)

            # Backward.
            errors, other = errors_at, errors_at + tall * widest
            layer = n_layers - 1
            while layer >= 0:
                line = layer * LAYER_LINE
                length, units, w, pitch = layers[line], layers[line + 1], w_at + layers[line + 3], layers[line + 4]
                inputs = x if layer == 0 else hidden_at + layers[line - LAYER_LINE + 6]
                by_units, n, said = layers[line + 8], (length + 1) * units, (turn * n_blocks + block) * n_parameters + layers[line + 2]  # fmt: skip
                q = thread
                while q < n:  # weights, and biases as of an input that is 1
                    for k in range(TILE):
                        p = min(q + k * n_threads, n - 1)
                        i = quotient(p, by_units)
                        input_at[k] = inputs + i if i < length else -1
                        error_at[k], sums[k] = errors + p - i * units, zero
                    r = 0
                    while r < tall:
                        for k in range(TILE):
                            a = shared[unsigned(input_at[k] + r * length)] if input_at[k] >= 0 else one
                            sums[k] += a * shared[unsigned(error_at[k] + r * units)]
                        r += 1
                    for k in range(TILE):
                        if q + k * n_threads < n:
                            post(exchange, unsigned(said + q + k * n_threads), T(sums[k]), tag)
                    q += TILE * n_threads
                if layer > 0:
                    by_length, slopes = layers[line + 7], slopes_at + layers[line - LAYER_LINE + 6]
                    q = thread
                    while q < tall * length:
                        r = quotient(q, by_length)
                        i = q - r * length
                        total, j = zero, 0
                        while j < units:
                            total += shared[unsigned(errors + r * units + j)] * shared[unsigned(w + i * pitch + j)]
                            j += 1
                        shared[unsigned(other + q)] = total * shared[unsigned(slopes + q)]
                        q += n_threads
                    cuda.syncthreads()
                    errors, other = other, errors
                layer -= 1
            if step + 1 < n_steps:
                fetch(X, targets, weights, rows, table, masks, shared, words, step + 1, n_steps, n_in, n_out, batch, first, tall, x_at, y_at, row_weights_at, table_at, width, n_words)  # fmt: skip

            # What all say of the own share, and the cost: the same sum in all blocks.
            q = thread
            while q < n_blocks:
                take_some(exchange, costs_from + turn * n_blocks, q, n_blocks, 0, 0, tag, found)
                for k in range(DEPTH):
                    if q + k * n_threads < n_blocks:
                        shared[unsigned(bundles_at + BUNDLES + q + k * n_threads)] = found[k]
                q += DEPTH * n_threads
            q = thread
            while q < n_blocks * own:
                take_some(exchange, turn * n_blocks * n_parameters + mine, q, n_blocks * own, by_own, n_parameters - own, tag, found)  # fmt: skip
                for k in range(DEPTH):
                    if q + k * n_threads < n_blocks * own:
                        shared[unsigned(taken_at + q + k * n_threads)] = found[k]
                q += DEPTH * n_threads
            cuda.syncthreads()
            bundle = n_threads - 1 - thread  # the last threads have the fewest parameters
            while bundle < BUNDLES:
                total, b = zero, bundle
                while b < n_blocks:
                    total += shared[unsigned(bundles_at + BUNDLES + b)]
                    b += BUNDLES
                shared[unsigned(bundles_at + bundle)] = total
                bundle += n_threads
            q = thread
            while q < own * lanes_of_share:  # parameters side by side
                lane = quotient(q, by_own)
                total, b = zero, lane * blocks_of_lane
                end = min(n_blocks, b + blocks_of_lane)
                while b < end:
                    total += shared[unsigned(taken_at + b * own + q - lane * own)]
                    b += 1
                shared[unsigned(partial_at + q)] = total
                q += n_threads
            cuda.syncthreads()
            cost = zero
            for bundle in range(BUNDLES):
                cost += shared[unsigned(bundles_at + bundle)]
            cost *= shared[unsigned(l2_at + 1)]
            if block == 0 and thread == 0:
                report[step] = cost
            if not math.isfinite(cost):  # in all blocks, as all have the same numbers
                break
            k = thread
            while k < own:
                array, g = np.int64(words[unsigned(arrays_at + k)]), zero
                for lane in range(lanes_of_share):
                    g += shared[unsigned(partial_at + lane * own + k)]
                if array % 2 == 0:
                    g += shared[unsigned(l2_at)] * shared[unsigned(own_at + k)]
                learn(shared, own_at + k, share, g, coefficients(shared, c, array))
                post(
                    exchange, unsigned(weights_from + turn * n_parameters + mine + k), shared[unsigned(own_at + k)], tag
                )
                k += n_threads

            # Everybody's parameters.
            if step + 1 < n_steps:
                for layer in range(n_layers):
                    line = layer * LAYER_LINE
                    units, w, pitch, by_units = (
                        layers[line + 1],
                        w_at + layers[line + 3],
                        layers[line + 4],
                        layers[line + 8],
                    )
                    n, at = (layers[line] + 1) * units, weights_from + turn * n_parameters + layers[line + 2]
                    q = thread
                    while q < n:
                        take_some(exchange, at, q, n, 0, 0, tag, found)
                        for k in range(DEPTH):
                            here = q + k * n_threads
                            if here < n:
                                shared[unsigned(w + here + quotient(here, by_units) * (pitch - units))] = found[k]
                        q += DEPTH * n_threads
        wait_for_copies()  # of a step that is not done, after a bad one
        cuda.syncthreads()

        for k in range(1 + n_slots):
            q = thread
            while q < own:
                state[unsigned(k * n_parameters + mine + q)] = shared[unsigned(own_at + k * share + q)]
                q += n_threads

    return steps
