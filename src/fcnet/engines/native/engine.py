"""The fast engine: Numba kernels on the CPU, under the engine contract.

Here are its arrays and threads; the arithmetic is in ``kernels``. Threads are started for each call and gone after it, so
nothing of this engine survives in a forked child, and two trainings never share a pool.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet import counters
from fcnet.activations import softmax
from fcnet.data.arrays import Part, Rows, check_finite, is_sparse
from fcnet.engines.contract import OWN_SLOT, Metrics, Placement, Plan, Program, Report, TrainState, accuracy_rule
from fcnet.engines.native.ahead import entry
from fcnet.engines.native.codes import ACTIVATIONS, CODES, GRADIENT, RULES, constants_of
from fcnet.engines.native.layout import (
    ABANDONED,
    B_AT,
    COST_ROWS,
    GATHER_FROM,
    GATHERED_LINES,
    GATHERED_NUMBERS,
    HAS_DROPOUT,
    IN_PAD,
    IS_TABLE,
    KINDS,
    N_IN,
    N_OUT,
    N_SUMS,
    N_WAVES,
    OUT_PAD,
    ROOM,
    SUM_STEP,
    TABLE_ROWS,
    TILE_NUMBERS,
    W_AT,
    WIDE,
    Data,
    Layout,
    Tables,
    Work,
    ordered_factors,
    zeros,
)
from fcnet.engines.native.library import Entry
from fcnet.engines.native.rows import NativeData, as_kernels_read, density, for_threads, read_rows
from fcnet.engines.native.threads import available_threads, in_threads
from fcnet.layers import Layer, TableLayer
from fcnet.model import Model, is_weights, weights_name

BLOCK = 256
"""Rows at a time in ``evaluate`` and ``cost_and_gradient``."""
FORWARD_ROWS = 128
"""The same in ``forward``, whose rows come from memory, are looked at and then read again."""
FORWARD_NUMBERS = 1 << 23
"""About so many numbers of its input ``forward`` turns into the program's type at a time."""
THREAD_OPERATIONS = 1_000_000
"""Operations a step that pay for one thread more: below, threads wait for each other's lines of weights to cross over."""
START_OPERATIONS = 20_000_000
"""Operations of a whole call that pay for starting one thread more."""
UNIT_OPERATIONS = 200_000
"""The same where threads own units of the first layer, and little crosses over."""
UNITS = 32
"""Units of the first layer that a thread owns at least."""
UNIT_ROWS = 64
"""Where a batch has more rows, sharing them out costs less than repeating the later layers for all of them."""
UNITS_SHARE = 3.0
"""Threads own units where the first layer has so many times the operations of the others, which each thread repeats."""
WAVE_OPERATIONS = 40
"""About so many operations the cosine of a wave takes."""
GROUPS, GROUP_ROWS = 4, 16
"""Groups of a batch's rows with a gradient each, and the least rows of one."""


@dataclass(eq=False)
class Run:
    """A state in flat arrays, one of each for every member.

    Attributes:
        plain: what is done to layers' inputs at inference: what they are multiplied by, and thresholds and keys that drop nothing.
        scales: one number for each member, which its first layer's weights are to be multiplied by, see ``updates.learn_sparse``.
    """

    program: Program
    placement: Placement
    parameters: list[NDArray[Any]]
    slots: list[NDArray[Any]]
    step: int
    plain: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
    layout: Layout
    scales: list[NDArray[np.float64]]
    works: list[Work] = field(default_factory=list)
    askers: threading.local = field(default_factory=threading.local)

    def whole(self, member: int) -> NDArray[Any]:
        """A member's parameters, with weights that are kept as a product multiplied out."""
        if self.scales[member][0] == 1.0:
            return self.parameters[member]
        flat = zeros(len(self.parameters[member]), self.program.dtype)
        flat[:] = self.parameters[member]
        _multiply_out(self.layout, flat, self.scales[member].copy())
        return flat


