"""A grid of blocks of threads in Python, for kernels whose blocks wait for each other; Numba's simulator runs one after the other.

One thread runs at a time, from one barrier to the next, in an order that is chosen: if an order and its reverse, of threads and of
blocks, lead to the same bytes, no thread reads between two barriers what another one writes. A block runs as far ahead of the
others as it can before it needs what they have posted. Threads of a block that wait at different barriers are an error, as is waiting
for what nobody posts, and memory that is read before it is written: shared memory begins as NaN.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numba import types

from fcnet.engines import cuda


class _Thread(threading.Thread):
    """A kernel's thread: runs when it is told to, and says at which barrier it waits; None when it is done."""

    def __init__(self, kernel: Callable[..., None], arguments: Sequence[Any], own: dict[str, Any], grid: Grid) -> None:
        super().__init__(daemon=True)
        self._kernel, self._arguments, self.own, self._grid = kernel, arguments, own, grid
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.at: str | None = ""
        self.error: BaseException | None = None

    def run(self) -> None:
        self._go.acquire()
        self._grid.running.thread = self
        try:
            with np.errstate(over="ignore"):  # 32-bit words go round
                self._kernel(*self._arguments)
        except BaseException as error:
            self.error = error
        self.at = None
        self._stopped.release()

    def wait(self, barrier: str) -> None:
        self.at = barrier
        self._stopped.release()
        self._go.acquire()

    def advance(self) -> None:
        self._go.release()
        self._stopped.acquire()
        if self.error is not None:
            raise self.error


class Grid:
    """What a kernel's file knows as ``numba.cuda``.

    Args:
        late: copies that nobody waits for are done when they are waited for, and not at once.
    """

    def __init__(self, late: bool = False) -> None:
        self._late = late
        self.running = threading.local()
        self.shared = SimpleNamespace(array=lambda shape, kind: self._own("shared").view(str(kind)))
        self.local = SimpleNamespace(
            array=lambda shape, kind: np.full(8 * shape, 255, np.uint8).view(str(kind))[:shape]
        )

    def jit(self, function: Any = None, **options: Any) -> Any:
        return function or (lambda function: function)

    def _own(self, name: str) -> Any:
        return self.running.thread.own[name]

    threadIdx = property(lambda self: SimpleNamespace(x=self._own("thread")))
    blockIdx = property(lambda self: SimpleNamespace(x=self._own("block")))
    blockDim = property(lambda self: SimpleNamespace(x=self._own("threads")))
    gridDim = property(lambda self: SimpleNamespace(x=self._own("blocks")))

    def syncthreads(self) -> None:
        self.running.thread.wait("block")

    def begin(self, copying: Callable[[], None]) -> None:
        """A copy that nobody waits for."""
        if self._late:
            self._own("copies").append(copying)
        else:
            copying()

    def end(self) -> None:
        """Wait for a thread's copies."""
        while self._own("copies"):
            self._own("copies").pop()()

    def pause(self) -> None:
        """Before a look at what other blocks may have posted by now."""
        self.running.thread.wait("others")

    def launch(self, kernel: Any, n_blocks: int, n_threads: int, n_bytes: int, arguments: Any, step: int = 1) -> None:
        """Run a kernel; with ``step`` -1 the last block and the last thread come first."""
        blocks = []
        for block in range(n_blocks):
            shared = np.full(n_bytes, 255, np.uint8)  # NaN in every type of float
            own = {"block": block, "blocks": n_blocks, "threads": n_threads, "shared": shared}
            blocks.append(
                [
                    _Thread(kernel, arguments, own | {"thread": thread, "copies": []}, self)
                    for thread in range(n_threads)
                ][::step]
            )
            for one in blocks[-1]:
                one.start()
        everyone, idle = [one for block in blocks for one in block], 0
        while any(one.at is not None for one in everyone):
            before = [one.at for one in everyone]
            for block in blocks[::step]:
                self._advance(block)
            now = {one.at for one in everyone}
            idle = idle + 1 if [one.at for one in everyone] == before else 0
            assert idle < 100, f"threads wait at {now} for what never comes"
        for block in blocks:
            for one in block:
                one.join()

    def _advance(self, block: list[_Thread]) -> None:
        """A block, as far as it goes before others have gone on."""
        while True:
            for one in block:
                if one.at in ("", "others"):
                    one.advance()
            stopped = {one.at for one in block}
            assert len(stopped) == 1 or "others" in stopped, f"threads of a block wait at different barriers: {stopped}"
            if stopped != {"block"}:
                return
            for one in block:
                one.at = ""


def loaded(name: str, grid: Grid) -> ModuleType:
    """A module of ``fcnet.engines.cuda.kernels``, and of those that it imports, in which ``numba.cuda`` is a grid."""
    numba = ModuleType("numba")
    numba.cuda, numba.types, numba.config = grid, types, SimpleNamespace(ENABLE_CUDASIM=1)  # type: ignore[attr-defined]
    package = "fcnet.engines.cuda.kernels"
    ours = {module: sys.modules[module] for module in sys.modules if module.startswith(package) or module == "numba"}
    for module in ours:
        del sys.modules[module]
    sys.modules["numba"] = numba
    try:
        return importlib.import_module(f"{package}.{name}")
    finally:
        for module in [module for module in sys.modules if module.startswith(package) or module == "numba"]:
            del sys.modules[module]
        sys.modules.update(ours)
        vars(cuda).pop("kernels")
        if package in ours:
            cuda.kernels = ours[package]  # type: ignore[attr-defined]
