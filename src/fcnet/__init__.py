"""fcnet: fully connected networks on CPUs and GPUs.

>>> import fcnet
>>> network = fcnet.Network([fcnet.FullyConnectedLayer(784, 100), fcnet.SoftmaxLayer(100, 10)], mini_batch_size=10)

Every public name is here, and is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "fcnet.activations": (
        "Activation sigmoid tanh relu leaky_relu elu selu gelu silu mish softplus linear exponential softmax"
    ),
    "fcnet.costs": (
        "Cost log_likelihood cross_entropy quadratic absolute huber log_cosh poisson quantile focal binary_focal "
        "label_smoothing binary_label_smoothing"
    ),
    "fcnet.data.arrays": "DataSet Part",
    "fcnet.data.sources": "load_data",
    "fcnet.estimators.multilayer": "MLPClassifier MLPRegressor",
    "fcnet.errors": "FcnetError InputError FileError DeviceError OutOfMemoryError DownloadError DivergenceError TrainingWarning",
    "fcnet.fitted": "fitted_parameters",
    "fcnet.history": "EpochRecord History Observer",
    "fcnet.layers": "FullyConnectedLayer SoftmaxLayer TableLayer dropout_layer",
    "fcnet.network": "Network",
    "fcnet.optimizers": ("SGD Momentum Nesterov Adam AdamW Constant Cosine Step Exponential FlatCosine WarmUp Factors"),
    "fcnet.tabular.estimators": "TabularClassifier TabularRegressor",
    "fcnet.training": "train",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fcnet' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
