"""Kernels, each compiled once, that call each other through symbols.

A function that Numba compiles holds a copy of every other that it calls, so that a training's loops would be optimised five
times over: most of the wait of a first run. A ``kernel`` is code of its own; what calls it refers to it by name, and the linker
puts in the address. Its signature is read from its annotations, so that it can be compiled before anything calls it.

Nothing here needs anything of Numba when it runs: no function allocates memory, and none is wrapped for Python. What Python
calls, an ``entry``, takes the address of its arguments packed into words (``library.Entry``).
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.typeconv import Conversion
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from fcnet.engines.contract import Dtype
from fcnet.engines.native.hints import Kind, kind_of
from fcnet.engines.native.library import Listed, packed
from fcnet.engines.native.processor import IS_X86

FAST = {"contract", "reassoc", "nsz", "arcp"}
"""Sums may be reordered; NaN and infinity keep their meaning."""
NUMBERS = get_args(Dtype)
"""The types of networks' numbers."""
FLUSH_TO_ZERO, DENORMALS_ARE_ZERO = 1 << 15, 1 << 6
"""Bits of an x86 processor's mode for vectors: what is computed below the normal range is 0, and so is what is read."""
_MODE = ir.IntType(32)
_WORD = ir.IntType(64)
_DATA = object.__basicsize__ // 8
_SHAPE = _DATA + 2
"""Words of NumPy's array object: where its numbers lie, and where its shape does. NumPy's headers compile them into every
extension (``PyArrayObject_fields``): the object's head, the data, the number of dimensions, their lengths."""
_compiler: Any = numba.njit


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: compile for kernels to call, and to hold a copy of."""
    bare = {"_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return _compiler(**({"error_model": "numpy", "fastmath": FAST} | bare | options))


@dataclass(frozen=True, eq=False)
class Kernel:
    """A function for each type of numbers.

    Attributes:
        listed: what is known of it without Numba.
        function: what it is made of.
        dispatcher: Numba's function for a type of numbers, and its arguments' types.
    """

    listed: Listed
    function: Callable[..., None]
    dispatcher: Callable[[str], tuple[Any, tuple[Any, ...]]]


KERNELS: list[Kernel] = []
"""All of them, called ones before those that call them; the package's modules add them."""


def kernel(function: Callable[..., None], usual: bool = True, linked: bool = True, **options: Any) -> Any:
    """A kernel that other kernels call, and nobody else; it returns nothing."""
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    dispatcher = jit(**options)(function)
    own = Kernel(Listed(name, linked, usual, None), function, lambda dtype: (dispatcher, _arguments(function, dtype)))
    KERNELS.append(own)

    def call(context: Any, *given: Any) -> Any:
        for dtype in NUMBERS:
            arguments = _arguments(function, dtype)
            if all(_fits(context, one, other) for one, other in zip(given, arguments, strict=True)):
                return types.void(*arguments), _call_of(own.listed.symbol(dtype))
        raise TypingError(f"{name} is called with {given}, expected {_arguments(function, 'float32')}")

    parameters = inspect.signature(function).parameters.values()
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    call.__signature__ = inspect.Signature([context, *parameters])
    call.__name__, call.__doc__ = function.__name__, function.__doc__
    return intrinsic(call)


def entry(function: Callable[..., None], usual: bool = True) -> Any:
    """A kernel that Python calls: one as others are, and a second that unpacks its arguments for it, see ``library.Entry``."""
    called = kernel(function, usual, linked=False)
    symbol = KERNELS[-1].listed.symbol
    listed = Listed(packed(KERNELS[-1].listed.name), False, usual, [_listed(kind) for kind in _kinds(function)])

    def dispatcher(dtype: str) -> tuple[Any, tuple[Any, ...]]:
        arguments = _arguments(function, dtype)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            words = _words(builder, builder.inttoptr(args[0], _WORD.as_pointer()))
            values = [_value(context, builder, argument, words) for argument in arguments]
            with _tiny_numbers_are_zero(builder):
                status = _status_of(symbol(dtype), context, builder, types.void(*arguments), values)
            return _ended(context, builder, status)

        @intrinsic
        def unpacked(context: Any, words: Any) -> Any:
            return types.void(types.int64), generate

        @jit()
        def call(words: int) -> None:
            unpacked(words)

        return call, (types.int64,)

    KERNELS.append(Kernel(listed, function, dispatcher))
    return called


def listed() -> list[Listed]:
    """What is known of each kernel without Numba, called ones before those that call them."""
    return [own.listed for own in KERNELS]


