"""``MLPClassifier`` and ``MLPRegressor``: scikit-learn's two classes on fcnet's engines, with what it refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import unique_labels

from fcnet.costs import Cost
from fcnet.engines.contract import Precision
from fcnet.errors import InputError
from fcnet.estimators.losses import (
    CLASSIFIER_LOSSES,
    OUTPUT_ACTIVATIONS,
    REGRESSOR_LOSSES,
    classifier_cost,
    output_name,
    quantile_levels,
    regressor_cost,
)
from fcnet.estimators.perceptron import MultilayerPerceptron, has_epochs
from fcnet.estimators.settings import (
    check_parameters,
    refuses_unknown_parameters,
)
from fcnet.estimators.targets import Classes, ClassWeights, classes_of_first_part


def _is_stochastic(estimator: Any) -> bool:
    if not has_epochs(estimator):
        raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
    return True


class MLPClassifier(ClassifierMixin, MultilayerPerceptron):
    """A multilayer perceptron that classifies: scikit-learn's class, faster, with what it refused.

    Args:
        hidden_layer_sizes: units of each hidden layer; () for none.
        activation: of the hidden layers: "relu", "tanh", "logistic", "identity" or another of fcnet's by name; an
            ``fcnet.Activation``; a callable of ``jax.numpy`` operations; or a sequence with one for each layer.
        solver: "adam", "sgd", "lbfgs", "adamw", or an optimizer such as ``fcnet.AdamW(fcnet.Cosine(0.01))``.
        alpha: strength of the L2 penalty: each step's cost has 0.5 * alpha * sum(w^2) / (weight of its rows).
        batch_size: rows in a step; "auto" is min(200, n_rows).
        learning_rate: "constant"; for sgd "invscaling" and "adaptive"; "cosine", "step", "exponential", "warmup",
            "warmup-cosine"; or a schedule such as ``fcnet.Cosine(0.01)``, which has its own rate.
        learning_rate_init: the rate, or the one that a named schedule starts from.
        power_t: for "invscaling": learning_rate_init / (rows seen + 1) ** power_t.
        max_iter: epochs at most; for lbfgs iterations.
        shuffle: another order of rows for every epoch.
        random_state: seed of weights, orders, the split and masks: the weights and orders are scikit-learn's own.
        tol: an epoch that is not better by so much counts as no improvement.
        verbose: True, or 2 and more, for a line an epoch; 1 for a bar.
        warm_start: ``fit`` goes on from the weights of the last call.
        momentum, nesterovs_momentum: of sgd.
        early_stopping: stop on a score of validation data, and put the best weights back.
        validation_fraction: share of the rows that is set aside for that, where ``fit`` is given no ``eval_set``.
        beta_1, beta_2, epsilon: of adam and adamw.
        n_iter_no_change: more than so many epochs in a row without improvement end training.
        max_fun: evaluations of the cost at most, for lbfgs.
        loss: "log_loss", "focal" or "squared_error"; a cost such as ``fcnet.focal(1.0)``; or a callable (z, a, targets) ->
            ``(n_rows,)`` of ``jax.numpy`` operations.
        dropout: probability that an output of a hidden layer is dropped in a training step; or one for each hidden layer, and
            one more in front for the features.
        class_weight: a dict from class to weight, or "balanced"; multiplied with ``sample_weight``.
        label_smoothing: the share of each target that is spread over all classes.
        weight_decay: of adamw.
        scoring: what ``early_stopping`` looks at: None for the accuracy, "loss" for the validation cost, any name that
            scikit-learn knows, or a callable (estimator, X, y); the highest is best.
        max_time: seconds after which training ends, with what it has.
        keep_optimizer: with ``warm_start``, go on with the optimizer's moments too.
        callbacks: called with each ``fcnet.EpochRecord``; one that returns True ends training. Or ``fcnet.Observer`` objects.
        engine, device, n_threads, precision: see ``fcnet.train``; device is "cpu" unless asked.

    Attributes:
        coefs_, intercepts_: weights ``(n_in, n_out)`` and biases ``(n_out,)`` of each layer. They may be set.
        loss_, best_loss_, loss_curve_: the training cost with its penalty: the last one, the lowest, and of every epoch.
        validation_loss_curve_: the validation cost of every epoch, without penalty.
        validation_scores_, best_validation_score_: with ``early_stopping``.
        n_iter_, t_: epochs of the last call; rows seen in all.
        stopped_: whether early stopping has ended a series of ``partial_fit``.
        history_: the ``fcnet.History`` of the last call.
        n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_, classes_: as in scikit-learn.
    """

    _LOSSES = CLASSIFIER_LOSSES

    @refuses_unknown_parameters
    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        loss: Any = "log_loss",
        dropout: float | Sequence[float] = 0.0,
        class_weight: Any = None,
        label_smoothing: float = 0.0,
        weight_decay: float = 0.01,
        scoring: Any = None,
        max_time: float | None = None,
        keep_optimizer: bool = False,
        callbacks: Sequence[Any] = (),
        engine: str = "auto",
        device: str = "cpu",
        n_threads: int | None = None,
        precision: Precision = "tf32",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.loss = loss
        self.dropout = dropout
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.weight_decay = weight_decay
        self.scoring = scoring
        self.max_time = max_time
        self.keep_optimizer = keep_optimizer
        self.callbacks = callbacks
        self.engine = engine
        self.device = device
        self.n_threads = n_threads
        self.precision = precision

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, eval_set: Any = None) -> MLPClassifier:
        """Train on data, from new weights, or with ``warm_start`` from those of the last call.

        Args:
            X: ``(n_rows, n_features)``: an array, a data frame, or a scipy sparse matrix.
            y: ``(n_rows,)`` classes of any type, or ``(n_rows, n_classes)`` of 0 and 1 for several labels a row.
            sample_weight: ``(n_rows,)``, how much each row counts, 0 or above.
            eval_set: ``(X, y)`` or ``(X, y, sample_weight)``: validation data of your own.

        Returns:
            The estimator.

        Raises:
            InputError, ValueError: parameters or data that cannot be used.
        """
        check_parameters(self, self._LOSSES)
        first = self._is_first_pass(False)
        X, y = self._check_rows(X, y, reset=first)
        if not hasattr(self, "_classes") or first:
            self._classes = Classes.of(y)
        else:
            self._classes.check_known(y, all_of_them=self.warm_start)
        self._class_weights = ClassWeights()
        return self._fit_classes(X, y, sample_weight, eval_set, incremental=False)

    @available_if(_is_stochastic)
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None, *, eval_set: Any = None
    ) -> MLPClassifier:
        """One epoch over data, from the weights and the optimizer's state as they are.

        With ``early_stopping`` and ``eval_set``, an epoch that is no better counts; after more than ``n_iter_no_change`` of
        them the best weights are put back, ``stopped_`` is True, and further calls change nothing.

        Args:
            X, y, sample_weight, eval_set: as for ``fit``.
            classes: all classes that will ever come, in the first call; not needed for targets of 0 and 1 a class.

        Returns:
            The estimator.

        Raises:
            InputError, ValueError: parameters, data or classes that cannot be used.
        """
        check_parameters(self, self._LOSSES)
        X, y = self._check_rows(X, y, reset=not hasattr(self, "coefs_"))
        if not hasattr(self, "_classes"):
            self._classes = classes_of_first_part(y, classes)
        elif classes is not None and not np.array_equal(self._classes.labels, unique_labels(classes)):
            raise InputError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {self._classes.labels!r}"
            )
        self._classes.check_known(y, all_of_them=False)
        self._class_weights = getattr(self, "_class_weights", None) or ClassWeights()
        if getattr(self, "stopped_", False):
            return self
        return self._fit_classes(X, y, sample_weight, eval_set, incremental=True)

    def _fit_classes(self, X: Any, y: Any, sample_weight: Any, eval_set: Any, incremental: bool) -> MLPClassifier:
        self.classes_ = self._classes.labels
        self.n_outputs_ = self._classes.n_outputs
        return self._fit(X, y, sample_weight, eval_set, incremental)

    def predict(self, X: Any) -> NDArray[Any]:
        """The class of each row ``(n_rows,)``; for several labels a row, 0 and 1 ``(n_rows, n_classes)``."""
        outputs = self._outputs(X)
        return self._classes.decode(outputs)

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """The probability of each class ``(n_rows, n_classes)``, in the order of ``classes_``."""
        outputs = self._outputs(X)
        return np.hstack([1.0 - outputs, outputs]) if self.n_outputs_ == 1 else outputs

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """The logarithm of ``predict_proba``."""
        probabilities = self.predict_proba(X)
        return np.log(probabilities, out=probabilities)

    def _row_weights(self, y: Any, sample_weight: Any, n_rows: int) -> NDArray[np.float64] | None:
        weights = super()._row_weights(y, sample_weight, n_rows)
        by_class = self._class_weights.of_rows(self.class_weight, y, self._classes, weights)
        if weights is None or by_class is None:
            return weights if by_class is None else by_class
        return weights * by_class

    def _targets(self, y: Any, dtype: Any) -> NDArray[Any]:
        return self._classes.encode(y, dtype)

    def _check_targets(self, y: Any) -> None:
        self._classes.check_known(y, all_of_them=False)

    def _output_name(self) -> str:
        return "softmax" if self._classes.kind == "multiclass" else "logistic"

    def _cost(self) -> Cost:
        return classifier_cost(self.loss, self.label_smoothing, OUTPUT_ACTIVATIONS[self.out_activation_])

    def _score_outputs(self, outputs: NDArray[Any], targets: NDArray[Any], weights: Any) -> float:
        return self._classes.accuracy(outputs, targets, weights)

    def _stratifies(self) -> bool:
        return self._classes.kind == "binary"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(MultiOutputMixin, RegressorMixin, MultilayerPerceptron):
    """A multilayer perceptron that predicts values: scikit-learn's class, faster, with what it refused.

    Args:
        loss: "squared_error", "poisson", "huber", "absolute_error", "log_cosh" or "quantile"; a cost such as
            ``fcnet.huber(0.5)``; or a callable (z, a, targets) -> ``(n_rows,)`` of ``jax.numpy`` operations.
        hidden_layer_sizes: units of each hidden layer; () for none.
        activation: of the hidden layers: "relu", "tanh", "logistic", "identity" or another of fcnet's by name; an
            ``fcnet.Activation``; a callable of ``jax.numpy`` operations; or a sequence with one for each layer.
        solver: "adam", "sgd", "lbfgs", "adamw", or an optimizer such as ``fcnet.AdamW(fcnet.Cosine(0.01))``.
        alpha: strength of the L2 penalty: each step's cost has 0.5 * alpha * sum(w^2) / (weight of its rows).
        batch_size: rows in a step; "auto" is min(200, n_rows).
        learning_rate: "constant"; for sgd "invscaling" and "adaptive"; "cosine", "step", "exponential", "warmup",
            "warmup-cosine"; or a schedule such as ``fcnet.Cosine(0.01)``, which has its own rate.
        learning_rate_init: the rate, or the one that a named schedule starts from.
        power_t: for "invscaling": learning_rate_init / (rows seen + 1) ** power_t.
        max_iter: epochs at most; for lbfgs iterations.
        shuffle: another order of rows for every epoch.
        random_state: seed of weights, orders, the split and masks: the weights and orders are scikit-learn's own.
        tol: an epoch that is not better by so much counts as no improvement.
        verbose: True, or 2 and more, for a line an epoch; 1 for a bar.
        warm_start: ``fit`` goes on from the weights of the last call.
        momentum, nesterovs_momentum: of sgd.
        early_stopping: stop on a score of validation data, and put the best weights back.
        validation_fraction: share of the rows that is set aside for that, where ``fit`` is given no ``eval_set``.
        beta_1, beta_2, epsilon: of adam and adamw.
        n_iter_no_change: more than so many epochs in a row without improvement end training.
        max_fun: evaluations of the cost at most, for lbfgs.
        dropout: probability that an output of a hidden layer is dropped in a training step; or one for each hidden layer, and
            one more in front for the features.
        quantiles: levels in (0, 1) for loss="quantile"; several need one target, and are predicted together.
        weight_decay: of adamw.
        scoring: what ``early_stopping`` looks at: None for R^2, "loss" for the validation cost, any name that
            scikit-learn knows, or a callable (estimator, X, y); the highest is best.
        max_time: seconds after which training ends, with what it has.
        keep_optimizer: with ``warm_start``, go on with the optimizer's moments too.
        callbacks: called with each ``fcnet.EpochRecord``; one that returns True ends training. Or ``fcnet.Observer`` objects.
        engine, device, n_threads, precision: see ``fcnet.train``; device is "cpu" unless asked.

    Attributes:
        coefs_, intercepts_: weights ``(n_in, n_out)`` and biases ``(n_out,)`` of each layer. They may be set.
        loss_, best_loss_, loss_curve_: the training cost with its penalty: the last one, the lowest, and of every epoch.
        validation_loss_curve_: the validation cost of every epoch, without penalty.
        validation_scores_, best_validation_score_: with ``early_stopping``.
        n_iter_, t_: epochs of the last call; rows seen in all.
        stopped_: whether early stopping has ended a series of ``partial_fit``.
        history_: the ``fcnet.History`` of the last call.
        n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_: as in scikit-learn.
    """

    _LOSSES = REGRESSOR_LOSSES
    _y_is_numeric = True

    @refuses_unknown_parameters
    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: float | Sequence[float] = 0.0,
        quantiles: Sequence[float] = (0.5,),
        weight_decay: float = 0.01,
        scoring: Any = None,
        max_time: float | None = None,
        keep_optimizer: bool = False,
        callbacks: Sequence[Any] = (),
        engine: str = "auto",
        device: str = "cpu",
        n_threads: int | None = None,
        precision: Precision = "tf32",
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.dropout = dropout
        self.quantiles = quantiles
        self.weight_decay = weight_decay
        self.scoring = scoring
        self.max_time = max_time
        self.keep_optimizer = keep_optimizer
        self.callbacks = callbacks
        self.engine = engine
        self.device = device
        self.n_threads = n_threads
        self.precision = precision

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, eval_set: Any = None) -> MLPRegressor:
        """Train on data, from new weights, or with ``warm_start`` from those of the last call.

        Args:
            X: ``(n_rows, n_features)``: an array, a data frame, or a scipy sparse matrix.
            y: ``(n_rows,)`` or ``(n_rows, n_targets)`` values.
            sample_weight: ``(n_rows,)``, how much each row counts, 0 or above.
            eval_set: ``(X, y)`` or ``(X, y, sample_weight)``: validation data of your own.

        Returns:
            The estimator.

        Raises:
            InputError, ValueError: parameters or data that cannot be used.
        """
        check_parameters(self, self._LOSSES)
        X, y = self._check_rows(X, y, reset=self._is_first_pass(False))
        return self._fit_values(X, y, sample_weight, eval_set, incremental=False)

    @available_if(_is_stochastic)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, *, eval_set: Any = None) -> MLPRegressor:
        """One epoch over data, from the weights and the optimizer's state as they are.

        With ``early_stopping`` and ``eval_set``, an epoch that is no better counts; after more than ``n_iter_no_change`` of
        them the best weights are put back, ``stopped_`` is True, and further calls change nothing.

        Args:
            X, y, sample_weight, eval_set: as for ``fit``.

        Returns:
            The estimator.

        Raises:
            InputError, ValueError: parameters or data that cannot be used.
        """
        check_parameters(self, self._LOSSES)
        X, y = self._check_rows(X, y, reset=not hasattr(self, "coefs_"))
        if getattr(self, "stopped_", False):
            return self
        return self._fit_values(X, y, sample_weight, eval_set, incremental=True)

    def _fit_values(self, X: Any, y: Any, sample_weight: Any, eval_set: Any, incremental: bool) -> MLPRegressor:
        if self._is_first_pass(incremental):
            self._n_targets = 1 if y.ndim == 1 else y.shape[1]
        self._check_targets(y)
        levels = quantile_levels(self.loss, self.quantiles)
        self.n_outputs_ = len(levels) if levels and len(levels) > 1 else self._n_targets
        return self._fit(X, y, sample_weight, eval_set, incremental)

    def predict(self, X: Any) -> NDArray[Any]:
        """The values ``(n_rows,)`` or ``(n_rows, n_targets)``; of several quantiles, the one nearest the median."""
        return self._values(self._outputs(X))

    def predict_quantiles(self, X: Any) -> NDArray[Any]:
        """The quantiles ``(n_rows, n_levels)`` of ``quantiles``, in rising order in each row.

        Raises:
            InputError: the loss is not "quantile".
        """
        levels = quantile_levels(self.loss, self.quantiles)
        if levels is None:
            raise InputError(f"predict_quantiles needs loss='quantile', got loss={self.loss!r}.")
        outputs = self._outputs(X)
        rank = np.argsort(np.argsort(levels))
        return np.sort(outputs, axis=1)[:, rank]  # networks may let two quantiles cross; the sorted ones are no worse

    def predict_interval(self, X: Any) -> NDArray[Any]:
        """The lowest and the highest of ``quantiles``, ``(n_rows, 2)``: (0.05, 0.5, 0.95) is a 90% interval.

        Raises:
            InputError: the loss is not "quantile", or has one level only.
        """
        quantiles = self.predict_quantiles(X)
        if quantiles.shape[1] < 2:
            raise InputError("predict_interval needs two levels at least, such as quantiles=(0.05, 0.5, 0.95).")
        return np.stack([quantiles.min(axis=1), quantiles.max(axis=1)], axis=1)

    def _values(self, outputs: NDArray[Any]) -> NDArray[Any]:
        levels = quantile_levels(self.loss, self.quantiles)
        if levels and len(levels) > 1:
            return outputs[:, int(np.argmin(np.abs(np.array(levels) - 0.5)))]
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def _check_targets(self, y: Any) -> None:
        n_targets = 1 if y.ndim == 1 else y.shape[1]
        levels = quantile_levels(self.loss, self.quantiles)
        if levels and len(levels) > 1 and n_targets > 1:
            raise InputError(
                f"Several quantiles need one target, but y has {n_targets} columns. Fit an estimator for each."
            )
        known = getattr(self, "_n_targets", n_targets)
        if n_targets != known:
            raise InputError(f"y has {n_targets} targets a row, but the estimator was trained on {known}.")
        if self._cost().name == "poisson" and (y < 0).any():
            raise InputError("The loss poisson needs targets of 0 or above, but y has values below 0.")

    def _targets(self, y: Any, dtype: Any) -> NDArray[Any]:
        values = np.ascontiguousarray(y, dtype).reshape(len(y), -1)
        levels = quantile_levels(self.loss, self.quantiles)
        return np.repeat(values, len(levels), axis=1) if levels and len(levels) > 1 else values

    def _output_name(self) -> str:
        return output_name(self._cost())

    def _cost(self) -> Cost:
        return regressor_cost(self.loss, self.quantiles)

    def _score_outputs(self, outputs: NDArray[Any], targets: NDArray[Any], weights: Any) -> float:
        if not np.isfinite(outputs).all():
            return float("nan")
        predicted = self._values(outputs)
        return float(r2_score(targets[:, 0] if predicted.ndim == 1 else targets, predicted, sample_weight=weights))
