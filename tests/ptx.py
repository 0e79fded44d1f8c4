"""A GPU in Python that runs PTX, what Numba's compiler makes of a kernel: so that it is run, and not only compiled, where there is no GPU.

Scalar, a thread at a time from barrier to barrier, for kernels and inputs that are small. It knows the instructions that the kernels of
``fcnet.engines.cuda`` become, and says so where it meets another one; what they mean is NVIDIA's "Parallel Thread Execution ISA". Numbers
are rounded as the instruction says but for approximate ones, which are as exact as NumPy.

Found as errors: shared memory that one thread writes and another one reads or writes between the same two barriers, shared
memory or registers that are read before they are written (both are NaN, or missing, until then), addresses that are nobody's or
not a multiple of what they are read as, and waiting for what never comes. A copy that nobody waits for lands when it is waited for.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SHARED_WINDOW, GLOBAL = 1 << 40, 1 << 44
"""Where shared memory begins among all addresses, and where it ends at the latest; the host's memory lies above."""
MASK = {8: 0xFF, 16: 0xFFFF, 32: 0xFFFFFFFF, 64: 0xFFFFFFFFFFFFFFFF}
FORMATS = {"f32": "<f", "f64": "<d", "u32": "<I", "b32": "<I", "s32": "<i", "u64": "<Q", "b64": "<Q", "s64": "<q", "u8": "<B", "s8": "<b"}  # fmt: skip
NUMBERS = {"f32": np.float32, "f64": np.float64}


EARLY = False
"""Whether a copy that nobody waits for lands at once, and not when it is waited for."""


class Fault(AssertionError):
    """What a GPU would not say, or only in other words."""


# --- Memory -------------------------------------------------------------------------------------------------------------


Find = Callable[[int, int], tuple[memoryview, int]]
"""An address outside of shared memory and a number of bytes -> the memory that holds them, and where in it."""


@dataclass
class Block:
    """A block's shared memory, and who wrote and read its words since the last barrier."""

    shared: bytearray
    writers: dict[int, tuple[Thread, bytes]] = field(default_factory=dict)
    readers: dict[int, Thread | None] = field(default_factory=dict)

    def barrier(self) -> None:
        self.writers.clear()
        self.readers.clear()


