"""Activation functions, softmax and dropout masks, in operations that LLVM turns into vectors.

The same functions as ``fcnet.activations`` and the same draws as ``fcnet.counters``, with exp written out because the C
library's is not vectorised.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from fcnet.engines.native.codes import (
    ELU,
    EXPONENTIAL,
    GELU,
    LEAKY_RELU,
    MISH,
    RELU,
    SELU,
    SIGMOID,
    SILU,
    SOFTPLUS,
    TANH,
)
from fcnet.engines.native.hints import Numbers
from fcnet.engines.native.kernels.linking import jit, kernel
from fcnet.engines.native.kernels.vectors import power_of_two, split_power


@jit(fastmath={"contract"})
def _exp32(x: Any) -> Any:
    x = np.float32(-87.0) if x < np.float32(-87.0) else x
    x = np.float32(88.0) if x > np.float32(88.0) else x
    # NumPy's floor, since math's integer would make all that follows float64
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375)
    r = r - n * np.float32(-2.12194440e-4)
    p = np.float32(1.0 / 5040.0)
    p = p * r + np.float32(1.0 / 720.0)
    p = p * r + np.float32(1.0 / 120.0)
    p = p * r + np.float32(1.0 / 24.0)
    p = p * r + np.float32(1.0 / 6.0)
    p = p * r + np.float32(0.5)
    return (p * r * r + r + np.float32(1.0)) * power_of_two(np.int32(n), x)


@jit(fastmath={"contract"})
def _exp64(x: Any) -> Any:
    x = -708.0 if x < -708.0 else x
    x = 709.0 if x > 709.0 else x
    n = np.floor(x * 1.4426950408889634 + 0.5)
    r = x - n * 6.93145751953125e-1
    r = r - n * 1.42860682030941723212e-6
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    return (p * r * r + r + 1.0) * power_of_two(np.int32(n), x)


def exp(x: Any) -> Any:
    """e**x: 2**n times a Taylor polynomial on [-ln 2 / 2, ln 2 / 2]; ln 2 in two parts, after Cody and Waite (1980)."""


@overload(exp, strict=False)
def _exp(x: Any) -> Any:
    if x == types.float32:
        return lambda x: _exp32(x)
    return lambda x: _exp64(x)


def like(z: Any, x: float) -> Any:
    """x in the type of z."""


@overload(like, strict=False)
def _like(z: Any, x: Any) -> Any:
    if z == types.float32:
        return lambda z, x: np.float32(x)
    return lambda z, x: np.float64(x)


@jit(fastmath={"contract"})
def log1p(x: Any) -> Any:
    """log(1 + x) for x in [0, 1]: twice the series of artanh(s) at s = x / (2 + x), which is at most 1/3."""
    s = x / (like(x, 2.0) + x)
    square = s * s
    p = like(x, 1.0 / 33.0)
    p = p * square + like(x, 1.0 / 31.0)
    p = p * square + like(x, 1.0 / 29.0)
    p = p * square + like(x, 1.0 / 27.0)
    p = p * square + like(x, 1.0 / 25.0)
    p = p * square + like(x, 1.0 / 23.0)
    p = p * square + like(x, 1.0 / 21.0)
    p = p * square + like(x, 1.0 / 19.0)
    p = p * square + like(x, 1.0 / 17.0)
    p = p * square + like(x, 1.0 / 15.0)
    p = p * square + like(x, 1.0 / 13.0)
    p = p * square + like(x, 1.0 / 11.0)
    p = p * square + like(x, 1.0 / 9.0)
    p = p * square + like(x, 1.0 / 7.0)
    p = p * square + like(x, 1.0 / 5.0)
    p = p * square + like(x, 1.0 / 3.0)
    p = p * square + like(x, 1.0 / 1.0)
    return like(x, 2.0) * s * p


@jit(fastmath={"contract"})
def log(x: Any) -> Any:
    """log(x) for x >= 1, NaN where x is not finite: the power of two, and twice the series of artanh(s) at s = (m - 1) / (m + 1)."""
    e, m = split_power(x)  # type: ignore[var-annotated]
    one = like(x, 1.0)
    s = (m - one) / (m + one)
    square = s * s
    p = like(x, 1.0 / 23.0)
    p = p * square + like(x, 1.0 / 21.0)
    p = p * square + like(x, 1.0 / 19.0)
    p = p * square + like(x, 1.0 / 17.0)
    p = p * square + like(x, 1.0 / 15.0)
    p = p * square + like(x, 1.0 / 13.0)
    p = p * square + like(x, 1.0 / 11.0)
    p = p * square + like(x, 1.0 / 9.0)
    p = p * square + like(x, 1.0 / 7.0)
    p = p * square + like(x, 1.0 / 5.0)
    p = p * square + like(x, 1.0 / 3.0)
    p = p * square + like(x, 1.0 / 1.0)
    return e * like(x, 0.6931471805599453) + (like(x, 2.0) * s * p + (x - x))


def tail(z: Any, bell: Any) -> Any:
    """How probable a standard normal number above |z| is, with ``bell`` = e^(-z^2 / 2)."""


@jit(fastmath={"contract"})
def _tail32(z: Any, bell: Any) -> Any:
    """e^(x^2) erfc(x) as a polynomial of t = 1 / (1 + x / 2), x = |z| / sqrt(2): the Chebyshev interpolant of degree 9 for x in [0, 9.5]."""
    t = np.float32(1.0) / (np.float32(1.0) + np.float32(0.353553391) * abs(z))
    p = np.float32(-0.0461824721)
    p = p * t + np.float32(0.218063892)
    p = p * t + np.float32(-0.339560511)
    p = p * t + np.float32(0.0936408694)
    p = p * t + np.float32(0.115786584)
    p = p * t + np.float32(0.13242105)
    p = p * t + np.float32(0.265186368)
    p = p * t + np.float32(0.278124296)
    p = p * t + np.float32(0.282540388)
    p = p * t + np.float32(-2.04733917e-05)
    return np.float32(0.5) * bell * p


@overload(tail, strict=False)
def _tail(z: Any, bell: Any) -> Any:
    if z == types.float32:
        return lambda z, bell: _tail32(z, bell)
    return lambda z, bell: 0.5 * math.erfc(abs(z) * 0.7071067811865476)


@jit()
def sigmoid(z: Any) -> Any:
    """1 / (1 + e^-z)."""
    one = like(z, 1.0)
    return one / (one + exp(-z))


@jit()
def _tanh(z: Any) -> Any:
    """Taylor's series to z^9 where it is exact enough, (1 - e^-2|z|) / (1 + e^-2|z|) elsewhere."""
    one = like(z, 1.0)
    t = exp(like(z, -2.0) * abs(z))
    far = (one - t) / (one + t)
    s = z * z
    near = like(z, -17.0 / 315.0) + s * like(z, 62.0 / 2835.0)
    near = like(z, -1.0 / 3.0) + s * (like(z, 2.0 / 15.0) + s * near)
    return z * (one + s * near) if abs(z) < like(z, 0.05) else (far if z > 0 else -far)


