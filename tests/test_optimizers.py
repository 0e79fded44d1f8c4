"""Optimizers against loops written out, and schedules at the points that matter."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
import pytest

import reference
from fcnet.errors import InputError
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer, TableLayer
from fcnet.model import Model
from fcnet.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    SGD,
    Adam,
    AdamW,
    Constant,
    Cosine,
    Exponential,
    Factors,
    FlatCosine,
    Momentum,
    Nesterov,
    Step,
    WarmUp,
    as_schedule,
)
from fcnet.steps import Steps, penalty_per_mini_batches, same_order

ALL = [
    SGD(0.1),
    Momentum(0.1, 0.8),
    Nesterov(0.1, 0.8),
    Adam(0.01),
    Adam(0.01, 0.5, 0.9, 1e-3),
    AdamW(0.01, weight_decay=0.2),
]
every = pytest.mark.parametrize("optimizer", ALL, ids=repr)


@every
@pytest.mark.parametrize("name", ["layers.0.weights", "layers.0.biases"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rule(optimizer, name, dtype):
    """60 steps with a changing rate, from step 0 and again from step 30, against the reference."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 3)).astype(dtype)
    gradients = rng.normal(size=(60, 4, 3)).astype(dtype)
    rates = optimizer.learning_rate * np.linspace(1, 0.2, 60)
    rule = optimizer.rule
    slots = [np.zeros_like(w) for _ in rule.slots]
    expected = w.astype(np.float64)
    expected_slots = {slot: {name: np.zeros((4, 3))} for slot in reference.SLOTS[type(optimizer).__name__]}
    assert set(rule.slots) == set(expected_slots)
    table = np.concatenate(
        [
            optimizer.coefficients(np.arange(30), rates[:30]),
            optimizer.coefficients(np.arange(30, 60), rates[30:]),
        ]
    )
    assert table.shape == (60, len(rule.coefficients))
    for step in range(60):
        numbers = tuple(table[step].astype(dtype))
        w, slots = rule.update(w, gradients[step], slots, rule.scaled(numbers, (1.0, 1.0 * name.endswith("weights"))))
        assert w.dtype == dtype
        assert all(slot.dtype == dtype for slot in slots)
        expected = reference.update(
            optimizer, rates[step], step + 1, name, expected, gradients[step].astype(np.float64), expected_slots
        )
    tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(w, expected, rtol=tolerance, atol=tolerance)
    for slot, array in zip(rule.slots, slots, strict=True):
        np.testing.assert_allclose(array, expected_slots[slot][name], rtol=10 * tolerance, atol=tolerance)


