"""This machine's processor: how wide its vectors are, and what fills its registers."""

from __future__ import annotations

import llvmlite.binding
import numpy as np

_FEATURES = llvmlite.binding.get_host_cpu_features()
IS_X86 = llvmlite.binding.get_default_triple().startswith(("x86_64", "i686", "i386"))
VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32
"""Bytes in a vector: 16 float32 numbers with AVX-512, 8 without."""
HAS_COMPRESS = VECTOR_BYTES == 64 and bool(_FEATURES.get("avx512vl"))
"""Whether one instruction moves chosen numbers of a vector together."""
MOVES_TOGETHER = HAS_COMPRESS or (VECTOR_BYTES == 32 and bool(_FEATURES.get("avx2")))
"""Whether a few do."""
TILE_ROWS = 6
"""Rows of a matrix tile: with TILE_VECTORS of 4 (or 2) they fill 24 of 32 (12 of 16) registers."""
TILE_VECTORS = 4 if VECTOR_BYTES == 64 else 2
"""Vectors in a row of a matrix tile."""
CACHE_LINE = 64
"""Bytes that a processor's core fetches and owns together."""
ALIASING = 2048
"""Numbers so many bytes apart share one or two places of the nearest cache, which holds eight of them at each."""
SPARSE_VECTORS = 8
"""Vectors in a row of the sparse loops."""


def padded(n: int, dtype: str) -> int:
    """The smallest number of whole vectors that holds n numbers, in numbers."""
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    return -(-n // lanes) * lanes


def spread(n: int, dtype: str) -> int:
    """The same for lines of a matrix, with a cache line more where they would lie a multiple of ``ALIASING`` bytes apart."""
    size, whole = np.dtype(dtype).itemsize, padded(n, dtype)
    return whole if whole * size % ALIASING else whole + CACHE_LINE // size