class NativeEngine:
    """Numba kernels on the CPU; see ``fcnet.engines.contract.Engine``."""

    name = "native"

    @property
    def description(self) -> str:
        """What it is."""
        import importlib.metadata  # not needed to train

        return f"Numba {importlib.metadata.version('numba')}: fused loops on the CPU, fcnet's own activations"

    def supports(self, program: Program, placement: Placement) -> str | None:
        """None where the engine can do this; else the reason why not."""
        if placement.device != "cpu":
            return "it runs on CPUs only."
        if program.precision == "bf16":
            return "it multiplies float32 and float64 numbers; the engine xla rounds to bf16."
        for index, layer in enumerate(program.model.layers):
            if layer.activation_fn not in ACTIVATIONS:
                return (
                    f"the activation {layer.activation_fn.name} of layer {index} is not one of fcnet's own; "
                    "the engine xla takes any function."
                )
            if layer.activation_fn == softmax and getattr(layer, "parametric", False):
                return f"layer {index} is a parametric softmax; the engine xla takes any function."
        if program.cost.function not in CODES:
            return f"the cost {program.cost.name} is not one of fcnet's own; the engine xla takes any function."
        if program.rule not in RULES:
            return f"the update rule {program.rule.name} is not one of fcnet's own; the engine xla takes any function."
        return None

    def put(self, part: Part, program: Program, placement: Placement) -> NativeData:
        """The rows in the program's type, as lists of nonzero numbers where most are zero."""
        first = program.model.layers[0]
        if isinstance(first, TableLayer) and is_sparse(part.X):
            part = replace(part, X=part.X.toarray())
        dense = isinstance(first, TableLayer) or first.p_dropout > 0
        return read_rows(part, program.dtype, available_threads(placement.threads), dense)

    def start(self, program: Program, state: TrainState, placement: Placement) -> Run:
        """A state in flat arrays of the engine's own."""
        layout = Layout.of(program.model, program.dtype, 1)
        members = [None] if program.members is None else range(program.members)
        parameters, slots, scales = [], [], []
        for member in members:
            scale, own = _as_product(_of(state.parameters, member), _of(state.slots.get(OWN_SLOT, {}), member))
            scales.append(np.array([scale]))
            parameters.append(layout.pack(own, program.dtype))
            packed = [layout.pack(_of(state.slots[slot], member), program.dtype) for slot in program.rule.slots]
            slots.append(zeros((len(packed), layout.n_parameters), program.dtype))
            slots[-1][:] = np.reshape(packed, slots[-1].shape)
        return Run(program, placement, parameters, slots, state.step, _plain(program), layout, scales)

    def replace(self, run: Run, parameters: Mapping[str, NDArray[Any]]) -> None:
        """Put other parameters in the place of a run's."""
        for index, flat in enumerate(run.parameters):
            member = None if run.program.members is None else index
            flat[:] = run.layout.pack(_of(parameters, member), run.program.dtype)
            run.scales[index][0] = 1.0

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
            ordered_factors(program.model, plan.factors).astype(dtype),
            0.0,
        )
        if program.members is None:
            report, bad_step = self._steps(
                run, run.parameters[0], run.slots[0], run.scales[0], data, tables, plan.n_steps
            )
            run.step += plan.n_steps
            return Report(report, bad_step)
        answers = [
            self._steps(run, *arrays, data, _member_tables(tables, member), plan.n_steps)
            for member, arrays in enumerate(zip(run.parameters, run.slots, run.scales, strict=True))
        ]
        run.step += plan.n_steps
        return Report(np.array([report for report, _ in answers]), np.array([bad for _, bad in answers]))

    def _steps(
        self,
        run: Run,
        parameters: NDArray[Any],
        slots: NDArray[Any],
        scale: NDArray[np.float64],
        data: NativeData,
        tables: Tables,
        n_steps: int,
        gradient: bool = False,
    ) -> tuple[NDArray[Any], int]:
        """Steps of one network, or with ``gradient`` the sum of their gradients in ``slots``: each one's cost, the first bad one."""
        program, height = run.program, tables.rows.shape[1]
        sharing = _sharing(program.model, height, data, n_steps, units=not gradient)
        layout, works = self.room(run, height, data)
        if not data.sparse or layout.lines[0, HAS_DROPOUT]:  # kernels then read whole weights
            _multiply_out(layout, parameters, scale)
        arrays = for_threads(data, sharing.n_threads)
        rules = *_cost_of(program), GRADIENT if gradient else RULES[program.rule]
        report = np.full(n_steps, np.nan)
        bad = np.full(sharing.n_threads, -1)
        barrier = works[0].barrier
        barrier[0] = 0
        groups = zeros((2, sharing.n_groups, layout.n_parameters), program.dtype)
        sums = zeros((2, sharing.n_groups * SUM_STEP), "float64")
        exchange = zeros((2, height * layout.lines[0, OUT_PAD] if sharing.by_units else 0), program.dtype)

        def work(thread: int) -> None:
            try:
                steps_of(thread)
            except BaseException:  # the others would wait for this thread
                barrier[0] = ABANDONED
                raise

        def steps_of(thread: int) -> None:
            state = layout.lines, parameters, slots, scale, arrays, tables
            steps = n_steps, thread, sharing.n_threads, *rules, report, bad
            own = () if sharing.shares_memory else (zeros((1 + len(slots), layout.n_parameters), program.dtype),)
            if sharing.by_units:
                entry("steps.advance_by_units", program.dtype)(*state, works[thread], *own, exchange, barrier, *steps)
            elif sharing.n_groups:
                entry("steps.advance_by_groups", program.dtype)(*state, works[0], *own, groups, sums, *steps)
            else:
                entry("steps.advance", program.dtype)(*state, works[0], *steps)

        try:
            in_threads(sharing.n_threads, work)
        except BaseException:  # a second Ctrl-C, before this thread's kernel began: the others wait for it there
            barrier[0] = ABANDONED
            raise
        return report, int(bad[0])

    def room(self, run: Run, height: int, data: NativeData) -> tuple[Layout, list[Work]]:
        """The layout and the arrays for batches of a height, and for rows as the data's; kept, and made anew for more."""
        known = max((len(work.gradient) for work in run.works), default=0)
        gradient = max(known, _gradient_numbers(run.layout, data.sparse))
        enough = run.layout.height >= height and len(run.works) >= data.n_threads
        if not enough or gradient > known:
            run.layout = Layout.of(run.program.model, run.program.dtype, max(height, run.layout.height))
            run.works = [_work(run.layout, run.program.dtype, data.n_threads, gradient) for _ in range(data.n_threads)]
        return run.layout, run.works

    def evaluate(self, run: Run, data: NativeData) -> list[Metrics]:
        """Cost and accuracy on data, of each member."""
        program = run.program
        rule = accuracy_rule(program, data.kind)
        layout, works = self.room(run, BLOCK, data)
        cost_and_constants, judge = _cost_of(program), entry("steps.evaluate", program.dtype)
        answers = []
        n_threads = min(
            data.n_threads, -(-data.n_rows // BLOCK), _worth_starting(_forward_operations(program.model, data.n_rows))
        )
        for parameters in map(run.whole, range(len(run.parameters))):
            sums = np.zeros((-(-data.n_rows // BLOCK), 3))

            def work(thread: int, parameters: NDArray[Any] = parameters, sums: NDArray[Any] = sums) -> None:
                arrays = layout.lines, parameters, data.arrays, works[thread], *run.plain, *cost_and_constants
                judge(*arrays, rule == "threshold", BLOCK, n_threads, thread, sums)

            in_threads(n_threads, work)
            cost, right, weight = sums.sum(axis=0)
            answers.append(Metrics(float(cost / weight), float(right / weight) if rule else None))
        return answers

    def forward(self, run: Run, X: Rows) -> NDArray[Any]:
        """Outputs for rows without dropout; the rows are checked on the way."""
        program, n_rows = run.program, X.shape[0]
        height = min(FORWARD_ROWS, 1 << (n_rows - 1).bit_length())
        n_threads = -(-n_rows // FORWARD_ROWS)
        if n_threads > 1:
            worth = _worth_starting(_forward_operations(program.model, n_rows))
            n_threads = min(n_threads, worth, available_threads(run.placement.threads))
        dtype = run.parameters[0].dtype
        answers = np.empty((len(run.parameters), n_rows, program.model.n_out), dtype)
        doubtful: list[int] = []
        whole = list(map(run.whole, range(len(run.parameters))))
        at_a_time = n_rows if n_rows <= FORWARD_ROWS else max(1, FORWARD_NUMBERS // program.model.n_in)
        for start in range(0, n_rows, at_a_time):
            some = X[start : start + at_a_time]
            rows = as_kernels_read(some.toarray() if is_sparse(some) else some, dtype)
            for member, parameters in enumerate(whole):
                own = answers[member, start : start + at_a_time]

                def work(
                    thread: int,
                    parameters: NDArray[Any] = parameters,
                    rows: NDArray[Any] = rows,
                    own: NDArray[Any] = own,
                ) -> None:
                    ask, found = self._asker(run, height)
                    ask(parameters, rows, own, n_threads, thread)
                    if found[0]:
                        doubtful.append(thread)

                in_threads(n_threads, work)
            if doubtful:
                check_finite(X, "X")
                doubtful.clear()
        return answers[0] if program.members is None else answers

    def _asker(self, run: Run, height: int) -> tuple[Entry, NDArray[Any]]:
        """The kernel for rows' outputs with what it computes in, and where it counts rows that are not finite.

        Made once for each thread, so that threads may ask at a time.
        """
        known: dict[Any, tuple[Entry, NDArray[Any]]] = run.askers.__dict__
        if height not in known:
            program, dtype = run.program, run.program.dtype
            layout = Layout.of(program.model, dtype, height)
            numbers = height * program.model.n_in + ROOM
            lists = Data(
                zeros((0, 1), dtype),
                zeros(numbers, dtype),
                zeros(numbers, "int32"),
                zeros((height + 1, 2), "int64"),
                zeros(0, "int32"),
                zeros((0, 1), dtype),
                zeros(0, "float64"),
            )
            work = _work(layout, dtype, 1, 0)
            doubtful = zeros(1, "int64")
            ask = entry("steps.outputs", dtype).bind(layout.lines, work, lists, *run.plain, doubtful)
            known[height] = ask, doubtful
        return known[height]

    def cost_and_gradient(self, run: Run, data: NativeData, l2: float = 0.0) -> tuple[float, dict[str, NDArray[Any]]]:
        """Mean cost without dropout + 0.5 * l2 * sum(w^2), and its gradient."""
        program, dtype = run.program, run.program.dtype
        height = min(BLOCK, data.n_rows)
        layout, _ = self.room(run, height, data)
        steps = -(-data.n_rows // height)
        rows = np.full(steps * height, -1, np.int32)
        rows[: data.n_rows] = np.arange(data.n_rows)
        layers = len(program.model.layers)
        tables = Tables(
            rows.reshape(steps, height),
            np.zeros((steps, 1), dtype),
            np.zeros(steps, dtype),
            np.tile(run.plain[0], (steps, 1)),
            np.zeros((steps, layers), np.uint32),
            np.zeros((steps, layers, 2), np.uint32),
            np.ones((layers, KINDS, 2), dtype),
            float(data.arrays.weights.sum()),
        )
        parameters, gradient = run.whole(0), np.zeros((1, layout.n_parameters), dtype)
        report, _ = self._steps(run, parameters, gradient, np.ones(1), data, tables, steps, gradient=True)
        weights = layout.unpack(parameters)
        answer = layout.unpack(gradient[0])
        penalty = 0.0
        for name in filter(is_weights, weights):
            w = weights[name]
            penalty += 0.5 * l2 * float(np.sum(w.astype(np.float64) ** 2))
            answer[name] += np.asarray(l2, dtype) * w
        return float(report.sum()) + penalty, answer

    def snapshot(self, run: Run) -> TrainState:
        """The state as named arrays."""
        layout = run.layout
        parameters = [layout.unpack(run.whole(member)) for member in range(len(run.parameters))]
        slots = [
            {slot: layout.unpack(flat) for slot, flat in zip(run.program.rule.slots, member, strict=True)}
            for member in run.slots
        ]
        if any(scale[0] != 1.0 for scale in run.scales):
            first = weights_name(0)
            for own, flat, scale in zip(slots, run.parameters, run.scales, strict=True):
                own[OWN_SLOT] = {first: layout.unpack(flat)[first], "scale": scale.copy()}
        if run.program.members is None:
            return TrainState(parameters[0], slots[0], run.step)
        stacked = {slot: _stack([member[slot] for member in slots]) for slot in slots[0]}
        return TrainState(_stack(parameters), stacked, run.step)


# --- Arrays -----------------------------------------------------------------------------------------------------------


def _of(arrays: Mapping[str, NDArray[Any]], member: int | None) -> Mapping[str, NDArray[Any]]:
    return arrays if member is None else {name: array[member] for name, array in arrays.items()}


def _multiply_out(layout: Layout, flat: NDArray[Any], scale: NDArray[np.float64]) -> None:
    """Weights of a first layer that are kept as a product, multiplied out in place; ``scale`` is 1 then."""
    if scale[0] != 1.0:
        line = layout.lines[0]
        flat[line[W_AT] : line[B_AT]] *= flat.dtype.type(scale[0])
        scale[0] = 1.0


def _as_product(
    parameters: Mapping[str, NDArray[Any]], product: Mapping[str, NDArray[Any]]
) -> tuple[float, Mapping[str, NDArray[Any]]]:
    """The first layer's scale, and parameters to multiply by it, as the run had them whose snapshot this was; else 1."""
    first = weights_name(0)
    kept, scale = product.get(first), product.get("scale")
    if kept is None or scale is None or np.shape(scale) != (1,) or np.shape(kept) != parameters[first].shape:
        return 1.0, parameters
    if not np.array_equal(kept * kept.dtype.type(scale[0]), parameters[first]):  # these were changed since
        return 1.0, parameters
    return float(scale[0]), {**parameters, first: kept}


def _stack(members: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.stack([member[name] for member in members]) for name in members[0]}


def _member_tables(tables: Tables, member: int) -> Tables:
    *arrays, total = tables
    return Tables(*(array[member] for array in arrays), total)  # type: ignore[call-arg]


def _plain(program: Program) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """What is done to each layer's input without dropout, see ``Run``."""
    model = program.model
    scaled = model.dropout_scaling == "inference"
    gain = [1.0 - layer.p_dropout if scaled else 1.0 for layer in model.layers]
    return np.array(gain, program.dtype), np.zeros(len(gain), np.uint32), np.zeros((len(gain), 2), np.uint32)


def _cost_of(program: Program) -> tuple[int, NDArray[Any]]:
    """The cost's code and constants."""
    return CODES[program.cost.function], constants_of(program.cost, program.model.n_out, program.dtype)


def _gradient_numbers(layout: Layout, sparse: bool) -> int:
    """Numbers of a first layer's whole gradient, where it is needed: of weights on sparse data, or of embeddings."""
    first = layout.lines[0]
    if first[IS_TABLE]:
        return int(first[-1] * first[WIDE])
    return int(first[N_IN] * first[OUT_PAD]) if sparse else 0


def _work(layout: Layout, dtype: str, n_threads: int, gradient: int) -> Work:
    """Zeros to compute in."""
    widest = int(layout.lines[:, [IN_PAD, OUT_PAD]].max())
    waves, sums = layout.lines[0, [N_WAVES, N_SUMS]].tolist()
    table = (3 + sums) * TABLE_ROWS + (2 + sums) * waves + sums
    return Work(
        rows=zeros(layout.n_row_numbers, dtype),
        lines=zeros(
            (
                n_threads,
                max(GATHERED_LINES * widest, GATHERED_NUMBERS if widest >= GATHER_FROM else TILE_NUMBERS, table),
            ),
            dtype,
        ),
        values=zeros((n_threads, widest + ROOM), dtype),
        columns=zeros((n_threads, widest + ROOM), "int32"),
        gradient=zeros(gradient, dtype),
        outcomes=zeros((n_threads, 5, COST_ROWS * layout.lines[-1, N_OUT]), dtype),
        batch=zeros((n_threads, layout.height, 2), "int64"),
        costs=zeros(layout.height, "float64"),
        barrier=zeros(8, "int64"),
    )


# --- Threads ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sharing:
    """How threads share out a step: see ``kernels.steps``."""

    n_threads: int
    n_groups: int = 0
    by_units: bool = False

    @property
    def shares_memory(self) -> bool:
        """Whether threads change the same parameters, and not each its own."""
        return not self.by_units and not self.n_groups


def _sharing(model: Model, height: int, data: NativeData, n_steps: int, units: bool = True) -> _Sharing:
    """What lets the fewest bytes cross from core to core, and starts no thread for a call that is over before it pays."""
    first, *others = (3 * height * _operations(layer) for layer in model.layers)
    plain = all([name for name, _, _ in layer.arrays] == ["weights", "biases"] for layer in model.layers)
    n_parameters = sum((layer.n_in + 1) * layer.n_out for layer in model.layers)
    n_row_numbers = sum(layer.n_in + 2 * layer.n_out for layer in model.layers)
    sparse = data.sparse and not model.layers[0].p_dropout
    read = first * density(data)
    available = min(data.n_threads, _worth_starting(n_steps * (read + sum(others))))
    if (
        units
        and sparse
        and plain
        and len(model.layers) > 1
        and height <= UNIT_ROWS
        and read > UNITS_SHARE * sum(others)
    ):
        threads = min(available, int(read // UNIT_OPERATIONS), model.layers[0].n_out // UNITS)
        if threads > 1:
            return _Sharing(threads, by_units=True)
    n_groups = (
        0 if sparse or not plain or 3 * n_parameters > height * n_row_numbers else min(GROUPS, height // GROUP_ROWS)
    )
    threads = max(1, min(available, int((read + sum(others)) // THREAD_OPERATIONS), n_groups or height))
    if n_groups and threads < n_groups:  # whole pairs of groups to each
        threads = min(threads, (n_groups + 1) // 2)
    return _Sharing(threads, n_groups)


def _forward_operations(model: Model, n_rows: int) -> float:
    """Operations that rows' outputs take."""
    return float(n_rows * sum(map(_operations, model.layers)))


def _operations(layer: Layer) -> int:
    """About so many operations a row takes on its way forward."""
    if isinstance(layer, TableLayer):
        return layer.n_numbers * layer.n_waves * (WAVE_OPERATIONS + 2 * layer.number_width)
    return 2 * layer.n_in * layer.n_out


def _worth_starting(operations: float) -> int:
    """How many threads a call of so many operations pays for."""
    return max(1, int(operations // START_OPERATIONS))
