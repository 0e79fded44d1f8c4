"""The kernels' code: compiled when it is first needed, and kept on the disk, so that later processes need nothing of Numba.

Importing Numba and its support for CUDA takes longer than many a training, and compiling a kernel for steps takes seconds. Numba's
own cache is not used: it misses kernels that are made of other functions, and does not see when those change.
"""

from __future__ import annotations

import functools
import importlib.util
import re
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
    sources = [*Path(__file__).parent.rglob("*.py"), Path(__file__).parents[2] / "activations.py"]
    compiler = importlib.util.find_spec("numba_cuda")
    if compiler is not None and compiler.origin is not None:
        sources += [Path(compiler.origin).with_name(name) for name in ("VERSION", "_version.py")]
    return stored.folder("cuda", sources, ())


def code_of(kernel: Kernel, takes: Sequence[Word], capability: tuple[int, int]) -> tuple[bytes, bytes]:
    """The name that a kernel's code goes by, and the code for GPUs of a compute capability; compiled where it is not on the disk."""
    path = folder() / f"{kernel.name}.sm_{capability[0]}{capability[1]}"
    found = stored.read(path)
    if found is None:
        found = compiled(kernel, takes, capability)
        stored.write(path, *found)
    return found


# --- What needs Numba ---------------------------------------------------------------------------------------------------


def text_of(kernel: Kernel, takes: Sequence[Word], capability: tuple[int, int]) -> str:
    """A kernel as PTX; where there is no driver, ``numba.cuda`` must not ask for the GPU that functions are compiled for."""
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


@functools.cache
def missing() -> str | None:
    """What is to be installed before kernels can run here; None where all is there."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "it needs numba-cuda; install it with: pip install 'fcnet[gpu]'."
    works = folder() / "compiler"
    if stored.read(works):
        return None
    try:
        load_compiler()
        from numba.cuda.cudadrv.nvvm import NVVM

        from fcnet.engines.cuda.kernels import memory

        NVVM()
        if memory.broken:
            raise RuntimeError(memory.broken)
    except Exception as error:  # whatever a library says that is not whole, or finds no other one
        said = (str(error).strip() or "no reason given").split("\n")[0][:200]
        return f"numba-cuda does not work here ({type(error).__name__}: {said}); install it anew with: pip install 'fcnet[gpu]'."
    stored.write(works, b"", b"works")
    return None


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
