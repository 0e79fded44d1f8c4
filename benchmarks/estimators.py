"""How much faster are fcnet's estimators than scikit-learn's, at scikit-learn's own defaults?

Every measurement is a process of its own: it makes the data, fits once on a few rows (what is compiled, is compiled), then times
whole calls of ``fit`` and reports the most memory it used. The two libraries take turns, so that they share whatever the machine
does meanwhile. Both run as many epochs (``tol=0``), at most 200 and fewer where rows are many.

    python benchmarks/estimators.py [--quick] [--only sgd] [--json FILE] [--rounds 5] [--threads 0]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import machine
from markdown_tables import number, table
from memory import peak_memory

LIBRARIES = ("sklearn.neural_network", "fcnet")
GOAL_ROWS, GOAL = 2_000, 3.0
"""From so many rows on, fcnet is to be so many times faster; below, not slower."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    rows: int
    columns: int = 20
    batch: int | str = "auto"
    solver: str = "adam"
    kind: str = "MLPClassifier"
    dtype: str = "float64"

    @property
    def epochs(self) -> int:
        """About as much work in every case."""
        return int(np.clip(400_000 // self.rows, 2, 200))

    def __str__(self) -> str:
        batch = "" if self.solver == "lbfgs" else f", batch {self.batch}"
        kind = {"MLPClassifier": "classes", "MLPRegressor": "values"}[self.kind]
        return f"{self.rows:,} x {self.columns}{batch}, {self.solver}, {kind}, {self.dtype}"

    def data(self) -> tuple[Any, Any]:
        """The same rows for both."""
        rng = np.random.default_rng(0)
        X = rng.standard_normal((self.rows, self.columns)).astype(self.dtype)
        z = X @ rng.standard_normal((self.columns, 3)) + np.sin(X[:, :3])
        return X, (z.argmax(axis=1) if self.kind == "MLPClassifier" else z[:, 0] / z[:, 0].std())


def cases() -> list[Case]:
    """Rows, then solvers, then widths, batches, values and float32 at sizes of their own."""
    rows = (100, 500, 2_000, 10_000, 100_000, 1_000_000)
    found = [Case(n, solver=solver) for solver in ("adam", "sgd", "lbfgs") for n in rows]
    found += [Case(n, columns=columns) for columns in (5, 100, 500) for n in (500, 2_000, 20_000)]
    found += [Case(n, batch=batch) for batch in (10, 50, 1000) for n in (2_000, 20_000)]
    found += [Case(n, kind="MLPRegressor") for n in (100, 2_000, 100_000)]
    return [*found, *(Case(n, dtype="float32") for n in (100, 2_000, 100_000))]


def measure(library: str, case: Case, repeats: int) -> dict[str, Any]:
    """Seconds of each fit, and the most memory in MB; called in a process of its own."""
    warnings.filterwarnings("ignore")
    kind = getattr(__import__(library, fromlist=[case.kind]), case.kind)
    settings = {"max_iter": case.epochs, "tol": 0.0, "n_iter_no_change": case.epochs, "random_state": 0}
    settings |= {"solver": case.solver, "batch_size": case.batch, "max_fun": 10**9}
    X, y = case.data()
    few = slice(0, 60)
    kind(**settings | {"max_iter": 2, "batch_size": "auto"}).fit(X[few], y[few])
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        kind(**settings).fit(X, y)
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "memory": peak_memory()}


def in_a_process(library: str, case: Case, repeats: int, threads: int) -> dict[str, Any]:
    """What ``measure`` answers, from a fresh process."""
    limit = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")} if threads else {}
    command = [sys.executable, __file__, "--one", json.dumps([library, asdict(case), repeats])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | limit, check=False)
    if done.returncode:
        raise SystemExit(f"{library} on {case} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(case: Case, rounds: int, threads: int) -> dict[str, Any]:
    """Both libraries on a case, in turns."""
    repeats = 5 if case.rows <= 2_000 else 1
    turns: dict[str, list[dict[str, Any]]] = {library: [] for library in LIBRARIES}
    for turn in range(rounds):
        for library in LIBRARIES if turn % 2 else LIBRARIES[::-1]:
            turns[library].append(in_a_process(library, case, repeats, threads))
    seconds = {name: [second for turn in runs for second in turn["seconds"]] for name, runs in turns.items()}
    memory = {name: max(turn["memory"] for turn in runs) for name, runs in turns.items()}
    return {"case": asdict(case), "name": str(case), "epochs": case.epochs, "seconds": seconds, "memory": memory}


def cells(result: dict[str, Any]) -> list[str]:
    """A row of the table."""
    theirs, own = (statistics.median(result["seconds"][library]) for library in LIBRARIES)
    wanted = GOAL if result["case"]["rows"] >= GOAL_ROWS else 1.0
    ratio = theirs / own
    memory = [f"{result['memory'][library]:,.0f}" for library in LIBRARIES]
    mark = "" if ratio >= wanted else f"below {wanted:g}"
    epochs = str(result["epochs"])
    return [result["name"], epochs, number(1e3 * theirs), number(1e3 * own), f"{ratio:.2f}", mark, *memory]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: does it run")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each library for each case")
    parser.add_argument("--threads", type=int, default=0, help="threads of each library; 0 for its own choice")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        library, case, repeats = json.loads(options.one)
        print(json.dumps(measure(library, Case(**case), repeats)))
        return
    chosen, rounds = [case for case in cases() if options.only in str(case)], options.rounds
    if options.quick:
        chosen, rounds = [replace(case, rows=100) for case in (Case(1), Case(1, solver="lbfgs"))], 1
    about, results = machine.describe() | {"threads": str(options.threads or "as each chooses")}, []
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    for case in chosen:
        results.append(compare(case, rounds, options.threads))
        print(" | ".join(cells(results[-1])), file=sys.stderr, flush=True)
    columns = ("rows x columns", "epochs", "scikit-learn, ms", "fcnet, ms", "ratio", "goal", "MB", "MB, fcnet")
    print("\n" + table(columns, [cells(result) for result in results]))
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "results": results}, indent=1))


if __name__ == "__main__":
    main()
