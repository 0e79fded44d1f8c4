"""The functions of ``memory`` as instructions of a GPU (PTX, NVIDIA's "Parallel Thread Execution ISA"), for Numba's compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.cuda.extending import intrinsic

I32, I64, VOID = ir.IntType(32), ir.IntType(64), ir.VoidType()
LOW = ir.Constant(I64, 0xFFFFFFFF)


def _instruction(answer: Any, takes: list[Any], text: str, operands: str) -> Any:
    """An instruction that the compiler neither drops nor moves past others that touch memory."""
    return ir.InlineAsm(ir.FunctionType(answer, takes), text, f"{operands},~{{memory}}".lstrip(","), side_effect=True)


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Of a number of a one-dimensional array."""
    return builder.gep(context.make_array(kind)(context, builder, value=array).data, [index])


# --- Copies that nobody waits for: cp.async -----------------------------------------------------------------------------


def _copy(name: str, through: str, n_bytes: int | None) -> Any:
    """An intrinsic for copies of a size; None for a number's."""

    def typed(typing: Any, shared: Any, at: Any, array: Any, index: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            target = _address(context, builder, signature.args[0], given[0], given[1])
            source = _address(context, builder, signature.args[2], given[2], given[3])
            inside = builder.addrspacecast(
                target, target.type.pointee.as_pointer(3)
            )  # counted from where shared memory begins
            text = f"cp.async.{through}.shared.global [$0], [$1], {n_bytes or shared.dtype.bitwidth // 8};"
            copying = _instruction(VOID, [I32, I64], text, "r,l")
            builder.call(copying, [builder.ptrtoint(inside, I32), builder.ptrtoint(source, I64)])
            return context.get_dummy_value()

        return types.void(shared, types.uint64, array, types.uint64), code

    typed.__name__ = name
    return intrinsic(typed)


copy: Callable[..., None] = _copy("copy", "ca", None)
copy_16: Callable[..., None] = _copy("copy_16", "cg", 16)


@intrinsic
def wait_for_copies(typing: Any) -> Any:
    """Until all copies that this thread has begun are done."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        builder.call(_instruction(VOID, [], "cp.async.wait_all;", ""), [])
        return context.get_dummy_value()

    return types.void(), code


# --- Numbers that cross: half a word of 64 bits is a number, or half of one, and half of it the tag ---------------------


def _places(context: Any, builder: Any, kind: Any, places: Any, at: Any, n_words: int) -> list[Any]:
    """The addresses of a number's words."""
    first = builder.mul(at, ir.Constant(I64, n_words))
    indices = [builder.add(first, ir.Constant(I64, k)) for k in range(n_words)]
    return [builder.ptrtoint(_address(context, builder, kind, places, index), I64) for index in indices]


@intrinsic
def post(typing: Any, places: Any, at: Any, value: Any, tag: Any) -> Any:
    """Write a number and its tag for all blocks to see."""
    n_words = value.bitwidth // 32

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        bits = builder.bitcast(given[2], ir.IntType(32 * n_words))
        bits = builder.zext(bits, I64) if n_words == 1 else bits
        mark = builder.shl(given[3], ir.Constant(I64, 32))
        storing = _instruction(VOID, [I64, I64], "st.relaxed.gpu.global.u64 [$0], $1;", "l,l")
        for k, place in enumerate(_places(context, builder, signature.args[0], given[0], given[1], n_words)):
            half = builder.and_(builder.lshr(bits, ir.Constant(I64, 32 * k)), LOW)
            builder.call(storing, [place, builder.or_(mark, half)])
        return context.get_dummy_value()

    return types.void(places, types.uint64, value, types.uint64), code


@intrinsic
def take(typing: Any, places: Any, at: Any, like: Any) -> Any:
    """What is there now: the first word and the last."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        loading = _instruction(I64, [I64], "ld.relaxed.gpu.global.u64 $0, [$1];", "=l,l")
        where = _places(context, builder, signature.args[0], given[0], given[1], like.bitwidth // 32)
        words = [builder.call(loading, [place]) for place in where]
        return context.make_tuple(builder, signature.return_type, [words[0], words[-1]])

    return types.UniTuple(types.uint64, 2)(places, types.uint64, like), code


@intrinsic
def tagged(typing: Any, taken: Any, tag: Any) -> Any:
    """Whether both words have the tag."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        words = [builder.extract_value(given[0], k) for k in (0, 1)]
        marks = [builder.lshr(word, ir.Constant(I64, 32)) for word in words]
        return builder.and_(*[builder.icmp_unsigned("==", mark, given[1]) for mark in marks])

    return types.boolean(taken, types.uint64), code


@intrinsic
def number(typing: Any, taken: Any, like: Any) -> Any:
    """The number in the words."""
    n_words = like.bitwidth // 32

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        low, high = (builder.extract_value(given[0], k) for k in (0, 1))
        if n_words == 1:
            return builder.bitcast(builder.trunc(low, I32), context.get_value_type(like))
        both = builder.or_(builder.and_(low, LOW), builder.shl(high, ir.Constant(I64, 32)))
        return builder.bitcast(both, context.get_value_type(like))

    return like(taken, like), code
