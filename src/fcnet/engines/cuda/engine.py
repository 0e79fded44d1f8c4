"""The fast engine on an NVIDIA GPU, under the engine contract: a chunk of steps is one launch of one kernel, and so is an answer.

There are two kernels for steps. Of a network with one hidden layer each block of threads has some units, and hidden outputs cross over; of
small networks of any depth each block has some rows, and gradients and parameters do.

Outputs of networks or rows that are better left to matrix units are the general engine's, on the same device, and so are gradients as
such. It is loaded for them only: importing JAX, and its search for GPUs, take longer than a small training.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet.activations import sigmoid, softmax
from fcnet.costs import cross_entropy, log_likelihood
from fcnet.data.arrays import Part, Rows, check_finite, is_sparse
from fcnet.engines.contract import Dtype, Engine, Metrics, Placement, Plan, Program, Report, TrainState, accuracy_rule
from fcnet.engines.cuda import device, layout, tiles
from fcnet.engines.cuda.chunks import Division, chunk_of, way_of
from fcnet.engines.cuda.device import Chip
from fcnet.engines.cuda.kinds import ACTIVATIONS, COSTS, RULES
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
MOST_ROWS = 16
"""Rows of a block up to which it is faster to give each block some than to leave them to matrix units. An estimate too."""
ROWS_AT_A_TIME = 1 << 14
"""Rows whose cost the host computes at once."""
LINEAR = [one.name for one in ACTIVATIONS].index("linear")
FEW_NUMBERS = 1 << 14
"""Rows of so many numbers, and as many outputs, stay in the host's memory, where the kernel reaches them."""


@dataclass(eq=False)
class Data:
    """A part of the data, and its rows, targets and weights on the device as rows of numbers, labels too.

    Attributes:
        general: the general engine's copy; None where it was never needed.
    """

    part: Part
    X: Any
    targets: Any
    weights: Any
    general: Any = None


@dataclass(eq=False)
class Run:
    """A state on the device.

    Attributes:
        state: the parameters, and each slot's arrays, one after the other.
        general: the general engine's copy; None where the state has changed since, or it was never needed.
        answers: what outputs need; None where none were asked for.
        exchange: places for what blocks post, and what for; None before the first step.
        few: the host's memory for few rows, and for their outputs, as host and device see it; None likewise.
        lock: answers use one place for few rows, and may be asked for by several threads.
    """

    program: Program
    placement: Placement
    state: Any
    step: int
    general: Any = None
    answers: Answers | None = None
    exchange: tuple[Any, Any] | None = None
    few: tuple[tuple[NDArray[Any], Any], tuple[NDArray[Any], Any]] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, eq=False)
class Answers:
    """A network's layers as the inference kernel reads them; ``sums`` are the same without the last one's activation."""

    layers: Any
    sums: Any
    keeps: Any


