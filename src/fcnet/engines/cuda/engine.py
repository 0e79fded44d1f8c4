"""The fast engine on an NVIDIA GPU, under the engine contract: a chunk of steps is one launch of one kernel, and so is an answer.

Outputs of networks or rows that are better left to matrix units are the general engine's, on the same device, and so are gradients as
such. It is loaded for them only: a GPU is ready for a kernel in a fraction of the time in which it is ready for JAX.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet import counters
from fcnet.activations import sigmoid, softmax
from fcnet.costs import cross_entropy, log_likelihood
from fcnet.data.arrays import Part, Rows, check_finite, is_sparse
from fcnet.engines.contract import Dtype, Engine, Metrics, Placement, Plan, Program, Report, TrainState, accuracy_rule
from fcnet.engines.cuda import device, layout, tiles
from fcnet.engines.cuda.device import Chip
from fcnet.engines.cuda.kinds import ACTIVATIONS, COSTS, RULES, Kind, kind_of
from fcnet.engines.cuda.layout import group_of, in_groups, places_of
from fcnet.engines.cuda.library import Kernel
from fcnet.engines.cuda.tiles import Tiles, n_weights, tiles_for
from fcnet.errors import InputError

CAPABILITY = (8, 0)
"""From which on a GPU copies to shared memory while threads go on."""
CROSSOVER_OPERATIONS = 100_000_000
"""Floating-point operations of a step from which on the general engine's matrix units are the faster way. An estimate, not a
measurement: ``benchmarks/gpu.py`` prints the two engines beside each other."""
ANSWER_OPERATIONS = 500_000_000
"""Floating-point operations of an answer up to which one launch is faster than the general engine's several. An estimate too."""
WEIGHTS_OF_A_NUMBER = 800
"""So many weights for each number of a row, in or out, are multiplied in the time in which that number comes over from the host: up to
them, any number of rows is answered as fast as it can be fetched. An estimate too."""
MOST_WEIGHTS = 1 << 20
"""Of a network for whose one row one multiprocessor is enough: it reads so many in some 40 µs."""
CHUNK_BYTES = 1 << 26
"""Rows, or outputs, that are on the device at a time."""
LINEAR = [one.name for one in ACTIVATIONS].index("linear")
FEW_NUMBERS = 1 << 14
"""Rows of so many numbers, and as many outputs, stay in the host's memory, where the kernel reaches them."""


@dataclass(frozen=True, eq=False)
class Data:
    """A part of the data, and its rows, targets and weights on the device as rows of numbers, labels too."""

    part: Part
    X: Any
    targets: Any
    weights: Any


@dataclass(eq=False)
class Run:
    """A state on the device.

    Attributes:
        state: the parameters, and each slot's arrays, one after the other.
        general: the general engine's copy; None where the state has changed since, or it was never needed.
        answers: what outputs need; None where none were asked for.
        lock: answers use one place for few rows, and may be asked for by several threads.
    """

    program: Program
    placement: Placement
    state: Any
    step: int
    general: Any = None
    answers: Answers | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, eq=False)
class Answers:
    """A network as the inference kernel reads it, and the host's memory for few rows and their outputs, as both see it.

    Attributes:
        sums: the same layers without the last one's activation.
    """

    layers: Any
    sums: Any
    keeps: Any
    few_rows: tuple[NDArray[Any], Any]
    few_outputs: tuple[NDArray[Any], Any]


