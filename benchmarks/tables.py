"""Tables: fcnet's presets beside scikit-learn's network, boosted trees, and RealMLP where pytabkit is installed.

    python benchmarks/tables.py                       every table and method, 5 seeds: hours on two cores
    python benchmarks/tables.py --quick               one seed, at most 3,000 training rows, no "best"
    python benchmarks/tables.py --tables titanic,abalone --methods default,boosting --seeds 2 --out results.jsonl

Reads the tables where FCNET_DATA points, else ``../shared/data``. A measurement is a table, a method and a seed: test error (the
part of wrong classes, or the root of the mean squared error over the target's standard deviation), seconds of fit and of predict,
and the expected calibration error on the test rows. With ``--out`` each is a line of JSON, written as it comes, and what stands there
already is not measured again, so that a run can be cut in pieces. The closing table has each method's means, and its mean rank by
error over the tables: of the peers beside "default", of a preset beside the peers.

The test rows: by ``__split__`` where a table has it, else one row in five, the same ones whatever the seed, which decides weights and
orders alone. Every method gets the same columns and the same rows, its validation rows among them. scikit-learn's network is at
its defaults, on standardised numbers and one-hot columns; "early stopping" is the same with ``early_stopping=True``; boosting is
HistGradientBoosting at its defaults, whose categories are ordinals; RealMLP is pytabkit's RealMLP-TD at its defaults, with missing
numbers as the median and a flag, which it has no way for of its own.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars

import machine
from fcnet import TabularClassifier, TabularRegressor
from fcnet.data.table import read_table
from fcnet.tabular.calibration import expected_calibration_error
from markdown_tables import number, table

FOLDER = Path(os.environ.get("FCNET_DATA") or Path(__file__).parents[2] / "shared" / "data") / "tables"
TABLES = {
    "adult": ("income", True, []),
    "california_housing_mixed": ("median_house_value", False, []),
    "abalone": ("rings", False, []),
    "titanic": ("survived", True, ["boat", "body"]),
    "letter": ("letter", True, []),
}
"""Name -> target, whether it holds classes, columns to leave out."""
QUICK_ROWS = 3000
PRESETS = ("fast", "default", "best")

Frame = polars.DataFrame
Parts = tuple[Frame, np.ndarray, Frame, np.ndarray, bool]
"""Training rows and answers, test rows and answers, and whether these are classes."""


# --- Methods: (training table, its answers, whether they are classes, seed) -> an estimator of tables, fitted --------------


def preset(name: str) -> Callable[..., Any]:
    def fit(X: Frame, y: np.ndarray, classes: bool, seed: int) -> Any:
        return (TabularClassifier if classes else TabularRegressor)(name, random_state=seed).fit(X, y)

    return fit


class Piped:
    """A scikit-learn estimator on Polars frames: text by ordinals or one-hot, numbers as they are or standardised."""

    def __init__(self, estimator: Any, X: Frame, ordinal: bool) -> None:
        from sklearn.compose import make_column_transformer
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

        numbers = [place for place, kind in enumerate(X.dtypes) if kind.is_numeric()]
        names = [place for place in range(X.width) if place not in numbers]
        if ordinal:
            encode = make_column_transformer(
                ("passthrough", numbers),
                (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, max_categories=250), names),
            )
        else:
            encode = make_column_transformer(
                (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
                (OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=5, sparse_output=False), names),
            )
        self.pipeline = make_pipeline(encode, estimator)

    @staticmethod
    def array(X: Frame) -> np.ndarray:
        columns = [
            X[name].cast(polars.Float64).fill_null(np.nan).to_numpy()
            if X[name].dtype.is_numeric()
            else X[name].cast(polars.String).fill_null("missing").to_numpy()
            for name in X.columns
        ]
        return np.column_stack([column.astype(object) for column in columns])

    def fit(self, X: Frame, y: np.ndarray) -> Piped:
        self.pipeline.fit(self.array(X), y)
        return self

    def predict(self, X: Frame) -> np.ndarray:
        return self.pipeline.predict(self.array(X))

    def predict_proba(self, X: Frame) -> np.ndarray:
        return self.pipeline.predict_proba(self.array(X))


def sklearn_network(X: Frame, y: np.ndarray, classes: bool, seed: int, early_stopping: bool) -> Any:
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import StandardScaler

    if classes:
        return Piped(MLPClassifier(early_stopping=early_stopping, random_state=seed), X, ordinal=False).fit(X, y)
    network = TransformedTargetRegressor(
        MLPRegressor(early_stopping=early_stopping, random_state=seed), transformer=StandardScaler()
    )
    return Piped(network, X, ordinal=False).fit(X, y)


def boosting(X: Frame, y: np.ndarray, classes: bool, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    return Piped(kind(random_state=seed), X, ordinal=True).fit(X, y)


class RealMLP:
    """pytabkit's RealMLP-TD, on pandas frames as it wants them."""

    def __init__(self, X: Frame, y: np.ndarray, classes: bool, seed: int) -> None:
        from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor

        numbers = {name: X[name].cast(polars.Float64) for name in X.columns if X[name].dtype.is_numeric()}
        self.medians = {name: column.median() for name, column in numbers.items()}
        self.flagged = [name for name, column in numbers.items() if column.null_count()]
        kind = RealMLP_TD_Classifier if classes else RealMLP_TD_Regressor
        self.model = kind(random_state=seed, device="cpu").fit(self.frame(X), y)

    def frame(self, X: Frame) -> Any:
        import pandas

        columns: dict[str, Any] = {}
        for name in X.columns:
            if name in self.medians:
                columns[name] = X[name].cast(polars.Float64).fill_null(self.medians[name]).to_numpy()
            else:
                columns[name] = pandas.Categorical(X[name].cast(polars.String).fill_null("missing").to_list())
        columns |= {f"{name} is missing": X[name].is_null().cast(polars.Float64).to_numpy() for name in self.flagged}
        return pandas.DataFrame(columns)

    def predict(self, X: Frame) -> np.ndarray:
        return self.model.predict(self.frame(X))

    def predict_proba(self, X: Frame) -> np.ndarray:
        return self.model.predict_proba(self.frame(X))


