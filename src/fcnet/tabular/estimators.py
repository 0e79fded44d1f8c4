"""``TabularClassifier`` and ``TabularRegressor``: a table as people have it in, answers out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from fcnet import costs
from fcnet.errors import InputError
from fcnet.model import weights_name
from fcnet.network import Network
from fcnet.tabular import saved
from fcnet.tabular.calibration import (
    expected_calibration_error,
    fit_temperature,
    interval_correction,
    tempered,
    unsmoothed,
)
from fcnet.tabular.columns import ENOUGH_ROWS, Columns
from fcnet.tabular.estimator import TabularEstimator
from fcnet.tabular.recipe import Architecture, Arrays, class_cost, network_of
from fcnet.tabular.rounds import Split
from fcnet.tabular.saved import Files

if TYPE_CHECKING:
    import polars

_INTERVAL = "interval"
"""The name of the file of the network of an interval's two ends."""


class TabularClassifier(ClassifierMixin, TabularEstimator):
    """Classes from a table as people have it: numbers, text, categories, booleans, dates, missing values.

    Args:
        preset: "fast" (two small networks), "default" (four of three hidden layers of 256) or "best" (ten of those); every second one
            reads numbers without their linear pieces.
        max_time: seconds that training may take; the schedule is laid out over them.
        drop: names of columns not to use.
        validation_fraction: share of the rows that is set aside, to keep the best epoch and to calibrate probabilities.
        random_state: seed of weights, orders and masks. The rows set aside do not depend on it.
        engine, device, n_threads: see ``fcnet.train``.
        verbose: see ``fcnet.train``; where true, the columns are printed too, on standard error.

    Attributes:
        classes_: sorted.
        columns_: what each column was taken for; see ``summary()``.
        leaks_: the columns that may give the answer away, and why.
        label_smoothing_: the share of each class target that was spread over all classes in training, taken back from the answers.
        temperature_: what the logarithms of these are then divided by.
        validation_score_: the accuracy on the rows set aside.
        ece_, uncalibrated_ece_: the expected calibration error on them, with both and without. The temperature was chosen on
            the same rows, so new rows show a little more.
        history_: of the first network.
        members_, architecture_: the networks' arrays, and their shape.
        shares_: the part of the answer that each network has.
    """

    classes_: NDArray[Any]
    _task = "classification"

    def __init__(
        self,
        preset: str = "default",
        *,
        max_time: float | None = None,
        drop: Sequence[str] = (),
        validation_fraction: float = 0.15,
        random_state: Any = None,
        engine: str = "auto",
        device: str = "auto",
        n_threads: int | None = None,
        verbose: Any = False,
    ) -> None:
        self.preset = preset
        self.max_time = max_time
        self.drop = drop
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.engine = engine
        self.device = device
        self.n_threads = n_threads
        self.verbose = verbose

    def fit(self, X: Any, y: Any, *, weights: Any = None, eval_set: Any = None) -> TabularClassifier:
        """Train on a table.

        Args:
            X: ``(n_rows, n_columns)``: a frame of pandas, Polars or Arrow, or an array.
            y: ``(n_rows,)`` classes of any type; none missing.
            weights: ``(n_rows,)``: how much each row counts, in training and on the rows set aside; all alike where not given.
            eval_set: ``(X, y)``: validation data of your own, in place of a share of the rows.

        Returns:
            The estimator.

        Raises:
            InputError, ValueError: parameters or data that cannot be used.
        """
        self._recipe = self._check_settings()
        return self._fit(X, y, weights, eval_set)

    def _read_target(self, y: Any, known: bool = False) -> NDArray[np.int64]:
        labels = _labels_of(y)
        n_classes = len(np.unique(labels)) if labels.dtype.kind in "iuU" else 0
        if len(labels) >= ENOUGH_ROWS and n_classes > len(labels) / 2:
            raise InputError(
                f"y has {n_classes:,} classes in {len(labels):,} rows, too few rows of each to learn from. Expected classes that "
                "rows share; for numbers use TabularRegressor."
            )
        check_classification_targets(labels)
        if known:
            places = np.searchsorted(self.classes_, labels)
            unknown = self.classes_[np.minimum(places, len(self.classes_) - 1)] != labels
            if unknown.any():
                row = int(np.argmax(unknown))
                raise InputError(
                    f"y has the class {str(labels[row])!r} in row {row + 1}, which the training rows have not."
                )
            return places.astype(np.int64)
        self.classes_, places = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"y has one class, {str(self.classes_[0])!r}, in every row. Expected two at least.")
        return places.astype(np.int64)

    def _architecture(self) -> Architecture:
        recipe = self._recipe
        return Architecture(
            self.columns_.width, recipe.hidden, len(self.classes_), recipe.activation, recipe.dropout, classes=True
        )

    def _train(self, split: Split, deadline: float) -> None:
        recipe = self._recipe
        parts = split.parts(lambda target: target)
        networks, interrupt = self._train_networks(self.architecture_, recipe, class_cost(recipe), parts, deadline)
        raw, held_target, weights = self._keep(networks, split)
        self.label_smoothing_ = recipe.label_smoothing
        unsmooth = unsmoothed(raw, recipe.label_smoothing)
        self.temperature_ = fit_temperature(unsmooth, held_target, weights)
        self.validation_score_ = self._score(raw, held_target, weights)
        self.uncalibrated_ece_ = expected_calibration_error(raw, held_target, weights)
        self.ece_ = expected_calibration_error(tempered(unsmooth, self.temperature_), held_target, weights)
        if interrupt is not None:
            raise interrupt

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each row ``(n_rows,)``.

        Raises:
            InputError: as ``predict_proba``.
        """
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The calibrated probability of each class ``(n_rows, n_classes)``, in the order of ``classes_``.

        Raises:
            InputError: a column is missing or of another type, with its name and row.
        """
        check_is_fitted(self)
        return self.proba_of(self._read(X, reset=False))

    def proba_of(self, frame: polars.DataFrame, first_row: int = 1) -> NDArray[np.float64]:
        """``predict_proba`` of a Polars frame whose first row has this number in messages."""
        return tempered(unsmoothed(self._outputs(frame, first_row), self.label_smoothing_), self.temperature_)

    def _log_likelihood(
        self, outputs: NDArray[np.float64], target: NDArray[Any], weights: NDArray[np.float64]
    ) -> float:
        right = outputs[np.arange(len(target)), target]
        return len(target) * float(np.average(np.log(np.maximum(right, 1e-9)), weights=weights))

    def _score(
        self, outputs: NDArray[np.float64], target: NDArray[Any], weights: NDArray[np.float64] | None = None
    ) -> float:
        return float(np.average(outputs.argmax(axis=1) == target, weights=weights))

    def _described(self) -> tuple[dict[str, Any], dict[str, Network]]:
        classes = self.classes_.tolist()
        if not all(isinstance(label, str | int | float | bool) for label in classes):
            raise InputError(f"Classes must be text, numbers or booleans to be saved, got {type(classes[0]).__name__}.")
        return {
            "classes": classes,
            "label_smoothing": self.label_smoothing_,
            "temperature": self.temperature_,
            "ece": self.ece_,
        }, {}

    @classmethod
    def _of_description(cls, files: Files) -> tuple[Self, int]:
        estimator = cls()
        classes = files.description["classes"]
        kinds = {type(label) for label in classes}
        if len(classes) < 2 or len(kinds) != 1 or not kinds <= {str, int, float, bool}:
            raise InputError("its classes are not two or more of one type")
        estimator.classes_ = np.array(classes)
        estimator.label_smoothing_ = files.label_smoothing()
        estimator.temperature_ = files.number("temperature", above=0.0)
        estimator.ece_ = files.number("ece")
        return estimator, len(classes)

    def result(self) -> str:
        """How the training went, in a line."""
        return (
            f"{self._network_words()}; on the rows set aside: accuracy {self.validation_score_:.2%}, calibration error "
            f"{self.ece_:.3f} ({self.uncalibrated_ece_:.3f} before calibration; temperature {self.temperature_:.2f})"
        )


