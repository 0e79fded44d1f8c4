"""What the kernels compute with: indices, activations, and the random bits of ``fcnet.counters``, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda, types

from fcnet import activations
from fcnet.engines.cuda import layout
from fcnet.engines.cuda.kernels import memory
from fcnet.engines.cuda.kinds import ACTIVATIONS

Number = Any
"""A float of the program's type."""
NUMBERS: dict[str, Any] = {"float32": (np.float32, types.float32), "float64": (np.float64, types.float64)}
"""A program's type -> NumPy's, with which kernels make numbers, and Numba's."""

unsigned = np.uint64
"""Indices into shared memory: whether a signed one counts from the end, Numba looks at every access; in 32 bits, sums of them might wrap."""


def kernel(threads: int, blocks: int) -> Any:
    """``cuda.jit`` for a kernel of up to so many threads in a block, so many blocks of which a multiprocessor can take.

    A compiler that knows them has loads under way one after the other before the first number is used; else it saves registers, and
    waits for each.
    """
    bounds = {"launch_bounds": (threads, blocks)} if memory.compiles else {}  # simulators have no word for it
    return cuda.jit(**bounds)


@cuda.jit(device=True)
def divided(number: int, by: int) -> Any:
    """Quotient and remainder of numbers that are not negative, in 32 bits, where a GPU divides several times faster."""
    quotient = np.int64(np.uint32(number) // np.uint32(by))
    return quotient, number - quotient * by


inverse_of = cuda.jit(device=True)(layout.inverse_of)
"""What ``quotient`` divides by."""


@cuda.jit(device=True)
def quotient(number: int, inverse: int) -> Any:
    """``number // by`` in a multiplication: exact while ``number * by < 2**32``, as for any two sizes of shared memory."""
    return (number * inverse) >> 32


# --- Activations -------------------------------------------------------------------------------------------------------


def activation_of(T: Any, name: str) -> Callable[[Number], tuple[Number, Number]]:
    """z -> f(z), f'(z), of the activation of that name."""
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
    return (kernels | {"gelu": gelu, "linear": linear})[name]


def activation_by_code(T: Any) -> Callable[[int, Number], tuple[Number, Number]]:
    """(code, z) -> f(z), f'(z), of ``ACTIVATIONS[code]``; where a code is none of theirs, z and 1."""
    one = T(1.0)
    sigmoid, tanh, relu, leaky_relu, elu, silu, gelu, _ = (
        activation_of(T, activation.name) for activation in ACTIVATIONS
    )

    @cuda.jit(device=True)
    def activate(code: int, z: Number) -> Any:
        if code == 0:
            return sigmoid(z)
        if code == 1:
            return tanh(z)
        if code == 2:
            return relu(z)
        if code == 3:
            return leaky_relu(z)
        if code == 4:
            return elu(z)
        if code == 5:
            return silu(z)
        if code == 6:
            return gelu(z)
        return z, one

    return activate


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
