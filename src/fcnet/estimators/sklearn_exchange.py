"""Trained estimators to scikit-learn and back."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
from sklearn import neural_network
from sklearn.preprocessing import LabelBinarizer

from fcnet.errors import InputError
from fcnet.estimators.targets import Classes

_SHARED = (
    "coefs_", "intercepts_", "n_layers_", "n_outputs_", "out_activation_", "n_iter_", "t_", "loss_", "loss_curve_",
    "best_loss_", "validation_scores_", "best_validation_score_", "_no_improvement_count", "n_features_in_",
    "feature_names_in_", "classes_",
)  # fmt: skip
"""Attributes of a trained estimator that mean the same in both libraries."""


def from_sklearn(kind: type[Any], model: Any) -> Any:
    """An estimator of fcnet's class with what a scikit-learn one has learnt; see ``MultilayerPerceptron.from_sklearn``."""
    theirs = getattr(neural_network, kind.__name__)
    if not isinstance(model, theirs):
        raise InputError(f"{kind.__name__}.from_sklearn needs a sklearn.neural_network.{kind.__name__}, got {model!r}.")
    own = kind(**model.get_params(deep=False))
    if not hasattr(model, "coefs_"):
        return own
    _copy_attributes(model, own)
    if hasattr(model, "classes_"):
        binarizer = model._label_binarizer
        kind_of_target = {"binary": "binary", "multiclass": "multiclass"}.get(binarizer.y_type_, "multilabel")
        own._classes = Classes(binarizer.classes_, kind_of_target, binarizer.sparse_input_)  # type: ignore[arg-type]
    else:
        own._n_targets = model.n_outputs_
    return own


def to_sklearn(own: Any) -> Any:
    """scikit-learn's estimator with what this one has learnt; see ``MultilayerPerceptron.to_sklearn``."""
    theirs = getattr(neural_network, type(own).__name__)
    known = set(inspect.signature(theirs.__init__).parameters)
    parameters = {name: value for name, value in own.get_params(deep=False).items() if name in known}
    model = theirs(**_in_its_words(parameters, theirs))
    if not hasattr(own, "coefs_"):
        return model
    if own.out_activation_ not in ("identity", "logistic", "softmax", "exp"):
        raise InputError(f"scikit-learn has no output activation {own.out_activation_!r}.")
    _copy_attributes(own, model)
    if not hasattr(model, "loss_curve_"):
        return _with_classes(own, model)
    model._best_coefs = [weights.copy() for weights in model.coefs_]
    model._best_intercepts = [biases.copy() for biases in model.intercepts_]
    return _with_classes(own, model)


def _with_classes(own: Any, model: Any) -> Any:
    if hasattr(own, "_classes"):
        if own._classes.kind == "multilabel":
            model._label_binarizer = LabelBinarizer().fit(np.eye(len(own.classes_), dtype=int))
        else:
            model._label_binarizer = LabelBinarizer().fit(own.classes_)
    return model


def _in_its_words(parameters: dict[str, Any], theirs: type[Any]) -> dict[str, Any]:
    """Parameters that scikit-learn has the same names for; its defaults where ours have no meaning there."""
    activation = parameters["activation"]
    name = {"linear": "identity", "sigmoid": "logistic"}.get(getattr(activation, "name", activation), activation)
    name = getattr(name, "name", name)
    if name not in ("identity", "logistic", "tanh", "relu"):
        raise InputError(
            f"scikit-learn has no activation {activation!r}. Expected one of: 'identity', 'logistic', 'tanh', 'relu'."
        )
    words = parameters | {"activation": name}
    if words["solver"] not in ("lbfgs", "sgd", "adam"):
        words["solver"] = "adam"
    if words["learning_rate"] not in ("constant", "invscaling", "adaptive"):
        words["learning_rate"] = "constant"
    if words.get("loss", "squared_error") not in ("squared_error", "poisson"):
        words["loss"] = "squared_error"
    return words


def _copy_attributes(source: Any, target: Any) -> None:
    for name in _SHARED:
        if name in vars(source):
            setattr(target, name, copy.deepcopy(vars(source)[name]))
