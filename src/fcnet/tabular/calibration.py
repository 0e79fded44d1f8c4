"""What a network's answers are worth: probabilities by a temperature, intervals by the mistakes on rows set aside."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_SMALLEST = 1e-30
"""Probabilities are at least this before their logarithm."""
_BINS = 15
_BEND = 0.2
"""The width of the bend at 0 of ``unsmoothed``, in parts of what smoothing adds to a class."""


def unsmoothed(probabilities: NDArray[np.float64], smoothing: float) -> NDArray[np.float64]:
    """What a network would answer if its targets had not been smoothed, ``(n_rows, n_classes)``.

    Trained on (1 - e) of its class and e / K of each of K classes, it learns (1 - e) p + e / K of the probabilities p. They are got
    back by that line, bent where it would fall below 0, which an answer off by a little does; their order is kept.
    """
    if smoothing == 0.0:
        return probabilities
    added = smoothing / probabilities.shape[1]
    above = probabilities - added
    positive = above + np.hypot(above, _BEND * added)
    return positive / positive.sum(axis=1, keepdims=True)


def tempered(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """p_j^(1 / T) / sum_k p_k^(1 / T): the softmax of weighted inputs divided by T, ``(n_rows, n_classes)``."""
    logits = np.log(np.maximum(probabilities, _SMALLEST)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64] | None = None
) -> float:
    """The temperature in [0.05, 20] with the least mean of -log p of the right classes: Guo et al., 2017.

    Of n rows, a part 1 / (n + 2) is taken to be of any class alike, as Platt (1999) does: a few rows that are all right are no
    reason to be certain.
    """
    from scipy.optimize import minimize_scalar

    unsure = 1.0 / (len(labels) + 2)

    def cost(log_temperature: float) -> float:
        costs = -np.log(np.maximum(tempered(probabilities, math.exp(log_temperature)), _SMALLEST))
        right = costs[np.arange(len(labels)), labels]
        return float(np.average((1.0 - unsure) * right + unsure * costs.mean(axis=1), weights=weights))

    found = minimize_scalar(cost, bounds=(math.log(0.05), math.log(20.0)), method="bounded")
    return math.exp(found.x) if found.fun < cost(0.0) else 1.0


def expected_calibration_error(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64] | None = None
) -> float:
    """The mean distance of confidence and accuracy over 15 bins of confidence, by their rows: Guo et al., 2017."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    counts = np.ones(len(labels)) if weights is None else weights
    gaps = np.bincount(bins, weights=(right - confidence) * counts, minlength=_BINS)
    return float(np.abs(gaps).sum() / counts.sum())


def interval_correction(
    low: NDArray[np.float64], high: NDArray[np.float64], values: NDArray[np.float64], coverage: float
) -> float:
    """How much wider (or narrower) intervals must be on each side to cover so large a part of new values.

    The ceil((n + 1) * coverage)-th smallest of max(low - y, y - high): conformalized quantile regression, Romano, Patterson and
    Candès, 2019. Infinite never: with few rows the largest one stands.
    """
    misses = np.sort(np.maximum(low - values, values - high))
    place = min(math.ceil((len(misses) + 1) * coverage), len(misses))
    return float(misses[place - 1])
