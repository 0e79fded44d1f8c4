"""The CUDA engine in Numba's simulator, against the float64 reference: run with ``NUMBA_ENABLE_CUDASIM=1``, by ``test_cuda.py``.

The simulator runs every thread of a block as one of Python's, and one block after the other: so there is one.
"""

from __future__ import annotations

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse

import fcnet
import reference
from fcnet import counters
from fcnet.activations import linear, relu, sigmoid, tanh
from fcnet.costs import cross_entropy, log_likelihood, quadratic
from fcnet.data.arrays import Part
from fcnet.engines.contract import initial_state
from fcnet.engines.cuda import device, layout
from fcnet.engines.cuda import engine as engine_module
from fcnet.engines.cuda.engine import CudaEngine
from fcnet.engines.cuda.kernels import elementary
from fcnet.initializers import glorot_uniform
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer
from fcnet.optimizers import SGD, Adam, AdamW, Momentum, Nesterov
from test_conformance import (
    CPU,
    TOLERANCE,
    Case,
    assert_agrees,
    assert_same_bytes,
    chunk_of,
    solo_arrays,
    spoiled,
    worst,
)

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in scalar")  # 32-bit words go round, as they must
ENGINE = CudaEngine(threads=7)


def small(hidden=sigmoid, last=None, cost=log_likelihood, optimizer=SGD(0.3), p=(0.0, 0.0), **options) -> Case:  # noqa: B008
    layers = (
        FullyConnectedLayer(6, 5, hidden, p[0], weights=glorot_uniform),
        last or SoftmaxLayer(5, 3, p[1], weights=glorot_uniform),
    )
    return Case(layers, cost, optimizer, **{"n_rows": 14, "batch": 4, "n_steps": 9, **options})


def test_agreement():
    values = FullyConnectedLayer(5, 2, linear, weights=glorot_uniform)
    probabilities = FullyConnectedLayer(5, 3, sigmoid, 0.3, weights=glorot_uniform)
    cases = [
        small(),
        small(tanh, p=(0.4, 0.5), scaling="training", l2=0.05),
        small(relu, p=(0.0, 0.5), optimizer=Momentum(0.05), weighted=True),
        small(tanh, optimizer=AdamW(0.01, weight_decay=0.1), factors=({"biases": 0.1}, {"layers.0.biases": 3.0})),
        small(fcnet.gelu, p=(0.3, 0.0), optimizer=Nesterov(0.05), l2=0.02, batch=14),
        small(fcnet.leaky_relu, values, quadratic, Adam(0.01)),
        small(fcnet.elu, probabilities, cross_entropy, AdamW(0.01, weight_decay=0.1), l2=0.01, weighted=True),
        small(fcnet.silu, FullyConnectedLayer(5, 2, tanh), quadratic, n_steps=3),
        small(linear, batch=1),
    ]
    for case in cases:
        for dtype in ("float64", "float32"):
            assert_agrees(ENGINE, case, dtype)


def test_labels_of_any_cost_and_sparse_rows():
    case = small(last=FullyConnectedLayer(5, 3, sigmoid), cost=quadratic, density=0.4)
    dense = case.part()
    labels = np.random.default_rng(1).integers(3, size=dense.n_rows)
    plan = case.plan()
    expected, _, _ = reference.train(
        case.layers, case.parameters(), dense.X, np.eye(3)[labels], rows=plan.rows, rates=case.rates(), l2=plan.l2,
        dropout=plan.dropout, keys=plan.keys, cost="quadratic", optimizer=case.optimizer, scaling=case.scaling,
    )  # fmt: skip
    for X in (dense.X, scipy.sparse.csr_array(dense.X)):
        program = case.program("float64")
        run = ENGINE.start(program, initial_state(program, case.parameters()), CPU)
        ENGINE.advance(run, ENGINE.put(Part(X, labels), program, CPU), plan)
        assert worst(ENGINE.snapshot(run).parameters, expected) < TOLERANCE["float64"]


def test_random_bits():
    key = counters.key(7, counters.Purpose.DROPOUT, 1, 12345678901)
    for n_units in (1, 5, 8):
        expected = counters.bits(key, np.arange(3, dtype=np.uint32), n_units)
        got = [[elementary.bits(key[0], key[1], row, unit, n_units) for unit in range(n_units)] for row in range(3)]
        assert (np.array(got, np.uint32) == expected).all()


def test_chunks_threads_and_room_change_no_byte():
    case = small(p=(0.3, 0.5), optimizer=AdamW(0.01), l2=0.01)
    program, part, plan = case.program("float32"), case.part(), case.plan()
    states = []
    for threads, chunks in ((7, [9]), (7, [1, 3, 5]), (1, [9]), (70, [9])):
        engine = CudaEngine(threads=threads)
        run = engine.start(program, initial_state(program, case.parameters()), CPU)
        data, start = engine.put(part, program, CPU), 0
        for n_steps in chunks:
            engine.advance(run, data, chunk_of(plan, start, n_steps, 9))
            run = engine.start(program, engine.snapshot(run), CPU)
            start += n_steps
        states.append(engine.snapshot(run))
    for state in states[1:]:
        assert_same_bytes(state, states[0])


