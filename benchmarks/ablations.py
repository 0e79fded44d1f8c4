"""What each part of the tables' recipe is worth: the recipe with one thing changed, on rows of training tables alone.

    python benchmarks/ablations.py                                    every variant, table and size, and 2 seeds: hours on two cores
    python benchmarks/ablations.py --rows 3000 --variants "no dropout" --tables titanic,friedman --seeds 3 --out results.jsonl

Tables: the training rows of those that ``tables.py`` reads (where FCNET_DATA points), scikit-learn's own, and made ones. A seed shuffles
them: 70% train, as many of them as ``--rows`` says, their validation share among them; 30% judge, at most 5,000. Sizes that a table has
not the rows for are left out but the smallest. No test row of ``tables.py`` is read. A figure is the mean over tables and sizes of
log(error / error of the recipe as it is), in percent: below 0 the change is better. Errors are as in ``tables.py``; "cost" is the same with the
cross-entropy in place of the part of wrong classes, a finer measure.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars
from sklearn import datasets

import tables
from fcnet import Factors, Network, TabularClassifier, TabularRegressor
from fcnet.fitted import fitted_parameters
from fcnet.layers import Layer, TableLayer
from fcnet.tabular import estimator, recipe
from markdown_tables import number, table

ROWS = (1000, 4000, 12000)
JUDGED = 5000
MADE = 20_000


@dataclass(frozen=True)
class Learnt:
    """Parts of RealMLP's that the library has and the presets have not.

    Attributes:
        width: how many numbers every feature becomes, the others after itself sums of waves.
        width_of_plain: the same in networks that read numbers without their linear pieces.
        parametric: activations are blended with the identity by learnt numbers.
        fitted: first weights fit the data, see ``fcnet.fitted``.
        rates: what learning rates are multiplied by, by kind of parameter.
    """

    width: int = 1
    width_of_plain: int = 1
    parametric: bool = False
    fitted: bool = False
    rates: Mapping[str, float] = field(default_factory=dict)


VARIANTS: dict[str, dict[str, Any]] = {
    "no linear pieces": {"pieces": 0},
    "8 linear pieces": {"pieces": 8},
    "16 linear pieces": {"pieces": 16},
    "48 linear pieces": {"pieces": 48},
    "linear pieces for all networks": {"plain": False},
    "relu": {"activation": "relu"},
    "selu": {"activation": "selu"},
    "mish": {"activation": "mish"},
    "no weight decay": {"weight_decay": 0.0},
    "weight decay / 3": {"weight_decay": 0.33},
    "weight decay x 3": {"weight_decay": 3.0},
    "weight decay alike at all sizes": {"decay_rows": math.inf},
    "no dropout": {"dropout": 0.0},
    "dropout 0.3": {"dropout": 0.3},
    "no label smoothing": {"label_smoothing": 0.0},
    "half the learning rate": {"learning_rate": 0.002},
    "twice the learning rate": {"learning_rate": 0.008},
    "batches of 128": {"batch_size": 128},
    "two layers": {"hidden": (256, 256)},
    "layers of 128": {"hidden": (128, 128, 128)},
    "half the epochs": {"epochs": 32},
    "twice the epochs": {"epochs": 128},
    "one network": {"members": 1},
    "one network of 256 epochs": {"members": 1, "epochs": 256},
    "six networks": {"members": 6},
    "eight networks": {"members": 8},
    "no scales": {"scale_rate": 0.0},
    "scales as slow as weights": {"scale_rate": 1.0},
    "waves in place of linear pieces": {"pieces": 0, "scale_rate": 0.0, "learnt": Learnt(width=4, width_of_plain=4)},
    "waves and linear pieces": {"scale_rate": 0.0, "learnt": Learnt(width=4, width_of_plain=4)},
    "waves where there are no linear pieces": {"scale_rate": 0.0, "learnt": Learnt(width_of_plain=4)},
    "parametric activations": {"learnt": Learnt(parametric=True, rates={"blends": 0.1})},
    "first weights that fit the data": {"learnt": Learnt(fitted=True)},
    "biases at a tenth of the rate": {"learnt": Learnt(rates={"biases": 0.1})},
}
"""Name -> what differs from the preset, and under "learnt" what it has besides. Waves come with scales of their own. Rates as RealMLP has them."""

Sample = tuple[polars.DataFrame, np.ndarray, bool]


# --- Tables: a seed -> a frame, its answers, and whether they are classes -----------------------------------------------


def shared(name: str) -> Callable[[], Sample]:
    def rows() -> Sample:
        X, y, _, _, classes = tables.parts(name)
        return X, y, classes

    return rows


def bundled(load: Callable[..., Any], classes: bool) -> Callable[[], Sample]:
    def rows() -> Sample:
        X, y = load(return_X_y=True)
        return polars.DataFrame(X, schema=[f"x{n}" for n in range(X.shape[1])]), y, classes

    return rows


def friedman() -> Sample:
    """Smooth, with interactions, five columns that say nothing, and noise: Friedman, 1991."""
    X, y = datasets.make_friedman1(MADE, 10, noise=1.0, random_state=0)
    return polars.DataFrame(X, schema=[f"x{n}" for n in range(10)]), y, False


def noisy() -> Sample:
    """The same function under noise as strong as itself, told by correlated columns: what is easily learnt too well."""
    X, y = datasets.make_friedman1(MADE, 10, noise=5.0, random_state=3)
    draw = np.random.default_rng(3)
    X = X @ (np.eye(10) + 0.3 * draw.normal(size=(10, 10)))
    return polars.DataFrame(X, schema=[f"x{n}" for n in range(10)]), y, False


def boxes() -> Sample:
    """Steps in some numbers, each at its own places, some of them skewed: what trees are good at."""
    draw = np.random.default_rng(1)
    X = draw.normal(size=(MADE, 12))
    y = sum(np.sign(X[:, n] - place) for n, place in enumerate((-0.5, 0.0, 0.3, 1.0)))
    y = y + 2.0 * (X[:, 4] > 0) * (X[:, 5] > 0.5) + np.floor(2.0 * X[:, 6]) % 2
    X[:, ::3] = np.exp(X[:, ::3])
    return polars.DataFrame(X, schema=[f"x{n}" for n in range(12)]), y + draw.normal(0, 0.5, MADE), False


def shops() -> Sample:
    """Categories of many values with effects of their own, numbers whose effect depends on a category, holes."""
    draw = np.random.default_rng(2)
    n = MADE
    town, kind, x = draw.integers(0, 60, n), draw.integers(0, 5, n), draw.normal(size=(n, 4))
    logit = draw.normal(0, 1.2, 60)[town] + draw.normal(0, 1.5, 5)[kind] * x[:, 0] + np.sin(2 * x[:, 1]) + 0.5 * x[:, 2]
    frame = polars.DataFrame({
        "town": [f"t{k}" for k in town], "kind": [f"k{k}" for k in kind],
        **{f"x{k}": [None if hole else v for v, hole in zip(x[:, k], draw.random(n) < 0.1, strict=True)] for k in range(4)},
    })  # fmt: skip
    return frame, (draw.random(n) < 1 / (1 + np.exp(-logit))).astype(str), True


TABLES: dict[str, Callable[[], Sample]] = {
    **{name: shared(name) for name in tables.TABLES},
    "diabetes": bundled(datasets.load_diabetes, False),
    "digits": bundled(datasets.load_digits, True),
    "breast cancer": bundled(datasets.load_breast_cancer, True),
    "friedman": friedman,
    "noisy": noisy,
    "boxes": boxes,
    "shops": shops,
}


# --- Learnt parts ---------------------------------------------------------------------------------------------------------


@contextmanager
def learning(parts: Learnt) -> Iterator[None]:
    """The tables' networks with these parts."""
    plain_network, plain_train = recipe.Architecture.network, recipe.train
    has_waves = max(parts.width, parts.width_of_plain) > 1
    widest = 0  # the first network reads everything

    def width_for(n_in: int) -> int:
        return parts.width if n_in == widest else parts.width_of_plain

    def network(self: recipe.Architecture, mini_batch_size: int = 1, seed: int = 0) -> Network:
        nonlocal widest
        widest = max(widest, self.n_in)
        *hidden, last = plain_network(self).layers
        layers: list[Layer] = [*(replace(layer, parametric=parts.parametric) for layer in hidden), last]
        if has_waves:
            table = TableLayer(self.n_in, number_width=width_for(self.n_in))
            layers = [table, replace(layers[0], n_in=table.n_out), *layers[1:]]
        return Network(layers, mini_batch_size, seed)

    def train(network: Network, training: Any, *others: Any, factors: Factors, **settings: Any) -> Any:
        if parts.fitted:
            network.arrays = fitted_parameters(network.model, training.X, network.seed)
        rates = dict(factors.rates) | dict(parts.rates) | ({"scales": 6.0} if has_waves else {})
        return plain_train(network, training, *others, factors=Factors(rates), **settings)

    def network_of(architecture: recipe.Architecture, arrays: recipe.Arrays) -> Network:
        if has_waves:
            n_out = len(arrays["layers.1.weights"])
            n_in = next(n for n in (widest, n_out // parts.width_of_plain) if n * width_for(n) == n_out)
        else:
            n_in = len(arrays["layers.0.weights"])
        made = replace(architecture, n_in=n_in).network()
        made.model = replace(made.model, dropout_scaling="training")
        made.arrays, made.trained = dict(arrays), True
        return made

    with (
        mock.patch.object(recipe.Architecture, "network", network),
        mock.patch.object(recipe, "train", train),
        mock.patch.object(estimator, "network_of", network_of),
    ):
        yield


# --- Measuring ------------------------------------------------------------------------------------------------------------


def measure(name: str, base: str, variant: str, rows: int, seed: int) -> dict[str, Any]:
    X, y, classes = TABLES[name]()
    order = np.random.default_rng(seed).permutation(len(y))
    cut = int(0.7 * len(y))
    training, judged = order[: min(cut, rows)], order[cut : cut + JUDGED]
    changes = dict(VARIANTS[variant])
    parts = changes.pop("learnt", None)
    recipe.PRESETS["tried"] = replace(recipe.PRESETS[base], **changes)
    model = (
        TabularClassifier("tried", random_state=seed)
        if classes
        else TabularRegressor("tried", interval=None, random_state=seed)
    )
    began = time.perf_counter()
    with warnings.catch_warnings(), learning(parts) if parts else nullcontext():
        warnings.simplefilter("ignore")
        model.fit(X[training], y[training])
    seconds = time.perf_counter() - began
    if isinstance(model, TabularClassifier):
        probabilities = model.predict_proba(X[judged])
        places = np.searchsorted(model.classes_, y[judged])
        known = model.classes_[np.minimum(places, len(model.classes_) - 1)] == y[judged]
        error = float((probabilities.argmax(axis=1) != places)[known].mean())
        right = probabilities[np.flatnonzero(known), places[known]]
        cost = float(-np.log(np.maximum(right, 1e-6)).mean())
    else:
        error = float(np.sqrt(np.square(model.predict(X[judged]) - y[judged]).mean()) / y[judged].std())
        cost = error
    return {
        "table": name, "base": base, "variant": variant, "rows": rows, "seed": seed, "error": error, "cost": cost, "seconds": seconds,
        "epochs": len(model.history_.epochs), "best": model.history_.best_epoch,
    }  # fmt: skip


def report(results: polars.DataFrame) -> str:
    """Each variant beside the recipe as it is, over tables and seeds, with the standard error over tables; error by size, too."""
    base = results.filter(polars.col("variant") == "as it is").select(
        "table", "rows", "seed", "error", "cost", "seconds"
    )
    sizes, lines = sorted(results["rows"].unique()), []
    for variant in results["variant"].unique(maintain_order=True):
        both = results.filter(polars.col("variant") == variant).join(base, on=["table", "rows", "seed"], suffix="_base")
        logs = both.with_columns(
            ((polars.col("error") + 1e-3) / (polars.col("error_base") + 1e-3)).log().alias("by"),
            (polars.col("cost") / polars.col("cost_base")).log().alias("by_cost"),
        )
        by_table = logs.group_by("table").agg(polars.col("by").mean(), polars.col("by_cost").mean())
        spread = (by_table["by"].std() or 0.0) / math.sqrt(by_table.height)
        by_rows = dict(logs.group_by("rows").agg(polars.col("by").mean()).rows())
        lines.append([
            variant, f"{100 * by_table['by'].mean():+.1f} ± {100 * spread:.1f}", f"{100 * by_table['by_cost'].mean():+.1f}",
            f"{number(both['seconds'].sum() / both['seconds_base'].sum())}",
            *(f"{100 * by_rows[rows]:+.1f}" if rows in by_rows else "-" for rows in sizes),
        ])  # fmt: skip
    return table(["change", "error, %", "cost, %", "time", *(f"{rows:,} rows" for rows in sizes)], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="default", help="the preset that is changed")
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--variants", default=None)
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help="training rows")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--out", type=Path, default=None, help="every measurement as a line of JSON; what is there is kept"
    )
    asked = parser.parse_args()
    VARIANTS["as it is"] = {}
    variants = [
        "as it is",
        *(asked.variants.split(",") if asked.variants else [v for v in VARIANTS if v != "as it is"]),
    ]
    sizes = sorted(map(int, asked.rows.split(",")))
    measured: list[dict[str, Any]] = []
    if asked.out and asked.out.exists():
        measured = [json.loads(line) for line in asked.out.read_text().splitlines()]
    there = {(found["table"], found["base"], found["variant"], found["rows"], found["seed"]) for found in measured}
    for seed in range(asked.seeds):
        for name, rows in itertools.product(asked.tables.split(","), sizes):
            if rows > max(0.7 * len(TABLES[name]()[1]), sizes[0]):
                continue
            for variant in dict.fromkeys(variants):
                if (name, asked.base, variant, rows, seed) in there:
                    continue
                measured.append(measure(name, asked.base, variant, rows, seed))
                if asked.out:
                    with asked.out.open("a") as stream:
                        stream.write(json.dumps(measured[-1]) + "\n")
    print(report(polars.DataFrame([found for found in measured if found["base"] == asked.base])))


if __name__ == "__main__":
    main()
