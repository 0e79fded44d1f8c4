"""Tables: fcnet's presets beside scikit-learn's network and boosted trees, and RealMLP where pytabkit is installed.

    python benchmarks/tabular.py                       every table and method, 5 seeds: an hour or two on two cores
    python benchmarks/tabular.py --quick               one seed, at most 3,000 training rows, no "best"
    python benchmarks/tabular.py --tables titanic,abalone --methods default,boosting --out results.csv

Reads the tables where FCNET_DATA points, else ``../shared/data``. A row is a table, a method and a seed: test error (the part of
wrong classes, or the root of the mean squared error over the target's standard deviation), seconds of fit and of predict, and the
expected calibration error on the test rows. The closing table has each method's means, and its mean rank by error over tables.

The split: by ``__split__`` where a table has it, else one row in five at random, the same for every method and another for each
seed. Every method gets the same columns and the same rows, its validation rows among them. Nothing is tuned on these tables.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars

from fcnet import TabularClassifier, TabularRegressor
from fcnet.data.table import read_table
from fcnet.tabular.calibration import expected_calibration_error
from tables import number, table

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

Frame = polars.DataFrame


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


def sklearn_network(X: Frame, y: np.ndarray, classes: bool, seed: int) -> Any:
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import StandardScaler

    if classes:
        return Piped(MLPClassifier(early_stopping=True, random_state=seed), X, ordinal=False).fit(X, y)
    network = TransformedTargetRegressor(
        MLPRegressor(early_stopping=True, random_state=seed), transformer=StandardScaler()
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

        kind = RealMLP_TD_Classifier if classes else RealMLP_TD_Regressor
        self.model = kind(random_state=seed, device="cpu").fit(self.frame(X), y)

    @staticmethod
    def frame(X: Frame) -> Any:
        import pandas

        return pandas.DataFrame({
            name: X[name].cast(polars.Float64).to_numpy()
            if X[name].dtype.is_numeric()
            else pandas.Categorical(X[name].cast(polars.String).fill_null("missing").to_list())
            for name in X.columns
        })  # fmt: skip

    def predict(self, X: Frame) -> np.ndarray:
        return self.model.predict(self.frame(X))

    def predict_proba(self, X: Frame) -> np.ndarray:
        return self.model.predict_proba(self.frame(X))


METHODS: dict[str, Callable[..., Any]] = {
    "scikit-learn MLP": sklearn_network,
    "boosting": boosting,
    "fast": preset("fast"),
    "default": preset("default"),
    "best": preset("best"),
}
if importlib.util.find_spec("pytabkit"):
    METHODS["RealMLP"] = RealMLP


# --- One measurement --------------------------------------------------------------------------------------------------


def parts(name: str, seed: int, rows: int | None) -> tuple[Frame, np.ndarray, Frame, np.ndarray, bool]:
    target, classes, left_out = TABLES[name]
    frame = read_table(FOLDER / f"{name}.csv").drop(left_out)
    draw = np.random.default_rng(seed)
    order = draw.permutation(frame.height)
    if "__split__" in frame.columns:
        tested = (frame["__split__"] == "test").to_numpy()
        frame = frame.drop("__split__")
        training, test = order[~tested[order]], np.flatnonzero(tested)
    else:
        n_test = frame.height // 5
        test, training = order[:n_test], order[n_test:]
    training = np.sort(training[:rows])
    answers = frame[target].to_numpy()
    y = answers.astype(str) if classes else answers.astype(float)
    X = frame.drop(target)
    return X[training], y[training], X[test], y[test], classes


def measure(name: str, method: str, seed: int, rows: int | None) -> dict[str, Any]:
    X, y, X_test, y_test, classes = parts(name, seed, rows)
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
        "table": name, "method": method, "seed": seed, "error": error, "calibration_error": calibration,
        "fit_seconds": fitted - began, "predict_seconds": asked - fitted,
    }  # fmt: skip


def report(results: Frame, methods: list[str]) -> str:
    """Each method's mean error on each table and its standard deviation over seeds; calibration, seconds, mean rank."""
    means = results.group_by("table", "method").agg(
        polars.col("error").mean(),
        polars.col("error").std().fill_null(0.0).alias("spread"),
        polars.col("calibration_error").mean(),
        polars.col("fit_seconds").mean(),
    )
    ranks = (
        means.with_columns(polars.col("error").rank().over("table").alias("rank"))
        .group_by("method")
        .agg(polars.col("rank").mean())
    )
    lines = []
    for method in methods:
        own = {row["table"]: row for row in means.filter(polars.col("method") == method).rows(named=True)}
        cells = [f"{own[name]['error']:.4f} ± {own[name]['spread']:.4f}" if name in own else "-" for name in TABLES]
        calibration = [row["calibration_error"] for row in own.values() if row["calibration_error"] is not None]
        seconds = sum(row["fit_seconds"] for row in own.values())
        rank = ranks.filter(polars.col("method") == method)["rank"][0]
        lines.append(
            [method, *cells, f"{np.mean(calibration):.3f}" if calibration else "-", number(seconds), f"{rank:.1f}"]
        )
    return table(["method", *TABLES, "mean ECE", "fit, s in all", "mean rank"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--methods", default=None)
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None, help="every measurement as CSV, written as they come")
    asked = parser.parse_args()
    methods = asked.methods.split(",") if asked.methods else [m for m in METHODS if not (asked.quick and m == "best")]
    seeds = asked.seeds or (1 if asked.quick else 5)
    rows = QUICK_ROWS if asked.quick else None
    measure("abalone", "fast", 0, 200)  # compiles
    measured: list[dict[str, Any]] = []
    for name in asked.tables.split(","):
        for method in methods:
            for seed in range(seeds):
                measured.append(measure(name, method, seed, rows))
                found = measured[-1]
                print(
                    f"{name:<26}{method:<18}{seed}  error {found['error']:.4f}  fit {found['fit_seconds']:.1f} s",
                    flush=True,
                )
                if asked.out:
                    polars.DataFrame(measured, infer_schema_length=None).write_csv(asked.out)
    print()
    print(report(polars.DataFrame(measured, infer_schema_length=None), methods))


if __name__ == "__main__":
    main()
