"""Elementary functions of the native engine's kernels: as exact as their type, and in no wider type, which would halve the vectors."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from numba import types
from scipy import special

from fcnet.engines.native.kernels import elementary

X = np.linspace(-20.0, 20.0, 20_001)
CASES = {
    "exp": (elementary.exp, X, np.exp),
    "log1p": (elementary.log1p, np.linspace(0.0, 1.0, 1_001), np.log1p),
    "log": (elementary.log, np.linspace(1.0, 1e6, 1_001), np.log),
    "sigmoid": (elementary.sigmoid, X, special.expit),
    "tail": (
        numba.njit(lambda z: elementary.tail(z, elementary.exp(z * z * elementary.like(z, -0.5)))),
        X[np.abs(X) < 13.0],
        lambda z: special.ndtr(-np.abs(z)),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_elementary_function(name, dtype):
    function, x, expected = CASES[name]
    x = x.astype(dtype)
    ours = numba.njit(lambda x: function(x))
    answers = [ours(number) for number in x]
    assert ours.nopython_signatures[0].return_type == getattr(types, dtype)
    rtol = 100 * np.finfo(dtype).eps  # rounding of what is exponentiated, 84 for "tail"
    np.testing.assert_allclose(answers, expected(x.astype(np.float64)), rtol=rtol)