def compiled(name: str, dtype: str) -> tuple[str, bytes]:
    """The name that a kernel's code goes by, and its object code. What it calls has an address, see ``library``."""
    own = next(own for own in KERNELS if own.listed.name == name)
    dispatcher, arguments = own.dispatcher(dtype)
    dispatcher.compile(arguments)
    made = dispatcher.overloads[arguments]
    _, _, (code, _) = made.library.serialize_using_object_code()
    return made.fndesc.llvm_func_name, code


# --- Arguments --------------------------------------------------------------------------------------------------------


def _kinds(function: Callable[..., None]) -> list[Any]:
    hints = typing.get_type_hints(function, include_extras=True)
    return [kind_of(hint) for name, hint in hints.items() if name != "return"]


def _arguments(function: Callable[..., None], dtype: str) -> tuple[Any, ...]:
    """The types of a kernel's arguments."""
    return tuple(_numba_type(kind, dtype) for kind in _kinds(function))


def _numba_type(kind: Any, dtype: str) -> Any:
    if isinstance(kind, Kind):
        number = types.boolean if kind.dtype == "bool" else getattr(types, kind.dtype or dtype)
        return types.Array(number, kind.ndim, "C") if kind.ndim else number
    named, fields = kind
    return types.NamedTuple([_numba_type(field, dtype) for field in fields], named)


def _listed(kind: Any) -> Any:
    return [kind.dtype, kind.ndim] if isinstance(kind, Kind) else {"fields": [_listed(field) for field in kind[1]]}


def _fits(context: Any, given: Any, expected: Any) -> bool:
    """Whether an argument is what a signature says, but for what loses nothing."""
    conversion = context.can_convert(given, expected)
    return conversion is not None and conversion <= Conversion.safe


def _words(builder: Any, start: Any) -> Iterator[Any]:
    """Code that reads one word after another."""
    for place in itertools.count():
        yield builder.load(builder.gep(start, [ir.Constant(_WORD, place)]))


def _value(context: Any, builder: Any, kind: Any, words: Iterator[Any]) -> Any:
    """Code that makes an argument of its words."""
    if isinstance(kind, types.NamedTuple):
        return context.make_tuple(builder, kind, [_value(context, builder, field, words) for field in kind.types])
    word = next(words)
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder)
        of_object = builder.inttoptr(word, _WORD.as_pointer())
        data, lengths = (builder.load(builder.gep(of_object, [ir.Constant(_WORD, at)])) for at in (_DATA, _SHAPE))
        lengths = builder.inttoptr(lengths, _WORD.as_pointer())
        shape = [builder.load(builder.gep(lengths, [ir.Constant(_WORD, axis)])) for axis in range(kind.ndim)]
        size = ir.Constant(_WORD, kind.dtype.bitwidth // 8)
        strides = [size]
        for length in shape[:0:-1]:
            strides.insert(0, builder.mul(strides[0], length))
        data = builder.inttoptr(data, array.data.type)
        populate_array(array, data=data, shape=shape, strides=strides, itemsize=size, meminfo=None)
        return array._getvalue()
    if kind == types.boolean:
        return builder.icmp_signed("!=", word, ir.Constant(_WORD, 0))
    return builder.bitcast(word, context.get_value_type(kind))


def _call_of(symbol: str) -> Callable[..., Any]:
    """Code that calls a function which the linker finds, as Numba's own calls do."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _ended(context, builder, _status_of(symbol, context, builder, signature, args))

    return generate


def _status_of(symbol: str, context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Code that calls, and what it is told of errors."""
    convention = context.call_conv
    kind = convention.get_function_type(signature.return_type, signature.args)
    function = cgutils.get_or_insert_function(builder.module, kind, symbol)
    status, _ = convention.call_function(builder, function, signature.return_type, signature.args, args)
    return status


def _ended(context: Any, builder: Any, status: Any) -> Any:
    """Code that hands an error on."""
    with cgutils.if_unlikely(builder, status.is_error):
        context.call_conv.return_status_propagate(builder, status)
    return context.get_dummy_value()


@contextlib.contextmanager
def _tiny_numbers_are_zero(builder: Any) -> Iterator[None]:
    """Code in between takes numbers below the normal range for 0, and writes none; the thread's own mode comes back after it.

    A processor of Intel's needs some hundred cycles for each of them, and a moment that nothing feeds decays to one and stays there.
    """
    if not IS_X86:
        yield
        return
    before, during = (cgutils.alloca_once(builder, _MODE) for _ in range(2))
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
    read, write = (
        cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{name}mxcsr") for name in ("st", "ld")
    )

    def at(place: Any) -> Any:
        return builder.bitcast(place, ir.IntType(8).as_pointer())

    builder.call(read, [at(before)])
    builder.store(builder.or_(builder.load(before), ir.Constant(_MODE, FLUSH_TO_ZERO | DENORMALS_ARE_ZERO)), during)
    builder.call(write, [at(during)])
    yield
    builder.call(write, [at(before)])
