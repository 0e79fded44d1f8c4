"""Inner loops as vector code: what Numba cannot be trusted to find, written in LLVM's own vectors.

Each intrinsic keeps its accumulators in registers over a loop. The matrix ones compute a tile of C = A . B; the sparse ones
add weighted rows of a matrix. All are generic in the number type: a vector is as wide as this machine's registers.
Arrays are flat, and come with an offset in numbers; rows are padded to whole vectors (``processor.padded``), so no tail is ever needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from fcnet.engines.native.processor import (
    CACHE_LINE,
    HAS_COMPRESS,
    SPARSE_VECTORS,
    TILE_ROWS,
    TILE_VECTORS,
    VECTOR_BYTES,
)

_INT = ir.IntType(64)


class _Code:
    """LLVM code for one array type: pointers, loads, stores and arithmetic on vectors of its numbers."""

    def __init__(self, context: Any, builder: ir.IRBuilder, array_type: types.Array) -> None:
        self.context, self.builder = context, builder
        self.number = context.get_data_type(array_type.dtype)
        self.size = array_type.dtype.bitwidth // 8
        self.lanes = VECTOR_BYTES // self.size
        self.vector = ir.VectorType(self.number, self.lanes)
        self.zero = ir.Constant(self.vector, None)

    def pointer(self, array_type: types.Array, array: Any, offset: Any) -> Any:
        return self.builder.gep(self.context.make_array(array_type)(self.context, self.builder, array).data, [offset])

    def at(self, pointer: Any, *steps: Any) -> Any:
        """The pointer moved on by a sum of products; each step is a value, a constant, or a pair of them to multiply."""
        for step in steps:
            pair = step if isinstance(step, tuple) else (step, 1)
            x, y = (ir.Constant(_INT, v) if isinstance(v, int) else v for v in pair)
            pointer = self.builder.gep(pointer, [self.builder.mul(x, y)])
        return pointer

    def load(self, pointer: Any) -> Any:
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.size)

    def store(self, vector: Any, pointer: Any) -> None:
        self.builder.store(vector, self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.size)

    def splat(self, number: Any) -> Any:
        undefined = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None)
        return self.builder.shuffle_vector(one, undefined, lanes)

    def call(self, name: str, answer: ir.Type, *arguments: Any) -> Any:
        """One of LLVM's own functions."""
        kind = ir.FunctionType(answer, [argument.type for argument in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), arguments)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        return self.call(f"llvm.fma.v{self.lanes}f{self.size * 8}", self.vector, x, y, z)

    def line_of(self, table: list[list[int]], index: Any) -> Any:
        """A line of a table of words of four bytes, which is part of the code."""
        line = ir.VectorType(ir.IntType(32), len(table[0]))
        kept = cgutils.global_constant(
            self.builder,
            "table",
            ir.Constant(ir.ArrayType(line, len(table)), [ir.Constant(line, row) for row in table]),
        )
        return self.builder.load(self.builder.gep(kept, [ir.Constant(_INT, 0), index]), align=4)

    def sum(self, vector: Any) -> Any:
        """The sum of a vector's numbers, by halving it."""
        lanes = self.lanes
        while lanes > 1:
            lanes //= 2
            undefined = ir.Constant(vector.type, ir.Undefined)
            halves = [
                self.builder.shuffle_vector(
                    vector, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(at, at + lanes)))
                )
                for at in (0, lanes)
            ]
            vector = self.builder.fadd(*halves)
        return self.builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    def loop(
        self, start: Any, stop: Any, stride: int, carried: Sequence[Any], body: Callable[[Any, Sequence[Any]], Any]
    ) -> list[Any]:
        """``for i in range(start, stop, stride): carried = body(i, carried)``; what is carried stays in registers."""
        b = self.builder
        head, inside, after = (b.function.append_basic_block(name) for name in ("head", "inside", "after"))
        before = b.block
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(_INT)
        i.add_incoming(start, before)
        values = []
        for value in carried:
            values.append(b.phi(value.type))
            values[-1].add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", i, stop), inside, after)
        b.position_at_end(inside)
        new = body(i, values)
        i.add_incoming(b.add(i, ir.Constant(_INT, stride)), b.block)
        for value, changed in zip(values, new, strict=True):
            value.add_incoming(changed, b.block)
        b.branch(head)
        b.position_at_end(after)
        return values


