"""Costs: values, gradients, extremes, in NumPy and JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import reference
from fcnet.activations import exponential, linear, relu, sigmoid, softmax, tanh
from fcnet.costs import (
    COSTS,
    absolute,
    binary_focal,
    binary_label_smoothing,
    cost_named,
    cross_entropy,
    default_cost,
    focal,
    huber,
    label_smoothing,
    log_cosh,
    log_likelihood,
    poisson,
    quadratic,
    quantile,
)
from fcnet.errors import InputError

OUTPUTS = {"log_likelihood": softmax, "cross_entropy": sigmoid, "quadratic": tanh}
every = pytest.mark.parametrize("cost", COSTS.values(), ids=lambda cost: cost.name)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def batch(cost, dtype="float64", n_rows=9, n_out=4):
    """Weighted inputs, outputs and soft targets."""
    rng = np.random.default_rng(1)
    z = rng.normal(scale=3, size=(n_rows, n_out)).astype(dtype)
    return z, OUTPUTS[cost.name](z), rng.dirichlet(np.ones(n_out), n_rows).astype(dtype)


@every
@dtypes
def test_values(cost, dtype):
    z, a, t = batch(cost, dtype)
    expected = reference.row_costs(cost.name, *(array.astype(np.float64) for array in (z, a, t)))
    tolerance = {"float32": 2e-6, "float64": 1e-13}[dtype]
    with jax.enable_x64(dtype == "float64"):
        for rows in (cost(z, a, t), jax.jit(cost.function)(z, a, t)):
            assert rows.shape == (9,)
            assert rows.dtype == dtype
            np.testing.assert_allclose(rows, expected, rtol=tolerance)


def test_closed_forms():
    """As the book writes them, from the outputs a."""
    z, a, t = batch(log_likelihood)
    np.testing.assert_allclose(log_likelihood(z, a, t), -(t * np.log(a)).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(log_likelihood(z, a, t), -(t * special.log_softmax(z, axis=1)).sum(axis=1), rtol=1e-12)
    z, a, t = batch(cross_entropy)
    book = -(t * np.log(a) + (1 - t) * np.log(1 - a)).sum(axis=1)
    np.testing.assert_allclose(cross_entropy(z, a, t), book, rtol=1e-10)
    z, a, t = batch(quadratic)
    np.testing.assert_allclose(quadratic(z, a, t), 0.5 * np.linalg.norm(a - t, axis=1) ** 2, rtol=1e-12)


def test_known_points():
    one_hot = np.array([[0.0, 1.0]])
    z = np.zeros((1, 2))
    assert log_likelihood(z, softmax(z), one_hot) == pytest.approx(np.log(2))
    assert cross_entropy(z, sigmoid(z), one_hot) == pytest.approx(2 * np.log(2))
    assert quadratic(z, np.array([[1.0, 1.0]]), one_hot) == 0.5


@every
def test_gradient_with_respect_to_z(cost):
    """What JAX finds through cost and activation, against the book's output error."""
    with jax.enable_x64(True):
        z, a, t = (jnp.asarray(array) for array in batch(cost))
        found = jax.jit(jax.grad(lambda z: cost(z, OUTPUTS[cost.name](z), t).sum()))(z)
        expected = reference.output_error(cost.name, OUTPUTS[cost.name].name, *(np.asarray(x) for x in (z, a, t)))
        np.testing.assert_allclose(found, expected, atol=1e-13)


def test_gradient_where_z_is_zero_or_tied():
    """A network that begins with zeros: kinks of max and abs must not show."""
    z, t = jnp.zeros((2, 3)), jnp.eye(3)[:2]
    found = jax.jit(jax.grad(lambda z: cross_entropy(z, sigmoid(z), t).sum()))(z)
    np.testing.assert_allclose(found, 0.5 - t, atol=1e-7)
    found = jax.jit(jax.grad(lambda z: log_likelihood(z, softmax(z), t).sum()))(z)
    np.testing.assert_allclose(found, 1 / 3 - t, atol=1e-7)


