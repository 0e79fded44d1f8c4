"""What the two estimators share: parameters to a training, rows to outputs.

A fitted estimator is arrays and settings: ``coefs_`` and ``intercepts_`` may be read, changed and set, and are what the next
prediction and the next ``partial_fit`` use. Nothing of an engine outlives a call, so pickles, copies and processes are plain.
"""

from __future__ import annotations

from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from fcnet.activations import softmax
from fcnet.costs import Cost
from fcnet.data.arrays import Part
from fcnet.engines.choose import choose
from fcnet.engines.contract import Dtype, Precision, Program, initial_state
from fcnet.errors import InputError
from fcnet.estimators import sklearn_exchange
from fcnet.estimators.lbfgs import train_lbfgs
from fcnet.estimators.losses import (
    OUTPUT_ACTIVATIONS,
)
from fcnet.estimators.settings import (
    CurrentRate,
    hidden_activations,
    hidden_sizes,
    layer_dropout,
    optimizer_of,
    unknown_parameter,
)
from fcnet.estimators.training import (
    NON_FINITE,
    Job,
    OptimizerState,
    Validation,
    as_lists,
    as_named,
    train_stochastic,
)
from fcnet.history import Observer
from fcnet.layers import FullyConnectedLayer, Layer, SoftmaxLayer
from fcnet.model import Model
from fcnet.optimizers import SGD_RULE
from fcnet.progress import progress_observer
from fcnet.training import as_observer


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
        seed = 1 + int(random_state.randint(2**31 - 1)) if any(layer.p_dropout for layer in model.layers) else 0

        weights = self._row_weights(y, sample_weight, X.shape[0])
        targets = self._targets(y, X.dtype)
        rows, validation = self._set_aside(X, y, targets, weights, eval_set, incremental, random_state)
        rate = CurrentRate(self._optimizer.learning_rate)
        stochastic = has_epochs(self)
        optimizer = optimizer_of(self, rate) if stochastic else None
        # The permission to round is not used by lbfgs, whose line search would stop at the noise.
        precision: Precision = "float32" if not stochastic and self.precision == "tf32" else self.precision
        rule = optimizer.rule if optimizer else SGD_RULE
        program = Program(model, self._cost(), rule, dtype, precision=precision)
        if not stochastic:
            given = {"eval_set": eval_set is not None, "dropout": seed, "callbacks": len(self.callbacks)}
            if asked := [name for name, value in given.items() if value]:
                raise InputError(
                    f"solver='lbfgs' cannot be used with {asked[0]}, which needs epochs. Use 'adam' or 'sgd'."
                )
        batch = 200 if isinstance(self.batch_size, str) else self.batch_size
        job = Job(
            estimator=self,
            program=program,
            choice=choose(
                self.engine, self.device, program, self.n_threads, mini_batch_size=batch if stochastic else None
            ),
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
        if has_epochs(self):
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
        if not self.early_stopping or not has_epochs(self):
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
        if not self._are_plain_rows(X):
            X = validate_data(self, X, accept_sparse="csr", reset=False)
        widest = np.result_type(X.dtype, *(np.asarray(weights).dtype for weights in self.coefs_))
        dtype: Dtype = "float32" if widest == np.float32 else "float64"
        program = Program(self._model(), self._cost(), SGD_RULE, dtype, precision=self.precision)
        parameters = as_named(self.coefs_, self.intercepts_, dtype)
        program.model.check_parameters(parameters)
        choice = choose(self.engine, self.device, program, self.n_threads)
        run = choice.engine.start(program, initial_state(program, parameters), choice.placement)
        return choice.engine.forward(run, X)

    def _are_plain_rows(self, X: Any) -> bool:
        """Whether X is an array that scikit-learn's checks, half of the time of a small prediction, would leave as it is."""
        plain = type(X) is np.ndarray and X.ndim == 2 and X.dtype in (np.float32, np.float64) and len(X) > 0
        if not plain or hasattr(self, "feature_names_in_") or X.shape[1] != self.n_features_in_:
            return False
        with np.errstate(all="ignore"):
            return bool(np.isfinite(np.sum(X)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def has_epochs(estimator: Any) -> bool:
    """Whether the solver goes epoch by epoch: all but lbfgs do."""
    return not (isinstance(estimator.solver, str) and estimator.solver == "lbfgs")


def _shows_bar(verbose: Any) -> bool:
    return isinstance(verbose, Integral) and not isinstance(verbose, bool | np.bool_) and verbose == 1


def _length(value: Any) -> str:
    return f"of {len(value)}" if hasattr(value, "__len__") else ""
