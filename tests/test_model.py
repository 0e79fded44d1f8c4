"""Models: layers that fit, named parameters, initial numbers, the forward path."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import reference
from fcnet import counters
from fcnet.activations import relu, tanh
from fcnet.errors import InputError
from fcnet.initializers import glorot_uniform
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer, keep_mask
from fcnet.model import Model, biases_name, is_weights, model_of, rescale_for, weights_name

LAYERS = (FullyConnectedLayer(6, 5, tanh, 0.2), FullyConnectedLayer(5, 4, relu, 0.5), SoftmaxLayer(4, 3, 0.1))


def test_names_and_shapes():
    model = Model(LAYERS)
    assert (model.n_in, model.n_out) == (6, 3)
    assert list(model.shapes()) == [
        ("layers.0.weights", (6, 5)),
        ("layers.0.biases", (5,)),
        ("layers.1.weights", (5, 4)),
        ("layers.1.biases", (4,)),
        ("layers.2.weights", (4, 3)),
        ("layers.2.biases", (3,)),
    ]
    assert weights_name(1) == "layers.1.weights"
    assert biases_name(1) == "layers.1.biases"
    assert [is_weights(name) for name, _ in model.shapes()] == [True, False] * 3


def test_a_model_is_a_value():
    assert Model(LAYERS) == Model(LAYERS)
    assert hash(Model(LAYERS)) == hash(Model(LAYERS))
    assert Model(LAYERS) != Model(LAYERS, "training")
    assert model_of(list(LAYERS)) == Model(LAYERS)


# --- What is refused ---------------------------------------------------------------------------------------------------


def test_no_layers():
    with pytest.raises(InputError, match="A network needs at least one layer, got an empty list"):
        model_of([])


def test_not_a_list():
    for layers in (FullyConnectedLayer(3, 2), None, 3):
        with pytest.raises(InputError, match=r"layers must be a list of layers, got .*\. Write \[layer, \.\.\.\]\."):
            model_of(layers)


def test_not_a_layer():
    with pytest.raises(InputError, match=r"Layer 1 must be a FullyConnectedLayer or a SoftmaxLayer, got \(3, 2\)\."):
        model_of([FullyConnectedLayer(4, 3), (3, 2)])


def test_layers_that_do_not_fit():
    """Both layers, both sizes, and both ways out."""
    message = (
        r"^Layer 1 \(SoftmaxLayer\(30, 10\)\) reads 30 numbers, but layer 0 \(FullyConnectedLayer\(784, 100\)\) "
        r"writes 100\. Give layer 1 n_in=100, or layer 0 n_out=30\.$"
    )
    with pytest.raises(InputError, match=message):
        model_of([FullyConnectedLayer(784, 100), SoftmaxLayer(30, 10)])
    with pytest.raises(InputError, match=r"^Layer 2 .* reads 7 numbers, but layer 1 .* writes 4\."):
        model_of([*LAYERS[:2], SoftmaxLayer(7, 3)])


def test_parameters_that_do_not_fit():
    model = Model(LAYERS)
    good = model.initial_parameters(0)
    model.check_parameters(good)
    missing = {name: array for name, array in good.items() if name != "layers.1.biases"}
    with pytest.raises(InputError, match=r"^Parameters are missing: layers\.1\.biases\.$"):
        model.check_parameters(missing)
    with pytest.raises(
        InputError, match=r"^Unknown parameters: extra\. Expected: layers\.0\.weights, layers\.0\.biases,"
    ):
        model.check_parameters({**good, "extra": np.zeros(1)})
    with pytest.raises(InputError, match=r"^layers\.0\.weights must have shape \(6, 5\), got \(5, 6\)\.$"):
        model.check_parameters({**good, "layers.0.weights": np.zeros((5, 6))})


# --- Initial parameters ------------------------------------------------------------------------------------------------


def test_initial_parameters_are_the_articles():
    """Weights N(0, sqrt(1 / n_out)), biases N(0, 1), the softmax layer zeros."""
    parameters = Model((FullyConnectedLayer(784, 100), SoftmaxLayer(100, 10))).initial_parameters(0)
    weights, biases = parameters["layers.0.weights"], parameters["layers.0.biases"]
    assert abs(weights.mean()) < 5 * 0.1 / np.sqrt(weights.size)
    assert weights.std() == pytest.approx(0.1, rel=5 / np.sqrt(2 * weights.size))
    assert abs(biases.mean()) < 5 / np.sqrt(100)
    assert biases.std() == pytest.approx(1.0, rel=5 / np.sqrt(200))
    assert (parameters["layers.1.weights"] == 0).all()
    assert (parameters["layers.1.biases"] == 0).all()


def test_initial_parameters_are_a_function_of_the_seed():
    model = Model(LAYERS[:2])
    a, b, c = (model.initial_parameters(seed) for seed in (0, 0, 1))
    assert list(a) == [name for name, _ in model.shapes()]
    for name, shape in model.shapes():
        assert a[name].shape == shape
        assert a[name].dtype == np.float32
        np.testing.assert_array_equal(a[name], b[name])
        assert not (a[name] == c[name]).any()
    double = model.initial_parameters(0, "float64")
    for name in a:
        assert double[name].dtype == np.float64
        np.testing.assert_array_equal(double[name].astype(np.float32), a[name])


def test_no_two_arrays_share_draws():
    model = Model((FullyConnectedLayer(4, 4), FullyConnectedLayer(4, 4), FullyConnectedLayer(4, 4)))
    numbers = np.concatenate([array.ravel() for array in model.initial_parameters(3, "float64").values()])
    assert len(np.unique(numbers)) == numbers.size


def test_a_layer_more_leaves_the_first_as_it_was():
    short, long = Model(LAYERS[:1]).initial_parameters(0), Model(LAYERS).initial_parameters(0)
    np.testing.assert_array_equal(short["layers.0.weights"], long["layers.0.weights"])


# --- Forward -----------------------------------------------------------------------------------------------------------


def drawn(layers, dtype="float64"):
    rng = np.random.default_rng(2)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in Model(layers).shapes()}


@pytest.mark.parametrize("scaling", ["inference", "training"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_forward(scaling, dtype):
    parameters = drawn(LAYERS, dtype)
    x = np.random.default_rng(0).normal(size=(7, 6)).astype(dtype)
    z, a = Model(LAYERS, scaling).forward(parameters, x)
    _, zs, _, outputs = reference.forward(LAYERS, parameters, x, scaling)
    assert z.dtype == a.dtype == dtype
    tolerance = {"float32": 1e-5, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(z, zs[-1], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(a, outputs, rtol=tolerance, atol=tolerance)
    if dtype == "float32":
        in_jax = Model(LAYERS, scaling).forward({k: jnp.asarray(v) for k, v in parameters.items()}, jnp.asarray(x))
        np.testing.assert_allclose(in_jax[1], a, rtol=1e-5, atol=1e-6)


def test_forward_with_dropout():
    """Each layer reads what the caller's dropout leaves; the model adds nothing of its own."""
    parameters, x = drawn(LAYERS), np.random.default_rng(0).normal(size=(7, 6))
    p = [layer.p_dropout for layer in LAYERS]
    keys = counters.key(3, counters.Purpose.DROPOUT, np.arange(3), 8)

    def dropout(index, layer, x):
        return x * keep_mask(x, counters.drop_threshold(layer.p_dropout), keys[index])

    _, a = Model(LAYERS).forward(parameters, x, dropout)
    np.testing.assert_allclose(a, reference.forward(LAYERS, parameters, x, "inference", p, keys)[-1], rtol=1e-12)


