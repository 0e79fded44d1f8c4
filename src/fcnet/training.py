"""The one epoch loop.

``train`` draws each epoch's order and tables, hands them to an engine in chunks, validates, keeps the best network, and
tells whoever watches. It knows nothing of devices, gradients or files. Results do not depend on how an epoch is cut into
chunks: a chunk is as long as half a second allows, so that progress moves, Ctrl-C is heard and time budgets end.
"""

from __future__ import annotations

import contextlib
import functools
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fcnet import counters, identity
from fcnet.checkpoint import Checkpoint, EpochSoFar
from fcnet.costs import Cost, default_cost, log_likelihood
from fcnet.data.arrays import Part, as_part, check_range
from fcnet.engines.choose import Choice, choose
from fcnet.engines.contract import Dtype, Engine, Metrics, Program, TrainState, accuracy_rule, initial_state
from fcnet.errors import DivergenceError, FileError, InputError, TrainingWarning, check_count, unknown_name
from fcnet.history import Ending, EpochRecord, History, Monitor, Observer, Occasion, RunInfo
from fcnet.keeper import Keeper, as_keeper
from fcnet.layers import DropoutScaling, without_dropout
from fcnet.memory import free_on, free_on_host, in_words, is_out_of_memory, memory_plan
from fcnet.model import Model, biases_name, rescale_for, weights_name
from fcnet.optimizers import SGD, Optimizer
from fcnet.progress import Verbose, progress_observer
from fcnet.steps import Steps, cut, penalty_per_mini_batches, same_order, seeded_order, step_weights

CHUNK_SECONDS = 0.5
"""About how long a chunk lasts."""
FIRST_CHUNK = 16
"""Steps in the first chunk, before the speed is known."""
FAR_ABOVE_GUESSING = 100
"""A first epoch that costs so many times what guessing does is worth a warning."""

HALVINGS = 3
"""At most so many times a training whose numbers go wrong goes back and halves its learning rate."""

