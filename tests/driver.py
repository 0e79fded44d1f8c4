"""NVIDIA's driver in the place of a real one: ``driver.c``, whose launches run PTX in Python (``ptx.py``).

What the engine tells the driver is therefore told: contexts, memory, code, how much shared memory a kernel may have, a launch's
arguments word by word. A kernel reads and writes what was allocated and nothing else.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import ptx

HERE = Path(__file__).parent


def header() -> Path | None:
    """Where ``cuda.h`` is, which comes with numba-cuda's extras."""
    found = importlib.util.find_spec("nvidia")
    for folder in found.submodule_search_locations or () if found else ():
        for path in Path(folder).rglob("cuda.h"):
            return path.parent
    return None


def can_be_made() -> bool:
    """Whether all is here that it is made of."""
    needs = (importlib.util.find_spec("numba_cuda"), shutil.which("cc"), header())
    return all(needs)


class Driver:
    """The driver of this process from now on.

    Attributes:
        error: what came up while a kernel ran.
        launches: blocks, threads and bytes of shared memory of each launch.
    """

    def __init__(self, folder: Path) -> None:
        library = folder / "libcuda.so.1"
        command = ["cc", "-shared", "-fPIC", "-O1", f"-I{header()}", "-Wl,-soname,libcuda.so.1,-Bsymbolic"]
        subprocess.run([*command, str(HERE / "driver.c"), "-o", str(library), "-ldl"], check=True)
        self._c = ctypes.CDLL(str(library))  # and whoever asks for a libcuda.so.1 gets this one
        self._c.part_at.restype = ctypes.c_size_t
        self._c.part_at.argtypes = [ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)]
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, *3 * [ctypes.c_uint], ctypes.POINTER(ctypes.c_void_p))
        self._keep = kind(self._launched)
        self._c.when_launched(self._keep)
        self.error: BaseException | None = None
        self.launches: list[tuple[int, int, int]] = []

    def has(self, multiprocessors: int, shared_bytes: int = 227 << 10, version: int = 13000) -> None:
        """What its GPU has, and which CUDA it is made for."""
        for name, value in (("multiprocessors", multiprocessors), ("shared_optin", shared_bytes), ("version", version)):
            ctypes.c_int.in_dll(self._c, name).value = value

    def _find(self, address: int, n_bytes: int) -> tuple[memoryview, int]:
        begin = ctypes.c_size_t()
        size = self._c.part_at(address, ctypes.byref(begin))
        if not size or address + n_bytes > begin.value + size:
            raise ptx.Fault(f"the address {address:#x} is nobody's")
        return _memory(begin.value, size), address - begin.value

    def _launched(self, code: bytes, n_blocks: int, n_threads: int, n_bytes: int, arguments: Any) -> int:
        self.launches.append((n_blocks, n_threads, n_bytes))
        try:
            gpu = ptx.Gpu(_translated(code), self._find)
            n_words = len(gpu.translation.parameters)
            gpu.launch(n_blocks, n_threads, n_bytes, [ctypes.c_uint64.from_address(arguments[k]).value for k in range(n_words)])  # fmt: skip
        except BaseException as error:
            self.error = error
            return 1
        return 0


@functools.lru_cache(maxsize=4)
def _translated(code: bytes) -> ptx.Translation:
    return ptx.Translation(code.decode())


@functools.lru_cache(maxsize=64)
def _memory(begin: int, size: int) -> memoryview:
    return memoryview((ctypes.c_uint8 * size).from_address(begin)).cast("B")