def _tile_nn(rows: int, vectors: int) -> Any:
    @intrinsic
    def tile(typing: Any, k: Any, a: Any, a_at: Any, a_row: Any, a_step: Any, b: Any, b_at: Any, b_row: Any, c: Any, c_at: Any, c_row: Any) -> Any:  # fmt: skip
        """C[m, n] += sum_k A[m, k] B[k, n] for ``rows`` m and ``vectors`` vectors of n; A has any strides."""
        i8 = types.int64
        signature = types.void(i8, a, i8, i8, i8, b, i8, i8, c, i8, i8)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            k, a, a_at, a_row, a_step, b, b_at, b_row, c, c_at, c_row = args
            code = _Code(context, builder, signature.args[1])
            a, b, c = (
                code.pointer(signature.args[i], array, at)
                for i, array, at in ((1, a, a_at), (5, b, b_at), (8, c, c_at))
            )
            places = [code.at(c, (c_row, m), v * code.lanes) for m in range(rows) for v in range(vectors)]

            def body(i: Any, sums: Sequence[Any]) -> list[Any]:
                line = code.at(b, (i, b_row))
                right = [code.load(code.at(line, v * code.lanes)) for v in range(vectors)]
                left = code.at(a, (i, a_step))
                new = []
                for m in range(rows):
                    x = code.splat(builder.load(code.at(left, (a_row, m))))
                    new += [code.fma(x, right[v], sums[m * vectors + v]) for v in range(vectors)]
                return new

            start = [code.load(place) for place in places]
            for total, place in zip(code.loop(ir.Constant(_INT, 0), k, 1, start, body), places, strict=True):
                code.store(total, place)
            return context.get_dummy_value()

        return signature, generate

    return tile


def _tile_nt(rows: int, columns: int) -> Any:
    @intrinsic
    def tile(typing: Any, k: Any, a: Any, a_at: Any, a_row: Any, b: Any, b_at: Any, b_row: Any, c: Any, c_at: Any, c_row: Any) -> Any:  # fmt: skip
        """C[m, n] += sum_k A[m, k] B[n, k] for ``rows`` m and ``columns`` n; k counts whole vectors' numbers."""
        i8 = types.int64
        signature = types.void(i8, a, i8, i8, b, i8, i8, c, i8, i8)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            k, a, a_at, a_row, b, b_at, b_row, c, c_at, c_row = args
            code = _Code(context, builder, signature.args[1])
            a, b, c = (
                code.pointer(signature.args[i], array, at)
                for i, array, at in ((1, a, a_at), (4, b, b_at), (7, c, c_at))
            )
            lines_a = [code.at(a, (a_row, m)) for m in range(rows)]
            lines_b = [code.at(b, (b_row, n)) for n in range(columns)]

            def body(i: Any, sums: Sequence[Any]) -> list[Any]:
                left = [code.load(code.at(line, i)) for line in lines_a]
                right = [code.load(code.at(line, i)) for line in lines_b]
                return [code.fma(left[m], right[n], sums[m * columns + n]) for m in range(rows) for n in range(columns)]

            sums = code.loop(ir.Constant(_INT, 0), k, code.lanes, [code.zero] * (rows * columns), body)
            for m in range(rows):
                for n in range(columns):
                    place = code.at(c, (c_row, m), n)
                    builder.store(builder.fadd(builder.load(place), code.sum(sums[m * columns + n])), place)
            return context.get_dummy_value()

        return signature, generate

    return tile