@kernel
def activate(code: int, a: Numbers, f: Numbers) -> None:
    """In place: weighted inputs in ``a`` become outputs, ``f`` the derivatives."""
    n = a.shape[0]
    zero, one, half = a.dtype.type(0.0), a.dtype.type(1.0), a.dtype.type(0.5)
    if code == SIGMOID:
        for j in range(n):
            y = sigmoid(a[j])
            a[j] = y
            f[j] = y * (one - y)
    elif code == TANH:
        for j in range(n):
            y = _tanh(a[j])
            a[j] = y
            f[j] = one - y * y
    elif code == RELU:
        for j in range(n):
            z = a[j]
            f[j] = one if z > zero else zero
            a[j] = zero if z < zero else z
    elif code == LEAKY_RELU:
        leak = a.dtype.type(0.01)
        for j in range(n):
            z = a[j]
            f[j] = one if z > zero else leak
            a[j] = z if z > zero else leak * z
    elif code == ELU:
        for j in range(n):
            z = a[j]
            e = exp(zero if z > zero else z)
            f[j] = one if z > zero else e
            a[j] = z if z > zero else e - one
    elif code == SELU:
        scale, alpha = a.dtype.type(1.0507009873554805), a.dtype.type(1.6732632423543772)
        for j in range(n):
            z = a[j]
            e = exp(zero if z > zero else z)
            f[j] = scale * (one if z > zero else alpha * e)
            a[j] = scale * (z if z > zero else alpha * (e - one))
    elif code == GELU:
        for j in range(n):
            z = a[j]
            bell = exp(-half * z * z)
            above = tail(z, bell)
            cdf = one - above if z > zero else above
            f[j] = cdf + z * bell * a.dtype.type(0.3989422804014327)
            a[j] = z * cdf
    elif code == SILU:
        for j in range(n):
            z = a[j]
            s = sigmoid(z)
            f[j] = s * (one + z * (one - s))
            a[j] = z * s
    elif code == MISH:
        for j in range(n):
            z = a[j]
            t = _tanh(_softplus(z))
            f[j] = t + z * (one - t * t) * sigmoid(z)
            a[j] = z * t
    elif code == SOFTPLUS:
        for j in range(n):
            z = a[j]
            f[j] = sigmoid(z)
            a[j] = _softplus(z)
    elif code == EXPONENTIAL:
        for j in range(n):
            a[j] = exp(a[j])
            f[j] = a[j]
    else:
        for j in range(n):
            f[j] = one


