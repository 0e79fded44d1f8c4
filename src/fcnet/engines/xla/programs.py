"""What is compiled: a chunk of steps, evaluation, outputs, and the gradient over all rows.

A chunk is a while loop with a dynamic number of steps, whose body gathers a mini-batch by index, differentiates the cost and
updates the parameters in donated buffers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fcnet.activations import Activation
from fcnet.engines.contract import Program, accuracy_rule
from fcnet.engines.xla.rows import Inputs, dense, in_blocks
from fcnet.layers import Dropout, FullyConnectedLayer, Layer, keep_mask
from fcnet.model import Model, Multiply, is_weights

Parameters = dict[str, jax.Array]
Slots = dict[str, Parameters]
Tables = dict[str, jax.Array]


# --- The way through the layers -----------------------------------------------------------------------------------------


@functools.cache
def _differentiable(model: Model, in_bf16: bool) -> Model:
    """The model with each activation's own derivative in place of the one JAX would find."""

    def wrap(layer: FullyConnectedLayer, is_last: bool) -> Activation:
        activation = layer.activation_fn
        if in_bf16 and not is_last and not layer.parametric:  # a blend's gradient is a difference of float32 numbers
            return Activation(activation.name, _activation_in_bf16(activation))
        derivative = activation.derivative
        if derivative is None:
            return activation
        function = jax.custom_jvp(activation.function)
        function.defjvps(lambda tangent, a, z: derivative(z) * tangent)
        return Activation(activation.name, function)

    last = len(model.layers) - 1
    layers = [
        dataclasses.replace(layer, activation_fn=wrap(layer, index == last))
        if isinstance(layer, FullyConnectedLayer)
        else layer
        for index, layer in enumerate(model.layers)
    ]
    return dataclasses.replace(model, layers=tuple(layers))