class CudaEngine:
    """One kernel on one GPU: for steps of networks with one hidden layer, and for outputs of small networks of any depth; see
    ``fcnet.engines.contract.Engine``.

    Args:
        blocks: into so many blocks the hidden units are divided, at most; None for one on each multiprocessor.
        threads: of each block, at most as many as the kernels may have; None for these.
    """

    name = "cuda"
    description = (
        "Numba CUDA: small networks on an NVIDIA GPU; trains one hidden layer, and computes outputs of any number"
    )

    def __init__(self, blocks: int | None = None, threads: int | None = None) -> None:
        self._blocks = blocks
        self._threads = min(threads or layout.THREADS, layout.THREADS)
        self._answer_threads = min(threads or tiles.THREADS, tiles.THREADS)

    @functools.cached_property
    def _general(self) -> Engine:
        from fcnet.engines.xla.engine import XlaEngine

        return XlaEngine()

    def supports(self, program: Program, placement: Placement) -> str | None:
        """None where the engine can train this; else the reason why not."""
        if (reason := self._why_not_here(program, placement)) is not None:
            return reason
        if (capability := device.chip(placement).capability) < CAPABILITY:
            return f"training needs compute capability {CAPABILITY[0]}.{CAPABILITY[1]}; this GPU has {capability[0]}.{capability[1]}."
        layers = program.model.layers
        if len(layers) != 2:
            return f"it trains networks with one hidden layer; this one has {len(layers) - 1}."
        if (reason := tiles.why_not(program.model)) is not None:
            return reason
        last = layers[1].activation_fn
        paired = {log_likelihood: last == softmax, cross_entropy: last == sigmoid}.get(
            program.cost, last in ACTIVATIONS
        )
        if program.cost not in COSTS or not paired:
            return (
                f"the cost {program.cost.name} of {last.name} outputs is not among its own; the engine xla takes any."
            )
        if program.rule not in RULES:
            return f"the update rule {program.rule.name} is not among its own; the engine xla takes any."
        if not self._fits(program, 1, placement):
            return "the weights do not fit into the chip's shared memory."
        return None

    def answers(self, program: Program, placement: Placement) -> str | None:
        """None where the engine can compute this network's outputs, metrics and gradient; else the reason why not."""
        return self._why_not_here(program, placement) or tiles.why_not(program.model)

    def _why_not_here(self, program: Program, placement: Placement) -> str | None:
        if placement.device != "gpu" and not device.is_simulated():
            return "it runs on GPUs only."
        if placement.shards > 1:
            return "it runs on one GPU; the engine xla shares a batch out."
        if program.members is not None:
            return "it trains one network at a time."
        if program.precision == "bf16":
            return "it multiplies float32 and float64 numbers; the engine xla rounds to bf16."
        return self.missing()

    def missing(self) -> str | None:
        """What is to be installed for it; None where all is there."""
        return device.missing()

    def pays(self, program: Program, mini_batch_size: int | None, placement: Placement) -> bool:
        """Whether this is better done here than in the general engine: steps of so many rows; None for outputs."""
        if mini_batch_size is None:
            return self._tiles(program, 1, placement) is not None
        small = 6 * n_weights(program.model) * mini_batch_size <= CROSSOVER_OPERATIONS
        return small and self._fits(program, mini_batch_size, placement)

    def put(self, part: Part, program: Program, placement: Placement) -> Data:
        """Rows on the device, dense."""
        X = part.X.toarray() if is_sparse(part.X) else part.X
        X, y = np.asarray(X, program.dtype), np.asarray(part.y, program.dtype)
        weights = np.ones(part.n_rows) if part.weights is None else part.weights
        absent = weights == 0
        if absent.any():  # as zeros they cannot make 0 * NaN in a gradient
            X, y = (np.where(absent.reshape(-1, *[1] * (array.ndim - 1)), 0, array) for array in (X, y))
        with device.on(placement):
            return Data(part, *(device.to_device(array.astype(program.dtype, copy=False)) for array in (X, y, weights)))

    def start(self, program: Program, state: TrainState, placement: Placement) -> Run:
        """Copy a state to the device."""
        arrays = [state.parameters, *(state.slots[slot] for slot in program.rule.slots)]
        flat = np.array([_flat(program, named) for named in arrays], program.dtype)
        with device.on(placement):
            return Run(program, placement, device.to_device(flat), state.step)

    def replace(self, run: Run, parameters: Mapping[str, NDArray[Any]]) -> None:
        """Put other parameters in the place of a run's."""
        with device.on(run.placement):
            flat = device.to_host(run.state)
            own = _flat(run.program, parameters)
            flat[: len(own)] = own
            run.state = device.to_device(flat)
        run.general = run.answers = None

    def advance(self, run: Run, data: Data, plan: Plan) -> Report:
        """Do a chunk of steps."""
        program, n_steps, labels = run.program, plan.n_steps, data.part.kind == "labels"
        dtype, chip = np.dtype(program.dtype), device.chip(run.placement)
        sizes, batch = _sizes(program), in_groups(plan.rows.shape[1])
        n_blocks, units = self._division(sizes[1], chip)
        placed = functools.partial(places_of, program, batch, units, labels=labels)
        buffers = 2 if dtype.itemsize * placed(buffers=2).end <= chip.shared_bytes else 1
        places = placed(buffers=buffers)
        n_bytes = dtype.itemsize * places.end
        if n_bytes > chip.shared_bytes:
            raise InputError(
                f"The engine cuda keeps a mini-batch on the chip: {plan.rows.shape[1]} rows and the weights take "
                f"{n_bytes:,} bytes of {chip.shared_bytes:,}. Use engine='xla', or smaller mini-batches."
            )
        tables = _rows(plan, batch), _table(program, plan), _masks(plan)
        exchange = np.zeros(2 * batch * sizes[1] * dtype.itemsize // 4, np.uint64)
        kernel = _steps(kind_of(program, labels, group_of(batch)))
        with device.on(run.placement):
            there = [device.to_device(table[:n_steps]) for table in tables]
            report = device.to_device(np.full(n_steps, np.nan, dtype))
            others = device.to_device(exchange), report, device.to_device(np.array(places))
            arguments = data.X, data.targets, data.weights, run.state, *there, *others
            numbers = n_steps, *sizes, batch, units, buffers
            device.launch(kernel, n_blocks, self._threads, n_bytes, (*arguments, *numbers), together=True)
            costs = device.to_host(report).astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(costs))
        run.step += n_steps
        run.general = None
        return Report(costs, int(bad[0]) if len(bad) else -1)

    def evaluate(self, run: Run, data: Data) -> list[Metrics]:
        """Cost and accuracy on data: the network on the device, the costs of its last layer's sums on the host."""
        program, part = run.program, data.part
        if self._all_tiles(program, part.n_rows, run.placement) is None:
            return self._general.evaluate(self._fresh(run), self._general.put(part, program, run.placement))
        with run.lock, device.on(run.placement):
            answers, n_out = self._answers_of(run), program.model.n_out
            there = device.room(part.n_rows * n_out, program.dtype)
            self._answer(run, answers.sums, data.X, there, part.n_rows)
            z = device.to_host(there).astype(np.float64).reshape(part.n_rows, n_out)
        return [_metrics(program, part, z)]

    def forward(self, run: Run, X: Rows) -> NDArray[Any]:
        """Outputs for rows without dropout."""
        model, dtype, n_rows = run.program.model, run.program.dtype, X.shape[0]
        if self._tiles(run.program, n_rows, run.placement) is None:
            return self._general.forward(self._fresh(run), X)
        check_finite(X, "X")
        outputs = np.empty((n_rows, model.n_out), dtype)
        numbers_of_a_row = max(model.n_in, model.n_out)
        height = max(1, CHUNK_BYTES // (numbers_of_a_row * outputs.itemsize))
        with run.lock, device.on(run.placement):
            answers = self._answers_of(run)
            for start in range(0, n_rows, height):
                rows = X[start : start + height]
                rows = np.asarray(rows.toarray() if is_sparse(rows) else rows, dtype)
                into = outputs[start : start + height].reshape(-1)
                if max(rows.size, into.size) <= FEW_NUMBERS:
                    (rows_here, rows_there), (here, there) = answers.few_rows, answers.few_outputs
                    rows_here[: rows.size] = rows.reshape(-1)
                    self._answer(run, answers.layers, rows_there, there, len(rows))
                    device.wait()
                    into[:] = here[: into.size]
                else:
                    there = device.room(into.size, dtype)
                    self._answer(run, answers.layers, device.to_device(rows), there, len(rows))
                    into[:] = device.to_host(there)
        return outputs

    def _answers_of(self, run: Run) -> Answers:
        """What outputs need, on the device."""
        if run.answers is None:
            model, dtype = run.program.model, run.program.dtype
            table = tiles.table_of(model)
            sums = table.copy()
            sums[-1, -1] = LINEAR
            run.answers = Answers(
                device.to_device(table),
                device.to_device(sums),
                device.to_device(tiles.keeps_of(model).astype(dtype)),
                device.mapped(FEW_NUMBERS, dtype),
                device.mapped(FEW_NUMBERS, dtype),
            )
        return run.answers

    def _answer(self, run: Run, layers: Any, rows: Any, outputs: Any, n_rows: int) -> None:
        """One launch: rows that lie one after the other become outputs, or the last layer's sums, that do."""
        shares = self._all_tiles(run.program, n_rows, run.placement)
        assert shares is not None  # since more rows have some
        assert run.answers is not None
        n_bytes = np.dtype(run.program.dtype).itemsize * shares.numbers
        n_parameters = sum(math.prod(shape) for _, shape in run.program.model.shapes())
        places = (n_rows, shares.rows, shares.partial_at, shares.weights_at, int(shares.stays))
        arguments = (rows, run.state[:n_parameters], layers, run.answers.keeps, outputs, *places)
        device.launch(_outputs(run.program.dtype), shares.blocks, self._answer_threads, n_bytes, arguments)

    def _tiles(self, program: Program, n_rows: int, placement: Placement) -> Tiles | None:
        """How the inference kernel takes so many rows; None where the general engine is the better way, or the only one."""
        model = program.model
        weights = n_weights(model)
        quick = 2 * weights * n_rows <= ANSWER_OPERATIONS or weights <= WEIGHTS_OF_A_NUMBER * (model.n_in + model.n_out)
        if weights > MOST_WEIGHTS or not quick:
            return None
        return self._all_tiles(program, n_rows, placement)

    def _all_tiles(self, program: Program, n_rows: int, placement: Placement) -> Tiles | None:
        """The same for rows that the general engine would have no advantage with; None where they do not fit on the chip."""
        if tiles.why_not(program.model) is not None:
            return None
        itemsize = np.dtype(program.dtype).itemsize
        return tiles_for(program.model, n_rows, self._answer_threads, device.chip(placement), itemsize)

    def cost_and_gradient(self, run: Run, data: Data, l2: float = 0.0) -> tuple[float, dict[str, NDArray[Any]]]:
        """Mean cost without dropout + 0.5 * l2 * sum(w^2), and its gradient."""
        there = self._general.put(data.part, run.program, run.placement)
        return self._general.cost_and_gradient(self._fresh(run), there, l2)

    def snapshot(self, run: Run) -> TrainState:
        """The state, copied to the host."""
        with device.on(run.placement):
            arrays = device.to_host(run.state).reshape(1 + len(run.program.rule.slots), -1)
        parameters, *slots = (_named(run.program, flat) for flat in arrays)
        return TrainState(parameters, dict(zip(run.program.rule.slots, slots, strict=True)), run.step)

    def free_memory(self, placement: Placement) -> int | None:
        """Bytes that are free on the device; None where it does not say."""
        return device.free_bytes(placement)

    def _fresh(self, run: Run) -> Any:
        """The general engine's copy of the state as it is now."""
        if run.general is None:
            run.general = self._general.start(run.program, self.snapshot(run), run.placement)
        return run.general

    def _division(self, n_hidden: int, chip: Chip) -> tuple[int, int]:
        """Blocks, and the hidden units of each; the last block may have fewer."""
        most = min(self._blocks or chip.multiprocessors, chip.multiprocessors, n_hidden)
        units = -(-n_hidden // most)
        return -(-n_hidden // units), units

    def _fits(self, program: Program, mini_batch_size: int, placement: Placement) -> bool:
        chip = device.chip(placement)
        units = self._division(_sizes(program)[1], chip)[1]
        places = places_of(program, in_groups(mini_batch_size), units, 1, labels=False)
        return np.dtype(program.dtype).itemsize * places.end <= chip.shared_bytes


# --- Kernels ------------------------------------------------------------------------------------------------------------


def _python_of_steps(kind: Kind) -> Any:
    from fcnet.engines.cuda.kernels import training  # imports Numba

    return training.kernel_of(kind)


def _python_of_outputs(dtype: Dtype) -> Any:
    from fcnet.engines.cuda.kernels import inference  # imports Numba

    return inference.kernel_of(dtype)


def _steps(kind: Kind) -> Kernel:
    return Kernel("-".join(["steps", *map(str, kind)]), functools.partial(_python_of_steps, kind))


def _outputs(dtype: Dtype) -> Kernel:
    return Kernel(f"outputs-{dtype}", functools.partial(_python_of_outputs, dtype))


# --- A chunk's tables as the kernel reads them --------------------------------------------------------------------------


def _rows(plan: Plan, batch: int) -> NDArray[np.int32]:
    """``(length, batch)``: row indices, -1 where a row is absent."""
    missing = batch - plan.rows.shape[1]
    return np.pad(plan.rows, [(0, 0), (0, missing)], constant_values=-1).astype(np.int32)


def _table(program: Program, plan: Plan) -> NDArray[Any]:
    """``(length, table_width)``: coefficients of each array, l2, and what is multiplied by where dropout keeps a number."""
    gain = 1.0 / (1.0 - plan.dropout) if program.model.dropout_scaling == "training" else np.ones_like(plan.dropout)
    own = [np.stack(program.rule.scaled(tuple(plan.coefficients.T), factors), axis=-1) for factors in plan.factors]
    return np.column_stack([*own, plan.l2, gain]).astype(program.dtype)


def _masks(plan: Plan) -> NDArray[np.uint32]:
    """``(length, MASK_WORDS)``: both layers' thresholds and keys."""
    return np.column_stack([counters.drop_threshold(plan.dropout), plan.keys.reshape(len(plan.keys), -1)])


# --- Costs of sums ------------------------------------------------------------------------------------------------------


def _metrics(program: Program, part: Part, z: NDArray[np.float64]) -> Metrics:
    """Mean cost and accuracy of rows whose last layer's weighted inputs are z ``(n_rows, n_out)``."""
    scored = accuracy_rule(program, part.kind)
    weights = np.ones(len(z)) if part.weights is None else np.asarray(part.weights, np.float64)
    a = program.model.layers[-1].activation_fn.function(z)
    targets = np.eye(z.shape[1])[part.y] if part.kind == "labels" else np.asarray(part.y, np.float64)
    present = weights > 0
    costs = np.where(present, program.cost(z, a, targets) * weights, 0.0)
    cost = float(costs.sum() / weights.sum())
    if scored is None:
        return Metrics(cost, None)
    right = (
        a.argmax(axis=1) == targets.argmax(axis=1) if scored == "argmax" else (a[:, 0] > 0.5) == (targets[:, 0] > 0.5)
    )
    return Metrics(cost, float(weights[right].sum() / weights.sum()))


# --- Arrays as one row of numbers: w1, b1, w2, b2 -----------------------------------------------------------------------


def _sizes(program: Program) -> tuple[int, int, int]:
    hidden, last = program.model.layers
    return hidden.n_in, hidden.n_out, last.n_out


def _flat(program: Program, named: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate([np.asarray(named[name]).reshape(-1) for name, _ in program.model.shapes()])


def _named(program: Program, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
    named, at = {}, 0
    for name, shape in program.model.shapes():
        size = int(np.prod(shape))
        named[name] = flat[at : at + size].reshape(shape).copy()
        at += size
    return named
