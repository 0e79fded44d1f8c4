"""Layers: their checks, their dropout, their two scalings."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reference
from fcnet import counters
from fcnet.activations import relu, sigmoid, softmax
from fcnet.errors import InputError
from fcnet.initializers import article_biases, article_weights, zeros
from fcnet.layers import (
    FullyConnectedLayer,
    SoftmaxLayer,
    check_p_dropout,
    dropout_layer,
    keep_mask,
    without_dropout,
)

KINDS = [FullyConnectedLayer, SoftmaxLayer]


def test_defaults_are_the_articles():
    layer = FullyConnectedLayer(784, 100)
    assert (layer.n_in, layer.n_out) == (784, 100)
    assert layer.activation_fn is sigmoid
    assert layer.p_dropout == 0.0
    assert (layer.weights, layer.biases) == (article_weights, article_biases)
    last = SoftmaxLayer(100, 10)
    assert last.activation_fn is softmax
    assert (last.weights, last.biases) == (zeros, zeros)


def test_a_layer_is_a_value():
    assert FullyConnectedLayer(3, 2, relu, 0.5) == FullyConnectedLayer(3, 2, activation_fn=relu, p_dropout=0.5)
    assert hash(FullyConnectedLayer(3, 2)) == hash(FullyConnectedLayer(3, 2))
    assert FullyConnectedLayer(3, 2) != FullyConnectedLayer(3, 2, relu)
    with pytest.raises(dataclasses.FrozenInstanceError):
        FullyConnectedLayer(3, 2).n_in = 4
    assert dataclasses.replace(SoftmaxLayer(3, 2), p_dropout=0.5) == SoftmaxLayer(3, 2, 0.5)


def test_numbers_become_plain():
    layer = FullyConnectedLayer(np.int64(3), np.uint8(2), p_dropout=np.float32(0.5))
    assert [type(value) for value in (layer.n_in, layer.n_out, layer.p_dropout)] == [int, int, float]
    assert type(FullyConnectedLayer(3, 2, p_dropout=0).p_dropout) is float


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, -3, 2.0, "2", None, [2]])
def test_bad_sizes(kind, size):
    with pytest.raises(InputError, match=rf"^{kind.__name__}: n_in must be a positive integer, got .+\.$"):
        kind(size, 2)
    with pytest.raises(InputError, match=rf"^{kind.__name__}: n_out must be a positive integer, got .+\.$"):
        kind(2, size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [1.0, 1, -0.1, 1.5, "0.5", float("nan"), float("inf"), 10**400, None, 0.5j])
def test_bad_dropout(kind, p):
    with pytest.raises(InputError, match=rf"^{kind.__name__}: p_dropout must lie in \[0, 1\), got .+ probability"):
        kind(3, 2, p_dropout=p)


def test_good_dropout():
    for p in (0, 0.0, 0.5, np.float32(0.25), np.nextafter(1.0, 0.0)):
        assert check_p_dropout("x", p) == p


def test_activation_given_as_a_string():
    with pytest.raises(InputError, match=r"got the string 'relu'\. Write fcnet\.relu"):
        FullyConnectedLayer(3, 2, "relu")


def test_activation_given_as_a_callable():
    layer = FullyConnectedLayer(3, 2, jnp.sin)
    assert layer.activation_fn.function is jnp.sin
    assert layer == FullyConnectedLayer(3, 2, jnp.sin)


def test_softmax_layer_has_no_other_activation():
    with pytest.raises(TypeError, match="activation_fn"):
        SoftmaxLayer(3, 2, activation_fn=relu)


# --- Dropout -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_units", [1, 2, 5, 30])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 0.99])
def test_keep_mask(n_units, p):
    """The reference lays the bits out by itself; JAX agrees."""
    key = counters.key(1, counters.Purpose.DROPOUT, 2, 3)
    x = np.ones((9, n_units), np.float32)
    mask = keep_mask(x, counters.drop_threshold(p), key)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, reference.keep_mask(key, p, 9, n_units))
    np.testing.assert_array_equal(mask, jax.jit(keep_mask)(x, counters.drop_threshold(p), key))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout_layer(dtype):
    key = counters.key(1, counters.Purpose.DROPOUT)
    x = np.random.default_rng(0).normal(size=(50, 40)).astype(dtype)
    dropped = dropout_layer(x, 0.4, key)
    assert dropped.dtype == dtype
    kept = dropped != 0
    assert 0.5 < kept.mean() < 0.7
    np.testing.assert_array_equal(dropped[kept], x[kept])
    np.testing.assert_array_equal(dropout_layer(x, 0.4, key), dropped)
    assert (dropout_layer(x, 0.4, counters.key(2, counters.Purpose.DROPOUT)) != dropped).any()
    np.testing.assert_array_equal(dropout_layer(x, 0.0, key), x)


def test_without_dropout():
    x = np.array([[1.0, 2.0]], np.float32)
    layer, plain = FullyConnectedLayer(2, 1, p_dropout=0.25), FullyConnectedLayer(2, 1)
    np.testing.assert_array_equal(without_dropout("inference")(0, layer, x), 0.75 * x)
    assert without_dropout("inference")(0, layer, x).dtype == np.float32
    assert without_dropout("training")(0, layer, x) is x
    assert without_dropout("inference")(0, plain, x) is x


def test_both_paths_agree_in_the_mean():
    """What scaling is for: over many masks, a linear layer's training path has the inference path as its mean."""
    p, n = 0.3, 20_000
    x = np.random.default_rng(0).normal(size=(1, 50))
    masks = reference.keep_mask(counters.key(6, counters.Purpose.DROPOUT), p, n, 50)
    deviation = np.sqrt(p * (1 - p) * (x**2).sum() / n)
    assert abs((masks * x).sum(axis=1).mean() - (1 - p) * x.sum()) < 5 * deviation