@pytest.mark.parametrize(("old", "new"), [("inference", "training"), ("training", "inference")])
def test_rescale_keeps_both_paths(old, new):
    """The function of the article's network in the field's convention, with and without dropout, and back."""
    layers = (*LAYERS[:2], SoftmaxLayer(4, 3, weights=glorot_uniform))
    parameters, x = drawn(layers), np.random.default_rng(0).normal(size=(7, 6))
    p, keys = [layer.p_dropout for layer in layers], counters.key(3, counters.Purpose.DROPOUT, np.arange(3), 8)
    rescaled = rescale_for(Model(layers, old), new, parameters)
    for path in ({}, {"dropout": p, "keys": keys}):
        before = reference.forward(layers, parameters, x, old, **path)[-1]
        after = reference.forward(layers, rescaled, x, new, **path)[-1]
        np.testing.assert_allclose(after, before, rtol=1e-12)
    np.testing.assert_allclose(Model(layers, new).forward(rescaled, x)[1], Model(layers, old).forward(parameters, x)[1])
    back = rescale_for(Model(layers, new), old, rescaled)
    for name in parameters:
        np.testing.assert_allclose(back[name], parameters[name], rtol=1e-15)


def test_rescale_to_the_same_changes_nothing():
    parameters = drawn(LAYERS, "float32")
    copies = {name: array.copy() for name, array in parameters.items()}
    assert rescale_for(Model(LAYERS), "inference", parameters) is parameters
    rescaled = rescale_for(Model(LAYERS), "training", parameters)
    assert all(array.dtype == np.float32 for array in rescaled.values())
    for name, array in copies.items():
        np.testing.assert_array_equal(parameters[name], array)
