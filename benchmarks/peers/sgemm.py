"""The machine's peak: NumPy's float32 matrix product, for which a BLAS was written by hand."""

from __future__ import annotations

import numpy as np

from racer import Stepper

SIZE = 1024
OPERATIONS = 2 * SIZE**3
"""Floating-point operations of a product."""


class Sgemm(Stepper):
    """``a @ b`` into memory that is there; threads by the environment, which BLAS reads when it is imported."""

    steps_per_epoch = 1 << 62

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self._a, self._b = random.standard_normal((2, SIZE, SIZE), dtype=np.float32)
        self._out = np.empty_like(self._a)

    def restart(self) -> None:
        pass

    def advance(self, n_steps: int) -> int:
        for _ in range(n_steps):
            np.matmul(self._a, self._b, out=self._out)
        return n_steps

    def parameters(self) -> None:
        return None
