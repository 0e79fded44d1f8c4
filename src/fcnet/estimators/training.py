"""How an estimator trains: scikit-learn's rules of stopping, on fcnet's epoch loop."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring

from fcnet.data.arrays import Part
from fcnet.engines.choose import Choice
from fcnet.engines.contract import Program, TrainState, initial_state
from fcnet.errors import InputError
from fcnet.estimators.settings import CurrentRate
from fcnet.history import EpochRecord, History, Observer, RunInfo
from fcnet.judges import Moment, Verdict
from fcnet.loop import Loop, Parts
from fcnet.memory import within_memory
from fcnet.model import biases_name, is_weights, weights_name
from fcnet.optimizers import Optimizer
from fcnet.steps import Order, Penalty, Steps, step_weights

SMALLEST_RATE = 1e-6
"""An adaptive rate that is no higher ends training instead of falling further."""
NON_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)

Parameters = dict[str, NDArray[Any]]


@dataclass(eq=False)
class OptimizerState:
    """What an optimizer remembers between two calls of ``partial_fit``.

    Attributes:
        learning_rate: of the next step, where no schedule decides it.
        name: of the update rule that the slots belong to.
        slots: see ``TrainState``.
        step: how many steps have been done.
    """

    learning_rate: float
    name: str = ""
    slots: dict[str, Parameters] | None = None
    step: int = 0

    def go_on(self, state: TrainState, program: Program) -> TrainState:
        """A state that begins, with this memory; without it where rule or shapes have changed since."""
        if self.slots is None or self.name != program.rule.name:
            return state
        for slot, arrays in state.slots.items():
            for name, array in arrays.items():
                if self.slots[slot][name].shape != array.shape:
                    return initial_state(program, state.parameters)
                arrays[name] = self.slots[slot][name].astype(program.dtype)
        state.step = self.step
        return state


@dataclass(frozen=True, eq=False)
class Validation:
    """Rows that are set aside.

    Attributes:
        part: as an engine reads them.
        X, y, weights: as a scorer reads them.
    """

    part: Part
    X: Any
    y: Any
    weights: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class Job:
    """One training of an estimator.

    Attributes:
        estimator: whose attributes are written while it goes on.
        program, choice: what is trained, and where.
        part: the training data.
        rows: which of its rows are trained on; None for all.
        validation: what is set aside.
        optimizer, rate: how; ``rate`` is its learning rate where no schedule decides it.
        parameters: to start from.
        random_state: where orders are drawn from.
        seed: of dropout masks.
        incremental: one epoch, and no warning that it was not enough.
        loss_scale: what scikit-learn's figure is in units of the cost.
    """

    estimator: Any
    program: Program
    choice: Choice
    part: Part
    rows: NDArray[np.int64] | None
    validation: Validation | None
    optimizer: Optimizer
    rate: CurrentRate
    parameters: Parameters
    random_state: np.random.RandomState
    seed: int
    incremental: bool
    loss_scale: float
    observers: Sequence[Observer]

    @property
    def n_rows(self) -> int:
        """Rows that are trained on."""
        return self.part.n_rows if self.rows is None else len(self.rows)

    @property
    def total_weight(self) -> float:
        """What they weigh together."""
        if self.part.weights is None:
            return float(self.n_rows)
        return float((self.part.weights if self.rows is None else self.part.weights[self.rows]).sum())


# --- Tables -----------------------------------------------------------------------------------------------------------


def shuffled_order(rows: NDArray[np.int64], random_state: np.random.RandomState) -> Order:
    """scikit-learn's orders: the last epoch's, permuted."""
    order = rows

    def draw(epoch: int) -> NDArray[np.int64]:
        nonlocal order
        permutation = np.arange(len(order))
        random_state.shuffle(permutation)
        order = order[permutation]
        return order

    return draw


def penalty_per_rows(alpha: float, row_weights: NDArray[np.float64] | None) -> Penalty:
    """scikit-learn's penalty: 0.5 * alpha * sum(w^2) / (weight of the step's rows)."""

    def penalty(rows: NDArray[np.int32]) -> NDArray[np.float64]:
        weight = step_weights(rows, row_weights)
        return np.divide(alpha, weight, out=np.zeros_like(weight), where=weight > 0)

    return penalty


def sum_of_squares(parameters: Parameters) -> float:
    """Of all weights, without biases; not by BLAS, whose waiting threads would take the engine's cores."""
    weights = [array for name, array in parameters.items() if is_weights(name)]
    with np.errstate(over="ignore"):  # weights that run away are found by their cost
        return sum(float(np.square(array, dtype=np.float64).sum()) for array in weights)


# --- Stopping ---------------------------------------------------------------------------------------------------------


