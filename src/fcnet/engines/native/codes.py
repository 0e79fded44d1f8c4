"""What the kernels do by number: activations, costs and update rules, and the constants of a cost."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet import activations, costs, optimizers

SIGMOID, TANH, RELU, LEAKY_RELU, ELU, SELU, GELU, SILU, MISH, SOFTPLUS, LINEAR, SOFTMAX, EXPONENTIAL = range(13)
"""Codes of the activations."""
ACTIVATIONS = {
    activations.sigmoid: SIGMOID,
    activations.tanh: TANH,
    activations.relu: RELU,
    activations.leaky_relu: LEAKY_RELU,
    activations.elu: ELU,
    activations.selu: SELU,
    activations.gelu: GELU,
    activations.silu: SILU,
    activations.mish: MISH,
    activations.softplus: SOFTPLUS,
    activations.linear: LINEAR,
    activations.softmax: SOFTMAX,
    activations.exponential: EXPONENTIAL,
}

LOG_LIKELIHOOD, CROSS_ENTROPY, QUADRATIC, ABSOLUTE, HUBER, LOG_COSH, QUANTILE, POISSON, FOCAL, BINARY_FOCAL = range(10)
"""Codes of the costs."""
CODES = {
    costs.log_likelihood.function: LOG_LIKELIHOOD,
    costs.label_smoothing().function: LOG_LIKELIHOOD,
    costs.cross_entropy.function: CROSS_ENTROPY,
    costs.binary_label_smoothing().function: CROSS_ENTROPY,
    costs.quadratic.function: QUADRATIC,
    costs.absolute.function: ABSOLUTE,
    costs.huber().function: HUBER,
    costs.log_cosh.function: LOG_COSH,
    costs.quantile().function: QUANTILE,
    costs.poisson.function: POISSON,
    costs.focal().function: FOCAL,
    costs.binary_focal().function: BINARY_FOCAL,
}

SGD, MOMENTUM, NESTEROV, ADAM, GRADIENT = range(5)
"""Codes of the update rules; GRADIENT adds the gradient up instead."""
RULES = {
    optimizers.SGD_RULE: SGD,
    optimizers.MOMENTUM_RULE: MOMENTUM,
    optimizers.NESTEROV_RULE: NESTEROV,
    optimizers.ADAM_RULE: ADAM,
}


def constants_of(cost: costs.Cost, n_out: int, dtype: str) -> NDArray[Any]:
    """The numbers that ``judge`` needs: what targets are multiplied by, what is added to them, and the cost's constants."""
    keep, add, own = 1.0, 0.0, cost.constants
    if cost.function == costs.label_smoothing().function:
        keep, add, own = 1.0 - own[0], own[0] / n_out, ()
    elif cost.function == costs.binary_label_smoothing().function:
        keep, add, own = 1.0 - own[0], 0.5 * own[0], ()
    elif cost.function == costs.quantile().function and len(own) == 1:
        own *= n_out
    return np.array([keep, add, *own], dtype)
