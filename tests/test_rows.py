"""Rows as the native kernels read them: lists of nonzero numbers, made by one thread or several."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from fcnet.data.arrays import Part
from fcnet.engines.native import rows


@pytest.mark.parametrize("n_rows", [1, 2, 5, 301])
@pytest.mark.parametrize("few", [0, 1 << 30], ids=["several read", "one reads"])
def test_lists_are_those_of_scipy(monkeypatch: pytest.MonkeyPatch, n_rows: int, few: int) -> None:
    monkeypatch.setattr(rows, "FEW_NUMBERS", few)
    random = np.random.default_rng(n_rows)
    X = random.normal(size=(n_rows, 40)) * (random.random((n_rows, 40)) < 0.15)
    X[n_rows // 2] = 0.0
    found = rows.read_rows(Part(X, np.zeros(n_rows, np.int64)), "float64", 3, dropped=False)
    expected, arrays = scipy.sparse.csr_array(X), found.arrays
    assert found.sparse
    np.testing.assert_array_equal(arrays.values, expected.data)
    np.testing.assert_array_equal(arrays.columns, expected.indices)
    cuts = arrays.splits[-1]
    assert (cuts[0], cuts[-1]) == (0, 40)
    for r in range(n_rows):
        assert tuple(arrays.splits[r, [0, -1]]) == tuple(expected.indptr[r : r + 2])
        for thread in range(3):
            own = arrays.columns[arrays.splits[r, thread] : arrays.splits[r, thread + 1]]
            assert ((own >= cuts[thread]) & (own < cuts[thread + 1])).all()
