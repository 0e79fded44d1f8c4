"""The general engine: JAX, on CPU and GPU, with any callable as activation.

Data stays on the device. A chunk of steps is one compiled call: a while loop with a dynamic number of steps, whose body
gathers a mini-batch by index, differentiates the cost and updates the parameters in donated buffers.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from fcnet import counters
from fcnet.activations import Activation, softmax
from fcnet.data.arrays import Part, Rows, TargetKind, is_sparse
from fcnet.engines.contract import Metrics, Placement, Plan, Program, Report, TrainState, accuracy_rule
from fcnet.layers import Dropout, FullyConnectedLayer, Layer, keep_mask
from fcnet.model import Model, Multiply, is_weights

Parameters = dict[str, jax.Array]
Slots = dict[str, Parameters]
Tables = dict[str, jax.Array]


class NonzeroLists(NamedTuple):
    """Rows as lists of their nonzero numbers, all as long as the longest; a column beyond the last one fills up.

    Attributes:
        values: ``(n_rows, longest)``.
        columns: ``(n_rows, longest)`` int32.
    """

    values: Any
    columns: Any


Inputs = jax.Array | NonzeroLists

BLOCK = 1024
"""Rows at a time in ``evaluate`` and ``cost_and_gradient``; data is padded to a multiple of it."""
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
        _use_compilation_cache()

    def supports(self, program: Program, placement: Placement) -> str | None:
        """None where the engine can do this; else the reason why not."""
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

    def put(self, part: Part, program: Program, placement: Placement) -> Data:
        """Copy data to the device, once."""
        length = _padded_length(part.n_rows)
        X = _padded_rows(part.X, length, program.dtype)
        y = np.zeros((length, *part.y.shape[1:]), np.int32 if part.kind == "labels" else program.dtype)
        y[: part.n_rows] = part.y
        weights = np.zeros(length, program.dtype)
        weights[: part.n_rows] = 1.0 if part.weights is None else part.weights
        # A row of weight 0 is absent; as zeros it cannot make 0 * NaN in a gradient.
        (X.values if isinstance(X, NonzeroLists) else X)[weights == 0] = 0
        y[weights == 0] = 0
        with _precision(program):
            X, y, weights = jax.device_put((X, y, weights), _everywhere(placement))
            return Data(X, y, weights, part.kind)

    def start(self, program: Program, state: TrainState, placement: Placement) -> Run:
        """Copy a state to the device."""
        with _precision(program):
            # Copied, not viewed: the buffers are donated to the first chunk.
            put = functools.partial(jax.device_put, device=_everywhere(placement), may_alias=False)
            return Run(program, placement, put(state.parameters), put(state.slots), state.step)

    def replace(self, run: Run, parameters: Mapping[str, NDArray[Any]]) -> None:
        """Put other parameters in the place of a run's."""
        with _precision(run.program):
            own = {name: np.asarray(array, run.program.dtype) for name, array in parameters.items()}
            run.parameters = jax.device_put(own, _everywhere(run.placement), may_alias=False)

    def advance(self, run: Run, data: Data, plan: Plan) -> Report:
        """Do a chunk of steps."""
        program = run.program
        tables = {
            "rows": _padded_batches(plan.rows, run.placement.shards),
            "coefficients": plan.coefficients.astype(program.dtype),
            "l2": plan.l2.astype(program.dtype),
            "gain": _dropout_gain(program.model, plan.dropout).astype(program.dtype),
            "thresholds": counters.drop_threshold(plan.dropout),
            "keys": plan.keys,
        }
        if program.members is not None:  # steps lead, members follow: the loop indexes steps
            tables = {name: np.swapaxes(table, 0, 1) for name, table in tables.items()}
        way = Way(self._steps_per_pass or STEPS_PER_PASS[run.placement.device], self._unroll, _mesh(run.placement))
        with _precision(program):
            factors = plan.factors.astype(program.dtype)
            tables, factors = jax.device_put((tables, factors), _everywhere(run.placement))
            run.parameters, run.slots, costs, bad_step = self._compiled(_advance, run)(
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
        with _precision(run.program):
            sums = self._compiled(_evaluate, run)(run.program, run.parameters, data.X, data.y, data.weights)
        cost, correct, weight = (np.atleast_1d(np.asarray(array, np.float64).sum(axis=-1)) for array in sums)
        scored = accuracy_rule(run.program, data.kind) is not None
        return [
            Metrics(float(k / w), float(c / w) if scored else None)
            for k, c, w in zip(cost, correct, weight, strict=True)
        ]

    def forward(self, run: Run, X: Rows) -> NDArray[Any]:
        """Outputs for rows without dropout."""
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
            n, length = len(rows), _padded_length(len(rows))
            if rows.dtype != dtype or n != length:
                block = np.zeros((length, model.n_in), dtype)
                block[:n] = rows
                rows = block
            with _precision(run.program):
                there = jax.device_put(rows, _everywhere(run.placement))
                answer = self._compiled(_forward, run)(run.program, run.parameters, there)
            waiting.append((slice(start, start + n), answer))
            if len(waiting) == 2:
                write()
        while waiting:
            write()
        return outputs

    def cost_and_gradient(self, run: Run, data: Data, l2: float = 0.0) -> tuple[float, dict[str, NDArray[Any]]]:
        """Mean cost without dropout + 0.5 * l2 * sum(w^2), and its gradient."""
        with _precision(run.program):
            cost, gradient = self._compiled(_cost_and_gradient, run)(
                run.program, run.parameters, data.X, data.y, data.weights, l2
            )
        return float(cost), {name: np.array(array) for name, array in gradient.items()}

    def _compiled(self, function: Callable[..., Any], run: Run) -> Callable[..., Any]:
        """A function of this file, compiled as the run's placement asks."""
        options = {**self._options, **({"xla_gpu_deterministic_ops": True} if run.placement.deterministic else {})}
        return _jit(function, tuple(options.items()))

    def snapshot(self, run: Run) -> TrainState:
        """The state, copied to the host."""
        host = functools.partial(jax.tree.map, np.array)
        return TrainState(host(run.parameters), host(run.slots), run.step)

    def free_memory(self, placement: Placement) -> int | None:
        """Bytes that are free on a device; None where it does not say."""
        figures = jax_device(placement).memory_stats() or {}
        return figures["bytes_limit"] - figures.get("bytes_in_use", 0) if "bytes_limit" in figures else None


# --- Devices ----------------------------------------------------------------------------------------------------------


def gpus() -> list[jax.Device]:
    """The GPUs that JAX can use; empty where there is none, or JAX came without GPU support."""
    try:
        return jax.devices("gpu")
    except RuntimeError:
        return []


def why_no_gpus() -> str:
    """What JAX says when it is asked for a GPU, in a line; empty where it has one."""
    try:
        jax.devices("gpu")
    except RuntimeError as error:
        return str(error).strip().split("\n")[0][:300]
    return ""


def jax_device(placement: Placement) -> jax.Device:
    """The JAX device of a placement."""
    return (jax.devices("cpu") if placement.device == "cpu" else gpus())[placement.index]


def _mesh(placement: Placement) -> Mesh | None:
    """The devices that share out a batch's rows; None for one alone."""
    if placement.shards == 1:
        return None
    devices = jax.devices("cpu") if placement.device == "cpu" else gpus()
    return Mesh(np.array(devices[placement.index : placement.index + placement.shards]), ("rows",))


def _everywhere(placement: Placement) -> Any:
    """Where arrays go: to the placement's device, or to each of its devices."""
    mesh = _mesh(placement)
    return jax_device(placement) if mesh is None else NamedSharding(mesh, PartitionSpec())


def _precision(program: Program) -> AbstractContextManager[Any]:
    """float64 is on for the run that asks for it, and for no other."""
    return jax.enable_x64(program.dtype == "float64")


def _use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless the user has chosen a place; without one all still works."""
    chosen = jax.config.values
    if chosen["jax_compilation_cache_dir"] or not chosen["jax_enable_compilation_cache"]:
        return
    try:
        import platformdirs  # not needed by who has chosen a place
    except ImportError:
        return
    folder = Path(platformdirs.user_cache_dir("fcnet")) / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@functools.cache
def _jit(function: Callable[..., Any], options: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    """A function compiled with XLA's options; the state that a chunk of steps begins with is given up to it."""
    advances = function is _advance
    return jax.jit(
        function,
        static_argnames=("program", "way") if advances else "program",
        donate_argnames=("parameters", "slots") if advances else (),
        compiler_options=dict(options) or None,
    )


# --- What is compiled -------------------------------------------------------------------------------------------------


def _padded_length(n_rows: int) -> int:
    """The next power of two from 8 up to a block, then multiples of a block."""
    if n_rows >= BLOCK:
        return -(-n_rows // BLOCK) * BLOCK
    return max(8, 1 << (n_rows - 1).bit_length())


def _padded_rows(rows: Rows, length: int, dtype: Any) -> NDArray[Any] | NonzeroLists:
    """Rows, and rows of zeros up to a length; as lists where they come from a sparse matrix and are short."""
    n_rows, n_in = rows.shape
    if is_sparse(rows):
        counts = np.diff(rows.indptr)
        longest = int(counts.max())
        if 2 * longest < n_in:
            lists = NonzeroLists(np.zeros((length, longest), dtype), np.full((length, longest), n_in, np.int32))
            used = np.arange(longest) < counts[:, None]
            lists.values[:n_rows][used], lists.columns[:n_rows][used] = rows.data, rows.indices
            return lists
        rows = rows.toarray()
    padded = np.zeros((length, n_in), dtype)
    padded[:n_rows] = rows
    return padded


def _padded_batches(rows: NDArray[np.int32], shards: int) -> NDArray[np.int32]:
    """Row indices of each step with -1 added, so that every device takes as many."""
    missing = -rows.shape[-1] % shards
    return rows if not missing else np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, missing)], constant_values=-1)