def test_a_batch_that_leaves_no_room_for_the_next(monkeypatch):
    case = small(p=(0.3, 0.5), optimizer=Momentum(0.05), n_rows=13)
    program = case.program("float64")
    enough = layout.places_of(program, 4, 5, 1, labels=False).end
    for room, message in ((enough, None), (100, "keeps a mini-batch on the chip")):
        monkeypatch.setattr(device, "SIMULATED", dataclasses.replace(device.SIMULATED, shared_bytes=8 * room))
        if message is None:
            assert_agrees(ENGINE, case, "float64")
            continue
        assert ENGINE.supports(program, CPU) == "the weights do not fit into the chip's shared memory."
        assert not ENGINE.pays(program, 4, CPU)


def test_a_bad_step():
    for kind in ("nan", "inf"):
        case, part = spoiled(kind)
        case = dataclasses.replace(case, n_steps=6)
        program, plan = case.program("float32"), case.plan()
        plan.rows[plan.rows == 29] = 28
        plan.rows[3, 4] = 29
        answers = []
        for n_steps in (6, 3):
            run = ENGINE.start(program, initial_state(program, case.parameters()), CPU)
            report = ENGINE.advance(run, ENGINE.put(part, program, CPU), chunk_of(plan, 0, n_steps, 6))
            answers.append((report, solo_arrays(ENGINE.snapshot(run))))
        assert [report.bad_step for report, _ in answers] == [3, -1]
        assert np.isnan(answers[0][0].costs[4:]).all()
        (_, kept), (_, expected) = answers
        assert all(kept[name].tobytes() == expected[name].tobytes() for name in expected)


def test_the_rest_of_the_contract():
    case = small(p=(0.2, 0.5), optimizer=Momentum(0.05))
    program, part = case.program("float64"), case.part()
    data = ENGINE.put(part, program, CPU)
    run = ENGINE.start(program, initial_state(program, case.parameters()), CPU)
    ENGINE.advance(run, data, case.plan())
    parameters, slots, _ = case.expected()
    cost, accuracy = reference.evaluate(case.layers, parameters, part.X, part.y, "log_likelihood", case.scaling)
    metrics = ENGINE.evaluate(run, data)[0]
    assert abs(metrics.cost - cost) < 1e-9
    assert abs(metrics.accuracy - accuracy) < 1e-6
    np.testing.assert_allclose(
        ENGINE.forward(run, part.X), reference.outputs(case.layers, parameters, part.X, case.scaling)
    )
    mean, penalty, gradient = reference.cost_and_gradient(
        case.layers, parameters, part.X, part.y, "log_likelihood", case.scaling, None, 0.3
    )
    total, got = ENGINE.cost_and_gradient(run, data, 0.3)
    assert abs(total - mean - penalty) < 1e-9
    assert worst(got, gradient) < 1e-9
    other = small(seed=3).parameters()
    ENGINE.replace(run, other)
    state = ENGINE.snapshot(run)
    assert all((state.parameters[name] == other[name]).all() for name in other)
    assert worst(state.slots["velocity"], slots["velocity"]) < 1e-9
    np.testing.assert_allclose(ENGINE.forward(run, part.X), reference.outputs(case.layers, other, part.X, case.scaling))


def test_outputs():
    """Any depth, activation and number of rows, in both conventions of dropout; sparse rows; more than fit at a time."""
    hidden = [sigmoid, tanh, relu, linear, fcnet.gelu, fcnet.elu, fcnet.silu, fcnet.leaky_relu]
    stacks = [
        (SoftmaxLayer(6, 3, 0.3, weights=glorot_uniform),),
        *(
            (
                FullyConnectedLayer(6, 5, one, 0.4, weights=glorot_uniform),
                FullyConnectedLayer(5, 9, other, 0.2, weights=glorot_uniform),
                last,
            )
            for one, other, last in zip(
                hidden[::2],
                hidden[1::2],
                (
                    SoftmaxLayer(9, 3, weights=glorot_uniform),
                    FullyConnectedLayer(9, 3, sigmoid, 0.5, weights=glorot_uniform),
                    FullyConnectedLayer(9, 1, linear, weights=glorot_uniform),
                    FullyConnectedLayer(9, 2, tanh, weights=glorot_uniform),
                ),
                strict=True,
            )
        ),
    ]
    for layers, scaling in itertools.product(stacks, ("training", "inference")):
        case = Case(layers, quadratic, SGD(0.1), scaling, n_rows=11, n_steps=1)
        for dtype in ("float64", "float32"):
            program, parameters = case.program(dtype), case.parameters()
            run = ENGINE.start(program, initial_state(program, parameters), CPU)
            for n_rows in (11, 5, 1, 0):
                X = case.part().X[:n_rows]
                expected = reference.outputs(case.layers, parameters, X, scaling)
                got = ENGINE.forward(run, X)
                assert got.dtype == dtype
                np.testing.assert_allclose(got, expected, rtol=1e-12 if dtype == "float64" else 1e-5, atol=1e-6)
            assert run.general is None  # all of it was the kernel's


