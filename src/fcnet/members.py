"""Several networks trained as one program: the same layers and data, each with its own seed, order, masks and best epoch.

On a GPU, small networks fill the device together; each ends as it would alone, to the byte on the native engine.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet.checkpoint import EpochSoFar
from fcnet.costs import Cost, default_cost
from fcnet.engines.choose import choose
from fcnet.engines.contract import Plan, Program, TrainState, accuracy_rule, initial_state
from fcnet.errors import InputError, check_count
from fcnet.history import EpochRecord, History
from fcnet.interrupts import Interrupts
from fcnet.judges import BestFigure
from fcnet.loop import Parts, chunk_length
from fcnet.model import rescale_for
from fcnet.network import Network
from fcnet.optimizers import Factors, Optimizer
from fcnet.steps import Steps, cut, penalty_per_mini_batches, seeded_order, step_weights


def train_members(
    networks: Sequence[Network],
    train: Any,
    validation: Any = None,
    *,
    epochs: int,
    optimizer: Optimizer,
    cost: Cost | None = None,
    l2: float = 0.0,
    factors: Factors | None = None,
    early_stopping: int | None = None,
    engine: str = "auto",
    device: str = "auto",
    n_threads: int | None = None,
    time_budget: float | None = None,
) -> list[History]:
    """Train networks of the same layers on the same data, in one call, and leave each as the best one seen of it.

    What ``fcnet.train`` does with each network's own seed; arguments as there. A member that has ended, by early stopping or
    because its cost is no longer a number, waits for the others.

    Returns:
        The history of each; it is ``network.history`` too.

    Raises:
        InputError: no networks, networks whose layers differ, or what ``fcnet.train`` refuses.
        KeyboardInterrupt: Ctrl-C, at the end of the chunk; each network is the best one seen.
    """
    began = time.perf_counter()
    if not networks or any(network.model.layers != networks[0].model.layers for network in networks):
        raise InputError("Members must be networks with the same layers, at least one.")
    first = networks[0]
    batch, epochs = first.mini_batch_size, check_count("epochs", epochs)
    model = replace(first.model, dropout_scaling="training")
    parts = Parts.read(model, train, validation, None, batch, "float32")
    cost = cost or default_cost(model.layers[-1].activation_fn)
    cost.check_pairing(model.layers[-1].activation_fn)
    program = Program(model, cost, optimizer.rule, members=len(networks))
    choice = choose(engine, device, program, n_threads)
    regression = accuracy_rule(program, parts.train.kind) is None
    n_rows = parts.train.n_rows
    tables = [
        Steps(
            n_rows,
            batch,
            seeded_order(network.seed, n_rows),
            False,
            network.seed,
            epochs,
            penalty_per_mini_batches(l2, n_rows // batch),
            model,
            optimizer,
            factors=factors or Factors(),
        )
        for network in networks
    ]
    monitor = None if parts.validation is None else "cost" if regression else "accuracy"
    members = [
        _Member(
            steps,
            History(choice.engine.name, str(choice.placement), monitor, steps.per_epoch),  # type: ignore[arg-type]
            BestFigure(program, steps, monitor, early_stopping),  # type: ignore[arg-type]
        )
        for steps in tables
    ]
    states = [
        initial_state(
            program,
            rescale_for(network.model, "training", network.arrays) if network.trained else network.arrays,
        )
        for network in networks
    ]
    run = _Run(choice, program, parts, members, _stacked_state(states))
    deadline = began + time_budget if time_budget is not None else math.inf
    try:
        with Interrupts((signal.SIGINT,)) as interrupts:
            for epoch in range(epochs):
                run.epoch(epoch, deadline, interrupts)
                if run.over:
                    break
    finally:
        for network, member in zip(networks, members, strict=True):
            if member.kept is not None:
                network.model, network.arrays = model, member.kept
                network.task = "regression" if regression else "classification"
                network.trained, network.history = True, member.history
    if interrupts.noted is not None:
        raise KeyboardInterrupt
    return [member.history for member in members]


class _Member:
    """One network of a run."""

    def __init__(self, steps: Steps, history: History, judge: BestFigure) -> None:
        self.steps, self.history, self.judge = steps, history, judge
        self.kept: dict[str, NDArray[Any]] | None = None
        self.ended = False

    def ends(self, ending: Any) -> None:
        self.ended, self.history.ending = True, ending


class _Own:
    """A member's parameters at the end of an epoch, copied from the device once for all members."""

    def __init__(self, run: _Run, place: int) -> None:
        self._run, self._place = run, place

    @property
    def parameters(self) -> dict[str, NDArray[Any]]:
        return {name: array[self._place].copy() for name, array in self._run.parameters().items()}