Task = Literal["classification", "regression"]
OnNan = Literal["stop", "halve"]
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
    checkpoint: str | Path | Keeper | None = None,
    resume: str | Path | None = None,
    checkpoint_every: str = "1epoch",
    on_nan: OnNan = "stop",
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
        checkpoint: a folder to write checkpoints into, from which training can be resumed after any kind of end.
        resume: the folder of a training to go on with, from its newest checkpoint; the network's own parameters are not used.
            Data and settings must be the same, but for ``epochs``, ``time_budget``, ``callbacks``, ``verbose`` and checkpoints.
            It ends with the same bytes as a training that was never interrupted. Where a schedule depends on ``epochs`` and
            these are changed, the steps before keep their rates and later ones follow the new schedule; a warning says so.
        checkpoint_every: "1epoch", "3epochs", "30s", "5m"; less often where copying would take more than 1% of the time.
        on_nan: what to do where the cost becomes NaN or infinite: "stop", or "halve" to go back to the end of the epoch before and
            halve the learning rate from there on, at most three times; ``history.halvings`` notes it. Checkpoints are then
            taken at the ends of epochs alone.
        verbose: True for a bar on a terminal and a line an epoch elsewhere; "bar"; "lines"; or False.

    Returns:
        The history; it is ``network.history`` too.

    Raises:
        InputError: arguments or data that cannot be used, before training starts.
        OutOfMemoryError: what it needs is not there, by a plan before it starts, or by the device while it goes on.
        FileError: the checkpoint folder cannot be written, is in use, holds another training, or has nothing to resume.
        DeviceError: a GPU was asked for that is not there.
        DivergenceError: the cost became NaN or infinite; the network is the best one seen before.
        KeyboardInterrupt: Ctrl-C, at the end of the chunk; the network is the best one seen.
        SystemExit: SIGTERM, likewise, where checkpoints are written.
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
    if on_nan not in ("stop", "halve"):
        raise unknown_name("on_nan", on_nan, ("stop", "halve"))
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
    keeper = as_keeper(checkpoint, resume, checkpoint_every)
    plan = memory_plan(choice, program, [part for part in vars(parts).values() if part is not None], mini_batch_size)
    plan.check(free_on(choice), free_on_host())
    observers = [as_observer(callback) for callback in callbacks]
    if (progress := progress_observer(verbose)) is not None:
        observers.append(progress)
    history = History(choice.engine.name, str(choice.placement), monitor, steps.per_epoch)
    judge = BestFigure(program, steps, monitor, early_stopping)
    loop = Loop(choice, program, parts, steps, history, observers, judge)
    loop.halves = on_nan == "halve"
    state = initial_state(program, arrays)
    with contextlib.ExitStack() as held:
        if keeper is not None:
            if keeper is not checkpoint:
                held.enter_context(keeper)
            settings = {
                "layers": model.layers, "dropout_scaling": dropout_scaling, "cost": cost, "optimizer": optimizer, "l2": l2,
                "mini_batch_size": mini_batch_size, "shuffle": shuffle, "drop_last": drop_last, "seed": seed, "dtype": dtype,
                "monitor": monitor, "early_stopping": early_stopping, "engine": choice.engine.name, "on_nan": on_nan,
                "device": choice.placement.device,
            }  # fmt: skip
            keeper.identity = {
                "settings": {name: identity.describe(value) for name, value in settings.items()},
                "data": {name: identity.of_part(part) for name, part in vars(parts).items()},
                "versions": identity.of_versions(choice.engine.name),
                "length": {"epochs": epochs},
                "command": keeper.command,
            }
            if resume is not None:
                resumed = keeper.newest(Path(resume))
                check_resumable(resumed, keeper.identity, state, steps, Path(resume))
                state = resumed.state
                loop.go_on(resumed)
            else:
                keeper.check_free()
            observers.append(keeper)
            loop.signals = (signal.SIGINT, signal.SIGTERM)
        try:
            loop.run(state, RunInfo(str(choice), epochs, steps.per_epoch), started + (time_budget or math.inf))
        except Exception as error:
            if is_out_of_memory(error):
                raise plan.error(
                    f"ran out of memory on the {choice.placement}. It needs at least {in_words(plan.total)}"
                ) from error
            raise
        finally:
            if loop.kept is not None:
                network.model, network.arrays = model, loop.kept
                network.task, network.trained, network.history = task, True, loop.history
    if loop.history.ending == "interrupted":
        if loop.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt
    if loop.history.ending == "diverged":
        raise loop.divergence()
    return loop.history


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
        return self._note(record)

    def replay(self, records: Sequence[EpochRecord]) -> Ending | None:
        """Note epochs that were judged before; whether training had ended with them."""
        verdicts = [self._note(record) for record in records]
        return verdicts[-1].ending if verdicts else None

    def _note(self, record: EpochRecord) -> Verdict:
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
        bad_step: the first step of the run whose cost was not finite, or -1; ``bad_layer``: where it begins.
        halves: whether training goes back to the end of the last epoch where numbers go wrong, with half the learning rate.
        signals: which signals end training at the end of the chunk; ``signal`` is the one that did.
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
        self.bad_layer = -1
        self.halves = False
        self.signals: tuple[signal.Signals, ...] = (signal.SIGINT,)
        self.signal: int | None = None
        self.so_far = EpochSoFar()
        self._cut_short = False
        self._done_before = 0
        self._ended_before: Ending | None = None
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

    def go_on(self, checkpoint: Checkpoint) -> None:
        """Begin where a checkpoint was taken; ``run`` is then given its state."""
        self.history, self.kept, self.so_far = checkpoint.history, checkpoint.kept, checkpoint.so_far
        self.history.ending = "finished"
        self.steps = replace(self.steps, rate_scale=0.5 ** len(self.history.halvings))
        self._done_before = checkpoint.state.step - len(self.history.epochs) * self.steps.per_epoch
        self._ended_before = self.judge.replay(self.history.epochs)  # type: ignore[attr-defined]

    def snapshot(self) -> TrainState:
        """The state as it is now: what a later run continues from."""
        return self.engine.snapshot(self.state)

    def checkpoint(self) -> Checkpoint:
        """All that a later process needs to go on from here."""
        history = replace(self.history, epochs=[*self.history.epochs], halvings=[*self.history.halvings])
        return Checkpoint(self.snapshot(), self.kept, history, replace(self.so_far))

    def _offer(self, occasion: Occasion) -> None:
        if self.halves and self.so_far.weight:  # what it would go back to is not in the state of the middle of an epoch
            return
        for observer in self.observers:
            observer.state_is_whole(self.checkpoint, occasion)

    def _run(self, state: TrainState, deadline: float) -> None:
        put = lambda part: part and self.engine.put(part, self.program, self.placement)  # noqa: E731
        self.train, self.validation, self.test = map(put, (self.parts.train, self.parts.validation, self.parts.test))
        self.state = self.engine.start(self.program, state, self.placement)
        first = len(self.history.epochs)
        if first == self._done_before == 0:
            self._offer("start")
        with _Interrupts(self.signals) as interrupts:
            ending = self._ended_before
            good = state
            for epoch in range(first, self.steps.epochs):
                ending = ending or self._epoch(epoch, deadline, interrupts)
                while ending == "diverged" and self.halves and len(self.history.halvings) < HALVINGS:
                    self._halve(good)
                    ending = self._epoch(epoch, deadline, interrupts)
                if ending:
                    break
                if self.halves:
                    good = self.snapshot()
            self.history.ending = ending or "finished"
            if ending == "interrupted":
                self.signal = interrupts.noted
                if self.kept is None or self.validation is None:
                    self.kept = self.snapshot().parameters
            if ending != "diverged" and not self._cut_short:
                self._offer("last")

    def divergence(self) -> DivergenceError:
        """The error for a cost that is no longer a number."""
        epoch, rate = self.bad_step // self.steps.per_epoch, self.steps.rate_at(self.bad_step)
        kept = (
            "The network is as it was before training."
            if self.history.best_epoch is None
            else f"The network is the best one seen before, of epoch {self.history.best_epoch}."
        )
        return DivergenceError(
            f"The cost became NaN or infinite at step {self.bad_step} (epoch {epoch}). It begins in layer {self.bad_layer}. The learning rate, {rate:g}, is probably "
            f"too high: try {rate / 10:g}, or scale the inputs to about 0 to 1, or lower the L2 strength. {kept}",
            step=self.bad_step,
            history=self.history,
        )

    def _epoch(self, epoch: int, deadline: float, interrupts: _Interrupts) -> Ending | None:
        """One epoch and its validation; why training ends, or None."""
        plan, so_far = self.steps.plan(epoch), self.so_far
        first, done, self._done_before = epoch * self.steps.per_epoch, self._done_before, 0
        late = False
        while done < self.steps.per_epoch and not late:
            n_steps = self._chunk_length(self.steps.per_epoch - done)
            for observer in self.observers:
                observer.chunk_starts(first + done, n_steps)
            chunk = cut(plan, done, n_steps, self.steps.table_length)
            began = time.perf_counter()
            report = self.engine.advance(self.state, self.train, chunk)
            elapsed = time.perf_counter() - began
            if report.bad_step >= 0:
                return self._diverge(first + done + int(report.bad_step), chunk.rows[int(report.bad_step)])
            self._seconds_per_step = elapsed / n_steps
            done += n_steps
            so_far.add(report.costs, step_weights(chunk.rows[:n_steps], self._row_weights), elapsed)
            for observer in self.observers:
                observer.chunk_ends(first + done, so_far.mean_cost)
            if interrupts.noted is not None:
                return "interrupted"
            late = time.perf_counter() >= deadline
            if done < self.steps.per_epoch:
                self._offer("last" if late else "chunk")
        self._cut_short = done < self.steps.per_epoch
        self.so_far = EpochSoFar()
        return self._epoch_ends(epoch, first + done, so_far.mean_cost, so_far.seconds) or (
            "time budget" if late else None
        )

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
            return self._diverge(steps_done - 1, np.arange(min(256, self.steps.n_rows)))
        self.history.epochs.append(record)
        if verdict.best:
            self.history.best_epoch, self.history.best_steps = epoch, steps_done
            self.kept = moment.parameters
        if not self._cut_short:
            self._offer("epoch")
        answers = [observer.epoch_ends(record, verdict.best) for observer in self.observers]
        if any(isinstance(answer, bool | np.bool_) and answer for answer in answers):
            return "callback"
        return verdict.ending

    def _diverge(self, step: int, rows: NDArray[Any]) -> Ending:
        self.bad_step = step
        self.bad_layer = first_layer_not_finite(self.program, self.snapshot().parameters, self.parts.train, rows)
        return "diverged"

    def _halve(self, good: TrainState) -> None:
        """Back to a good state, with half the learning rate."""
        rate = self.steps.rate_at(self.bad_step)
        self.history.halvings.append(self.bad_step)
        self.steps = replace(self.steps, rate_scale=0.5 ** len(self.history.halvings))
        self.state, self.so_far = self.engine.start(self.program, good, self.placement), EpochSoFar()
        warnings.warn(
            f"The cost became NaN or infinite at step {self.bad_step}, in layer {self.bad_layer}. Training goes back to step {good.step}, and "
            f"on with half the learning rate, {rate / 2:g} in place of {rate:g}.",
            TrainingWarning,
            stacklevel=5,
        )

    def _chunk_length(self, remaining: int) -> int:
        """Steps in the next chunk: what the last one's speed makes of ``CHUNK_SECONDS``."""
        if self._seconds_per_step is None:
            wanted = FIRST_CHUNK
        else:
            wanted = int(CHUNK_SECONDS / max(self._seconds_per_step, 1e-9))
        return max(1, min(wanted, remaining, self.steps.table_length))


