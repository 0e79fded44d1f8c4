"""One GPU as NVIDIA's driver reaches it, or Numba's simulator of one: what it has, arrays on it, launches.

Memory, code and launches are the driver's own, by ``cuda.bindings``, which comes with numba-cuda: nothing of Numba is imported
where a kernel's code is on the disk. Kernels take their arguments as Numba compiles them: an array is seven words.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet.engines.contract import Placement
from fcnet.engines.cuda import library
from fcnet.engines.cuda.library import Kernel


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
"""What Numba's simulator is taken for: it runs one block after the other, so that none could wait for another one."""


@functools.cache
def is_simulated() -> bool:
    """Whether the process was started with ``NUMBA_ENABLE_CUDASIM=1``: kernels then run in Python, on the CPU."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def missing() -> str | None:
    """What is to be installed before kernels can run here; None where all is there."""
    return None if is_simulated() else _missing()


@functools.cache
def _missing() -> str | None:
    """Tried once: a kernel that does nothing is compiled, linked, and loaded; where its code is on the disk, nothing of Numba is imported."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "it needs numba-cuda; install it with: pip install 'fcnet[gpu]'."
    if (reason := _too_old()) is not None:
        return reason
    try:
        with on(Placement("gpu")):
            _function(library.TRIAL, (), 0)
    except Exception as error:  # whatever a library says that is not whole, or finds no other one
        said = (str(error).strip() or "no reason given").split("\n")[0][:200]
        return f"numba-cuda does not work here ({type(error).__name__}: {said}); install it anew with: pip install 'fcnet[gpu]'."
    return None


# --- The driver ---------------------------------------------------------------------------------------------------------


@functools.cache
def _driver() -> Any:
    from cuda.bindings import driver

    (error,) = driver.cuInit(0)
    if int(error):
        raise RuntimeError(f"NVIDIA's driver cannot be used: {error.name}.")
    return driver


def _call(name: str, *arguments: Any) -> Any:
    """One of the driver's functions: what it answers beside its error.

    Raises:
        RuntimeError: its error, by the driver's name, as ``CUDA_ERROR_OUT_OF_MEMORY``.
    """
    error, *answers = getattr(_driver(), name)(*arguments)
    if int(error):
        raise RuntimeError(f"NVIDIA's driver answers {name} with {error.name}.")
    return answers[0] if answers else None


def _too_old() -> str | None:
    """Why the driver cannot run what is compiled here; None where it can, or is not there."""
    try:
        from cuda import bindings

        here = int(_call("cuDriverGetVersion")) // 1000
    except (ImportError, RuntimeError):
        return None
    needed = int(bindings.__version__.split(".")[0])
    if here >= needed:
        return None
    return f"the NVIDIA driver is made for CUDA {here}, and numba-cuda's libraries here for CUDA {needed}; update the driver."


def gpus() -> list[str]:
    """The names of the GPUs that the driver shows; empty where it cannot be asked."""
    try:
        count = int(_call("cuDeviceGetCount"))
        names = [_call("cuDeviceGetName", 256, _call("cuDeviceGet", index)) for index in range(count)]
    except (ImportError, RuntimeError):
        return []
    return [bytes(name).split(b"\0")[0].decode(errors="replace") for name in names]


def chip(placement: Placement) -> Chip:
    """What a placement's GPU has."""
    return SIMULATED if is_simulated() else _chip_of(placement.index)


