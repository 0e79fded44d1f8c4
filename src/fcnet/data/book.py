"""The book's ``mnist.pkl.gz``, read without running anything that a pickle can ask for.

The file is a gzip-compressed pickle of Python 2: three pairs (X, y) of NumPy arrays, to train, validate and test. A
pickle is a program. This one is read by an interpreter that knows only the instructions that lay out tuples, lists,
numbers, text and bytes; that writes down a plain record where the pickle calls one of the few names that make an array,
and refuses every other name. Arrays are made here, from the records, after their sizes are checked.

Source of the file: M. A. Nielsen, "Neural networks and deep learning", Determination Press, 2015.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fcnet.data.arrays import DataSet, Part, check_finite, count_classes
from fcnet.data.files import open_content, read_some, shown
from fcnet.errors import FileError

_RECONSTRUCT = ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")
_NDARRAY, _DTYPE, _ENCODE = ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")
_ADMITTED = {*_RECONSTRUCT, _NDARRAY, _DTYPE, _ENCODE}
_SIZE_LIMIT = 1 << 29
"""How many bytes the pickle may have, decompressed; the book's has 220 million."""
_READ_LIMIT = 100_000
"""How many instructions a pickle may have; the book's has fewer than 200, and a gzip bomb of small objects billions."""


def read_book_pickle(filename: str | Path) -> DataSet:
    """The data set in the book's ``mnist.pkl.gz``, or in a file made like it.

    A pickle, compressed or not, of protocol 0 to 3, by Python 2 or 3: ((X, y), (X, y), (X, y)), to train, validate and
    test. X ``(n_rows, n_in)`` becomes float32, y ``(n_rows,)`` int64.

    Raises:
        FileError: a file that is missing, damaged, of other contents, or that asks for anything but NumPy arrays.
        InputError: X holds NaN or infinity.
    """
    path = Path(filename)
    pairs = _read_pickle(path)
    if not isinstance(pairs, tuple | list) or len(pairs) != 3:
        raise FileError(f"{path} holds {_kind(pairs)}. Expected three pairs (X, y): to train, validate and test.")
    train, validation, test = (
        _part(pair, f"the {name} part of {path}")
        for pair, name in zip(pairs, ("training", "validation", "test"), strict=True)
    )
    for part, name in ((validation, "validation"), (test, "test")):
        if part.X.shape[1] != train.X.shape[1]:
            raise FileError(
                f"X of the {name} part of {path} has {part.X.shape[1]} numbers a row, but X of the training part has "
                f"{train.X.shape[1]}. Expected the same in every part."
            )
    n_classes = count_classes([train, validation, test], str(path))
    return DataSet(str(path), train, validation, test, n_classes)


class _Name:
    """A name that the pickle asks for, in place of what it stands for."""

    __slots__ = ("name",)

    def __init__(self, name: tuple[str, str]) -> None:
        self.name = name


