"""Every engine against the float64 reference: one contract, one judge.

An engine is one entry of ``ENGINES``. What the contract leaves open to an engine (members, any callable as activation) is
skipped with the engine's own reason; everything else it must do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import platform
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from fcnet import counters
from fcnet.activations import ELEMENTWISE, exponential, linear, mish, relu, selu, sigmoid, softmax, tanh
from fcnet.costs import (
    COSTS,
    Cost,
    absolute,
    binary_focal,
    binary_label_smoothing,
    cross_entropy,
    focal,
    huber,
    label_smoothing,
    log_cosh,
    log_likelihood,
    poisson,
    quadratic,
    quantile,
)
from fcnet.data.arrays import Part
from fcnet.engines.contract import OWN_SLOT, PRECISIONS, Placement, Plan, Program, Report, TrainState, initial_state
from fcnet.engines.native import engine as native
from fcnet.engines.native.engine import NativeEngine
from fcnet.engines.native.kernels.updates import LEAST_SCALE
from fcnet.engines.xla import programs
from fcnet.engines.xla.engine import XlaEngine
from fcnet.initializers import glorot_uniform, ones, zeros
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer, TableLayer
from fcnet.model import Model
from fcnet.optimizers import SGD, Adam, AdamW, Factors, Momentum, Nesterov

ENGINES = [NativeEngine(), XlaEngine()]
CPU = Placement("cpu")
DTYPES = ("float32", "float64")
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def engine(request):
    return request.param


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


# --- A training run as a value ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, its data and its tables: everything that an engine and the reference need."""

    layers: tuple
    cost: Cost
    optimizer: Any
    scaling: str = "inference"
    l2: float = 0.0
    n_rows: int = 60
    batch: int = 10
    n_steps: int = 200
    weighted: bool = False
    seed: int = 0
    density: float = 1.0
    factors: tuple[dict[str, float], dict[str, float]] | None = None

    @property
    def model(self) -> Model:
        return Model(self.layers, self.scaling)

    def program(self, dtype: str, members: int | None = None) -> Program:
        return Program(self.model, self.cost, self.optimizer.rule, dtype, members)

    def parameters(self) -> dict[str, np.ndarray]:
        return self.model.initial_parameters(self.seed, "float32")

    def part(self) -> Part:
        """Numbers that float32 holds exactly, so that every engine starts from the same."""
        return random_part(self.model, self.cost, self.n_rows, self.weighted, self.seed, self.density)

    def rates(self) -> np.ndarray:
        """From the optimizer's learning rate down to its half: no two steps alike."""
        return self.optimizer.learning_rate * np.linspace(1.0, 0.5, self.n_steps)

    def plan(self, first_step: int = 0) -> Plan:
        steps = np.arange(first_step, first_step + self.n_steps)
        n_layers = len(self.layers)
        return Plan(
            n_steps=self.n_steps,
            rows=batches(self.n_rows, self.batch, self.n_steps, self.seed),
            coefficients=self.optimizer.coefficients(steps, self.rates()),
            l2=np.full(self.n_steps, self.l2),
            dropout=np.tile([layer.p_dropout for layer in self.layers], (self.n_steps, 1)),
            keys=counters.key(self.seed, counters.Purpose.DROPOUT, np.arange(n_layers)[None, :], steps[:, None]),
            factors=Factors(*(self.factors or ())).of(self.model),
        )

    def expected(self, part: Part | None = None) -> tuple[dict, dict, np.ndarray]:
        """What the reference makes of it: parameters, slots, costs."""
        part, plan = part or self.part(), self.plan()
        return reference.train(
            self.layers,
            self.parameters(),
            part.X,
            part.y,
            rows=plan.rows,
            rates=self.rates(),
            l2=plan.l2,
            dropout=plan.dropout,
            keys=plan.keys,
            cost=(self.cost.name, *self.cost.constants),
            optimizer=self.optimizer,
            scaling=self.scaling,
            weights=part.weights,
            factors=self.factors and dict(zip(self.parameters(), plan.factors, strict=True)),
        )