def _gather(vectors: int) -> Any:
    @intrinsic
    def gather(typing: Any, values: Any, columns: Any, start: Any, stop: Any, factor: Any, w: Any, w_at: Any, w_row: Any, z: Any, z_at: Any) -> Any:  # fmt: skip
        """z += sum over p in [start, stop) of factor * values[p] * W[columns[p]], for ``vectors`` vectors of each row of W."""
        i8 = types.int64
        signature = types.void(values, columns, i8, i8, values.dtype, w, i8, i8, z, i8)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values, columns, start, stop, factor, w, w_at, w_row, z, z_at = args
            code = _Code(context, builder, signature.args[0])
            zero = ir.Constant(_INT, 0)
            values = code.pointer(signature.args[0], values, zero)
            columns = code.pointer(signature.args[1], columns, zero)
            w = code.pointer(signature.args[5], w, w_at)
            z = code.pointer(signature.args[8], z, z_at)

            def body(p: Any, sums: Sequence[Any]) -> list[Any]:
                x = code.splat(builder.fmul(factor, builder.load(code.at(values, p))))
                column = builder.sext(builder.load(code.at(columns, p)), _INT)
                line = code.at(w, (column, w_row))
                return [code.fma(x, code.load(code.at(line, v * code.lanes)), sums[v]) for v in range(vectors)]

            places = [code.at(z, v * code.lanes) for v in range(vectors)]
            sums = code.loop(start, stop, 1, [code.load(place) for place in places], body)
            for total, place in zip(sums, places, strict=True):
                code.store(total, place)
            return context.get_dummy_value()

        return signature, generate

    return gather


def _scatter(vectors: int) -> Any:
    @intrinsic
    def scatter(typing: Any, values: Any, columns: Any, start: Any, stop: Any, factor: Any, d: Any, d_at: Any, w: Any, w_at: Any, w_row: Any) -> Any:  # fmt: skip
        """W[columns[p]] += factor * values[p] * d for p in [start, stop), for ``vectors`` vectors of each row of W."""
        i8 = types.int64
        signature = types.void(values, columns, i8, i8, values.dtype, d, i8, w, i8, i8)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values, columns, start, stop, factor, d, d_at, w, w_at, w_row = args
            code = _Code(context, builder, signature.args[0])
            zero = ir.Constant(_INT, 0)
            values = code.pointer(signature.args[0], values, zero)
            columns = code.pointer(signature.args[1], columns, zero)
            d = code.pointer(signature.args[5], d, d_at)
            w = code.pointer(signature.args[7], w, w_at)
            factors = code.splat(factor)
            line_d = [builder.fmul(factors, code.load(code.at(d, v * code.lanes))) for v in range(vectors)]

            def body(p: Any, _: Sequence[Any]) -> list[Any]:
                x = code.splat(builder.load(code.at(values, p)))
                column = builder.sext(builder.load(code.at(columns, p)), _INT)
                line = code.at(w, (column, w_row))
                for v in range(vectors):
                    place = code.at(line, v * code.lanes)
                    code.store(code.fma(x, line_d[v], code.load(place)), place)
                return []

            code.loop(start, stop, 1, [], body)
            return context.get_dummy_value()

        return signature, generate

    return scatter


