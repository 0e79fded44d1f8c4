"""The one epoch loop: chunks, validation, the best network, and telling whoever watches.

It draws each epoch's tables, hands them to an engine in chunks, and asks a judge at the end of every epoch. It knows nothing of
devices, gradients or files. Results do not depend on how an epoch is cut into chunks: a chunk is as long as half a second
allows, so that progress moves, Ctrl-C is heard and time budgets end.
"""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet.checkpoint import Checkpoint, EpochSoFar
from fcnet.data.arrays import Part, as_part, check_range
from fcnet.engines.choose import Choice
from fcnet.engines.contract import Metrics, Program, TrainState
from fcnet.errors import DivergenceError, InputError, TrainingWarning
from fcnet.history import Ending, EpochRecord, History, Observer, Occasion, RunInfo
from fcnet.interrupts import Interrupts
from fcnet.judges import Judge, Moment
from fcnet.layers import check_codes, without_dropout
from fcnet.model import Model, arrays_of
from fcnet.steps import Steps, cut, step_weights

CHUNK_SECONDS = 0.5
"""About how long a chunk lasts."""
FIRST_CHUNK = 16
"""Steps in the first chunk, before the speed is known."""
HALVINGS = 3
"""At most so many times a training whose numbers go wrong goes back and halves its learning rate."""


@dataclass(frozen=True)
class Parts:
    """The data of a training, checked."""

    train: Part
    validation: Part | None
    test: Part | None

    @property
    def given(self) -> list[Part]:
        """Those that are there."""
        return [part for part in (self.train, self.validation, self.test) if part is not None]

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
                check_codes(model.layers[0], part.X, f"X of the {name} data")
        return parts


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
        with Interrupts(self.signals) as interrupts:
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

    def _epoch(self, epoch: int, deadline: float, interrupts: Interrupts) -> Ending | None:
        """One epoch and its validation; why training ends, or None."""
        plan, so_far = self.steps.plan(epoch), self.so_far
        first, done, self._done_before = epoch * self.steps.per_epoch, self._done_before, 0
        late = False
        while done < self.steps.per_epoch and not late:
            n_steps = chunk_length(self._seconds_per_step, min(self.steps.per_epoch - done, self.steps.table_length))
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


def chunk_length(seconds_per_step: float | None, most: int) -> int:
    """Steps in the next chunk: what the last one's speed makes of ``CHUNK_SECONDS``; None before there was one."""
    wanted = FIRST_CHUNK if seconds_per_step is None else int(CHUNK_SECONDS / max(seconds_per_step, 1e-9))
    return max(1, min(wanted, most))


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
            own = arrays_of(index, layer, parameters).values()
            z, a = program.model.through(index, parameters, read(index, layer, a))
            if not all(np.isfinite(array).all() for array in (*own, z)):
                return index
    return index
