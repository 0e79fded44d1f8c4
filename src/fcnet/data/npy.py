"""NumPy's arrays as files hold them: a header, then the numbers.

Nothing is executed: arrays of objects, which NumPy keeps as a pickle, are refused. The size that a header claims is
compared with the bytes that are there before any memory is taken for it.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fcnet.data.files import open_file, read_some, shown
from fcnet.errors import FcnetError, FileError

HEAD = 1 << 14
"""Bytes in which an array's header must end; NumPy itself refuses headers of more than 10,000."""


@dataclass(frozen=True)
class Header:
    """What an array's header says.

    Attributes:
        shape: its sizes, none below 0.
        fortran_order: whether the first index runs fastest.
        dtype: the type of its numbers.
        start: how many bytes the header has.
    """

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    start: int

    @property
    def size(self) -> int:
        """How many bytes the numbers have."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(head: bytes | bytearray, name: str) -> Header:
    """The header with which an array's first bytes begin; NumPy reads it, with whatever errors it has for damage.

    Args:
        head: the first ``HEAD`` bytes.
        name: what to call the array in a message.

    Raises:
        FileError: an array that does not hold numbers.
        Exception: bytes that are no header.
    """
    stream = io.BytesIO(head)
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array is in the .npy format {version}; expected (1, 0) or (2, 0)")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote, and of old names of types
        try:
            shape, fortran_order, dtype = read(stream)
        except MemoryError:  # Python's parser says so of brackets within brackets
            raise ValueError("a header is nested too deeply") from None
    _check_dtype(dtype, name)
    if not all(0 <= n < 1 << 63 for n in shape):
        raise ValueError(f"a header says shape {shape}, which no array has")
    return Header(shape, fortran_order, dtype, stream.tell())


def map_npy(path: Path) -> NDArray[Any]:
    """The array in a ``.npy`` file, which stays in the file: memory is taken as its rows are read.

    Raises:
        FileError: a file that is missing or damaged, or that does not hold numbers.
    """
    with open_file(path) as file:
        try:
            header = read_header(read_some(file, HEAD), str(path))
            n_bytes = os.fstat(file.fileno()).st_size - header.start
            if header.size != n_bytes:
                raise ValueError(f"its header says shape {header.shape}, {header.size} bytes, but {n_bytes} follow")
            if not n_bytes:
                return np.empty(header.shape, header.dtype)
            order: Literal["C", "F"] = "F" if header.fortran_order else "C"
            return np.memmap(file, header.dtype, "r", header.start, header.shape, order)
        except (FcnetError, MemoryError):
            raise
        except Exception as error:  # NumPy meets damage with errors of a dozen kinds
            raise FileError(
                f"{path} cannot be read: {type(error).__name__}: {shown(str(error))}. Expected an array that "
                "numpy.save wrote."
            ) from None


def _check_dtype(dtype: np.dtype[Any], name: str) -> None:
    if dtype.hasobject:
        raise FileError(
            f"{name} is an array of Python objects, which only pickle can read and which fcnet refuses: a pickle can "
            "run code. Save it as an array of numbers."
        )
    if dtype.kind in "US":
        raise FileError(
            f"{name} is an array of text ({dtype}). Expected numbers: save integers in place of names, for instance "
            "those of numpy.unique(y, return_inverse=True)."
        )
    if dtype.kind not in "fiub":
        raise FileError(f"{name} is an array of {shown(str(dtype))}. Expected integers or real numbers.")