def _blend(lines: int) -> Any:
    @intrinsic
    def blend(
        typing: Any, n: Any, values: Any, columns: Any, start: Any, factor: Any, w: Any, w_at: Any, z: Any, z_at: Any
    ) -> Any:
        """z += sum over the ``lines`` p from start on of factor * values[p] * W[columns[p]], rows of n numbers, read in their order."""
        i8 = types.int64
        signature = types.void(i8, values, columns, i8, values.dtype, w, i8, z, i8)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            n, values, columns, start, factor, w, w_at, z, z_at = args
            code = _Code(context, builder, signature.args[1])
            values = code.pointer(signature.args[1], values, start)
            columns = code.pointer(signature.args[2], columns, start)
            w = code.pointer(signature.args[5], w, w_at)
            z = code.pointer(signature.args[7], z, z_at)
            xs = [code.splat(builder.fmul(factor, builder.load(code.at(values, p)))) for p in range(lines)]
            rows = [code.at(w, (builder.sext(builder.load(code.at(columns, p)), _INT), n)) for p in range(lines)]

            def body(j: Any, _: Sequence[Any]) -> list[Any]:
                place = code.at(z, j)
                total = code.load(place)
                for x, row in zip(xs, rows, strict=True):
                    total = code.fma(x, code.load(code.at(row, j)), total)
                code.store(total, place)
                return []

            code.loop(ir.Constant(_INT, 0), n, code.lanes, [], body)
            return context.get_dummy_value()

        return signature, generate

    return blend


tile_nn = {(m, v): _tile_nn(m, v) for m in (1, 2, TILE_ROWS) for v in (1, TILE_VECTORS)}
tile_nt = {shape: _tile_nt(*shape) for shape in ((1, 1), (1, 4), (4, 4))}
gather = {v: _gather(v) for v in range(1, SPARSE_VECTORS + 1)}
blend = {lines: _blend(lines) for lines in (1, 4)}
scatter = {v: _scatter(v) for v in range(1, SPARSE_VECTORS + 1)}