class _Interrupts:
    """Ctrl-C, or another signal, as a number that is read between chunks; a second Ctrl-C interrupts at once.

    In the main thread only, where signals arrive.
    """

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self.noted: int | None = None
        self._signals = signals if threading.current_thread() is threading.main_thread() else ()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Interrupts:
        self._previous = {number: signal.signal(number, self._note) for number in self._signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.noted = number


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


def first_layer_not_finite(
    program: Program, parameters: Mapping[str, NDArray[Any]], part: Part, rows: NDArray[Any]
) -> int:
    """The first layer with parameters, or with weighted inputs of those rows, that are not finite; else the last, which the cost reads.

    Args:
        program: what is trained.
        parameters: the named arrays.
        part: the training data.
        rows: indices ``(n,)`` into it; -1 for none.
    """
    a = part.X[rows[rows >= 0]]
    a = np.asarray(a.toarray() if hasattr(a, "toarray") else a, program.dtype)
    read = without_dropout(program.model.dropout_scaling)
    with np.errstate(all="ignore"):
        for index, layer in enumerate(program.model.layers):
            w, b = parameters[weights_name(index)], parameters[biases_name(index)]
            z = read(index, layer, a) @ w + b
            if not all(np.isfinite(array).all() for array in (w, b, z)):
                return index
            a = np.asarray(layer.activation_fn(z))
    return index


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


def check_resumable(resumed: Checkpoint, now: dict[str, Any], state: TrainState, steps: Steps, folder: Path) -> None:
    """Refuse a checkpoint of another training, and say what differs."""
    same = ("settings", "data", "versions")
    changed = identity.differences(*({name: one.get(name) for name in same} for one in (resumed.identity, now)))
    if changed:
        raise InputError(
            f"The training in {folder} cannot be resumed, because it would not be the same: {'; '.join(changed[:8])}"
            f"{f'; and {len(changed) - 8} more' if len(changed) > 8 else ''}. Go back to what it was, or train anew."
        )
    layout = lambda of: {slot: {n: (a.shape, a.dtype) for n, a in arrays.items()} for slot, arrays in of.items()}  # noqa: E731
    inside = resumed.state.step - len(resumed.history.epochs) * steps.per_epoch
    fits = layout({"": resumed.state.parameters, **resumed.state.slots}) == layout(
        {"": state.parameters, **state.slots}
    )
    kept = resumed.kept is None or layout({"": resumed.kept}) == layout({"": state.parameters})
    if not (fits and kept and 0 <= inside <= steps.per_epoch and resumed.history.steps_per_epoch == steps.per_epoch):
        raise FileError(
            f"The newest checkpoint in {folder} does not fit its own settings. The file is damaged; train anew."
        )
    epochs = resumed.identity.get("length", {}).get("epochs")
    if epochs != steps.epochs and isinstance(epochs, int) and resumed.state.step:
        done = np.arange(resumed.state.step)[-10_000:]
        if not np.array_equal(steps.rates(done), replace(steps, epochs=epochs).rates(done)):
            warnings.warn(
                f"The learning rate's schedule depends on the number of epochs, which was {epochs} and is {steps.epochs}: the "
                "steps before keep their rates, and later ones follow the new schedule.",
                TrainingWarning,
                stacklevel=3,
            )
