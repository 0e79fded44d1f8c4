"""Kernels at hand before they are used: read from the disk, or compiled, which two processes share out.

Each kernel lies in the cache on disk when it is compiled. A process that begins at the other end and fills the same cache
therefore takes a share of the wait.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import get_args

from fcnet.engines.contract import Dtype
from fcnet.engines.native import kernels
from fcnet.engines.native.linking import KERNELS
from fcnet.engines.native.threads import available_threads

BESIDE = "FCNET_COMPILES_BESIDE"
"""In the environment of a process that compiles beside another, and starts no third."""


@functools.cache
def prepare(dtype: Dtype) -> None:
    """Load what kernels call; where it does not lie in the cache yet, say so, since the first run on a machine waits for it."""
    function = kernels.advance
    stored = f"kernels.{function.__name__}-{function.py_func.__code__.co_firstlineno}.*.nbi"
    if not any(Path(function.stats.cache_path).glob(stored)):
        print("fcnet: compiling the native engine for this machine; this is done once", file=sys.stderr, flush=True)
        compile_beside(dtype)
    for kernel in KERNELS:
        if kernel.linked:
            kernel.load(dtype)


def warm_up() -> None:
    """Compile every kernel for each type of numbers, or load it from the cache."""
    for dtype in get_args(Dtype):
        compile_beside(dtype)
        for kernel in KERNELS:
            kernel.load(dtype)


def compile_beside(dtype: Dtype) -> None:
    """Let a second process compile from the last kernel on, see ``compile_last_first``; if it cannot, nothing is lost."""
    python = Path(sys.executable or "")
    if BESIDE in os.environ or not python.name.startswith("python") or available_threads() < 2:
        return
    command = [str(python), "-c", f"from fcnet.engines.native.ahead import compile_last_first as c; c({dtype!r})"]
    nowhere = subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            command,
            env=os.environ | {BESIDE: "1"},
            stdin=nowhere,
            stdout=nowhere,
            stderr=nowhere,
            start_new_session=True,
        )
    except OSError:
        return
    threading.Thread(target=process.wait, daemon=True).start()


def compile_last_first(dtype: Dtype) -> None:
    """Every kernel, those that call others first, and at the end what few runs need. None of them can run in this process."""
    for kernel in KERNELS:
        kernel.promise(dtype)
    last_first = KERNELS[::-1]
    for kernel in sorted(last_first, key=lambda kernel: not kernel.usual):
        kernel.compile(dtype)
