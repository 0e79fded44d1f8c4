"""Time to accuracy: seconds from the start of a process to a test accuracy on MNIST, cold and warm.

Each contestant is a script of its own (``whole/``), measured from outside. All train on the 60,000 training images with
Adam at a constant 0.001, batch 128, shuffled, from their own library's usual initial weights, and look at the test images
once an epoch. Cold is the first run after all caches of compiled code were emptied, warm the runs that follow.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from markdown_tables import number, table
from whole_run import SCRIPTS, Settings, Whole, watch

GOALS = {
    0.978: Settings(hidden=(100,)),
    0.983: Settings(hidden=(512, 512), p_dropout=0.3),
}
"""Test accuracies, and the networks that reach them."""
EPOCHS = 60


def run(folder: Path, goals: list[float], repeats: int, limit: float, quick: bool) -> tuple[str, list[Any], bool]:
    """Measure everyone: the report, and the same as data."""
    reports, data = [f"## Time to accuracy\n\n{' '.join((__doc__ or '').split(chr(10), 2)[2].split())}"], []
    for goal, settings in ((goal, GOALS[goal]) for goal in goals):
        wanted = 0.9 if quick else goal
        rows = []
        for name, script in SCRIPTS.items():
            runs = _runs(folder, script, settings, wanted, 1 if quick else repeats, limit)
            rows.append([name, *_cells(runs, limit)])
            data.append(
                {"goal": wanted, "name": name, "settings": settings.as_data(), "runs": [r.as_data() for r in runs]}
            )
        columns = ("contestant", "cold, s", "warm, s", "epochs", "s an epoch", "s to the first epoch", "memory, MB")
        reports.append(f"### {wanted:.1%} with {settings}\n\n{table(columns, rows)}")
    return "\n\n".join(reports), data, True


def _runs(folder: Path, script: str, settings: Settings, goal: float, repeats: int, limit: float) -> list[Whole]:
    """A cold run and, where that got there, warm ones."""
    runs: list[Whole] = []
    with tempfile.TemporaryDirectory(prefix="fcnet-cold-") as caches:
        for seed in (0, *range(repeats)):
            runs.append(watch(script, folder, settings.of(seed, EPOCHS, goal), limit, Path(caches)))
            if runs[-1].reached is None:
                break
    return runs


def _cells(runs: list[Whole], limit: float) -> list[str]:
    if gone := [run.out for run in runs if run.out]:
        return [gone[0], *["-"] * 5]
    cold, *warm = runs
    seconds = [run.reached for run in warm if run.reached is not None]
    spread = f" ({number(min(seconds))} to {number(max(seconds))})" if len(seconds) > 1 else ""
    counts = [run.epochs for run in runs if run.reached is not None]
    return [
        _reached(cold, limit),
        f"{number(statistics.median(seconds))}{spread}" if seconds else _reached(warm[0], limit) if warm else "-",
        f"{min(counts)} to {max(counts)}" if counts else str(cold.epochs),
        number(statistics.median(run.epoch_seconds for run in runs)),
        number(runs[-1].first),
        number(max(run.memory for run in runs)),
    ]


def _reached(run: Whole, limit: float) -> str:
    if run.reached is not None:
        return number(run.reached)
    return f"not reached: {run.best:.2%} in {run.epochs} epochs and {min(limit, run.seconds):.0f} s"
