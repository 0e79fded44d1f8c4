"""Initial numbers: their distributions, and that a key decides them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fcnet import counters
from fcnet.initializers import INITIALIZERS, article_biases, article_weights, glorot_uniform, he_normal, zeros

N_IN, N_OUT = 400, 100
KEY = counters.key(4, counters.Purpose.PARAMETERS)


@pytest.mark.parametrize(
    ("initializer", "deviation", "distribution"),
    [
        (article_weights, math.sqrt(1 / N_OUT), stats.norm),
        (article_biases, 1.0, stats.norm),
        (he_normal, math.sqrt(2 / N_IN), stats.norm),
        (glorot_uniform, math.sqrt(2 / (N_IN + N_OUT)), stats.uniform(-math.sqrt(3), 2 * math.sqrt(3))),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_distribution(initializer, deviation, distribution):
    """Mean 0 and the standard deviation of the book, the article or the paper, within 5 standard errors."""
    numbers = initializer(KEY, (N_IN, N_OUT), N_IN, N_OUT).ravel()
    assert abs(numbers.mean()) < 5 * deviation / math.sqrt(numbers.size)
    assert numbers.std() == pytest.approx(deviation, rel=5 / math.sqrt(2 * numbers.size))
    assert stats.kstest(numbers / deviation, distribution.cdf).pvalue > 1e-4


def test_glorot_stays_within_its_bounds():
    limit = math.sqrt(6 / (N_IN + N_OUT))
    numbers = glorot_uniform(KEY, (N_IN, N_OUT), N_IN, N_OUT)
    assert (abs(numbers) < limit).all()
    assert abs(numbers).max() > 0.999 * limit


def test_zeros():
    assert (zeros(KEY, (3, 2), 3, 2) == 0).all()


@pytest.mark.parametrize("initializer", INITIALIZERS.values(), ids=lambda initializer: initializer.name)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (5,), (1,)])
def test_shape_and_type(initializer, shape):
    numbers = initializer(KEY, shape, 3, 5)
    assert numbers.shape == shape
    assert numbers.dtype == np.float64
    np.testing.assert_array_equal(numbers, initializer(KEY, shape, 3, 5))
    other = initializer(counters.key(5, counters.Purpose.PARAMETERS), shape, 3, 5)
    assert initializer is zeros or not (numbers == other).any()
    assert repr(initializer) == f"fcnet.initializers.{initializer.name}"
    assert INITIALIZERS[initializer.name] is initializer
