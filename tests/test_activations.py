"""Activation functions: values, derivatives, extremes, in NumPy and JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import fcnet.activations as activations
import reference
from fcnet.activations import ELEMENTWISE, Activation, activation_named, as_activation, relu, sigmoid, softmax
from fcnet.errors import InputError

Z = np.concatenate([np.linspace(-9.0, 9.0, 241) + 0.0123, [-30.0, -1e-3, 1e-3, 30.0]])
every = pytest.mark.parametrize("activation", ELEMENTWISE.values(), ids=lambda activation: activation.name)


@every
def test_values_and_derivatives(activation):
    """Against the reference's own formulas."""
    function, derivative = reference.ACTIVATIONS[activation.name]
    np.testing.assert_allclose(activation(Z), function(Z), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(activation.derivative(Z), derivative(Z), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("activation", "closed_form"),
    [
        (activations.sigmoid, special.expit),
        (activations.tanh, np.tanh),
        (activations.softplus, lambda z: -special.log_expit(-z)),
        (activations.gelu, lambda z: z * special.ndtr(z)),
        (activations.silu, lambda z: z * special.expit(z)),
        (activations.elu, lambda z: np.where(z > 0, z, special.expm1(z))),
        (activations.mish, lambda z: z * np.tanh(-special.log_expit(-z))),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_closed_forms(activation, closed_form):
    np.testing.assert_allclose(activation(Z), closed_form(Z), rtol=1e-12, atol=1e-14)


def test_known_points():
    assert sigmoid(np.zeros(1)) == 0.5
    np.testing.assert_array_equal(relu(np.array([-2.0, 0.0, 3.0])), [0.0, 0.0, 3.0])
    np.testing.assert_array_equal(relu.derivative(np.array([-2.0, 0.0, 3.0])), [0.0, 0.0, 1.0])
    np.testing.assert_array_equal(activations.leaky_relu(np.array([-2.0, 3.0])), [-0.02, 3.0])
    np.testing.assert_allclose(activations.softplus(np.zeros(1)), np.log(2))
    np.testing.assert_allclose(activations.selu(np.array([1.0])), 1.0507009873554805)


@every
def test_derivative_by_finite_differences(activation):
    h = 1e-6
    numerical = (activation(Z + h) - activation(Z - h)) / (2 * h)
    np.testing.assert_allclose(activation.derivative(Z), numerical, atol=2e-8)


@every
def test_derivative_is_what_jax_finds(activation):
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(jax.grad(activation.function)))(jnp.asarray(Z))
    np.testing.assert_allclose(activation.derivative(Z), found, rtol=1e-9, atol=1e-12)


@every
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_and_jax_agree(activation, dtype):
    tolerance = {"float32": 3e-6, "float64": 1e-13}[dtype]
    z = Z.astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        for function in (activation.function, activation.derivative):
            ours, theirs = function(z), jax.jit(function)(jnp.asarray(z))
            assert theirs.dtype == dtype
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@every
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_type_and_shape_are_kept(activation, dtype):
    z = np.linspace(-2, 2, 24, dtype=dtype).reshape(2, 3, 4)
    for function in (activation.function, activation.derivative):
        assert function(z).dtype == dtype
        assert function(z).shape == z.shape


@every
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_inputs_stay_finite(activation, dtype):
    """And no overflow on the way: NumPy would warn, and warnings are errors here."""
    z = np.array([-1e15, -1e4, -750.0, -100.0, 0.0, 100.0, 750.0, 1e4, 1e15], dtype)
    with jax.enable_x64(dtype == "float64"):
        for function in (activation.function, activation.derivative):
            assert np.isfinite(function(z)).all()
            assert np.isfinite(jax.jit(function)(jnp.asarray(z))).all()


@every
def test_nan_stays_nan(activation):
    """A NaN that turned into a number would hide a broken run."""
    z = np.array([np.nan, 1.0])
    for a in (activation(z), np.asarray(jax.jit(activation.function)(jnp.asarray(z, jnp.float32))), relu(z)):
        assert np.isnan(a[0])
        assert np.isfinite(a[1])


# --- Softmax -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax(dtype):
    z = np.random.default_rng(0).normal(scale=5, size=(4, 7, 3)).astype(dtype)
    tolerance = {"float32": 1e-6, "float64": 1e-14}[dtype]
    with jax.enable_x64(dtype == "float64"):
        for a in (softmax(z), np.asarray(softmax(jnp.asarray(z)))):
            assert a.dtype == dtype
            np.testing.assert_allclose(a, special.softmax(z.astype(np.float64), axis=-1), atol=tolerance)
            np.testing.assert_allclose(a.sum(axis=-1), 1.0, atol=tolerance)


def test_softmax_extremes():
    z = np.array([[1e30, 0.0, -1e30], [-1e4, -1e4, -1e4], [0.0, np.nan, 0.0]])
    a = softmax(z)
    np.testing.assert_allclose(a[:2], [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
    assert np.isnan(a[2]).all()
    assert softmax.derivative is None


# --- Names and callables -----------------------------------------------------------------------------------------------


@every
def test_found_by_name(activation):
    assert activation_named(activation.name) is activation
    assert repr(activation) == f"fcnet.{activation.name}"
    assert getattr(activations, activation.name) is activation


@pytest.mark.parametrize(("name", "closest"), [("rleu", "relu"), ("Sigmoid", "sigmoid"), ("leakyrelu", "leaky_relu")])
def test_unknown_name(name, closest):
    with pytest.raises(
        InputError, match=f"Unknown activation '{name}'. Did you mean '{closest}'\\? Expected one of: sigmoid, tanh,"
    ):
        activation_named(name)


def test_unknown_name_far_from_all():
    with pytest.raises(InputError, match=r"Unknown activation 'zzz'\. Expected one of: sigmoid, "):
        activation_named("zzz")


def test_softmax_is_no_hidden_activation():
    with pytest.raises(InputError, match="Unknown activation 'softmax'"):
        activation_named("softmax")


def test_callables():
    def swish(z):
        return z / (1 + jnp.exp(-z))

    assert as_activation(relu) is relu
    assert as_activation(swish) == as_activation(swish)
    assert as_activation(swish).function is swish
    assert as_activation(swish).derivative is None
    assert "swish" in as_activation(swish).name
    assert isinstance(as_activation(jnp.sin), Activation)


def test_string_is_refused_with_the_way_out():
    with pytest.raises(InputError, match=r"got the string 'relu'\. Write fcnet\.relu, or .*activation_named\('relu'\)"):
        as_activation("relu")


@pytest.mark.parametrize("value", [None, 3, [relu]])
def test_not_a_function(value):
    with pytest.raises(InputError, match=r"activation_fn must be a function of an array such as fcnet\.relu, got "):
        as_activation(value)
