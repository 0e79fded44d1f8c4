"""What checkpoints cost a training: with and without them, in turns, on one thread.

    python benchmarks/checkpoints.py            the digits and MNIST; 5 turns
    python benchmarks/checkpoints.py 3          3 turns

"Start and end" are the seconds, once a training, for the fingerprint of the data, the first checkpoint and the last. In between: "slower" and
"more processor time" are medians over the turns, each of a training with checkpoints over the one without in the same turn; "on its path" is the
part of its seconds that training waited for them.
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
from fcnet import identity, training
from fcnet.history import Occasion
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
    Workload("digits, 64-30-10, SGD, batch 10", "digits", (30,), fcnet.SGD(0.1), 10, 4000),
    Workload("MNIST, 784-100-10, SGD, batch 10", "mnist", (100,), fcnet.SGD(0.1), 10, 25),
    Workload("MNIST, 784-512-512-10, Adam, batch 128", "mnist", (512, 512), fcnet.Adam(0.001), 128, 3),
)


@dataclass(frozen=True)
class Cost:
    """Seconds of a training: between start and end, of processor time, waiting for checkpoints; and those of start and end."""

    wall: float
    processor: float
    path: float
    ends: float
    written: int


def run(workload: Workload, data: fcnet.DataSet, every: str | None) -> Cost:
    """One training."""
    sizes = (data.n_in, *workload.hidden)
    hidden = [fcnet.FullyConnectedLayer(n_in, n_out, fcnet.relu) for n_in, n_out in itertools.pairwise(sizes)]
    network = fcnet.Network([*hidden, fcnet.SoftmaxLayer(sizes[-1], 10)], workload.batch)
    seconds, keepers = {name: [0.0, 0.0] for name in ("fingerprint", "start", "chunk", "epoch", "last")}, []

    def timed(name: str, work: Any) -> Any:
        began, worked = time.perf_counter(), time.process_time()
        answer = work()
        seconds[name][0] += time.perf_counter() - began
        seconds[name][1] += time.process_time() - worked
        return answer

    def offered(self: Keeper, take: Any, occasion: Occasion, offer: Any = Keeper.state_is_whole) -> None:
        keepers.append(self)
        timed(occasion, lambda: offer(self, take, occasion))

    def digested(part: Any, digest: Any = identity.of_part) -> Any:
        return timed("fingerprint", lambda: digest(part))

    keeping = mock.patch.object(Keeper, "state_is_whole", offered), mock.patch.object(identity, "of_part", digested)
    with tempfile.TemporaryDirectory(dir=".") as folder, keeping[0], keeping[1]:
        places = {} if every is None else {"checkpoint": folder, "checkpoint_every": every}
        began, worked = time.perf_counter(), time.process_time()
        training.train(
            network, data.train, data.validation, epochs=workload.epochs, optimizer=workload.optimizer, engine="native",
            device="cpu", n_threads=1, verbose=False, **places,
        )  # fmt: skip
        wall, processor = time.perf_counter() - began, time.process_time() - worked
    ends = [sum(seconds[name][place] for name in ("fingerprint", "start", "last")) for place in (0, 1)]
    path = seconds["chunk"][0] + seconds["epoch"][0]
    return Cost(wall - ends[0], processor - ends[1], path, ends[0], keepers[-1].written if keepers else 0)


def main(arguments: list[str]) -> None:
    turns = int(arguments[0]) if arguments else 5
    rows = []
    for workload in WORKLOADS:
        data = fcnet.load_data(workload.data)
        run(workload, data, "1epoch")  # compiles and imports
        costs: dict[str | None, list[Cost]] = {every: [] for every in (None, *EVERY)}
        for turn in range(turns):
            modes = list(costs)
            for every in modes[turn % len(modes) :] + modes[: turn % len(modes)]:
                costs[every].append(run(workload, data, every))
        without = costs[None]
        for every in EVERY:
            pairs = list(zip(costs[every], without, strict=True))
            rows.append((
                workload.name, every, f"{statistics.median(one.written for one in costs[every]):.0f}",
                f"{statistics.median(one.wall for one in without):.2f}",
                f"{statistics.median(one.wall / other.wall - 1 for one, other in pairs):+.1%}",
                f"{statistics.median(one.processor / other.processor - 1 for one, other in pairs):+.1%}",
                f"{statistics.median(one.path / one.wall for one in costs[every]):.2%}",
                f"{statistics.median(one.ends for one in costs[every]):.3f}",
            ))  # fmt: skip
    columns = (
        "training",
        "every",
        "checkpoints",
        "seconds without",
        "slower",
        "more processor time",
        "on its path",
        "start and end, s",
    )
    print(table(columns, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