class _Run:
    """The state of all members on the device, and what is known of each."""

    def __init__(
        self, choice: Any, program: Program, parts: Parts, members: Sequence[_Member], state: TrainState
    ) -> None:
        self.engine, self.members = choice.engine, members
        put = lambda part: part and self.engine.put(part, program, choice.placement)  # noqa: E731
        self.train, self.validation = put(parts.train), put(parts.validation)
        self.row_weights = parts.train.weights
        self.state = self.engine.start(program, state, choice.placement)
        self.over = False
        self._snapshot: dict[str, NDArray[Any]] | None = None
        self._seconds_per_step: float | None = None

    def parameters(self) -> dict[str, NDArray[Any]]:
        """Those of all members, with a leading axis."""
        if self._snapshot is None:
            self._snapshot = self.engine.snapshot(self.state).parameters
        return self._snapshot

    def epoch(self, epoch: int, deadline: float, interrupts: Interrupts) -> None:
        """One epoch of every member that goes on, and what its judge makes of it."""
        plans = [member.steps.plan(epoch) for member in self.members]
        for member, plan in zip(self.members, plans, strict=True):
            if member.ended:
                plan.rows[:] = -1
        sums = [EpochSoFar() for _ in self.members]
        per_epoch, length = self.members[0].steps.per_epoch, self.members[0].steps.table_length
        done, late = 0, False
        while done < per_epoch and not late:
            n_steps = chunk_length(self._seconds_per_step, min(per_epoch - done, length))
            chunks = [cut(plan, done, n_steps, length) for plan in plans]
            started = time.perf_counter()
            report = self.engine.advance(self.state, self.train, _stacked(chunks))
            elapsed = time.perf_counter() - started
            self._seconds_per_step = elapsed / n_steps
            for place, (member, chunk) in enumerate(zip(self.members, chunks, strict=True)):
                if member.ended:
                    continue
                if report.bad_step[place] >= 0:
                    member.ends("diverged")
                    plans[place].rows[:] = -1
                    continue
                weights = step_weights(chunk.rows[:n_steps], self.row_weights)
                sums[place].add(report.costs[place], weights, elapsed / len(self.members))
            done += n_steps
            if interrupts.noted is not None:
                self._all_end("interrupted")
                return
            late = time.perf_counter() >= deadline
        self._snapshot = None
        metrics = self.engine.evaluate(self.state, self.validation) if self.validation else None
        for place, member in enumerate(self.members):
            if not member.ended:
                self._judge(place, member, epoch, done, sums[place], metrics and metrics[place])
        if late:
            self._all_end("time budget")
        self.over = all(member.ended for member in self.members)

    def _judge(self, place: int, member: _Member, epoch: int, done: int, sums: EpochSoFar, metrics: Any) -> None:
        steps_done = epoch * member.steps.per_epoch + done
        rate = member.steps.rate_at(steps_done - 1)
        cost, accuracy = (metrics.cost, metrics.accuracy) if metrics else (None, None)
        record = EpochRecord(epoch, sums.mean_cost, cost, accuracy, None, rate, sums.seconds)
        own: Any = _Own(self, place)
        verdict = member.judge(record, own)
        if verdict.ending != "diverged":
            member.history.epochs.append(record)
        if verdict.best:
            member.history.best_epoch, member.history.best_steps = epoch, steps_done
            member.kept = own.parameters
        if verdict.ending:
            member.ends(verdict.ending)

    def _all_end(self, ending: Any) -> None:
        for member in self.members:
            if not member.ended:
                member.ends(ending)
        self.over = True


def _stacked(plans: Sequence[Plan]) -> Plan:
    """One plan with a leading member axis."""
    names = [field.name for field in fields(Plan) if field.name != "n_steps"]
    return Plan(plans[0].n_steps, **{name: np.stack([getattr(plan, name) for plan in plans]) for name in names})


def _stacked_state(states: Sequence[TrainState]) -> TrainState:
    """One state with a leading member axis."""

    def stack(arrays: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        return {name: np.stack([named[name] for named in arrays]) for name in arrays[0]}

    slots = {slot: stack([state.slots[slot] for state in states]) for slot in states[0].slots}
    return TrainState(stack([state.parameters for state in states]), slots)