def on_stack(n_bytes: int) -> Any:
    """A function: an array of so many bytes, which is there until the kernel returns; its numbers are another array's."""

    @intrinsic
    def room(typing: Any, array: Any) -> Any:
        """What lies in it is anything."""
        own = types.Array(array.dtype, 1, "C")

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            number, size = context.get_data_type(array.dtype), array.dtype.bitwidth // 8
            kept = cgutils.alloca_once(builder, ir.ArrayType(number, n_bytes // size))
            kept.align = CACHE_LINE
            made = context.make_array(own)(context, builder)
            data = builder.bitcast(kept, number.as_pointer())
            shape, strides = [ir.Constant(_INT, n_bytes // size)], [ir.Constant(_INT, size)]
            populate_array(made, data=data, shape=shape, strides=strides, itemsize=strides[0], meminfo=None)
            return made._getvalue()

        return own(array), generate

    return room


@intrinsic
def fill_rows(typing: Any, m: Any, n: Any, row: Any, row_at: Any, c: Any, c_at: Any) -> Any:
    """Each of the m rows of C becomes ``row``, n numbers of whole vectors."""
    i8 = types.int64
    signature = types.void(i8, i8, row, i8, c, i8)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        m, n, row, row_at, c, c_at = args
        code = _Code(context, builder, signature.args[2])
        row, c = code.pointer(signature.args[2], row, row_at), code.pointer(signature.args[4], c, c_at)
        zero = ir.Constant(_INT, 0)

        def line(i: Any, _: Sequence[Any]) -> list[Any]:
            start = code.at(c, (i, n))

            def vector(j: Any, _: Sequence[Any]) -> list[Any]:
                code.store(code.load(code.at(row, j)), code.at(start, j))
                return []

            code.loop(zero, n, code.lanes, [], vector)
            return []

        code.loop(zero, m, 1, [], line)
        return context.get_dummy_value()

    return signature, generate


def _by_instruction(code: _Code, chosen: Any, vector: Any, columns: Any) -> tuple[Any, Any]:
    """The chosen numbers of a vector, and their columns, moved to its front."""
    name = f"llvm.x86.avx512.mask.compress.v{code.lanes}"
    return (
        code.call(f"{name}f{code.size * 8}", vector.type, vector, ir.Constant(vector.type, None), chosen),
        code.call(f"{name}i32", columns.type, columns, ir.Constant(columns.type, None), chosen),
    )


def _by_table(code: _Code, chosen: Any, vector: Any, columns: Any) -> tuple[Any, Any]:
    """The same by a table of what is moved where: of the words of four bytes that numbers are made of, and of columns."""
    lanes, words = code.lanes, code.size // 4
    orders = [sorted(range(lanes), key=lambda lane: not mask >> lane & 1) for mask in range(2**lanes)]
    of_words = [[lane * words + k for lane in order for k in range(words)] for order in orders]
    mask = code.builder.zext(code.builder.bitcast(chosen, ir.IntType(lanes)), _INT)
    pieces = code.builder.bitcast(vector, ir.VectorType(ir.FloatType(), lanes * words))
    moved = code.call("llvm.x86.avx2.permps", pieces.type, pieces, code.line_of(of_words, mask))
    first = code.builder.sub(columns, ir.Constant(columns.type, list(range(lanes))))
    return code.builder.bitcast(moved, code.vector), code.builder.add(first, code.line_of(orders, mask))


@intrinsic
def compress(typing: Any, x: Any, n: Any, values: Any, columns: Any, p: Any) -> Any:
    """The nonzero numbers of x[:n], n of whole vectors, and their columns, from p on; where they end.

    A whole vector is written each time: beyond the end there must be room for one more. Needs ``MOVES_TOGETHER``.
    """
    i8 = types.int64
    signature = i8(x, i8, values, columns, i8)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, n, values, columns, p = args
        code, zero = _Code(context, builder, signature.args[0]), ir.Constant(_INT, 0)
        lanes, i4 = code.lanes, ir.IntType(32)
        x, values, columns = (
            code.pointer(signature.args[i], array, zero) for i, array in ((0, x), (2, values), (3, columns))
        )
        column_vector = ir.VectorType(i4, lanes)
        moved = _by_instruction if HAS_COMPRESS else _by_table

        def body(i: Any, carried: Sequence[Any]) -> list[Any]:
            (end,) = carried
            vector = code.load(code.at(x, i))
            chosen = builder.fcmp_unordered("!=", vector, code.zero)
            first = builder.insert_element(ir.Constant(column_vector, None), builder.trunc(i, i4), ir.Constant(i4, 0))
            numbers = builder.add(
                builder.shuffle_vector(first, first, ir.Constant(column_vector, None)),
                ir.Constant(column_vector, list(range(lanes))),
            )
            front, places = moved(code, chosen, vector, numbers)
            code.store(front, code.at(values, end))
            builder.store(places, builder.bitcast(code.at(columns, end), column_vector.as_pointer()), align=4)
            mask = builder.bitcast(chosen, ir.IntType(lanes))
            return [builder.add(end, builder.zext(builder.ctpop(mask), _INT))]

        return code.loop(zero, n, lanes, [p], body)[0]

    return signature, generate


# --- Numbers as bits, and threads -------------------------------------------------------------------------------------


@intrinsic
def power_of_two(typing: Any, exponent: Any, like: Any) -> Any:
    """2**exponent in the type of ``like``, for an int32 exponent in that type's normal range, by setting its bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = context.get_data_type(signature.return_type)
        single = signature.return_type == types.float32
        integer = ir.IntType(32 if single else 64)
        bias, shift = (127, 23) if single else (1023, 52)
        wide = args[0] if single else builder.sext(args[0], integer)
        bits = builder.shl(builder.add(wide, ir.Constant(integer, bias)), ir.Constant(integer, shift))
        return builder.bitcast(bits, number)

    return like(types.int32, like), generate


@intrinsic
def split_power(typing: Any, x: Any) -> Any:
    """(e, m) with x = 2**e * m and m in [2/3, 4/3), in the type of x, for a positive normal number; of others nothing useful."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = context.get_data_type(signature.args[0])
        single = signature.args[0] == types.float32
        integer = ir.IntType(32 if single else 64)
        shift, least = (23, 0x3F2AAAAB) if single else (52, 0x3FE5555555555555)
        bits = builder.bitcast(args[0], integer)
        e = builder.ashr(builder.sub(bits, ir.Constant(integer, least)), ir.Constant(integer, shift))
        m = builder.bitcast(builder.sub(bits, builder.shl(e, ir.Constant(integer, shift))), number)
        return context.make_tuple(builder, signature.return_type, [builder.sitofp(e, number), m])

    return types.UniTuple(x, 2)(x), generate


@intrinsic
def turn_block(typing: Any, source: Any, source_at: Any, source_row: Any, target: Any, target_at: Any, target_row: Any) -> Any:  # fmt: skip
    """A block of as many rows as a vector has numbers, turned: target[j, i] = source[i, j], by exchanges between pairs of rows."""
    i8 = types.int64
    signature = types.void(source, i8, i8, target, i8, i8)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, source_at, source_row, target, target_at, target_row = args
        code = _Code(context, builder, signature.args[0])
        lanes = code.lanes
        source = code.pointer(signature.args[0], source, source_at)
        target = code.pointer(signature.args[3], target, target_at)
        rows = [code.load(code.at(source, (source_row, i))) for i in range(lanes)]
        step = 1
        while step < lanes:
            # Of each pair of rows, every second run of ``step`` numbers changes places.
            upper = [k + lanes - step if k & step else k for k in range(lanes)]
            lower = [k + lanes if k & step else k + step for k in range(lanes)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), mask) for mask in (upper, lower)]
            for i in range(lanes):
                if not i & step:
                    pair = rows[i], rows[i + step]
                    rows[i], rows[i + step] = (builder.shuffle_vector(*pair, mask) for mask in masks)
            step *= 2
        for i in range(lanes):
            code.store(rows[i], code.at(target, (target_row, i)))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def gather_panel(typing: Any, k: Any, b: Any, b_at: Any, b_row: Any, panel: Any) -> Any:
    """A tile's width of k lines of B, one after the other."""
    signature = types.void(types.int64, b, types.int64, types.int64, panel)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        k, b, b_at, b_row, panel = args
        code = _Code(context, builder, signature.args[1])
        zero = ir.Constant(_INT, 0)
        b, panel = code.pointer(signature.args[1], b, b_at), code.pointer(signature.args[4], panel, zero)

        def body(i: Any, _: Sequence[Any]) -> list[Any]:
            source, target = code.at(b, (i, b_row)), code.at(panel, (i, TILE_VECTORS * code.lanes))
            for v in range(TILE_VECTORS):
                code.store(code.load(code.at(source, v * code.lanes)), code.at(target, v * code.lanes))
            return []

        code.loop(zero, k, 1, [], body)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def fetch(typing: Any, array: Any, start: Any, stop: Any) -> Any:
    """Ask for numbers from start to stop, which will be read soon, and go on."""
    signature = types.void(array, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, start, stop = args
        code = _Code(context, builder, signature.args[0])
        first = code.pointer(signature.args[0], array, ir.Constant(_INT, 0))
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        read, keep, data = (ir.Constant(word, value) for value in (0, 2, 1))

        def body(p: Any, _: Sequence[Any]) -> list[Any]:
            builder.call(function, [builder.bitcast(code.at(first, p), byte), read, keep, data])
            return []

        code.loop(start, stop, CACHE_LINE // code.size, [], body)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def arrive(typing: Any, counter: Any) -> Any:
    """Add one to ``counter[0]``, atomically; every write before it is seen by who reads the counter."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", pointer, ir.Constant(_INT, 1), "seq_cst")

    return types.int64(counter), generate


@intrinsic
def arrived(typing: Any, counter: Any) -> Any:
    """The present ``counter[0]``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(pointer, "seq_cst", 8)

    return types.int64(counter), generate


@intrinsic
def give_way(typing: Any) -> Any:
    """Let another thread of this machine run: POSIX's sched_yield."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), []), "sched_yield")
        return builder.call(function, [])

    return types.int32(), generate