class Stopping:
    """The judge of an estimator: notes each epoch's figures in its attributes, and decides as scikit-learn does.

    Where there is early stopping, the figure is a validation score; else the training cost with its penalty. An epoch that is
    not better by ``tol`` counts, and more than ``n_iter_no_change`` of them in a row end training, or divide an adaptive rate
    by 5.
    """

    def __init__(self, job: Job, steps_per_epoch: int) -> None:
        self.job, self.estimator = job, job.estimator
        self._share = 0.5 * float(self.estimator.alpha) * steps_per_epoch / max(job.total_weight, 1e-300)
        self._steps = steps_per_epoch
        self._squares = sum_of_squares(job.parameters) if self._share else 0.0
        self._score = _scorer(job)
        self._rows_seen = job.n_rows
        self.stopped = False

    def __call__(self, record: EpochRecord, moment: Moment) -> Verdict:
        """Note the epoch, and say whether it is the best and whether it is the last."""
        estimator = self.estimator
        estimator.n_iter_ += 1
        estimator.t_ += self._rows_seen
        estimator.loss_ = self.job.loss_scale * record.training_cost + self._penalty(moment)
        estimator.loss_curve_.append(estimator.loss_)
        lines = _prints_lines(estimator.verbose)
        if lines:
            print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
        if record.validation_cost is not None:
            estimator.validation_loss_curve_.append(self.job.loss_scale * record.validation_cost)
        best = self._note_score(record, moment) if estimator.early_stopping else self._note_loss()
        self._scale_rate()
        if estimator._no_improvement_count <= estimator.n_iter_no_change:
            return Verdict(best)
        figure = "Validation score" if estimator.early_stopping else "Training loss"
        message = f"{figure} did not improve more than tol={estimator.tol:f} for {estimator.n_iter_no_change} consecutive epochs."
        if _follows(estimator, "adaptive") and self.job.rate.rate > SMALLEST_RATE:
            self.job.rate.rate /= 5.0
            estimator._no_improvement_count = 0
            if lines:
                print(f"{message} Setting learning rate to {self.job.rate.rate:f}")
            return Verdict(best)
        if lines:
            print(f"{message} {'Learning rate too small. ' if _follows(estimator, 'adaptive') else ''}Stopping.")
        self.stopped = True
        return Verdict(best, "early stopping")

    def _penalty(self, moment: Moment) -> float:
        """The epoch's mean penalty, with the sum of squares between its start and its end."""
        if not self._share:
            return 0.0
        before, self._squares = self._squares, sum_of_squares(moment.parameters)
        mean = before + (self._squares - before) * (self._steps - 1) / (2 * self._steps)
        return self._share * mean

    def _note_score(self, record: EpochRecord, moment: Moment) -> bool:
        estimator = self.estimator
        score = self._score(record, moment)
        estimator.validation_scores_.append(score)
        if _prints_lines(estimator.verbose):
            print(f"Validation score: {score:f}")
        stalled = score < estimator.best_validation_score_ + estimator.tol
        estimator._no_improvement_count = estimator._no_improvement_count + 1 if stalled else 0
        if best := score > estimator.best_validation_score_:
            estimator.best_validation_score_ = score
        return best

    def _note_loss(self) -> bool:
        estimator = self.estimator
        stalled = estimator.loss_ > estimator.best_loss_ - estimator.tol
        estimator._no_improvement_count = estimator._no_improvement_count + 1 if stalled else 0
        estimator.best_loss_ = min(estimator.best_loss_, estimator.loss_)
        return False  # the last network is the one that stays

    def _scale_rate(self) -> None:
        if _follows(self.estimator, "invscaling"):
            self.job.rate.rate = self.estimator.learning_rate_init / (self.estimator.t_ + 1) ** self.estimator.power_t


def _follows(estimator: Any, schedule: str) -> bool:
    """Whether the rate goes by one of scikit-learn's two rules, which hold for sgd alone."""
    names = isinstance(estimator.solver, str) and isinstance(estimator.learning_rate, str)
    return names and estimator.solver == "sgd" and estimator.learning_rate == schedule


def _prints_lines(verbose: Any) -> bool:
    """True and 2 or more are scikit-learn's lines; 1 is a bar."""
    return verbose is True or verbose > 1


