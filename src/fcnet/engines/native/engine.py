"""The fast engine: Numba kernels on the CPU, under the engine contract.

Here are its arrays and threads; the arithmetic is in ``kernels.py``. Threads are started for each call and gone after it, so
nothing of this engine survives in a forked child, and two trainings never share a pool.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from fcnet import activations, costs, counters, optimizers
from fcnet.data.arrays import Part, Rows, TargetKind, is_sparse
from fcnet.engines.contract import Metrics, Placement, Plan, Program, Report, TrainState, accuracy_rule, initial_state
from fcnet.engines.native import elementary, kernels
from fcnet.engines.native.kernels import Data, Tables, Work
from fcnet.engines.native.vectors import padded
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer
from fcnet.model import Model, biases_name, weights_name

ACTIVATIONS = {
    activations.sigmoid: elementary.SIGMOID,
    activations.tanh: elementary.TANH,
    activations.relu: elementary.RELU,
    activations.leaky_relu: elementary.LEAKY_RELU,
    activations.elu: elementary.ELU,
    activations.selu: elementary.SELU,
    activations.gelu: elementary.GELU,
    activations.silu: elementary.SILU,
    activations.mish: elementary.MISH,
    activations.softplus: elementary.SOFTPLUS,
    activations.linear: elementary.LINEAR,
    activations.softmax: elementary.SOFTMAX,
}
COSTS = {
    costs.log_likelihood: kernels.LOG_LIKELIHOOD,
    costs.cross_entropy: kernels.CROSS_ENTROPY,
    costs.quadratic: kernels.QUADRATIC,
}
RULES = {
    optimizers.SGD_RULE: kernels.SGD,
    optimizers.MOMENTUM_RULE: kernels.MOMENTUM,
    optimizers.NESTEROV_RULE: kernels.NESTEROV,
    optimizers.ADAM_RULE: kernels.ADAM,
}

BLOCK = 256
"""Rows at a time in ``evaluate``, ``forward`` and ``cost_and_gradient``."""
TURNED_NUMBERS = 1 << 17
"""Room for a hidden layer's weights, turned for the way back; wider layers are read as they are."""
FORWARD_NUMBERS = 1 << 23
"""About so many numbers of its input ``forward`` turns into the program's type at a time."""
TRANSPOSED_BELOW = 32
"""A layer after the first with fewer outputs keeps its weights transposed, so that vectors run along its inputs."""
CACHE_LINE = 64
"""Bytes that a processor's core fetches and owns together."""
THREAD_OPERATIONS = 1_000_000
"""Operations a step that pay for one thread more: below, threads wait for each other's lines of weights to cross over."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where everything lies in the flat arrays.

    Attributes:
        lines: ``(n_layers, FIELDS)``, see ``kernels``.
        n_parameters: length of the array of parameters, and of each slot.
        n_row_numbers: length of the array that holds a batch on its way, for ``height`` rows.
        height: rows of a batch.
    """

    lines: NDArray[np.int64]
    n_parameters: int
    n_row_numbers: int
    height: int

    @classmethod
    def of(cls, model: Model, dtype: str, height: int, sparse: bool = False) -> Layout:
        """The layout of a model for batches of at most ``height`` rows."""
        lines = np.zeros((len(model.layers), kernels.FIELDS), np.int64)
        parameters = 0
        rows = 0 if sparse else height * padded(model.n_in, dtype)
        before = 0
        for index, layer in enumerate(model.layers):
            n_in, n_out = layer.n_in, layer.n_out
            in_pad, out_pad = padded(n_in, dtype), padded(n_out, dtype)
            transposed = index > 0 and n_out < TRANSPOSED_BELOW
            w_at, b_at = parameters, parameters + (n_out * in_pad if transposed else n_in * out_pad)
            parameters = b_at + out_pad
            a_at = rows
            rows += 3 * height * out_pad
            f_at, d_at = a_at + height * out_pad, a_at + 2 * height * out_pad
            code = ACTIVATIONS[layer.activation_fn]
            has_dropout = layer.p_dropout > 0
            lines[index] = (
                n_in, n_out, in_pad, out_pad, transposed, code, w_at, b_at, before, a_at, f_at, d_at, has_dropout,
            )  # fmt: skip
            before = a_at
        return cls(lines, parameters, rows, height)

    def pack(self, arrays: dict[str, NDArray[Any]], dtype: str) -> NDArray[Any]:
        """Named arrays as one flat array."""
        flat = _zeros(self.n_parameters, dtype)
        for index in range(len(self.lines)):
            weights, biases = self._views(flat, index)
            weights[...] = arrays[weights_name(index)]
            biases[...] = arrays[biases_name(index)]
        return flat

    def unpack(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """A flat array as named arrays of their own."""
        arrays = {}
        for index in range(len(self.lines)):
            weights, biases = self._views(flat, index)
            arrays[weights_name(index)], arrays[biases_name(index)] = weights.copy("C"), biases.copy()
        return arrays

    def _views(self, flat: NDArray[Any], index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """A layer's weights ``(n_in, n_out)`` and biases ``(n_out,)`` in a flat array."""
        line = self.lines[index]
        n_in, n_out, w_at, b_at = line[[kernels.N_IN, kernels.N_OUT, kernels.W_AT, kernels.B_AT]]
        if line[kernels.TRANSPOSED]:
            width = line[kernels.IN_PAD]
            weights = flat[w_at : w_at + n_out * width].reshape(n_out, width)[:, :n_in].T
        else:
            width = line[kernels.OUT_PAD]
            weights = flat[w_at : w_at + n_in * width].reshape(n_in, width)[:, :n_out]
        return weights, flat[b_at : b_at + n_out]


@dataclass(frozen=True, eq=False)
class NativeData:
    """A part's rows, as the kernels read them."""

    arrays: Data
    n_rows: int
    kind: TargetKind
    n_threads: int

    @property
    def sparse(self) -> bool:
        """Whether rows are lists of nonzero numbers."""
        return len(self.arrays.dense) == 0


@dataclass(eq=False)
class Run:
    """A state in flat arrays, one of each for every member; ``gain`` is what layers' inputs are multiplied by at inference."""

    program: Program
    placement: Placement
    parameters: list[NDArray[Any]]
    slots: list[NDArray[Any]]
    step: int
    gain: NDArray[Any]
    layout: Layout | None = None
    works: list[Work] | None = None
    forward_layouts: dict[int, Layout] = field(default_factory=dict)


class NativeEngine:
    """Numba kernels on the CPU; see ``fcnet.engines.contract.Engine``."""

    name = "native"
    description = f"Numba {numba.__version__}: fused loops on the CPU, fcnet's own activations"

    def supports(self, program: Program, placement: Placement) -> str | None:
        """None where the engine can do this; else the reason why not."""
        if placement.device != "cpu":
            return "it runs on CPUs only."
        for index, layer in enumerate(program.model.layers):
            if layer.activation_fn not in ACTIVATIONS:
                return (
                    f"the activation {layer.activation_fn.name} of layer {index} is not one of fcnet's own; "
                    "the engine xla takes any function."
                )
        if program.cost not in COSTS:
            return f"the cost {program.cost.name} is not one of fcnet's own; the engine xla takes any function."
        if program.rule not in RULES:
            return f"the update rule {program.rule.name} is not one of fcnet's own; the engine xla takes any function."
        return None

    def put(self, part: Part, program: Program, placement: Placement) -> NativeData:
        """The rows in the program's type, as lists of nonzero numbers where most are zero."""
        dtype = program.dtype
        weights = np.ones(part.n_rows) if part.weights is None else part.weights
        labels = np.zeros(0, np.int32)
        targets = np.zeros((0, 1), dtype)
        if part.kind == "labels":
            labels = part.y.astype(np.int32)
        else:
            targets = np.ascontiguousarray(part.y, dtype)
        n_threads = _available_threads(placement)
        dense, values, columns, splits = _rows(part.X, dtype, n_threads, bool(program.model.layers[0].p_dropout))
        return NativeData(
            Data(dense, values, columns, splits, labels, targets, weights), part.n_rows, part.kind, n_threads
        )

    def start(self, program: Program, state: TrainState, placement: Placement) -> Run:
        """A state in flat arrays of the engine's own."""
        _say_that_it_compiles()
        layout = Layout.of(program.model, program.dtype, 1)
        members = [None] if program.members is None else range(program.members)
        parameters, slots = [], []
        for member in members:
            parameters.append(layout.pack(_of(state.parameters, member), program.dtype))
            packed = [layout.pack(_of(state.slots[slot], member), program.dtype) for slot in program.rule.slots]
            slots.append(_zeros((len(packed), layout.n_parameters), program.dtype))
            slots[-1][:] = np.reshape(packed, slots[-1].shape)
        return Run(program, placement, parameters, slots, state.step, _inference_gain(program))

    def advance(self, run: Run, data: NativeData, plan: Plan) -> Report:
        """Do a chunk of steps."""
        program, dtype = run.program, run.program.dtype
        gain = 1.0 / (1.0 - plan.dropout) if program.model.dropout_scaling == "training" else np.ones_like(plan.dropout)
        tables = Tables(
            plan.rows,
            plan.coefficients.astype(dtype),
            plan.l2.astype(dtype),
            gain.astype(dtype),
            counters.drop_threshold(plan.dropout),
            plan.keys,
            0.0,
        )
        if program.members is None:
            report, bad_step = self._advance(run, 0, data, tables, plan.n_steps)
            run.step += plan.n_steps
            return Report(report, bad_step)
        answers = [
            self._advance(run, member, data, _member_tables(tables, member), plan.n_steps)
            for member in range(program.members)
        ]
        run.step += plan.n_steps
        return Report(np.array([report for report, _ in answers]), np.array([bad for _, bad in answers]))

    def _advance(
        self, run: Run, member: int, data: NativeData, tables: Tables, n_steps: int
    ) -> tuple[NDArray[Any], int]:
        height = tables.rows.shape[1]
        n_threads = min(data.n_threads, _useful_threads(run.program.model, height, _density(data)))
        layout, works = self._room(run, height, data)
        arrays = _for_threads(data, n_threads)
        works[0].barrier[0] = 0
        report = np.full(n_steps, np.nan)
        bad = [-1] * n_threads

        def work(thread: int) -> None:
            bad[thread] = kernels.advance(
                layout.lines,
                run.parameters[member],
                run.slots[member],
                arrays,
                tables,
                works[0],
                n_steps,
                thread,
                n_threads,
                COSTS[run.program.cost],
                RULES[run.program.rule],
                report,
            )

        _in_threads(n_threads, work)
        return report, bad[0]

    def _room(self, run: Run, height: int, data: NativeData) -> tuple[Layout, list[Work]]:
        """The layout and the arrays for batches of a height; made once and kept."""
        if run.layout is None or run.works is None or run.layout.height < height:
            run.layout = Layout.of(run.program.model, run.program.dtype, height)
            run.works = [_work(run.layout, run.program.dtype, data) for _ in range(data.n_threads)]
        return run.layout, run.works

    def evaluate(self, run: Run, data: NativeData) -> list[Metrics]:
        """Cost and accuracy on data, of each member."""
        program = run.program
        rule = accuracy_rule(program, data.kind)
        layout, works = self._room(run, BLOCK, data)
        answers = []
        for parameters in run.parameters:
            sums = np.zeros((-(-data.n_rows // BLOCK), 3))

            def work(thread: int, parameters: NDArray[Any] = parameters, sums: NDArray[Any] = sums) -> None:
                for block in range(thread, len(sums), data.n_threads):
                    kernels.evaluate(
                        layout.lines,
                        parameters,
                        data.arrays,
                        works[thread],
                        block * BLOCK,
                        min(data.n_rows, (block + 1) * BLOCK),
                        run.gain,
                        COSTS[program.cost],
                        rule == "threshold",
                        sums[block],
                    )

            _in_threads(min(data.n_threads, len(sums)), work)
            cost, right, weight = sums.sum(axis=0)
            answers.append(Metrics(float(cost / weight), float(right / weight) if rule else None))
        return answers

    def forward(self, run: Run, X: Rows) -> NDArray[Any]:
        """Outputs for rows without dropout."""
        program, n_rows = run.program, X.shape[0]
        height = min(BLOCK, 1 << (n_rows - 1).bit_length())
        layout = run.forward_layouts.get(height)
        if layout is None:
            layout = run.forward_layouts[height] = Layout.of(program.model, program.dtype, height)
        n_threads = 1 if n_rows <= BLOCK else min(_available_threads(run.placement), -(-n_rows // BLOCK))
        answers = np.empty((len(run.parameters), n_rows, program.model.n_out), program.dtype)
        at_a_time = max(1, FORWARD_NUMBERS // program.model.n_in)
        for start in range(0, n_rows, at_a_time):
            some = X[start : start + at_a_time]
            rows = np.ascontiguousarray(some.toarray() if is_sparse(some) else some, program.dtype)
            for parameters, answer in zip(run.parameters, answers[:, start : start + at_a_time], strict=True):
                work = functools.partial(
                    kernels.outputs, layout.lines, layout.n_row_numbers, height, parameters, rows, run.gain, answer
                )
                _in_threads(n_threads, lambda thread, work=work: work(thread, n_threads))  # type: ignore[misc]
        return answers[0] if program.members is None else answers

    def cost_and_gradient(self, run: Run, data: NativeData, l2: float = 0.0) -> tuple[float, dict[str, NDArray[Any]]]:
        """Mean cost without dropout + 0.5 * l2 * sum(w^2), and its gradient."""
        program, dtype = run.program, run.program.dtype
        layout, works = self._room(run, BLOCK, data)
        steps = -(-data.n_rows // BLOCK)
        rows = np.full(steps * BLOCK, -1, np.int32)
        rows[: data.n_rows] = np.arange(data.n_rows)
        layers = len(program.model.layers)
        tables = Tables(
            rows.reshape(steps, BLOCK),
            np.zeros((steps, 1), dtype),
            np.zeros(steps, dtype),
            np.tile(run.gain, (steps, 1)),
            np.zeros((steps, layers), np.uint32),
            np.zeros((steps, layers, 2), np.uint32),
            float(data.arrays.weights.sum()),
        )
        parameters, gradient = run.parameters[0], np.zeros((1, layout.n_parameters), dtype)
        report = np.zeros(steps)
        works[0].barrier[0] = 0
        arrays = _for_threads(data, data.n_threads)
        code = COSTS[program.cost]

        def work(thread: int) -> None:
            kernels.advance(
                layout.lines, parameters, gradient, arrays, tables, works[0], steps, thread, data.n_threads, code,
                kernels.GRADIENT, report,
            )  # fmt: skip

        _in_threads(data.n_threads, work)
        weights = layout.unpack(parameters)
        answer = layout.unpack(gradient[0])
        penalty = 0.0
        for index in range(layers):
            w = weights[weights_name(index)]
            penalty += 0.5 * l2 * float(np.sum(w.astype(np.float64) ** 2))
            answer[weights_name(index)] += np.asarray(l2, dtype) * w
        return float(report.sum()) + penalty, answer

    def snapshot(self, run: Run) -> TrainState:
        """The state as named arrays."""
        layout = Layout.of(run.program.model, run.program.dtype, 1)
        parameters = [layout.unpack(flat) for flat in run.parameters]
        slots = [
            {slot: layout.unpack(flat) for slot, flat in zip(run.program.rule.slots, member, strict=True)}
            for member in run.slots
        ]
        if run.program.members is None:
            return TrainState(parameters[0], slots[0], run.step)
        stacked = {slot: _stack([member[slot] for member in slots]) for slot in run.program.rule.slots}
        return TrainState(_stack(parameters), stacked, run.step)


def warm_up() -> None:
    """Compile every kernel for float32 and float64, or load it from the cache."""
    engine, placement = NativeEngine(), Placement(threads=1)
    model = Model((FullyConnectedLayer(2, 2), SoftmaxLayer(2, 2)))
    for dtype in ("float32", "float64"):
        program = Program(model, costs.log_likelihood, optimizers.SGD_RULE, dtype)
        data = engine.put(Part(np.array([[0.0, 0.0], [0.0, 1.0]]), np.array([0, 1])), program, placement)
        run = engine.start(program, initial_state(program, model.initial_parameters(0)), placement)
        engine.cost_and_gradient(run, data)
        engine.evaluate(run, data)
        engine.forward(run, np.zeros((1, 2)))


@functools.cache
def _say_that_it_compiles() -> None:
    """A line on standard error where the kernels do not lie in the cache yet: the first run on a machine waits for them."""
    function = kernels.advance
    stored = f"kernels.{function.__name__}-{function.py_func.__code__.co_firstlineno}.*.nbi"
    if not any(Path(function.stats.cache_path).glob(stored)):
        print("fcnet: compiling the native engine for this machine; this is done once", file=sys.stderr, flush=True)


# --- Arrays -----------------------------------------------------------------------------------------------------------


def _of(arrays: dict[str, NDArray[Any]], member: int | None) -> dict[str, NDArray[Any]]:
    return arrays if member is None else {name: array[member] for name, array in arrays.items()}


def _stack(members: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.stack([member[name] for member in members]) for name in members[0]}


def _member_tables(tables: Tables, member: int) -> Tables:
    *arrays, total = tables
    return Tables(*(array[member] for array in arrays), total)  # type: ignore[call-arg]


def _inference_gain(program: Program) -> NDArray[Any]:
    """What each layer's input is multiplied by without dropout."""
    model = program.model
    scaled = model.dropout_scaling == "inference"
    return np.array([1.0 - layer.p_dropout if scaled else 1.0 for layer in model.layers], program.dtype)


def _work(layout: Layout, dtype: str, data: NativeData) -> Work:
    """Zeros to compute in."""
    first = layout.lines[0]
    widest = int(layout.lines[:, [kernels.IN_PAD, kernels.OUT_PAD]].max())
    return Work(
        _zeros(layout.n_row_numbers, dtype),
        _zeros((data.n_threads, max(6 * widest, kernels.TILE_NUMBERS)), dtype),
        np.zeros((data.n_threads, widest), dtype),
        np.zeros((data.n_threads, widest), np.int32),
        _zeros((data.n_threads, TURNED_NUMBERS if len(layout.lines) > 2 else 0), dtype),
        _zeros(first[kernels.N_IN] * first[kernels.OUT_PAD] if data.sparse else 0, dtype),
        np.zeros(layout.height),
        np.zeros(8, np.int64),
    )


def _zeros(shape: int | tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Zeros that start on a line of the cache, so that no vector lies across two."""
    n_bytes = math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
    room = np.zeros(n_bytes + CACHE_LINE, np.uint8)
    start = -room.ctypes.data % CACHE_LINE
    return room[start : start + n_bytes].view(dtype).reshape(shape)


def _rows(X: Rows, dtype: str, n_threads: int, dropped: bool) -> tuple[NDArray[Any], ...]:
    """Rows as the kernels read them: dense, values, columns and splits, see ``kernels.Data``; dense or the others are empty.

    Lists of nonzero numbers are kept where few numbers are not zero; a dense matrix whose numbers are ``dropped`` stays as it
    is, since its masks are drawn for all of them.
    """
    none = np.zeros(0, dtype), np.zeros(0, np.int32), np.zeros((1, n_threads + 1), np.int64)
    if is_sparse(X):
        if X.nnz >= kernels.SPARSE_BELOW * math.prod(X.shape):
            return X.astype(dtype).toarray(), *none
        values, columns, starts = X.data.astype(dtype), X.indices.astype(np.int32), X.indptr.astype(np.int64)
    else:
        dense = np.ascontiguousarray(X, dtype)
        if dropped or np.count_nonzero(dense) >= kernels.SPARSE_BELOW * dense.size:
            return dense, *none
        starts = np.zeros(len(dense) + 1, np.int64)
        np.cumsum(np.count_nonzero(dense, axis=1), out=starts[1:])
        values, columns = np.empty(starts[-1], dtype), np.empty(starts[-1], np.int32)
        kernels.nonzero_lists(dense, starts, values, columns)
    return np.zeros((0, 1), dtype), values, columns, _splits(columns, starts, X.shape[1], n_threads)


def _splits(columns: NDArray[np.int32], starts: NDArray[np.int64], n_in: int, n_threads: int) -> NDArray[np.int64]:
    """Where each thread's columns start and end in each row's list; the last line holds the threads' columns.

    Each thread has columns of about as many nonzero numbers.
    """
    share = np.cumsum(np.bincount(columns, minlength=n_in)) / max(1, len(columns))
    cuts = np.searchsorted(share, np.arange(n_threads + 1) / n_threads)
    cuts[0], cuts[-1] = 0, n_in
    splits = np.empty((len(starts), n_threads + 1), np.int64)
    kernels.split_rows(columns, starts, cuts, splits)
    splits[-1] = cuts
    return splits


def _for_threads(data: NativeData, n_threads: int) -> Data:
    """The rows for fewer threads than they were put for: one thread has all columns."""
    arrays = data.arrays
    if not data.sparse or n_threads == data.n_threads:
        return arrays
    return arrays._replace(splits=np.ascontiguousarray(arrays.splits[:, [0, -1]]))


def _density(data: NativeData) -> float:
    """The share of the inputs that are read."""
    if not data.sparse:
        return 1.0
    return len(data.arrays.values) / max(1, data.n_rows * int(data.arrays.splits[-1, -1]))


# --- Threads ----------------------------------------------------------------------------------------------------------


def _available_threads(placement: Placement) -> int:
    """As many as asked for; else as the usual environment variables say; else one a core that this process may use."""
    if placement.threads is not None:
        return placement.threads
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        if os.environ.get(name, "").isdecimal() and int(os.environ[name]) > 0:
            return int(os.environ[name])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _useful_threads(model: Model, batch: int, density: float) -> int:
    """As many threads as have enough to do in a step; a pure function of sizes, so that a run can be repeated."""
    first, *others = (6 * batch * layer.n_in * layer.n_out for layer in model.layers)
    threads = int((first * density + sum(others)) // THREAD_OPERATIONS)
    return max(1, min(threads, batch))


def _in_threads(n_threads: int, work: Callable[[int], None]) -> None:
    """Call ``work(0)`` here and ``work(1)`` and so on in threads of their own, all at the same time."""
    others = [threading.Thread(target=work, args=(thread,)) for thread in range(1, n_threads)]
    for other in others:
        other.start()
    work(0)
    for other in others:
        other.join()
