"""What annotations say of a kernel's arguments: what Numba compiles it for, and what its caller packs."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Kind:
    """A number, or with dimensions an array, row after row.

    Attributes:
        dtype: NumPy's name for its type; None for the network's.
        ndim: how many dimensions it has.
    """

    dtype: str | None
    ndim: int = 0


Number = Annotated[Any, Kind(None)]
Numbers = Annotated[NDArray[Any], Kind(None, 1)]
Matrix = Annotated[NDArray[Any], Kind(None, 2)]
Cube = Annotated[NDArray[Any], Kind(None, 3)]
Doubles = Annotated[NDArray[np.float64], Kind("float64", 1)]
DoubleMatrix = Annotated[NDArray[np.float64], Kind("float64", 2)]
Ints = Annotated[NDArray[np.int64], Kind("int64", 1)]
IntMatrix = Annotated[NDArray[np.int64], Kind("int64", 2)]
IntCube = Annotated[NDArray[np.int64], Kind("int64", 3)]
Ints32 = Annotated[NDArray[np.int32], Kind("int32", 1)]
Int32Matrix = Annotated[NDArray[np.int32], Kind("int32", 2)]
Words = Annotated[NDArray[np.uint32], Kind("uint32", 1)]
WordMatrix = Annotated[NDArray[np.uint32], Kind("uint32", 2)]
WordCube = Annotated[NDArray[np.uint32], Kind("uint32", 3)]

_PLAIN = {int: Kind("int64"), float: Kind("float64"), bool: Kind("bool")}


def kind_of(hint: Any) -> Any:
    """The kind that a hint says; of a named tuple, the tuple's class and its fields' kinds."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    if isinstance(hint, type) and issubclass(hint, tuple):
        return hint, [kind_of(field) for field in typing.get_type_hints(hint, include_extras=True).values()]
    return hint.__metadata__[0]
