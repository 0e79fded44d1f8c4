"""Where the time of one training step goes on one core: the parts of a step of 20-64-64-2, Adam, batch 256.

    python benchmarks/parts.py

Operations are those that a part needs, so that its rate can be put beside the tiles' (``benchmarks/tiles.py``).
"""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from typing import Any

import numba
import numpy as np

import fcnet
from fcnet.costs import log_likelihood
from fcnet.data.arrays import Part
from fcnet.engines.contract import Placement, Program, initial_state
from fcnet.engines.native import engine
from fcnet.engines.native.codes import ADAM, constants_of
from fcnet.engines.native.kernels import costs, passes, updates
from fcnet.engines.native.layout import KINDS, zeros

SIZES, BATCH, GROUPS = (20, 64, 64, 2), 256, 4
REPEATS = 2_000
ZERO, ALL = np.int64(0), np.int64(BATCH)


@numba.njit(nogil=True)
def forward(n: int, s: Any) -> None:
    for _ in range(n):
        passes.forward(s[0], ZERO, s[1], 1.0, s[3], s[4], s[5], ZERO, ALL, s[6], s[7], s[8], ZERO)


@numba.njit(nogil=True)
def cost(n: int, s: Any) -> None:
    for _ in range(n):
        costs.judge(ZERO, s[10], s[0][-1], s[3], s[5], ZERO, ALL, 1.0 / BATCH, s[4].rows, s[4].outcomes[0], s[4].costs)


@numba.njit(nogil=True)
def backward(n: int, s: Any) -> None:
    for _ in range(n):
        passes.backward(s[0], s[1], s[4].rows, ALL, ZERO, ALL)


@numba.njit(nogil=True)
def gradient(n: int, s: Any) -> None:
    for _ in range(n):
        for group in range(GROUPS):
            updates.gradient_of_rows(s[0], s[4].rows, group * (BATCH // GROUPS), ALL // GROUPS, s[13][group])
        updates.add_pairs(s[13], ZERO, np.int64(GROUPS))


@numba.njit(nogil=True)
def update(n: int, s: Any) -> None:
    for _ in range(n):
        updates.learn_from_groups(s[0], s[1], s[2], s[13], True, s[4].lines[0], ADAM, s[9], s[12], s[11])


def step_arrays() -> tuple[Any, ...]:
    """All that a step computes with."""
    rng = np.random.default_rng(0)
    layers = [fcnet.FullyConnectedLayer(n_in, n_out, fcnet.relu) for n_in, n_out in pairwise(SIZES[:-1])]
    network = fcnet.Network([*layers, fcnet.SoftmaxLayer(*SIZES[-2:])], BATCH)
    optimizer = fcnet.Adam(0.001)
    program, placement = Program(network.model, log_likelihood, optimizer.rule), Placement(threads=1)
    native = engine.NativeEngine()
    X, y = rng.normal(size=(BATCH, SIZES[0])), rng.integers(SIZES[-1], size=BATCH)
    data = native.put(Part(X, y), program, placement)
    run = native.start(program, initial_state(program, network.arrays), placement)
    layout, works = native.room(run, BATCH, data)
    batch = np.stack([np.arange(BATCH)] * 2, axis=1)
    n = len(network.layers)
    coefficients = optimizer.coefficients(np.array([100]), np.array([1e-6]))[0].astype("float32")
    terms = constants_of(log_likelihood, SIZES[-1], "float32")
    return (
        layout.lines,
        run.parameters[0],
        run.slots[0],
        data.arrays,
        works[0],
        batch,
        *run.plain,
        coefficients,
        terms,
        np.float32(0.0),
        np.ones((n, KINDS, 2), np.float32),
        zeros((GROUPS, layout.n_parameters), "float32"),
    )


def main() -> None:
    weights = [n_in * n_out for n_in, n_out in pairwise(SIZES)]
    product = 2 * BATCH * sum(weights)
    operations = {forward: product, cost: 0, backward: product - 2 * BATCH * weights[0], gradient: product, update: 0}
    arrays = step_arrays()
    print("| part | µs | GFLOP/s |\n| --- | ---: | ---: |")
    total = 0.0
    for part, work in operations.items():
        part(1, arrays)
        times = []
        for _ in range(9):
            began = time.perf_counter()
            part(REPEATS, arrays)
            times.append((time.perf_counter() - began) / REPEATS)
        total += statistics.median(times)
        rate = f"{work / statistics.median(times) / 1e9:.0f}" if work else ""
        print(f"| {part.__name__} | {statistics.median(times) * 1e6:.1f} | {rate} |")
    print(f"| sum | {total * 1e6:.1f} | {sum(operations.values()) / total / 1e9:.0f} |")


if __name__ == "__main__":
    main()
