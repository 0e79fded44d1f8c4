"""What the two estimators of tables share: a table in, features, networks, answers by batches, importances."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from fcnet.data.arrays import Part, is_sparse
from fcnet.data.split import folds, hold_out
from fcnet.errors import InputError, TrainingWarning, check_count, did_you_mean
from fcnet.history import History
from fcnet.model import weights_name
from fcnet.network import Network
from fcnet.progress import progress_observer
from fcnet.tabular import saved
from fcnet.tabular.columns import Columns, describe, id_like
from fcnet.tabular.frames import as_frame, is_frame
from fcnet.tabular.leaks import leaking
from fcnet.tabular.recipe import (
    PRESETS,
    Architecture,
    Arrays,
    Machine,
    Recipe,
    architecture_of,
    network_of,
    train_members,
)
from fcnet.tabular.room import feature_bytes, room_of
from fcnet.tabular.rounds import Judged, Rows, Split, best_share
from fcnet.tabular.saved import Files
from fcnet.tabular.together import at_once

if TYPE_CHECKING:
    import polars

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
    shares_: NDArray[np.float64]
    validation_score_: float
    n_features_in_: int
    _task: str
    architecture_: Architecture
    columns_: Columns
    history_: History
    _random: np.random.RandomState
    _recipe: Recipe
    _at_once: int

    # --- Training -----------------------------------------------------------------------------------------------------

    def _fit(self, X: Any, y: Any, weights: Any, eval_set: Any) -> Any:
        """One training, from ``fit``'s arguments."""
        deadline = math.inf if self.max_time is None else time.perf_counter() + self.max_time
        frame = self._read(X, reset=True)
        target = self._read_target(y)
        _check_lengths(frame, target, "X", "y")
        if eval_set is None and frame.height < 2:
            raise InputError(f"X has {frame.height} row (1 sample), too few to set one aside. Expected 2 at least.")
        if eval_set is not None and (not isinstance(eval_set, tuple | list) or len(eval_set) != 2):
            raise InputError(f"eval_set must be (X, y), got {type(eval_set).__name__}.")
        weights = None if weights is None else _row_weights(weights, frame.height)
        self.columns_ = describe(frame, list(self.drop), self._recipe.pieces_for(frame.height))
        if self.verbose:
            print(self.columns_.summary(), file=sys.stderr)
        self._warn(frame, target)
        self.architecture_ = self._architecture()
        self._at_once = at_once(self._recipe.members, feature_bytes(self.columns_, frame.height), self.n_threads)
        room = room_of(frame, self.columns_, self.architecture_, self._recipe, self._at_once)
        if self.verbose:
            print(f"memory: {room}", file=sys.stderr)
        room.check()
        rows = Rows(frame, self.columns_.encode(frame), target, weights)
        views = self._views()
        if eval_set is None:
            split = Split(rows, None, self._held(target, len(views)), views)
        else:
            own, answers = self._read(eval_set[0], reset=False), self._read_target(eval_set[1], known=True)
            _check_lengths(own, answers, "X of eval_set", "y of eval_set")
            split = Split(rows, Rows(own, self.columns_.encode(own), answers, None), (), views)
        self._train(split, deadline)
        return self

    def _views(self) -> tuple[NDArray[np.int64] | None, ...]:
        """The features that members read by turns: all of them, and numbers without their linear pieces."""
        plain = self.columns_.plain
        mixed = self._recipe.plain and self._recipe.members > 1 and len(plain) < self.columns_.width
        return (None, plain) if mixed else (None,)

    def _held(self, target: NDArray[Any], n_views: int) -> tuple[NDArray[np.int64], ...]:
        """The rows that rounds of members set aside, the same for every seed."""
        n, rounds = len(target), -(-self._recipe.members // n_views)
        by_class = target if target.dtype.kind == "i" else target[:, None]
        if rounds == 1:
            _, part = hold_out(Part(np.arange(n)[:, None], by_class), self.validation_fraction, 0, "X")
            return (np.sort(part.X[:, 0]),)
        n_folds = min(max(rounds, round(1.0 / self.validation_fraction)), n)
        fold = folds(by_class, n_folds)
        return tuple(np.flatnonzero(fold == number) for number in range(min(rounds, n_folds)))

    def _architecture(self) -> Architecture:
        """What the networks look like, by the columns and the target."""
        raise NotImplementedError

    def _train(self, split: Split, deadline: float) -> None:
        """Train the networks, and judge them by the rows that were set aside."""
        raise NotImplementedError

    def _read_target(self, y: Any, known: bool = False) -> NDArray[Any]:
        """y as int64 places of classes, or float64 values; with ``known`` after the estimator has seen others."""
        raise NotImplementedError

    def _train_networks(
        self,
        architecture: Architecture,
        recipe: Recipe,
        cost: Any,
        parts: Callable[[int], tuple[Part, Part]],
        deadline: float,
    ) -> tuple[list[Network], BaseException | None]:
        machine = Machine(self.engine, self.device, self.n_threads, self.verbose, self._at_once)
        random = self._random
        with warnings.catch_warnings():  # a first epoch that guesses badly is no news of a table
            warnings.simplefilter("ignore", TrainingWarning)
            networks, interrupt = train_members(
                recipe, architecture, cost, parts, lambda: int(random.randint(2**31 - 1)), machine, deadline
            )
        if not networks:
            raise interrupt or AssertionError
        return networks, interrupt

    def _keep(self, networks: list[Network], split: Split) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[Any]]:
        """Keep the networks with a share in the answers, and judge those by the rows that were set aside.

        Where members have two views of the features, the second one's share is what the rows set aside make probable. Some of these
        rows are kept, to measure importances on.

        Returns:
            Outputs ``(n_rows, n_out)`` for all rows that were set aside, of the members that have not seen them; targets; weights.
        """
        assert networks[0].history is not None
        self.history_ = networks[0].history
        judged = [
            Judged(rows, members, self._by_view(networks, rows, members, split))
            for rows, members in split.judged(len(networks))
        ]
        target = np.concatenate([some.rows.target for some in judged])
        weights = np.concatenate([some.rows.counts for some in judged])

        def mixed(share: float) -> NDArray[np.float64]:
            return np.concatenate([some.mixed(share) for some in judged])

        share = 0.0
        if any(len(some.outputs) > 1 for some in judged):
            share = best_share(lambda share: self._log_likelihood(mixed(share), target, weights))
        views = [split.view_of(member) for member in range(len(networks))]
        own = np.array([1.0 - share, share])[views] / np.bincount(views)[views]
        kept = np.flatnonzero(own > 0.0).tolist()
        self.members_ = [dict(networks[member].arrays) for member in kept]
        self.shares_ = own[kept] / own.sum()
        for passing in ("_made", "_importances"):
            self.__dict__.pop(passing, None)
        self._networks()  # now, since a prediction is to change no attribute
        some_rows = max(1, JUDGED_ROWS // len(judged))
        self._judged = []
        for some in judged:
            if members := [kept.index(member) for member in some.members if member in kept]:
                self._judged.append((some.rows.frame.head(some_rows), some.rows.target[:some_rows], members))
        return mixed(share), target, weights

    def _by_view(
        self, networks: list[Network], rows: Rows, members: list[int], split: Split
    ) -> list[NDArray[np.float64]]:
        """The mean outputs ``(n_rows, n_out)`` of the members of each view that there are."""
        views: dict[int, list[NDArray[np.float64]]] = {}
        for member in members:
            starts = range(0, len(rows.target), BATCH)
            outputs = [self._ask(networks[member], rows.features[start : start + BATCH]) for start in starts]
            views.setdefault(split.view_of(member), []).append(np.concatenate(outputs))
        return [np.mean(views[view], axis=0) for view in sorted(views)]

    def _log_likelihood(
        self, outputs: NDArray[np.float64], target: NDArray[Any], weights: NDArray[np.float64]
    ) -> float:
        """Of rows with these outputs; for values with errors of one normal distribution."""
        raise NotImplementedError

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
        if self.n_threads is not None:
            check_count("n_threads", self.n_threads)
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

    def _outputs(
        self, frame: polars.DataFrame, first_row: int = 1, members: Sequence[int] | None = None
    ) -> NDArray[np.float64]:
        """The mean of some networks' outputs ``(n_rows, n_out)``, in memory for some rows at a time."""
        return np.concatenate([self._mean(rows, members) for rows in self._features(frame, first_row)])

    def _mean(self, rows: Any, members: Sequence[int] | None = None) -> NDArray[np.float64]:
        networks = self._networks()
        chosen = list(range(len(networks)) if members is None else members)
        outputs = [self._ask(networks[member], rows) for member in chosen]
        return np.average(outputs, axis=0, weights=self.shares_[chosen])

    def _features(self, frame: polars.DataFrame, first_row: int) -> Iterator[Any]:
        for start in range(0, frame.height, BATCH):
            yield self.columns_.encode(frame[start : start + BATCH], first_row + start)

    def _ask(self, network: Network, rows: Any) -> NDArray[np.float64]:
        if network.model.n_in < self.columns_.width:
            rows = rows[:, self.columns_.plain]
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

    # --- Files --------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, target: str = "target") -> None:
        """Write the fitted estimator into a folder, which is made: networks in safetensors, all else in JSON, no pickle.

        Args:
            folder: new, or empty, or one that holds a saved estimator, which is replaced.
            target: the name of what it predicts; ``fcnet evaluate`` looks for it in a table.

        Raises:
            FileError: the folder cannot be written, or holds other files.
        """
        check_is_fitted(self)
        saved.make_folder(Path(folder))
        self.write(Path(folder), target)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The estimator that ``save``, or ``fcnet train``, left in a folder. Loading executes nothing.

        Raises:
            FileError: a file is missing, damaged, from a newer fcnet, or holds an estimator of another class.
        """
        return cls.of_files(saved.read(Path(folder)))

    def write(self, folder: Path, target: str, **facts: Any) -> None:
        """``save`` into a folder that is there, with more plain JSON values in ``table.json``."""
        networks = {saved.member(place): network for place, network in enumerate(self._networks())}
        description = {
            "target": target,
            "task": self._task,
            "members": len(self.members_),
            "shares": self.shares_.tolist(),
            "columns": self.columns_.to_json(),
            "validation_score": self.validation_score_,
            **facts,
        }
        own, more = self._described()
        saved.write(folder, description | own, networks | more)

    @classmethod
    def of_files(cls, files: Files) -> Self:
        """The estimator that files hold.

        Raises:
            FileError: they are damaged, do not fit each other, or hold an estimator of another class.
        """
        with files.checked():
            if files.description["task"] != cls._task:
                raise InputError(f"it holds {files.description['task']!r:.20}, expected {cls._task}")
            estimator, n_out = cls._of_description(files)
            estimator.columns_ = columns = Columns.from_json(files.description["columns"])
            estimator._names = tuple(column.name for column in columns.columns)
            estimator.n_features_in_ = len(columns.columns)
            widths = columns.width, len(columns.plain)
            networks = [
                files.network(name, widths, n_out, cls._task) for name in map(saved.member, range(files.members))
            ]
            estimator.shares_ = files.shares()
            estimator.members_ = [dict(network.arrays) for network in networks]
            estimator.architecture_ = replace(architecture_of(networks[0]), n_in=columns.width)
            estimator.validation_score_ = files.number("validation_score")
        return estimator

    def _described(self) -> tuple[dict[str, Any], dict[str, Network]]:
        """What ``table.json`` says of this class alone, and networks beside the members by their files' names."""
        raise NotImplementedError

    @classmethod
    def _of_description(cls, files: Files) -> tuple[Self, int]:
        """A new estimator with what ``_described`` wrote, and how many outputs its networks have."""
        raise NotImplementedError

    @property
    def feature_importances_(self) -> NDArray[np.float64]:
        """How much worse the validation score is with a column shuffled, ``(n_features_in_,)``, the mean of three shuffles.

        The score is the accuracy, or R^2; at most 5,000 rows that were set aside are asked. Computed when first read.
        """
        check_is_fitted(self)
        if not hasattr(self, "_judged"):
            raise AttributeError("A loaded estimator has no importances: they need rows that were set aside.")
        if not hasattr(self, "_importances"):
            importances = np.zeros(len(self.columns_.columns))
            n_rows = sum(len(target) for _, target, _ in self._judged)
            draw = np.random.RandomState(0)
            for frame, target, members in self._judged:
                score = self._score(self._outputs(frame, 1, members), target)
                for place, column in enumerate(self.columns_.columns):
                    if column.width:
                        for _ in range(SHUFFLES):
                            shuffled = frame.with_columns(frame[column.name][draw.permutation(frame.height)])
                            worse = score - self._score(self._outputs(shuffled, 1, members), target)
                            importances[place] += worse * len(target) / n_rows / SHUFFLES
            self._importances = importances
        return self._importances

    def _score(
        self, outputs: NDArray[np.float64], target: NDArray[Any], weights: NDArray[np.float64] | None = None
    ) -> float:
        """The accuracy, or R^2, of outputs ``(n_rows, n_out)``."""
        raise NotImplementedError

    def summary(self) -> str:
        """What was done to each column, and how the training went."""
        check_is_fitted(self)
        return self.columns_.summary() + "\n" + self.result()

    def result(self) -> str:
        """How the training went, in a line."""
        raise NotImplementedError

    def _network_words(self) -> str:
        widths = [len(arrays[weights_name(0)]) for arrays in self.members_]
        words = []
        for n_in in sorted(set(widths), reverse=True):
            own = [share for width, share in zip(widths, self.shares_, strict=True) if width == n_in]
            layers = "-".join(map(str, (n_in, *self.architecture_.hidden, self.architecture_.n_out)))
            share = f" ({sum(own):.0%} of the answer)" if len(own) < len(widths) else ""
            words.append(f"{f'{len(own)} networks' if len(own) > 1 else 'one network'} {layers}{share}")
        return " and ".join(words)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.target_tags.required = True
        return tags


def _check_lengths(frame: polars.DataFrame, target: NDArray[Any], X: str, y: str) -> None:
    if len(target) != frame.height:
        raise InputError(
            f"{X} has {frame.height} rows and {y} has {len(target)}: inconsistent numbers of samples. Expected as many."
        )


def _row_weights(weights: Any, n_rows: int) -> NDArray[np.float64]:
    """Weights of rows ``(n_rows,)``, finite, 0 or above, and not all 0."""
    try:
        found = column_or_1d(np.asarray(weights), warn=False).astype(np.float64)
    except (TypeError, ValueError):
        raise InputError("weights must be a number for each row.") from None
    if len(found) != n_rows:
        raise InputError(f"X has {n_rows} rows and weights has {len(found)} numbers. Expected as many.")
    if bad := np.flatnonzero(~(np.isfinite(found) & (found >= 0.0)))[:1].tolist():
        raise InputError(f"weights holds {found[bad[0]]} in row {bad[0] + 1}. Expected finite numbers, 0 or above.")
    if not found.any():
        raise InputError("weights are 0 in every row. Expected one above 0 at least.")
    return found
