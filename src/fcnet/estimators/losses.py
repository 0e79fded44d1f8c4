"""An estimator's ``loss`` as a cost, and the activation of the last layer that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fcnet import costs
from fcnet.activations import Activation, exponential, linear, sigmoid, softmax
from fcnet.costs import Cost
from fcnet.errors import InputError

OUTPUT_ACTIVATIONS = {"identity": linear, "logistic": sigmoid, "softmax": softmax, "exp": exponential}
"""The last layer's activations, under scikit-learn's names."""
CLASSIFIER_LOSSES = ("log_loss", "focal", "squared_error")
REGRESSOR_LOSSES = ("squared_error", "poisson", "huber", "absolute_error", "log_cosh", "quantile")
_REGRESSION = {
    "squared_error": costs.quadratic,
    "poisson": costs.poisson,
    "huber": costs.huber(),
    "absolute_error": costs.absolute,
    "log_cosh": costs.log_cosh,
}
_SIGMOID_TWINS = {
    "log_likelihood": lambda: costs.cross_entropy,
    "focal": costs.binary_focal,
    "label_smoothing": costs.binary_label_smoothing,
}
"""For outputs that are a probability each, what a cost of probabilities that sum to 1 becomes."""


def classifier_cost(loss: Any, label_smoothing: float, output: Activation) -> Cost:
    """The cost of a classifier whose last layer is softmax or sigmoid.

    Raises:
        InputError: label smoothing with another loss, or a cost that the last layer's outputs are not for.
    """
    if label_smoothing:
        if loss != "log_loss":
            raise InputError(f"label_smoothing={label_smoothing} needs loss='log_loss', got loss={loss!r}.")
        cost = costs.label_smoothing(label_smoothing)
    elif isinstance(loss, str):
        cost = {"log_loss": costs.log_likelihood, "focal": costs.focal(), "squared_error": costs.quadratic}[loss]
    else:
        cost = _as_cost(loss)
    if output == sigmoid and cost.pairs_with == softmax and cost.name in _SIGMOID_TWINS:
        cost = _SIGMOID_TWINS[cost.name](*cost.constants)
    cost.check_pairing(output)
    return cost


def regressor_cost(loss: Any, quantiles: Sequence[float]) -> Cost:
    """The cost of a regressor."""
    if not isinstance(loss, str):
        return _as_cost(loss)
    return costs.quantile(tuple(quantiles)) if loss == "quantile" else _REGRESSION[loss]


def quantile_levels(loss: Any, quantiles: Sequence[float]) -> tuple[float, ...] | None:
    """The level of each output of a network that predicts quantiles; None for any other loss."""
    if loss == "quantile" or (isinstance(loss, Cost) and loss.name == "quantile"):
        return regressor_cost(loss, quantiles).constants
    return None


def output_name(cost: Cost) -> str:
    """scikit-learn's name of the last layer's activation that a regressor's cost goes with."""
    wanted = cost.pairs_with or linear
    return next(name for name, activation in OUTPUT_ACTIVATIONS.items() if activation == wanted)


def _as_cost(loss: Any) -> Cost:
    return loss if isinstance(loss, Cost) else Cost(getattr(loss, "__name__", type(loss).__name__), loss)
