"""Kernels at hand before they are used: read from the disk, or compiled, which two processes share out.

Each kernel lies on the disk when it is compiled. A process that begins at the other end and fills the same folder therefore takes a
share of the wait.
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
from fcnet.engines.native import library
from fcnet.engines.native.threads import available_threads

BESIDE = "FCNET_COMPILES_BESIDE"
"""In the environment of a process that compiles beside another, and starts no third."""


@functools.cache
def entry(name: str, dtype: str) -> library.Entry:
    """A kernel that Python calls, with all that it calls."""
    prepare(dtype)
    return library.Entry(name, dtype)


@functools.cache
def prepare(dtype: str) -> None:
    """Load what kernels call; where it does not lie on the disk yet, say so, since the first run on a machine waits for it."""
    if not library.lies_there("steps.advance", dtype):
        print("fcnet: compiling the native engine for this machine; this is done once", file=sys.stderr, flush=True)
        compile_beside(dtype)
    for kernel in library.listed().values():
        if kernel.linked:
            library.load(kernel.name, dtype)


def warm_up() -> None:
    """Compile every kernel for each type of numbers, or load it from the disk."""
    for dtype in get_args(Dtype):
        compile_beside(dtype)
        for name in library.listed():
            library.load(name, dtype)


def compile_beside(dtype: str) -> None:
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


def compile_last_first(dtype: str) -> None:
    """Every kernel, those that call others first, and at the end what few runs need. None of them can run in this process."""
    kernels = library.listed().values()
    for kernel in kernels:
        library.promise(kernel.name, dtype)
    last_first = list(kernels)[::-1]
    for kernel in sorted(last_first, key=lambda kernel: not kernel.usual):
        if not library.lies_there(kernel.name, dtype):
            library.make(kernel.name, dtype)
