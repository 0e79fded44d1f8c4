"""The general engine under the contract. Data stays on the device; a chunk of steps is one compiled call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fcnet import counters
from fcnet.activations import softmax
from fcnet.data.arrays import Part, Rows, TargetKind, check_finite, is_sparse
from fcnet.engines.contract import Metrics, Placement, Plan, Program, Report, TrainState, accuracy_rule
from fcnet.engines.gpus import surroundings, why_not
from fcnet.engines.xla import programs
from fcnet.engines.xla.devices import (
    everywhere,
    gpus,
    jax_device,
    mesh,
    precision,
    use_compilation_cache,
    why_no_gpus,
)
from fcnet.engines.xla.programs import Parameters, Slots
from fcnet.engines.xla.rows import Inputs, NonzeroLists, padded_batches, padded_length, padded_rows
from fcnet.model import Model

STEPS_PER_PASS = {"cpu": 1, "gpu": 16}
"""Steps between two looks at whether to go on. On a GPU the host looks, and waits for the device to do so, which takes about as long as
a small step; a loop of a fixed number of steps needs no look."""
FORWARD_BYTES = 1 << 26
"""How much the widest array of one block of ``forward`` may take."""


@dataclass(frozen=True, eq=False)
class Data:
    """Rows on a device, padded so that few shapes are ever compiled; padding has weight 0."""

    X: Inputs
    y: jax.Array
    weights: jax.Array
    kind: TargetKind


@dataclass(eq=False)
class Run:
    """A state on a device."""

    program: Program
    placement: Placement
    parameters: Parameters
    slots: Slots
    step: int


class XlaEngine:
    """JAX compiled by XLA; see ``fcnet.engines.contract.Engine``.

    Args:
        steps_per_pass: steps between two looks at whether to go on; None for ``STEPS_PER_PASS`` of the device.
        unroll: how many of them are compiled side by side. Above 1, the bytes of a result depend on where chunks end, because XLA
            fuses what lies side by side.
        options: XLA's own compiler options, such as ``{"xla_gpu_enable_command_buffer": "FUSION,CUBLAS,WHILE"}``.
    """

    name = "xla"
    description = f"JAX {jax.__version__}: CPU and GPU, any activation"

    def __init__(
        self, steps_per_pass: int | None = None, unroll: int = 1, options: Mapping[str, Any] | None = None
    ) -> None:
        self._steps_per_pass, self._unroll, self._options = steps_per_pass, unroll, dict(options or {})
        use_compilation_cache()

    def supports(self, program: Program, placement: Placement) -> str | None:
        """None where the engine can do this; else the reason why not."""
        if placement.device == "gpu" and (objection := self.why_no_gpu(placement.index + placement.shards)) is not None:
            return objection
        model = program.model
        parameters = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in model.shapes()}
        x = jax.ShapeDtypeStruct((2, model.n_in), jnp.float32)
        for index, layer in enumerate(model.layers):
            if layer.activation_fn.derivative is None and layer.activation_fn != softmax:
                z = jax.ShapeDtypeStruct((2, layer.n_out), jnp.float32)
                try:
                    a = jax.eval_shape(layer.activation_fn.function, z)
                except Exception as error:
                    first_line = str(error).strip().split("\n")[0]
                    return (
                        f"the activation {layer.activation_fn.name} of layer {index} cannot be traced "
                        f"({type(error).__name__}: {first_line}). Write it with jax.numpy operations."
                    )
                if getattr(a, "shape", None) != z.shape:
                    return (
                        f"the activation {layer.activation_fn.name} of layer {index} must return an array of its "
                        f"argument's shape {z.shape}, got {getattr(a, 'shape', type(a).__name__)}."
                    )
        jax.eval_shape(model.forward, parameters, x)
        return None

    def why_no_gpu(self, n: int = 1) -> str | None:
        """Why JAX cannot use so many GPUs; None where it can."""
        return None if len(gpus()) >= n else why_not(surroundings(), why_no_gpus())

    def put(self, part: Part, program: Program, placement: Placement) -> Data:
        """Copy data to the device, once."""
        length = padded_length(part.n_rows)
        X = padded_rows(part.X, length, program.dtype)
        y = np.zeros((length, *part.y.shape[1:]), np.int32 if part.kind == "labels" else program.dtype)
        y[: part.n_rows] = part.y
        weights = np.zeros(length, program.dtype)
        weights[: part.n_rows] = 1.0 if part.weights is None else part.weights
        # A row of weight 0 is absent; as zeros it cannot make 0 * NaN in a gradient.
        (X.values if isinstance(X, NonzeroLists) else X)[weights == 0] = 0
        y[weights == 0] = 0
        with precision(program):
            X, y, weights = jax.device_put((X, y, weights), everywhere(placement))
            return Data(X, y, weights, part.kind)

    def start(self, program: Program, state: TrainState, placement: Placement) -> Run:
        """Copy a state to the device."""
        with precision(program):
            # Copied, not viewed: the buffers are donated to the first chunk.
            put = functools.partial(jax.device_put, device=everywhere(placement), may_alias=False)
            slots = {slot: state.slots[slot] for slot in program.rule.slots}
            return Run(program, placement, put(state.parameters), put(slots), state.step)

    def replace(self, run: Run, parameters: Mapping[str, NDArray[Any]]) -> None:
        """Put other parameters in the place of a run's."""
        with precision(run.program):
            own = {name: np.asarray(array, run.program.dtype) for name, array in parameters.items()}
            run.parameters = jax.device_put(own, everywhere(run.placement), may_alias=False)

    def advance(self, run: Run, data: Data, plan: Plan) -> Report:
        """Do a chunk of steps."""
        program = run.program
        tables = {
            "rows": padded_batches(plan.rows, run.placement.shards),
            "coefficients": plan.coefficients.astype(program.dtype),
            "l2": plan.l2.astype(program.dtype),
            "gain": _dropout_gain(program.model, plan.dropout).astype(program.dtype),
            "thresholds": counters.drop_threshold(plan.dropout),
            "keys": plan.keys,
        }
        if program.members is not None:  # steps lead, members follow: the loop indexes steps
            tables = {name: np.swapaxes(table, 0, 1) for name, table in tables.items()}
        way = programs.Way(
            self._steps_per_pass or STEPS_PER_PASS[run.placement.device], self._unroll, mesh(run.placement)
        )
        with precision(program):
            factors = plan.factors.astype(program.dtype)
            tables, factors = jax.device_put((tables, factors), everywhere(run.placement))
            run.parameters, run.slots, costs, bad_step = self._compiled(programs.advance, run)(
                program, way, run.parameters, run.slots, data.X, data.y, data.weights, tables, factors, plan.n_steps
            )
            costs = np.asarray(costs, np.float64)[: plan.n_steps]
            bad_step = np.asarray(bad_step)
        run.step += plan.n_steps
        if program.members is None:
            return Report(costs, int(bad_step))
        return Report(costs.T, bad_step)

    def evaluate(self, run: Run, data: Data) -> list[Metrics]:
        """Cost and accuracy on data, of each member."""
        with precision(run.program):
            sums = self._compiled(programs.evaluate, run)(run.program, run.parameters, data.X, data.y, data.weights)
        cost, correct, weight = (np.atleast_1d(np.asarray(array, np.float64).sum(axis=-1)) for array in sums)
        scored = accuracy_rule(run.program, data.kind) is not None
        return [
            Metrics(float(k / w), float(c / w) if scored else None)
            for k, c, w in zip(cost, correct, weight, strict=True)
        ]

    def forward(self, run: Run, X: Rows) -> NDArray[Any]:
        """Outputs for rows without dropout."""
        check_finite(X, "X")
        model, dtype, n_rows = run.program.model, run.program.dtype, X.shape[0]
        lead = () if run.program.members is None else (run.program.members,)
        outputs = np.empty((*lead, n_rows, model.n_out), dtype)
        widest = max(model.n_in, *(layer.n_out for layer in model.layers))
        height = max(8, 2 ** int(np.log2(FORWARD_BYTES / (widest * np.dtype(dtype).itemsize))))
        waiting: list[tuple[slice, jax.Array]] = []  # computed while the next rows are on their way

        def write() -> None:
            place, answer = waiting.pop(0)
            outputs[..., place, :] = np.asarray(answer)[..., : place.stop - place.start, :]

        for start in range(0, n_rows, height):
            rows = X[start : start + height]
            rows = rows.toarray() if is_sparse(rows) else rows
            n, length = len(rows), padded_length(len(rows))
            if rows.dtype != dtype or n != length:
                block = np.zeros((length, model.n_in), dtype)
                block[:n] = rows
                rows = block
            with precision(run.program):
                answer = self._compiled(programs.forward, run)(run.program, run.parameters, rows)
            waiting.append((slice(start, start + n), answer))
            if len(waiting) == 2:
                write()
        while waiting:
            write()
        return outputs

    def cost_and_gradient(self, run: Run, data: Data, l2: float = 0.0) -> tuple[float, dict[str, NDArray[Any]]]:
        """Mean cost without dropout + 0.5 * l2 * sum(w^2), and its gradient."""
        with precision(run.program):
            cost, gradient = self._compiled(programs.cost_and_gradient, run)(
                run.program, run.parameters, data.X, data.y, data.weights, l2
            )
        return float(cost), {name: np.array(array) for name, array in gradient.items()}

    def _compiled(self, function: Callable[..., Any], run: Run) -> Callable[..., Any]:
        """A program, compiled as the run's placement asks."""
        options = {**self._options, **({"xla_gpu_deterministic_ops": True} if run.placement.deterministic else {})}
        return programs.compiled(function, tuple(options.items()))

    def snapshot(self, run: Run) -> TrainState:
        """The state, copied to the host."""
        host = functools.partial(jax.tree.map, np.array)
        return TrainState(host(run.parameters), host(run.slots), run.step)

    def free_memory(self, placement: Placement) -> int | None:
        """Bytes that are free on a device; None where it does not say."""
        figures = jax_device(placement).memory_stats() or {}
        return figures["bytes_limit"] - figures.get("bytes_in_use", 0) if "bytes_limit" in figures else None


def _dropout_gain(model: Model, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a kept input is multiplied by in training: 1 / (1 - p) under the field's convention, 1 under the article's."""
    return 1.0 / (1.0 - p) if model.dropout_scaling == "training" else np.ones_like(p)
