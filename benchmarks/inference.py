"""Inference raced: microseconds for one row, and rows a second for many; NumPy in, NumPy out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from judge import log_probabilities
from markdown_tables import number, table
from peers import CPU_ONLY, INFERENCE, is_peer
from peers.questions import MANY
from race import Effort, Racer, note, race
from workloads import initial_parameters

NETWORKS = ((784, 100, 10), (784, 1024, 1024, 10))
TOLERANCE = 1e-3
"""How far probabilities may be from the judge's."""


def run(folder: Path, effort: Effort) -> tuple[str, list[Any], bool]:
    """Race the networks: the report, the same as data, and whether everyone answered right."""
    X = np.load(folder / "test-X.npy")
    reports, data, right = ["## Inference"], [], True
    for sizes in NETWORKS:
        for n_rows in (1, MANY):
            racers, wrong = _race(sizes, X[:n_rows].copy(), effort)
            reports.append(_section(sizes, n_rows, racers, wrong))
            contestants = [racer.as_data() for racer in racers]
            data.append({"sizes": sizes, "rows": n_rows, "wrong": wrong, "contestants": contestants})
            right = right and not wrong
    return "\n\n".join(reports), data, right


def _race(sizes: tuple[int, ...], X: Any, effort: Effort) -> tuple[list[Racer], list[str]]:
    expected = np.exp(log_probabilities(initial_parameters(sizes, "relu"), "relu", X))
    racers = [Racer(name, home, CPU_ONLY, (sizes, X)) for name, home in INFERENCE.items()]
    wrong = []
    try:
        for racer in racers:
            note(f"inference {sizes}, {len(X)} rows: {racer.name} starts")
            racer.start()
            answer = racer.ask(("proof", 0))
            if answer is not None and not np.allclose(answer[:, : sizes[-1]], expected, atol=TOLERANCE):
                wrong.append(racer.name)
        race(racers, effort)
    finally:
        for racer in racers:
            racer.stop()
    return racers, wrong


def _section(sizes: tuple[int, ...], n_rows: int, racers: list[Racer], wrong: list[str]) -> str:
    one = n_rows == 1
    peers = [racer for racer in racers if is_peer(racer.name) and racer.name not in wrong]
    best = min((racer.timing.median for racer in peers if racer.timing), default=None)
    columns = (
        "contestant",
        "µs a row" if one else "million rows/s",
        "10th to 90th percentile",
        "time to best peer",
        "memory, MB",
        "tuned to",
    )
    rows = []
    for racer in racers:
        timing = racer.timing
        if timing is None:
            rows.append([racer.name, racer.out or "-", *["-"] * 4])
            continue
        low, median, high = timing.low, timing.median, timing.high
        if not one:
            low, median, high = n_rows / high, n_rows / median, n_rows / low
        form = number if one else "{:.3f}".format
        rows.append(
            [
                racer.name + (" WRONG" if racer.name in wrong else ""),
                form(median),
                f"{form(low)} to {form(high)}",
                f"{timing.median / best:.2f}" if best else "-",
                f"{racer.memory[0]:.0f}" if racer.memory else "-",
                racer.description,
            ]
        )
    title = f"### {'-'.join(map(str, sizes))} relu, {'one row' if one else f'{n_rows:,} rows'}"
    verdict = [f"**FAILED: other probabilities than the judge's: {', '.join(wrong)}.**"] if wrong else []
    return "\n\n".join([title, table(columns, rows), *verdict])
