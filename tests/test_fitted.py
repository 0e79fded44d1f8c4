"""First parameters that fit the data."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

import fcnet
from fcnet.errors import InputError
from fcnet.fitted import SAMPLE
from fcnet.model import Model

TABLE = fcnet.TableLayer(3, 2, (12,))
LAYERS = (
    TABLE,
    fcnet.FullyConnectedLayer(TABLE.n_out, 40, fcnet.selu, 0.2, parametric=True),
    fcnet.FullyConnectedLayer(40, 30, fcnet.mish, 0.2),
    fcnet.SoftmaxLayer(30, 4),
)
MODEL = Model(LAYERS, "training")


def rows(n_rows):
    random = np.random.default_rng(0)
    numbers = random.normal(50.0, 20.0, size=(n_rows, 3)), random.integers(2, size=(n_rows, 2))
    return np.hstack([*numbers, random.integers(12, size=(n_rows, 1))]).astype(np.float32)


def weighted_inputs(parameters, X):
    """Of every layer, without its bias."""
    a, found = X.astype(np.float64), []
    for index in range(len(LAYERS)):
        z, a = MODEL.through(index, parameters, a)
        found.append(z - parameters.get(f"layers.{index}.biases", 0.0))
    return found[1:]


def test_every_unit_sees_the_data():
    X = rows(900)
    parameters = fcnet.fitted_parameters(MODEL, X, 3, "float64")
    for index, z in enumerate(weighted_inputs(parameters, X), start=1):
        np.testing.assert_allclose(z.std(axis=0), 1.0, rtol=1e-10)
        kink = -parameters[f"layers.{index}.biases"]
        assert (kink > z.min(axis=0)).all()
        assert (kink < z.max(axis=0)).all()
        assert len(np.unique(kink)) == len(kink)


def test_a_pure_function_of_seed_and_rows():
    X = rows(300)
    first, again, other = (fcnet.fitted_parameters(MODEL, X, seed) for seed in (3, 3, 4))
    sparse = fcnet.fitted_parameters(MODEL, scipy.sparse.csr_array(X), 3)
    assert {name: array.shape for name, array in first.items()} == dict(MODEL.shapes())
    for name, array in first.items():
        assert array.dtype == np.float32
        assert array.tobytes() == again[name].tobytes() == sparse[name].tobytes()
    assert not np.array_equal(first["layers.2.weights"], other["layers.2.weights"])
    for name, array in MODEL.initial_parameters(3).items():
        same = np.array_equal(first[name], array)
        assert same == (not name.endswith(("weights", "biases")))


def test_many_rows_are_sampled():
    parameters = fcnet.fitted_parameters(MODEL, X := rows(3 * SAMPLE), 0, "float64")
    for z in weighted_inputs(parameters, X):
        np.testing.assert_allclose(z.std(axis=0), 1.0, rtol=0.1)


def test_columns_that_say_nothing():
    """Constant columns, and a single row: nothing is divided by zero."""
    for X in (np.zeros((20, 6), np.float32), rows(1)):
        parameters = fcnet.fitted_parameters(MODEL, X, 0)
        assert all(np.isfinite(array).all() for array in parameters.values())


def test_codes_out_of_range():
    X = rows(10)
    X[3, 5] = 12
    with pytest.raises(
        InputError, match="row 3 has 12 in column 5, expected a category's code, a whole number from 0 to 11"
    ):
        fcnet.fitted_parameters(MODEL, X, 0)
