"""Keras 3 on jax: ``model.fit`` on arrays, compiled, in the data's order, its Python callbacks only every hundred steps."""

from __future__ import annotations

import keras
import numpy as np

from racer import Stepper
from workloads import Parameters, Task, Workload

STEPS_PER_EXECUTION = 100


def network(workload: Workload) -> keras.Model:
    """Logits; softmax belongs to the cost."""
    keras.utils.set_random_seed(0)
    layers: list[keras.Layer] = [keras.Input((workload.sizes[0],))]
    for n_out in workload.sizes[1:-1]:
        layers.append(keras.layers.Dense(n_out, workload.activation))
        if workload.p_dropout:
            layers.append(keras.layers.Dropout(workload.p_dropout))
    return keras.Sequential([*layers, keras.layers.Dense(workload.sizes[-1])])


class Training(Stepper):
    def __init__(self, task: Task) -> None:
        self._task, self._workload = task, task.workload
        self._X, self._y = task.rows()
        self.steps_per_epoch = len(self._X) // self._workload.batch
        self._model = network(self._workload)
        rate = self._workload.learning_rate
        optimizers = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
        settings = {"epsilon": 1e-8} if self._workload.optimizer == "adam" else {}
        self._model.compile(
            optimizer=optimizers[self._workload.optimizer](rate, **settings),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=True,
            steps_per_execution=STEPS_PER_EXECUTION,
        )
        self._model.optimizer.build(self._model.trainable_variables)
        self.description = f"steps_per_execution {STEPS_PER_EXECUTION}"

    def restart(self) -> None:
        self._model.set_weights([array for pair in self._task.parameters() for array in pair])
        for variable in self._model.optimizer.variables:
            if variable is not self._model.optimizer._learning_rate:
                variable.assign(np.zeros(variable.shape, variable.dtype))
        self._step = 0

    def advance(self, n_steps: int) -> int:
        n_steps = min(n_steps, self.steps_per_epoch - self._step)
        rows = slice(self._step * self._workload.batch, (self._step + n_steps) * self._workload.batch)
        self._model.fit(self._X[rows], self._y[rows], self._workload.batch, epochs=1, verbose=0, shuffle=False)
        self._step = (self._step + n_steps) % self.steps_per_epoch
        return n_steps

    def parameters(self) -> Parameters:
        arrays = self._model.get_weights()
        return list(zip(arrays[::2], arrays[1::2], strict=True))
