"""fcnet, through its public ``train`` and ``Network.predict_proba``, with its own choice of threads and kernels.

The clock runs inside one ordinary ``train``: from chunk to chunk, with all that lies between them (tables of the next
epoch, the copy of the network that every epoch keeps). A turn ends with a chunk; until the next turn ``train`` sleeps in an
observer.
"""

from __future__ import annotations

import itertools
import time

import numpy as np
from numpy.typing import NDArray

import fcnet
from peers.questions import Answers
from racer import RESTART_EPOCHS, Contestant, Turns
from workloads import Parameters, Task


def network(parameters: Parameters, activation: str, p_dropout: float, batch: int) -> fcnet.Network:
    layers: list[fcnet.FullyConnectedLayer | fcnet.SoftmaxLayer] = []
    for index, (w, _) in enumerate(parameters):
        p = p_dropout if index else 0.0
        if index < len(parameters) - 1:
            layers.append(fcnet.FullyConnectedLayer(*w.shape, getattr(fcnet, activation), p))
        else:
            layers.append(fcnet.SoftmaxLayer(*w.shape, p))
    made = fcnet.Network(layers, batch)
    made.parameters = parameters
    return made


class RaceOver(Exception):
    """Ends a training from an observer."""


class Clock(fcnet.Observer):
    """Stops a training between turns, and times it in them; it may outlive several trainings."""

    def __init__(self, turns: Turns, description: str) -> None:
        self._turns, self._description = turns, description
        self._warm = False
        self._steps, self._seconds, self._began = 0, 0.0, None
        self._chunk = 0

    def chunk_starts(self, step: int, n_steps: int) -> None:
        self._chunk = n_steps
        if self._began is None:
            self._began = time.perf_counter()

    def chunk_ends(self, steps_done: int, cost: float) -> None:
        self._steps += self._chunk
        self._pause()
        if self._seconds >= self._turns.seconds:
            if self._warm:
                self._turns.done(self._steps, self._seconds)
            else:
                self._turns.ready(self._description)
                self._warm = True
            self._steps, self._seconds = 0, 0.0
            if not self._turns.wait():
                raise RaceOver
        self._began = time.perf_counter()

    def training_ends(self, history: fcnet.History) -> None:
        if self._began is not None:
            self._pause()

    def _pause(self) -> None:
        self._seconds += time.perf_counter() - self._began
        self._began = None


class Training(Contestant):
    engine: str

    def __init__(self, task: Task) -> None:
        self._task, self._workload = task, task.workload
        self._rows = task.rows()

    def proof(self, amount: int) -> Parameters:
        return self._train(amount * self._workload.batch, 1).parameters

    def race(self, turns: Turns) -> None:
        clock = Clock(turns, f"train(engine={self.engine!r})")
        try:
            for _ in itertools.count():
                self._train(len(self._rows[0]), RESTART_EPOCHS, clock)
        except RaceOver:
            pass

    def _train(self, n_rows: int, epochs: int, *observers: Clock) -> fcnet.Network:
        workload = self._workload
        trained = network(self._task.parameters(), workload.activation, workload.p_dropout, workload.batch)
        X, y = self._rows
        fcnet.train(
            trained,
            (X[:n_rows], y[:n_rows]),
            epochs=epochs,
            optimizer={"sgd": fcnet.SGD, "adam": fcnet.Adam}[workload.optimizer](workload.learning_rate),
            shuffle=False,
            drop_last=True,
            engine=self.engine,
            device="cpu",
            callbacks=observers,
            verbose=False,
        )
        return trained


class NativeTraining(Training):
    engine = "native"
    lazy_imports = ("fcnet.engines.native.engine",)


class XlaTraining(Training):
    engine = "xla"
    lazy_imports = ("fcnet.engines.xla.engine",)


class Inference(Answers):
    def build(self, parameters: Parameters, X: NDArray[np.float32]) -> None:
        self._network = network(parameters, "relu", 0.0, 1)

    def answer(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._network.predict_proba(X, device="cpu")
