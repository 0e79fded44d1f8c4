"""One GPU as Numba reaches it, or Numba's simulator of one: what it has, arrays on it, launches."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import config, cuda
from numpy.typing import NDArray

from fcnet.engines.contract import Placement
from fcnet.engines.cuda import memory

STANDARD_SHARED_BYTES = 48 << 10
"""Shared memory that any kernel may have; more is asked for."""


@dataclass(frozen=True)
class Chip:
    """What a GPU has.

    Attributes:
        multiprocessors: each runs a block of a kernel or more.
        shared_bytes: shared memory that a block may have.
        capability: CUDA's number for what it can do.
    """

    multiprocessors: int
    shared_bytes: int
    capability: tuple[int, int] = (9, 0)


SIMULATED = Chip(multiprocessors=1, shared_bytes=227 << 10)
"""What Numba's simulator is taken for: its barrier over the grid serves one block."""


def is_simulated() -> bool:
    """Whether Numba was started with ``NUMBA_ENABLE_CUDASIM=1``: kernels then run in Python, on the CPU."""
    return bool(getattr(config, "ENABLE_CUDASIM", 0))


@functools.cache
def missing() -> str | None:
    """What is to be installed before kernels can be compiled here; None where all is there."""
    if is_simulated():
        return None
    if importlib.util.find_spec("numba_cuda") is None:
        return "it needs numba-cuda; install it with: pip install 'fcnet[gpu]'."
    try:
        load_compiler()
        from numba.cuda.cudadrv.nvvm import NVVM

        NVVM()
        if memory.broken:
            raise RuntimeError(memory.broken)
    except Exception as error:  # whatever a library says that is not whole, or finds no other one
        said = (str(error).strip() or "no reason given").split("\n")[0][:200]
        return f"numba-cuda does not work here ({type(error).__name__}: {said}); install it anew with: pip install 'fcnet[gpu]'."
    return None


def chip(placement: Placement) -> Chip:
    """What a placement's GPU has."""
    return SIMULATED if is_simulated() else _chip_of(placement.index)


@functools.cache
def _chip_of(index: int) -> Chip:
    with cuda.gpus[index]:
        device = cuda.get_current_device()
        most = getattr(device, "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN", STANDARD_SHARED_BYTES)
        major, minor = device.compute_capability
        return Chip(device.MULTIPROCESSOR_COUNT, int(most), (major, minor))


def on(placement: Placement) -> AbstractContextManager[Any]:
    """The placement's GPU is the one that Numba speaks to."""
    return contextlib.nullcontext() if is_simulated() else cuda.gpus[placement.index]


# --- Arrays -------------------------------------------------------------------------------------------------------------


def to_device(array: NDArray[Any]) -> Any:
    """A copy on the GPU."""
    return array.copy() if is_simulated() else cuda.to_device(array)


def room(length: int, dtype: Any) -> Any:
    """So many numbers on the GPU, still to be written."""
    return np.full(length, np.nan, dtype) if is_simulated() else cuda.device_array(length, dtype)


def to_host(array: Any) -> NDArray[Any]:
    """A copy on the host, when all that was launched before is done."""
    answer: NDArray[Any] = array.copy() if is_simulated() else array.copy_to_host()
    return answer


def mapped(length: int, dtype: Any) -> Any:
    """Numbers in the host's memory that kernels read and write in place: no copy, for the few of them that a small answer takes."""
    return np.zeros(length, dtype) if is_simulated() else cuda.mapped_array(length, dtype)


def as_kernels_see(array: Any) -> Any:
    """An array of JAX's in place."""
    array.block_until_ready()
    return np.array(array) if is_simulated() else cuda.as_cuda_array(array)


# --- Launches -----------------------------------------------------------------------------------------------------------


def launch(kernel: Any, n_blocks: int, n_threads: int, n_bytes: int, arguments: tuple[Any, ...]) -> None:
    """One launch of a kernel, whose arguments have the same types each time; it is compiled at the first one."""
    if is_simulated():
        kernel[n_blocks, n_threads, 0, n_bytes](*arguments)
        return
    load_compiler()
    if n_bytes > STANDARD_SHARED_BYTES:
        _allow_shared_memory(kernel, n_bytes, arguments)
    _configured(kernel, n_blocks, n_threads, n_bytes)(*arguments)


def wait() -> None:
    """Until all that was launched is done."""
    if not is_simulated():
        cuda.synchronize()


@functools.lru_cache(maxsize=256)
def _configured(kernel: Any, n_blocks: int, n_threads: int, n_bytes: int) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Grid size")  # fewer blocks than multiprocessors are meant
        return kernel[n_blocks, n_threads, 0, n_bytes]


@functools.cache
def load_compiler() -> None:
    """Load what Numba compiles with: numba-cuda 0.30 reads names at its import that NumPy 2.4 and 2.5 no longer have."""
    from numba.cuda.descriptor import cuda_target

    dropped = {"row_stack": np.vstack, "trapz": getattr(np, "trapezoid", None), "in1d": np.isin}
    missing = [name for name in dropped if not hasattr(np, name)]
    for name in missing:
        setattr(np, name, dropped[name])
    try:
        cuda_target.typing_context.refresh()
    finally:
        for name in missing:
            delattr(np, name)


_ALLOWED: dict[tuple[Any, int], int] = {}
"""How much shared memory a kernel may have by now, by kernel and GPU."""


def _allow_shared_memory(kernel: Any, n_bytes: int, arguments: tuple[Any, ...]) -> None:
    """Allow a kernel more shared memory than any kernel may have: Numba has no word for it, the driver does."""
    gpu = cuda.get_current_device().id
    if _ALLOWED.get((kernel, gpu), 0) >= n_bytes:
        return
    from cuda.bindings import driver  # comes with numba-cuda

    compiled = kernel.compile(tuple(kernel.typeof_pyval(one) for one in arguments))
    handle = compiled._codelibrary.get_cufunc().handle
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    if isinstance(handle, driver.CUkernel):
        (error,) = driver.cuKernelSetAttribute(attribute, n_bytes, handle, gpu)
    else:
        (error,) = driver.cuFuncSetAttribute(driver.CUfunction(int(handle)), attribute, n_bytes)
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"The driver does not give a kernel {n_bytes:,} bytes of shared memory: {error.name}.")
    _ALLOWED[kernel, gpu] = n_bytes
