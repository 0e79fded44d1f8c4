"""What the general engine has of its own: how a chunk is compiled, and a batch on several devices."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import reference
from fcnet import optimizers
from fcnet.activations import Activation, relu
from fcnet.costs import log_likelihood
from fcnet.engines.contract import Placement, Program, initial_state
from fcnet.engines.xla import devices, programs
from fcnet.engines.xla import engine as module
from fcnet.engines.xla.engine import XlaEngine
from fcnet.initializers import glorot_uniform
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer
from fcnet.model import Model
from test_conformance import (
    CPU,
    advance_in_chunks,
    article,
    assert_agrees,
    assert_same_bytes,
    chunk_of,
    solo_arrays,
    spoiled,
    two_members,
    worst,
)

LOOPED = XlaEngine(steps_per_pass=4)

# --- Several steps in one pass of the loop ------------------------------------------------------------------------------


@pytest.mark.parametrize("unroll", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_of_a_pass_are_the_reference_s(dtype, unroll):
    """201 steps are no multiple of 4."""
    assert_agrees(
        XlaEngine(steps_per_pass=4, unroll=unroll),
        article(0.5, optimizers.Adam(0.003), l2=0.01, n_rows=57, n_steps=201),
        dtype,
    )


def test_the_bytes_do_not_depend_on_a_step_s_place_in_the_pass():
    case = article(0.5, optimizers.AdamW(0.003), l2=0.01, n_rows=57)
    whole, whole_costs = advance_in_chunks(LOOPED, case, "float32", [200])
    for chunks in ([7] * 28 + [4], [1, 2, 3, 194], [199, 1]):
        state, costs = advance_in_chunks(LOOPED, case, "float32", chunks)
        assert_same_bytes(state, whole)
        assert costs.tobytes() == whole_costs.tobytes()


@pytest.mark.parametrize("step", [16, 17, 18, 19, 39])
def test_a_bad_step_in_the_middle_of_a_pass(step):
    case, part = spoiled("nan")
    program, plan = case.program("float32"), case.plan()
    plan.rows[plan.rows == 29] = 28
    plan.rows[step, 4] = 29
    data = LOOPED.put(part, program, CPU)
    run = LOOPED.start(program, initial_state(program, case.parameters()), CPU)
    report = LOOPED.advance(run, data, plan)
    assert report.bad_step == step
    assert np.isfinite(report.costs[:step]).all()
    assert np.isnan(report.costs[step:]).all()
    good = LOOPED.start(program, initial_state(program, case.parameters()), CPU)
    LOOPED.advance(good, data, chunk_of(plan, 0, step, len(plan.rows)))
    kept, expected = solo_arrays(LOOPED.snapshot(run)), solo_arrays(LOOPED.snapshot(good))
    assert all(kept[name].tobytes() == expected[name].tobytes() for name in expected)


def test_members_in_passes():
    cases = [article(0.5, seed=1, n_steps=30), article(0.5, seed=2, n_steps=30)]
    run, report, alone = two_members(LOOPED, "float32", cases, [case.plan() for case in cases], cases[0].part())
    state = LOOPED.snapshot(run)
    for index, (solo, solo_report, _) in enumerate(alone):
        own = {name: array[index] for name, array in state.parameters.items()}
        assert worst(own, LOOPED.snapshot(solo).parameters) < 1e-5
        np.testing.assert_allclose(report.costs[index], solo_report.costs, rtol=1e-5)


@pytest.mark.parametrize("n_rows", [0, 1, 8, 24, 57])
def test_outputs_of_more_rows_than_fit_at_a_time(monkeypatch, n_rows):
    monkeypatch.setattr(module, "FORWARD_BYTES", 1)  # eight rows
    case = article(n_rows=57)
    X, program = case.part().X[:n_rows], case.program("float64")
    expected = reference.outputs(case.layers, case.parameters(), X, case.scaling)
    run = LOOPED.start(program, initial_state(program, case.parameters()), CPU)
    for rows in (X, scipy.sparse.csr_array(X), X.astype(np.float32)):
        tolerance = 1e-5 if rows.dtype == np.float32 else 1e-12
        np.testing.assert_allclose(LOOPED.forward(run, rows), expected, rtol=tolerance)


# --- XLA's options ------------------------------------------------------------------------------------------------------


def test_options_reach_the_compiler():
    """Also long after JAX has started, so that nobody has to set a variable of the environment first."""
    assert XlaEngine(options={"xla_gpu_enable_command_buffer": "FUSION,CUBLAS,WHILE"})
    engine = XlaEngine(options={"xla_no_such_option": True})
    case = article(n_steps=2)
    program = case.program("float32")
    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    with pytest.raises(Exception, match="xla_no_such_option"):
        engine.forward(run, case.part().X)


def test_deterministic_is_an_option_of_the_compiler(monkeypatch):
    seen = []
    monkeypatch.setattr(
        programs, "compiled", lambda function, options: seen.append(dict(options)) or _plain(function, options)
    )
    case = article(n_steps=2)
    program = case.program("float32")
    for placement in (CPU, dataclasses.replace(CPU, deterministic=True)):
        run = XlaEngine().start(program, initial_state(program, case.parameters()), placement)
        XlaEngine().advance(run, XlaEngine().put(case.part(), program, placement), case.plan())
    assert seen == [{}, {"xla_gpu_deterministic_ops": True}]


_plain = programs.compiled

# --- Several devices ----------------------------------------------------------------------------------------------------

SHARDED = """
import sys
sys.path.insert(0, {tests!r})
import dataclasses, re
import jax, numpy as np
from fcnet import optimizers
from fcnet.engines.xla import devices, programs
from fcnet.engines.xla import engine as module
from fcnet.engines.contract import Placement, initial_state
from fcnet.engines.xla.engine import XlaEngine
from test_conformance import article, solo_arrays, worst

