"""One judge for all: what parameters compute, in NumPy and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads import JUDGED_ROWS, Parameters, Task


def log_probabilities(parameters: Parameters, activation: str, X: NDArray[Any]) -> NDArray[np.float64]:
    """log softmax of the last layer, without dropout, ``(n_rows, n_out)``."""
    a = X.astype(np.float64)
    for index, (w, b) in enumerate(parameters):
        z = a @ w.astype(np.float64) + b
        if index < len(parameters) - 1:
            a = np.maximum(z, 0.0) if activation == "relu" else 1.0 / (1.0 + np.exp(-z))
    z -= z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def training_cost(task: Task, parameters: Parameters) -> float:
    """Mean log-likelihood cost of the first training rows."""
    X, y = task.rows()
    X, y = X[:JUDGED_ROWS], y[:JUDGED_ROWS]
    return float(-log_probabilities(parameters, task.workload.activation, X)[np.arange(len(y)), y].mean())