def _dense(x: Inputs, n_in: int) -> jax.Array:
    """Some rows as ``(n, n_in)`` numbers."""
    if not isinstance(x, NonzeroLists):
        return x
    n_rows = x.values.shape[0]
    zeros = jnp.zeros((n_rows, n_in), x.values.dtype)
    return zeros.at[jnp.arange(n_rows)[:, None], x.columns].add(x.values, mode="drop")


def _dropout_gain(model: Model, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a kept input is multiplied by in training: 1 / (1 - p) under the field's convention, 1 under the article's."""
    return 1.0 / (1.0 - p) if model.dropout_scaling == "training" else np.ones_like(p)


@functools.cache
def _differentiable(model: Model) -> Model:
    """The model with each activation's own derivative in place of the one JAX would find."""

    def wrap(activation: Activation) -> Activation:
        derivative = activation.derivative
        if derivative is None:
            return activation
        function = jax.custom_jvp(activation.function)
        function.defjvps(lambda tangent, a, z: derivative(z) * tangent)
        return Activation(activation.name, function)

    layers = [
        dataclasses.replace(layer, activation_fn=wrap(layer.activation_fn))
        if isinstance(layer, FullyConnectedLayer)
        else layer
        for layer in model.layers
    ]
    return dataclasses.replace(model, layers=tuple(layers))


def _through(program: Program, model: Model, parameters: Parameters, x: jax.Array, dropout: Dropout | None) -> Any:
    """z and f(z) of the last layer, ``model.forward``, with every product in the program's precision."""
    multiply: Multiply | None = None
    if program.precision == "bf16":
        last = len(model.layers) - 1
        multiply = lambda index, x, w: _product_in_bf16(jnp.float32 if index == last else jnp.bfloat16, x, w)  # noqa: E731
    # JAX's own default may be TF32, or what someone has set.
    with jax.default_matmul_precision("float32" if program.precision == "float32" else "tensorfloat32"):
        return model.forward(parameters, x, dropout, multiply)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product_in_bf16(to: Any, x: jax.Array, w: jax.Array) -> jax.Array:
    """x . w with both rounded to bfloat16 and sums in float32; so are the two products on the way back.

    What layers hand on, forward and back, is bfloat16; gradients of weights are float32, as the weights are.
    """
    return _rounded_product(x, w, to)


def _rounded_product(x: jax.Array, w: jax.Array, to: Any) -> jax.Array:
    return jnp.matmul(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16), preferred_element_type=to)


