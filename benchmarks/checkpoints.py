"""What checkpoints cost a training: with and without them, in turns.

    python benchmarks/checkpoints.py            MNIST and the digits; 7 turns
    python benchmarks/checkpoints.py 3          3 turns

"Slower" is the median over the turns of the seconds with checkpoints over those without, in the same turn. "On its path" is the part of its
own time that the training waited for them: for copying the state, and, at its start and its end, for the disk too.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any
from unittest import mock

import fcnet
from fcnet import training
from fcnet.keeper import Keeper
from markdown_tables import table

EVERY = ("1epoch", "3epochs", "1s")


@dataclass(frozen=True)
class Workload:
    name: str
    data: str
    hidden: tuple[int, ...]
    optimizer: Any
    batch: int
    epochs: int


WORKLOADS = (
    Workload("digits, 64-30-10, SGD, batch 10", "digits", (30,), fcnet.SGD(0.1), 10, 600),
    Workload("MNIST, 784-100-10, SGD, batch 10", "mnist", (100,), fcnet.SGD(0.1), 10, 20),
    Workload("MNIST, 784-512-512-10, Adam, batch 128", "mnist", (512, 512), fcnet.Adam(0.001), 128, 4),
)


def run(workload: Workload, data: fcnet.DataSet, every: str | None) -> tuple[float, float, int]:
    """Seconds of a training, seconds that it waited for checkpoints, and how many were written."""
    sizes = (data.n_in, *workload.hidden)
    hidden = [fcnet.FullyConnectedLayer(n_in, n_out, fcnet.relu) for n_in, n_out in itertools.pairwise(sizes)]
    network = fcnet.Network([*hidden, fcnet.SoftmaxLayer(sizes[-1], 10)], workload.batch)
    waited, keepers = 0.0, []

    def timed(self: Keeper, *rest: Any, offer: Any = Keeper.state_is_whole) -> None:
        nonlocal waited
        began = time.perf_counter()
        offer(self, *rest)
        waited += time.perf_counter() - began
        keepers.append(self)

    with tempfile.TemporaryDirectory(dir=".") as folder, mock.patch.object(Keeper, "state_is_whole", timed):
        places = {} if every is None else {"checkpoint": folder, "checkpoint_every": every}
        began = time.perf_counter()
        training.train(
            network, data.train, data.validation, epochs=workload.epochs, optimizer=workload.optimizer, engine="native",
            device="cpu", verbose=False, **places,
        )  # fmt: skip
        return time.perf_counter() - began, waited, keepers[-1].written if keepers else 0


def main(arguments: list[str]) -> None:
    turns = int(arguments[0]) if arguments else 7
    rows = []
    for workload in WORKLOADS:
        data = fcnet.load_data(workload.data)
        run(workload, data, None)
        seconds: dict[str | None, list[tuple[float, float, int]]] = {every: [] for every in (None, *EVERY)}
        for turn in range(turns):
            modes = list(seconds)
            for every in modes[turn % len(modes) :] + modes[: turn % len(modes)]:
                seconds[every].append(run(workload, data, every))
        without = [taken for taken, _, _ in seconds[None]]
        for every in EVERY:
            slower = statistics.median(
                taken / other - 1 for (taken, _, _), other in zip(seconds[every], without, strict=True)
            )
            path = statistics.median(waited / taken for taken, waited, _ in seconds[every])
            taken, written = (statistics.median(one[place] for one in seconds[every]) for place in (0, 2))
            rows.append((
                workload.name, every, f"{written:.0f}", f"{statistics.median(without):.2f}", f"{taken:.2f}", f"{slower:+.1%}",
                f"{path:.2%}",
            ))  # fmt: skip
    columns = ("training", "every", "checkpoints", "without, s", "with, s", "slower", "on its path")
    print(table(columns, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