@pytest.mark.parametrize(("cost", "scale"), [(log_likelihood, 1e30), (cross_entropy, 1e30), (quadratic, 1.0)])
@dtypes
def test_confident_outputs_stay_finite(cost, scale, dtype):
    """log(a) would be -inf long before."""
    z = np.array([[-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype) * dtype_of(dtype)(scale)
    t = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype)
    with jax.enable_x64(dtype == "float64"):
        a = OUTPUTS[cost.name](z)
        for rows in (cost(z, a, t), jax.jit(cost.function)(z, a, t)):
            assert np.isfinite(rows).all()
            assert (np.asarray(rows) >= 0).all()
        gradient = jax.jit(jax.grad(lambda z: cost(z, OUTPUTS[cost.name](z), t).sum()))(z)
        assert np.isfinite(gradient).all()


def dtype_of(name):
    return np.dtype(name).type


@every
def test_nan_stays_nan(cost):
    z = np.array([[np.nan, 1.0], [0.0, 1.0]])
    rows = cost(z, OUTPUTS[cost.name](z), np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert np.isnan(rows[0])
    assert np.isfinite(rows[1])


# --- Costs of values, and of classes that are rare or uncertain --------------------------------------------------------

MORE = [
    (absolute, linear),
    (huber(0.7), linear),
    (log_cosh, linear),
    (quantile(0.3), linear),
    (quantile((0.1, 0.2, 0.5, 0.9)), linear),
    (poisson, exponential),
    (focal(), softmax),
    (focal(0.5), softmax),
    (binary_focal(), sigmoid),
    (binary_focal(0.5), sigmoid),
    (label_smoothing(0.2), softmax),
    (binary_label_smoothing(0.2), sigmoid),
]
more = pytest.mark.parametrize(("cost", "activation"), MORE, ids=lambda record: repr(record))


def more_of(activation, dtype="float64"):
    """Weighted inputs and targets of a kind that goes with the activation; no output is at a kink."""
    rng = np.random.default_rng(2)
    z = rng.normal(scale=1.5, size=(9, 4)).astype(dtype)
    if activation in (softmax, sigmoid):
        return z, rng.dirichlet(np.ones(4), 9).astype(dtype)
    if activation == exponential:
        return z, rng.poisson(2.0, size=(9, 4)).astype(dtype)
    return z, rng.normal(scale=1.5, size=(9, 4)).astype(dtype)


def by_definition(cost, a, t):
    """Each rule as its docstring states it, from the outputs."""
    e, constants = a - t, cost.constants
    c = constants[0] if constants else None
    return {
        "absolute": lambda: np.abs(e),
        "huber": lambda: np.where(np.abs(e) <= c, e**2 / 2, c * (np.abs(e) - c / 2)),
        "log_cosh": lambda: np.log(np.cosh(e)),
        "quantile": lambda: np.array(constants) * np.maximum(-e, 0) + (1 - np.array(constants)) * np.maximum(e, 0),
        "poisson": lambda: a - t * np.log(a) + special.xlogy(t, t) - t,
        "focal": lambda: -t * (1 - a) ** c * np.log(a),
        "binary_focal": lambda: -t * (1 - a) ** c * np.log(a) - (1 - t) * a**c * np.log(1 - a),
        "label_smoothing": lambda: -((1 - c) * t + c / 4) * np.log(a),
        "binary_label_smoothing": lambda: (
            -((1 - c) * t + c / 2) * np.log(a) - (1 - (1 - c) * t - c / 2) * np.log(1 - a)
        ),
    }[cost.name]().sum(axis=1)


@more
@dtypes
def test_more_values(cost, activation, dtype):
    z, t = more_of(activation, dtype)
    expected = by_definition(cost, activation(z.astype(np.float64)), t.astype(np.float64))
    with jax.enable_x64(dtype == "float64"):
        for rows in (cost(z, activation(z), t), jax.jit(cost)(z, activation(z), t)):
            assert rows.shape == (9,)
            assert rows.dtype == dtype
            np.testing.assert_allclose(rows, expected, rtol={"float32": 2e-5, "float64": 1e-10}[dtype], atol=1e-6)


@more
def test_more_gradients_by_finite_differences(cost, activation):
    z, t = more_of(activation)
    with jax.enable_x64(True):
        total = lambda z: cost(z, activation(z), t).sum()  # noqa: E731
        found = np.asarray(jax.jit(jax.grad(total))(jnp.asarray(z)))
    for place in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[place] = 1e-6
        assert found[place] == pytest.approx((total(z + step) - total(z - step)) / 2e-6, abs=1e-6)


@pytest.mark.parametrize("cost", [absolute, huber(), log_cosh, quantile(0.3)])
def test_kinks(cost):
    """Where the output is the target nothing pulls; just beside it the slopes of the two sides do."""
    t = jnp.zeros((3, 1))
    a = jnp.array([[0.0], [1e-3], [-1e-3]])
    slope = jax.jit(jax.grad(lambda a: cost(a, a, t).sum()))(a)[:, 0]
    beside = {"absolute": [1, -1], "huber": [1e-3, -1e-3], "log_cosh": [1e-3, -1e-3], "quantile": [0.7, -0.3]}[
        cost.name
    ]
    np.testing.assert_allclose(slope, [0.0, *beside], rtol=1e-3, atol=1e-9)


def test_huber_joins_its_pieces():
    with jax.enable_x64(True):
        slope = jax.vmap(jax.grad(lambda e: huber(2.0)(e, jnp.stack([e]), jnp.zeros(1))))(
            jnp.array([1.999, 2.0, 2.001])
        )
    np.testing.assert_allclose(slope, [1.999, 2.0, 2.0])


@pytest.mark.parametrize(("cost", "activation"), [pair for pair in MORE if pair[1] in (softmax, sigmoid)], ids=repr)
@dtypes
def test_more_confident_outputs_stay_finite(cost, activation, dtype):
    z = np.array([[-1.0, 1.0], [1.0, -1.0], [0.0, 0.0]], dtype) * dtype_of(dtype)(1e6)
    t = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype)
    with jax.enable_x64(dtype == "float64"):
        assert np.isfinite(cost(z, activation(z), t)).all()
        assert np.isfinite(jax.jit(jax.grad(lambda z: cost(z, activation(z), t).sum()))(z)).all()


def test_constants_make_a_cost():
    assert huber(2) == huber(2.0) != huber(1.0)
    assert hash(focal(2)) == hash(focal(2.0))
    assert repr(quantile((0.1, 0.9))) == "fcnet.quantile(0.1, 0.9)"
    assert default_cost(exponential) is poisson


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: huber(0), r"huber: delta must lie in \(0, inf\), got 0"),
        (lambda: quantile(1.0), r"quantile: levels must lie in \(0, 1\), got 1\.0"),
        (lambda: quantile(()), r"quantile: levels is empty"),
        (lambda: focal(-1), r"focal: gamma must lie in \[0, inf\), got -1"),
        (lambda: label_smoothing("a"), r"label_smoothing: epsilon must lie in \[0, 1\), got 'a'"),
        (
            lambda: poisson.check_pairing(linear),
            r"poisson needs exponential outputs, .*activation_fn=fcnet\.exponential",
        ),
    ],
)
def test_constants_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- Names and pairing -------------------------------------------------------------------------------------------------


