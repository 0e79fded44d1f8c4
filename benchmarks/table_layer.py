"""A step of a table's network on each engine: periodic embeddings, embeddings of categories, parametric activations.

    python benchmarks/table_layer.py [--plain]

20 numbers and 5 columns of categories, then 256-256-256 units (SELU, parametric, dropout 0.15) and 2 classes; mini-batches of 256;
AdamW with factors. With --plain also the same network on the same width of plain columns. The median of 7 chunks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise

import numpy as np

import fcnet
from fcnet import counters
from fcnet.costs import log_likelihood
from fcnet.data.arrays import Part
from fcnet.engines.choose import engine_named
from fcnet.engines.contract import Placement, Plan, Program, initial_state
from fcnet.initializers import glorot_uniform, zeros
from fcnet.layers import FullyConnectedLayer, Layer, SoftmaxLayer, TableLayer
from fcnet.model import Model

BATCH, N_ROWS, N_STEPS = 256, 16_384, 64
TABLE = TableLayer(20, 0, (12, 20, 40, 80, 160))


def model_of(n_in: int, first: tuple[Layer, ...], parametric: bool) -> Model:
    """Three layers of 256 on n_in numbers."""
    hidden = [
        FullyConnectedLayer(a, b, fcnet.selu, 0.15 if place else 0.0, glorot_uniform, zeros, parametric=parametric)
        for place, (a, b) in enumerate(pairwise((n_in, 256, 256, 256)))
    ]
    return Model((*first, *hidden, SoftmaxLayer(256, 2, 0.15)), "training")


def microseconds(name: str, model: Model, X: np.ndarray, threads: int | None) -> float:
    """Of a step."""
    engine, placement, optimizer = engine_named(name), Placement(threads=threads), fcnet.AdamW(1e-4, beta_2=0.95)
    program = Program(model, log_likelihood, optimizer.rule)
    data = engine.put(Part(X, np.arange(N_ROWS) % 2), program, placement)
    run = engine.start(program, initial_state(program, model.initial_parameters(0)), placement)
    steps, layers = np.arange(N_STEPS), len(model.layers)
    plan = Plan(
        n_steps=N_STEPS,
        rows=np.random.default_rng(0).permutation(N_ROWS).astype(np.int32).reshape(N_STEPS, BATCH),
        coefficients=optimizer.coefficients(steps, np.full(N_STEPS, 1e-4)),
        l2=np.zeros(N_STEPS),
        dropout=np.tile([layer.p_dropout for layer in model.layers], (N_STEPS, 1)),
        keys=counters.key(0, counters.Purpose.DROPOUT, np.arange(layers)[None, :], steps[:, None]),
        factors=fcnet.Factors({"biases": 0.1}).of(model),
    )
    engine.advance(run, data, plan)
    times = []
    for _ in range(7):
        began = time.perf_counter()
        engine.advance(run, data, plan)
        times.append((time.perf_counter() - began) / N_STEPS * 1e6)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", action="store_true", help="plain columns beside the table")
    random = np.random.default_rng(0)
    numbers = random.normal(size=(N_ROWS, TABLE.n_numbers))
    codes = random.integers(TABLE.categories, size=(N_ROWS, len(TABLE.categories)))
    table = np.hstack([numbers, codes]).astype(np.float32)
    cases = {"table": (model_of(TABLE.n_out, (TABLE,), True), table)}
    if parser.parse_args().plain:
        wide = random.normal(size=(N_ROWS, TABLE.n_out)).astype(np.float32)
        cases["plain"] = model_of(TABLE.n_out, (), False), wide
    print("| network | native, 1 thread | native | xla |\n| --- | ---: | ---: | ---: |")
    for name, (model, X) in cases.items():
        engines = ("native", 1), ("native", None), ("xla", None)
        print(f"| {name} |", " | ".join(f"{microseconds(engine, model, X, n):,.0f} µs" for engine, n in engines), "|")


if __name__ == "__main__":
    main()
