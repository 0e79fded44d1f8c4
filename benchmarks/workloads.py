"""What is raced: networks, how they are trained, and on which rows. The same for every contestant.

The arrays lie as ``.npy`` files in one folder that every process reads, so that no contestant pays for another's loader.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Parameters = list[tuple[NDArray[np.float32], NDArray[np.float32]]]
"""(w, b) of each layer: ``(n_in, n_out)`` and ``(n_out,)``."""

JUDGED_ROWS = 5_000
"""Rows on which training costs are compared."""
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Workload:
    """One training, with the softmax of the last layer and the log-likelihood cost.

    Attributes:
        name: what it is called in tables.
        data: "mnist" or "table".
        sizes: units of every layer, inputs first.
        activation: of the hidden layers, "sigmoid" or "relu".
        optimizer: "sgd" or "adam" (beta 0.9 and 0.999, epsilon 1e-8).
        learning_rate: constant.
        batch: rows a step; only whole batches, in the data's order, epoch after epoch.
        p_dropout: probability that a hidden output is dropped in a step.
        judged_steps: steps, within one epoch, after which contestants must have the same training cost.
        tolerance: relative difference of training cost that rounding, or other dropout masks, may make.
        goal: fcnet's time as a fraction of the best peer's that the project has set itself.
    """

    name: str
    data: str
    sizes: tuple[int, ...]
    activation: str
    optimizer: str
    learning_rate: float
    batch: int
    judged_steps: int
    goal: float
    p_dropout: float = 0.0
    tolerance: float = 0.02

    @property
    def n_weights(self) -> int:
        return sum(n_in * n_out for n_in, n_out in itertools.pairwise(self.sizes))

    @property
    def operations(self) -> int:
        """Floating-point operations of a step, by convention: two a weight and row, forward, backward and gradient."""
        return 6 * self.n_weights * self.batch

    def __str__(self) -> str:
        network = "-".join(map(str, self.sizes))
        dropout = f", dropout {self.p_dropout:g}" if self.p_dropout else ""
        return f"{network} {self.activation}, {self.optimizer} {self.learning_rate:g}, batch {self.batch}{dropout}"


_NIELSEN = Workload("nielsen", "mnist", (784, 100, 10), "sigmoid", "sgd", 0.1, 10, judged_steps=1000, goal=0.25)
WORKLOADS = {
    workload.name: workload
    for workload in (
        _NIELSEN,
        replace(_NIELSEN, name="online", batch=1, judged_steps=2000, goal=0.35),
        Workload("sklearn", "mnist", (784, 100, 10), "relu", "adam", 0.001, 200, judged_steps=200, goal=0.65),
        Workload("tabular", "table", (20, 64, 64, 2), "relu", "adam", 0.001, 256, judged_steps=195, goal=0.45),
        Workload(
            "dropout",
            "mnist",
            (784, 1024, 1024, 10),
            "relu",
            "sgd",
            0.1,
            128,
            judged_steps=200,
            goal=0.75,
            p_dropout=0.5,
            tolerance=0.15,
        ),
    )
}


@dataclass(frozen=True)
class Task:
    """A workload and the folder where its arrays are: what a contestant's process is given."""

    workload: Workload
    folder: Path

    def rows(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """``(X, y)``, whole batches only, in C order and in memory."""
        X, y = (
            np.load(self.folder / f"{self.workload.data}-X.npy"),
            np.load(self.folder / f"{self.workload.data}-y.npy"),
        )
        n_rows = len(X) // self.workload.batch * self.workload.batch
        return X[:n_rows], y[:n_rows]

    def parameters(self) -> Parameters:
        return initial_parameters(self.workload.sizes, self.workload.activation)


def initial_parameters(sizes: tuple[int, ...], activation: str) -> Parameters:
    """Where everyone starts: w from N(0, gain / n_in), b = 0."""
    random = np.random.default_rng(0)
    gain = 2.0 if activation == "relu" else 1.0
    return [
        (
            (random.standard_normal((n_in, n_out)) * np.sqrt(gain / n_in)).astype(np.float32),
            np.zeros(n_out, np.float32),
        )
        for n_in, n_out in itertools.pairwise(sizes)
    ]


# --- Data -------------------------------------------------------------------------------------------------------------


def find_data() -> None:
    """Point FCNET_DATA at the data beside the repository, where it is not set and there is such a folder."""
    beside = REPOSITORY.parent / "shared" / "data"
    if "FCNET_DATA" not in os.environ and beside.is_dir():
        os.environ["FCNET_DATA"] = str(beside)


def write_data(folder: Path) -> None:
    """Write ``mnist`` (50,000 rows to train), ``all`` (60,000), ``test`` (10,000) and ``table`` as ``.npy``."""
    import fcnet

    mnist = fcnet.load_data("mnist")
    parts = (mnist.train, mnist.validation)
    arrays = {
        "mnist": (mnist.train.X, mnist.train.y),
        "all": (np.concatenate([part.X for part in parts]), np.concatenate([part.y for part in parts])),
        "test": (mnist.test.X, mnist.test.y),
        "table": table(),
    }
    for name, (X, y) in arrays.items():
        np.save(folder / f"{name}-X.npy", np.ascontiguousarray(X, np.float32))
        np.save(folder / f"{name}-y.npy", np.ascontiguousarray(y, np.int64))


def table(n_rows: int = 50_000) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A table in the manner of scikit-learn's ``make_classification``, standardised: 20 columns, 2 classes.

    Ten informative columns in four Gaussian clusters a class at corners of a cube, five mixtures of them, five of noise;
    5% of the labels are flipped, so that the cost stays away from zero.
    """
    random = np.random.default_rng(0)
    cluster = random.integers(0, 8, n_rows)
    corners = random.choice([-1.0, 1.0], (8, 10))
    informative = corners[cluster] + random.standard_normal((n_rows, 10))
    mixtures = informative @ random.standard_normal((10, 5))
    X = np.hstack([informative, mixtures, random.standard_normal((n_rows, 5))])
    y = np.where(random.random(n_rows) < 0.05, 1 - cluster % 2, cluster % 2)
    return ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32), y.astype(np.int64)