PEERS: dict[str, Callable[..., Any]] = {
    "scikit-learn MLP": functools.partial(sklearn_network, early_stopping=False),
    "early stopping": functools.partial(sklearn_network, early_stopping=True),
    "boosting": boosting,
}
if importlib.util.find_spec("pytabkit"):
    PEERS["RealMLP"] = RealMLP
METHODS = PEERS | {name: preset(name) for name in PRESETS}


# --- One measurement --------------------------------------------------------------------------------------------------


def test_rows(frame: Frame) -> np.ndarray:
    """Which rows no method sees before it is judged, ``(n_rows,)``."""
    if "__split__" in frame.columns:
        return (frame["__split__"] == "test").to_numpy()
    held = np.zeros(frame.height, bool)
    held[np.random.default_rng(0).permutation(frame.height)[: frame.height // 5]] = True
    return held


def parts(name: str, rows: int | None = None) -> Parts:
    """A table's parts, with so many training rows at most."""
    target, classes, left_out = TABLES[name]
    frame = read_table(FOLDER / f"{name}.csv").drop(left_out)
    tested = test_rows(frame)
    training, test = np.flatnonzero(~tested), np.flatnonzero(tested)
    if rows is not None:
        training = np.sort(np.random.default_rng(0).permutation(training)[:rows])
    answers = frame[target].to_numpy()
    y = answers.astype(str) if classes else answers.astype(float)
    X = frame.drop(target, "__split__", strict=False)
    return X[training], y[training], X[test], y[test], classes


def judge(parts: Parts, method: str, seed: int) -> dict[str, Any]:
    """A method's error on a table, its calibration where there are classes, and how long it took."""
    X, y, X_test, y_test, classes = parts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.perf_counter()
        model = METHODS[method](X, y, classes, seed)
        fitted = time.perf_counter()
        predicted = np.asarray(model.predict(X_test))
        asked = time.perf_counter()
        calibration = None
        if classes:
            error = float((predicted.astype(str) != y_test).mean())
            known = np.unique(y)
            calibration = expected_calibration_error(
                np.asarray(model.predict_proba(X_test)), np.searchsorted(known, y_test)
            )
        else:
            error = float(np.sqrt(np.square(predicted - y_test).mean()) / y_test.std())
    return {
        "error": error, "calibration_error": calibration, "fit_seconds": fitted - began, "predict_seconds": asked - fitted
    }  # fmt: skip


def gather(jobs: Iterable[dict[str, Any]], measure: Callable[..., dict[str, Any]], out: Path | None) -> Frame:
    """What jobs measure: a row each of the job and its findings, with a line as it comes; what stands in ``out`` is not measured again."""
    jobs = list(jobs)
    there = [json.loads(line) for line in out.read_text().splitlines()] if out and out.exists() else []
    measured = [found for found in there if any(job.items() <= found.items() for job in jobs)]
    for job in jobs:
        if any(job.items() <= found.items() for found in measured):
            continue
        measured.append(job | measure(**job))
        error, seconds = measured[-1]["error"], measured[-1]["fit_seconds"]
        print(f"{job['table']:<26}{job['method']:<18}{job['seed']}  error {error:.4f}  fit {seconds:.1f} s", flush=True)
        if out:
            with out.open("a") as stream:
                stream.write(json.dumps(measured[-1]) + "\n")
    return polars.DataFrame(measured, infer_schema_length=None)


def means_of(results: Frame) -> Frame:
    """Each method's means over seeds on each table."""
    return results.group_by("table", "method").agg(
        polars.col("error").mean(),
        polars.col("error").std().alias("spread"),
        polars.col("calibration_error").mean(),
        polars.col("fit_seconds").mean(),
    )


def mean_rank(means: Frame, method: str, peers: list[str]) -> float:
    """The mean over tables of a method's rank by error among the peers and itself."""
    beside = {*peers, method} if method in PRESETS else {*peers, "default"}
    ranked = means.filter(polars.col("method").is_in(list(beside))).with_columns(
        polars.col("error").rank().over("table").alias("rank")
    )
    return float(ranked.filter(polars.col("method") == method)["rank"].mean())


def report(results: Frame) -> str:
    """Each method's mean error on each table and its standard deviation over seeds; calibration, seconds, mean rank."""
    means = means_of(results)
    measured = set(means["method"].to_list())
    methods = [
        name for name in ("scikit-learn MLP", "early stopping", "boosting", "RealMLP", *PRESETS) if name in measured
    ]
    tables = [name for name in TABLES if name in set(means["table"].to_list())]
    peers = [name for name in methods if name not in PRESETS]
    cell = {(row["table"], row["method"]): row for row in means.rows(named=True)}
    errors, seconds, calibrations = [], [], []
    for method in methods:
        own = [cell.get((name, method)) for name in tables]
        rank = f"{mean_rank(means, method, peers):.1f}" if None not in own else "-"
        errors.append([method, *(_error(row) for row in own), rank])
        total = number(sum(row["fit_seconds"] for row in own)) if None not in own else "-"  # type: ignore[index]
        seconds.append([method, *(number(row["fit_seconds"]) if row else "-" for row in own), total])
        classes = [row for name, row in zip(tables, own, strict=True) if TABLES[name][1]]
        calibrations.append([method, *(f"{row['calibration_error']:.3f}" if row else "-" for row in classes)])
    return "\n\n".join([
        table(["error", *tables, "mean rank"], errors),
        table(["fit, s", *tables, "in all"], seconds),
        table(["calibration error", *(name for name in tables if TABLES[name][1])], calibrations),
    ])  # fmt: skip


def _error(row: dict[str, Any] | None) -> str:
    """A mean over seeds and its spread, where there are more than one."""
    if row is None:
        return "-"
    return f"{row['error']:.4f}" + ("" if row["spread"] is None else f" ± {row['spread']:.4f}")


def show(report: str) -> None:
    """Print where it was measured, and a report."""
    print()
    print(table(["", *[" "]], [list(fact) for fact in machine.describe().items()]))
    print()
    print(report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--methods", default=None)
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None, help="every measurement as a line of JSON")
    asked = parser.parse_args()
    methods = asked.methods.split(",") if asked.methods else [m for m in METHODS if not (asked.quick and m == "best")]
    if "RealMLP" not in METHODS and (asked.methods is None or "RealMLP" in methods):
        print("RealMLP is left out: pytabkit is not installed (pip install '.[bench]').")
        methods = [method for method in methods if method != "RealMLP"]
    seeds = asked.seeds or (1 if asked.quick else 5)
    rows = QUICK_ROWS if asked.quick else None
    judge(parts("abalone", 200), "fast", 0)  # compiles
    jobs = (
        {"table": name, "method": method, "seed": seed, "rows": rows}
        for seed, name, method in itertools.product(range(seeds), asked.tables.split(","), methods)
    )

    def measure(table: str, method: str, seed: int, rows: int | None) -> dict[str, Any]:
        return judge(parts(table, rows), method, seed)

    show(report(gather(jobs, measure, asked.out)))


if __name__ == "__main__":
    main()
