"""What makes a training the one it is: settings, data and versions, as plain JSON values that can be compared.

Two trainings with the same identity end with the same bytes on the same machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fcnet.data.arrays import Part, is_sparse
from fcnet.data.files import shown

_PACKAGES = {
    "native": ("numpy", "numba", "llvmlite"),
    "xla": ("numpy", "jax", "jaxlib"),
    "cuda": ("numpy", "numba-cuda", "numba", "llvmlite"),
}
"""The packages that an engine's bytes depend on."""


def describe(value: Any) -> Any:
    """A setting as plain JSON: records by their fields, functions by their names, other objects by their plain attributes."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [describe(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): describe(one) for name, one in value.items()}
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return value.__qualname__
    if dataclasses.is_dataclass(value):
        fields = {one.name: describe(getattr(value, one.name)) for one in dataclasses.fields(value)}
    else:
        plain = bool | int | float | str
        fields = {name: one for name, one in getattr(value, "__dict__", {}).items() if isinstance(one, plain)}
    return {"": type(value).__qualname__, **fields}


def of_part(part: Part | None) -> dict[str, Any] | None:
    """A fingerprint of the rows of one purpose."""
    if part is None:
        return None
    X = (part.X.data, part.X.indices, part.X.indptr) if is_sparse(part.X) else (part.X,)
    weights = None if part.weights is None else _digest(part.weights)
    return {"rows": part.n_rows, "X": _digest(*X), "y": _digest(part.y), "weights": weights}


def of_versions(engine: str) -> dict[str, str]:
    """The versions that the bytes of a result depend on."""
    import importlib.metadata  # as much to load as a quarter of all else, and only checkpoints need it

    versions = {}
    for name in ("fcnet", *_PACKAGES.get(engine, ())):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # numba-cuda, in a simulator
            versions[name] = importlib.metadata.version(name)
    return versions


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not the same, in words, as ``settings.l2 was 0.0, is 0.1``."""
    then, here = dict(_leaves(before)), dict(_leaves(now))
    names = [*here, *(name for name in then if name not in here)]
    return [
        f"{shown(name)} was {_word(then.get(name))}, is {_word(here.get(name))}"
        for name in names
        if then.get(name) != here.get(name)
    ]


def _word(value: Any) -> str:
    return shown(str(value))[:40]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in items:
            yield from _leaves(part, ".".join(word for word in (name, str(key)) if word))
    else:
        yield name, value


def _digest(*arrays: Any) -> str:
    """A digest of numbers, their type and their shape: of the digests of some rows at a time, by all of the machine's cores."""
    from concurrent.futures import ThreadPoolExecutor  # only checkpoints need it

    whole = hashlib.blake2b(digest_size=16)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for array in arrays:
            whole.update(f"{array.dtype.str} {array.shape}".encode())
            rows = max(1, (1 << 22) // max(1, array[:1].nbytes))
            starts = range(0, len(array), rows)
            for part in pool.map(lambda start, array=array, rows=rows: _of_rows(array[start : start + rows]), starts):
                whole.update(part)
    return whole.hexdigest()


def _of_rows(rows: Any) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(rows).data.cast("B"), digest_size=16).digest()
