"""Whole processes: from their start to a test accuracy on MNIST, what is compiled being cached."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from on_gpu.bench import Bench, Figure, mnist
from whole_run import Settings, watch

RECIPES = (
    (0.978, Settings(hidden=(100,)), 2),
    (0.978, Settings(hidden=(100,), activation="sigmoid", optimizer="sgd", learning_rate=0.1, batch=10), 1),
    (0.985, Settings(hidden=(800,), p_dropout=0.5, optimizer="sgd", learning_rate=0.1, batch=10), 1),
    (0.985, Settings(hidden=(1024, 1024), p_dropout=0.5), 2),
)
"""Test accuracy, the recipe, the same for both (the second is the book's), and how often PyTorch is run: its files are in memory after the
first recipe's first run."""
MOST_SECONDS = 30.0
"""Of a process; what had not got there by then took longer."""


def whole(bench: Bench) -> Iterator[Figure]:
    """Seconds to each recipe's accuracy, of the last of some runs: the first fills the caches."""
    parts = {"all": mnist("all"), "test": mnist("test")}
    if parts["all"] is None or parts["test"] is None:
        yield Figure("MNIST, whole process", "fcnet", note="no MNIST here: set FCNET_DATA")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, (X, y) in parts.items():  # type: ignore[misc]  # both are there
            rows = bench.count(len(X), 1000)
            np.save(folder / f"{part}-X.npy", X[:rows])
            np.save(folder / f"{part}-y.npy", y[:rows])
        for goal, recipe, peers_runs in RECIPES:
            hidden = bench.sizes((784, *recipe.hidden, 10))[1:-1]
            own = replace(recipe, hidden=hidden, device=bench.device).of(0, 60, 0.3 if bench.quick else goal)
            ours, theirs = (
                [watch(script, folder, own, MOST_SECONDS) for _ in range(bench.count(runs, 1))][-1]
                for script, runs in (("with_fcnet.py", 2), ("with_pytorch.py", peers_runs))
            )
            what = f"MNIST to {goal:.1%}, whole process, {recipe}"
            late = theirs.reached is None and theirs.seconds >= MOST_SECONDS
            at_least = MOST_SECONDS if late else theirs.reached
            note = "" if theirs.reached else f"more than {MOST_SECONDS:.0f} s" if late else theirs.out or "not reached"
            yield Figure(what, "peer: PyTorch", theirs.reached, "s", note=note)
            if ours.reached is None:
                yield Figure(what, "fcnet", None, "s", "5x sooner", False, note=ours.out or "not reached")
                continue
            ratio = at_least / ours.reached if at_least else None
            note = f"{'more than ' if late else ''}{ratio:.2f}x sooner" if ratio else ""
            yield Figure(what, "fcnet", ours.reached, "s", "5x sooner", bool(ratio and ratio >= 5), note=note)