@jit()
def _softplus(z: Any) -> Any:
    return (z if z > 0 else like(z, 0.0)) + log1p(exp(-abs(z)))


@jit()
def softmax(a: Any) -> None:
    """In place: weighted inputs become probabilities."""
    top = a[0]
    for j in range(a.shape[0]):
        top = max(top, a[j])
    total = a.dtype.type(0.0)
    for j in range(a.shape[0]):
        a[j] = exp(a[j] - top)
        total += a[j]
    for j in range(a.shape[0]):
        a[j] /= total


@jit()
def _u32(x: Any) -> Any:
    return np.uint32(x & 0xFFFFFFFF)


@jit()
def _rounds(x0: Any, x1: Any, r0: int, r1: int, r2: int, r3: int) -> Any:
    for r in (r0, r1, r2, r3):
        x0 = _u32(x0 + x1)
        x1 = _u32((x1 << np.uint32(r)) | (x1 >> np.uint32(32 - r))) ^ x0
    return x0, x1


@jit()
def _threefry(k0: Any, k1: Any, x0: Any, x1: Any) -> Any:
    """As ``fcnet.counters.threefry2x32``, for single words."""
    k2 = k0 ^ k1 ^ np.uint32(0x1BD11BDA)
    x0, x1 = _u32(x0 + k0), _u32(x1 + k1)
    x0, x1 = _rounds(x0, x1, 13, 15, 26, 6)
    x0, x1 = _u32(x0 + k1), _u32(x1 + k2 + np.uint32(1))
    x0, x1 = _rounds(x0, x1, 17, 29, 16, 24)
    x0, x1 = _u32(x0 + k2), _u32(x1 + k0 + np.uint32(2))
    x0, x1 = _rounds(x0, x1, 13, 15, 26, 6)
    x0, x1 = _u32(x0 + k0), _u32(x1 + k1 + np.uint32(3))
    x0, x1 = _rounds(x0, x1, 17, 29, 16, 24)
    x0, x1 = _u32(x0 + k1), _u32(x1 + k2 + np.uint32(4))
    x0, x1 = _rounds(x0, x1, 13, 15, 26, 6)
    return _u32(x0 + k2), _u32(x1 + k0 + np.uint32(5))


@jit()
def draw_mask(key: Any, row: Any, threshold: Any, gain: Any, mask: Any) -> None:
    """``gain`` where a unit of this row of the batch is kept, 0 where it is dropped; as ``fcnet.counters.bits``."""
    n = mask.shape[0]
    half = (n + 1) // 2
    k0, k1, r = key[0], key[1], np.uint32(row)
    first, second = mask[:half], mask[half:]
    zero = mask.dtype.type(0.0)
    for u in range(n - half):
        x0, x1 = _threefry(k0, k1, r, np.uint32(u))
        first[u] = gain if x0 >= threshold else zero
        second[u] = gain if x1 >= threshold else zero
    if n % 2:
        x0, x1 = _threefry(k0, k1, r, np.uint32(half - 1))
        first[half - 1] = gain if x0 >= threshold else zero
