"""What becomes of an epoch: is its network the best one, and does training end here?"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet.costs import log_likelihood
from fcnet.engines.contract import Engine, Program
from fcnet.errors import TrainingWarning
from fcnet.history import Ending, EpochRecord, Monitor
from fcnet.steps import Steps

FAR_ABOVE_GUESSING = 100
"""A first epoch that costs so many times what guessing does is worth a warning."""


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
