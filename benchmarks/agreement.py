"""Are fcnet's estimators as good as scikit-learn's? Ten data sets of scikit-learn's own, ten seeds each, paired.

Both get the same rows and the same ``random_state`` at their own defaults. What counts is the difference of their test scores
(accuracy, or R^2 for values): its mean over the seeds, beside its standard error.

    python benchmarks/agreement.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets, neural_network
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import fcnet
import machine
from markdown_tables import table

Rows = tuple[Any, Any]
CLASSES: dict[str, Callable[[], Rows]] = {
    "iris": lambda: datasets.load_iris(return_X_y=True),
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "digits": lambda: datasets.load_digits(return_X_y=True),
    "breast cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "moons": lambda: datasets.make_moons(600, noise=0.3, random_state=0),
    "classification": lambda: datasets.make_classification(
        1000, n_informative=6, n_classes=3, flip_y=0.05, random_state=0
    ),
    "multilabel": lambda: datasets.make_multilabel_classification(600, random_state=0),
}
VALUES: dict[str, Callable[[], Rows]] = {
    "diabetes": lambda: datasets.load_diabetes(return_X_y=True),
    "friedman 1": lambda: datasets.make_friedman1(800, noise=1.0, random_state=0),
    "friedman 2": lambda: datasets.make_friedman2(800, noise=50.0, random_state=0),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam, early stopping": {"early_stopping": True},
    "sgd": {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.05},
    "lbfgs": {"solver": "lbfgs"},
}


def scores(library: Any, name: str, settings: dict[str, Any], seed: int) -> float:
    """The test score of one library's network."""
    is_class = name in CLASSES
    X, y = (CLASSES if is_class else VALUES)[name]()
    if not is_class:
        y = (y - y.mean()) / y.std()
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=seed)
    scaler = StandardScaler().fit(X_train)
    kind = library.MLPClassifier if is_class else library.MLPRegressor
    model = kind(random_state=seed, **settings).fit(scaler.transform(X_train), y_train)
    return model.score(scaler.transform(X_test), y_test)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, one solver: does it run")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    seeds = range(2 if options.quick else 10)
    rows, data, worse = [], [], []
    for solver, settings in list(SETTINGS.items())[: 1 if options.quick else None]:
        for name in [*CLASSES, *VALUES]:
            pairs = np.array([[scores(lib, name, settings, seed) for lib in (neural_network, fcnet)] for seed in seeds])
            difference = pairs[:, 1] - pairs[:, 0]
            mean, error = float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(seeds)))
            if mean < -2 * error - 1e-6:
                worse.append(f"{name} with {solver}")
            theirs, own = pairs.mean(axis=0)
            rows.append([f"{name}, {solver}", f"{theirs:.4f}", f"{own:.4f}", f"{mean:+.5f}", f"{error:.5f}"])
            data.append({"data": name, "solver": solver, "scores": pairs.tolist()})
    print("\n".join(f"{key}: {value}" for key, value in machine.describe().items()))
    print("\n" + table(("data, solver", "scikit-learn", "fcnet", "difference", "standard error"), rows))
    print(f"\nWorse by more than two standard errors: {', '.join(worse) or 'none'}.")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine.describe(), "scores": data}, indent=1))


if __name__ == "__main__":
    main()