@every
def test_found_by_name(cost):
    assert cost_named(cost.name) is cost
    assert repr(cost) == f"fcnet.{cost.name}"


def test_unknown_name():
    with pytest.raises(
        InputError,
        match=r"Unknown cost 'crossentropy'\. Did you mean 'cross_entropy'\? "
        r"Expected one of: log_likelihood, cross_entropy, quadratic\.",
    ):
        cost_named("crossentropy")


def test_pairing():
    log_likelihood.check_pairing(softmax)
    cross_entropy.check_pairing(sigmoid)
    for activation in (softmax, sigmoid, relu, linear):
        quadratic.check_pairing(activation)


def test_pairing_refused():
    with pytest.raises(
        InputError,
        match=r"log_likelihood needs softmax outputs, but the last layer's activation is relu\. .*SoftmaxLayer",
    ):
        log_likelihood.check_pairing(relu)
    with pytest.raises(
        InputError,
        match=r"cross_entropy needs sigmoid outputs, but .* is softmax\. .*fcnet\.log_likelihood .*fcnet\.sigmoid",
    ):
        cross_entropy.check_pairing(softmax)


def test_default_cost():
    assert default_cost(softmax) is log_likelihood
    assert default_cost(sigmoid) is cross_entropy
    assert default_cost(linear) is quadratic
