"""First parameters that fit the data: a pure function of a model, training rows and a seed.

From RealMLP (Holzmüller, Grinsztajn and Steinwart, "Better by Default", 2024): every unit starts with weighted inputs of standard
deviation 1 over the rows, and with its kink among them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet import counters
from fcnet.data.arrays import as_rows, is_sparse
from fcnet.errors import InputError, unknown_name
from fcnet.layers import TableLayer, check_codes
from fcnet.model import Model, biases_name, weights_name

SAMPLE = 4096
"""At most so many rows are read, drawn by the seed."""
CORNERS = 5
"""A unit's kink lies at a random mean of so many rows."""


def fitted_parameters(model: Model, X: Any, seed: int, dtype: str = "float32") -> dict[str, NDArray[Any]]:
    """The model's initial parameters, with weights and biases drawn for the data in place of the layers' own initializers.

    Layer by layer, for the rows as the layers before write them without dropout:

        weights  N(0, 1), each unit's divided by the standard deviation of its weighted inputs x . w over the rows
        biases   minus a mean of the unit's x . w at 5 random rows, with weights drawn uniformly from the simplex

    The arrays of a ``TableLayer`` and the blends of activations begin as ever.

    Args:
        model: the layers.
        X: training rows ``(n_rows, n_in)``, dense or sparse; of more than 4096, that many are drawn.
        seed: decides the draws.
        dtype: of the parameters.

    Raises:
        InputError: rows that are not numbers, of another width, or with codes that a ``TableLayer`` has no embedding for; a seed
            or a type that cannot be used.
    """
    if not isinstance(model, Model):
        raise InputError(f"model must be a network's model, network.model, got {model!r:.50}.")
    if dtype not in ("float32", "float64"):
        raise unknown_name("dtype", dtype, ("float32", "float64"))
    seed = counters.check_seed(seed)
    parameters = model.initial_parameters(seed, "float64")
    X = as_rows(X, model.n_in)
    check_codes(model.layers[0], X, "X")
    sample = X[np.sort(counters.permutation(_key(seed, 0, 0), X.shape[0])[:SAMPLE])]
    a = np.asarray(sample.toarray() if is_sparse(sample) else sample, np.float64)
    for index, layer in enumerate(model.layers):
        if not isinstance(layer, TableLayer):
            weights = counters.normal(_key(seed, index, 1), (layer.n_in, layer.n_out))
            z = a @ weights
            deviation = z.std(axis=0)
            scale = np.where(deviation > 1e-6 * (1.0 + np.abs(z).max()), deviation, 1.0)  # constant: nothing to scale
            z /= scale
            corners = (counters.uniform(_key(seed, index, 2), (CORNERS, layer.n_out)) * len(a)).astype(np.int64)
            shares = -np.log(counters.uniform(_key(seed, index, 3), (CORNERS, layer.n_out)))
            parameters[weights_name(index)] = weights / scale
            parameters[biases_name(index)] = -(shares * np.take_along_axis(z, corners, axis=0)).sum(0) / shares.sum(0)
        _, a = model.through(index, parameters, a)
    return {name: array.astype(dtype) for name, array in parameters.items()}


def _key(seed: int, layer: int, place: int) -> NDArray[np.uint32]:
    return counters.key(seed, counters.Purpose.FITTED, layer=layer, step=place)
