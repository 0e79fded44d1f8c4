"""Random bits as a pure function of counters.

Weights, batch orders and dropout masks are all drawn here, and a draw depends on nothing but the seed and the
place where it is used: (seed, purpose, layer, step, row, unit). There is no generator to advance, so the draws are
the same on every engine and device, however the steps are cut into chunks, and after a resume.

The generator is Threefry-2x32 with 20 rounds, from J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011; the tests hold its published known-answer vectors. It is
written in operators alone, so one source serves NumPy arrays and traced JAX arrays.
"""

from __future__ import annotations

import operator
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fcnet.errors import InputError

Array = Any
"""A NumPy or JAX array."""
Words = tuple[Array, Array]
"""Two arrays of 32-bit words that broadcast against each other."""

_PARITY = np.uint32(0x1BD11BDA)
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


class Purpose(IntEnum):
    """What a draw is for; two purposes never share bits."""

    PARAMETERS = 0
    ORDER = 1
    DROPOUT = 2
    SPLIT = 3
    FITTED = 4


def threefry2x32(key: Words, counter: Words) -> Words:
    """Encrypt a two-word counter under a two-word key: 20 rounds, 64 random bits."""
    k0, k1 = key
    schedule = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0, x1 = counter[0] + k0, counter[1] + k1
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = (x1 << np.uint32(distance)) | (x1 >> np.uint32(32 - distance))
            x1 = x1 ^ x0
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def check_seed(seed: object) -> int:
    """The seed as an int in [0, 2**64); anything else is refused."""
    try:
        number = operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"seed must be an integer, got {seed!r}.") from None
    if not 0 <= number < 2**64:
        raise InputError(f"seed must lie in [0, 2**64), got {number}.")
    return number


def _words(number: ArrayLike) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The low and the high 32 bits of non-negative integers, as arrays of at least one dimension."""
    wide = np.atleast_1d(np.asarray(number, dtype=np.uint64))
    return wide.astype(np.uint32), (wide >> np.uint64(32)).astype(np.uint32)


def key(seed: int, purpose: Purpose, layer: ArrayLike = 0, step: ArrayLike = 0) -> NDArray[np.uint32]:
    """The key of one place: ``(..., 2)`` words, with the shape of ``layer`` and ``step`` broadcast together.

    key = threefry(threefry(seed, (purpose, layer)), step)
    """
    low, _ = _words(layer)
    inner = threefry2x32(_words(seed), (np.full(1, purpose, np.uint32), low))
    x0, x1 = threefry2x32(inner, _words(step))
    words = np.stack(np.broadcast_arrays(x0, x1), axis=-1)
    return words if np.ndim(layer) or np.ndim(step) else words[0]


def bits(key: Array, rows: Array, n_units: int) -> Array:
    """32 random bits for each unit of each row, ``(n_rows, n_units)`` of uint32.

    The first half of the units takes the first word of counter (row, unit), the second half the second word of
    counter (row, unit - half): one encryption serves two units.

    Args:
        key: two uint32 words, a NumPy or JAX array.
        rows: ``(n_rows,)`` uint32, positions in the batch.
        n_units: how many units a row has.
    """
    xp = rows.__array_namespace__()
    half = (n_units + 1) // 2
    counter = rows[:, None], xp.arange(half, dtype=np.uint32)[None, :]
    x0, x1 = threefry2x32((key[0:1, None], key[1:2, None]), counter)
    return xp.concatenate([x0, x1[:, : n_units - half]], axis=1)


def drop_threshold(p: ArrayLike) -> NDArray[np.uint32]:
    """A unit is dropped where its bits are below this: ``round(p * 2**32)`` for p in [0, 1)."""
    return np.minimum(np.rint(np.asarray(p, np.float64) * 2.0**32), 2.0**32 - 1).astype(np.uint32)


def normal(key: NDArray[np.uint32], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Standard normal numbers in float64 by the Box-Muller transform."""
    size = int(np.prod(shape))
    half = (size + 1) // 2
    x0, x1 = threefry2x32((key[0:1], key[1:2]), _words(np.arange(half)))
    radius = np.sqrt(-2.0 * np.log(_unit_interval(x0)))
    angle = 2.0 * np.pi * _unit_interval(x1)
    numbers = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return numbers[:size].reshape(shape)


def uniform(key: NDArray[np.uint32], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Numbers from the open interval (0, 1) in float64, 32 random bits each."""
    x0, _ = threefry2x32((key[0:1], key[1:2]), _words(np.arange(int(np.prod(shape)))))
    return _unit_interval(x0).reshape(shape)


def permutation(key: NDArray[np.uint32], n: int) -> NDArray[np.int64]:
    """A uniformly random order of ``range(n)``: the positions sorted by 64 random bits each, of equal ones the first first."""
    x0, x1 = threefry2x32((key[0:1], key[1:2]), _words(np.arange(n)))
    drawn = (x0.astype(np.uint64) << np.uint64(32)) | x1
    order = np.argsort(drawn)  # quicker than a stable sort, and the same where no two are equal
    ranked = drawn[order]
    return np.argsort(drawn, kind="stable") if (ranked[1:] == ranked[:-1]).any() else order


def _unit_interval(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    return (words.astype(np.float64) + 0.5) * 2.0**-32
