"""scikit-learn's MLPClassifier: ``partial_fit`` on float32 rows is one pass in their order, without shuffling them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from machine import cores
from peers.questions import Answers
from racer import CannotRace, Stepper
from workloads import Parameters, Task

IMPOSSIBLE = -1e4
"""The bias of a class that never is: its probability and its gradient are exactly 0."""


def classifier(parameters: Parameters, activation: str, settings: dict[str, Any]) -> MLPClassifier:
    """One that begins with these parameters, and with a new optimizer.

    Its first ``partial_fit`` makes the arrays; then ours take their place. scikit-learn gives two classes one logistic
    output, which trains otherwise than two softmax outputs; told of a third class, it has softmax outputs too.
    """
    n_in, n_out = len(parameters[0][0]), len(parameters[-1][1])
    classes = np.arange(max(3, n_out))
    model = MLPClassifier(
        tuple(len(b) for _, b in parameters[:-1]),
        activation={"sigmoid": "logistic", "relu": "relu"}[activation],
        alpha=0.0,
        tol=0.0,
        shuffle=False,
        learning_rate="constant",
        momentum=0.0,
        nesterovs_momentum=False,
        random_state=0,
        **settings,
    )
    batch = settings.get("batch_size", 1)
    model.partial_fit(np.zeros((batch, n_in), np.float32), np.zeros(batch, np.int64), classes=classes)
    for index, (w, b) in enumerate(parameters):
        model.coefs_[index][:, : w.shape[1]] = w
        model.intercepts_[index][: len(b)] = b
    model.coefs_[-1][:, n_out:] = 0.0
    model.intercepts_[-1][n_out:] = IMPOSSIBLE
    del model._optimizer  # the next partial_fit makes one that remembers nothing
    return model


class Training(Stepper):
    def __init__(self, task: Task) -> None:
        self._task, self._workload = task, task.workload
        if self._workload.p_dropout:
            raise CannotRace("no dropout")
        self._X, self._y = task.rows()
        self.steps_per_epoch = len(self._X) // self._workload.batch

    def restart(self) -> None:
        settings = {
            "solver": self._workload.optimizer,
            "learning_rate_init": self._workload.learning_rate,
            "batch_size": self._workload.batch,
        }
        self._model = classifier(self._task.parameters(), self._workload.activation, settings)
        self._step = 0

    def advance(self, n_steps: int) -> int:
        n_steps = min(n_steps, self.steps_per_epoch - self._step)
        rows = slice(self._step * self._workload.batch, (self._step + n_steps) * self._workload.batch)
        self._model.partial_fit(self._X[rows], self._y[rows])
        self._step = (self._step + n_steps) % self.steps_per_epoch
        return n_steps

    def parameters(self) -> Parameters:
        n_out = self._workload.sizes[-1]
        pairs = list(zip(self._model.coefs_, self._model.intercepts_, strict=True))
        w, b = pairs[-1]
        return [*pairs[:-1], (w[:, :n_out], b[:n_out])]

    def tune(self, seconds: float) -> None:
        n_threads = self.best(sorted({1, cores()}), lambda n: threadpool_limits(n), seconds)
        self.description = f"BLAS with {n_threads} thread(s)"


class Inference(Answers):
    threads = tuple(sorted({1, cores()}))

    def build(self, parameters: Parameters, X: NDArray[np.float32]) -> None:
        self._model = classifier(parameters, "relu", {})

    def answer(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._model.predict_proba(X)

    def use_threads(self, n_threads: int | None) -> None:
        threadpool_limits(n_threads)