class _Record:
    """What a pickle would have built: the name it calls, the arguments, and the state that it sets."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: tuple[str, str], arguments: tuple[Any, ...]) -> None:
        self.name = name
        self.arguments = arguments
        self.state: tuple[Any, ...] = ()


class _Content(io.BytesIO):
    """The bytes of a pickle, which count how often they are read: at least once for each instruction."""

    n_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.n_reads += 1
        if self.n_reads > _READ_LIMIT:
            raise pickle.UnpicklingError(f"it has more than {_READ_LIMIT} instructions")
        return super().read(size)


class _Instructions(dict[int, Callable[[Any], None]]):
    """What to do for each instruction."""

    def __missing__(self, instruction: int) -> Callable[[Any], None]:
        raise pickle.UnpicklingError(f"it has the instruction {instruction}, which no array of numbers needs")


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler in Python, less all instructions that the book's file can do without.

    The one in C is not used: it takes memory for whatever place in its memo a pickle names. Dictionaries and sets are
    not admitted: to hash nested tuples can take forever.
    """

    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = _Instructions(
        (instruction[0], pickle._Unpickler.dispatch[instruction[0]])
        for instruction in (
            *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP),
            *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
            *(pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG, pickle.LONG1),
            *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.UNICODE, pickle.BINUNICODE),
            *(pickle.BINBYTES, pickle.SHORT_BINBYTES),
            *(pickle.TUPLE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
            *(pickle.LIST, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
            *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
            pickle.GLOBAL,
        )
    )

    def __init__(self, content: _Content, path: Path) -> None:
        super().__init__(content, encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _ADMITTED:
            raise FileError(
                f"{self.path} is refused: the pickle asks for {shown(f'{module}.{name}')}, and to load it could run "
                "code. Expected nothing but NumPy arrays of numbers; save the arrays with numpy.savez."
            )
        return _Name((module, name))

    def _record_call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("it calls what is not a name")
        self.stack.append(_Record(name.name, arguments))

    def _record_state(self) -> None:
        state, record = self.stack.pop(), self.stack[-1]
        if not isinstance(record, _Record) or not isinstance(state, tuple):
            raise pickle.UnpicklingError("it sets the state of what is not an array")
        record.state = state

    dispatch[pickle.REDUCE[0]] = _record_call
    dispatch[pickle.BUILD[0]] = _record_state


def _read_pickle(path: Path) -> Any:
    """What the pickle lays out, with records in place of arrays."""
    with open_content(path) as stream:
        content = _Content(read_some(stream, _SIZE_LIMIT + 1))
    size, head = content.getbuffer().nbytes, content.getbuffer()[:2].tobytes()
    if not size:
        raise FileError(f"{path} is empty. Expected the book's pickle.")
    if size > _SIZE_LIMIT:
        raise FileError(
            f"{path} has more than {_SIZE_LIMIT} bytes when decompressed, too many for the book's pickle. Expected its "
            "three pairs of arrays; save larger ones with numpy.savez."
        )
    if head[:1] == pickle.PROTO and head[1:] > b"\x03":
        raise FileError(
            f"{path} is a pickle of protocol {head[1]}. Expected 0 to 3: write it with pickle.dump(..., "
            "protocol=2), or save the arrays with numpy.savez."
        )
    try:
        return _Unpickler(content, path).load()
    except (FileError, MemoryError):
        raise
    except Exception as error:  # bytes at random can fail in any way
        raise FileError(
            f"{path} is not a pickle of NumPy arrays, or it is damaged ({type(error).__name__}: {shown(str(error))}). "
            "Expected the book's pickle."
        ) from None


def _part(pair: Any, name: str) -> Part:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise FileError(f"The pickle's records of {name} are {_kind(pair)}. Expected a pair (X, y).")
    X, y = _array(pair[0], f"X of {name}"), _array(pair[1], f"y of {name}")
    if X.ndim != 2 or X.dtype.kind != "f" or X.size == 0:
        raise FileError(f"X of {name} is {X.dtype} of shape {X.shape}. Expected floats of shape (n_rows, n_in).")
    if y.dtype.kind not in "iu" or y.shape != (len(X),):
        raise FileError(
            f"y of {name} is {y.dtype} of shape {y.shape}. Expected {len(X)} integer labels, one a row of X."
        )
    lowest, highest = int(y.min()), int(y.max())
    if lowest < 0 or highest > np.iinfo(np.int64).max:
        raise FileError(
            f"y of {name} has the label {lowest if lowest < 0 else highest}. Expected classes numbered from 0."
        )
    with np.errstate(over="ignore"):
        X = X.astype(np.float32)
    check_finite(X, f"X of {name}")
    return Part(X, y.astype(np.int64))


def _array(record: Any, name: str) -> NDArray[Any]:
    """The array that a record describes: (version, shape, dtype, whether in Fortran order, bytes)."""
    if not isinstance(record, _Record) or record.name not in _RECONSTRUCT:
        raise FileError(f"{name} is {_kind(record)}. Expected a NumPy array.")
    if len(record.state) != 5:
        raise FileError(f"{name} is an array without its contents. The pickle is damaged.")
    _, shape, dtype_record, fortran_order, raw = record.state
    dtype = _dtype(dtype_record, name)
    content = _bytes(raw, name)
    if not isinstance(shape, tuple) or len(shape) > 2 or not all(_is_size(n) for n in shape):
        raise FileError(f"{name} is an array of a shape that is neither (n_rows, n_in) nor (n_rows,).")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise FileError(
            f"{name} is {dtype} of shape {shape}, {math.prod(shape) * dtype.itemsize} bytes, but the pickle holds "
            f"{len(content)} for it. The pickle is damaged."
        )
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")


def _is_size(n: Any) -> bool:
    """Whether n is a size that an array of such a file can have; a pickle's integers can have millions of digits."""
    return isinstance(n, int) and 0 <= n <= _SIZE_LIMIT


def _dtype(record: Any, name: str) -> np.dtype[Any]:
    """The type of numbers: its code, such as ``f4``, is an argument; its byte order is in its state."""
    if isinstance(record, _Record) and record.name == _DTYPE and record.arguments:
        code = record.arguments[0]
        order = record.state[1] if len(record.state) > 1 else "="
        if isinstance(code, str) and re.fullmatch("[iu][1248]|f[248]", code) and order in ("<", ">", "=", "|"):
            return np.dtype(order + code)
        type_name = shown(code[:20]) if isinstance(code, str) else _kind(code)
        raise FileError(f"{name} is an array whose type is {type_name}. Expected integers or floats.")
    raise FileError(f"{name} is an array without a type. The pickle is damaged.")


def _bytes(raw: Any, name: str) -> bytes:
    """An array's bytes: Python 2 wrote them as text, Python 3 as bytes or as a call that makes bytes of text."""
    if isinstance(raw, _Record) and raw.name == _ENCODE and raw.arguments[1:] == ("latin1",):
        raw = raw.arguments[0]
    try:
        return raw.encode("latin-1") if isinstance(raw, str) else bytes(memoryview(raw))
    except (TypeError, UnicodeEncodeError):
        raise FileError(f"{name} is an array with {_kind(raw)} in place of its bytes. The pickle is damaged.") from None


def _kind(value: Any) -> str:
    """What a value from a pickle is, for a message."""
    if isinstance(value, _Record | _Name):
        return f"what {'.'.join(value.name)} makes"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an object of type {type(value).__name__}"