class Thread:
    """Registers, and where it is."""

    def __init__(self, gpu: Gpu, block: Block, special: dict[str, int], n_registers: int) -> None:
        self.gpu, self.block, self.special = gpu, block, special
        self.registers: list[Any] = [None] * n_registers
        self.at = 0
        self.stopped: str | None = ""
        self.copies: list[tuple[int, int, int]] = []

    def _where(self, space: str, address: int, n_bytes: int) -> tuple[Any, int, bool]:
        if address % n_bytes:
            raise Fault(f"{address:#x} is no multiple of {n_bytes}")
        if space == "" and SHARED_WINDOW <= address < GLOBAL:
            space, address = "shared", address - SHARED_WINDOW
        if space == "shared":
            if address + n_bytes > len(self.block.shared):
                raise Fault(f"{address} is outside of {len(self.block.shared)} bytes of shared memory")
            return self.block.shared, address, True
        part, offset = self.gpu.find(address, n_bytes)
        return part, offset, False

    def load(self, space: str, kind: str, address: int) -> Any:
        form = FORMATS[kind]
        n_bytes = struct.calcsize(form)
        memory, offset, shared = self._where(space, address, n_bytes)
        if shared:
            for word in range(offset // 4, (offset + n_bytes + 3) // 4):
                writer = self.block.writers.get(word)
                if writer is not None and writer[0] is not self:
                    raise Fault(
                        f"{self} reads byte {offset} of shared memory that {writer[0]} wrote since the last barrier"
                    )
                self.block.readers[word] = self if self.block.readers.get(word, self) is self else None
        (value,) = struct.unpack_from(form, memory, offset)
        return NUMBERS[kind](value) if kind in NUMBERS else value & MASK[64]

    def store(self, space: str, kind: str, address: int, value: Any) -> None:
        if kind not in NUMBERS:
            kind, value = f"u{kind[1:]}", value & MASK[int(kind[1:])]
        self.write(space, address, struct.pack(FORMATS[kind], value))

    def write(self, space: str, address: int, data: bytes) -> None:
        memory, offset, shared = self._where(space, address, len(data))
        if shared:
            for word in range(offset // 4, (offset + len(data) + 3) // 4):
                part = data[4 * word - offset : 4 * word - offset + 4]
                writer = self.block.writers.get(word)
                if writer is not None and writer[0] is not self and writer[1] != part:
                    raise Fault(f"{self} and {writer[0]} write byte {offset} of shared memory between two barriers")
                if word in self.block.readers and self.block.readers[word] is not self and writer is None:
                    raise Fault(
                        f"{self} writes byte {offset} of shared memory that another one read since the last barrier"
                    )
                self.block.writers[word] = self, part
        memory[offset : offset + len(data)] = data

    def copy(self, to: int, source: int, n_bytes: int) -> None:
        self._where("shared", to, n_bytes)
        self._where("global", source, n_bytes)
        self.copies.append((to, source, n_bytes))
        if EARLY:
            self.land()

    def land(self) -> None:
        for to, source, n_bytes in self.copies:
            memory, offset, _ = self._where("global", source, n_bytes)
            self.write("shared", to, bytes(memory[offset : offset + n_bytes]))
        self.copies.clear()

    def run(self, pieces: list[Callable[[Thread], Any]]) -> None:
        """Up to the next barrier, or to where it looks for what others post."""
        while True:
            answer = pieces[self.at](self)
            if isinstance(answer, int):
                self.at = answer
            else:
                self.stopped, self.at = answer
                return

    def __repr__(self) -> str:
        return f"thread {self.special['%tid.x']} of block {self.special['%ctaid.x']}"


# --- Instructions -> Python ---------------------------------------------------------------------------------------------


def signed(value: int, n_bits: int) -> int:
    return value - (1 << n_bits) if value >> (n_bits - 1) else value


def truncated(a: int, b: int) -> tuple[int, int]:
    """Quotient and remainder toward zero."""
    q = abs(a) // abs(b)
    q = q if (a < 0) == (b < 0) else -q
    return q, a - q * b


def fma(kind: str, a: Any, b: Any, c: Any) -> Any:
    if kind == "f32":
        return np.float32(np.float64(a) * np.float64(b) + np.float64(c))
    return (
        math.fma(a, b, c)
        if hasattr(math, "fma")
        else np.float64(np.longdouble(a) * np.longdouble(b) + np.longdouble(c))
    )


def compared(how: str, a: Any, b: Any) -> bool:
    """Comparisons that end with u hold where one is not a number."""
    if isinstance(a, np.floating) and (math.isnan(a) or math.isnan(b)):
        return how in ("equ", "neu", "ltu", "leu", "gtu", "geu", "nan")
    how = how[:2]
    return {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}[how]


def converted(to: str, how: Sequence[str], source: str, value: Any) -> Any:
    """``cvt``: from a float to itself it rounds to whole numbers."""
    if source[0] == "f":
        if to[0] == "f":
            value = np.rint(value) if "rni" in how else value
            if "sat" in how:
                value = 0.0 if math.isnan(value) else min(max(value, 0.0), 1.0)
            return NUMBERS[to](value)
        whole = {"rzi": math.trunc, "rni": round, "rmi": math.floor, "rpi": math.ceil}[how[0]](value)
        return whole & MASK[int(to[1:])]
    value = value & MASK[int(source[1:])]
    value = signed(value, int(source[1:])) if source[0] == "s" else value
    return NUMBERS[to](value) if to[0] == "f" else value & MASK[int(to[1:])]


def bits_of(value: Any) -> int:
    return (
        int(value.view(np.uint32 if value.dtype == np.float32 else np.uint64))
        if isinstance(value, np.floating)
        else value
    )


def as_kind(kind: str, bits: int) -> Any:
    """Bits as a float or a word."""
    return (
        np.array(bits, np.uint32 if kind == "f32" else np.uint64).view(NUMBERS[kind])[()] if kind in NUMBERS else bits
    )


class Translation:
    """A kernel's PTX as Python functions, one for each stretch without a jump or a barrier."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"//[^\n]*", "", text)
        start = re.search(r"\.visible\s+\.entry\s+(\w+)\s*\(([^)]*)\)[^{]*\{", text)
        assert start, "no kernel"
        depth, end = 1, start.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        self.parameters = re.findall(r"(\w+_param_\d+)", start.group(2))
        self.registers: dict[str, int] = {}
        self.constants: dict[str, Any] = {"np": np, "math": math, "signed": signed, "truncated": truncated, "fma": fma, "compared": compared, "converted": converted, "bits_of": bits_of, "as_kind": as_kind, "Fault": Fault}  # fmt: skip
        self.labels: dict[str, int] = {}
        self._lines: list[list[str]] = [[]]
        for statement in self._statements(text[start.end() : end - 1]):
            if statement.endswith(":"):
                self._next()
                self.labels[statement[:-1]] = len(self._lines) - 1
            else:
                self._translate(statement)
        self.pieces = [self._compiled(k, lines) for k, lines in enumerate(self._lines)]

    def _statements(self, body: str) -> list[str]:
        body = re.sub(r"(\$\w+):", r"\1:;", body)
        body = re.sub(r"\{(?=\s*(\.reg|\.param|$))", "", body, flags=re.M)  # scopes; braces within an operand stay
        found = []
        for statement in body.split(";"):
            statement = " ".join(statement.split())
            statement = re.sub(r"^(\}\s*|\{\s+)+", "", statement)
            if statement and statement != "}" and not statement.startswith((".reg", ".param", ".loc", ".pragma")):
                found.append(statement)
        return found

    def _next(self) -> None:
        if self._lines[-1] or len(self._lines) == 1:
            self._lines.append([])

    def _compiled(self, k: int, lines: list[str]) -> Callable[[Thread], Any]:
        text = "\n    ".join(["def piece(t):", "R = t.registers", *lines, f"return {k + 1}"])
        for label, at in self.labels.items():
            text = text.replace(f"<{label}>", str(at))
        space = dict(self.constants)
        exec(compile(text, f"piece {k}", "exec"), space)
        return space["piece"]  # type: ignore[no-any-return]

    # -- Operands

    def _read(self, operand: str) -> str:
        operand = operand.strip()
        if operand.startswith(("%tid", "%ntid", "%ctaid", "%nctaid", "%dynamic")):
            return f"t.special[{operand!r}]"
        if operand.startswith("%"):
            return f"R[{self.registers.setdefault(operand, len(self.registers))}]"
        if operand.startswith(("0f", "0d")):
            kind = "f32" if operand[1] == "f" else "f64"
            name = f"c{len(self.constants)}"
            self.constants[name] = as_kind(kind, int(operand[2:], 16))
            return name
        if re.match(r"_cudapy_smem", operand):
            return "0"  # all dynamic shared memory begins at one place
        return f"({operand.rstrip('U')})"

    def _integer(self, operand: str, kind: str) -> str:
        """As the instruction's type sees it."""
        n_bits = int(kind[1:])
        text = f"({self._read(operand)} & {MASK[n_bits]})"
        return f"signed({text}, {n_bits})" if kind[0] == "s" else text

    def _address(self, operand: str) -> str:
        match = re.match(r"\[\s*([^+\]\s]+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
        assert match, operand
        return f"(({self._read(match[1])} + {match[2] or 0}) & {MASK[64]})"

    # -- One instruction

    def _translate(self, statement: str) -> None:
        match = re.match(r"(?:@(!?)(%\w+)\s+)?([\w.]+(?:::\w+)*)\s*(.*)$", statement)
        assert match, statement
        negated, predicate, opcode, rest = match.groups()
        operands = [one.strip() for one in re.findall(r"\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|[^,\s][^,]*", rest)]
        condition = f"if {'not ' if negated else ''}{self._read(predicate)}: " if predicate else ""
        name, *how = opcode.split(".")
        if name == "bra":
            self._lines[-1].append(f"{condition}return <{operands[0]}>")
            if condition:
                self._next()
            return
        if name in ("ret", "exit"):
            self._lines[-1].append(f"{condition}return None, 0")
            return
        if name == "bar":
            assert not condition
            self._lines[-1].append(f"return 'block', {len(self._lines)}")
            self._next()
            return
        line = self._instruction(name, how, operands)
        self._lines[-1].append(condition + line)
        if opcode.startswith("ld.relaxed"):  # may have to wait until others have gone on
            self._lines[-1].append(f"return 'others', {len(self._lines)}")
            self._next()

    def _instruction(self, name: str, how: list[str], operands: list[str]) -> str:
        kind = how[-1] if how else ""
        space = next((one for one in how if one in ("shared", "global", "local", "param")), "")
        if name == "ld":
            if space == "param":
                source = operands[1].strip("[]").split("+")[0]
                value = f"t.gpu.parameters[{source!r}]" if source in self.parameters else "0"
                return f"{self._read(operands[0])} = {value}"
            return f"{self._read(operands[0])} = t.load({space!r}, {kind!r}, {self._address(operands[1])})"
        if name == "st":
            if space == "param":
                return "pass"
            return f"t.store({space!r}, {kind!r}, {self._address(operands[0])}, {self._read(operands[1])})"
        if name == "cp":
            if how[1] == "wait_all":
                return "t.land()"
            return f"t.copy({self._address(operands[0])}, {self._address(operands[1])}, {operands[2]})"
        to, *given = operands
        if name == "mov" and "{" in to:
            low, high = to.strip("{} ").split(",")
            value = f"bits_of({self._read(given[0])})"
            return f"{self._read(low)}, {self._read(high)} = {value} & {MASK[32]}, {value} >> 32"
        if name == "mov" and "{" in given[0]:
            low, high = given[0].strip("{} ").split(",")
            kind = "f64" if to.startswith("%fd") else "u64"
            return f"{self._read(to)} = as_kind({kind!r}, {self._read(low)} | {self._read(high)} << 32)"
        target = self._read(to)
        if name == "mov":
            value = self._read(given[0])
            if kind[0] == "b" and to.startswith(("%f", "%r")):
                form = {"%fd": "f64", "%rd": "u64"}.get(to[:3], {"%f": "f32", "%r": "u32"}[to[:2]])
                return f"{target} = as_kind({form!r}, bits_of({value}))"
            return f"{target} = {value}" if kind[0] != "u" else f"{target} = {value} & {MASK[int(kind[1:])]}"
        if name == "cvta":
            return (
                f"{target} = {self._read(given[0])} + {SHARED_WINDOW if space == 'shared' and 'to' not in how else 0}"
            )
        if name == "setp":
            values = [self._integer(one, kind) if kind[0] != "f" else self._read(one) for one in given]
            values = [self._read(one) for one in given] if kind[0] == "f" else values
            return f"{target} = compared({how[0]!r}, {', '.join(values)})"
        if name == "selp":
            first, second, which = map(self._read, given)
            if kind[0] != "f":
                first, second = (f"{one} & {MASK[int(kind[1:])]}" for one in (first, second))
            return f"{target} = ({first}) if {which} else ({second})"
        if name == "cvt":
            return f"{target} = converted({how[-2]!r}, {how[:-2]!r}, {how[-1]!r}, {self._read(given[0])})"
        if kind == "pred":
            a, *b = map(self._read, given)
            return f"{target} = " + {"and": lambda: f"{a} and {b[0]}", "or": lambda: f"{a} or {b[0]}", "xor": lambda: f"bool({a}) != bool({b[0]})", "not": lambda: f"not {a}"}[name]()  # fmt: skip
        if kind[0] == "f":
            return f"{target} = {self._float(name, how, kind, [self._read(one) for one in given])}"
        return f"{target} = ({self._whole(name, how, kind, given)}) & {MASK[64 if 'wide' in how else int(kind[1:])]}"

    def _float(self, name: str, how: list[str], kind: str, given: list[str]) -> str:
        number = f"np.{NUMBERS[kind].__name__}"
        a, b = given[0], given[1] if len(given) > 1 else ""
        forms = {
            "add": f"{a} + {b}", "sub": f"{a} - {b}", "mul": f"{a} * {b}", "div": f"{a} / {b}", "neg": f"-{a}", "abs": f"abs({a})",
            "rcp": f"{number}(1.0) / {a}", "sqrt": f"np.sqrt({a})", "ex2": f"np.exp2({a})", "lg2": f"np.log2({a})",
            "max": f"np.fmax({a}, {b})", "min": f"np.fmin({a}, {b})", "copysign": f"np.copysign({b}, {a})",
        }  # fmt: skip
        if name == "fma":
            return f"fma({kind!r}, {', '.join(given)})"
        if name not in forms:
            raise Fault(f"the instruction {name}.{'.'.join(how)} is not known here")
        return f"{number}({forms[name]})"

    def _whole(self, name: str, how: list[str], kind: str, given: list[str]) -> str:
        n_bits = int(kind[1:])
        raw = [self._integer(one, kind) for one in given]
        a, b = raw[0], raw[1] if len(raw) > 1 else ""
        if name == "mul" and "hi" in how:
            return f"({a} * {b}) >> {n_bits}"
        if name == "shf":
            low, high, by = (self._integer(one, "u32") for one in given)
            return f"((({high} << 32) | {low}) << ({by} & 31)) >> 32"
        if name == "bfi":
            c, d = (self._read(one) for one in given[2:])
            field_mask = f"(((1 << {d}) - 1) << {c})"
            return f"({b} & ~{field_mask}) | (({a} << {c}) & {field_mask})"
        amount = f"({self._read(given[1])} & {MASK[32]})" if len(given) > 1 else ""
        forms = {
            "add": f"{a} + {b}", "sub": f"{a} - {b}", "mul": f"{a} * {b}", "neg": f"-{a}", "not": f"~{a}", "and": f"{a} & {b}", "or": f"{a} | {b}",
            "xor": f"{a} ^ {b}", "shl": f"{a} << min({amount}, 64)", "shr": f"{a} >> min({amount}, 64)", "max": f"max({a}, {b})",
            "min": f"min({a}, {b})", "div": f"truncated({a}, {b})[0]", "rem": f"truncated({a}, {b})[1]", "abs": f"abs({a})",
        }  # fmt: skip
        if name == "mad":
            return f"{a} * {b} + {raw[2]}"
        if name not in forms:
            raise Fault(f"the instruction {name}.{'.'.join(how)} is not known here")
        return forms[name]


# --- A grid -------------------------------------------------------------------------------------------------------------


class Gpu:
    """Runs a kernel's PTX."""

    def __init__(self, translation: Translation, find: Find) -> None:
        self.translation, self.find = translation, find
        self.parameters: dict[str, int] = {}

    def launch(self, n_blocks: int, n_threads: int, n_bytes: int, values: Sequence[int]) -> None:
        """Run it, with the values of its parameters."""
        names = self.translation.parameters
        self.parameters = dict(zip(names, values, strict=True))
        everyone: list[list[Thread]] = []
        for b in range(n_blocks):
            block = Block(bytearray(b"\xff" * n_bytes))
            special = {"%ctaid.x": b, "%nctaid.x": n_blocks, "%ntid.x": n_threads, "%dynamic_smem_size": n_bytes}
            n_registers = len(self.translation.registers)
            everyone.append([Thread(self, block, special | {"%tid.x": t}, n_registers) for t in range(n_threads)])
        self._run(everyone)

    def _run(self, everyone: list[list[Thread]]) -> None:
        pieces, idle = self.translation.pieces, 0
        threads = [thread for block in everyone for thread in block]
        with np.errstate(all="ignore"):
            while any(thread.stopped is not None for thread in threads):
                before = [thread.stopped for thread in threads]
                for block in everyone:
                    for thread in block:
                        if thread.stopped in ("", "others"):
                            thread.run(pieces)
                    stopped = {thread.stopped for thread in block}
                    if stopped == {"block"}:
                        block[0].block.barrier()
                        for thread in block:
                            thread.stopped = ""
                    elif len(stopped) > 1 and "others" not in stopped:
                        raise Fault(f"threads of a block wait at different barriers: {stopped}")
                idle = idle + 1 if [thread.stopped for thread in threads] == before else 0
                if idle > 1000:
                    raise Fault("threads wait for what never comes")
