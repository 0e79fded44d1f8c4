"""Numba's compiler as every kernel uses it, and the folder that keeps what it compiled."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

FAST = {"contract", "reassoc", "nsz", "arcp"}
"""Sums may be reordered; NaN and infinity keep their meaning."""


config: Any = numba.config
compiler: Any = numba.njit


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: compile without the interpreter's lock, and keep what is compiled on disk."""

    def compiled(function: Callable[..., Any]) -> Any:
        settings = {"nogil": True, "error_model": "numpy", "cache": True, "fastmath": FAST} | options
        asked = config.CACHE_DIR
        config.CACHE_DIR = str(_folder(asked))
        try:
            return compiler(**settings)(function)
        finally:
            config.CACHE_DIR = asked

    return compiled


@functools.cache
def _folder(asked: str) -> Path:
    """Within NUMBA_CACHE_DIR, else the user's caches, one for these very sources.

    Numba looks at one file to see whether a function is stale, but a kernel is made of several; and it fails to read what an
    older version left whose types are gone.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    contents = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    if not asked:
        import platformdirs  # not needed by who has chosen a place

        asked = platformdirs.user_cache_dir("fcnet")
    return Path(asked) / f"native-{contents}"
