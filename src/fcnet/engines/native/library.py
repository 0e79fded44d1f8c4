"""Compiled kernels on the disk, in memory, and called: all that a run needs where nothing is left to compile, without Numba.

A kernel's object code lies in a file of its own, which is written when it is compiled (``kernels.linking``) and loaded by LLVM's
own loader. Numba would read what it compiled too, but importing it and getting it ready takes longer than a small training.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import os
import struct
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from fcnet.engines import stored

CHANGES_CODE = ("NUMBA_BOUNDSCHECK", "NUMBA_OPT", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")
"""Variables of the environment that Numba compiles other code for."""


@dataclass(frozen=True)
class Listed:
    """What is known of a kernel without Numba.

    Attributes:
        name: its module's and its own.
        linked: whether kernels call it that a run of any kind needs.
        usual: whether most first runs need it; a process that compiles beside one leaves the others to the last.
        arguments: where Python calls it, the type and the number of dimensions of each argument that it unpacks; their fields for a
            named tuple; no type is the network's.
    """

    name: str
    linked: bool
    usual: bool
    arguments: list[Any] | None

    def symbol(self, dtype: str) -> str:
        """What other kernels call it."""
        return f"fcnet.{self.name}.{dtype}"


def packed(name: str) -> str:
    """The name of what calls a kernel with arguments packed into words."""
    return f"{name}.packed"


# --- On the disk ------------------------------------------------------------------------------------------------------


@functools.cache
def folder() -> Path:
    """Where they lie: one folder for these sources, this compiler, and this processor."""
    sources = [*Path(__file__).parent.rglob("*.py")]
    numba = importlib.util.find_spec("numba")
    if numba is not None and numba.origin is not None:
        sources.append(Path(numba.origin).with_name("_version.py"))
    words = [llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    return stored.folder("native", sources, words + [os.environ.get(name, "") for name in CHANGES_CODE])


def lies_there(name: str, dtype: str) -> bool:
    """Whether a kernel's code does."""
    return _file(name, dtype).exists()


def _file(name: str, dtype: str) -> Path:
    return folder() / f"{name}.{dtype}.o"


@functools.cache
def listed() -> dict[str, Listed]:
    """All kernels by name, called ones before those that call them."""
    path = folder() / "kernels.json"
    found = stored.read(path)
    if found is None:
        from fcnet.engines.native.kernels import linking  # imports Numba

        kernels = linking.listed()
        stored.write(path, b"", json.dumps([asdict(one) for one in kernels]).encode())
    else:
        kernels = [Listed(**one) for one in json.loads(found[1])]
    return {one.name: one for one in kernels}


# --- In memory --------------------------------------------------------------------------------------------------------

_ONE_AT_A_TIME = threading.RLock()
_ADDRESSES: dict[tuple[str, str], int] = {}


@functools.cache
def _loader() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def load(name: str, dtype: str) -> int:
    """The address of a kernel's code, read or else compiled, which others can call from then on."""
    with _ONE_AT_A_TIME:
        if (name, dtype) not in _ADDRESSES:
            symbol, code = stored.read(_file(name, dtype)) or make(name, dtype)
            _loader().add_object_file(llvm.ObjectFileRef.from_data(code))
            address = _loader().get_function_address(symbol.decode())
            llvm.add_symbol(listed()[name].symbol(dtype), address)
            _ADDRESSES[name, dtype] = address
        return _ADDRESSES[name, dtype]


def make(name: str, dtype: str) -> tuple[bytes, bytes]:
    """Compile a kernel, and keep it: the name its code goes by, and the code. What it calls was loaded, or promised."""
    from fcnet.engines.native.kernels import linking  # imports Numba

    symbol, code = linking.compiled(name, dtype)
    stored.write(_file(name, dtype), symbol.encode(), code)
    return symbol.encode(), code


def promise(name: str, dtype: str) -> None:
    """Let others be compiled that call a kernel, in a process where none of them will run."""
    llvm.add_symbol(listed()[name].symbol(dtype), 1)


# --- Called -----------------------------------------------------------------------------------------------------------

_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_ANSWER = ctypes.create_string_buffer(16)
_NOWHERE = ctypes.addressof(_ANSWER)
"""Where kernels put an answer, which is nothing, and the exception that they raise."""


class Entry:
    """A kernel that Python calls, without the interpreter's lock: with numbers, arrays, and named tuples of them.

    Each argument is a word of eight bytes: a number, or the address of NumPy's own object, in which the kernel reads where the
    array's numbers lie and its shape (``linking``). An array's address asked of NumPy takes as long as a small layer does.

    Args:
        name: the kernel's.
        dtype: the networks' type of numbers.
        bound: first arguments, which are kept and go before those of each call.
    """

    def __init__(self, name: str, dtype: str, bound: tuple[Any, ...] = ()) -> None:
        self.name, self.dtype, self.bound = name, dtype, bound
        kinds = _resolved(listed()[packed(name)].arguments or [], dtype)
        load(name, dtype)
        self.call = _FUNCTION(load(packed(name), dtype))
        self.before = struct.pack(_words(kinds[: len(bound)]), *self._flat(bound, kinds[: len(bound)]))
        self.kinds = kinds[len(bound) :]
        self.pack = struct.Struct(_words(self.kinds)).pack

    def bind(self, *arguments: Any) -> Entry:
        """The kernel with its first arguments."""
        return Entry(self.name, self.dtype, arguments)

    def __call__(self, *arguments: Any) -> None:
        """Call the kernel with its arguments, in their order.

        Raises:
            TypeError: for an array of another type or number of dimensions than the kernel's, or not row after row.
            RuntimeError: where the kernel fails, which it does only with ``NUMBA_BOUNDSCHECK=1``, at a place outside an array.
        """
        if self.call(_NOWHERE, _NOWHERE, self.before + self.pack(*self._flat(arguments, self.kinds))):
            raise RuntimeError(f"the kernel {self.name} failed: it read or wrote at a place outside an array")

    def _flat(self, arguments: Sequence[Any], kinds: list[Any]) -> list[Any]:
        """Numbers, and addresses of arrays."""
        words: list[Any] = []
        for value, kind in zip(arguments, kinds, strict=True):
            if isinstance(kind, list):
                words += self._flat(value, kind)
                continue
            dtype, ndim = kind
            if not ndim:
                words.append(value)
                continue
            if value.dtype != dtype or value.ndim != ndim or not value.flags.c_contiguous:
                raise TypeError(
                    f"{self.name} reads an array of {dtype} with {ndim} dimensions, row after row; "
                    f"got {value.dtype} {value.shape} with strides {value.strides}"
                )
            words.append(id(value))
        return words


def _resolved(arguments: list[Any], dtype: str) -> list[Any]:
    """Kinds as pairs of a type and a number of dimensions, and lists of them for named tuples."""
    return [
        _resolved(kind["fields"], dtype) if isinstance(kind, dict) else (np.dtype(kind[0] or dtype), kind[1])
        for kind in arguments
    ]


def _words(kinds: list[Any]) -> str:
    """How each is packed, see ``struct``."""
    words = ""
    for kind in kinds:
        if isinstance(kind, list):
            words += _words(kind)
        else:
            dtype, ndim = kind
            words += "d" if dtype.kind == "f" and not ndim else "q"
    return words
