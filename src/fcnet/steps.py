"""The tables of an epoch: which rows, rates, penalties and masks every step has, as a function of the epoch alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet import counters
from fcnet.engines.contract import Plan
from fcnet.model import Model
from fcnet.optimizers import Factors, Optimizer, Schedule, as_schedule

TABLE_NUMBERS = 1 << 22
"""At most so many row indices in the tables of one chunk."""

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
        rate_scale: what every scheduled learning rate is multiplied by.
        first_step: steps that the state has behind it. Optimizer and masks count on from it; epochs and schedules begin anew.
        factors: of parameters that learn faster or slower, and of penalty, weight decay and dropout over time.
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
    rate_scale: float = 1.0
    first_step: int = 0
    factors: Factors = field(default_factory=Factors)

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
        return self.rate_scale * schedule(steps / self.per_epoch, float(self.epochs))

    def rate_at(self, step: int) -> float:
        """The scheduled learning rate of one step of this run."""
        return float(self.rates(np.array([step]))[0])

    def _scheduled(self, schedule: Schedule | None, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """A schedule of factors, at each step of this run."""
        if schedule is None:
            return np.ones(len(steps))
        return schedule(steps / self.per_epoch, float(self.epochs))

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
        coefficients = self.optimizer.coefficients(counted, self.rates(steps))
        decay = self._scheduled(self.factors.decay, steps)
        if "decay" in self.optimizer.rule.coefficients:
            coefficients[:, self.optimizer.rule.coefficients.index("decay")] *= decay
        return Plan(
            n_steps=self.per_epoch,
            rows=rows,
            coefficients=coefficients,
            l2=self.penalty(rows) * decay,
            dropout=self._scheduled(self.factors.dropout, steps)[:, None] * np.array(p_dropout),
            keys=keys,
            factors=self.factors.of(self.model),
        )


def step_weights(rows: NDArray[np.int32], row_weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """How much the rows of each step weigh together: ``(n_steps, batch)`` row indices -> ``(n_steps,)``."""
    if row_weights is None:
        return (rows >= 0).sum(axis=1, dtype=np.float64)
    return np.where(rows >= 0, row_weights[rows], 0.0).sum(axis=1)


def cut(plan: Plan, start: int, n_steps: int, length: int) -> Plan:
    """Some steps of a plan, in tables of the given length; rows beyond ``n_steps`` are never read."""

    def some(table: NDArray[Any]) -> NDArray[Any]:
        piece = table[start : start + length]
        if len(piece) == length:
            return piece
        return np.concatenate([piece, np.zeros((length - len(piece), *table.shape[1:]), table.dtype)])

    tables = some(plan.rows), some(plan.coefficients), some(plan.l2), some(plan.dropout), some(plan.keys)
    return Plan(n_steps, *tables, plan.factors)
