"""Large tables by the command line: training on 1,000,000 rows x 20 columns of Parquet, predicting for 5,000,000, and their memory.

    python tests/large_tables.py                        about five minutes on two cores
    python tests/large_tables.py 100000 500000          fewer rows to train on, and to predict for

prints a table, and exits with 1 where predicting took 1 GB or more, or training more than it said it would beside what the
command takes for a small table. Memory is that of the command and of the processes that it starts, looked at twenty times a second; pages that
two of them share count once.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars
import pyarrow.parquet

COMMAND = [str(Path(sys.executable).with_name("fcnet"))]
LIMIT = 1_000_000_000
BLOCK = 1 << 17
UNITS = {"bytes": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9}


def rows(n, seed):
    """20 columns: 13 numbers, of which one has holes, 2 whole ones, 2 of true and false, 3 of categories; and the target."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(13, n))
    town, kind, colour = (draw.integers(0, size, n) for size in (200, 30, 5))
    columns = {f"x{k}": x[k] for k in range(13)}
    columns |= {
        "count": draw.poisson(4, n),
        "year": draw.integers(1950, 2025, n),
        "new": x[0] > 1,
        "sold": draw.random(n) > 0.5,
    }
    frame = polars.DataFrame(columns).with_columns(
        polars.when(polars.col("x3") > 1).then(None).otherwise(polars.col("x3")).alias("x3"),
        *(
            polars.Series(name, np.array([f"{name} {k}" for k in range(size)])[codes])
            for name, size, codes in (("town", 200, town), ("kind", 30, kind), ("colour", 5, colour))
        ),
    )
    return frame.with_columns(price=polars.Series(2 * x[0] + x[1] * x[2] + np.sin(town) + 0.5 * draw.normal(size=n)))


def write(path, n, seed):
    """A Parquet file of so many rows, made and written block by block."""
    writer = None
    for block, start in enumerate(range(0, n, BLOCK)):
        table = rows(min(BLOCK, n - start), seed + block).to_arrow()
        writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def processes(root):
    """A process and all that it started, and those in turn."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def held(process):
    """Bytes of a process, shared pages by their part."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def run(*arguments):
    """What the command says, the most memory that it took, and its seconds."""
    began, most = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=said, stderr=subprocess.STDOUT)
        while child.poll() is None:
            most = max(most, sum(map(held, processes(child.pid))))
            time.sleep(0.05)
        said.seek(0)
        text = said.read()
    if child.returncode:
        raise SystemExit(text)
    return text, most, time.perf_counter() - began


def main(arguments):
    n_train, n_predict = map(int, arguments or (1_000_000, 5_000_000))
    with tempfile.TemporaryDirectory(prefix="fcnet-large-") as name:
        folder = Path(name)
        write(folder / "small.parquet", 2000, 0)
        write(folder / "train.parquet", n_train, 1)
        write(folder / "new.parquet", n_predict, 1_000)
        train = ("--target", "price", "--preset", "fast", "--time-budget", "60s")
        _, base, _ = run("train", folder / "small.parquet", *train, "--out", folder / "small")
        said, trained, training = run("train", folder / "train.parquet", *train, "--out", folder / "run")
        number, unit = re.search(r"memory: about ([0-9.]+) (\w+)", said).groups()
        planned = float(number) * UNITS[unit]
        answers = folder / "answers.csv"
        _, predicted, predicting = run("predict", folder / "run", folder / "new.parquet", "--out", answers)
        with answers.open("rb") as lines:
            n_answers = sum(1 for _ in lines) - 1
        sizes = [(folder / f"{which}.parquet").stat().st_size for which in ("train", "new")]
    print(f"| large tables | {n_train:,} x 20 trained on | {n_predict:,} x 20 predicted |")
    print("| --- | ---: | ---: |")
    print(f"| Parquet, MB | {sizes[0] / 1e6:,.0f} | {sizes[1] / 1e6:,.0f} |")
    print(f"| most memory, MB | {trained / 1e6:,.0f} | {predicted / 1e6:,.0f} |")
    print(f"| of which for a table of 2,000 rows | {base / 1e6:,.0f} | |")
    print(f"| planned beside that | {planned / 1e6:,.0f} | |")
    print(f"| seconds | {training:,.0f} | {predicting:,.0f} |")
    return n_answers != n_predict or predicted >= LIMIT or trained > base + planned


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
