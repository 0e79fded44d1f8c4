"""The one epoch loop.

``train`` draws each epoch's order and tables, hands them to an engine in chunks, validates, keeps the best network, and
tells whoever watches. It knows nothing of devices, gradients or files. Results do not depend on how an epoch is cut into
chunks: a chunk is as long as half a second allows, so that progress moves, Ctrl-C is heard and time budgets end.
"""

from __future__ import annotations

import functools
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from types import FrameType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fcnet import counters
from fcnet.costs import Cost, default_cost, log_likelihood
from fcnet.data.arrays import Part, as_part, check_range
from fcnet.engines.choose import Choice, choose
from fcnet.engines.contract import Dtype, Engine, Metrics, Plan, Program, TrainState, accuracy_rule, initial_state
from fcnet.errors import DivergenceError, InputError, TrainingWarning, check_count, unknown_name
from fcnet.history import Ending, EpochRecord, History, Monitor, Observer, RunInfo
from fcnet.layers import DropoutScaling
from fcnet.model import Model, rescale_for
from fcnet.optimizers import SGD, Optimizer, as_schedule
from fcnet.progress import Verbose, progress_observer

CHUNK_SECONDS = 0.5
"""About how long a chunk lasts."""
FIRST_CHUNK = 16
"""Steps in the first chunk, before the speed is known."""
FAR_ABOVE_GUESSING = 100
"""A first epoch that costs so many times what guessing does is worth a warning."""
TABLE_NUMBERS = 1 << 22
"""At most so many row indices in the tables of one chunk."""

Task = Literal["classification", "regression"]
Callback = Observer | Callable[[EpochRecord], bool | None]


class Trainable(Protocol):
    """What ``train`` reads of a network, and leaves changed."""

    model: Model
    arrays: Mapping[str, NDArray[Any]]
    mini_batch_size: int
    task: Task
    trained: bool
    history: History | None


