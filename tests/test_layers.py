"""Layers: their checks, their dropout, their two scalings."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import reference
from fcnet import counters
from fcnet.activations import relu, sigmoid, softmax
from fcnet.errors import InputError
from fcnet.initializers import article_biases, article_weights, zeros
from fcnet.layers import (
    FullyConnectedLayer,
    SoftmaxLayer,
    TableLayer,
    check_codes,
    check_p_dropout,
    dropout_layer,
    keep_mask,
    without_dropout,
)
from fcnet.model import Model

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


# --- Tables --------------------------------------------------------------------------------------------------------------


def test_sizes_of_a_table():
    table = TableLayer(4, 3, [5, 12], n_waves=16, number_width=4, category_width=8)
    assert (table.n_in, table.n_out) == (9, 4 * 4 + 3 + 2 * 8)
    assert table.categories == (5, 12)
    assert table.starts == (0, 5)
    assert [(name, shape) for name, shape, _ in table.arrays] == [
        ("frequencies", (4, 16)),
        ("phases", (4, 16)),
        ("amplitudes", (4, 16, 3)),
        ("offsets", (4, 3)),
        ("embeddings", (17, 8)),
        ("scales", (35,)),
    ]
    assert TableLayer(2, 1, number_width=1, scaled=False).arrays == ()
    assert hash(table) == hash(TableLayer(4, 3, (5, 12)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "TableLayer has no columns: give it n_numbers, n_plain or categories."),
        ({"n_numbers": -1}, "TableLayer: n_numbers must be an integer, 0 or above, got -1."),
        ({"n_plain": 1.5}, "TableLayer: n_plain must be an integer, 0 or above, got 1.5."),
        ({"n_numbers": 1, "n_waves": 0}, "TableLayer: n_waves must be a positive integer, got 0."),
        ({"categories": 3}, "TableLayer: categories must be a tuple of counts, got 3."),
        ({"categories": (3, 0)}, "TableLayer: a number of categories must be a positive integer, got 0."),
        ({"categories": (2**24 + 1,)}, "TableLayer: a column has 16777217 categories, expected 16777216 at most."),
        ({"n_numbers": 1, "frequency": 10**400}, "TableLayer: frequency must lie above 0 and below 1e+06, got 1000"),
        ({"n_numbers": 1, "scaled": 1}, "TableLayer: scaled must be True or False, got 1."),
    ],
)
def test_bad_tables(arguments, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        TableLayer(**arguments)


def test_how_a_table_begins():
    """RealMLP's: frequencies N(0, 0.1), phases over a whole turn, the sums as a linear layer of 16 inputs, embeddings N(0, 1)."""
    arrays = Model((TableLayer(100, 0, (500,)), SoftmaxLayer(408, 2))).initial_parameters(0, "float64")
    own = {name.removeprefix("layers.0."): array for name, array in arrays.items()}
    assert own["frequencies"].std() == pytest.approx(0.1, rel=0.1)
    assert np.abs(own["phases"]).max() == pytest.approx(np.pi, rel=0.01)
    assert np.abs(own["amplitudes"]).max() == pytest.approx(0.25, rel=0.01)
    assert np.abs(own["offsets"]).max() == pytest.approx(0.25, rel=0.02)
    assert own["embeddings"].std() == pytest.approx(1.0, rel=0.1)
    assert (own["scales"] == 1.0).all()


@pytest.mark.parametrize("code", [-2, 0.5, 3, float("nan")])
def test_codes_that_have_no_embedding(code):
    table, X = TableLayer(1, 1, (7, 3)), np.zeros((5, 4), np.float32)
    X[:, 2:] = -1, 2
    check_codes(table, X, "X")
    check_codes(table, scipy.sparse.csr_array(X), "X")
    X[3, 3] = code
    for rows in (X, scipy.sparse.csr_array(X)):
        with pytest.raises(
            InputError, match=r"^X: row 3 has .* in column 3, expected a category's code, .* from 0 to 2, or -1"
        ):
            check_codes(table, rows, "X")


def test_blends():
    assert FullyConnectedLayer(3, 2, relu, parametric=True).arrays[2][:2] == ("blends", (2,))
    with pytest.raises(InputError, match=r"^FullyConnectedLayer: parametric must be True or False, got 'yes'\.$"):
        FullyConnectedLayer(3, 2, relu, parametric="yes")
    with pytest.raises(InputError, match=r"^Layer 0 is the last one, whose activation the cost reads\. Set parametric"):
        Model((FullyConnectedLayer(3, 2, relu, parametric=True),))
    with pytest.raises(InputError, match=r"^Layer 1 is a TableLayer, which reads a table's rows\. Make it the first"):
        Model((FullyConnectedLayer(3, 2), TableLayer(2), SoftmaxLayer(8, 2)))
    with pytest.raises(InputError, match=r"^A TableLayer needs a layer after it, such as a SoftmaxLayer\.$"):
        Model((TableLayer(2),))


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