def random_part(
    model: Model, cost: Cost, n_rows: int, weighted: bool = False, seed: int = 0, density: float = 1.0
) -> Part:
    """Rows of noise, a share of them nonzero, and targets of the kind that the cost reads."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, model.n_in)).astype(np.float32)
    if cost.pairs_with == softmax and model.n_out > 1:
        y = rng.integers(model.n_out, size=n_rows)
    elif cost.pairs_with is None:
        y = rng.normal(size=(n_rows, model.n_out)).astype(np.float32)
    else:
        y = rng.integers(2, size=(n_rows, model.n_out)).astype(np.float32)
    weights = rng.choice([0.0, 0.5, 1.0, 2.0], size=n_rows) if weighted else None
    if weighted:
        weights[:: max(1, n_rows // 8)] = 1.0
    if density < 1.0:
        X[rng.random(X.shape) >= density] = 0.0
    if categories := getattr(model.layers[0], "categories", ()):
        X[:, -len(categories) :] = rng.integers(-1, categories, size=(n_rows, len(categories)))
    return Part(X, y, weights)


def batches(n_rows: int, batch: int, n_steps: int, seed: int = 0) -> np.ndarray:
    """Shuffled epochs of mini-batches, the last one of an epoch short and padded with -1 where it doesn't fit."""
    rng = np.random.default_rng(seed)
    n_batches = -(-n_rows // batch)
    rows = np.full((-(-n_steps // n_batches), n_batches * batch), -1, np.int32)
    for epoch in rows:
        epoch[:n_rows] = rng.permutation(n_rows)
    return rows.reshape(-1, batch)[:n_steps]


def chunk_of(plan: Plan, start: int, n_steps: int, length: int) -> Plan:
    """Steps start to start + n_steps, in tables of the given length; what fills them up would do harm if it were read."""

    def cut(table: np.ndarray, filler: Any) -> np.ndarray:
        chunk = np.full((length, *table.shape[1:]), filler, table.dtype)
        chunk[:n_steps] = table[start : start + n_steps]
        return chunk

    return Plan(
        n_steps=n_steps,
        rows=cut(plan.rows, 0),
        coefficients=cut(plan.coefficients, np.nan),
        l2=cut(plan.l2, np.nan),
        dropout=cut(plan.dropout, 0.9),
        keys=cut(plan.keys, 1),
        factors=plan.factors,
    )


def stack(plans: list[Plan]) -> Plan:
    """One plan with a member axis."""
    tables = {
        field.name: np.stack([getattr(plan, field.name) for plan in plans])
        for field in dataclasses.fields(Plan)
        if field.name != "n_steps"
    }
    return Plan(n_steps=plans[0].n_steps, **tables)


def must_support(engine: Any, program: Program) -> None:
    assert engine.supports(program, CPU) is None


def may_support(engine: Any, program: Program) -> None:
    if reason := engine.supports(program, CPU):
        pytest.skip(f"{engine.name}: {reason}")


def train(engine: Any, case: Case, dtype: str, part: Part | None = None) -> tuple[TrainState, Report]:
    """The case in one chunk."""
    program = case.program(dtype)
    must_support(engine, program)
    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    report = engine.advance(run, engine.put(part or case.part(), program, CPU), case.plan())
    return engine.snapshot(run), report


def worst(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The largest difference of an element over the largest element, array by array."""
    assert got.keys() == expected.keys()
    differences = []
    for name, array in expected.items():
        assert got[name].shape == array.shape
        largest = np.abs(array).max() or 1.0
        differences.append(np.abs(got[name].astype(np.float64) - array).max() / largest)
    return max(differences)


def assert_same_bytes(got: TrainState, expected: TrainState) -> None:
    assert got.step == expected.step
    for a, b in [(got.parameters, expected.parameters)] + [
        (got.slots[slot], expected.slots[slot]) for slot in expected.slots
    ]:
        assert a.keys() == b.keys()
        for name in b:
            assert a[name].dtype == b[name].dtype
            assert a[name].tobytes() == b[name].tobytes(), name


def assert_agrees(engine: Any, case: Case, dtype: str, part: Part | None = None) -> None:
    """Parameters, slots and costs after all steps."""
    state, report = train(engine, case, dtype, part)
    parameters, slots, costs = case.expected(part)
    assert report.bad_step == -1
    assert state.step == case.n_steps
    assert all(array.dtype == dtype for array in state.parameters.values())
    assert worst(state.parameters, parameters) < TOLERANCE[dtype]
    assert worst({"costs": report.costs}, {"costs": costs}) < TOLERANCE[dtype]
    assert state.slots.keys() - {OWN_SLOT} == slots.keys()
    for slot, arrays in slots.items():
        assert worst(state.slots[slot], arrays) < TOLERANCE[dtype]


# --- The reference itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["inference", "training"])
@pytest.mark.parametrize("activation", sorted(ELEMENTWISE))
def test_reference_gradient_by_finite_differences(activation, scaling):
    """Backpropagation by hand, through dropout masks, row weights and every activation."""
    function = ELEMENTWISE[activation]
    for cost, last in [
        *((cost, LAST[cost.pairs_with or linear]) for cost in OTHER_COSTS),
        (log_likelihood, SoftmaxLayer(6, 3, 0.4)),
        (cross_entropy, FullyConnectedLayer(6, 3, sigmoid, 0.4)),
        (quadratic, FullyConnectedLayer(6, 3, function, 0.4)),
        (quadratic, SoftmaxLayer(6, 3, 0.4, weights=glorot_uniform)),
    ]:
        layers = (FullyConnectedLayer(5, 6, function, 0.3), last)
        case = Case(layers, cost, SGD(), scaling, n_rows=8, weighted=True)
        part, parameters = case.part(), case.parameters()
        parameters = {name: array.astype(np.float64) for name, array in parameters.items()}
        keys = counters.key(5, counters.Purpose.DROPOUT, np.arange(2))

        def total(parameters, layers=layers, part=part, keys=keys, cost=cost):
            return reference.cost_and_gradient(
                layers,
                parameters,
                part.X,
                part.y,
                (cost.name, *cost.constants),
                scaling,
                part.weights,
                0.1,
                (0.3, layers[1].p_dropout),
                keys,
            )

        gradient = total(parameters)[2]
        for name in parameters:
            numerical = directional(lambda p: sum(total(p)[:2]), parameters, name)
            assert numerical(gradient[name]) < 1e-6


TABLES = [
    TableLayer(4, 3, (5, 2, 12)),
    TableLayer(3, n_waves=5, number_width=3, frequency=1.0, scaled=False),
    TableLayer(2, 4, number_width=1),
    TableLayer(0, 0, (7, 40), category_width=3),
    TableLayer(1, 0, (3,), n_waves=1, number_width=2, category_width=1),
]


@pytest.mark.parametrize("table", TABLES, ids=repr)
@pytest.mark.parametrize("activation", [selu, mish, relu], ids=repr)
def test_reference_gradient_of_tables_and_blends_by_finite_differences(table, activation):
    layers = (
        table,
        FullyConnectedLayer(table.n_out, 6, activation, 0.3, parametric=True),
        FullyConnectedLayer(6, 5, activation, 0.2, parametric=True),
        SoftmaxLayer(5, 3, 0.4, weights=glorot_uniform),
    )
    case = Case(layers, log_likelihood, SGD(), "training", n_rows=8, weighted=True)
    part, keys = case.part(), counters.key(5, counters.Purpose.DROPOUT, np.arange(4))
    rng = np.random.default_rng(1)
    parameters = {name: array + rng.normal(0.0, 0.3, array.shape) for name, array in case.parameters().items()}

    def total(parameters):
        dropout = [layer.p_dropout for layer in layers]
        return reference.cost_and_gradient(
            layers, parameters, part.X, part.y, "log_likelihood", "training", part.weights, 0.1, dropout, keys
        )

    gradient = total(parameters)[2]
    assert gradient.keys() == parameters.keys()
    for name in parameters:
        assert directional(lambda p: sum(total(p)[:2]), parameters, name)(gradient[name]) < 1e-6


def directional(cost, parameters, name, h=1e-5):
    """A function of a gradient: how far it is from the central difference along a random direction, relatively."""
    direction = np.random.default_rng(len(name)).normal(size=parameters[name].shape)
    ahead, behind = (cost({**parameters, name: parameters[name] + sign * h * direction}) for sign in (1.0, -1.0))
    slope = (ahead - behind) / (2 * h)
    return lambda gradient: abs((gradient * direction).sum() - slope) / max(1e-2, abs(slope))


# --- 200 steps ---------------------------------------------------------------------------------------------------------


def article(p_dropout: float = 0.0, optimizer: Any = None, **options: Any) -> Case:
    """The article's network, small: sigmoid 20-15, softmax 15-5."""
    layers = (FullyConnectedLayer(20, 15, sigmoid, p_dropout), SoftmaxLayer(15, 5, p_dropout))
    return Case(layers, log_likelihood, optimizer or SGD(0.5), **options)


@pytest.mark.parametrize("l2", [0.0, 0.05])
@pytest.mark.parametrize("p_dropout", [0.0, 0.5])
def test_article(engine, dtype, p_dropout, l2):
    assert_agrees(engine, article(p_dropout, l2=l2), dtype)


@pytest.mark.parametrize(
    ("cost", "last"), [(log_likelihood, SoftmaxLayer(8, 3)), (cross_entropy, FullyConnectedLayer(8, 3, sigmoid))]
)
@pytest.mark.parametrize("hidden", [relu, tanh], ids=repr)
def test_zeros_are_no_kink(engine, dtype, cost, last, hidden):
    """Rows of zeros under biases of zero, a last layer of zeros: z = 0, where max, abs and relu have their kinks."""
    layers = (
        FullyConnectedLayer(9, 8, hidden, 0.5, weights=glorot_uniform, biases=zeros),
        dataclasses.replace(last, weights=zeros, biases=zeros),
    )
    case = Case(layers, cost, SGD(0.2), n_steps=20)
    part = case.part()
    part.X[::2] = 0.0
    assert_agrees(engine, case, dtype, part)


def table_case(table: TableLayer, optimizer: Any, activation: Any = selu, **options: Any) -> Case:
    """A table's network: parametric activations, dropout, inverted as there."""
    layers = (
        table,
        FullyConnectedLayer(table.n_out, 20, activation, 0.1, glorot_uniform, zeros, parametric=True),
        FullyConnectedLayer(20, 18, activation, 0.3, glorot_uniform, zeros, parametric=True),
        SoftmaxLayer(18, 3, 0.2, weights=glorot_uniform),
    )
    return Case(layers, log_likelihood, optimizer, **{"scaling": "training", **options})


@pytest.mark.parametrize("optimizer", [SGD(0.1), AdamW(0.003, beta_2=0.95, weight_decay=0.1)], ids=repr)
@pytest.mark.parametrize("table", TABLES, ids=repr)
def test_tables(engine, dtype, table, optimizer):
    case = table_case(table, optimizer, l2=0.02, n_rows=57, n_steps=60, weighted=True)
    may_support(engine, case.program(dtype))
    assert_agrees(engine, case, dtype)


@pytest.mark.parametrize("density", [0.1, 1.0], ids=["sparse", "dense"])
@pytest.mark.parametrize("optimizer", [SGD(0.2), Momentum(0.02), Nesterov(0.02), Adam(0.003), AdamW(0.003)], ids=repr)
@pytest.mark.parametrize("batch", [10, 64])
def test_factors(engine, dtype, optimizer, density, batch):
    """Every parameter has a rate and a decay of its own."""
    layers = (
        FullyConnectedLayer(20, 12, tanh, 0.0, glorot_uniform),
        FullyConnectedLayer(12, 10, tanh, 0.2, glorot_uniform),
        SoftmaxLayer(10, 3),
    )
    rates = {"weights": 0.5, "biases": 0.1, "layers.1.weights": 2.0, "layers.2.biases": 0.0}
    decays = {"weights": 3.0, "layers.0.weights": 0.0, "layers.1.biases": 5.0}
    case = Case(
        layers,
        log_likelihood,
        optimizer,
        l2=0.02,
        n_steps=60,
        n_rows=130,
        batch=batch,
        density=density,
        factors=(rates, decays),
    )
    assert_agrees(engine, case, dtype)


def test_factors_of_a_table(engine, dtype):
    rates = {"weights": 0.3, "scales": 6.0, "blends": 0.1, "embeddings": 0.7, "frequencies": 0.2, "offsets": 3.0}
    decays = {"weights": 1.0, "scales": 2.0, "embeddings": 0.5, "phases": 1.5}
    optimizer = AdamW(0.003, beta_2=0.95, weight_decay=0.3)
    case = table_case(TABLES[0], optimizer, n_steps=60, factors=(rates, decays))
    may_support(engine, case.program(dtype))
    assert_agrees(engine, case, dtype)


@pytest.mark.parametrize("activation", sorted(ELEMENTWISE))
def test_parametric_activations(engine, dtype, activation):
    layers = (
        FullyConnectedLayer(7, 12, ELEMENTWISE[activation], 0.2, parametric=True),
        FullyConnectedLayer(12, 10, ELEMENTWISE[activation], 0.5, parametric=True),
        FullyConnectedLayer(10, 2, linear),
    )
    case = Case(layers, quadratic, Momentum(0.005), "inference", n_steps=60)
    may_support(engine, case.program(dtype))
    assert_agrees(engine, case, dtype)


def test_tables_are_evaluated_and_answer(engine, dtype):
    case = table_case(TABLES[0], SGD(0.1), n_rows=1500)
    program, part, parameters = case.program(dtype), case.part(), case.parameters()
    may_support(engine, program)
    parameters["layers.1.blends"] = np.linspace(-0.5, 1.5, 20).astype(np.float32)
    run = engine.start(program, initial_state(program, parameters), CPU)
    data = engine.put(part, program, CPU)
    (metrics,) = engine.evaluate(run, data)
    cost, accuracy = reference.evaluate(case.layers, parameters, part.X, part.y, "log_likelihood", "training")
    assert metrics.cost == pytest.approx(cost, rel=TOLERANCE[dtype])
    assert metrics.accuracy == pytest.approx(accuracy)
    expected = reference.outputs(case.layers, parameters, part.X, "training")
    for n_rows in (1, 3, 700, 1500):
        assert worst({"": engine.forward(run, part.X[:n_rows])}, {"": expected[:n_rows]}) < TOLERANCE[dtype]
    cost, gradient = engine.cost_and_gradient(run, data, 0.1)
    exact = {name: array.astype(np.float64) for name, array in parameters.items()}
    mean, penalty, expected = reference.cost_and_gradient(
        case.layers, exact, part.X, part.y, "log_likelihood", "training", l2=0.1
    )
    assert cost == pytest.approx(mean + penalty, rel=TOLERANCE[dtype])
    assert worst(gradient, expected) < TOLERANCE[dtype]


FACTORS = {
    "activation": sorted(ELEMENTWISE),
    "optimizer": [SGD(0.2), Momentum(0.02), Nesterov(0.02), Adam(0.003), AdamW(0.003, weight_decay=0.1)],
    "cost": ["log_likelihood", "cross_entropy", "quadratic", "quadratic of linear", "quadratic of softmax"],
    "depth": [1, 2, 3, 4],
    "dropout": [(0.0,) * 4, (0.5,) * 4, (0.2, 0.0, 0.6, 0.3)],
    "scaling": ["inference", "training"],
    "n_rows": [60, 57],
    "weighted": [False, True],
    "l2": [0.0, 0.02],
    "dtype": list(DTYPES),
}


def pairwise(factors: dict[str, list]) -> list[dict]:
    """Rows in which each two values of two factors meet at least once; greedy, and always the same."""
    names = list(factors)
    missing = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(range(len(names)), 2)
        for i in range(len(factors[names[a]]))
        for j in range(len(factors[names[b]]))
    }
    table = []
    while missing:
        chosen = dict(min(missing))
        for place, name in enumerate(names):
            if place in chosen:
                continue

            def gain(value, place=place, chosen=chosen, missing=missing):
                return sum(tuple(sorted([(place, value), other])) in missing for other in chosen.items())

            chosen[place] = max(range(len(factors[name])), key=lambda value: (gain(value), -value))
        missing -= set(itertools.combinations(sorted(chosen.items()), 2))
        table.append({name: factors[name][chosen[place]] for place, name in enumerate(names)})
    return table


def pairwise_case(row: dict) -> Case:
    depth, dropout = row["depth"], row["dropout"]
    sizes = (*(9, 8, 7, 6)[:depth], 3)
    hidden = ELEMENTWISE[row["activation"]]
    cost, _, last = row["cost"].partition(" of ")
    layers = [
        FullyConnectedLayer(sizes[i], sizes[i + 1], hidden, dropout[i], weights=glorot_uniform)
        for i in range(depth - 1)
    ]
    n_in, p = sizes[depth - 1], dropout[depth - 1]
    if cost == "log_likelihood" or last == "softmax":
        layers.append(SoftmaxLayer(n_in, 3, p, weights=glorot_uniform))
    else:
        output = {"": hidden, "linear": linear}[last] if cost == "quadratic" else sigmoid
        layers.append(FullyConnectedLayer(n_in, 3, output, p, weights=glorot_uniform))
    same = {name: row[name] for name in ("optimizer", "scaling", "n_rows", "weighted", "l2")}
    return Case(tuple(layers), COSTS[cost], **same)


def label(row: dict) -> str:
    dropout = {0.0: "keep", 0.5: "half", 0.2: "layers"}[row["dropout"][0]]
    return "-".join(
        [
            row["activation"],
            type(row["optimizer"]).__name__,
            row["cost"].replace(" ", "_"),
            f"{row['depth']}-{dropout}-{row['scaling']}-{row['n_rows']}",
            *(["weighted"] if row["weighted"] else []),
            *(["l2"] if row["l2"] else []),
            row["dtype"],
        ]
    )


PAIRWISE = pairwise(FACTORS)


def test_pairwise_table_is_complete():
    for a, b in itertools.combinations(FACTORS, 2):
        met = {(str(row[a]), str(row[b])) for row in PAIRWISE}
        assert met == {(str(i), str(j)) for i in FACTORS[a] for j in FACTORS[b]}
    assert len(PAIRWISE) < 80


OTHER_COSTS = [
    absolute,
    huber(),
    huber(0.3),
    log_cosh,
    quantile(),
    quantile((0.1, 0.5, 0.9)),
    poisson,
    focal(),
    focal(0.5),
    binary_focal(),
    label_smoothing(),
    binary_label_smoothing(),
]
LAST = {softmax: SoftmaxLayer(6, 3, weights=glorot_uniform)} | {
    function: FullyConnectedLayer(6, 3, function, weights=glorot_uniform) for function in (sigmoid, linear, exponential)
}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("cost", OTHER_COSTS, ids=repr)
def test_every_cost(engine, dtype, cost, weighted):
    for last in [LAST[cost.pairs_with]] if cost.pairs_with else [LAST[linear], LAST[softmax]]:
        layers = (FullyConnectedLayer(5, 6, tanh, weights=glorot_uniform), last)
        assert_agrees(engine, Case(layers, cost, SGD(0.05), weighted=weighted), dtype)


@pytest.mark.parametrize("row", PAIRWISE, ids=label)
def test_pairwise(engine, row):
    assert_agrees(engine, pairwise_case(row), row["dtype"])


def test_dropout_may_change_from_step_to_step(engine, dtype):
    """The plan's probabilities count in training, 0 among them; the layers' own count without dropout."""
    case = article(0.5, scaling="training", n_steps=60)
    part, program = case.part(), case.program(dtype)
    dropout = np.column_stack([np.linspace(0.9, 0.0, 60), np.tile([0.0, 0.25], 30)])
    plan = dataclasses.replace(case.plan(), dropout=dropout)
    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    engine.advance(run, engine.put(part, program, CPU), plan)
    expected, _, _ = reference.train(
        case.layers, case.parameters(), part.X, part.y, rows=plan.rows, rates=case.rates(), l2=plan.l2,
        dropout=dropout, keys=plan.keys, cost=case.cost.name, optimizer=case.optimizer, scaling="training",
    )  # fmt: skip
    assert worst(engine.snapshot(run).parameters, expected) < TOLERANCE[dtype]


def test_batch_of_nothing_but_padding_leaves_sgd_where_it_is(engine):
    case = article(n_steps=5)
    program = case.program("float64")
    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    plan = dataclasses.replace(case.plan(), rows=np.full((5, 10), -1, np.int32))
    before = engine.snapshot(run)
    report = engine.advance(run, engine.put(case.part(), program, CPU), plan)
    assert (report.costs == 0.0).all()
    assert worst(engine.snapshot(run).parameters, before.parameters) == 0.0


SHAPES = {
    "sizes": st.lists(st.integers(1, 300), min_size=2, max_size=7),
    "batch": st.integers(1, 513),
    "n_rows": st.integers(1, 600),
    "density": st.sampled_from([0.0, 0.05, 0.25, 0.5, 1.0]),
    "activation": st.sampled_from(sorted(ELEMENTWISE)),
    "cost": st.sampled_from(sorted(COSTS)),
    "p_dropout": st.sampled_from([0.0, 0.0, 0.1, 0.7]),
    "scaling": st.sampled_from(["inference", "training"]),
    "optimizer": st.sampled_from(FACTORS["optimizer"]),
    "seed": st.integers(0, 2**64 - 1),
}
"""Depth 1 to 6, batches larger and smaller than the data."""


def check_shape(engine, sizes, batch, n_rows, density, activation, cost, p_dropout, scaling, optimizer, seed):
    layers = [
        FullyConnectedLayer(n_in, n_out, ELEMENTWISE[activation], p_dropout if index else 0.0, weights=glorot_uniform)
        for index, (n_in, n_out) in enumerate(itertools.pairwise(sizes))
    ]
    if cost == "log_likelihood":
        layers[-1] = SoftmaxLayer(*sizes[-2:], layers[-1].p_dropout, weights=glorot_uniform)
    elif cost == "cross_entropy":
        layers[-1] = dataclasses.replace(layers[-1], activation_fn=sigmoid)
    gentle = dataclasses.replace(optimizer, learning_rate=1e-4)  # wide linear layers diverge soon
    case = Case(tuple(layers), COSTS[cost], gentle, scaling, 0.01, n_rows, batch, 6, seed=seed, density=density)
    parameters, _, costs = case.expected()
    state, report = train(engine, case, "float64")
    assert worst(state.parameters, parameters) < 1e-9
    assert worst({"costs": report.costs}, {"costs": costs}) < 1e-9


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(**SHAPES)
def test_any_shape_on_native(**shape):
    check_shape(NativeEngine(), **shape)


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(**SHAPES)
def test_any_shape_on_xla(**shape):
    check_shape(XlaEngine(), **shape)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", FACTORS["optimizer"], ids=lambda optimizer: type(optimizer).__name__)
def test_inputs_that_are_mostly_zero(engine, dtype, optimizer, l2, dropout):
    layers = (FullyConnectedLayer(50, 15, sigmoid), SoftmaxLayer(15, 4, dropout, weights=glorot_uniform))
    case = Case(layers, log_likelihood, optimizer, l2=l2, n_rows=57, weighted=True, density=0.15)
    parameters, slots, costs = case.expected()
    state, report = train(engine, case, dtype)
    assert worst(state.parameters, parameters) < TOLERANCE[dtype]
    for slot, arrays in slots.items():
        assert worst(state.slots[slot], arrays) < TOLERANCE[dtype]
    assert worst({"costs": report.costs}, {"costs": costs}) < TOLERANCE[dtype]


@pytest.mark.parametrize("density", [0.1, 0.9], ids=lambda density: f"density={density}")
@pytest.mark.parametrize("dropout", [0.0, 0.4], ids=lambda p: f"dropout={p}")
def test_a_sparse_matrix_is_its_dense_one(engine, dtype, density, dropout):
    layers = (FullyConnectedLayer(50, 15, sigmoid, dropout), SoftmaxLayer(15, 4, weights=glorot_uniform))
    case = Case(layers, log_likelihood, Adam(0.01), l2=0.01, n_rows=57, weighted=True, density=density)
    dense, program = case.part(), case.program(dtype)
    sparse = Part(scipy.sparse.csr_array(dense.X), dense.y, dense.weights)
    parameters, _, costs = case.expected()
    state, report = train(engine, case, dtype, sparse)
    assert worst(state.parameters, parameters) < TOLERANCE[dtype]
    assert worst({"costs": report.costs}, {"costs": costs}) < TOLERANCE[dtype]
    run = engine.start(program, state, CPU)
    np.testing.assert_allclose(engine.forward(run, sparse.X), engine.forward(run, dense.X), rtol=1e-5)
    put = [engine.put(part, program, CPU) for part in (sparse, dense)]
    ours, theirs = (engine.evaluate(run, data)[0] for data in put)
    assert abs(ours.cost - theirs.cost) < 1e-5
    assert ours.accuracy == theirs.accuracy
    (cost, gradient), (expected, expected_gradient) = (engine.cost_and_gradient(run, data) for data in put)
    assert abs(cost - expected) < 1e-5
    assert worst(gradient, expected_gradient) < TOLERANCE[dtype]


@pytest.mark.parametrize("first", [0.1, 1.0], ids=["sparse first", "dense first"])
def test_a_run_may_meet_sparse_and_dense_rows_by_turns(engine, dtype, first):
    """Such as sparse training data, and validation data in which few numbers are zero: each needs arrays of its own kind."""
    layers = (FullyConnectedLayer(50, 15, sigmoid), SoftmaxLayer(15, 4, weights=glorot_uniform))
    case = Case(layers, log_likelihood, Adam(0.01), n_rows=57, density=first)
    other = dataclasses.replace(case, n_rows=600, density=1.1 - first).part()
    program, plan = case.program(dtype), case.plan()
    states = []
    for turns in (False, True):
        run = engine.start(program, initial_state(program, case.parameters()), CPU)
        data = engine.put(case.part(), program, CPU)
        for start in (0, 100):
            if turns:
                engine.cost_and_gradient(run, engine.put(other, program, CPU))
                engine.evaluate(run, engine.put(other, program, CPU))
            engine.advance(run, data, chunk_of(plan, start, 100, 100))
        states.append(engine.snapshot(run))
    assert_same_bytes(*states)


@pytest.mark.parametrize("batch", [4, 12])
def test_weights_kept_as_a_product(monkeypatch, dtype, batch):
    """With plain SGD, an L2 penalty and sparse rows, weights are a scale times an array: the same bytes wherever a run is cut."""
    monkeypatch.setattr(native, "UNIT_OPERATIONS", 1)
    monkeypatch.setattr(native, "START_OPERATIONS", 1)
    layers = FullyConnectedLayer(150, 96, tanh), SoftmaxLayer(96, 4, weights=glorot_uniform)
    case = Case(layers, log_likelihood, SGD(0.05), l2=5.0, n_rows=157, batch=batch, n_steps=400, density=0.1)
    program, part, plan = case.program(dtype), case.part(), case.plan()
    parameters, _, _ = case.expected()
    states, engine = [], NativeEngine()
    data = engine.put(part, program, Placement("cpu", threads=2))
    for cuts in ((0, 400), (0, 1, 30, 31, 250, 400)):
        for kept_by in ("run", "snapshot"):
            run = engine.start(program, initial_state(program, case.parameters()), Placement("cpu", threads=2))
            for start, stop in itertools.pairwise(cuts):
                engine.advance(run, data, chunk_of(plan, start, stop - start, 400))
                engine.evaluate(run, data)
                engine.forward(run, part.X)
                engine.cost_and_gradient(run, data, 0.1)
                if kept_by == "snapshot":
                    run = engine.start(program, engine.snapshot(run), Placement("cpu", threads=2))
            states.append(engine.snapshot(run))
    (scale,) = states[0].slots[OWN_SLOT]["scale"]
    assert LEAST_SCALE <= scale < 1.0
    assert worst(states[0].parameters, parameters) < TOLERANCE[dtype]
    for state in states[1:]:
        assert_same_bytes(state, states[0])
    metrics = engine.evaluate(engine.start(program, states[0], CPU), data)
    other = XlaEngine()
    run = other.start(program, states[0], CPU)
    assert other.evaluate(run, other.put(part, program, CPU))[0].cost == pytest.approx(metrics[0].cost, rel=1e-5)
    changed = {name: 2.0 * array for name, array in states[0].parameters.items()}
    begun = engine.snapshot(engine.start(program, dataclasses.replace(states[0], parameters=changed), CPU))
    assert_same_bytes(begun, TrainState(changed, {}, 400))


THREADS = {
    "rows and lines, sparse": ((70, 45, 33, 5), 12, 0.1),
    "rows and lines, dense": ((70, 45, 33, 5), 12, 1.0),
    "units": ((300, 150, 9, 5), 10, 0.2),
    "groups": (
        (9, 20, 17, 5),
        96,
        1.0,
    ),  # with 100, one weighted input of a ReLU unit is 2e-7, and rounding decides its side
    "groups, three": ((9, 20, 17, 5), 50, 1.0),
}
"""Sizes, batch and density for each way in which threads share out a step."""


@pytest.mark.parametrize("optimizer", FACTORS["optimizer"], ids=lambda optimizer: type(optimizer).__name__)
@pytest.mark.parametrize("way", THREADS)
def test_number_of_threads_changes_no_byte(monkeypatch, dtype, way, optimizer):
    """The native engine adds up every number in one order, however its rows, weights or units are shared out."""
    monkeypatch.setattr(native, "THREAD_OPERATIONS", 1)
    monkeypatch.setattr(native, "UNIT_OPERATIONS", 1)
    monkeypatch.setattr(native, "START_OPERATIONS", 1)
    (n_in, first, second, n_out), batch, density = THREADS[way]
    layers = (
        FullyConnectedLayer(n_in, first, relu),
        FullyConnectedLayer(first, second, tanh, 0.3),
        SoftmaxLayer(second, n_out, 0.5, weights=glorot_uniform),
    )
    case = Case(layers, log_likelihood, optimizer, l2=0.01, n_rows=157, batch=batch, n_steps=50, density=density)
    program, part = case.program(dtype), case.part()
    states, ways = [], set()
    for threads in (1, 2, 3, 4, 7):
        engine, placement = NativeEngine(), Placement("cpu", threads=threads)
        data = engine.put(part, program, placement)
        sharing = native._sharing(program.model, batch, data, case.n_steps)
        ways.add("units" if sharing.by_units else "groups" if sharing.n_groups else "rows and lines")
        run = engine.start(program, initial_state(program, case.parameters()), placement)
        engine.advance(run, data, case.plan())
        states.append(engine.snapshot(run))
    assert way.split(",")[0] in ways
    parameters, _, _ = case.expected()
    assert worst(states[0].parameters, parameters) < TOLERANCE[dtype]
    for state in states[1:]:
        assert_same_bytes(state, states[0])


def test_number_of_threads_changes_no_byte_of_long_lines(monkeypatch, dtype):
    """Products that gather panels of their lines, or turn them, whatever share of the rows a thread has."""
    monkeypatch.setattr(native, "THREAD_OPERATIONS", 1)
    layers = FullyConnectedLayer(530, 520, relu), FullyConnectedLayer(520, 40, relu, 0.3), SoftmaxLayer(40, 5)
    case = Case(layers, log_likelihood, Momentum(0.02), l2=0.01, n_rows=157, batch=140, n_steps=5)
    program, states = case.program(dtype), []
    for threads in (1, 2, 3, 7):
        engine, placement = NativeEngine(), Placement("cpu", threads=threads)
        run = engine.start(program, initial_state(program, case.parameters()), placement)
        engine.advance(run, engine.put(case.part(), program, placement), case.plan())
        states.append(engine.snapshot(run))
    assert worst(states[0].parameters, case.expected()[0]) < TOLERANCE[dtype]
    for state in states[1:]:
        assert_same_bytes(state, states[0])


@pytest.mark.parametrize("batch", [12, 100])
@pytest.mark.parametrize("table", TABLES, ids=repr)
def test_number_of_threads_changes_no_byte_of_a_table(monkeypatch, dtype, table, batch):
    """Neither in its columns of waves, nor in its lines of embeddings, scales and blends."""
    monkeypatch.setattr(native, "THREAD_OPERATIONS", 1)
    monkeypatch.setattr(native, "START_OPERATIONS", 1)
    optimizer = AdamW(0.003, beta_2=0.95, weight_decay=0.1)
    case = table_case(table, optimizer, mish, l2=0.01, n_rows=157, batch=batch, n_steps=50)
    program, part, states = case.program(dtype), case.part(), []
    for threads in (1, 2, 3, 7):
        engine, placement = NativeEngine(), Placement("cpu", threads=threads)
        run = engine.start(program, initial_state(program, case.parameters()), placement)
        engine.advance(run, engine.put(part, program, placement), case.plan())
        states.append(engine.snapshot(run))
    for state in states[1:]:
        assert_same_bytes(state, states[0])


def test_number_of_threads_changes_no_output(monkeypatch):
    """Threads share out blocks of rows."""
    monkeypatch.setattr(native, "START_OPERATIONS", 1)
    case = Case(
        (FullyConnectedLayer(6, 9, tanh), SoftmaxLayer(9, 3, weights=glorot_uniform)),
        log_likelihood,
        SGD(),
        n_rows=1300,
    )
    program, part, answers = case.program("float32"), case.part(), []
    for threads in (1, 2, 3, 7):
        engine, placement = NativeEngine(), Placement("cpu", threads=threads)
        run = engine.start(program, initial_state(program, case.parameters()), placement)
        answers.append(
            (engine.evaluate(run, engine.put(part, program, placement)), engine.forward(run, part.X).tobytes())
        )
    assert all(answer == answers[0] for answer in answers[1:])


# --- Precision ---------------------------------------------------------------------------------------------------------

PRECISION_TOLERANCE = {"float32": 1e-4, "tf32": 1e-4, "bf16": 5e-3}
"""Of parameters and costs after 10 steps, on a CPU, where tf32 changes nothing; bfloat16 rounds by up to 1/256, and soon kinks flip."""


def train_in(engine: Any, case: Case, precision: str) -> tuple[TrainState, Report]:
    program = dataclasses.replace(case.program("float32"), precision=precision)
    may_support(engine, program)
    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    report = engine.advance(run, engine.put(case.part(), program, CPU), case.plan())
    return engine.snapshot(run), report


@pytest.mark.parametrize("optimizer", [SGD(0.2), Momentum(0.02)], ids=repr)
@pytest.mark.parametrize("hidden", [sigmoid, relu], ids=repr)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision(engine, precision, hidden, optimizer):
    layers = (
        FullyConnectedLayer(20, 15, hidden, 0.2),
        FullyConnectedLayer(15, 12, hidden),
        SoftmaxLayer(12, 5, 0.5, weights=glorot_uniform),
    )
    case = Case(layers, log_likelihood, optimizer, "training", l2=0.01, n_steps=10, density=0.5)
    state, report = train_in(engine, case, precision)
    parameters, _, costs = case.expected()
    assert all(array.dtype == np.float32 for array in state.parameters.values())
    assert worst(state.parameters, parameters) < PRECISION_TOLERANCE[precision]
    assert worst({"costs": report.costs}, {"costs": costs}) < PRECISION_TOLERANCE[precision]


def test_permission_to_round_changes_nothing_on_a_cpu(engine):
    """tf32, the default, and float32 are the same bytes there; bf16 is another result on any device."""
    case = article(0.5, n_steps=20)
    (plain, _), (allowed, _) = (train_in(engine, case, precision) for precision in ("float32", "tf32"))
    assert_same_bytes(allowed, plain)
    rounded, _ = train_in(engine, case, "bf16")
    assert worst(rounded.parameters, plain.parameters) > 1e-5


def test_small_updates_are_not_lost_in_bf16(engine):
    """A weight of 1 that learns 1e-4 a step would stay where it is, were it kept in bfloat16."""
    layers = (FullyConnectedLayer(1, 1, linear, weights=ones, biases=zeros),)
    case = Case(layers, quadratic, SGD(1e-4), n_rows=10, n_steps=200)
    program = dataclasses.replace(case.program("float32"), precision="bf16")
    may_support(engine, program)
    part = Part(np.ones((10, 1), np.float32), np.zeros((10, 1), np.float32))
    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    engine.advance(run, engine.put(part, program, CPU), case.plan())
    parameters, _, _ = case.expected(part)
    assert worst(engine.snapshot(run).parameters, parameters) < 1e-2
    assert 1 - engine.snapshot(run).parameters["layers.0.weights"].item() > 1e-2


@pytest.mark.parametrize(
    ("precision", "asked"), [("float32", "Precision.HIGHEST"), ("tf32", "Precision.HIGH,"), ("bf16", "bf16[")]
)
def test_every_product_says_its_precision(precision, asked):
    """Forward and backward: whatever JAX's own default on a device is, or what someone has set."""
    model = Model((FullyConnectedLayer(7, 6, tanh), FullyConnectedLayer(6, 5, relu), SoftmaxLayer(5, 3)))
    program = Program(model, log_likelihood, SGD().rule, precision=precision)
    x, y, weights = jnp.ones((4, 7)), jnp.zeros(4, jnp.int32), jnp.ones(4)

    def cost(parameters):
        return programs.mean_cost(program, parameters, x, y, weights, None)

    with jax.default_matmul_precision("bfloat16"):
        text = str(jax.make_jaxpr(jax.grad(cost))(model.initial_parameters(0)))
    products = re.findall(r"(\w+):\w+\[[\d,]+\] = dot_general\[(.*?)\] (\w+) (\w+)", text, re.DOTALL)
    assert len(products) in (3 + 2 + 3, 3 + 3 + 3)  # the inputs' own gradient, where it is there, is used by nobody
    for _, parameters, *operands in products:
        if precision == "bf16":
            assert all(re.search(rf"\b{operand}:bf16\[", text) for operand in operands)
        else:
            assert asked in f"{parameters},".replace(")", ",")


# --- Gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cost", "last", "scaling"),
    [
        (log_likelihood, SoftmaxLayer(7, 3, 0.25, weights=glorot_uniform), "inference"),
        (cross_entropy, FullyConnectedLayer(7, 3, sigmoid, 0.25), "training"),
        (quadratic, FullyConnectedLayer(7, 3, linear, 0.25), "inference"),
    ],
)
@pytest.mark.parametrize("n_rows", [5, 1500])
def test_cost_and_gradient(engine, n_rows, cost, last, scaling):
    """Without dropout; against the reference, and against finite differences of the engine's own cost."""
    layers = (FullyConnectedLayer(4, 7, tanh, 0.4), last)
    case = Case(layers, cost, SGD(), scaling, n_rows=n_rows, weighted=True)
    part, parameters = case.part(), initial_state(case.program("float64"), case.parameters()).parameters
    data = engine.put(part, case.program("float64"), CPU)

    def answer(parameters, dtype="float64", data=data):
        program = case.program(dtype)
        return engine.cost_and_gradient(engine.start(program, initial_state(program, parameters), CPU), data, 0.3)

    mean_cost, penalty, expected = reference.cost_and_gradient(
        layers, parameters, part.X, part.y, cost.name, scaling, part.weights, 0.3
    )
    total, gradient = answer(parameters)
    assert total == pytest.approx(mean_cost + penalty, rel=1e-12)
    assert worst(gradient, expected) < 1e-12
    for name in parameters:
        assert directional(lambda p: answer(p)[0], parameters, name)(gradient[name]) < 1e-6

    total, gradient = answer(parameters, "float32", engine.put(part, case.program("float32"), CPU))
    assert total == pytest.approx(mean_cost + penalty, rel=1e-5)
    assert worst(gradient, expected) < 1e-5


# --- Evaluation --------------------------------------------------------------------------------------------------------

LENGTHS = (1, 7, 8, 1023, 1024, 1025, 2500)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("cost", "last"),
    [
        (log_likelihood, SoftmaxLayer(6, 4, 0.5, weights=glorot_uniform)),
        (cross_entropy, FullyConnectedLayer(6, 1, sigmoid)),
        (cross_entropy, FullyConnectedLayer(6, 3, sigmoid)),
        (quadratic, FullyConnectedLayer(6, 2, linear, 0.5)),
    ],
    ids=["labels", "binary", "several probabilities", "values"],
)
def test_evaluate(engine, dtype, cost, last, weighted):
    """Cost and accuracy of any number of rows, by row weight, with whatever scaling dropout asks for."""
    case = Case((FullyConnectedLayer(5, 6, tanh, 0.2), last), cost, SGD(), weighted=weighted)
    program, parameters = case.program(dtype), case.parameters()
    run = engine.start(program, initial_state(program, parameters), CPU)
    for n_rows in LENGTHS:
        part = random_part(case.model, cost, n_rows, weighted, seed=n_rows)
        (metrics,) = engine.evaluate(run, engine.put(part, program, CPU))
        expected_cost, expected_accuracy = reference.evaluate(
            case.layers, parameters, part.X, part.y, cost.name, case.scaling, part.weights
        )
        assert metrics.cost == pytest.approx(expected_cost, rel=1e-5 if dtype == "float32" else 1e-12)
        if expected_accuracy is None:
            assert metrics.accuracy is None
        else:
            assert metrics.accuracy == pytest.approx(expected_accuracy, rel=1e-6)


def test_evaluate_reads_labels_of_any_cost(engine):
    """Labels are one-hot targets for every cost, and scored by argmax."""
    case = Case((FullyConnectedLayer(5, 3, sigmoid),), quadratic, SGD())
    program, part = case.program("float64"), case.part()
    part = Part(part.X, np.random.default_rng(1).integers(3, size=part.n_rows))
    for cost in (quadratic, cross_entropy):
        program = dataclasses.replace(program, cost=cost)
        run = engine.start(program, initial_state(program, case.parameters()), CPU)
        (metrics,) = engine.evaluate(run, engine.put(part, program, CPU))
        assert (metrics.cost, metrics.accuracy) == pytest.approx(
            reference.evaluate(case.layers, case.parameters(), part.X, part.y, cost.name, case.scaling), rel=1e-12
        )


@pytest.mark.parametrize("scaling", ["inference", "training"])
def test_forward(engine, dtype, scaling):
    layers = (FullyConnectedLayer(5, 6, relu, 0.2), SoftmaxLayer(6, 4, 0.5, weights=glorot_uniform))
    case = Case(layers, log_likelihood, SGD(), scaling)
    program, parameters = case.program(dtype), case.parameters()
    run = engine.start(program, initial_state(program, parameters), CPU)
    for n_rows in LENGTHS:
        X = np.random.default_rng(n_rows).normal(size=(n_rows, 5)).astype(np.float32)
        outputs = engine.forward(run, X)
        assert outputs.shape == (n_rows, 4)
        assert outputs.dtype == dtype
        expected = reference.outputs(layers, parameters, X, scaling)
        np.testing.assert_allclose(outputs, expected, atol=1e-6 if dtype == "float32" else 1e-14)


def test_integers_and_booleans_are_numbers(engine):
    case = article()
    program = case.program("float32")
    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    pixels = np.random.default_rng(0).integers(2, size=(9, 20))
    y = np.arange(9) % 5
    same = [engine.forward(run, pixels.astype(kind)).tobytes() for kind in (np.uint8, bool, np.int64, np.float64)]
    assert len(set(same)) == 1
    scores = {
        engine.evaluate(run, engine.put(Part(pixels.astype(kind), y), program, CPU))[0].cost
        for kind in (np.uint8, bool, np.float64)
    }
    assert len(scores) == 1


# --- Chunks, snapshots and repetition: the same bytes ------------------------------------------------------------------


def advance_in_chunks(engine: Any, case: Case, dtype: str, chunks: list[int], restart: bool = False):
    """The case's steps in chunks, tables of one length; ``restart`` goes through a snapshot before every chunk."""
    program, plan = case.program(dtype), case.plan()
    data = engine.put(case.part(), program, CPU)
    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    costs = []
    for start, n_steps in zip(np.cumsum([0, *chunks]), chunks, strict=False):
        if restart:
            run = engine.start(program, engine.snapshot(run), CPU)
        report = engine.advance(run, data, chunk_of(plan, start, n_steps, length=case.n_steps))
        assert report.bad_step == -1
        assert report.costs.shape == (n_steps,)
        assert report.costs.dtype == np.float64
        costs.append(report.costs)
    return engine.snapshot(run), np.concatenate(costs)


@pytest.mark.parametrize("optimizer", [SGD(0.5), AdamW(0.003)], ids=repr)
def test_chunks_do_not_matter(engine, dtype, optimizer):
    case = article(0.5, optimizer, l2=0.01, n_rows=57)
    whole, whole_costs = advance_in_chunks(engine, case, dtype, [200])
    for chunks in ([1] * 200, [7] * 28 + [4], [64, 64, 64, 8], [199, 1]):
        state, costs = advance_in_chunks(engine, case, dtype, chunks)
        assert_same_bytes(state, whole)
        assert costs.tobytes() == whole_costs.tobytes()


def test_snapshot_and_start_continue_to_the_bit(engine, dtype):
    case = article(0.5, Adam(0.003), l2=0.01)
    whole, _ = advance_in_chunks(engine, case, dtype, [200])
    resumed, _ = advance_in_chunks(engine, case, dtype, [30, 100, 70], restart=True)
    assert_same_bytes(resumed, whole)


def test_snapshot_is_a_copy_and_start_changes_nothing(engine, dtype):
    """A state that was handed over, and one that was taken, stay as they are while the run goes on."""
    case = article(optimizer=Momentum(0.05))
    program = case.program(dtype)
    state = initial_state(program, case.parameters())
    run = engine.start(program, state, CPU)
    taken = engine.snapshot(run)
    data = engine.put(case.part(), program, CPU)
    engine.advance(run, data, case.plan())
    assert_same_bytes(state, initial_state(program, case.parameters()))
    assert_same_bytes(taken, initial_state(program, case.parameters()))
    later = engine.snapshot(run)
    copy = TrainState(
        {name: array.copy() for name, array in later.parameters.items()},
        {slot: {name: array.copy() for name, array in arrays.items()} for slot, arrays in later.slots.items()},
        later.step,
    )
    engine.advance(run, data, case.plan())
    assert_same_bytes(later, copy)
    for array in later.parameters.values():
        array[...] = 0.0  # a snapshot is the caller's own


# --- Members -----------------------------------------------------------------------------------------------------------


def two_members(engine: Any, dtype: str, cases: list[Case], plans: list[Plan], part: Part):
    """Both cases in one program, and the run of each alone."""
    program = cases[0].program(dtype, members=2)
    may_support(engine, program)
    states = [initial_state(case.program(dtype), case.parameters()) for case in cases]
    together = TrainState(
        {name: np.stack([state.parameters[name] for state in states]) for name in states[0].parameters},
        {
            slot: {name: np.stack([state.slots[slot][name] for state in states]) for name in arrays}
            for slot, arrays in states[0].slots.items()
        },
    )
    run = engine.start(program, together, CPU)
    report = engine.advance(run, engine.put(part, program, CPU), stack(plans))
    alone = []
    for case, state, plan in zip(cases, states, plans, strict=True):
        solo = engine.start(case.program(dtype), state, CPU)
        data = engine.put(part, case.program(dtype), CPU)
        alone.append((solo, engine.advance(solo, data, plan), data))
    return run, report, alone


def member(state: TrainState, index: int) -> dict[str, np.ndarray]:
    """A member's parameters and slots, as one dictionary."""
    named = {"": state.parameters, **state.slots}
    return {f"{slot} {name}": array[index] for slot, arrays in named.items() for name, array in arrays.items()}


def solo_arrays(state: TrainState) -> dict[str, np.ndarray]:
    named = {"": state.parameters, **state.slots}
    return {f"{slot} {name}": array for slot, arrays in named.items() for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("dtype", "optimizer", "tolerance"), [("float32", Adam(0.002), 1e-5), ("float64", Momentum(0.05), 1e-12)]
)
def test_members_equal_their_solo_runs(engine, dtype, optimizer, tolerance):
    """Other seeds, batches, rates, penalties and dropout, in one program."""
    slower = dataclasses.replace(optimizer, learning_rate=optimizer.learning_rate / 3)
    cases = [article(0.5, optimizer, l2=0.01, seed=1), article(0.5, slower, seed=2)]
    plans = [cases[0].plan(), cases[1].plan()]
    plans[1].dropout[...] = 0.1
    part = cases[0].part()
    run, report, alone = two_members(engine, dtype, cases, plans, part)
    assert list(report.bad_step) == [-1, -1]
    state = engine.snapshot(run)
    metrics = engine.evaluate(run, engine.put(part, run.program, CPU))
    outputs = engine.forward(run, part.X)
    for index, (solo, solo_report, data) in enumerate(alone):
        assert worst(member(state, index), solo_arrays(engine.snapshot(solo))) < tolerance
        np.testing.assert_allclose(report.costs[index], solo_report.costs, rtol=tolerance)
        (solo_metrics,) = engine.evaluate(solo, data)
        assert metrics[index].cost == pytest.approx(solo_metrics.cost, rel=tolerance)
        assert metrics[index].accuracy == pytest.approx(solo_metrics.accuracy)
        np.testing.assert_allclose(outputs[index], engine.forward(solo, part.X), atol=tolerance)


@pytest.mark.parametrize("bad", [0, 1])
def test_a_member_that_diverges_leaves_the_other_alone(engine, dtype, bad):
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    layers = (FullyConnectedLayer(6, 5, tanh), FullyConnectedLayer(5, 2, linear))
    cases = [Case(layers, quadratic, Momentum(0.01), n_rows=30, n_steps=40, seed=seed) for seed in (1, 2)]
    part = cases[0].part()
    part.X[29] = np.nan
    plans = [case.plan() for case in cases]
    for plan in plans:
        plan.rows[plan.rows == 29] = 28
    plans[bad].rows[17, 3] = 29
    run, report, alone = two_members(engine, dtype, cases, plans, part)
    expected = [-1, -1]
    expected[bad] = 17
    assert list(report.bad_step) == expected
    state = engine.snapshot(run)
    for index, (solo, solo_report, _) in enumerate(alone):
        assert solo_report.bad_step == expected[index]
        assert worst(member(state, index), solo_arrays(engine.snapshot(solo))) < tolerance
        np.testing.assert_allclose(report.costs[index], solo_report.costs, rtol=tolerance)
    assert np.isfinite(report.costs[1 - bad]).all()
    assert np.isnan(report.costs[bad, 17:]).all()


# --- Numbers below the normal range ------------------------------------------------------------------------------------


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="elsewhere the processor's mode is left as it is"
)
@pytest.mark.parametrize("density", [1.0, 0.2])
def test_a_moment_that_nothing_feeds_ends_at_zero(engine, density):
    """0.9 times the smallest number is rounded to itself: velocities would stay there, and a step take many times as long."""
    case = Case(
        (FullyConnectedLayer(20, 8, tanh), SoftmaxLayer(8, 3)),
        log_likelihood,
        Momentum(0.1),
        n_steps=1200,
        density=density,
    )
    part, plan = case.part(), case.plan()
    fed, others = plan.rows[0], np.setdiff1d(np.arange(60), plan.rows[0]).astype(np.int32)
    part.X[:, 0] = 0.0
    part.X[fed, 0] = 1.0
    program = case.program("float32")
    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    data = engine.put(part, program, CPU)
    for n_steps, rows in ((2, np.broadcast_to(fed, plan.rows.shape).copy()), (1200, others[plan.rows % 50])):
        engine.advance(run, data, dataclasses.replace(plan, n_steps=n_steps, rows=rows))
        velocity = engine.snapshot(run).slots["velocity"]["layers.0.weights"]
        assert velocity[0].any() == (n_steps == 2)
    assert velocity[1:].any(axis=1).all()
    assert np.array(1e-40, np.float32) * np.ones(1, np.float32) > 0, "this thread's own mode"


# --- A bad step --------------------------------------------------------------------------------------------------------


def spoiled(kind: str, hidden: Any = tanh) -> tuple[Case, Part]:
    """A case whose last row makes any cost NaN, or infinite; its tables avoid that row."""
    layers = (FullyConnectedLayer(6, 5, hidden), FullyConnectedLayer(5, 2, linear))
    case = Case(layers, quadratic, Momentum(0.01), l2=0.01, n_rows=30, n_steps=40)
    part = case.part()
    if kind == "nan":
        part.X[29] = np.nan
    else:
        part.y[29] = 3e38
    return case, part


@pytest.mark.parametrize("step", [0, 17, 39])
@pytest.mark.parametrize(("kind", "hidden"), [("nan", tanh), ("nan", relu), ("inf", tanh)])
def test_bad_step_is_named_and_keeps_the_parameters(engine, kind, hidden, step):
    case, part = spoiled(kind, hidden)
    program, plan = case.program("float32"), case.plan()
    plan.rows[plan.rows == 29] = 28
    plan.rows[step, 4] = 29
    data = engine.put(part, program, CPU)

    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    report = engine.advance(run, data, plan)
    assert report.bad_step == step
    assert np.isfinite(report.costs[:step]).all()
    assert not np.isfinite(report.costs[step])
    assert np.isnan(report.costs[step + 1 :]).all()

    good = engine.start(program, initial_state(program, case.parameters()), CPU)
    engine.advance(good, data, dataclasses.replace(plan, n_steps=step))
    kept, expected = solo_arrays(engine.snapshot(run)), solo_arrays(engine.snapshot(good))
    assert all(kept[name].tobytes() == expected[name].tobytes() for name in expected)
    assert all(np.isfinite(array).all() for array in kept.values())


def test_divergence_by_a_rate_is_noticed(engine, dtype):
    case = Case((FullyConnectedLayer(6, 2, linear),), quadratic, SGD(1e6), n_steps=200)
    program = case.program(dtype)
    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    report = engine.advance(run, engine.put(case.part(), program, CPU), case.plan())
    assert 0 < report.bad_step < 199
    assert np.isfinite(report.costs[: report.bad_step]).all()


def test_rows_of_weight_zero_are_absent(engine):
    """Not even their NaN counts: in a step, in a cost, in a gradient."""
    case, part = spoiled("nan")
    weights = np.ones(30)
    weights[29] = 0.0
    clean = Part(part.X[:29], part.y[:29])
    part = Part(part.X, part.y, weights)
    program, plan = case.program("float64"), case.plan()
    padded = dataclasses.replace(plan, rows=np.where(plan.rows == 29, -1, plan.rows))
    answers = []
    for own, tables in ((part, plan), (clean, padded)):
        run = engine.start(program, initial_state(program, case.parameters()), CPU)
        data = engine.put(own, program, CPU)
        report = engine.advance(run, data, tables)
        assert report.bad_step == -1
        cost, gradient = engine.cost_and_gradient(run, data)
        (metrics,) = engine.evaluate(run, data)
        answers.append({"cost": np.array([cost, metrics.cost]), **gradient, **solo_arrays(engine.snapshot(run))})
    assert worst(*answers) < 1e-12


# --- What must not recompile -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """The functions that XLA compiles meanwhile."""
    names: list[str] = []

    def listen(event: str, duration: float, **details: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(details.get("fun_name", "?")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_compilations_are_counted():
    with compilations() as names:
        jax.jit(lambda x: x * 3.25)(jnp.ones(3))
    assert names


MUST_NOT_RECOMPILE = {
    "the same again": {},
    "other rates": {"optimizer": AdamW(0.02, beta_1=0.5, epsilon=1e-3, weight_decay=0.3)},
    "Adam for AdamW": {"optimizer": Adam(0.02)},
    "another penalty": {"l2": 0.7},
    "other factors": {"factors": ({"weights": 0.3}, {"biases": 2.0})},
    "another seed: parameters, batches, masks": {"seed": 12345},
    "fewer rows, of the same padded length": {"n_rows": 50},
}


@pytest.mark.parametrize("change", MUST_NOT_RECOMPILE)
def test_must_not_recompile(engine, dtype, change):
    def epoch(case: Case, n_steps: int = 200, p_dropout: float = 0.5) -> None:
        program, part = case.program(dtype), case.part()
        data = engine.put(part, program, CPU)
        run = engine.start(program, initial_state(program, case.parameters()), CPU)
        plan = dataclasses.replace(case.plan(), n_steps=n_steps)
        plan.dropout[...] = p_dropout
        engine.advance(run, data, plan)
        engine.evaluate(run, data)
        engine.forward(run, part.X)
        engine.forward(run, part.X[:40])
        run = engine.start(program, engine.snapshot(run), CPU)
        engine.advance(run, data, plan)

    case = article(0.5, AdamW(0.001))
    epoch(case)
    with compilations() as names:
        epoch(dataclasses.replace(case, **MUST_NOT_RECOMPILE[change]))
        epoch(case, n_steps=3)
        epoch(case, n_steps=199, p_dropout=0.25)
    assert names == []


@pytest.mark.parametrize("kind", ["labels", "values"])
def test_arrays_that_may_not_be_written_to_compile_nothing(engine, dtype, kind):
    """Arrays from a memory map, or from another process, are read-only."""
    case = article() if kind == "labels" else Case((FullyConnectedLayer(9, 2, linear),), quadratic, SGD(0.01))
    program, open_part = case.program(dtype), case.part()

    def use(part: Part) -> None:
        data = engine.put(part, program, CPU)
        run = engine.start(program, initial_state(program, case.parameters()), CPU)
        engine.advance(run, data, case.plan())
        engine.evaluate(run, data)
        engine.forward(run, part.X)
        engine.cost_and_gradient(run, data)

    weights = np.ones(open_part.n_rows)
    arrays = open_part.X.astype(dtype), open_part.y, weights
    use(Part(*arrays))
    for array in arrays:
        array.flags.writeable = False
    with compilations() as names:
        use(Part(*arrays))
    assert names == []


def test_replaced_parameters_are_used_and_slots_stay(engine, dtype):
    case, other = article(optimizer=Momentum(0.02)), article(seed=1)
    program, part = case.program(dtype), case.part()
    data, run = engine.put(part, program, CPU), engine.start(program, initial_state(program, case.parameters()), CPU)
    engine.advance(run, data, case.plan())
    before = engine.snapshot(run)
    engine.replace(run, other.parameters())
    after = engine.snapshot(run)
    expected = initial_state(program, other.parameters())
    assert_same_bytes(TrainState(after.parameters, {}, 0), TrainState(expected.parameters, {}, 0))
    for slot, arrays in before.slots.items():
        assert worst(after.slots[slot], arrays) == 0
    assert after.step == before.step


# --- float64 where asked, any callable, and reasons --------------------------------------------------------------------


def test_float64_is_scoped(engine):
    assert jnp.ones(1).dtype == jnp.float32
    state, _ = train(engine, article(n_steps=3), "float64")
    assert state.parameters["layers.0.weights"].dtype == np.float64
    assert jnp.ones(1).dtype == jnp.float32
    state, _ = train(engine, article(n_steps=3), "float32")
    assert state.parameters["layers.0.weights"].dtype == np.float32


def test_any_callable_is_an_activation(engine, dtype):
    """The engine differentiates it; the reference knows that sin' = cos."""
    layers = (FullyConnectedLayer(9, 8, jnp.sin, 0.2, weights=glorot_uniform), SoftmaxLayer(8, 3))
    case = Case(layers, log_likelihood, Momentum(0.02))
    may_support(engine, case.program(dtype))
    assert_agrees(engine, case, dtype)


def outer(z):
    return z[:, :1]


def rowless(z):
    return z.sum()


def numpy_only(z):
    return np.sin(np.asarray(z))


def broken(z):
    raise RuntimeError("no such thing\nand more")


def no_array(z):
    return "text"


@pytest.mark.parametrize("function", [outer, rowless, numpy_only, broken, no_array])
def test_unusable_activation_has_a_reason(engine, function):
    layers = (FullyConnectedLayer(4, 3), FullyConnectedLayer(3, 2, function))
    reason = engine.supports(Program(Model(layers), quadratic, SGD().rule), CPU)
    assert isinstance(reason, str)
    assert function.__name__ in reason
    assert "\n" not in reason
    if engine.name == "xla":
        assert "layer 1" in reason