@functools.cache
def _chip_of(index: int) -> Chip:
    def has(name: str) -> int:
        attribute = getattr(_driver().CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(_call("cuDeviceGetAttribute", attribute, _call("cuDeviceGet", index)))

    capability = has("COMPUTE_CAPABILITY_MAJOR"), has("COMPUTE_CAPABILITY_MINOR")
    return Chip(has("MULTIPROCESSOR_COUNT"), has("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"), capability)


@functools.cache
def _context_of(index: int) -> Any:
    """The context that all libraries of a process share."""
    return _call("cuDevicePrimaryCtxRetain", _call("cuDeviceGet", index))


@contextlib.contextmanager
def on(placement: Placement) -> Iterator[None]:
    """The placement's GPU is the one that this thread speaks to."""
    if is_simulated():
        yield
        return
    _call("cuCtxPushCurrent", _context_of(placement.index))
    try:
        yield
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the first error is the one to tell
            _call("cuCtxPopCurrent")
        raise
    _call("cuCtxPopCurrent")


def free_bytes(placement: Placement) -> int | None:
    """Of the GPU's memory; None where the driver does not say, and in the simulator."""
    if is_simulated():
        return None
    with contextlib.suppress(RuntimeError), on(placement):
        return int(_call("cuMemGetInfo"))
    return None


# --- Arrays -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Array:
    """Numbers on the GPU, one after the other.

    Attributes:
        address: the driver's.
        size: how many.
        dtype: of which type.
        kind: its name, which NumPy takes long to tell.
        owner: whose memory it is; it is freed after the last of its arrays.
    """

    address: int
    size: int
    dtype: np.dtype[Any]
    kind: str
    owner: Any

    def __getitem__(self, part: slice) -> Array:
        """A part of them, in place."""
        start, stop, _ = part.indices(self.size)
        return Array(
            self.address + start * self.dtype.itemsize, max(0, stop - start), self.dtype, self.kind, self.owner
        )


class _Memory:
    """Memory of the GPU, or of the host where kernels reach it, until nobody has it any more."""

    def __init__(self, index: int, address: int, free: str) -> None:
        weakref.finalize(self, _freed, index, address, free).atexit = False


def _freed(index: int, address: int, free: str) -> None:
    with contextlib.suppress(RuntimeError), on(Placement("gpu", index)):
        _call(free, address)


def room(size: int, dtype: Any) -> Any:
    """So many numbers on the GPU, still to be written."""
    dtype = np.dtype(dtype)
    if is_simulated():
        return np.full(size * dtype.itemsize, 255, np.uint8).view(dtype)
    address = int(_call("cuMemAlloc", max(1, size * dtype.itemsize)))
    return Array(address, size, dtype, dtype.name, _Memory(int(_call("cuCtxGetDevice")), address, "cuMemFree"))


def zeros(size: int, dtype: Any) -> Any:
    """So many zeros on the GPU."""
    if is_simulated():
        return np.zeros(size, dtype)
    there = room(size, dtype)
    if size:
        _call("cuMemsetD8", there.address, 0, size * there.dtype.itemsize)
    return there


def to_device(array: NDArray[Any]) -> Any:
    """A copy on the GPU, row after row."""
    there = room(array.size, array.dtype)
    write(there, array)
    return there


def write(there: Any, array: NDArray[Any]) -> None:
    """Copy an array, row after row, to as many numbers of its type on the GPU, or to the first of them."""
    array = np.ascontiguousarray(array)
    if is_simulated():
        there[: array.size] = array.reshape(-1)
    elif array.size:
        _call("cuMemcpyHtoD", there.address, array.ctypes.data, array.nbytes)


def to_host(array: Any) -> NDArray[Any]:
    """A copy on the host, when all that was launched before is done."""
    if is_simulated():
        return np.array(array)
    here = np.empty(array.size, array.dtype)
    if here.size:
        _call("cuMemcpyDtoH", here.ctypes.data, array.address, here.nbytes)
    return here


def mapped(size: int, dtype: Any) -> tuple[NDArray[Any], Any]:
    """Numbers in the host's memory that kernels read and write in place, as both see them: no copy, for the few numbers of a small answer."""
    dtype = np.dtype(dtype)
    if is_simulated():
        here = np.zeros(size, dtype)
        return here, here
    driver, n_bytes = _driver(), size * dtype.itemsize
    address = int(_call("cuMemHostAlloc", n_bytes, driver.CU_MEMHOSTALLOC_DEVICEMAP))
    owner = _Memory(int(_call("cuCtxGetDevice")), address, "cuMemFreeHost")
    memory = (ctypes.c_uint8 * n_bytes).from_address(address)
    memory.owner = owner
    here = np.frombuffer(memory, dtype)
    here[:] = 0
    return here, Array(int(_call("cuMemHostGetDevicePointer", address, 0)), size, dtype, dtype.name, owner)


# --- Launches -----------------------------------------------------------------------------------------------------------


def launch(kernel: Kernel, n_blocks: int, n_threads: int, n_bytes: int, arguments: tuple[Any, ...], together: bool = False) -> None:  # fmt: skip
    """One launch of a kernel, whose arguments have the same types each time; its code is compiled where it is not on the disk.

    Args:
        n_bytes: of each block's shared memory.
        arguments: arrays and whole numbers.
        together: whether all blocks must be there at once; the driver starts all of them or none.
    """
    if is_simulated():
        kernel.make()[n_blocks, n_threads, 0, n_bytes](*arguments)
        return
    takes = tuple(one.kind if isinstance(one, Array) else None for one in arguments)
    function = _function(kernel, takes, int(_call("cuCtxGetDevice")))
    words: list[int] = []
    for one in arguments:
        words += (0, 0, one.size, one.dtype.itemsize, one.address, one.size, one.dtype.itemsize) if isinstance(one, Array) else (int(one),)  # fmt: skip
    values = np.array(words, np.int64)
    places = values.ctypes.data + 8 * np.arange(len(values), dtype=np.uint64)
    grid = (n_blocks, 1, 1, n_threads, 1, 1, n_bytes, 0, places.ctypes.data)
    if together:
        _call("cuLaunchCooperativeKernel", function, *grid)
    else:
        _call("cuLaunchKernel", function, *grid, 0)


def wait() -> None:
    """Until all that was launched is done."""
    if not is_simulated():
        _call("cuStreamSynchronize", 0)


@functools.cache
def _function(kernel: Kernel, takes: tuple[library.Word, ...], index: int) -> Any:
    """A kernel on a GPU, which may have all the shared memory that there is for a block."""
    chip = _chip_of(index)
    name, code = library.code_of(kernel, takes, chip.capability)
    function = _call("cuModuleGetFunction", _call("cuModuleLoadData", code), name)
    attribute = _driver().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _call("cuFuncSetAttribute", function, attribute, chip.shared_bytes)
    return function
