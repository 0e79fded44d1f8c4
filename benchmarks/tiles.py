"""The ceilings of the native engine's inner loops on one core: matrix tiles beside NumPy's BLAS, lines of weights, activations.

    python benchmarks/tiles.py

Products are those of a step: forward (A . W), gradient (A' . D) and the way back (D . W'). Lines are what a sparse first
layer reads and updates: 150 of 784 lines of 112 float32 numbers for each row, as MNIST has them. An activation is its outputs and
derivatives, of numbers that stay in the cache; a mask is the draws and the comparisons of dropout.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numba
import numpy as np
from threadpoolctl import threadpool_limits

from fcnet.activations import ELEMENTWISE
from fcnet.engines.native import ahead
from fcnet.engines.native.codes import ACTIVATIONS
from fcnet.engines.native.kernels import elementary, matrices

ZERO, ONE = np.int64(0), np.int64(1)
NUMBERS = 4096
SHAPES = [(256, 64, 64), (10, 112, 784), (780, 128, 10), (780, 128, 200), (128, 1024, 1024), (1024, 1024, 128)]


def seconds(call: Callable[[], object], work: float) -> float:
    """The median time of a call, each measurement long enough for the clock."""
    call()
    repeats = max(1, int(5e8 / work))
    times = []
    for _ in range(9):
        began = time.perf_counter()
        for _ in range(repeats):
            call()
        times.append((time.perf_counter() - began) / repeats)
    return statistics.median(times)


@numba.njit(nogil=True)
def _read(n: int, values, columns, w, z) -> None:
    for r in range(n):
        matrices.add_lines(values, columns, r * 150, r * 150 + 150, z.dtype.type(1.0), w, ZERO, np.int64(112), z, ZERO)


@numba.njit(nogil=True)
def _update(n: int, values, columns, w, d) -> None:
    for r in range(n):
        matrices.change_lines(
            values, columns, r * 150, r * 150 + 150, np.float32(-1e-6), d, ZERO, w, ZERO, np.int64(112)
        )


@numba.njit(nogil=True)
def _nn(m, n, k, a, a_row, a_step, b, c) -> None:
    matrices.multiply_nn(m, n, k, a, ZERO, a_row, a_step, b, ZERO, n, c, ZERO, n)


@numba.njit(nogil=True)
def _nt(m, n, k, a, b, c) -> None:
    matrices.multiply_turned(m, n, k, a, ZERO, k, b, ZERO, k, c, ZERO, n)


@numba.njit(nogil=True)
def _activate(code: int, z, a, f) -> None:
    a[:] = z
    elementary.activate(code, a, f)


@numba.njit(nogil=True)
def _mask(key, threshold, gain, mask) -> None:
    elementary.draw_mask(key, np.uint32(0), threshold, gain, mask)


def products(rng: np.random.Generator) -> None:
    """Print the rates of products, beside NumPy's."""
    print("| m x n x k | A . W | A' . D | D . W' | NumPy |\n| --- | ---: | ---: | ---: | ---: |")
    for m, n, k in SHAPES:
        a, b, c = (rng.normal(size=size).astype(np.float32) for size in (m * k, k * n, m * n))
        m_, n_, k_ = map(np.int64, (m, n, k))
        work = 2.0 * m * n * k
        figures = [
            seconds(lambda: _nn(m_, n_, k_, a, k_, ONE, b, c), work),  # noqa: B023
            seconds(lambda: _nn(m_, n_, k_, a, ONE, m_, b, c), work),  # noqa: B023
        ]
        if k % 16 == 0:
            figures.append(seconds(lambda: _nt(m_, n_, k_, a, b, c), work))  # noqa: B023
        with threadpool_limits(1):
            left, right, out = a.reshape(m, k), b.reshape(k, n), c.reshape(m, n)
            blas = seconds(lambda: np.matmul(left, right, out=out), work)  # noqa: B023
        cells = [f"{work / s / 1e9:.0f}" for s in figures] + ["-"] * (3 - len(figures)) + [f"{work / blas / 1e9:.0f}"]
        print(f"| {m} x {n} x {k} | {' | '.join(cells)} |")
    print("\nGFLOP/s, float32, medians of 9.\n")


def lines(rng: np.random.Generator) -> None:
    """Print how fast lines of weights are read and updated."""
    columns = np.concatenate([np.sort(rng.choice(784, 150, replace=False)) for _ in range(100)]).astype(np.int32)
    values = rng.random(len(columns)).astype(np.float32)
    w, line = np.zeros(784 * 112, np.float32), np.ones(112, np.float32)
    n_bytes = 150 * 448
    read = seconds(lambda: _read(100, values, columns, w, line.copy()), 1e6) / 100
    update = seconds(lambda: _update(100, values, columns, w, line), 1e6) / 100
    print(f"Lines of weights: read at {n_bytes / read / 1e9:.0f} GB/s ({read * 1e6:.2f} us a row), ")
    print(f"read and written at {2 * n_bytes / update / 1e9:.0f} GB/s ({update * 1e6:.2f} us a row).\n")


def elements(rng: np.random.Generator) -> None:
    """Print what a number takes in activations and masks."""
    print("| activation | ns a number |\n| --- | ---: |")
    z = rng.normal(size=NUMBERS).astype(np.float32)
    a, f = z.copy(), z.copy()
    for activation in ELEMENTWISE.values():
        code = np.int64(ACTIVATIONS[activation])
        taken = seconds(lambda: _activate(code, z, a, f), 100.0 * NUMBERS) / NUMBERS  # noqa: B023
        print(f"| {activation.name} | {taken * 1e9:.2f} |")
    key, mask = np.array([1, 2], np.uint32), np.zeros(NUMBERS, np.float32)
    taken = seconds(lambda: _mask(key, np.uint32(1 << 29), np.float32(1.1), mask), 100.0 * NUMBERS) / NUMBERS
    print(f"| mask | {taken * 1e9:.2f} |")


def main() -> None:
    ahead.prepare("float32")
    rng = np.random.default_rng(0)
    products(rng)
    lines(rng)
    elements(rng)


if __name__ == "__main__":
    main()