assert len(jax.devices("cpu")) == 3
engine = XlaEngine(steps_per_pass=2)
for optimizer in (optimizers.SGD(0.5), optimizers.Adam(0.003)):
    case = article(0.5, optimizer, l2=0.01, n_rows=57, weighted=True, density=0.3)
    for dtype, tolerance in (("float32", 1e-4), ("float64", 1e-10)):
        program, answers = case.program(dtype), []
        for shards in (1, 2, 3):  # 10 rows on 3 devices: two rows of padding
            placement = Placement("cpu", shards=shards)
            data = engine.put(case.part(), program, placement)
            run = engine.start(program, initial_state(program, case.parameters()), placement)
            report = engine.advance(run, data, case.plan())
            assert len(run.parameters["layers.0.weights"].devices()) == shards
            metrics, outputs = engine.evaluate(run, data)[0], engine.forward(run, case.part().X)
            cost, gradient = engine.cost_and_gradient(run, data)
            answers.append({{
                **solo_arrays(engine.snapshot(run)), **{{"g " + name: g for name, g in gradient.items()}},
                "costs": report.costs, "metrics": np.array([metrics.cost, metrics.accuracy, cost]), "outputs": outputs,
            }})
        parameters, _, _ = case.expected()
        for answer in answers:
            assert worst(answer, answers[0]) < tolerance
            assert worst({{name: answer[" " + name] for name in parameters}}, parameters) < tolerance
print("the same to rounding")
"""


def test_a_batch_s_rows_on_several_devices():
    program = SHARDED.format(tests=str(Path(__file__).parent))
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=3"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert answer.stdout.strip() == "the same to rounding", answer.stderr


def test_one_device_has_no_mesh():
    assert devices.mesh(Placement("cpu")) is None
    assert devices.everywhere(Placement("cpu")) == jax.devices("cpu")[0]


def test_names_of_placements():
    names = [str(Placement("gpu", index, shards=shards)) for index, shards in ((0, 1), (2, 1), (0, 2))]
    assert names == ["gpu", "gpu:2", "2 gpus"]


# --- Products ----------------------------------------------------------------------------------------------------------


def test_a_row_in_parts():
    """What a GPU does with a single row: the same product, in parts that its code has and a CPU's has not."""
    rng = np.random.default_rng(0)
    w, several = rng.normal(size=(60, 7)).astype(np.float32), rng.normal(size=(2, 60)).astype(np.float32)
    np.testing.assert_allclose(programs._in_parts(30, jnp.float32, several[:1], w), several[:1] @ w, rtol=1e-5)
    for x in (several[:1], several):
        product = jax.jit(functools.partial(programs._product, jax.lax.Precision.HIGHEST))
        np.testing.assert_allclose(product(x, w), x @ w, rtol=1e-5)
        code = {name: product.trace(x, w).lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda")}
        assert ("optimization_barrier" in code["cuda"]) == (len(x) == 1)
        assert "optimization_barrier" not in code["cpu"]
    gradients = jax.grad(lambda x, w: jnp.sum(jnp.sin(programs._product(jax.lax.Precision.HIGHEST, x, w))), (0, 1))
    errors = np.cos(several[:1] @ w)
    for got, wanted in zip(gradients(several[:1], w), (errors @ w.T, several[:1].T @ errors), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_one_row_of_members():
    """Each has its own row, weights and parts."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 1, 60)).astype(np.float32), rng.normal(size=(3, 60, 7)).astype(np.float32)
    product = functools.partial(programs._product, jax.lax.Precision.HIGHEST)
    np.testing.assert_allclose(jax.vmap(product)(x, w), x @ w, rtol=1e-4, atol=1e-5)
    gradients = jax.vmap(jax.grad(lambda x, w: jnp.sum(product(x, w)), 1))(x, w)
    np.testing.assert_allclose(gradients, np.broadcast_to(x.transpose(0, 2, 1), w.shape), rtol=1e-6)


def test_blends_in_bf16_see_float32():
    """Where a parametric layer's activation is the identity, its blend has no gradient, and not that of a rounding."""
    layers = FullyConnectedLayer(5, 4, relu, parametric=True), SoftmaxLayer(4, 3, weights=glorot_uniform)
    program = Program(Model(layers), log_likelihood, optimizers.SGD(0.1).rule, precision="bf16")
    parameters = Model(layers).initial_parameters(0) | {"layers.0.biases": np.full(4, 9.0, np.float32)}
    x, y, ones = jnp.ones((2, 5)), jnp.zeros(2, jnp.int32), jnp.ones(2)
    gradient = jax.grad(lambda p: programs.mean_cost(program, p, x, y, ones, None))(parameters)
    assert (np.asarray(gradient["layers.0.blends"]) == 0).all()
    assert (np.asarray(gradient["layers.0.weights"]) != 0).any()


def test_an_activation_without_a_derivative_of_its_own_in_bf16():
    """JAX finds it, at the rounded weighted inputs; errors are bfloat16's numbers."""
    own = Activation("swish", lambda z: z * jax.nn.sigmoid(z))
    z = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    answer, back = jax.vjp(programs._activation_in_bf16(own), z)
    assert answer.dtype == jnp.bfloat16
    np.testing.assert_allclose(answer.astype(np.float32), z / (1 + np.exp(-z)), rtol=1e-2)
    (errors,) = back(jnp.ones((4, 5), jnp.bfloat16))
    s = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(errors, s + z * s * (1 - s), rtol=2e-2, atol=1e-2)
    assert (np.asarray(errors).view(np.uint32) & 0xFFFF == 0).all()
