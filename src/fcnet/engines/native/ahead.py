"""Compiling the kernels before they are used: all of them, or in a second process those that the first comes to last.

A kernel and what it calls are compiled one after the other, and each lies in the cache on disk when it is done. A process
that begins at the other end and fills the same cache therefore takes a share of the wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fcnet import costs, optimizers
from fcnet.data.arrays import Part
from fcnet.engines.contract import Dtype, Placement, Plan, Program, initial_state
from fcnet.engines.native import passes, updates
from fcnet.engines.native.engine import UNITS, NativeEngine, Run, compile_beside
from fcnet.engines.native.layout import KINDS
from fcnet.engines.native.matrices import ONE, ZERO
from fcnet.engines.native.rows import NativeData
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer
from fcnet.model import Model

N_ROWS, N_IN, N_STEPS = 32, 800, 64
MODEL = Model((FullyConnectedLayer(N_IN, 2 * UNITS), SoftmaxLayer(2 * UNITS, 2)))
"""With ``N_STEPS`` steps on sparse rows, enough for two threads with units of their own."""


@dataclass(frozen=True)
class _Trial:
    """A run on a few rows."""

    engine: NativeEngine
    data: NativeData
    run: Run

    @classmethod
    def of(cls, dtype: Dtype) -> _Trial:
        """One that computes in ``dtype``."""
        engine, placement = NativeEngine(), Placement(threads=2)
        program = Program(MODEL, costs.log_likelihood, optimizers.SGD_RULE, dtype)
        part = Part(np.tile(np.arange(N_IN) % 5 == 0, (N_ROWS, 1)), np.arange(N_ROWS) % 2)
        run = engine.start(program, initial_state(program, MODEL.initial_parameters(0)), placement)
        return cls(engine, engine.put(part, program, placement), run)


def warm_up() -> None:
    """Compile every kernel for float32 and float64, or load it from the cache."""
    layers = len(MODEL.layers)
    plan = Plan(
        n_steps=N_STEPS,
        rows=np.tile(np.arange(N_ROWS, dtype=np.int32), (N_STEPS, 1)),
        coefficients=np.zeros((N_STEPS, 1)),
        l2=np.zeros(N_STEPS),
        dropout=np.zeros((N_STEPS, layers)),
        keys=np.zeros((N_STEPS, layers, 2), np.uint32),
        factors=np.ones((2 * layers, 2)),
    )
    dtypes: tuple[Dtype, ...] = ("float32", "float64")
    for dtype in dtypes:
        if dtype != dtypes[0]:  # for the first one it is begun where the engine finds no kernels
            compile_beside(dtype)
        trial = _Trial.of(dtype)
        trial.engine.cost_and_gradient(trial.run, trial.data)
        trial.engine.evaluate(trial.run, trial.data)
        trial.engine.forward(trial.run, np.zeros((1, N_IN)))
        trial.engine.advance(trial.run, trial.data, plan)


def compile_last_first(dtype: Dtype) -> None:
    """What the kernels of a training come to last: the parts of learning, then the way back; outputs; evaluation."""
    trial = _Trial.of(dtype)
    layout, (work, *_) = trial.engine.room(trial.run, N_ROWS, trial.data)
    lines, parameters, slots = layout.lines, trial.run.parameters[0], trial.run.slots[0]
    batch, rates, none = np.zeros((N_ROWS, 2), np.int64), np.zeros(1, dtype), parameters.dtype.type(0.0)
    rule: Any = (updates.SGD, rates, np.ones((len(MODEL.layers), KINDS, 2), dtype), none)
    updates.learn_lines(lines, ZERO, parameters, slots, trial.data.arrays, work, batch, ZERO, ZERO, ONE, *rule)
    updates.learn_from_groups(lines, parameters, slots, work.groups[:1], work.lines[0], ZERO, ONE, *rule)
    updates.gradient_of_rows(lines, work.rows, ZERO, ZERO, parameters)
    passes.backward(lines, parameters, work.rows, work.turned[0], ZERO, ZERO)
    trial.engine.forward(trial.run, np.zeros((1, N_IN)))
    trial.engine.evaluate(trial.run, trial.data)