class TabularRegressor(RegressorMixin, TabularEstimator):
    """Values from a table as people have it: numbers, text, categories, booleans, dates, missing values.

    Args:
        preset, max_time, drop, validation_fraction, random_state, engine, device, n_threads, verbose: as ``TabularClassifier``.
        interval: the part of new values that ``predict_interval`` is to cover, such as 0.9; it takes a second training, of two
            quantiles. None for no intervals.

    Attributes:
        columns_, leaks_, history_, members_, architecture_, shares_: as ``TabularClassifier``.
        validation_score_: R^2 on the rows set aside.
        target_mean_, target_scale_: the networks predict (y - mean) / scale.
        target_range_: the training values' least and largest, which no prediction leaves.
        coverage_: the part of the values set aside that their intervals cover, after the correction by the same rows.
    """

    _task = "regression"

    def __init__(
        self,
        preset: str = "default",
        *,
        interval: float | None = None,
        max_time: float | None = None,
        drop: Sequence[str] = (),
        validation_fraction: float = 0.15,
        random_state: Any = None,
        engine: str = "auto",
        device: str = "auto",
        n_threads: int | None = None,
        verbose: Any = False,
    ) -> None:
        self.preset = preset
        self.interval = interval
        self.max_time = max_time
        self.drop = drop
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.engine = engine
        self.device = device
        self.n_threads = n_threads
        self.verbose = verbose

    def fit(self, X: Any, y: Any, *, weights: Any = None, eval_set: Any = None) -> TabularRegressor:
        """Train on a table.

        Args:
            X: ``(n_rows, n_columns)``: a frame of pandas, Polars or Arrow, or an array.
            y: ``(n_rows,)`` numbers; none missing.
            weights: ``(n_rows,)``: how much each row counts, in training and on the rows set aside; all alike where not given.
            eval_set: ``(X, y)``: validation data of your own, in place of a share of the rows.

        Returns:
            The estimator.

        Raises:
            InputError, ValueError: parameters or data that cannot be used.
        """
        self._recipe = self._check_settings()
        if self.interval is not None and not (isinstance(self.interval, Real) and 0.0 < self.interval < 1.0):
            raise InputError(f"TabularRegressor: interval must lie between 0 and 1, or be None; got {self.interval!r}.")
        return self._fit(X, y, weights, eval_set)

    def _read_target(self, y: Any, known: bool = False) -> NDArray[np.float64]:
        if y is None:
            raise InputError("This estimator requires y to be passed, but the target y is None.")
        values = column_or_1d(np.asarray(y), warn=True)
        if values.dtype.kind not in "biufO":
            raise InputError(f"y holds {values.dtype}. Expected numbers; for classes use TabularClassifier.")
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError):
            raise InputError("y holds text. Expected numbers; for classes use TabularClassifier.") from None
        if not np.isfinite(values).all():
            row = int(np.argmax(~np.isfinite(values)))
            raise InputError(f"y contains NaN or infinity (inf), first in row {row + 1}. Leave such rows out.")
        return values

    def _architecture(self) -> Architecture:
        recipe = self._recipe
        return Architecture(self.columns_.width, recipe.hidden, 1, recipe.activation, recipe.dropout, classes=False)

    def _train(self, split: Split, deadline: float) -> None:
        recipe, target, weights = self._recipe, split.rows.target, split.rows.weights
        self.target_mean_ = float(np.average(target, weights=weights))
        self.target_scale_ = math.sqrt(np.average((target - self.target_mean_) ** 2, weights=weights)) or 1.0
        self.target_range_ = float(target.min()), float(target.max())
        began, whole = time.perf_counter(), deadline
        if self.interval is not None and math.isfinite(deadline):
            whole = began + (deadline - began) * recipe.members / (recipe.members + 1)
        networks, interrupt = self._train_networks(
            self.architecture_, recipe, costs.quadratic, split.parts(self._scaled), whole
        )
        judged = self._keep(networks, split)
        self.limits_: Arrays | None = None
        self.__dict__.pop("_made_limits", None)
        if self.interval is not None and interrupt is None:
            interrupt = self._train_limits(split, deadline)
        self.validation_score_ = self._score(*judged)
        if interrupt is not None:
            raise interrupt

    def _scaled(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        return ((values - self.target_mean_) / self.target_scale_).astype(np.float32)[:, None]

    def _train_limits(self, split: Split, deadline: float) -> BaseException | None:
        """A network of the interval's two ends, and the correction that gives it the coverage that was asked for."""
        assert self.interval is not None
        outside = (1.0 - self.interval) / 2.0
        chosen = self.members_[int(np.argmax(self.shares_))]  # a network of both ends reads what these read
        first = int(len(chosen[weights_name(0)]) < self.columns_.width)
        networks, interrupt = self._train_networks(
            replace(self.architecture_, n_out=2),
            replace(self._recipe, members=1),
            costs.quantile((outside, 1.0 - outside)),
            split.parts(lambda target: np.repeat(self._scaled(target), 2, axis=1), first),
            deadline,
        )
        self.limits_ = dict(networks[0].arrays)
        self.correction_ = 0.0
        judged, _ = split.judged(1)[0]
        low, high = self._limits([judged.features]).T
        self.correction_ = interval_correction(low, high, judged.target, self.interval)
        low, high = self._limits([judged.features]).T
        self.coverage_ = float(((low <= judged.target) & (judged.target <= high)).mean())
        return interrupt

    def predict(self, X: Any) -> NDArray[np.float64]:
        """The value of each row ``(n_rows,)``.

        Raises:
            InputError: a column is missing or of another type, with its name and row.
        """
        check_is_fitted(self)
        return self.values_of(self._read(X, reset=False))

    def predict_interval(self, X: Any) -> NDArray[np.float64]:
        """Where ``interval`` of the values lie: the lower and the upper end ``(n_rows, 2)``.

        Raises:
            InputError: the estimator was made without ``interval``; or as ``predict``.
        """
        check_is_fitted(self)
        if self.limits_ is None:
            raise InputError(
                "There are no intervals. Make the estimator with interval=0.9, or another part, and fit it."
            )
        return self.limits_of(self._read(X, reset=False))

    def values_of(self, frame: polars.DataFrame, first_row: int = 1) -> NDArray[np.float64]:
        """``predict`` of a Polars frame whose first row has this number in messages."""
        return self._values(self._outputs(frame, first_row))

    def _values(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(outputs[:, 0] * self.target_scale_ + self.target_mean_, *self.target_range_)

    def limits_of(self, frame: polars.DataFrame, first_row: int = 1) -> NDArray[np.float64]:
        """``predict_interval`` of a Polars frame whose first row has this number in messages."""
        return self._limits(self._features(frame, first_row))

    def _limits(self, features: Iterable[Any]) -> NDArray[np.float64]:
        if "_made_limits" not in vars(self):
            assert self.limits_ is not None
            self._made_limits = network_of(replace(self.architecture_, n_out=2), self.limits_)
        pieces = [self._ask(self._made_limits, rows) for rows in features]
        ends = np.sort(np.concatenate(pieces), axis=1) * self.target_scale_ + self.target_mean_
        ends = ends + np.array([-self.correction_, self.correction_])
        return np.sort(ends, axis=1)

    def _log_likelihood(
        self, outputs: NDArray[np.float64], target: NDArray[Any], weights: NDArray[np.float64]
    ) -> float:
        missed = np.average(np.square(self._values(outputs) - target), weights=weights) / self.target_scale_**2
        return -0.5 * len(target) * math.log(max(missed, 1e-12))

    def _score(
        self, outputs: NDArray[np.float64], target: NDArray[Any], weights: NDArray[np.float64] | None = None
    ) -> float:
        spread = np.average(np.square(target - np.average(target, weights=weights)), weights=weights)
        missed = np.average(np.square(self._values(outputs) - target), weights=weights)
        return float(1.0 - missed / spread) if spread > 0 else 0.0

    def _described(self) -> tuple[dict[str, Any], dict[str, Network]]:
        description: dict[str, Any] = {
            "target_mean": self.target_mean_,
            "target_scale": self.target_scale_,
            "target_range": list(self.target_range_),
            "interval": self.interval if self.limits_ is not None else None,
        }
        if self.limits_ is None:
            return description, {}
        description |= {"correction": self.correction_, "coverage": self.coverage_}
        return description, {_INTERVAL: network_of(replace(self.architecture_, n_out=2), self.limits_)}

    @classmethod
    def _of_description(cls, files: Files) -> tuple[Self, int]:
        interval = files.description["interval"]
        estimator = cls(interval=None if interval is None else files.number("interval", above=0.0))
        estimator.target_mean_ = files.number("target_mean")
        estimator.target_scale_ = files.number("target_scale", above=0.0)
        low, high = files.description["target_range"]
        estimator.target_range_ = float(low), float(high)
        estimator.limits_ = None
        if interval is not None:
            columns = Columns.from_json(files.description["columns"])
            widths = columns.width, len(columns.plain)
            estimator.limits_ = dict(files.network(_INTERVAL, widths, 2, cls._task).arrays)
            estimator.correction_, estimator.coverage_ = files.number("correction"), files.number("coverage")
        return estimator, 1

    def result(self) -> str:
        """How the training went, in a line."""
        intervals = f", intervals of {self.interval:.0%} cover {self.coverage_:.1%}" if self.limits_ is not None else ""
        return f"{self._network_words()}; on the rows set aside: R^2 {self.validation_score_:.4f}{intervals}"


def load_estimator(folder: Path) -> tuple[TabularClassifier | TabularRegressor, dict[str, Any]]:
    """A fitted estimator of either class, ready to predict, and everything that ``table.json`` says.

    Raises:
        FileError: a file is missing, damaged, from a newer fcnet, or does not fit the others.
    """
    files = saved.read(folder)
    kind: type[TabularClassifier | TabularRegressor] = (
        TabularClassifier if files.description.get("task") == "classification" else TabularRegressor
    )
    return kind.of_files(files), files.description


def _labels_of(y: Any) -> NDArray[Any]:
    """Classes as an array that can be sorted; a missing one is refused by its row."""
    if y is None:
        raise InputError("This estimator requires y to be passed, but the target y is None.")
    labels = column_or_1d(np.asarray(y), warn=True)
    missing = np.zeros(len(labels), bool)
    if labels.dtype.kind == "f":
        missing = ~np.isfinite(labels)
    elif labels.dtype.kind == "O":
        missing = np.array(
            [value is None or value != value or type(value).__name__ == "NAType" for value in labels], bool
        )
    if missing.any():
        row = int(np.argmax(missing))
        raise InputError(
            f"y is missing (NaN, None or inf) in row {row + 1}. Leave such rows out: an answer cannot be guessed."
        )
    if labels.dtype.kind == "O" and len({type(value) for value in labels}) == 1 and isinstance(labels[0], str):
        return labels.astype(str)
    return labels