@every
def test_numpy_and_jax_agree(optimizer):
    rng = np.random.default_rng(0)
    w, g, *slots = rng.random((2 + len(optimizer.rule.slots), 5)).astype(np.float32)
    numbers = tuple(optimizer.coefficients(np.array([3]), np.array([0.1]))[0].astype(np.float32))
    ours = optimizer.rule.update(w, g, slots, numbers)
    theirs = jax.jit(optimizer.rule.update)(w, g, slots, numbers)
    for a, b in zip((ours[0], *ours[1]), (theirs[0], *theirs[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_first_steps_by_hand():
    w, g = np.array([1.0]), np.array([0.5])

    def first(optimizer, *factors):
        numbers = optimizer.coefficients(np.array([0]), np.array([optimizer.learning_rate]))[0]
        slots = [np.zeros(1) for _ in optimizer.rule.slots]
        scaled = optimizer.rule.scaled(numbers, factors or (1.0, 1.0))
        return float(optimizer.rule.update(w, g, slots, scaled)[0][0])

    assert first(SGD(0.1)) == pytest.approx(0.95)
    assert first(Momentum(0.1, 0.9)) == pytest.approx(0.95)
    assert first(Nesterov(0.1, 0.9)) == pytest.approx(1 - 0.05 * 1.9)
    assert first(Adam(0.1)) == pytest.approx(0.9)  # the corrections make the first step rate * sign(g)
    assert first(AdamW(0.1, weight_decay=0.5)) == pytest.approx(0.9 - 0.1 * 0.5)
    assert first(AdamW(0.1, weight_decay=0.5), 1.0, 0.0) == pytest.approx(0.9)
    assert first(AdamW(0.1, weight_decay=0.5), 0.5, 2.0) == pytest.approx(0.95 - 0.1 * 0.5 * 2.0)
    assert first(Momentum(0.1, 0.9), 0.5, 7.0) == pytest.approx(0.975)


def test_adam_does_not_lose_one_minus_beta_in_float32():
    table = Adam(0.1).coefficients(np.array([0, 10**7]), np.array([0.1, 0.1]))
    numbers = dict(zip(Adam(0.1).rule.coefficients, table.T, strict=True))
    assert np.float32(numbers["gain_2"][0]) == np.float32(0.001)
    np.testing.assert_allclose(numbers["first_correction"], [10.0, 1.0])
    np.testing.assert_allclose(numbers["second_correction"], [1000.0, 1.0])
    assert np.isfinite(table).all()


def test_rules_are_shared_where_only_numbers_differ():
    """What compiles is the rule: settings and Adam for AdamW compile nothing."""
    assert Adam(0.1).rule is AdamW(0.2).rule
    assert Momentum(0.1).rule is Momentum(0.2, 0.5).rule
    assert Momentum(0.1).rule is not Nesterov(0.1).rule


@every
def test_an_optimizer_is_a_value(optimizer):
    assert dataclasses.replace(optimizer) == optimizer
    assert hash(dataclasses.replace(optimizer)) == hash(optimizer)
    assert dataclasses.replace(optimizer, learning_rate=0.5) != optimizer


# --- What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf, "0.1", None])
def test_bad_rate(kind, rate):
    with pytest.raises(InputError, match=r"A learning rate must be a finite number, 0 or above, got "):
        kind(rate)


@pytest.mark.parametrize("fraction", [1.0, -0.1, math.nan, "0.9"])
def test_bad_fractions(fraction):
    with pytest.raises(InputError, match=r"^Momentum: momentum must lie in \[0, 1\), got "):
        Momentum(0.1, fraction)
    with pytest.raises(InputError, match=r"^Nesterov: momentum must lie in \[0, 1\), got "):
        Nesterov(0.1, fraction)
    with pytest.raises(InputError, match=r"^Adam: beta_1 must lie in \[0, 1\), got "):
        Adam(0.1, beta_1=fraction)
    with pytest.raises(InputError, match=r"^AdamW: beta_2 must lie in \[0, 1\), got "):
        AdamW(0.1, beta_2=fraction)


@pytest.mark.parametrize("number", [0.0, -1.0, math.nan])
def test_bad_positive_numbers(number):
    with pytest.raises(InputError, match=r"^Adam: epsilon must be a finite number above 0, got "):
        Adam(0.1, epsilon=number)
    with pytest.raises(InputError, match=r"^Step: every must be a finite number above 0, got "):
        Step(0.1, every=number)
    with pytest.raises(InputError, match=r"^Exponential: factor must be a finite number above 0, got "):
        Exponential(0.1, factor=number)
    with pytest.raises(InputError, match=r"^WarmUp: warm_up must be a finite number above 0, got "):
        WarmUp(Constant(0.1), number)


@pytest.mark.parametrize("decay", [-0.1, math.nan, "0.1", None])
def test_bad_weight_decay(decay):
    with pytest.raises(InputError, match=r"weight_decay must be a finite number, 0 or above, got "):
        AdamW(0.1, weight_decay=decay)


# --- Factors -----------------------------------------------------------------------------------------------------------

MODEL = Model((TableLayer(2, scaled=True), FullyConnectedLayer(8, 3, parametric=True), SoftmaxLayer(3, 2)))


def test_factors_by_kind_and_by_name():
    factors = Factors({"biases": 0.1, "layers.2.biases": 0.0, "scales": 6}, {"scales": 2.0, "layers.1.weights": 0.5})
    assert dict(zip([name for name, _ in MODEL.shapes()], factors.of(MODEL).tolist(), strict=True)) == {
        "layers.0.frequencies": [1.0, 0.0],
        "layers.0.phases": [1.0, 0.0],
        "layers.0.amplitudes": [1.0, 0.0],
        "layers.0.offsets": [1.0, 0.0],
        "layers.0.scales": [6.0, 2.0],
        "layers.1.weights": [1.0, 0.5],
        "layers.1.biases": [0.1, 0.0],
        "layers.1.blends": [1.0, 0.0],
        "layers.2.weights": [1.0, 1.0],
        "layers.2.biases": [0.0, 0.0],
    }


def test_bad_factors():
    with pytest.raises(InputError, match=r"bias.*biases"):
        Factors({"bias": 0.1}).of(MODEL)
    for factor in (-1, math.nan, "1", None, math.inf):
        with pytest.raises(InputError, match=r"^Factors: that of biases in decays must be a finite number, 0 or above"):
            Factors(decays={"biases": factor})
    with pytest.raises(InputError, match=r"^Factors: rates must be a dictionary of numbers by name, got 0\.1\.$"):
        Factors(0.1)
    with pytest.raises(
        InputError, match=r"^Factors: dropout must be a schedule such as fcnet.FlatCosine\(\), got 0\.5"
    ):
        Factors(dropout=0.5)


def test_factors_in_the_tables_of_an_epoch():
    model = Model((FullyConnectedLayer(4, 3, p_dropout=0.5), SoftmaxLayer(3, 2)), "training")
    factors = Factors({"biases": 0.1}, decay=FlatCosine(), dropout=FlatCosine(1.0, 0.5))
    optimizer, order = AdamW(Cosine(0.1), weight_decay=0.3), same_order(8)
    steps = Steps(8, 2, order, False, 0, 2, penalty_per_mini_batches(4.0, 4), model, optimizer, factors=factors)
    rate = 0.05 * (1 + np.cos(np.pi * np.arange(8) / 8))
    flat = np.array([1.0] * 5 + [0.5 * (1 + math.cos(math.pi * step / 4)) for step in (1, 2, 3)])
    for epoch in (0, 1):
        plan, here = steps.plan(epoch), slice(4 * epoch, 4 * epoch + 4)
        np.testing.assert_allclose(plan.coefficients[:, -1], 0.3 * rate[here] * flat[here])
        np.testing.assert_allclose(plan.l2, flat[here])
        np.testing.assert_allclose(plan.dropout, np.outer(0.5 + 0.5 * flat[here], [0.5, 0.0]))
        np.testing.assert_array_equal(plan.factors, [[1.0, 1.0], [0.1, 0.0]] * 2)


# --- Schedules ---------------------------------------------------------------------------------------------------------


def at(schedule, *epochs, of=10.0):
    return schedule(np.array(epochs, np.float64), of).tolist()


def test_constant():
    assert at(Constant(0.3), 0, 5, 10) == [0.3, 0.3, 0.3]
    assert at(Constant(1), 0, 1) == [1.0, 1.0]


def test_cosine():
    assert at(Cosine(0.4), 0, 5, 10) == pytest.approx([0.4, 0.2, 0.0])
    assert at(Cosine(0.4, final=0.1), 0, 5, 10, 12) == pytest.approx([0.4, 0.25, 0.1, 0.1])


def test_step():
    assert at(Step(0.8, 0.5, 3), 0, 2.999, 3, 6, 9) == pytest.approx([0.8, 0.8, 0.4, 0.2, 0.1])


def test_exponential():
    assert at(Exponential(1.0, 0.9), 0, 0.5, 1, 10) == pytest.approx([1.0, 0.9**0.5, 0.9, 0.9**10])


def test_warm_up():
    assert at(WarmUp(Constant(0.4), 2), 0, 1, 2, 10) == pytest.approx([0.0, 0.2, 0.4, 0.4])
    cosine = WarmUp(Cosine(0.4), 2)
    assert at(cosine, 1, 2, 6, 10) == pytest.approx([0.2, 0.4, 0.2, 0.0])
    assert np.isfinite(at(cosine, 0, 1, of=1.0)).all()


def test_flat_cosine():
    assert at(FlatCosine(0.4), 0, 5, 7.5, 10, 12) == pytest.approx([0.4, 0.4, 0.2, 0.0, 0.0])
    assert at(FlatCosine(0.4, 0.1, 0.2), 2, 6, 10) == pytest.approx([0.4, 0.25, 0.1])
    with pytest.raises(InputError, match=r"^FlatCosine: flat must lie in \[0, 1\), got 1"):
        FlatCosine(flat=1)


def test_as_schedule():
    assert as_schedule(0.1) == Constant(0.1)
    assert as_schedule(Cosine(0.1)) == Cosine(0.1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_named_schedules(name):
    """Never above the rate, never below 0, whatever the name."""
    rates = np.array(at(SCHEDULES[name](0.25), *np.linspace(0, 10, 101)))
    assert (rates >= 0).all()
    assert rates.max() == pytest.approx(0.25)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_named_optimizers(name):
    optimizer = OPTIMIZERS[name](0.25)
    assert as_schedule(optimizer.learning_rate) == Constant(0.25)
    assert type(optimizer).__name__.lower() == name
