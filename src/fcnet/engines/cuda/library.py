"""The kernels' code: compiled when it is first needed, and kept on the disk, so that later processes need nothing of Numba.

Importing Numba and its support for CUDA takes longer than many a training, and compiling a kernel for steps takes seconds. Numba's
own cache is not used: it misses kernels that are made of other functions, and does not see when those change.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fcnet.engines import stored


@dataclass(frozen=True)
class Kernel:
    """A kernel.

    Attributes:
        name: another one for other code.
        make: its Python, as Numba takes it.
    """

    name: str
    make: Callable[[], Any] = field(compare=False)


Word = str | None
"""What an argument is: numbers of a type that lie on the GPU one after the other, or, None, a whole number."""


@functools.cache
def folder() -> Path:
    """Where code lies: one folder for these sources and this compiler."""
    package = Path(__file__).parents[2]
    sources = [*Path(__file__).parent.rglob("*.py"), package / "activations.py", package / "optimizers.py"]
    compiler = importlib.util.find_spec("numba_cuda")
    installed: list[str] = []  # which versions there are of all that compiles: their folders' names
    if compiler is not None and compiler.origin is not None:
        found = Path(compiler.origin).parents[1].glob("*.dist-info")
        installed = sorted(one.name for one in found if one.name.startswith(("numba", "llvmlite", "cuda_", "nvidia_")))
    return stored.folder("cuda", sources, [*installed, os.environ.get("CUDA_HOME", "")])


def code_of(kernel: Kernel, takes: Sequence[Word], capability: tuple[int, int]) -> tuple[bytes, bytes]:
    """The name that a kernel's code goes by, and the code for GPUs of a compute capability; where it is not on the disk, it is compiled, and
    said so, since the run waits for it."""
    path = folder() / f"{kernel.name}.sm_{capability[0]}{capability[1]}"
    found = stored.read(path)
    if found is None:
        if kernel != TRIAL:
            print("fcnet: compiling a kernel for this GPU; this is done once", file=sys.stderr, flush=True)
        found = compiled(kernel, takes, capability)
        stored.write(path, *found)
    return found


# --- What needs Numba ---------------------------------------------------------------------------------------------------


def text_of(kernel: Kernel, takes: Sequence[Word], capability: tuple[int, int]) -> str:
    """A kernel as PTX. Numba asks for the GPU that this thread speaks to, for functions that a kernel calls."""
    load_compiler()
    from numba import cuda, types

    python = kernel.make()
    kinds = [types.Array(getattr(types, word), 1, "C") if word else types.int64 for word in takes]
    text, _ = cuda.compile(
        python.py_func, types.void(*kinds), device=False, abi="numba", cc=capability, output="ptx",
        launch_bounds=python.targetoptions["launch_bounds"],
    )  # fmt: skip
    return str(text)


def compiled(kernel: Kernel, takes: Sequence[Word], capability: tuple[int, int]) -> tuple[bytes, bytes]:
    """A kernel's name among its code, and the code."""
    from cuda.core import Linker, LinkerOptions, ObjectCode  # comes with numba-cuda

    text = text_of(kernel, takes, capability)
    (name,) = re.findall(r"\.visible\s+\.entry\s+(\w+)", text)
    options = LinkerOptions(arch=f"sm_{capability[0]}{capability[1]}")
    code = Linker(ObjectCode.from_ptx(text.encode()), options=options).link("cubin").code
    return name.encode(), bytes(code)


def _python_of_trial() -> Any:
    from fcnet.engines.cuda.kernels import memory, trial  # imports Numba

    if memory.broken:
        raise RuntimeError(memory.broken)
    return trial.nothing


TRIAL = Kernel("trial", _python_of_trial)
"""A kernel that does nothing, by which it is seen whether all is here that compiles and links."""


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