class CudaEngine:
    """One kernel on one GPU for many steps of a small network, and one for its outputs; see ``fcnet.engines.contract.Engine``.

    Args:
        blocks: into so many blocks hidden units, or rows, are divided, at most; None for one on each multiprocessor.
        threads: of each block, at most as many as the kernels may have; None for these.
    """

    name = "cuda"
    description = "CUDA kernels of its own: small networks on an NVIDIA GPU"

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
        if (reason := tiles.why_not(program.model)) is not None:
            return reason
        last = program.model.layers[-1].activation_fn
        paired = {log_likelihood: last == softmax, cross_entropy: last == sigmoid}.get(
            program.cost, last in ACTIVATIONS
        )
        if program.cost not in COSTS or not paired:
            return (
                f"the cost {program.cost.name} of {last.name} outputs is not among its own; the engine xla takes any."
            )
        if program.rule not in RULES:
            return f"the update rule {program.rule.name} is not among its own; the engine xla takes any."
        chip = device.chip(placement)
        if all(way_of(program, batch, self._most(chip)) is None for batch in (1, chip.multiprocessors)):
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
        most = self._most(device.chip(placement))
        way = way_of(program, mini_batch_size, most)
        if way == "rows":
            return layout.shares_of(program, mini_batch_size, most.blocks).tall <= MOST_ROWS
        return way == "units" and 6 * n_weights(program.model) * mini_batch_size <= CROSSOVER_OPERATIONS

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
            device.write(run.state, _flat(run.program, parameters).astype(run.program.dtype))
        run.general = None

    def advance(self, run: Run, data: Data, plan: Plan) -> Report:
        """Do a chunk of steps."""
        program, n_steps, chip = run.program, plan.n_steps, device.chip(run.placement)
        chunk = chunk_of(program, plan, data.part, self._most(chip))
        if chunk is None:
            raise InputError(
                f"The engine cuda keeps the weights, and a mini-batch, on the chip: {plan.rows.shape[1]:,} rows and these weights "
                f"take more than {chip.shared_bytes:,} bytes of a multiprocessor. Use engine='xla', or another mini-batch size."
            )
        with device.on(run.placement):
            there = [device.to_device(table) for table in chunk.tables]
            report = device.to_device(np.full(n_steps, np.nan, program.dtype))
            constants = (device.to_device(np.array(array, np.int64)) for array in chunk.constants)
            size = chunk.kernel.name, chunk.blocks, chunk.exchanged
            exchange, run.exchange = run.exchange, None  # an interrupted launch leaves tags of steps to come there
            if exchange is None or exchange[0] != size:
                exchange = size, device.zeros(chunk.exchanged, np.uint64)
            arrays = data.X, data.targets, data.weights, run.state, *there, exchange[1], report, *constants
            arguments = (*arrays, n_steps, run.step, *chunk.numbers)
            device.launch(chunk.kernel, chunk.blocks, self._threads, chunk.n_bytes, arguments, together=True)
            costs = device.to_host(report).astype(np.float64)
            run.exchange = exchange
        bad = np.flatnonzero(~np.isfinite(costs))
        run.step += n_steps
        run.general = None
        return Report(costs, int(bad[0]) if len(bad) else -1)

    def evaluate(self, run: Run, data: Data) -> list[Metrics]:
        """Cost and accuracy on data: the network on the device, the costs of its last layer's sums on the host."""
        program, n_rows, n_out = run.program, data.part.n_rows, run.program.model.n_out
        shares = self._all_tiles(program, n_rows, run.placement)
        if shares is None or program.cost not in COSTS:
            return self._general.evaluate(self._fresh(run), self._generals(run, data))
        with run.lock, device.on(run.placement):
            there = device.room(n_rows * n_out, program.dtype)
            answers = self._answers_of(run)
            self._answer(run, answers, answers.sums, data.X, there, n_rows, shares)
            z = device.to_host(there).reshape(n_rows, n_out)
        return [_metrics(program, data.part, z)]

    def forward(self, run: Run, X: Rows) -> NDArray[Any]:
        """Outputs for rows without dropout."""
        model, dtype, n_rows = run.program.model, run.program.dtype, X.shape[0]
        if self._tiles(run.program, n_rows, run.placement) is None:
            return self._general.forward(self._fresh(run), X)
        check_finite(X, "X")
        outputs = np.empty((n_rows, model.n_out), dtype)
        numbers_of_a_row = max(model.n_in, model.n_out)
        height = max(1, min(n_rows, CHUNK_BYTES // (numbers_of_a_row * outputs.itemsize)))
        few = height * numbers_of_a_row <= FEW_NUMBERS
        with run.lock, device.on(run.placement):
            answers = self._answers_of(run)
            if few:
                run.few = run.few or (device.mapped(FEW_NUMBERS, dtype), device.mapped(FEW_NUMBERS, dtype))
                (rows_here, rows_there), (here, there) = run.few
            else:
                rows_there, there = device.room(height * model.n_in, dtype), device.room(height * model.n_out, dtype)
            for start in range(0, n_rows, height):
                rows = X[start : start + height]
                rows = np.asarray(rows.toarray() if is_sparse(rows) else rows, dtype)
                into = outputs[start : start + height].reshape(-1)
                shares = self._all_tiles(run.program, len(rows), run.placement)
                assert shares is not None  # since more rows have some
                if few:
                    rows_here[: rows.size] = rows.reshape(-1)
                else:
                    device.write(rows_there, rows)
                self._answer(run, answers, answers.layers, rows_there, there, len(rows), shares)
                if few:
                    device.wait()
                    into[:] = here[: into.size]
                else:
                    into[:] = device.to_host(there[: into.size])
        return outputs

    def _answers_of(self, run: Run) -> Answers:
        """What outputs need, on the device."""
        if run.answers is None:
            model, dtype = run.program.model, run.program.dtype
            table = tiles.table_of(model)
            sums = table.copy()
            sums[-1, -1] = LINEAR
            keeps = tiles.keeps_of(model).astype(dtype)
            run.answers = Answers(*(device.to_device(array) for array in (table, sums, keeps)))
        return run.answers

    def _answer(
        self, run: Run, answers: Answers, layers: Any, rows: Any, outputs: Any, n_rows: int, shares: Tiles
    ) -> None:
        """One launch: rows that lie one after the other become outputs, or the last layer's sums, that do."""
        n_bytes = np.dtype(run.program.dtype).itemsize * shares.numbers
        places = (n_rows, shares.rows, shares.partial_at, shares.weights_at, int(shares.stays))
        arguments = (rows, run.state[: layout.n_parameters(run.program)], layers, answers.keeps, outputs, *places)
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
        return self._general.cost_and_gradient(self._fresh(run), self._generals(run, data), l2)

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

    def _generals(self, run: Run, data: Data) -> Any:
        """The general engine's copy of the data."""
        if data.general is None:
            data.general = self._general.put(data.part, run.program, run.placement)
        return data.general

    def _most(self, chip: Chip) -> Division:
        blocks = min(self._blocks or chip.multiprocessors, chip.multiprocessors)
        return Division(blocks, self._threads, chip.shared_bytes)


# --- Kernels ------------------------------------------------------------------------------------------------------------


def _python_of_outputs(dtype: Dtype) -> Any:
    from fcnet.engines.cuda.kernels import inference  # imports Numba

    return inference.kernel_of(dtype)


def _outputs(dtype: Dtype) -> Kernel:
    return Kernel(f"outputs-{dtype}", functools.partial(_python_of_outputs, dtype))


# --- Costs of sums ------------------------------------------------------------------------------------------------------


def _metrics(program: Program, part: Part, z: NDArray[Any]) -> Metrics:
    """Mean cost and accuracy of rows whose last layer's weighted inputs are z ``(n_rows, n_out)``, some rows at a time."""
    scored, activation = accuracy_rule(program, part.kind), program.model.layers[-1].activation_fn
    one_hot = np.eye(z.shape[1]) if part.kind == "labels" else None
    cost = right = total = 0.0
    for start in range(0, len(z), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        sums, y = z[rows].astype(np.float64), part.y[rows]
        weights = np.ones(len(sums)) if part.weights is None else np.asarray(part.weights[rows], np.float64)
        targets = np.asarray(y, np.float64) if one_hot is None else one_hot[y]
        with np.errstate(all="ignore"):  # of a network that has diverged
            # The log-likelihood reads z, and softmax's largest output is z's.
            a = sums if program.cost == log_likelihood else activation.function(sums)
            costs = np.where(weights > 0, program.cost(sums, a, targets) * weights, 0.0)
        cost += float(costs.sum())
        total += float(weights.sum())
        if scored == "argmax":
            labels = y if one_hot is not None else targets.argmax(axis=1)
            right += float(weights[a.argmax(axis=1) == labels].sum())
        elif scored == "threshold":
            right += float(weights[(a[:, 0] > 0.5) == (targets[:, 0] > 0.5)].sum())
    return Metrics(cost / total, None if scored is None else right / total)


# --- Arrays as one row of numbers: w1, b1, w2, b2 -----------------------------------------------------------------------


def _flat(program: Program, named: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate([np.asarray(named[name]).reshape(-1) for name, _ in program.model.shapes()])


def _named(program: Program, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
    named, at = {}, 0
    for name, shape in program.model.shapes():
        size = int(np.prod(shape))
        named[name] = flat[at : at + size].reshape(shape).copy()
        at += size
    return named
