"""The fast engine on an NVIDIA GPU, under the engine contract: a chunk of steps is one launch of one kernel.

Data, evaluation and prediction are the general engine's, on the same device.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import config, cuda
from numba.core.errors import NumbaPerformanceWarning
from numpy.typing import NDArray

from fcnet import counters
from fcnet.activations import sigmoid, softmax
from fcnet.costs import cross_entropy, log_likelihood
from fcnet.data.arrays import Part, Rows, TargetKind, is_sparse
from fcnet.engines import xla
from fcnet.engines.contract import Metrics, Placement, Plan, Program, Report, TrainState
from fcnet.engines.cuda.kernel import ACTIVATIONS, COSTS, RULES, kernel_of, shared_numbers
from fcnet.errors import InputError
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer

THREADS = 256
"""Threads of a block."""
STANDARD_SHARED_BYTES = 48 << 10
"""Shared memory that any kernel may have; more is asked for."""
CROSSOVER_OPERATIONS = 100_000_000
"""Floating-point operations of a step from which on the general engine's matrix units are the faster way. An estimate, not a
measurement: ``benchmarks/gpu.py`` prints the two engines beside each other."""


@dataclass(frozen=True)
class Chip:
    """What a GPU has.

    Attributes:
        multiprocessors: each runs one block of the kernel.
        shared_bytes: shared memory that a block may have.
    """

    multiprocessors: int
    shared_bytes: int


SIMULATED = Chip(multiprocessors=1, shared_bytes=227 << 10)
"""What Numba's simulator is taken for: its barrier over the grid serves one block."""


@dataclass(frozen=True, eq=False)
class Data:
    """Rows as the general engine keeps them, and how the kernel sees the same arrays."""

    general: xla.Data
    X: Any
    labels: Any
    targets: Any
    weights: Any
    kind: TargetKind


@dataclass(eq=False)
class Run:
    """A state on the device, ``(1 + n_slots, n_parameters)``; the general engine's copy of it is made anew when it is stale."""

    program: Program
    placement: Placement
    state: Any
    step: int
    general: xla.Run
    is_stale: bool = False


