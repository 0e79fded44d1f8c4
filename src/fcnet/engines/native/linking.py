"""Kernels, each compiled once, that call each other through symbols.

A function that Numba compiles holds a copy of every other that it calls, so that a training's loops would be optimised five
times over: most of the wait of a first run. A ``kernel`` is code of its own; what calls it refers to it by name, and the linker
puts in the address. Its signature is read from its annotations, so that it can be compiled, or loaded from the disk, before
anything calls it.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import llvmlite.binding
import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.typeconv import Conversion
from numba.extending import intrinsic
from numpy.typing import NDArray

from fcnet.engines.native.compiler import jit

# What annotations say of an argument, given the network's type of numbers.
Number = Annotated[Any, lambda number: number]
Numbers = Annotated[NDArray[Any], lambda number: types.Array(number, 1, "C")]
Matrix = Annotated[NDArray[Any], lambda number: types.Array(number, 2, "C")]
Cube = Annotated[NDArray[Any], lambda number: types.Array(number, 3, "C")]
Doubles = Annotated[NDArray[np.float64], lambda _: types.Array(types.float64, 1, "C")]
DoubleMatrix = Annotated[NDArray[np.float64], lambda _: types.Array(types.float64, 2, "C")]
Ints = Annotated[NDArray[np.int64], lambda _: types.Array(types.int64, 1, "C")]
IntMatrix = Annotated[NDArray[np.int64], lambda _: types.Array(types.int64, 2, "C")]
Ints32 = Annotated[NDArray[np.int32], lambda _: types.Array(types.int32, 1, "C")]
Int32Matrix = Annotated[NDArray[np.int32], lambda _: types.Array(types.int32, 2, "C")]
Words = Annotated[NDArray[np.uint32], lambda _: types.Array(types.uint32, 1, "C")]
WordMatrix = Annotated[NDArray[np.uint32], lambda _: types.Array(types.uint32, 2, "C")]
WordCube = Annotated[NDArray[np.uint32], lambda _: types.Array(types.uint32, 3, "C")]
_SCALARS = {int: types.int64, float: types.float64, bool: types.boolean}

NUMBERS = {"float32": types.float32, "float64": types.float64}
"""Numba's types of the networks' numbers."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """A function for each type of numbers.

    Attributes:
        dispatcher: Numba's function, which keeps what is compiled.
        linked: whether other kernels call it.
        usual: whether most first runs need it; a process that compiles beside one leaves the others to the last.
    """

    dispatcher: Any
    linked: bool
    usual: bool = True

    def symbol(self, dtype: str) -> str:
        """What other kernels call it."""
        function = self.dispatcher.py_func
        return f"{function.__module__}.{function.__name__}.{dtype}"

    def arguments(self, number: Any) -> tuple[Any, ...]:
        """Its arguments' types."""
        hints = typing.get_type_hints(self.dispatcher.py_func, include_extras=True)
        return tuple(_numba_type(hint, number) for name, hint in hints.items() if name != "return")

    def compile(self, dtype: str) -> Any:
        """What Numba makes of it, or reads from its cache on disk."""
        arguments = self.arguments(NUMBERS[dtype])
        self.dispatcher.compile(arguments)
        return self.dispatcher.overloads[arguments]

    def load(self, dtype: str) -> None:
        """Compile it, or read it, and let others call it."""
        compiled = self.compile(dtype)
        if self.linked:
            address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
            llvmlite.binding.add_symbol(self.symbol(dtype), address)

    def promise(self, dtype: str) -> None:
        """Let others be compiled that call it, in a process where none of them will run."""
        if self.linked:
            llvmlite.binding.add_symbol(self.symbol(dtype), 1)


KERNELS: list[Kernel] = []
"""All of them, called ones before those that call them."""


def entry(function: Callable[..., Any], usual: bool = True) -> Any:
    """A kernel that Python calls: Numba's function, with the signature that its annotations say."""
    KERNELS.append(Kernel(jit()(function), linked=False, usual=usual))
    return KERNELS[-1].dispatcher


def kernel(function: Callable[..., None], **options: Any) -> Any:
    """A kernel that other kernels call, and nobody else; it returns nothing."""
    own = Kernel(jit(**options)(function), linked=True)
    KERNELS.append(own)

    def call(context: Any, *given: Any) -> Any:
        for dtype, number in NUMBERS.items():
            arguments = own.arguments(number)
            if all(_fits(context, one, other) for one, other in zip(given, arguments, strict=True)):
                return types.void(*arguments), _call_of(own.symbol(dtype))
        raise TypingError(f"{own.symbol('')} is called with {given}, expected {own.arguments(types.float32)}")

    parameters = inspect.signature(function).parameters.values()
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    call.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    call.__name__, call.__doc__ = function.__name__, function.__doc__
    return intrinsic(call)


def _fits(context: Any, given: Any, expected: Any) -> bool:
    """Whether an argument is what a signature says, but for what loses nothing."""
    conversion = context.can_convert(given, expected)
    return conversion is not None and conversion <= Conversion.safe


def _call_of(symbol: str) -> Callable[..., Any]:
    """Code that calls a function which the linker finds, as Numba's own calls do."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        convention = context.call_conv
        kind = convention.get_function_type(signature.return_type, signature.args)
        function = cgutils.get_or_insert_function(builder.module, kind, symbol)
        status, _ = convention.call_function(builder, function, signature.return_type, signature.args, args)
        with cgutils.if_unlikely(builder, status.is_error):
            convention.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return generate


def _numba_type(hint: Any, number: Any) -> Any:
    if hint in _SCALARS:
        return _SCALARS[hint]
    if isinstance(hint, type) and issubclass(hint, tuple):
        fields = typing.get_type_hints(hint, include_extras=True).values()
        return types.NamedTuple([_numba_type(field, number) for field in fields], hint)
    return hint.__metadata__[0](number)