def _product_forward(to: Any, x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x, w = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    return _rounded_product(x, w, to), (x, w)


def _product_backward(to: Any, read: tuple[jax.Array, jax.Array], d: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = read
    return _rounded_product(d, w.T, jnp.bfloat16).astype(jnp.float32), _rounded_product(x.T, d, jnp.float32)


_product_in_bf16.defvjp(_product_forward, _product_backward)


def _with_dropout(thresholds: jax.Array, gain: jax.Array, keys: jax.Array) -> Dropout:
    """How layers read their input in a training step."""

    def read(index: int, layer: Layer, x: jax.Array) -> jax.Array:
        if not layer.p_dropout:
            return x
        return x * jnp.where(keep_mask(x, thresholds[index], keys[index]), gain[index], 0.0)

    return read


def _one_hot(model: Model, y: jax.Array, dtype: Any) -> jax.Array:
    """Labels as one-hot targets; values as they are."""
    return jax.nn.one_hot(y, model.n_out, dtype=dtype) if y.ndim == 1 else y


def _mean_cost(
    program: Program,
    parameters: Parameters,
    x: jax.Array,
    y: jax.Array,
    weights: jax.Array,
    dropout: Dropout | None,
) -> jax.Array:
    """The mean cost of a batch, by row weight; 0 where every weight is 0."""
    x = _dense(x, program.model.n_in)
    z, a = _through(program, _differentiable(program.model), parameters, x, dropout)
    costs = program.cost(z, a, _one_hot(program.model, y, x.dtype))
    total = jnp.sum(weights)
    # A row of weight 0 is absent: not even its NaN may count.
    return jnp.sum(jnp.where(weights > 0, costs * weights, 0.0)) / jnp.where(total > 0, total, 1.0)


def _step(
    program: Program,
    X: Inputs,
    y: jax.Array,
    weights: jax.Array,
    mesh: Mesh | None,
    parameters: Parameters,
    slots: Slots,
    row: Tables,
    factors: jax.Array,
    going: jax.Array,
) -> tuple[Parameters, Slots, jax.Array]:
    """One step: the new parameters and slots where it goes on and the cost is finite, the old ones where not."""
    rows = _shared_out(row["rows"], mesh)
    batch = jnp.maximum(rows, 0)
    batch_weights = jnp.where(rows >= 0, weights[batch], 0.0)
    x = jax.tree.map(lambda numbers: numbers[batch], X)
    dropout = _with_dropout(row["thresholds"], row["gain"], row["keys"])
    cost, gradient = jax.value_and_grad(
        lambda parameters: _mean_cost(program, parameters, x, y[batch], batch_weights, dropout)
    )(parameters)
    learns = going & jnp.isfinite(cost)
    coefficients = tuple(row["coefficients"])
    new_parameters: Parameters = {}
    new_slots: Slots = {slot: {} for slot in program.rule.slots}
    for place, (name, _) in enumerate(program.model.shapes()):
        parameter = parameters[name]
        g = gradient[name] + row["l2"] * parameter if is_weights(name) else gradient[name]
        old = [slots[slot][name] for slot in program.rule.slots]
        updated, new = program.rule.update(parameter, g, old, program.rule.scaled(coefficients, factors[place]))
        new_parameters[name] = jnp.where(learns, updated, parameter)
        for slot, before, after in zip(program.rule.slots, old, new, strict=True):
            new_slots[slot][name] = jnp.where(learns, after, before)
    return new_parameters, new_slots, cost


def _shared_out(rows: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Some rows of a batch on each device; XLA then shares out what is computed of them, and sums gradients over devices."""
    return rows if mesh is None else jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, PartitionSpec("rows")))


@dataclass(frozen=True)
class Way:
    """How a chunk of steps is compiled: so many steps in a pass, so many of them side by side, on those devices."""

    steps_per_pass: int
    unroll: int
    mesh: Mesh | None


def _advance(
    program: Program,
    way: Way,
    parameters: Parameters,
    slots: Slots,
    X: Inputs,
    y: jax.Array,
    weights: jax.Array,
    tables: Tables,
    factors: jax.Array,
    n_steps: int,
) -> tuple[Parameters, Slots, jax.Array, jax.Array]:
    """Steps 0 to n_steps - 1 of the tables, or until no member is left whose cost is finite."""
    step = functools.partial(_step, program, X, y, weights, way.mesh)
    members = () if program.members is None else (program.members,)
    if members:
        step = jax.vmap(step)
    length = tables["rows"].shape[0]

    def unfinished(carry: Any) -> jax.Array:
        i, _, _, _, bad_step = carry
        return (i < n_steps) & jnp.any(bad_step < 0)

    def one(_: Any, carry: Any) -> Any:
        i, parameters, slots, costs, bad_step = carry
        row = {name: table[jnp.minimum(i, length - 1)] for name, table in tables.items()}
        going = (i < n_steps) & (bad_step < 0)  # beyond the last step, and from a bad one on, all stays as it was
        parameters, slots, cost = step(parameters, slots, row, factors, going)
        bad_step = jnp.where(going & ~jnp.isfinite(cost), i, bad_step)
        return i + 1, parameters, slots, costs.at[i].set(jnp.where(going, cost, jnp.nan)), bad_step

    def body(carry: Any) -> Any:
        if way.steps_per_pass == 1:
            return one(0, carry)
        return jax.lax.fori_loop(0, way.steps_per_pass, one, carry, unroll=way.unroll)

    start = (
        jnp.int32(0),
        parameters,
        slots,
        jnp.full((length, *members), jnp.nan, program.dtype),
        jnp.full(members, -1, jnp.int32),
    )
    _, parameters, slots, costs, bad_step = jax.lax.while_loop(unfinished, body, start)
    return parameters, slots, costs, bad_step


def _evaluate(
    program: Program, parameters: Parameters, X: Inputs, y: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums over each block of rows: weighted cost, weighted count of right answers, weight."""
    scored = accuracy_rule(program, "labels" if y.ndim == 1 else "values")

    def block(parameters: Parameters, rows: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, y, weights = rows
        x = _dense(x, program.model.n_in)
        z, a = _through(program, program.model, parameters, x, None)
        targets = _one_hot(program.model, y, x.dtype)
        costs = program.cost(z, a, targets)
        right = {
            "argmax": lambda: jnp.argmax(a, axis=1) == jnp.argmax(targets, axis=1),
            "threshold": lambda: (a[:, 0] > 0.5) == (targets[:, 0] > 0.5),
            None: lambda: jnp.zeros_like(weights, bool),
        }[scored]()
        present = weights > 0
        return (
            jnp.sum(jnp.where(present, costs * weights, 0.0)),
            jnp.sum(jnp.where(right, weights, 0.0)),
            jnp.sum(weights),
        )

    def blocks(parameters: Parameters) -> tuple[jax.Array, ...]:
        return jax.lax.map(functools.partial(block, parameters), _in_blocks(X, y, weights))

    return (blocks if program.members is None else jax.vmap(blocks))(parameters)  # type: ignore[return-value]


def _forward(program: Program, parameters: Parameters, X: jax.Array) -> jax.Array:
    def outputs(parameters: Parameters) -> jax.Array:
        return _through(program, program.model, parameters, X, None)[1]

    return (outputs if program.members is None else jax.vmap(outputs))(parameters)


def _cost_and_gradient(
    program: Program, parameters: Parameters, X: Inputs, y: jax.Array, weights: jax.Array, l2: float
) -> tuple[jax.Array, Parameters]:
    """Over blocks of rows, so that memory stays bounded."""
    total = jnp.sum(weights)

    def block(carry: Any, rows: tuple[jax.Array, ...]) -> tuple[Any, None]:
        x, y, weights = rows
        share = jnp.sum(weights) / total
        answer = jax.value_and_grad(lambda p: share * _mean_cost(program, p, x, y, weights, None))(parameters)
        return jax.tree.map(jnp.add, carry, answer), None

    zero = (jnp.zeros((), program.dtype), jax.tree.map(jnp.zeros_like, parameters))
    (cost, gradient), _ = jax.lax.scan(block, zero, _in_blocks(X, y, weights))
    for name in filter(is_weights, parameters):
        cost = cost + 0.5 * l2 * jnp.sum(parameters[name] ** 2)
        gradient[name] = gradient[name] + l2 * parameters[name]
    return cost, gradient


def _in_blocks(X: Inputs, y: jax.Array, weights: jax.Array) -> tuple[Any, ...]:
    """Arrays ``(length, ...)`` as ``(n_blocks, block, ...)``."""
    length = len(weights)
    return jax.tree.map(lambda a: a.reshape(-1, min(length, BLOCK), *a.shape[1:]), (X, y, weights))