def _scorer(job: Job) -> Callable[[EpochRecord, Moment], float]:
    """The validation figure, higher is better."""
    validation, estimator = job.validation, job.estimator
    if validation is None:
        return lambda record, moment: math.nan
    if estimator.scoring is None:

        def own(record: EpochRecord, moment: Moment) -> float:
            if record.validation_accuracy is not None:
                return record.validation_accuracy
            return estimator._score_outputs(moment.outputs(validation.part.X), validation.part.y, validation.weights)

        return own
    if estimator.scoring == "loss":
        return lambda record, moment: -job.loss_scale * float(record.validation_cost or 0.0)
    scored = copy.copy(estimator)
    if not hasattr(validation.X, "columns"):  # names are checked where the rows have some
        vars(scored).pop("feature_names_in_", None)
    scorer = check_scoring(scored, scoring=estimator.scoring)
    weights = {} if validation.weights is None else {"sample_weight": validation.weights}

    def by_scorer(record: EpochRecord, moment: Moment) -> float:
        scored.coefs_, scored.intercepts_ = as_lists(moment.parameters)
        return float(scorer(scored, validation.X, validation.y, **weights))

    return by_scorer


# --- The stochastic solvers -------------------------------------------------------------------------------------------


def train_stochastic(job: Job) -> Parameters:
    """Epochs of sgd, adam or another optimizer; the parameters that are left.

    Raises:
        ValueError: the cost became NaN or infinite, and no better network was kept.
    """
    estimator = job.estimator
    started = time.perf_counter()
    batch = batch_size(estimator.batch_size, job.n_rows)
    rows = np.arange(job.n_rows) if job.rows is None else job.rows
    order: Order = shuffled_order(rows, job.random_state) if estimator.shuffle else lambda epoch: rows
    memory: OptimizerState = estimator._optimizer
    rule = job.program.rule
    state = memory.go_on(initial_state(job.program, job.parameters), job.program)
    epochs = 1 if job.incremental else int(estimator.max_iter)
    steps = Steps(
        job.n_rows,
        batch,
        order,
        drop_last=False,
        seed=job.seed,
        epochs=epochs,
        penalty=penalty_per_rows(float(estimator.alpha), job.part.weights),
        model=job.program.model,
        optimizer=job.optimizer,
        first_step=state.step,
    )
    history = History(job.choice.engine.name, str(job.choice.placement), None, steps.per_epoch)
    judge = Stopping(job, steps.per_epoch)
    parts = Parts(job.part, job.validation.part if job.validation else None, None)
    loop = Loop(job.choice, job.program, parts, steps, history, job.observers, judge)
    deadline = math.inf if estimator.max_time is None else started + float(estimator.max_time)
    estimator.n_iter_ = 0
    with within_memory(job.choice, job.program, parts.given, batch):
        loop.run(state, RunInfo(str(job.choice), epochs, steps.per_epoch), deadline)
    estimator.history_ = history

    after = loop.snapshot()
    slots = {slot: after.slots[slot] for slot in rule.slots}
    estimator._optimizer = OptimizerState(job.rate.rate, rule.name, slots, after.step)
    if history.ending == "interrupted":
        warnings.warn("Training interrupted by user.", stacklevel=2)
    elif history.ending == "finished" and not job.incremental:
        warnings.warn(
            f"Stochastic Optimizer: Maximum iterations ({epochs}) reached and the optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=2,
        )
    if loop.kept is not None:
        estimator._best_parameters = loop.kept
    if history.ending == "diverged":
        _note_divergence(estimator)
        if not estimator.early_stopping or estimator._best_parameters is None:
            raise InputError(NON_FINITE)
    if estimator.early_stopping and estimator._best_parameters is not None and (judge.stopped or not job.incremental):
        estimator.stopped_ = judge.stopped and job.incremental
        return estimator._best_parameters
    return after.parameters


def _note_divergence(estimator: Any) -> None:
    """The figures of an epoch whose cost is no longer a number."""
    estimator.n_iter_ += 1
    estimator.loss_ = math.nan
    estimator.loss_curve_.append(math.nan)
    if estimator.early_stopping:
        estimator.validation_scores_.append(math.nan)


def batch_size(wanted: Any, n_rows: int) -> int:
    """Rows in a step."""
    if isinstance(wanted, str):
        return min(200, n_rows)
    if wanted > n_rows:
        warnings.warn(
            f"Got `batch_size` less than 1 or larger than sample size. It is going to be clipped: {wanted} became {n_rows}.",
            stacklevel=3,
        )
    return min(int(wanted), n_rows)


# --- Lists and named arrays -------------------------------------------------------------------------------------------


def as_lists(parameters: Parameters) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Named arrays as scikit-learn's two lists: weights and biases of each layer."""
    n_layers = len(parameters) // 2
    return [parameters[weights_name(i)] for i in range(n_layers)], [parameters[biases_name(i)] for i in range(n_layers)]


def as_named(coefs: Sequence[Any], intercepts: Sequence[Any], dtype: str) -> Parameters:
    """The two lists as named arrays."""
    named: Parameters = {}
    for index, (weights, biases) in enumerate(zip(coefs, intercepts, strict=True)):
        named[weights_name(index)] = np.asarray(weights, dtype)
        named[biases_name(index)] = np.asarray(biases, dtype)
    return named
