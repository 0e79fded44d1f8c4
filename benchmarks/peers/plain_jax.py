"""jax by hand: one ``lax.scan`` over as many steps as a turn holds, data on the device, parameters donated."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from peers.questions import Answers
from racer import Stepper
from workloads import Parameters, Task, Workload

UNROLLS = (1, 4)
"""Steps in one pass of the compiled loop; an expert tries a few."""
TRIAL = 32


def logits(parameters: Any, X: Any, workload: Workload, key: Any = None) -> Any:
    *hidden, (w_last, b_last) = parameters
    activation = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}[workload.activation]
    for index, (w, b) in enumerate(hidden):
        X = activation(X @ w + b)
        if key is not None:
            keep = jax.random.bernoulli(jax.random.fold_in(key, index), 1.0 - workload.p_dropout, X.shape)
            X = jnp.where(keep, X / (1.0 - workload.p_dropout), 0.0)
    return X @ w_last + b_last


def mean_cost(parameters: Any, X: Any, y: Any, workload: Workload, key: Any) -> Any:
    log_p = jax.nn.log_softmax(logits(parameters, X, workload, key))
    return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()


def adam(w: Any, g: Any, m: Any, v: Any, t: Any, rate: float) -> Any:
    """Kingma and Ba's algorithm 1."""
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    step = rate * (m / (1.0 - 0.9**t)) / (jnp.sqrt(v / (1.0 - 0.999**t)) + 1e-8)
    return w - step, m, v


@functools.partial(jax.jit, static_argnames=("workload", "length", "unroll"), donate_argnums=0)
def scan(state: Any, X: Any, y: Any, first: Any, workload: Workload, length: int, unroll: int) -> Any:
    """``length`` steps from the step ``first``; X is ``(n_batches, batch, n_in)``."""
    root = jax.random.key(0, impl="rbg")

    def step(state: Any, number: Any) -> Any:
        parameters, slots = state
        batch = number % len(X)
        key = jax.random.fold_in(root, number) if workload.p_dropout else None
        g = jax.grad(mean_cost)(parameters, X[batch], y[batch], workload, key)
        if workload.optimizer == "sgd":
            return (jax.tree.map(lambda w, g: w - workload.learning_rate * g, parameters, g), slots), None
        t = (number + 1).astype(jnp.float32)
        update = functools.partial(adam, t=t, rate=workload.learning_rate)
        new = jax.tree.map(update, parameters, g, *slots)
        parameters, *slots = jax.tree.transpose(jax.tree.structure(parameters), jax.tree.structure((0, 0, 0)), new)
        return (parameters, slots), None

    state, _ = jax.lax.scan(step, state, first + jnp.arange(length), unroll=unroll)
    return state


class Training(Stepper):
    def __init__(self, task: Task) -> None:
        self._task, self._workload = task, task.workload
        X, y = task.rows()
        self._X = jnp.asarray(X.reshape(-1, self._workload.batch, X.shape[1]))
        self._y = jnp.asarray(y.reshape(-1, self._workload.batch), jnp.int32)
        self.steps_per_epoch = len(self._X)
        self._unroll = 1
        self._length: int | None = None

    def restart(self) -> None:
        parameters = jax.tree.map(jnp.array, self._task.parameters())
        n_slots = {"sgd": 0, "adam": 2}[self._workload.optimizer]
        self._state = (parameters, [jax.tree.map(jnp.zeros_like, parameters) for _ in range(n_slots)])
        self._step = 0

    def advance(self, n_steps: int) -> int:
        """The length of a scan is compiled: exactly ``n_steps`` before tuning, and one length after it."""
        length = self._length or n_steps
        arguments = (self._state, self._X, self._y, self._step, self._workload, length, self._unroll)
        self._state = jax.block_until_ready(scan(*arguments))
        self._step += length
        return length

    def parameters(self) -> Parameters:
        return [(np.asarray(w), np.asarray(b)) for w, b in self._state[0]]

    def tune(self, seconds: float) -> None:
        self._length = TRIAL
        self.best(UNROLLS, lambda unroll: setattr(self, "_unroll", unroll), seconds)
        self._length = max(1, min(self.steps_per_epoch, round(seconds / self.pace(seconds))))
        self.description = f"scan over {self._length} steps, unroll {self._unroll}"
        self.restart()


class Inference(Answers):
    def build(self, parameters: Parameters, X: NDArray[np.float32]) -> None:
        on_device = jax.tree.map(jnp.asarray, parameters)
        workload = Workload("", "", (), "relu", "", 0.0, 0, 0, 0.0)
        self._outputs = jax.jit(lambda X: jax.nn.softmax(logits(on_device, X, workload)))

    def answer(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self._outputs(X))
