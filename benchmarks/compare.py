"""fcnet against scikit-learn, PyTorch, Keras, jax and ONNX Runtime, in one run on this machine.

    python benchmarks/compare.py                         everything; about an hour on two cores
    python benchmarks/compare.py training --only nielsen,online
    python benchmarks/compare.py --quick                 whether it works; its figures mean nothing
    python benchmarks/compare.py --json results.json > results.md

training    microseconds a step of five trainings, interleaved, after a check that all do the same work
inference   one row, and many
accuracy    seconds from process start to a test accuracy on MNIST, cold and warm
book        the book's run, 60 epochs of 5,000 steps, as a command

The peers come with ``pip install 'fcnet[bench]'``; one that is missing has a row that says so. The exit code is 1 where a
contestant did other work than fcnet.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import accuracy
import book
import inference
import machine
import training
import workloads
from markdown_tables import table
from race import Effort

SECTIONS = ("training", "inference", "accuracy", "book")
FULL, QUICK = Effort(rounds=15, seconds=0.8), Effort(rounds=2, seconds=0.05)


def main() -> int:
    options = _options()
    effort = QUICK if options.quick else FULL
    description = machine.describe()
    if machine.is_busy():
        print("The machine is busy with something else: these figures will not mean much.", file=sys.stderr)
    rows = [list(item) for item in description.items()]
    print(f"# Benchmark{' (quick: figures mean nothing)' if options.quick else ''}\n\n{table(('', ''), rows)}\n")
    results: dict[str, Any] = {"machine": description, "quick": options.quick}
    right = True
    workloads.find_data()
    with tempfile.TemporaryDirectory(prefix="fcnet-bench-") as name:
        folder = Path(name)
        workloads.write_data(folder)
        for section in options.sections or SECTIONS:
            match section:
                case "training":
                    report, data, same = training.run(folder, options.only, effort, options.quick)
                case "inference":
                    report, data, same = inference.run(folder, effort)
                case "accuracy":
                    report, data, same = accuracy.run(
                        folder, options.goals, options.repeats, options.limit, options.quick
                    )
                case "book":
                    report, data, same = book.run(folder, None if options.full else options.epochs, options.quick)
            print(f"{report}\n", flush=True)
            results[section] = data
            right = right and same
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return 0 if right else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all of them by default")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(workloads.WORKLOADS),
        help=f"training workloads, of {','.join(workloads.WORKLOADS)}",
    )
    parser.add_argument("--quick", action="store_true", help="very few steps, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to a file too")
    parser.add_argument(
        "--goals",
        type=lambda text: [float(goal) for goal in text.split(",")],
        default=list(accuracy.GOALS),
        help=f"accuracy: of {','.join(map(str, accuracy.GOALS))}",
    )
    parser.add_argument("--repeats", type=int, default=3, help="accuracy: warm runs, each with another seed")
    parser.add_argument("--limit", type=float, default=120.0, help="accuracy: seconds that a run may take")
    parser.add_argument("--epochs", type=int, default=3, help="book: epochs of the peers, extrapolated to 60")
    parser.add_argument("--full", action="store_true", help="book: all 60 epochs of the peers")
    options = parser.parse_args()
    for given, known in (
        (options.sections, SECTIONS),
        (options.only, workloads.WORKLOADS),
        (options.goals, accuracy.GOALS),
    ):
        if unknown := [str(name) for name in given if name not in known]:
            parser.error(f"unknown: {', '.join(unknown)}; expected of {', '.join(map(str, known))}")
    return options


if __name__ == "__main__":
    sys.exit(main())
