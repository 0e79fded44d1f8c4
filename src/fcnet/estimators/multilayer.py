"""``MLPClassifier`` and ``MLPRegressor``: scikit-learn's two classes on fcnet's engines, with what it refused.

A fitted estimator is arrays and settings: ``coefs_`` and ``intercepts_`` may be read, changed and set, and are what the next
prediction and the next ``partial_fit`` use. Nothing of an engine outlives a call, so pickles, copies and processes are plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_random_state, column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import check_is_fitted, validate_data

from fcnet.activations import softmax
from fcnet.costs import Cost
from fcnet.data.arrays import Part
from fcnet.engines.choose import choose
from fcnet.engines.contract import Dtype, Program, initial_state
from fcnet.errors import InputError
from fcnet.estimators import sklearn_exchange
from fcnet.estimators.losses import (
    CLASSIFIER_LOSSES,
    OUTPUT_ACTIVATIONS,
    REGRESSOR_LOSSES,
    classifier_cost,
    output_name,
    quantile_levels,
    regressor_cost,
)
from fcnet.estimators.settings import (
    CurrentRate,
    check_parameters,
    hidden_activations,
    hidden_sizes,
    layer_dropout,
    optimizer_of,
    refuses_unknown_parameters,
    unknown_parameter,
)
from fcnet.estimators.targets import Classes, ClassWeights, classes_of_first_part
from fcnet.estimators.training import (
    NON_FINITE,
    Job,
    OptimizerState,
    Validation,
    as_lists,
    as_named,
    train_lbfgs,
    train_stochastic,
)
from fcnet.history import Observer
from fcnet.layers import FullyConnectedLayer, Layer, SoftmaxLayer
from fcnet.model import Model
from fcnet.optimizers import SGD_RULE
from fcnet.progress import progress_observer
from fcnet.training import as_observer


def _is_stochastic(estimator: Any) -> bool:
    if isinstance(estimator.solver, str) and estimator.solver == "lbfgs":
        raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
    return True


class MultilayerPerceptron(BaseEstimator):
    """What the classifier and the regressor share."""

    _LOSSES: tuple[str, ...]
    coefs_: list[NDArray[Any]]
    intercepts_: list[NDArray[Any]]

    # --- What the two differ in ---------------------------------------------------------------------------------------

    def _targets(self, y: Any, dtype: Any) -> NDArray[Any]:
        """Targets as a network reads them: labels ``(n_rows,)`` or values ``(n_rows, n_outputs)``."""
        raise NotImplementedError

    def _cost(self) -> Cost:
        raise NotImplementedError

    def _score_outputs(self, outputs: NDArray[Any], targets: NDArray[Any], weights: Any) -> float:
        """The estimator's own score of outputs."""
        raise NotImplementedError

    # --- Parameters ---------------------------------------------------------------------------------------------------

    def set_params(self, **parameters: Any) -> Any:
        """Set parameters by name; an unknown one is refused with the closest.

        Returns:
            The estimator.

        Raises:
            InputError: an unknown parameter.
        """
        names = self._get_param_names()
        for name in parameters:
            if name.partition("__")[0] not in names:
                raise InputError(unknown_parameter(type(self).__name__, name, names))
        return super().set_params(**parameters)

    @classmethod
    def from_sklearn(cls, model: Any) -> Any:
        """An estimator with the parameters, weights and figures of a scikit-learn one; it goes on from there.

        Raises:
            InputError: ``model`` is not scikit-learn's class of the same name.
        """
        return sklearn_exchange.from_sklearn(cls, model)

    def to_sklearn(self) -> Any:
        """scikit-learn's estimator with these weights; what scikit-learn does not know of, such as dropout, is left out.

        Raises:
            InputError: an activation or an output that scikit-learn cannot compute.
        """
        return sklearn_exchange.to_sklearn(self)

    # --- Training -----------------------------------------------------------------------------------------------------

    def _fit(self, X: Any, y: Any, sample_weight: Any, eval_set: Any, incremental: bool) -> Any:
        """One training; ``y`` is checked and known to the estimator, X and y are arrays."""
        first = self._is_first_pass(incremental)
        n_outputs = self.n_outputs_
        random_state = check_random_state(self.random_state)
        if first:
            self._start_over(X.shape[1], n_outputs, X.dtype, random_state)
        elif not hasattr(self, "_optimizer"):
            self._optimizer = OptimizerState(float(self.learning_rate_init))
        self._best_parameters = getattr(self, "_best_parameters", None)
        if not incremental:
            self.stopped_ = False
            if not self.keep_optimizer:
                self._optimizer = OptimizerState(float(self.learning_rate_init))
        dtype: Dtype = "float32" if X.dtype == np.float32 else "float64"
        model = self._model()
        if [layer.n_out for layer in model.layers] != [*hidden_sizes(self.hidden_layer_sizes), n_outputs]:
            raise InputError(
                f"coefs_ have the layers {[layer.n_out for layer in model.layers]}, but hidden_layer_sizes and y ask for "
                f"{[*hidden_sizes(self.hidden_layer_sizes), n_outputs]}. Set warm_start=False to start anew."
            )
        parameters = as_named(self.coefs_, self.intercepts_, dtype)
        model.check_parameters(parameters)
        seed = int(random_state.randint(2**31)) if any(layer.p_dropout for layer in model.layers) else 0

        weights = self._row_weights(y, sample_weight, X.shape[0])
        targets = self._targets(y, X.dtype)
        rows, validation = self._set_aside(X, y, targets, weights, eval_set, incremental, random_state)
        rate = CurrentRate(self._optimizer.learning_rate)
        stochastic = _has_epochs(self)
        optimizer = optimizer_of(self, rate) if stochastic else None
        program = Program(model, self._cost(), optimizer.rule if optimizer else SGD_RULE, dtype)
        if not stochastic and (seed or eval_set is not None):
            asked = "eval_set" if eval_set is not None else "dropout"
            raise InputError(f"solver='lbfgs' cannot be used with {asked}, which needs epochs. Use 'adam' or 'sgd'.")
        job = Job(
            estimator=self,
            program=program,
            choice=choose(self.engine, self.device, program, self.n_threads),
            part=Part(X, targets, weights),
            rows=rows,
            validation=validation,
            optimizer=optimizer,  # type: ignore[arg-type]  # None for lbfgs, which reads none
            rate=rate,
            parameters=parameters,
            random_state=random_state,
            seed=seed,
            incremental=incremental,
            loss_scale=1.0 / n_outputs if self.loss == "squared_error" else 1.0,
            observers=self._observers(),
        )
        trained = train_stochastic(job) if stochastic else train_lbfgs(job)
        self.coefs_, self.intercepts_ = as_lists(trained)
        if not all(np.isfinite(array).all() for array in trained.values()):
            raise InputError(NON_FINITE)
        return self

    def _is_first_pass(self, incremental: bool) -> bool:
        return not hasattr(self, "coefs_") or (not self.warm_start and not incremental)

    def _start_over(self, n_in: int, n_outputs: int, dtype: Any, random_state: np.random.RandomState) -> None:
        """New weights and empty figures. The weights are scikit-learn's own, drawn in its order from the same generator."""
        sizes = [n_in, *hidden_sizes(self.hidden_layer_sizes), n_outputs]
        self.n_iter_, self.t_ = 0, 0
        self.n_layers_ = len(sizes)
        self.out_activation_ = self._output_name()
        activations = hidden_activations(self.activation, len(sizes) - 2)
        names = [activation.name for activation in activations] or ["linear"]
        self.coefs_, self.intercepts_ = [], []
        for index, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            factor = 2.0 if names[min(index, len(names) - 1)] == "sigmoid" else 6.0
            bound = np.sqrt(factor / (fan_in + fan_out))
            self.coefs_.append(random_state.uniform(-bound, bound, (fan_in, fan_out)).astype(dtype, copy=False))
            self.intercepts_.append(random_state.uniform(-bound, bound, fan_out).astype(dtype, copy=False))
        self._optimizer = OptimizerState(float(self.learning_rate_init))
        self._best_parameters = None
        self.stopped_ = False
        if _has_epochs(self):
            self.loss_curve_: list[float] = []
            self.validation_loss_curve_: list[float] = []
            self._no_improvement_count = 0
            self.best_loss_ = None if self.early_stopping else np.inf
            self.validation_scores_: list[float] | None = [] if self.early_stopping else None
            self.best_validation_score_ = -np.inf if self.early_stopping else None

    def _output_name(self) -> str:
        raise NotImplementedError

    def _model(self) -> Model:
        """The layers that ``coefs_`` are the weights of."""
        shapes = [np.shape(weights) for weights in self.coefs_]
        hidden = shapes[:-1]
        activations = hidden_activations(self.activation, len(hidden))
        dropout = layer_dropout(self.dropout, len(hidden))
        layers: list[Layer] = [
            FullyConnectedLayer(n_in, n_out, activation, p_dropout=p)
            for (n_in, n_out), activation, p in zip(hidden, activations, dropout, strict=False)
        ]
        n_in, n_out = shapes[-1]
        output = OUTPUT_ACTIVATIONS[self.out_activation_]
        if output == softmax:
            layers.append(SoftmaxLayer(n_in, n_out, p_dropout=dropout[-1]))
        else:
            layers.append(FullyConnectedLayer(n_in, n_out, output, p_dropout=dropout[-1]))
        return Model(tuple(layers), "training")

    def _row_weights(self, y: Any, sample_weight: Any, n_rows: int) -> NDArray[np.float64] | None:
        if sample_weight is None:
            return None
        if isinstance(sample_weight, Real):
            return np.full(n_rows, float(sample_weight))
        weights = check_array(
            sample_weight, ensure_2d=False, dtype=np.float64, ensure_min_samples=0, input_name="sample_weight"
        )
        if weights.shape != (n_rows,):
            raise InputError(f"sample_weight.shape == {weights.shape}, expected ({n_rows},): one number a row.")
        if (weights < 0).any() or not weights.any():
            raise InputError("sample_weight must be 0 or above, and not all zero.")
        return weights

    def _set_aside(
        self,
        X: Any,
        y: Any,
        targets: NDArray[Any],
        weights: NDArray[np.float64] | None,
        eval_set: Any,
        incremental: bool,
        random_state: np.random.RandomState,
    ) -> tuple[NDArray[np.int64] | None, Validation | None]:
        """The rows to train on, None for all of them, and the validation data: the caller's own, or a part of X."""
        if eval_set is not None:
            return None, self._own_validation(eval_set, X.dtype)
        if not self.early_stopping or not _has_epochs(self):
            return None, None
        if incremental:
            raise InputError("partial_fit does not support early_stopping=True without eval_set=(X, y).")
        stratify = targets.astype(bool) if self._stratifies() else None
        rows, held = train_test_split(
            np.arange(X.shape[0]), random_state=random_state, test_size=self.validation_fraction, stratify=stratify
        )
        if len(held) < 2:
            raise InputError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        held_weights = None if weights is None else weights[held]
        part = Part(X[held], targets[held], held_weights)
        return rows, Validation(part, part.X, y[held], held_weights)

    def _stratifies(self) -> bool:
        return False

    def _own_validation(self, eval_set: Any, dtype: Any) -> Validation:
        if not isinstance(eval_set, tuple | list) or len(eval_set) not in (2, 3):
            raise InputError(
                f"eval_set must be (X, y) or (X, y, sample_weight), got {type(eval_set).__name__} {_length(eval_set)}."
            )
        X, y = self._check_rows(eval_set[0], eval_set[1], reset=False, dtype=dtype)
        self._check_targets(y)
        weights = self._row_weights(y, eval_set[2] if len(eval_set) == 3 else None, X.shape[0])
        return Validation(Part(X, self._targets(y, dtype), weights), eval_set[0], y, weights)

    def _check_rows(self, X: Any, y: Any, reset: bool, dtype: Any = (np.float64, np.float32)) -> tuple[Any, Any]:
        """X and y as arrays of one dtype, in scikit-learn's way."""
        X, y = validate_data(
            self, X, y, accept_sparse="csr", multi_output=True, dtype=dtype, reset=reset, y_numeric=self._y_is_numeric
        )
        if y.ndim == 2 and y.shape[1] == 1 and not sparse.issparse(y):
            y = column_or_1d(y, warn=True)
        return X, y

    _y_is_numeric = False

    def _check_targets(self, y: Any) -> None:
        """Refuse validation targets of another kind than the training's."""
        raise NotImplementedError

    def _observers(self) -> list[Observer]:
        observers = [as_observer(callback) for callback in self.callbacks]
        bar = progress_observer("bar") if _shows_bar(self.verbose) else None
        return [*observers, bar] if bar else observers

    # --- Inference ----------------------------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> NDArray[Any]:
        """The last layer's outputs ``(n_rows, n_outputs)``, in memory that does not grow with the rows but for them."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", reset=False)
        widest = np.result_type(X.dtype, *(np.asarray(weights).dtype for weights in self.coefs_))
        dtype: Dtype = "float32" if widest == np.float32 else "float64"
        program = Program(self._model(), self._cost(), SGD_RULE, dtype)
        parameters = as_named(self.coefs_, self.intercepts_, dtype)
        program.model.check_parameters(parameters)
        choice = choose(self.engine, self.device, program, self.n_threads)
        run = choice.engine.start(program, initial_state(program, parameters), choice.placement)
        return choice.engine.forward(run, X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _has_epochs(estimator: Any) -> bool:
    return not (isinstance(estimator.solver, str) and estimator.solver == "lbfgs")


def _shows_bar(verbose: Any) -> bool:
    return isinstance(verbose, Integral) and not isinstance(verbose, bool | np.bool_) and verbose == 1


def _length(value: Any) -> str:
    return f"of {len(value)}" if hasattr(value, "__len__") else ""


class MLPClassifier(ClassifierMixin, MultilayerPerceptron):
    """A multilayer perceptron that classifies: scikit-learn's class, faster, with what it refused."""

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
    """A multilayer perceptron that predicts values: scikit-learn's class, faster, with what it refused."""

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
