"""The branches that tests take in the files where nothing may be lost; fails where one has fewer than 95 of 100.

python -m pytest --cov fcnet --cov-branch && python tests/branches.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from coverage import Coverage

LEAST = 95.0
FILES = ("checkpoint", "keeper", "training", "loop", "judges", "interrupts", "identity", "memory", "host", "data/*")
"""Of the package."""


def main() -> int:
    """Print the files' branches; 1 where there are too few."""
    measured = Coverage()
    measured.load()
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        measured.json_report(include=[f"*/fcnet/{name}.py" for name in FILES], outfile=report.name)
        files = json.loads(Path(report.name).read_text())["files"]
    few = 0
    for name, found in files.items():
        summary = found["summary"]
        share = 100.0 * summary["covered_branches"] / summary["num_branches"] if summary["num_branches"] else 100.0
        missing = ", ".join(f"{start} to {end}" for start, end in found["missing_branches"])
        print(f"{share:6.1f}% of {summary['num_branches']:3} branches  {name}  {missing}")
        few += share < LEAST
    if not files:
        print("Nothing was measured.")
    return 1 if few or not files else 0


if __name__ == "__main__":
    sys.exit(main())
