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
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda, types

from fcnet import activations, costs, optimizers
from fcnet.activations import Activation
from fcnet.engines.contract import Program

LANES, OUTPUT_LANES = 32, 8
"""Threads that share a sum over inputs, and one over hidden units."""
WARP = 32

Number = Any
"""A float of the program's type."""

unsigned = np.uint64
"""Indices into shared memory: whether a signed one counts from the end, Numba looks at every access; in 32 bits, sums of them might wrap."""


@cuda.jit(device=True)
def divided(number: int, by: int) -> Any:
    """Quotient and remainder of numbers that are not negative, in 32 bits, where a GPU divides several times faster."""
    quotient = np.int64(np.uint32(number) // np.uint32(by))
    return quotient, number - quotient * by


# --- Activations and costs, one number or one row at a time -------------------------------------------------------------


def _activation_of(T: Any, activation: Activation) -> Callable[[Number], tuple[Number, Number]]:
    """z -> f(z), f'(z)."""
    zero, one, half = T(0.0), T(1.0), T(0.5)
    leak, root_half, density = T(activations.LEAK), T(math.sqrt(0.5)), T(1.0 / math.sqrt(2.0 * math.pi))

    @cuda.jit(device=True)
    def sigmoid(z: Number) -> Any:
        a = half * (T(math.tanh(half * z)) + one)
        return a, a * (one - a)

    @cuda.jit(device=True)
    def tanh(z: Number) -> Any:
        a = T(math.tanh(z))
        return a, one - a * a

    @cuda.jit(device=True)
    def relu(z: Number) -> Any:
        return (z if z > zero else zero + (z - z)), (one if z > zero else zero)

    @cuda.jit(device=True)
    def leaky_relu(z: Number) -> Any:
        return (z if z > zero else leak * z), (one if z > zero else leak)

    @cuda.jit(device=True)
    def elu(z: Number) -> Any:
        below = z if z < zero else zero
        return (z if z > zero else T(math.expm1(below))), (one if z > zero else T(math.exp(below)))

    @cuda.jit(device=True)
    def silu(z: Number) -> Any:
        a = half * (T(math.tanh(half * z)) + one)
        return z * a, a * (one + z * (one - a))

    @cuda.jit(device=True)
    def gelu(z: Number) -> Any:
        below = half * (one + T(math.erf(z * root_half)))
        return z * below, below + z * T(math.exp(-half * z * z)) * density

    @cuda.jit(device=True)
    def linear(z: Number) -> Any:
        return z, one

    kernels = {"sigmoid": sigmoid, "tanh": tanh, "relu": relu, "leaky_relu": leaky_relu, "elu": elu, "silu": silu}
    return (kernels | {"gelu": gelu, "linear": linear})[activation.name]


ACTIVATIONS = (
    activations.sigmoid,
    activations.tanh,
    activations.relu,
    activations.leaky_relu,
    activations.elu,
    activations.silu,
    activations.gelu,
    activations.linear,
)
"""Of hidden layers, and of a last layer with the quadratic cost."""
COSTS = (costs.log_likelihood, costs.cross_entropy, costs.quadratic)
RULES = (optimizers.SGD_RULE, optimizers.MOMENTUM_RULE, optimizers.NESTEROV_RULE, optimizers.ADAM_RULE)


def _judge_of(T: Any, program: Program) -> Callable[..., Number]:
    """(numbers, at, n, targets, row, label): weighted inputs of a row at ``at`` become its errors; its cost is returned.

    ``label`` is the row's class, or -1 where its targets are row ``row`` of ``targets``.
    """
    zero, one, half = T(0.0), T(1.0), T(0.5)
    last = program.model.layers[-1].activation_fn
    activate = _activation_of(T, last if last in ACTIVATIONS else activations.linear)  # softmax has its cost

    @cuda.jit(device=True)
    def target(targets: Any, row: int, label: int, j: int) -> Number:
        if label >= 0:
            return one if j == label else zero
        return targets[row, j]

    @cuda.jit(device=True)
    def log_likelihood(numbers: Any, at: int, n: int, targets: Any, row: int, label: int) -> Number:
        top = numbers[unsigned(at)]
        for j in range(n):
            top = numbers[unsigned(at + j)] if numbers[unsigned(at + j)] > top else top
        total, mass, dot = zero, zero, zero
        for j in range(n):
            x, y = numbers[unsigned(at + j)] - top, target(targets, row, label, j)
            total += T(math.exp(x))
            mass += y
            dot += y * x
        for j in range(n):
            a = T(math.exp(numbers[unsigned(at + j)] - top)) / total
            numbers[unsigned(at + j)] = mass * a - target(targets, row, label, j)
        return mass * T(math.log(total)) - dot

    @cuda.jit(device=True)
    def cross_entropy(numbers: Any, at: int, n: int, targets: Any, row: int, label: int) -> Number:
        total = zero
        for j in range(n):
            z, y = numbers[unsigned(at + j)], target(targets, row, label, j)
            total += (z if z > zero else zero) - z * y + T(math.log1p(T(math.exp(-abs(z)))))
            numbers[unsigned(at + j)] = half * (T(math.tanh(half * z)) + one) - y
        return total

    @cuda.jit(device=True)
    def quadratic(numbers: Any, at: int, n: int, targets: Any, row: int, label: int) -> Number:
        total = zero
        for j in range(n):
            a, slope = activate(numbers[unsigned(at + j)])
            error = a - target(targets, row, label, j)
            total += half * error * error
            numbers[unsigned(at + j)] = error * slope
        return total

    return {"log_likelihood": log_likelihood, "cross_entropy": cross_entropy, "quadratic": quadratic}[program.cost.name]


def _learn_of(T: Any, program: Program) -> Callable[..., None]:
    """(numbers, at, size, g, c, step, own): the update of the parameter at ``at``, whose slots lie ``size`` and ``2 * size`` on.

    ``own`` is the array's place in the model's order, which has coefficients of its own.
    """

    @cuda.jit(device=True)
    def sgd(numbers: Any, at: int, size: int, g: Number, c: Any, step: int, own: int) -> None:
        numbers[unsigned(at)] -= c[step, own, 0] * g

    @cuda.jit(device=True)
    def momentum(numbers: Any, at: int, size: int, g: Number, c: Any, step: int, own: int) -> None:
        velocity = c[step, own, 1] * numbers[unsigned(at + size)] - c[step, own, 0] * g
        numbers[unsigned(at + size)] = velocity
        numbers[unsigned(at)] += velocity

    @cuda.jit(device=True)
    def nesterov(numbers: Any, at: int, size: int, g: Number, c: Any, step: int, own: int) -> None:
        velocity = c[step, own, 1] * numbers[unsigned(at + size)] - c[step, own, 0] * g
        numbers[unsigned(at + size)] = velocity
        numbers[unsigned(at)] += c[step, own, 1] * velocity - c[step, own, 0] * g

    @cuda.jit(device=True)
    def adam(numbers: Any, at: int, size: int, g: Number, c: Any, step: int, own: int) -> None:
        w = numbers[unsigned(at)]
        first = c[step, own, 1] * numbers[unsigned(at + size)] + c[step, own, 2] * g
        second = c[step, own, 3] * numbers[unsigned(at + 2 * size)] + c[step, own, 4] * g * g
        numbers[unsigned(at + size)], numbers[unsigned(at + 2 * size)] = first, second
        change = (
            c[step, own, 0] * (first * c[step, own, 6]) / (T(math.sqrt(second * c[step, own, 7])) + c[step, own, 5])
        )
        numbers[unsigned(at)] = w - (change + c[step, own, 8] * w)

    return {"sgd": sgd, "momentum": momentum, "nesterov": nesterov, "adam": adam}[program.rule.name]


# --- Random bits: ``fcnet.counters`` ------------------------------------------------------------------------------------


@cuda.jit(device=True)
def _rotated(x: Any, distance: int) -> Any:
    return np.uint32(np.uint32(x << np.uint32(distance)) | np.uint32(x >> np.uint32(32 - distance)))


@cuda.jit(device=True)
def _mixed(x0: Any, x1: Any, a: int, b: int, c: int, d: int) -> Any:
    """Four rounds of Threefry-2x32."""
    x0 = np.uint32(x0 + x1)
    x1 = np.uint32(_rotated(x1, a) ^ x0)
    x0 = np.uint32(x0 + x1)
    x1 = np.uint32(_rotated(x1, b) ^ x0)
    x0 = np.uint32(x0 + x1)
    x1 = np.uint32(_rotated(x1, c) ^ x0)
    x0 = np.uint32(x0 + x1)
    x1 = np.uint32(_rotated(x1, d) ^ x0)
    return x0, x1


@cuda.jit(device=True)
def bits(key0: Any, key1: Any, row: int, unit: int, n_units: int) -> Any:
    """The random bits of a unit of a row; the second half of the units takes the second words of the first half's counters."""
    half = (n_units + 1) // 2
    k0, k1 = np.uint32(key0), np.uint32(key1)
    k2 = np.uint32(k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = np.uint32(np.uint32(row) + k0), np.uint32(np.uint32(unit % half) + k1)
    x0, x1 = _mixed(x0, x1, 13, 15, 26, 6)
    x0, x1 = np.uint32(x0 + k1), np.uint32(x1 + k2 + np.uint32(1))
    x0, x1 = _mixed(x0, x1, 17, 29, 16, 24)
    x0, x1 = np.uint32(x0 + k2), np.uint32(x1 + k0 + np.uint32(2))
    x0, x1 = _mixed(x0, x1, 13, 15, 26, 6)
    x0, x1 = np.uint32(x0 + k0), np.uint32(x1 + k1 + np.uint32(3))
    x0, x1 = _mixed(x0, x1, 17, 29, 16, 24)
    x0, x1 = np.uint32(x0 + k1), np.uint32(x1 + k2 + np.uint32(4))
    x0, x1 = _mixed(x0, x1, 13, 15, 26, 6)
    x0, x1 = np.uint32(x0 + k2), np.uint32(x1 + k0 + np.uint32(5))
    return x0 if unit < half else x1


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
    """The kernel of a program, for targets that are labels or values; Numba compiles it when it is first launched."""
    kinds: dict[str, Any] = {"float32": (np.float32, types.float32), "float64": (np.float64, types.float64)}
    T, kind = kinds[program.dtype]
    zero, one = T(0.0), T(1.0)
    n_slots = len(program.rule.slots)
    hidden, last = program.model.layers
    drops_inputs, drops_hidden = bool(hidden.p_dropout), bool(last.p_dropout)
    activate, judge, learn = _activation_of(T, hidden.activation_fn), _judge_of(T, program), _learn_of(T, program)

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

    @cuda.jit
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
