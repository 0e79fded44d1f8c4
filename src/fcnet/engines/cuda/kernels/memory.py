"""What a GPU's memory can do and Numba has no word for: copies that nobody waits for, and numbers that cross from block to block.

``copy`` and ``copy_16`` begin a copy from global into shared memory; ``wait_for_copies`` waits for those that the calling thread
has begun.

``post`` writes a number for other blocks into global memory, with a tag in the same 8 bytes, which arrive whole; ``take`` reads
what is there, ``tagged`` says whether it has the tag that is waited for, and ``number`` is what was posted. So a number is its own
signal, and neither a barrier over the grid nor a fence is needed (NVIDIA's NCCL has the same as its protocol LL). A float64 takes
two places. That a place may be written again, and the state at the end, rests on a thread's own order of reading it, meeting its block, and
writing, which GPUs keep where PTX's memory model asks for acquire and release.

Here is what they mean, as simulators run it; ``instructions`` has them for a GPU's compiler, and takes their place where there is one.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config, cuda

_TAG = np.uint64(32)
"""Bits below the tag."""

_begin: Callable[[Callable[[], None]], None] = getattr(cuda, "begin", lambda copying: copying())
_end: Callable[[], None] = getattr(cuda, "end", lambda: None)
_pause: Callable[[], None] = getattr(cuda, "pause", lambda: time.sleep(0))
"""A simulator may have its own way to do a copy some time before it is waited for, and to let others go on."""


def copy(shared: Any, at: Any, array: Any, index: Any) -> None:
    """Begin to copy the number ``array[index]`` to ``shared[at]``."""

    def copying() -> None:
        shared[at] = array[index]

    _begin(copying)


def copy_16(shared: Any, at: Any, array: Any, index: Any) -> None:
    """Begin to copy 16 bytes from ``array[index]`` on to ``shared[at]`` on; both begin at a multiple of 16 bytes."""
    at, index, n = int(at), int(index), 16 // shared.itemsize

    def copying() -> None:
        shared[at : at + n] = array[index : index + n]

    _begin(copying)


def wait_for_copies() -> None:
    """Until all copies that this thread has begun are done."""
    _end()


def post(places: Any, at: Any, value: Any, tag: Any) -> None:
    """Write a number and its tag, which is not 0, for all blocks to see: number ``at`` of ``places`` (uint64)."""
    halves = np.asarray(value).reshape(1).view(np.uint32)
    for k, half in enumerate(halves):
        places[len(halves) * int(at) + k] = (np.uint64(tag) << _TAG) | np.uint64(half)


def take(places: Any, at: Any, like: Any) -> tuple[Any, Any]:
    """What is there now of number ``at``, of the type of ``like``."""
    n = like.itemsize // 4
    return places[n * int(at)], places[n * int(at) + n - 1]


def tagged(taken: tuple[Any, Any], tag: Any) -> bool:
    """Whether a number with that tag was there."""
    there = bool(taken[0] >> _TAG == tag and taken[1] >> _TAG == tag)
    if not there:
        _pause()
    return there


def number(taken: tuple[Any, Any], like: Any) -> Any:
    """The number that was there."""
    return np.array(taken, np.uint64).astype(np.uint32)[: like.itemsize // 4].view(like.dtype)[0]


compiles, broken = False, ""
"""Whether a GPU's compiler is here, and why the one that is here cannot be used."""
if not getattr(config, "ENABLE_CUDASIM", 0) and importlib.util.find_spec("numba_cuda"):
    try:
        real: Any = importlib.import_module("fcnet.engines.cuda.kernels.instructions")
        copy, copy_16, wait_for_copies = real.copy, real.copy_16, real.wait_for_copies
        post, take, tagged, number = real.post, real.take, real.tagged, real.number
        compiles = True
    except Exception as error:  # a numba-cuda that is not whole, or another one; ``library.missing`` tells it
        broken = f"{type(error).__name__}: {error}"