def train(
    network: Trainable,
    train: Any,
    validation: Any = None,
    test: Any = None,
    *,
    epochs: int,
    mini_batch_size: int | None = None,
    optimizer: Optimizer = SGD(0.1),  # noqa: B008  (a frozen value)
    cost: Cost | None = None,
    l2: float = 0.0,
    shuffle: bool = True,
    drop_last: bool = False,
    dropout_scaling: DropoutScaling = "training",
    monitor: Monitor | None = None,
    seed: int = 0,
    engine: str = "auto",
    device: str = "auto",
    n_threads: int | None = None,
    dtype: Dtype = "float32",
    callbacks: Sequence[Callback] = (),
    time_budget: float | None = None,
    early_stopping: int | None = None,
    verbose: Verbose = True,
) -> History:
    """Train a network, and leave it as the best one seen.

    What is minimised at each step is the mean cost of a mini-batch on the dropout path
    + 0.5 * l2 * sum(w^2) / (number of whole mini-batches in the training data).

    Args:
        network: a ``fcnet.Network``; it continues from the parameters it has.
        train: ``(X, y)`` or ``(X, y, sample_weight)``: X ``(n_rows, ...)`` with n_in numbers a row; y ``(n_rows,)`` class
            labels from 0, or ``(n_rows, n_out)`` values.
        validation: data that decides which epoch is best; without it the last one is kept.
        test: data whose accuracy is noted after every epoch, and decides nothing.
        epochs: passes over the training data, at most.
        mini_batch_size: rows a step; the network's own where not given.
        optimizer: such as ``fcnet.Adam(0.001)`` or ``fcnet.SGD(fcnet.Cosine(0.1))``.
        cost: such as ``fcnet.quadratic``; by default what pairs with the last layer: log-likelihood with softmax,
            cross-entropy with sigmoid, quadratic otherwise.
        l2: strength of the L2 penalty on weights (the book's lambda, per number of mini-batches as in the article).
        shuffle: a new order for every epoch; else the data's own.
        drop_last: leave out a short last mini-batch; else it is a step of its own.
        dropout_scaling: "training" (the field's inverted dropout) or "inference" (the article's), see ``fcnet.layers``.
        monitor: "accuracy" (highest is best, for classes the default) or "cost" (lowest is best). Of equals the later wins.
        seed: decides order and dropout masks. The same seed gives the same run.
        engine: "auto", "native" (a CPU, fcnet's own activations) or "xla" (CPU and GPU, any activation).
        device: "auto", "cpu", "gpu" or "gpu:1".
        n_threads: threads of the native engine at most; by default what OMP_NUM_THREADS or NUMBA_NUM_THREADS says, else one
            a core.
        dtype: "float32" or "float64".
        callbacks: called with each ``EpochRecord``; one that returns True ends training. Or ``fcnet.Observer`` objects.
        time_budget: seconds after which training ends, with what it has.
        early_stopping: end after so many epochs without a better validation figure.
        verbose: True for a bar on a terminal and a line an epoch elsewhere; "bar"; "lines"; or False.

    Returns:
        The history; it is ``network.history`` too.

    Raises:
        InputError: arguments or data that cannot be used, before training starts.
        DeviceError: a GPU was asked for that is not there.
        DivergenceError: the cost became NaN or infinite; the network is the best one seen before.
        KeyboardInterrupt: Ctrl-C, at the end of the chunk; the network is the best one seen.
    """
    started = time.perf_counter()
    _check_settings(optimizer, l2, time_budget)
    epochs = check_count("epochs", epochs)
    mini_batch_size = check_count(
        "mini_batch_size", network.mini_batch_size if mini_batch_size is None else mini_batch_size
    )
    if n_threads is not None:
        n_threads = check_count("n_threads", n_threads)
    seed = counters.check_seed(seed)
    model, arrays = network.model, network.arrays
    if dropout_scaling not in ("training", "inference"):
        raise unknown_name("dropout_scaling", dropout_scaling, ("training", "inference"))
    if network.trained:  # its weights mean what they mean under its convention
        arrays = rescale_for(model, dropout_scaling, arrays)
    model = replace(model, dropout_scaling=dropout_scaling)

    parts = Parts.read(model, train, validation, test, mini_batch_size, check_dtype(dtype))
    cost = check_cost(cost) or default_cost(model.layers[-1].activation_fn)
    cost.check_pairing(model.layers[-1].activation_fn)
    program = Program(model, cost, optimizer.rule, dtype)
    choice = choose(engine, device, program, n_threads)
    task: Task = "regression" if accuracy_rule(program, parts.train.kind) is None else "classification"
    monitor = _check_monitor(monitor, early_stopping, parts.validation, task)

    n_rows = parts.train.n_rows
    order = seeded_order(seed, n_rows) if shuffle else same_order(n_rows)
    penalty = penalty_per_mini_batches(l2, n_rows // mini_batch_size)
    steps = Steps(n_rows, mini_batch_size, order, drop_last, seed, epochs, penalty, model, optimizer)
    info = RunInfo(str(choice), epochs, steps.per_epoch)
    observers = [as_observer(callback) for callback in callbacks]
    if (progress := progress_observer(verbose)) is not None:
        observers.append(progress)
    history = History(choice.engine.name, str(choice.placement), monitor, steps.per_epoch)
    judge = BestFigure(program, steps, monitor, early_stopping)
    loop = Loop(choice, program, parts, steps, history, observers, judge)
    try:
        loop.run(initial_state(program, arrays), info, started + (time_budget or math.inf))
    finally:
        if loop.kept is not None:
            network.model, network.arrays = model, loop.kept
            network.task, network.trained, network.history = task, True, history
    if history.ending == "interrupted":
        raise KeyboardInterrupt
    if history.ending == "diverged":
        raise loop.divergence()
    return history


# --- The loop ---------------------------------------------------------------------------------------------------------


class Moment:
    """The network at the end of an epoch, for whoever judges it."""

    def __init__(self, engine: Engine, state: Any) -> None:
        self._engine, self._state = engine, state

    @functools.cached_property
    def parameters(self) -> dict[str, NDArray[Any]]:
        """The named arrays, copied."""
        return self._engine.snapshot(self._state).parameters

    def outputs(self, X: NDArray[Any]) -> NDArray[Any]:
        """Outputs ``(n_rows, n_out)`` for rows, without dropout."""
        return self._engine.forward(self._state, X)


@dataclass(frozen=True)
class Verdict:
    """What a judge makes of an epoch.

    Attributes:
        best: the network is the best so far, and is kept.
        ending: why training ends here; None where it goes on. "diverged" strikes the epoch from the history.
    """

    best: bool
    ending: Ending | None = None


Judge = Callable[[EpochRecord, Moment], Verdict]
"""Asked at the end of every epoch: is this the best network, and is it time to end?"""


class BestFigure:
    """The judge of ``train``: the best validation figure, the later of equals; without one the last epoch.

    Training ends after ``patience`` epochs without a strict improvement.
    """

    def __init__(self, program: Program, steps: Steps, monitor: Monitor | None, patience: int | None) -> None:
        self.program, self.steps, self.monitor, self.patience = program, steps, monitor, patience
        self._best_figure = -math.inf
        self._last_improvement = 0

    def __call__(self, record: EpochRecord, moment: Moment) -> Verdict:
        """Best or not, and whether training ends."""
        if self.monitor is None:
            healthy = all(np.isfinite(array).all() for array in moment.parameters.values())
        else:
            assert record.validation_cost is not None
            healthy = math.isfinite(record.validation_cost)
        if not healthy:
            return Verdict(False, "diverged")
        if record.epoch == 0:
            self._warn_of_a_cost_above_guessing(record.training_cost)
        figure = 0.0
        if self.monitor is not None:
            figures = {"accuracy": record.validation_accuracy, "cost": -(record.validation_cost or 0.0)}
            figure = figures[self.monitor]  # type: ignore[assignment]  # _check_monitor saw that it is there
        best = figure >= self._best_figure
        if figure > self._best_figure:
            self._last_improvement = record.epoch
        if best:
            self._best_figure = figure
        waited = self.patience is not None and record.epoch - self._last_improvement >= self.patience
        return Verdict(best, "early stopping" if waited else None)

    def _warn_of_a_cost_above_guessing(self, cost: float) -> None:
        """A class's probability costs log(n_out) by guessing; far more after an epoch is not learning."""
        guessing = math.log(self.program.model.n_out)
        if self.program.cost == log_likelihood and cost > FAR_ABOVE_GUESSING * guessing:
            warnings.warn(
                f"After an epoch the training cost is {cost:.4g}, where guessing costs {guessing:.4g}. The learning rate, "
                f"{self.steps.rate_at(0):g}, is probably too high, or the inputs are far from 0 to 1.",
                TrainingWarning,
                stacklevel=2,
            )


class Loop:
    """Epochs, until something ends them.

    Attributes:
        kept: the parameters of the best network so far; None before any epoch was the best.
        bad_step: the first step of the run whose cost was not finite, or -1.
    """

    def __init__(
        self,
        choice: Choice,
        program: Program,
        parts: Parts,
        steps: Steps,
        history: History,
        observers: Sequence[Observer],
        judge: Judge,
    ) -> None:
        self.engine, self.placement, self.program = choice.engine, choice.placement, program
        self.parts, self.steps, self.history = parts, steps, history
        self.observers, self.judge = observers, judge
        self.kept: dict[str, NDArray[Any]] | None = None
        self.bad_step = -1
        self._seconds_per_step: float | None = None
        self._row_weights = parts.train.weights

    def run(self, state: TrainState, info: RunInfo, deadline: float = math.inf) -> None:
        """Train from a state until the epochs are done, or the deadline on ``time.perf_counter`` has passed."""
        for observer in self.observers:
            observer.training_starts(info)
        try:
            self._run(state, deadline)
        except BaseException as error:
            self.history.ending = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            raise
        finally:
            for observer in self.observers:
                observer.training_ends(self.history)

    def snapshot(self) -> TrainState:
        """The state as it is now: what a later run continues from."""
        return self.engine.snapshot(self.state)

    def _run(self, state: TrainState, deadline: float) -> None:
        put = lambda part: part and self.engine.put(part, self.program, self.placement)  # noqa: E731
        self.train, self.validation, self.test = map(put, (self.parts.train, self.parts.validation, self.parts.test))
        self.state = self.engine.start(self.program, state, self.placement)
        with _Interrupts() as interrupts:
            for epoch in range(self.steps.epochs):
                if ending := self._epoch(epoch, deadline, interrupts):
                    self.history.ending = ending
                    break
            if self.history.ending == "interrupted" and (self.kept is None or self.validation is None):
                self.kept = self.snapshot().parameters

    def divergence(self) -> DivergenceError:
        """The error for a cost that is no longer a number."""
        epoch, rate = self.bad_step // self.steps.per_epoch, self.steps.rate_at(self.bad_step)
        kept = (
            "The network is as it was before training."
            if self.history.best_epoch is None
            else f"The network is the best one seen before, of epoch {self.history.best_epoch}."
        )
        return DivergenceError(
            f"The cost became NaN or infinite at step {self.bad_step} (epoch {epoch}). The learning rate, {rate:g}, is probably "
            f"too high: try {rate / 10:g}, or scale the inputs to about 0 to 1, or lower the L2 strength. {kept}",
            step=self.bad_step,
            history=self.history,
        )

    def _epoch(self, epoch: int, deadline: float, interrupts: _Interrupts) -> Ending | None:
        """One epoch and its validation; why training ends, or None."""
        plan = self.steps.plan(epoch)
        first, done, cost_sum, weight, mean_cost, seconds = epoch * self.steps.per_epoch, 0, 0.0, 0.0, 0.0, 0.0
        late = False
        while done < self.steps.per_epoch and not late:
            n_steps = self._chunk_length(self.steps.per_epoch - done)
            for observer in self.observers:
                observer.chunk_starts(first + done, n_steps)
            chunk = _cut(plan, done, n_steps, self.steps.table_length)
            began = time.perf_counter()
            report = self.engine.advance(self.state, self.train, chunk)
            elapsed = time.perf_counter() - began
            if report.bad_step >= 0:
                return self._diverge(first + done + int(report.bad_step))
            self._seconds_per_step = elapsed / n_steps
            batch_weights = step_weights(chunk.rows[:n_steps], self._row_weights)
            cost_sum += float(report.costs @ batch_weights)
            weight, done, seconds = weight + float(batch_weights.sum()), done + n_steps, seconds + elapsed
            mean_cost = cost_sum / weight if weight else 0.0
            for observer in self.observers:
                observer.chunk_ends(first + done, mean_cost)
            if interrupts.noted:
                return "interrupted"
            late = time.perf_counter() >= deadline
        return self._epoch_ends(epoch, first + done, mean_cost, seconds) or ("time budget" if late else None)

    def _epoch_ends(self, epoch: int, steps_done: int, training_cost: float, seconds: float) -> Ending | None:
        nothing = [Metrics(math.nan, None)]
        (validated,) = self.engine.evaluate(self.state, self.validation) if self.validation else nothing
        (tested,) = self.engine.evaluate(self.state, self.test) if self.test else nothing
        record = EpochRecord(
            epoch=epoch,
            training_cost=training_cost,
            validation_cost=validated.cost if self.validation else None,
            validation_accuracy=validated.accuracy,
            test_accuracy=tested.accuracy,
            learning_rate=self.steps.rate_at(steps_done - 1),
            seconds=seconds,
        )
        moment = Moment(self.engine, self.state)
        verdict = self.judge(record, moment)
        if verdict.ending == "diverged":
            return self._diverge(steps_done - 1)
        self.history.epochs.append(record)
        if verdict.best:
            self.history.best_epoch, self.history.best_steps = epoch, steps_done
            self.kept = moment.parameters
        answers = [observer.epoch_ends(record, verdict.best) for observer in self.observers]
        if any(isinstance(answer, bool | np.bool_) and answer for answer in answers):
            return "callback"
        return verdict.ending

    def _diverge(self, step: int) -> Ending:
        self.bad_step = step
        return "diverged"

    def _chunk_length(self, remaining: int) -> int:
        """Steps in the next chunk: what the last one's speed makes of ``CHUNK_SECONDS``."""
        if self._seconds_per_step is None:
            wanted = FIRST_CHUNK
        else:
            wanted = int(CHUNK_SECONDS / max(self._seconds_per_step, 1e-9))
        return max(1, min(wanted, remaining, self.steps.table_length))


class _Interrupts:
    """Ctrl-C as a flag that is read between chunks; a second Ctrl-C interrupts at once. In the main thread only."""

    def __init__(self) -> None:
        self.noted = False
        self._previous: Any = None

    def __enter__(self) -> _Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True


class _Callback(Observer):
    """A plain function of an epoch's record, as an observer."""

    def __init__(self, function: Callable[[EpochRecord], bool | None]) -> None:
        self._function = function

    def epoch_ends(self, record: EpochRecord, best: bool) -> bool | None:
        return self._function(record)


def as_observer(callback: Callback) -> Observer:
    """An observer as it is; a function of an epoch's record as one; anything else is refused."""
    if isinstance(callback, Observer):
        return callback
    if not callable(callback):
        raise InputError(f"A callback must be a function of an EpochRecord, or an Observer, got {callback!r}.")
    return _Callback(callback)


# --- The tables of an epoch -------------------------------------------------------------------------------------------

Order = Callable[[int], NDArray[np.int64]]
"""Epoch -> the training rows in the order of that epoch. Asked for each epoch once, one after the other."""
Penalty = Callable[[NDArray[np.int32]], NDArray[np.float64]]
"""Rows of each step ``(n_steps, batch)``, -1 where there is none -> c of each step in its penalty 0.5 * c * sum(w^2)."""


def seeded_order(seed: int, n_rows: int) -> Order:
    """Another order of all rows for every epoch, a pure function of seed and epoch."""
    return lambda epoch: counters.permutation(counters.key(seed, counters.Purpose.ORDER, step=epoch), n_rows)


def same_order(n_rows: int) -> Order:
    """The data's own order, in every epoch."""
    order = np.arange(n_rows)
    return lambda epoch: order


def penalty_per_mini_batches(l2: float, whole_batches: int) -> Penalty:
    """The article's penalty: 0.5 * l2 * sum(w^2) / (number of whole mini-batches)."""
    return lambda rows: np.full(len(rows), l2 / max(1, whole_batches))


@dataclass(frozen=True)
class Steps:
    """Which rows, rates and masks every step has.

    Attributes:
        n_rows: rows in an epoch.
        mini_batch_size: rows in a step.
        order: in which order they come.
        drop_last: leave out a short last mini-batch; else it is a step of its own.
        seed: decides dropout masks.
        epochs: at most so many; a schedule's end.
        penalty: strength of the L2 penalty in each step.
        model: the layers, for their dropout.
        optimizer: for its numbers and its schedule.
        first_step: steps that the state has behind it. Optimizer and masks count on from it; epochs and schedules begin anew.
    """

    n_rows: int
    mini_batch_size: int
    order: Order
    drop_last: bool
    seed: int
    epochs: int
    penalty: Penalty
    model: Model
    optimizer: Optimizer
    first_step: int = 0

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        whole = self.n_rows // self.mini_batch_size
        return whole if self.drop_last else -(-self.n_rows // self.mini_batch_size)

    @property
    def table_length(self) -> int:
        """Steps that the tables of one chunk have room for: the same all through a run, so that nothing recompiles."""
        return max(1, min(self.per_epoch, TABLE_NUMBERS // self.mini_batch_size))

    def rates(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """The scheduled learning rate of each step of this run."""
        schedule = as_schedule(self.optimizer.learning_rate)
        return schedule(steps / self.per_epoch, float(self.epochs))

    def rate_at(self, step: int) -> float:
        """The scheduled learning rate of one step of this run."""
        return float(self.rates(np.array([step]))[0])

    def plan(self, epoch: int) -> Plan:
        """The tables of a whole epoch."""
        places = np.full(self.per_epoch * self.mini_batch_size, -1, np.int32)
        places[: self.n_rows] = self.order(epoch)[: len(places)]
        rows = places.reshape(self.per_epoch, self.mini_batch_size)
        steps = np.arange(epoch * self.per_epoch, (epoch + 1) * self.per_epoch)
        counted = steps + self.first_step
        p_dropout = [layer.p_dropout for layer in self.model.layers]
        if any(p_dropout):
            layers = np.arange(len(p_dropout))[None, :]
            keys = counters.key(self.seed, counters.Purpose.DROPOUT, layer=layers, step=counted[:, None])
        else:  # no mask is drawn
            keys = np.zeros((self.per_epoch, len(p_dropout), 2), np.uint32)
        return Plan(
            n_steps=self.per_epoch,
            rows=rows,
            coefficients=self.optimizer.coefficients(counted, self.rates(steps)),
            l2=self.penalty(rows),
            dropout=np.full((self.per_epoch, len(p_dropout)), p_dropout),
            keys=keys,
        )


def step_weights(rows: NDArray[np.int32], row_weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """How much the rows of each step weigh together: ``(n_steps, batch)`` row indices -> ``(n_steps,)``."""
    if row_weights is None:
        return (rows >= 0).sum(axis=1, dtype=np.float64)
    return np.where(rows >= 0, row_weights[rows], 0.0).sum(axis=1)


def _cut(plan: Plan, start: int, n_steps: int, length: int) -> Plan:
    """Some steps of a plan, in tables of the given length; rows beyond ``n_steps`` are never read."""

    def cut(table: NDArray[Any]) -> NDArray[Any]:
        piece = table[start : start + length]
        if len(piece) == length:
            return piece
        return np.concatenate([piece, np.zeros((length - len(piece), *table.shape[1:]), table.dtype)])

    return Plan(n_steps, cut(plan.rows), cut(plan.coefficients), cut(plan.l2), cut(plan.dropout), cut(plan.keys))


# --- Checks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """The data of a training, checked."""

    train: Part
    validation: Part | None
    test: Part | None

    @classmethod
    def read(cls, model: Model, train: Any, validation: Any, test: Any, mini_batch_size: int, dtype: str) -> Parts:
        """The data, checked against the model and each other."""
        first = as_part(train, model.n_in, model.n_out, "training data")
        if mini_batch_size > first.n_rows:
            raise InputError(
                f"mini_batch_size={mini_batch_size} is larger than the training data, which has {first.n_rows} rows. "
                f"Use {first.n_rows} or less."
            )

        def follow(data: Any, name: str) -> Part | None:
            return None if data is None else as_part(data, model.n_in, model.n_out, name, first.kind)

        parts = cls(first, follow(validation, "validation data"), follow(test, "test data"))
        for name, part in (("training", first), ("validation", parts.validation), ("test", parts.test)):
            if part is not None:
                check_range(part.X, dtype, f"X of the {name} data")
                check_range(part.y, dtype, f"y of the {name} data")
        return parts


def check_dtype(dtype: object) -> Dtype:
    """One of the types that a network can compute in."""
    if dtype not in ("float32", "float64"):
        raise unknown_name("dtype", dtype, ("float32", "float64"))
    return dtype


def _check_settings(optimizer: object, l2: object, time_budget: object) -> None:
    if isinstance(optimizer, type) or not hasattr(optimizer, "rule"):
        raise InputError(f"optimizer must be an optimizer such as fcnet.Adam(0.001), got {optimizer!r}.")
    if not isinstance(l2, Real) or not 0 <= float(l2) < math.inf:
        raise InputError(f"The L2 strength must be a finite number, 0 or above, got {l2!r}.")
    if time_budget is not None and (not isinstance(time_budget, Real) or not float(time_budget) > 0):
        raise InputError(f"time_budget must be a number of seconds above 0, got {time_budget!r}.")


def check_cost(cost: object) -> Cost | None:
    """A cost, or None for the one that pairs with the last layer; anything else is refused."""
    if cost is not None and not isinstance(cost, Cost):
        raise InputError(f"cost must be a cost such as fcnet.quadratic, got {cost!r}.")
    return cost


def _check_monitor(
    monitor: Monitor | None, early_stopping: int | None, validation: Part | None, task: Task
) -> Monitor | None:
    """Which validation figure decides what is best; None without validation data."""
    if monitor not in (None, "accuracy", "cost"):
        raise unknown_name("monitor", monitor, ("accuracy", "cost"))
    if early_stopping is not None:
        check_count("early_stopping", early_stopping)
    if validation is None:
        if early_stopping is not None or monitor is not None:
            asked = "early_stopping" if early_stopping is not None else "monitor"
            raise InputError(f"{asked} needs validation data: pass validation=(X, y).")
        return None
    if monitor == "accuracy" and task == "regression":
        raise InputError("monitor='accuracy' needs class labels; for regression use monitor='cost'.")
    return monitor or ("accuracy" if task == "classification" else "cost")
