"""What every row is given, what it answers, and how it takes time."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARTICLE = (784, 100, 10)
CIRESAN = (841, 2500, 2000, 1500, 1000, 500, 10)
"""Cireşan et al., "Deep, Big, Simple Neural Nets", 2010: 12.1 million weights."""
WIDE = (784, 1024, 1024, 10)
TABLE = (20, 64, 64, 2)

# By datasheet, for the floor of a row where this run measured no ceiling: bytes and operations a second of an H200, and bytes a
# second from the host.
DATASHEET = {"bytes": 4.8e12, "float32": 67e12, "tf32": 494e12, "bf16": 989e12, "host": 63e9}
LAUNCH = 4e-6
"""Seconds from a launch to the host's knowledge that it is done, at least, about; by experience and not by a datasheet."""
CROSSING = 0.4e-6
"""Seconds in which a number crosses from one multiprocessor to all others, at least, about: it is written to the L2 cache and read from it,
and half a look came too early. By experience and not by a datasheet."""


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        what: which workload.
        who: which contestant, and how it is set.
        value: the figure; None where there is none.
        unit: of the figure.
        goal: what was to be reached, in words.
        reached: whether it was; None where the line has no goal.
        floor: the least the figure could be, or the most where more is better, by the roofline; None where that says nothing.
        bytes, operations: that the floor was computed from.
        note: anything else, and why a figure is missing.
    """

    what: str
    who: str
    value: float | None = None
    unit: str = ""
    goal: str = ""
    reached: bool | None = None
    floor: float | None = None
    bytes: float | None = None
    operations: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Bench:
    """What a row is given.

    Attributes:
        device: "gpu" or "cpu".
        quick: tiny sizes, to see that all of it runs.
        ceilings: measured by the first row: "bytes" a second, and operations a second by precision.
        found: the figures of the rows before.
    """

    device: str
    quick: bool
    ceilings: dict[str, float] = field(default_factory=dict)
    found: tuple[Figure, ...] = ()

    def sizes(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """A network's layers; smaller ones where it must be quick."""
        return (sizes[0], *(max(4, n // 25) for n in sizes[1:-1]), sizes[-1]) if self.quick else sizes

    def count(self, full: int, quick: int) -> int:
        """So many of something."""
        return quick if self.quick else full

    @property
    def seconds(self) -> float:
        """How long one contestant is measured."""
        return 0.05 if self.quick else 1.0

    def rate(self, unit: str) -> float:
        """Bytes, or operations in some precision, a second."""
        return self.ceilings.get(unit) or DATASHEET[unit]

    def roofline(self, what: str, precision: str, scale: float) -> dict[str, float]:
        """A figure's ``floor``, in seconds times ``scale``, ``bytes`` and ``operations``; of the workloads of ``WORK``."""
        n_bytes, operations, least = WORK[what](self, precision)
        seconds = max(n_bytes / self.rate("bytes"), operations / self.rate(precision), least)
        return {"floor": scale * seconds, "bytes": n_bytes, "operations": operations}

    def best(self, what: str, start: str = "") -> float | None:
        """The least figure of a workload among the contestants whose name begins so."""
        values = [one.value for one in self.found if one.what == what and one.value and one.who.startswith(start)]
        return min(values, default=None)


def n_weights(sizes: tuple[int, ...]) -> int:
    return sum(n_in * n_out for n_in, n_out in itertools.pairwise(sizes))


def operations(sizes: tuple[int, ...], batch: int) -> float:
    """Of a step: two a weight and row, forward, backward and gradient; the inputs' own gradient is not needed."""
    return batch * (6.0 * n_weights(sizes) - 2.0 * sizes[0] * sizes[1])


# --- The least that a step, or an answer, moves and computes ------------------------------------------------------------


def _small_step(bench: Bench, precision: str) -> tuple[float, float, float]:
    """The rows from memory; weights stay on the chip. Hidden outputs cross over once."""
    sizes = bench.sizes(ARTICLE)
    return 4.0 * 10 * sizes[0], operations(sizes, 10), CROSSING


def _large_step(bench: Bench, precision: str) -> tuple[float, float, float]:
    """Weights read forward and back, and read and written by the update, which begins where products end, in float32; each layer's outputs and errors written and
    read twice, in the precision's own type; and the rows."""
    sizes, batch = bench.sizes(CIRESAN), bench.count(4096, 32)
    item = 2 if precision == "bf16" else 4
    moved = 16.0 * n_weights(sizes) + 6.0 * item * batch * sum(sizes[1:]) + 2.0 * item * batch * sizes[0]
    return moved, operations(sizes, batch), 0.0


def _online_step(bench: Bench, precision: str) -> tuple[float, float, float]:
    """Weights read forward, and read and written once more, for errors and the update."""
    sizes = bench.sizes(CIRESAN)
    return 12.0 * n_weights(sizes), operations(sizes, 1), 0.0


def _dropout_step(bench: Bench, precision: str) -> tuple[float, float, float]:
    """The rows from memory; weights and outputs, 8 and 1 MB, can stay in the L2 cache."""
    sizes = bench.sizes(WIDE)
    return 4.0 * 128 * sizes[0], operations(sizes, 128), 0.0


def _answer(sizes: tuple[int, ...]) -> Any:
    """A row in, outputs out; weights are read once for many rows."""
    return lambda bench, precision: (
        4.0 * (sizes[0] + sizes[-1]), 2.0 * n_weights(bench.sizes(sizes)), 0.0,
    )  # fmt: skip


def _fetched_answer(sizes: tuple[int, ...]) -> Any:
    """The same, where rows come from the host's memory and outputs go there, by turns."""
    n_bytes = 4.0 * (sizes[0] + sizes[-1])
    return lambda bench, precision: (n_bytes, 2.0 * n_weights(bench.sizes(sizes)), n_bytes / bench.rate("host"))


def _one_answer(sizes: tuple[int, ...]) -> Any:
    """One row: the weights, once, and one launch."""
    return lambda bench, precision: (4.0 * n_weights(bench.sizes(sizes)), 2.0 * n_weights(bench.sizes(sizes)), LAUNCH)


NAMES = {"784-100-10": ARTICLE, "20-64-64-2": TABLE, "841-...-10": CIRESAN}
"""Networks that are asked."""


WORK = {
    "784-100-10, batch 10": _small_step,
    "841-...-10, batch 4096": _large_step,
    "841-...-10, batch 1": _online_step,
    "784-1024-1024-10, dropout, batch 128": _dropout_step,
    **{f"predict, {name}, one row": _one_answer(sizes) for name, sizes in NAMES.items()},
    **{f"predict, {name}, a row of many, on the device": _answer(sizes) for name, sizes in NAMES.items()},
    **{f"predict, {name}, a row of many, from the host": _fetched_answer(sizes) for name, sizes in NAMES.items()},
}
"""Workload -> bench and precision -> bytes, operations, and seconds that it takes in any case."""


def data(n_in: int, n_rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """MNIST's training rows where they are, ``n_in`` columns of them and then of zeros; else rows as dense as they are."""
    rows, labels = mnist() or _noise(n_rows)
    rows, labels = (np.resize(array, (n_rows, *array.shape[1:])) for array in (rows, labels))
    rows = rows[:, 784 // 2 - n_in // 2 :][:, :n_in] if n_in < 784 else np.pad(rows, [(0, 0), (0, n_in - 784)])
    return np.ascontiguousarray(rows), labels


def asked(
    bench: Bench, sizes: tuple[int, ...]
) -> tuple[tuple[int, ...], list[NDArray[np.float32]], NDArray[np.float32]]:
    """A network that is asked: its layers, weights and biases by turns, and the many rows."""
    own, random = bench.sizes(sizes), np.random.default_rng(0)
    arrays = []
    for n_in, n_out in itertools.pairwise(own):
        arrays += [random.normal(0.0, n_in**-0.5, (n_in, n_out)), random.normal(0.0, 0.1, n_out)]
    many = bench.count(200_000 if sizes == CIRESAN else 1_000_000, 16)
    return own, [array.astype(np.float32) for array in arrays], random.random((many, own[0]), np.float32)


def answers(what: str, who: str, bench: Bench, rows: Any, device_rows: Any, ask: Callable[[Any], Any] | None, compute: Callable[[Any], Any] | None) -> Iterator[Figure]:  # fmt: skip
    """A contestant's figures: one row and many from the host's memory and back, and many that lie on the device.

    Args:
        ask: rows of the host -> outputs there; None to leave that out.
        compute: rows on the device -> outputs there, when they are done; None to leave that out.
    """
    calls: dict[str, tuple[Callable[[Any], Any] | None, Any]] = {
        "one row": (ask, rows[:1]),
        "a row of many, from the host": (ask, rows),
        "a row of many, on the device": (compute, device_rows),
    }
    for name, (call, given) in calls.items():
        if call is None or (name != "one row" and len(rows) == 1):
            continue
        kind = f"predict, {what}, {name}"
        more: dict[str, Any] = bench.roofline(kind, "float32" if name == "one row" else "tf32", 1e6)

        def once(call: Any = call, given: Any = given) -> int:
            call(given)
            return len(rows) if call is compute else len(given)

        try:
            each = seconds_each(once, bench.seconds / 2, warm=bench.count(20 if name == "one row" else 2, 1))
            note = "" if name == "one row" else f"{1.0 / each:,.0f} rows/s"
            yield Figure(kind, who, 1e6 * each, "µs", note=note, **more)
        except Exception as error:
            yield Figure(kind, who, note=f"{type(error).__name__}: {str(error).splitlines()[0][:160]}", **more)


def mnist(part: str = "train") -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """A part of MNIST, or "all" rows to train and to validate; None where it is not on this machine."""
    import fcnet
    from fcnet.data import mnist as source

    try:
        found = source.mnist(download=False)
    except (fcnet.FcnetError, ImportError):
        return None
    parts = [found.train, found.validation] if part == "all" else [found.part(part)]
    return np.concatenate([one.X for one in parts]).astype(np.float32), np.concatenate([one.y for one in parts])


def _noise(n_rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(0)
    X = random.random((n_rows, 784), np.float32)
    X[random.random(X.shape) < 0.81] = 0.0
    return X, random.integers(10, size=n_rows)


def seconds_each(call: Callable[[], int], seconds: float, warm: int = 2) -> float:
    """The median time of one of the things that a call does, and says how many it did; over about so many seconds."""
    for _ in range(warm):
        call()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        began = time.perf_counter()
        n = call()
        times.append((time.perf_counter() - began) / n)
    return statistics.median(times)


def read(path: Path) -> Bench:
    """What the parent wrote for a row."""
    record: dict[str, Any] = json.loads(path.read_text())
    return Bench(record["device"], record["quick"], record["ceilings"], tuple(Figure(**one) for one in record["found"]))


def caches(folder: Path) -> dict[str, str]:
    """Where compilers keep what they have compiled, for the whole of a run."""
    names = ("JAX_COMPILATION_CACHE_DIR", "NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    return {name: os.environ.get(name, str(folder / name.lower())) for name in names}
