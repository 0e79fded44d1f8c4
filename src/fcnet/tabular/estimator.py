"""What the two estimators of tables share: a table in, features, networks, answers by batches, importances."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from fcnet.data.arrays import Part, is_sparse
from fcnet.data.split import hold_out
from fcnet.errors import InputError, TrainingWarning, did_you_mean
from fcnet.history import History
from fcnet.network import Network
from fcnet.progress import progress_observer
from fcnet.tabular.columns import Columns, describe, id_like
from fcnet.tabular.frames import as_frame, is_frame
from fcnet.tabular.leaks import leaking
from fcnet.tabular.recipe import PRESETS, Architecture, Machine, Recipe, train_members

if TYPE_CHECKING:
    import polars

Arrays = dict[str, NDArray[Any]]

BATCH = 1 << 14
"""Rows that are predicted at a time."""
JUDGED_ROWS = 5000
"""At most so many validation rows decide the importance of columns."""
SHUFFLES = 3


class TabularEstimator(BaseEstimator):
    """What the classifier and the regressor share: a table in, features, networks."""

    preset: str
    max_time: float | None
    drop: Sequence[str]
    validation_fraction: float
    random_state: Any
    engine: str
    device: str
    n_threads: int | None
    verbose: Any
    members_: list[Arrays]
    architecture_: Architecture
    columns_: Columns
    history_: History
    _random: np.random.RandomState

    # --- Training -----------------------------------------------------------------------------------------------------

    def _fit(self, X: Any, y: Any, eval_set: Any) -> Any:
        """One training, from ``fit``'s arguments."""
        deadline = math.inf if self.max_time is None else time.perf_counter() + self.max_time
        frame = self._read(X, reset=True)
        target = self._read_target(y)
        if len(target) != frame.height:
            raise InputError(f"X has {frame.height} rows and y has {len(target)}: inconsistent numbers of samples.")
        if eval_set is None:
            if frame.height < 2:
                raise InputError(f"X has {frame.height} row (1 sample), too few to set one aside. Expected 2 at least.")
            split = hold_out(Part(np.arange(frame.height)[:, None], target), self.validation_fraction, 0, "X")
            rows, held = (part.X[:, 0] for part in split)
            training, validation = frame[rows], frame[held]
            target, held_target = target[rows], target[held]
        else:
            if not isinstance(eval_set, tuple | list) or len(eval_set) != 2:
                raise InputError(f"eval_set must be (X, y), got {type(eval_set).__name__}.")
            training, validation = frame, self._read(eval_set[0], reset=False)
            held_target = self._read_target(eval_set[1], known=True)
        self.columns_ = describe(training, list(self.drop))
        if self.verbose:
            print(self.columns_.summary(), file=sys.stderr)
        self._warn(training, target)
        self._train(training, target, validation, held_target, deadline)
        return self

    def _train(
        self,
        training: polars.DataFrame,
        target: NDArray[Any],
        validation: polars.DataFrame,
        held_target: NDArray[Any],
        deadline: float,
    ) -> None:
        raise NotImplementedError

    def _read_target(self, y: Any, known: bool = False) -> NDArray[Any]:
        """y as int64 places of classes, or float64 values; with ``known`` after the estimator has seen others."""
        raise NotImplementedError

    def _train_networks(
        self, architecture: Architecture, recipe: Recipe, cost: Any, training: Part, validation: Part, deadline: float
    ) -> tuple[list[Network], BaseException | None]:
        machine = Machine(self.engine, self.device, self.n_threads, self.verbose)
        random = self._random
        with warnings.catch_warnings():  # a first epoch that guesses badly is no news of a table
            warnings.simplefilter("ignore", TrainingWarning)
            networks, interrupt = train_members(
                recipe,
                architecture,
                cost,
                training,
                validation,
                lambda: int(random.randint(2**31 - 1)),
                machine,
                deadline,
            )
        if not networks:
            raise interrupt or AssertionError
        return networks, interrupt

    def _check_settings(self) -> Recipe:
        """The preset's recipe.

        Raises:
            InputError: a parameter that is not what it may be.
        """
        name = type(self).__name__
        if self.preset not in PRESETS:
            raise InputError(
                f"{name}: unknown preset {self.preset!r}.{did_you_mean(str(self.preset), PRESETS)} Expected one of: "
                f"{', '.join(PRESETS)}."
            )
        if self.max_time is not None and not (isinstance(self.max_time, Real) and self.max_time > 0):
            raise InputError(f"{name}: max_time must be a number of seconds above 0, or None; got {self.max_time!r}.")
        if isinstance(self.drop, str) or not isinstance(self.drop, Iterable):
            raise InputError(f"{name}: drop must be a list of column names, got {self.drop!r}. Write [{self.drop!r}].")
        fraction = self.validation_fraction
        if not isinstance(fraction, Real) or isinstance(fraction, Integral) or not 0.0 < fraction < 1.0:
            raise InputError(f"{name}: validation_fraction must lie between 0 and 1, got {fraction!r}.")
        try:
            self._random = check_random_state(self.random_state)
        except (ValueError, TypeError):
            raise InputError(
                f"{name}: random_state must be an integer in [0, 2**32), a numpy.random.RandomState or None; got "
                f"{self.random_state!r}."
            ) from None
        progress_observer(self.verbose)  # refuses what it does not know
        return PRESETS[self.preset]

    def _warn(self, training: polars.DataFrame, target: NDArray[Any]) -> None:
        """Say which columns name rows, and which give the answer away."""
        if named := id_like(self.columns_):
            warnings.warn(
                f"Not used, because {'they name' if len(named) > 1 else 'it names'} or number{'s' * (len(named) == 1)} rows: "
                f"{', '.join(named)}. Leave such columns out, or turn them into something that rows share.",
                TrainingWarning,
                stacklevel=4,
            )
        self.leaks_ = leaking(self.columns_, training, target)
        for name, reason in self.leaks_.items():
            warnings.warn(
                f"The column {name!r} may give the answer away: {reason}. If it is not known when you predict, leave it out "
                f"with drop=[{name!r}].",
                TrainingWarning,
                stacklevel=4,
            )

    # --- Tables in ----------------------------------------------------------------------------------------------------

    def _read(self, X: Any, reset: bool) -> polars.DataFrame:
        """X as a frame, whose columns are looked up by name; an array's by place."""
        if not is_frame(X) and not is_sparse(X):
            X = check_array(X, dtype=None, ensure_all_finite=False)
        frame = as_frame(X)
        if frame.height == 0 or (reset and frame.width == 0):
            raise InputError(
                f"X has 0 sample(s) or 0 feature(s) (shape={frame.shape}) while a minimum of 1 is required. Expected rows and columns."
            )
        if reset:
            validate_data(self, X, skip_check_array=True, reset=True)
            self._names = tuple(frame.columns)
            return frame
        if is_frame(X):
            return frame
        validate_data(self, X, skip_check_array=True, reset=False)
        return frame.rename(dict(zip(frame.columns, self._names, strict=True)))

    # --- Answers out --------------------------------------------------------------------------------------------------

    def _outputs(self, frame: polars.DataFrame, first_row: int = 1) -> NDArray[np.float64]:
        """The mean of the networks' outputs ``(n_rows, n_out)``, in memory for some rows at a time."""
        pieces = [
            np.mean([self._ask(network, rows) for network in self._networks()], axis=0)
            for rows in self._features(frame, first_row)
        ]
        return np.concatenate(pieces)

    def _features(self, frame: polars.DataFrame, first_row: int) -> Iterator[Any]:
        for start in range(0, frame.height, BATCH):
            yield self.columns_.encode(frame[start : start + BATCH], first_row + start)

    def _ask(self, network: Network, rows: Any) -> NDArray[np.float64]:
        answer = network.predict_proba if self.architecture_.classes else network.predict
        outputs = answer(rows, engine=self.engine, device=self.device).astype(np.float64)
        return outputs.reshape(rows.shape[0], -1)

    def _networks(self) -> list[Network]:
        """The members, ready to answer; they are made of their arrays when first asked."""
        if "_made" not in vars(self):
            self._made = [network_of(self.architecture_, arrays) for arrays in self.members_]
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        for passing in ("_made", "_made_limits"):
            state.pop(passing, None)
        return state

    @property
    def feature_importances_(self) -> NDArray[np.float64]:
        """How much worse the validation score is with a column shuffled, ``(n_features_in_,)``, the mean of three shuffles.

        The score is the accuracy, or R^2; at most 5,000 rows of the validation part are asked. Computed when first read.
        """
        check_is_fitted(self)
        if not hasattr(self, "_importances"):
            frame, target = self._judged
            score = self._score_frame(frame, target)
            draw = np.random.RandomState(0)
            importances = np.zeros(len(self.columns_.columns))
            for place, column in enumerate(self.columns_.columns):
                if column.width:
                    worse = []
                    for _ in range(SHUFFLES):
                        shuffled = frame.with_columns(frame[column.name][draw.permutation(frame.height)])
                        worse.append(score - self._score_frame(shuffled, target))
                    importances[place] = np.mean(worse)
            self._importances = importances
        return self._importances

    def _score_frame(self, frame: polars.DataFrame, target: NDArray[Any]) -> float:
        raise NotImplementedError

    def _judge(self, validation: polars.DataFrame, target: NDArray[Any]) -> None:
        """Keep the rows that importances are measured on."""
        self.__dict__.pop("_importances", None)
        self._judged = validation.head(JUDGED_ROWS), target[:JUDGED_ROWS]

    def summary(self) -> str:
        """What was done to each column, and how the training went."""
        check_is_fitted(self)
        return self.columns_.summary() + "\n" + self.result()

    def result(self) -> str:
        """How the training went, in a line."""
        raise NotImplementedError

    def _network_words(self) -> str:
        layers = "-".join(map(str, (self.architecture_.n_in, *self.architecture_.hidden, self.architecture_.n_out)))
        each = f"{len(self.members_)} networks" if len(self.members_) > 1 else "one network"
        return f"{each} {layers}"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.target_tags.required = True
        return tags


def network_of(architecture: Architecture, arrays: Arrays) -> Network:
    """A trained network of its arrays."""
    network = architecture.network()
    network.model = replace(network.model, dropout_scaling="training")
    network.arrays = dict(arrays)
    network.trained = True
    return network