def test_metrics_of_every_pair_of_cost_and_outputs():
    """Costs that read sums, and those that read outputs: of softmax too, which is not trained here by the quadratic cost."""
    for last, cost in (
        (SoftmaxLayer(5, 3, weights=glorot_uniform), log_likelihood),
        (SoftmaxLayer(5, 3, weights=glorot_uniform), quadratic),
        (FullyConnectedLayer(5, 3, sigmoid, weights=glorot_uniform), cross_entropy),
        (FullyConnectedLayer(5, 3, relu, weights=glorot_uniform), quadratic),
        (FullyConnectedLayer(5, 1, sigmoid, weights=glorot_uniform), cross_entropy),
    ):
        case = small(last=last, cost=cost, weighted=True)
        program, part = case.program("float64"), case.part()
        run = ENGINE.start(program, initial_state(program, case.parameters()), CPU)
        got = ENGINE.evaluate(run, ENGINE.put(part, program, CPU))[0]
        assert run.general is None
        expected = ENGINE._general.evaluate(ENGINE._fresh(run), ENGINE._general.put(part, program, CPU))[0]
        assert abs(got.cost - expected.cost) < 1e-9, (last, cost)
        assert got.accuracy == pytest.approx(expected.accuracy)


def test_outputs_by_every_way_are_the_same(monkeypatch):
    case = small(tanh, p=(0.3, 0.5), n_rows=13)
    program, X = case.program("float32"), case.part().X
    run = ENGINE.start(program, initial_state(program, case.parameters()), CPU)
    expected = ENGINE.forward(run, X)
    np.testing.assert_array_equal(ENGINE.forward(run, scipy.sparse.csr_array(X)), expected)
    np.testing.assert_array_equal(ENGINE.forward(run, X.astype(np.float64)[::-1])[::-1], expected)
    monkeypatch.setattr(engine_module, "FEW_NUMBERS", 1)
    np.testing.assert_array_equal(ENGINE.forward(run, X), expected)
    monkeypatch.setattr(
        engine_module, "CHUNK_BYTES", 4 * 4 * 6
    )  # four rows at a time, whose sums are shared out otherwise
    np.testing.assert_allclose(ENGINE.forward(run, X), expected, rtol=1e-6)
    monkeypatch.setattr(engine_module, "MOST_WEIGHTS", 1)
    np.testing.assert_allclose(ENGINE.forward(run, X), expected, rtol=1e-5)
    assert run.general is not None


def test_several_threads_ask_one_run():
    case = small(n_rows=13)
    program, X = case.program("float32"), case.part().X
    run = ENGINE.start(program, initial_state(program, case.parameters()), CPU)
    expected = ENGINE.forward(run, X)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda row: ENGINE.forward(run, X[row : row + 1]), range(13)))
    np.testing.assert_allclose(np.concatenate(answers), expected, rtol=1e-6)


def test_a_network_is_asked():
    network = fcnet.Network([FullyConnectedLayer(4, 5), FullyConnectedLayer(5, 5), SoftmaxLayer(5, 3, 0.2)], 5)
    X = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    expected = network.predict_proba(X, engine="xla", device="cpu")
    np.testing.assert_allclose(network.predict_proba(X, engine="cuda", device="cpu"), expected, rtol=1e-5)
    network = fcnet.Network([FullyConnectedLayer(4, 300), FullyConnectedLayer(300, 300), SoftmaxLayer(300, 3)], 5)
    with pytest.raises(fcnet.InputError, match="the weights do not fit into the chip's shared memory"):
        fcnet.train(network, (X, np.arange(7) % 3), epochs=1, engine="cuda", device="cpu", verbose=False)


def test_train_runs_on_it():
    rng = np.random.default_rng(0)
    y = np.arange(40) % 3
    X = (np.eye(3, 4)[y] + 0.1 * rng.normal(size=(40, 4))).astype(np.float32)
    networks = []
    for engine in ("cuda", "native"):
        network = fcnet.Network([FullyConnectedLayer(4, 5), SoftmaxLayer(5, 3, 0.2)], 10)
        history = fcnet.train(network, (X, y), (X, y), epochs=2, engine=engine, device="cpu", verbose=False)
        assert history.engine == engine
        networks.append(network)
    assert worst(dict(networks[0].arrays), dict(networks[1].arrays)) < 1e-5