class CudaEngine:
    """One persistent kernel on one GPU, for networks with one hidden layer; see ``fcnet.engines.contract.Engine``.

    Args:
        blocks: into so many blocks the hidden units are divided, at most; None for one on each multiprocessor.
        threads: of each block.
    """

    name = "cuda"
    description = "Numba CUDA: steps of a network with one hidden layer in one kernel on an NVIDIA GPU"

    def __init__(self, blocks: int | None = None, threads: int = THREADS) -> None:
        self._blocks, self._threads = blocks, threads
        self._general = xla.XlaEngine()

    def supports(self, program: Program, placement: Placement) -> str | None:
        """None where the engine can do this; else the reason why not."""
        layers = program.model.layers
        if placement.device != "gpu" and not is_simulated():
            return "it runs on GPUs only."
        if (missing := self.missing()) is not None:
            return missing
        if placement.shards > 1:
            return "it runs on one GPU; the engine xla shares a batch out."
        if program.members is not None:
            return "it trains one network at a time."
        if program.precision == "bf16":
            return "it multiplies float32 and float64 numbers; the engine xla rounds to bf16."
        if len(layers) != 2:
            return f"it trains networks with one hidden layer; this one has {len(layers) - 1}."
        for index, layer in enumerate(layers):
            if not isinstance(layer, FullyConnectedLayer | SoftmaxLayer) or getattr(layer, "parametric", False):
                return f"layer {index} is of a kind that only the engine xla reads."
        if layers[0].activation_fn not in ACTIVATIONS:
            return f"the activation {layers[0].activation_fn.name} of layer 0 is not among its own; the engine xla takes any."
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

    def missing(self) -> str | None:
        """What is to be installed for it; None where all is there."""
        if is_simulated() or importlib.util.find_spec("numba_cuda") is not None:
            return None
        return "it needs numba-cuda; install it with: pip install 'fcnet[gpu]'."

    def pays(self, program: Program, mini_batch_size: int, placement: Placement) -> bool:
        """Whether steps of so many rows are better done here than in the general engine."""
        n_weights = sum(layer.n_in * layer.n_out for layer in program.model.layers)
        small = 6 * n_weights * mini_batch_size <= CROSSOVER_OPERATIONS
        return small and self._fits(program, mini_batch_size, placement)

    def put(self, part: Part, program: Program, placement: Placement) -> Data:
        """Rows on the device, dense."""
        if is_sparse(part.X):
            part = replace(part, X=part.X.toarray())
        general = self._general.put(part, program, placement)
        with _on(placement):
            X, y, weights = map(_as_kernels_see, (general.X, general.y, general.weights))
            nothing = np.zeros(1, np.int32), np.zeros((1, 1), program.dtype)
            labels, targets = (y, _to_device(nothing[1])) if part.kind == "labels" else (_to_device(nothing[0]), y)
        return Data(general, X, labels, targets, weights, part.kind)

    def start(self, program: Program, state: TrainState, placement: Placement) -> Run:
        """Copy a state to the device."""
        arrays = [state.parameters, *(state.slots[slot] for slot in program.rule.slots)]
        flat = np.array([_flat(program, named) for named in arrays], program.dtype)
        with _on(placement):
            return Run(program, placement, _to_device(flat), state.step, self._general.start(program, state, placement))

    def replace(self, run: Run, parameters: Mapping[str, NDArray[Any]]) -> None:
        """Put other parameters in the place of a run's."""
        with _on(run.placement):
            flat = _to_host(run.state)
            flat[0] = _flat(run.program, parameters)
            run.state = _to_device(flat)
        run.is_stale = True

    def advance(self, run: Run, data: Data, plan: Plan) -> Report:
        """Do a chunk of steps."""
        program, dtype, n_steps = run.program, run.program.dtype, plan.n_steps
        sizes, batch = _sizes(program), plan.rows.shape[1]
        chip, n_slots = _chip(run.placement), len(program.rule.slots)
        n_blocks, units = self._division(sizes[1], chip)
        numbers = functools.partial(shared_numbers, sizes, batch, units, n_slots)
        item = np.dtype(dtype).itemsize
        buffers = 2 if item * numbers(2) <= chip.shared_bytes else 1
        n_bytes = item * numbers(buffers)
        if n_bytes > chip.shared_bytes:
            raise InputError(
                f"The engine cuda keeps a mini-batch on the chip: {batch} rows and the weights take {n_bytes:,} bytes of "
                f"{chip.shared_bytes:,}. Use engine='xla', or smaller mini-batches."
            )
        gain = 1.0 / (1.0 - plan.dropout) if program.model.dropout_scaling == "training" else np.ones_like(plan.dropout)
        own = [np.stack(program.rule.scaled(tuple(plan.coefficients.T), factors), axis=-1) for factors in plan.factors]
        coefficients = np.stack(own, axis=1)  # (length, n_parameters, n_coefficients)
        tables: tuple[NDArray[Any], ...] = (
            plan.rows,
            coefficients,
            plan.l2,
            gain,
            counters.drop_threshold(plan.dropout),
            plan.keys,
        )
        kinds: tuple[Any, ...] = plan.rows.dtype, dtype, dtype, dtype, np.uint32, np.uint32
        kernel = kernel_of(program, data.kind == "labels")
        with _on(run.placement):
            there = [
                _to_device(np.ascontiguousarray(table[:n_steps], kind))
                for table, kind in zip(tables, kinds, strict=True)
            ]
            exchange = _to_device(np.zeros((2, batch * sizes[1]), dtype))
            report = _to_device(np.full(n_steps, np.nan, dtype))
            arguments = (data.X, data.labels, data.targets, data.weights, run.state, *there, exchange, report)
            numbers_of = (n_steps, *sizes, batch, units, buffers)
            _launch(kernel, n_blocks, self._threads, n_bytes, (*arguments, *map(np.int64, numbers_of)))
            costs = _to_host(report).astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(costs))
        run.step += n_steps
        run.is_stale = True
        return Report(costs, int(bad[0]) if len(bad) else -1)

    def evaluate(self, run: Run, data: Data) -> list[Metrics]:
        """Cost and accuracy on data."""
        return self._general.evaluate(self._fresh(run), data.general)

    def forward(self, run: Run, X: Rows) -> NDArray[Any]:
        """Outputs for rows without dropout."""
        return self._general.forward(self._fresh(run), X)

    def cost_and_gradient(self, run: Run, data: Data, l2: float = 0.0) -> tuple[float, dict[str, NDArray[Any]]]:
        """Mean cost without dropout + 0.5 * l2 * sum(w^2), and its gradient."""
        return self._general.cost_and_gradient(self._fresh(run), data.general, l2)

    def snapshot(self, run: Run) -> TrainState:
        """The state, copied to the host."""
        with _on(run.placement):
            parameters, *slots = (_named(run.program, flat) for flat in _to_host(run.state))
        return TrainState(parameters, dict(zip(run.program.rule.slots, slots, strict=True)), run.step)

    def free_memory(self, placement: Placement) -> int | None:
        """Bytes that are free on the device; None where it does not say."""
        return self._general.free_memory(placement)

    def _fresh(self, run: Run) -> xla.Run:
        if run.is_stale:
            with _on(run.placement):
                self._general.replace(run.general, _named(run.program, _to_host(run.state)[0]))
            run.is_stale = False
        return run.general

    def _division(self, n_hidden: int, chip: Chip) -> tuple[int, int]:
        """Blocks, and the hidden units of each; the last block may have fewer."""
        most = min(self._blocks or chip.multiprocessors, chip.multiprocessors, n_hidden)
        units = -(-n_hidden // most)
        return -(-n_hidden // units), units

    def _fits(self, program: Program, mini_batch_size: int, placement: Placement) -> bool:
        chip, sizes = _chip(placement), _sizes(program)
        units = self._division(sizes[1], chip)[1]
        numbers = shared_numbers(sizes, mini_batch_size, units, len(program.rule.slots), 1)
        return np.dtype(program.dtype).itemsize * numbers <= chip.shared_bytes


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


# --- The device, or Numba's simulator of one ----------------------------------------------------------------------------


def is_simulated() -> bool:
    """Whether Numba was started with ``NUMBA_ENABLE_CUDASIM=1``: kernels then run in Python, on the CPU."""
    return bool(getattr(config, "ENABLE_CUDASIM", 0))


def _chip(placement: Placement) -> Chip:
    return SIMULATED if is_simulated() else _chip_of(placement.index)


@functools.cache
def _chip_of(index: int) -> Chip:
    with cuda.gpus[index]:
        device = cuda.get_current_device()
        most = getattr(device, "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN", STANDARD_SHARED_BYTES)
        return Chip(device.MULTIPROCESSOR_COUNT, int(most))


def _on(placement: Placement) -> AbstractContextManager[Any]:
    """The placement's GPU is the one that Numba speaks to."""
    return contextlib.nullcontext() if is_simulated() else cuda.gpus[placement.index]


def _to_device(array: NDArray[Any]) -> Any:
    return array.copy() if is_simulated() else cuda.to_device(array)


def _to_host(array: Any) -> NDArray[Any]:
    answer: NDArray[Any] = array.copy() if is_simulated() else array.copy_to_host()
    return answer


def _as_kernels_see(array: Any) -> Any:
    """An array of JAX's in place."""
    array.block_until_ready()
    return np.array(array) if is_simulated() else cuda.as_cuda_array(array)


def _launch(kernel: Any, n_blocks: int, n_threads: int, n_bytes: int, arguments: tuple[Any, ...]) -> None:
    """One launch of a kernel that meets over the grid."""
    if not is_simulated() and n_bytes > STANDARD_SHARED_BYTES:
        kernel = _with_shared_memory(kernel, n_bytes, arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumbaPerformanceWarning)  # fewer blocks than multiprocessors are meant
        kernel[n_blocks, n_threads, 0, n_bytes](*arguments)


_ALLOWED: dict[tuple[Any, Any], int] = {}
"""How much shared memory each kernel may have by now, by the kernel and the types of its arguments."""


def _with_shared_memory(kernel: Any, n_bytes: int, arguments: tuple[Any, ...]) -> Any:
    """The kernel, allowed more shared memory than any kernel may have: Numba has no word for it, the driver does."""
    from cuda.bindings import driver  # comes with numba-cuda

    specialised = kernel.specialize(*arguments)
    (compiled,) = specialised.overloads.values()
    key = id(compiled), cuda.get_current_device().id
    if _ALLOWED.get(key, 0) < n_bytes:
        handle = compiled._codelibrary.get_cufunc().handle
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        try:
            (error,) = driver.cuKernelSetAttribute(
                attribute, n_bytes, driver.CUkernel(int(handle)), cuda.get_current_device().id
            )
        except TypeError:
            error = driver.CUresult.CUDA_ERROR_INVALID_HANDLE
        if error != driver.CUresult.CUDA_SUCCESS:
            (error,) = driver.cuFuncSetAttribute(driver.CUfunction(int(handle)), attribute, n_bytes)
        if error != driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"The driver does not give a kernel {n_bytes:,} bytes of shared memory: {error.name}.")
        _ALLOWED[key] = n_bytes
    return specialised