def _activation_in_bf16(activation: Activation) -> Callable[[jax.Array], jax.Array]:
    """f(z) in bfloat16; on the way back f'(z) of z in bfloat16, and errors in it.

    Kept for the way back is z so rounded, and not f(z) in float32, which XLA would write and read beside it; errors are rounded
    where they arise, because two read them: a product that would round them, and the sum for the biases.
    """
    function = jax.custom_vjp(lambda z: activation.function(z).astype(jnp.bfloat16))

    def forward(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return activation.function(z).astype(jnp.bfloat16), _in_bf16(z)

    def backward(rounded: jax.Array, d: jax.Array) -> tuple[jax.Array]:
        z, d = rounded.astype(jnp.float32), d.astype(jnp.float32)
        if activation.derivative is None:
            (errors,) = jax.vjp(activation.function, z)[1](d)
        else:
            errors = activation.derivative(z) * d
        return (_in_bf16(errors).astype(jnp.float32),)

    function.defvjp(forward, backward)
    return function


def _in_bf16(numbers: jax.Array) -> jax.Array:
    """Rounded, and not to be had otherwise: XLA takes the number before it was rounded where it still has it."""
    return jax.lax.optimization_barrier(numbers.astype(jnp.bfloat16))


def _through(program: Program, model: Model, parameters: Parameters, x: jax.Array, dropout: Dropout | None) -> Any:
    """z and f(z) of the last layer, ``model.forward``, with every product in the program's precision."""
    precision = jax.lax.Precision.HIGHEST if program.precision == "float32" else jax.lax.Precision.HIGH
    multiply: Multiply = lambda index, x, w: _product(precision, x, w)  # noqa: E731
    if program.precision == "bf16":
        last = len(model.layers) - 1
        multiply = lambda index, x, w: _product_in_bf16(  # noqa: E731
            jnp.float32 if index == last else jnp.bfloat16, x.astype(jnp.bfloat16), w
        )
    # JAX's own default may be TF32, or what someone has set.
    with jax.default_matmul_precision("float32" if program.precision == "float32" else "tensorfloat32"):
        return model.forward(parameters, x, dropout, multiply)


MOST_PARTS = 32
"""Into which a single row's inputs are divided."""


def _multiplied(to: Any, x: jax.Array, w: jax.Array, precision: jax.lax.Precision) -> jax.Array:
    """x . w in a type; of a single row, on a GPU, in parts."""
    parts = max(k for k in range(1, MOST_PARTS + 1) if x.shape[1] % k == 0)
    whole = functools.partial(jnp.matmul, precision=precision, preferred_element_type=to)
    if x.shape[0] != 1 or parts == 1:
        return whole(x, w)
    return jax.lax.platform_dependent(x, w, default=whole, cuda=functools.partial(_in_parts, parts, to))


def _in_parts(parts: int, to: Any, x: jax.Array, w: jax.Array) -> jax.Array:
    """XLA makes a sum over the inputs of a row's product, one that too few multiprocessors would work on; so it writes every
    weight's multiple to memory before it sums them. Parts of the inputs, summed side by side, need neither.
    """
    n_in, n_out = w.shape
    kind = jnp.promote_types(x.dtype, jnp.float32)
    multiples = x.astype(kind).reshape(parts, n_in // parts, 1) * w.astype(kind).reshape(parts, n_in // parts, n_out)
    sums = jax.lax.optimization_barrier(jnp.sum(multiples, axis=1))  # without it XLA makes one sum of both
    return jnp.sum(sums, axis=0)[None].astype(to)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(precision: jax.lax.Precision, x: jax.Array, w: jax.Array) -> jax.Array:
    """x . w, with its own derivative, so that only the forward product is in parts: on the way back XLA makes a row's products a part of the
    pass that updates the weights.
    """
    return _multiplied(x.dtype, x, w, precision)


def _product_forward(precision: jax.lax.Precision, x: jax.Array, w: jax.Array) -> tuple[jax.Array, Any]:
    return _multiplied(x.dtype, x, w, precision), (x, w)


def _product_backward(precision: jax.lax.Precision, read: Any, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = read
    return jnp.matmul(d, w.T, precision=precision), jnp.matmul(x.T, d, precision=precision)


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product_in_bf16(to: Any, x: jax.Array, w: jax.Array) -> jax.Array:
    """x . w with w rounded to bfloat16, as x is, and sums in float32; so are the two products on the way back.

    What layers hand on, forward and back, is bfloat16; gradients of weights are float32, as the weights are.
    """
    return _multiplied(to, x, w.astype(jnp.bfloat16), jax.lax.Precision.DEFAULT)


def _forward_in_bf16(to: Any, x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    w = w.astype(jnp.bfloat16)
    return _multiplied(to, x, w, jax.lax.Precision.DEFAULT), (x, w)


def _backward_in_bf16(to: Any, read: tuple[jax.Array, jax.Array], d: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = read
    d = d.astype(jnp.bfloat16)
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.DEFAULT)  # of numbers that are rounded already
    return product(d, w.T), product(x.T, d, preferred_element_type=jnp.float32)


_product_in_bf16.defvjp(_forward_in_bf16, _backward_in_bf16)


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


def mean_cost(
    program: Program,
    parameters: Parameters,
    x: jax.Array,
    y: jax.Array,
    weights: jax.Array,
    dropout: Dropout | None,
) -> jax.Array:
    """The mean cost of a batch, by row weight; 0 where every weight is 0."""
    x = dense(x, program.model.n_in)
    model = _differentiable(program.model, program.precision == "bf16")
    z, a = _through(program, model, parameters, x, dropout)
    costs = program.cost(z, a, _one_hot(program.model, y, x.dtype))
    total = jnp.sum(weights)
    # A row of weight 0 is absent: not even its NaN may count.
    return jnp.sum(jnp.where(weights > 0, costs * weights, 0.0)) / jnp.where(total > 0, total, 1.0)


# --- Programs -----------------------------------------------------------------------------------------------------------


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
        lambda parameters: mean_cost(program, parameters, x, y[batch], batch_weights, dropout)
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


def advance(
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


def evaluate(
    program: Program, parameters: Parameters, X: Inputs, y: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums over each block of rows: weighted cost, weighted count of right answers, weight."""
    scored = accuracy_rule(program, "labels" if y.ndim == 1 else "values")

    def block(parameters: Parameters, rows: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, y, weights = rows
        x = dense(x, program.model.n_in)
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
        return jax.lax.map(functools.partial(block, parameters), in_blocks(X, y, weights))

    return (blocks if program.members is None else jax.vmap(blocks))(parameters)  # type: ignore[return-value]


def forward(program: Program, parameters: Parameters, X: jax.Array) -> jax.Array:
    """Outputs without dropout, of each member."""

    def outputs(parameters: Parameters) -> jax.Array:
        return _through(program, program.model, parameters, X, None)[1]

    return (outputs if program.members is None else jax.vmap(outputs))(parameters)


def cost_and_gradient(
    program: Program, parameters: Parameters, X: Inputs, y: jax.Array, weights: jax.Array, l2: float
) -> tuple[jax.Array, Parameters]:
    """Over blocks of rows, so that memory stays bounded."""
    total = jnp.sum(weights)

    def block(carry: Any, rows: tuple[jax.Array, ...]) -> tuple[Any, None]:
        x, y, weights = rows
        share = jnp.sum(weights) / total
        answer = jax.value_and_grad(lambda p: share * mean_cost(program, p, x, y, weights, None))(parameters)
        return jax.tree.map(jnp.add, carry, answer), None

    zero = (jnp.zeros((), program.dtype), jax.tree.map(jnp.zeros_like, parameters))
    (cost, gradient), _ = jax.lax.scan(block, zero, in_blocks(X, y, weights))
    for name in filter(is_weights, parameters):
        cost = cost + 0.5 * l2 * jnp.sum(parameters[name] ** 2)
        gradient[name] = gradient[name] + l2 * parameters[name]
    return cost, gradient


@functools.cache
def compiled(function: Callable[..., Any], options: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    """One of these programs compiled with XLA's options; the state that a chunk of steps begins with is given up to it."""
    advances = function is advance
    return jax.jit(
        function,
        static_argnames=("program", "way") if advances else "program",
        donate_argnames=("parameters", "slots") if advances else (),
        compiler_options=dict(options) or None,
    )
