"""What inference contestants are asked: one row at a time, or many rows at once; NumPy in, NumPy out."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from racer import Stepper
from workloads import initial_parameters

MANY = 10_000
BATCHES = (10_000, 2_500, 500, 128)
"""Rows in a call when many are asked for; an expert takes the best."""


class Answers(Stepper):
    """A step answers all the rows of the question, in calls of ``batch`` rows.

    Args:
        sizes: of the network, relu, softmax.
        X: ``(n_rows, n_in)`` float32, with n_rows 1 or ``MANY``.
    """

    steps_per_epoch = 1 << 62
    threads: tuple[int | None, ...] = (None,)
    """Numbers of threads that an expert would try; None for the library's own choice."""

    def __init__(self, sizes: tuple[int, ...], X: NDArray[np.float32]) -> None:
        self._X = X
        self._use((len(X), self.threads[-1]))
        self.build(initial_parameters(sizes, "relu"), X)

    @abstractmethod
    def build(self, parameters: Any, X: NDArray[np.float32]) -> None:
        """Make the network."""

    @abstractmethod
    def answer(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities ``(n_rows, n_out)``."""

    def use_threads(self, n_threads: int | None) -> None:
        """Work with so many threads from now on."""

    def restart(self) -> None:
        pass

    def advance(self, n_steps: int) -> int:
        for _ in range(n_steps):
            for piece in self._pieces:
                self.answer(piece)
        return n_steps

    def parameters(self) -> NDArray[np.float32]:
        return np.concatenate([self.answer(piece) for piece in self._pieces])

    def tune(self, seconds: float) -> None:
        batches = BATCHES if len(self._X) == MANY else (len(self._X),)
        options = [(batch, n_threads) for n_threads in self.threads for batch in batches]
        if len(options) > 1:
            batch, n_threads = self.best(options, self._use, seconds)
            words = [f"{batch} rows a call"] * (len(batches) > 1) + [f"{n_threads} thread(s)"] * (n_threads is not None)
            self.description = ", ".join(words)

    def _use(self, option: tuple[int, int | None]) -> None:
        batch, n_threads = option
        self._pieces = [self._X[first : first + batch] for first in range(0, len(self._X), batch)]
        self.use_threads(n_threads)
