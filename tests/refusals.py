"""Bad inputs: every parameter of every public name, every option, every reader of files; ``docs/errors.md`` has the answers.

    python tests/refusals.py      write docs/errors.md anew

``test_refusals.py`` runs each and compares its answer with the page, and sees that no parameter and no reader is left out.
A value is Python as a person would type it, in a folder of its own, among the names of ``scene``.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gzip
import io
import json
import math
import os
import pickle
import re
import shlex
import shutil
import sys
import tempfile
import urllib.error
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import fcnet
from fcnet import network3
from fcnet.cli import app, runs, words
from fcnet.data import mnist
from fcnet.data.sources import load_rows
from fcnet.data.table import read_table
from fcnet.errors import FcnetError
from fcnet.tabular.estimators import load_estimator

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"


@dataclass(frozen=True)
class Call:
    """A public callable, what it is called with, and what each of its parameters must not be.

    Attributes:
        name: as a person writes it, ``fcnet.`` left out.
        given: parameters that have no default, or whose default takes time, and good values for them.
        bad: for each parameter, values that are refused.
        foreign: parameters whose values scikit-learn checks, in words of its own.
        after: what is called on the answer, where it is only then that parameters are looked at.
    """

    name: str
    given: Mapping[str, str]
    bad: Mapping[str, tuple[str, ...]]
    foreign: frozenset[str] = field(default=frozenset())
    after: str = ""

    def expression(self, parameter: str, value: str) -> str:
        """The call, as Python."""
        arguments = {**self.given, parameter: value}
        return f"{self.name}({', '.join(f'{name}={written}' for name, written in arguments.items())}){self.after}"


@dataclass(frozen=True)
class Files:
    """A reader of files, how it is called, and contents that it refuses.

    Attributes:
        reader: what it reads, in words.
        read: how, as Python.
        name: of the file.
        contents: what is wrong, in words, and the file's content: bytes, or a function that makes what lies there.
    """

    reader: str
    read: str
    name: str
    contents: Mapping[str, bytes | Callable[[Path], None]]


# --- What the rows are written in ---------------------------------------------------------------------------------------


def scene() -> dict[str, Any]:
    """The names that a value may use: fcnet's own, NumPy, and small data."""
    X = np.arange(24, dtype=np.float32).reshape(6, 4) / 24
    bad_X = X.copy()
    bad_X[2, 1] = math.nan
    y = np.arange(6) % 3
    table = {"size": [1.0, 2.5, 3.0, None] * 10, "colour": ["red", "blue", "red", "green"] * 10}
    network = fcnet.Network([fcnet.FullyConnectedLayer(4, 5), fcnet.SoftmaxLayer(5, 3)], 2)
    return {
        **{name: getattr(fcnet, name) for name in fcnet.__all__},
        "network3": network3, "load_rows": load_rows, "read_table": read_table, "load_estimator": load_estimator, "runs": runs, "words": words, "Path": Path,
        "frame": frame, "set_parameters": lambda parameters: setattr(network, "parameters", parameters), "network": network,
        "np": np, "nan": math.nan, "inf": math.inf, "X": X, "y": y, "bad_X": bad_X, "values": X[:, :3], "key": np.zeros(2, np.uint32),
        "line": fcnet.Network([fcnet.FullyConnectedLayer(4, 3, fcnet.linear)], 2),
        "layers": [fcnet.FullyConnectedLayer(4, 5), fcnet.SoftmaxLayer(5, 3)],
        "table": table, "answers": ["a", "b", "b", "a"] * 10, "prices": [1.0, 2.0, 2.5, 1.5] * 10,
    }  # fmt: skip


def frame(columns: dict[str, Any]) -> Any:
    """A data frame."""
    import polars

    return polars.DataFrame(columns, strict=False)


# --- Parameters ----------------------------------------------------------------------------------------------------------

COUNT = ("0", "2.5", "'ten'", "True")
SEED = ("-1", "2**64", "0.5")
PRECISION = {"precision": ("'tf64'",)}
CHOICE = {"engine": ("'natve'", "3"), "device": ("'gppu'", "'gpu:x'"), "n_threads": ("0", "1.5")}
ROWS = ("X[:, :2]", "[['a', 'b', 'c', 'd']]", "[[1, 2, 3, 4], [1, 2]]", "X[:0]", "bad_X", "None")
PAIR = (
    "X",
    "(X, y[:3])",
    "(bad_X, y)",
    "(X, y + 7)",
    "(X, y + 0.5)",
    "(X, ['a'] * 6)",
    "(X, y, -np.ones(6))",
    "(X, y, [1.0])",
)
FLAG = ("'no'", "2")
RATE = ("-0.1", "nan", "inf", "'fast'", "None")
FRACTION = ("1.0", "-0.1", "'high'")
LAYER = {
    "n_in": COUNT, "n_out": COUNT, "p_dropout": ("1", "-0.1", "nan", "'0.5'"), "weights": ("'zeros'", "np.zeros"),
    "biases": ("0.0",),
}  # fmt: skip

LAYERS_AND_NETWORKS = (
    Call("FullyConnectedLayer", {"n_in": "4", "n_out": "3"}, {**LAYER, "activation_fn": ("'relu'", "3"), "parametric": FLAG}),
    Call(
        "TableLayer", {"n_plain": "1"},
        {
            "n_numbers": ("-1", "2.5"), "n_plain": ("-1", "0"), "categories": ("3", "(3, 0)", "(2**40,)"), "n_waves": COUNT,
            "number_width": COUNT, "category_width": COUNT, "frequency": ("0", "inf", "'low'"), "scaled": FLAG,
        },
    ),
    Call("SoftmaxLayer", {"n_in": "4", "n_out": "3"}, LAYER),
    Call(
        "dropout_layer", {"layer": "X", "p_dropout": "0.5", "key": "key"},
        {"layer": ("X[0]", "'text'"), "p_dropout": ("1.5",), "key": ("3", "np.zeros(3)")},
    ),
    Call("Activation", {"name": "'f'", "function": "np.tanh"}, {"name": ("3",), "function": ("'tanh'",), "derivative": ("0.5",)}),
    Call(
        "Network", {"layers": "layers", "mini_batch_size": "2"},
        {
            "layers": ("[]", "SoftmaxLayer(4, 3)", "[784, 10]", "[FullyConnectedLayer(4, 5), SoftmaxLayer(6, 3)]", "[SoftmaxLayer(4, 3), TableLayer(3)]", "[TableLayer(4)]"),
            "mini_batch_size": COUNT, "seed": SEED,
        },
    ),
    Call("network.predict", {"X": "X"}, {"X": ROWS, **{name: CHOICE[name] for name in ("engine", "device")}}),
    Call("network.predict_proba", {"X": "X"}, {"X": ROWS, **{name: CHOICE[name] for name in ("engine", "device")}}),
    Call("line.predict_proba", {"X": "X"}, {"X": ("X",)}),
    Call(
        "network.accuracy", {"X": "X", "y": "y"},
        {"X": ROWS, "y": ("y[:3]", "y + 7", "['a'] * 6"), **{name: CHOICE[name] for name in ("engine", "device")}},
    ),
    Call("line.accuracy", {"X": "X", "y": "values"}, {"y": ("values",)}),
    Call(
        "network.cost", {"X": "X", "y": "y"},
        {
            "X": ("X[:, :2]",), "y": ("y[:3]", "values[:, :2]"), "cost": ("'quadratic'", "cross_entropy"),
            **{name: CHOICE[name] for name in ("engine", "device")},
        },
    ),
    Call("network.save", {}, {"path": ("3", "'no such folder/model'")}),
    Call("Network.load", {}, {"path": ("None", "'nothing'")}),
    Call(
        "set_parameters", {},
        {"parameters": ("[]", "[1, 2]", "[(X, y)] * 2", "[(bad_X, y)] * 2", "[(['a'], ['b'])] * 2")},
    ),
)  # fmt: skip

TRAINING = (
    Call(
        "train", {"network": "network", "train": "(X, y)", "epochs": "1"},
        {
            "network": ("layers",),
            "train": PAIR, "validation": PAIR[:4], "test": PAIR[:4],
            "epochs": COUNT, "mini_batch_size": (*COUNT, "7"),
            "optimizer": ("'adam'", "Adam", "0.1"), "cost": ("'quadratic'", "cross_entropy", "poisson"),
            "l2": ("-1", "nan", "'0.1'"),
            "factors": ("0.5", "{'biases': 0.1}", "Factors({'bias': 0.1})"), "shuffle": FLAG, "drop_last": FLAG, "deterministic": FLAG, "dropout_scaling": ("'both'",),
            "monitor": ("'loss'", "'cost'"), "seed": SEED, **CHOICE, **PRECISION, "dtype": ("'float16'", "np.float32"),
            "callbacks": ("[3]", "print"), "time_budget": ("0", "'1h'"), "early_stopping": ("0", "5"),
            "checkpoint": ("3",), "resume": ("3", "'nothing'"), "checkpoint_every": ("'often'", "'0epochs'", "-1"),
            "on_nan": ("'halv'",), "verbose": ("'loud'", "3"),
        },
    ),
    Call(
        "network.SGD", {"training_data": "(X, y)", "epochs": "1", "mini_batch_size": "2", "eta": "0.1", "validation_data": "(X, y)"},
        {
            "training_data": PAIR, "epochs": COUNT, "mini_batch_size": (*COUNT, "3"), "eta": RATE, "validation_data": PAIR[:3],
            "test_data": PAIR[:3], "lmbda": ("-1", "nan"), "cost": ("'quadratic'", "cross_entropy"),
            **{name: CHOICE[name] for name in ("engine", "device")}, **PRECISION, "time_budget": ("-1",),
        },
    ),
    Call("SGD", {}, {"learning_rate": RATE}),
    Call("Momentum", {}, {"learning_rate": RATE, "momentum": FRACTION}),
    Call("Nesterov", {}, {"learning_rate": RATE, "momentum": FRACTION}),
    *(
        Call(
            name, {},
            {
                "learning_rate": RATE, "beta_1": FRACTION, "beta_2": FRACTION, "epsilon": ("0", "nan", "inf", "1e-40"),
                "weight_decay": ("-1", "nan", "inf", "'0.1'"),
            },
        )
        for name in ("Adam", "AdamW")
    ),
    Call("Constant", {}, {"rate": RATE}),
    Call("Cosine", {"rate": "0.1"}, {"rate": RATE, "final": ("-0.1", "nan", "'0'")}),
    Call("FlatCosine", {}, {"rate": RATE, "final": ("-0.1", "nan", "'0'"), "flat": FRACTION}),
    Call(
        "Factors", {},
        {
            "rates": ("0.1", "{'biases': -1}", "{'biases': nan}"), "decays": ("0.1", "{'weights': '1'}"), "decay": ("0.5",),
            "dropout": ("0.5",),
        },
    ),
    Call(
        "fitted_parameters", {"model": "network.model", "X": "X", "seed": "0"},
        {"model": ("network", "layers"), "X": ROWS, "seed": SEED, "dtype": ("'float16'",)},
    ),
    Call("Step", {"rate": "0.1"}, {"rate": RATE, "factor": ("0", "-1", "nan", "inf"), "every": ("0", "nan")}),
    Call("Exponential", {"rate": "0.1"}, {"rate": RATE, "factor": ("0", "-1", "nan", "inf")}),
    Call("WarmUp", {"schedule": "Constant(0.1)"}, {"schedule": ("0.1", "Cosine"), "warm_up": ("0", "nan", "inf", "'1'")}),
    Call(
        "Cost", {"name": "'c'", "function": "np.add"},
        {"name": ("3",), "function": ("'mean'",), "pairs_with": ("'softmax'",), "constants": ("0.5", "('a',)")},
    ),
    Call("huber", {}, {"delta": ("0", "nan", "'1'")}),
    Call("quantile", {}, {"levels": ("0", "1.5", "()", "(0.1, 2)")}),
    Call("focal", {}, {"gamma": ("-1", "nan")}),
    Call("binary_focal", {}, {"gamma": ("-1", "nan")}),
    Call("label_smoothing", {}, {"epsilon": ("-0.1", "1")}),
    Call("binary_label_smoothing", {}, {"epsilon": ("-0.1", "1")}),
    Call("load_data('digits').part", {}, {"name": ("'tests'",)}),
    Call("History('native', 'cpu', None, 1).plot", {}, {"path": ("3", "'no such folder/curves.png'", "'curves.picture'")}),
    Call("load_data", {"source": "'digits'"}, {"source": ("3", "''", "'digit'", "'table.csv'", "'folder'"), "seed": SEED}),
)  # fmt: skip

THE_BOOK = (
    Call("network3.FullyConnectedLayer", {"n_in": "4", "n_out": "3"}, {
        "n_in": COUNT, "n_out": COUNT, "activation_fn": ("'relu'",), "p_dropout": ("1",),
    }),
    Call("network3.SoftmaxLayer", {"n_in": "4", "n_out": "3"}, {"n_in": COUNT, "n_out": COUNT, "p_dropout": ("1",)}),
    Call("network3.ConvPoolLayer", {}, {"filter_shape": ("(20, 1, 5, 5)",)}),
    Call(
        "network3.Network", {"layers": "[network3.SoftmaxLayer(4, 3)]", "mini_batch_size": "2"},
        {"layers": ("3", "[]", "[3]", "[network3.SoftmaxLayer(4, 3)] * 2"), "mini_batch_size": COUNT, "seed": SEED},
    ),
    Call("network3.dropout_layer", {"layer": "X", "p_dropout": "0.5"}, {"layer": ("3.0",), "p_dropout": ("1.5",)}),
    Call("network3.load_data_shared", {}, {"filename": ("3", "'mnist.pkl.gz'")}),
)  # fmt: skip

_SHARED = {
    "hidden_layer_sizes": ("0", "(5, -1)", "2.5"), "activation": ("'rleu'", "('relu', 'relu')", "3"), "solver": ("'adm'", "AdamW"),
    "alpha": ("-1", "nan", "'1'"), "batch_size": ("0", "'all'"), "learning_rate": ("'cosin'", "0.1"), "learning_rate_init": ("0", "nan"),
    "power_t": ("-1",), "max_iter": ("0", "2.5"), "shuffle": ("'no'",), "random_state": ("-1", "'seed'"), "tol": ("-1",),
    "verbose": ("'loud'", "-1"), "warm_start": ("2",), "momentum": ("1.5",), "nesterovs_momentum": ("'yes'",),
    "early_stopping": ("'yes'",), "validation_fraction": ("1.0",), "beta_1": ("1.0",), "beta_2": ("1.0",), "epsilon": ("0",),
    "n_iter_no_change": ("0",), "max_fun": ("0",), "dropout": ("1.0", "(0.1, 0.2, 0.3)"), "weight_decay": ("-1",),
    "scoring": ("3",), "max_time": ("0", "'1h'"), "keep_optimizer": ("'no'",), "callbacks": ("3", "[3]"), **CHOICE, **PRECISION,
}  # fmt: skip
_FIT = {
    "X": ROWS[1:],
    "y": ("y[:3]", "None"),
    "sample_weight": ("[1.0]", "-np.ones(6)", "np.zeros(6)"),
    "eval_set": ("X", "(X, y[:3])"),
}

ESTIMATORS = (
    Call(
        "MLPClassifier", {},
        {**_SHARED, "loss": ("'log_los'", "cross_entropy", "3"), "class_weight": ("'equal'", "{7: 1.0}"), "label_smoothing": ("1.0",)},
        after=".fit(X, y)",
    ),
    Call("MLPClassifier().fit", {"X": "X", "y": "y"}, _FIT, foreign=frozenset({"X", "y", "eval_set"})),
    Call(
        "MLPClassifier().partial_fit", {"X": "X", "y": "y", "classes": "[0, 1, 2]"},
        {**_FIT, "classes": ("None", "[0, 1]")}, foreign=frozenset({"X", "y", "eval_set"}),
    ),
    *(
        Call(f"MLPClassifier(solver='lbfgs').fit(X, y).{name}", {}, {"X": ROWS}, foreign=frozenset({"X"}))
        for name in ("predict", "predict_proba", "predict_log_proba")
    ),
    Call(
        "MLPRegressor", {},
        {**_SHARED, "loss": ("'squared'", "3"), "quantiles": ("0.5",)},
        after=".fit(X, y)",
    ),
    Call("MLPRegressor", {"loss": "'quantile'"}, {"quantiles": ("(0.5, 2)", "()")}, after=".fit(X, y)"),
    Call("MLPRegressor().fit", {"X": "X", "y": "y"}, _FIT, foreign=frozenset({"X", "y", "eval_set"})),
    Call("MLPRegressor().partial_fit", {"X": "X", "y": "y"}, _FIT, foreign=frozenset({"X", "y", "eval_set"})),
    *(
        Call(f"MLPRegressor(solver='lbfgs').fit(X, y).{name}", {}, {"X": ("X",)})
        for name in ("predict_quantiles", "predict_interval")
    ),
)  # fmt: skip

_TABLE = {
    "preset": ("'fest'", "3"), "max_time": ("0", "'1h'"), "drop": ("'size'", "['sise']", "3"),
    "validation_fraction": ("1.0", "0", "'some'"), "random_state": ("-1", "'seed'"), **CHOICE, "verbose": ("'loud'",),
}  # fmt: skip
_FRAMES = (
    "None", "frame({})", "frame({'a': [1] * 40})", "frame({'a': [{'b': 1}] * 40})", "[1, 2, 3]", "np.zeros((40, 2), complex)",
    "frame({'a': [inf, *range(39)]})", "frame(table)[:7]",
)  # fmt: skip

TABLES = (
    Call("TabularClassifier", {"preset": "'fast'"}, _TABLE, after=".fit(frame(table), answers)"),
    Call(
        "TabularClassifier('fast').fit", {"X": "frame(table)", "y": "answers"},
        {
            "X": _FRAMES, "y": ("None", "['a'] * 40", "[None, *answers[1:]]", "answers[:7]", "np.linspace(0, 1, 40)"),
            "weights": ("3", "['a'] * 40", "np.zeros(40)", "[-1.0] * 40", "[1.0] * 7"),
            "eval_set": ("3", "(frame(table), ['z'] * 40)", "(frame({'size': [1.0]}), ['a'])"),
        },
        foreign=frozenset({"X", "y"}),
    ),
    Call("TabularRegressor", {"preset": "'fast'"}, {**_TABLE, "interval": ("1.0", "'wide'")}, after=".fit(frame(table), prices)"),
    Call(
        "TabularRegressor('fast').fit", {"X": "frame(table)", "y": "prices"},
        {
            "X": _FRAMES, "y": ("None", "answers", "[nan, *prices[1:]]", "prices[:7]"), "weights": ("3", "[nan] * 40"),
            "eval_set": ("3", "(frame(table), [nan] * 40)"),
        },
        foreign=frozenset({"X"}),
    ),
    *(
        Call(
            name, {}, {"X": ("frame({'size': [1.0]})", "frame({'size': ['big'], 'colour': ['red']})", "frame(table)[:0]", "None")},
            foreign=frozenset({"X"}),
        )
        for name in ("classifier.predict", "classifier.predict_proba", "regressor.predict", "regressor.predict_interval")
    ),
)  # fmt: skip


# --- Files ---------------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray, code: int = 8) -> bytes:
    """An array of bytes as an IDX file."""
    return bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def npz(**arrays: Any) -> bytes:
    """An archive as ``numpy.savez`` writes it."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(array: Any) -> bytes:
    """An array as ``numpy.save`` writes it."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header(shape: str, kind: str = "'<f8'") -> bytes:
    """The header of a ``.npy`` file of any shape, and 24 bytes."""
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(24)


def mnist_like(**files: bytes) -> Callable[[Path], None]:
    """A folder of IDX files."""
    names = {
        "images": "train-images-idx3-ubyte",
        "labels": "train-labels-idx1-ubyte",
        "tests": "t10k-images-idx3-ubyte",
    }
    names["test_labels"] = "t10k-labels-idx1-ubyte"

    def make(path: Path) -> None:
        path.mkdir()
        for name, content in {"images": IMAGES, "labels": LABELS, **files}.items():
            (path / names[name]).write_bytes(content)

    return make


def changed(**facts: Any) -> Callable[[Path], None]:
    """A model's file with other facts in its description."""

    def make(path: Path) -> None:
        from safetensors.numpy import load_file, save_file

        saved = fcnet.Network([fcnet.SoftmaxLayer(2, 3)], 2).save(path)
        description = json.loads(saved.with_suffix(".json").read_text()) | facts
        arrays = load_file(saved)
        for name in [name for name in facts if name in arrays]:
            arrays[name] = description.pop(name)
        save_file(arrays, saved, {"fcnet": json.dumps(description)})

    return make


def trained(change: Callable[[Path], None], **options: Any) -> Callable[[Path], None]:
    """The folder of a training, changed."""

    def make(path: Path) -> None:
        names = scene()
        fcnet.train(
            names["network"],
            (names["X"], names["y"]),
            epochs=1,
            checkpoint=path,
            device="cpu",
            verbose=False,
            **options,
        )
        change(path)

    return make


def each_checkpoint(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Other bytes in all checkpoints of a folder."""

    def make(path: Path) -> None:
        for file in (path / "checkpoints").glob("*.safetensors"):
            file.write_bytes(change(file.read_bytes()))

    return make


def table_of(classifier: Any, **facts: Any) -> Callable[[Path], None]:
    """A saved table's model with other facts in its ``table.json``."""

    def make(path: Path) -> None:
        from fcnet.tabular.saved import TABLE_FILE

        path.mkdir()
        classifier().write(path, "target")
        description = json.loads((path / TABLE_FILE).read_text())
        (path / TABLE_FILE).write_text(json.dumps(description | facts))

    return make


def parquet(table: Mapping[str, Any]) -> bytes:
    """A Parquet file."""
    stream = io.BytesIO()
    frame(dict(table)).write_parquet(stream)
    return stream.getvalue()


@functools.cache
def classifier() -> Any:
    """A small classifier of tables."""
    names = scene()
    return fcnet.TabularClassifier("fast", random_state=0, device="cpu").fit(frame(names["table"]), names["answers"])


@functools.cache
def regressor() -> Any:
    """A small regressor of tables, with intervals."""
    names = scene()
    return fcnet.TabularRegressor("fast", interval=0.8, random_state=0, device="cpu").fit(
        frame(names["table"]), names["prices"]
    )


IMAGES, LABELS = idx(np.arange(24, dtype=np.uint8).reshape(6, 2, 2)), idx(np.array([0, 1, 2, 0, 1, 2], np.uint8))
X, Y = np.arange(12, dtype=np.float32).reshape(6, 2) / 12, np.arange(6) % 3
PAIR_OF_ARRAYS = (X, Y)
BEFORE_A_TERMINAL = "\x1b[2J"

FILES = (
    Files(
        "IDX", "load_data('mnist-like')", "mnist-like",
        {
            "an empty folder": lambda path: path.mkdir(),
            "images that are text": mnist_like(images=b"P5 28 28 255"),
            "an empty file": mnist_like(images=b""),
            "an unknown type of numbers": mnist_like(images=b"\0\0\x0a\1\0\0\0\1"),
            "a header that claims 2^62 numbers, in 40 bytes": mnist_like(images=b"\0\0\x08\2" + b"\x7f\xff\xff\xff" * 2 + bytes(28)),
            "255 dimensions": mnist_like(images=b"\0\0\x08\xff" + b"\0\0\0\1" * 255),
            "bytes behind the array": mnist_like(images=IMAGES + b"\0"),
            "a gzip file that was cut off": mnist_like(images=gzip.compress(IMAGES, mtime=0)[:-9]),
            "images in place of labels": mnist_like(labels=IMAGES),
            "labels in place of images": mnist_like(images=LABELS),
            "no images": mnist_like(images=idx(np.zeros((0, 2, 2), np.uint8)), labels=idx(np.zeros(0, np.uint8))),
            "another number of labels": mnist_like(labels=idx(np.zeros(5, np.uint8))),
            "labels below 0": mnist_like(labels=idx(np.full(6, 255, np.uint8), 9)),
            "one label of 2^31 - 1": mnist_like(labels=b"\0\0\x0c\1\0\0\0\6" + b"\x7f\xff\xff\xff" * 6),
            "NaN": mnist_like(images=b"\0\0\x0d\2\0\0\0\6\0\0\0\1" + np.full(6, np.nan, ">f4").tobytes()),
            "test images of another size": mnist_like(tests=idx(np.zeros((6, 3, 3), np.uint8)), test_labels=LABELS),
            "test images without labels": mnist_like(tests=IMAGES),
        },
    ),
    Files(
        "npz", "load_data('data.npz')", "data.npz",
        {
            "a folder of that name without IDX files": lambda path: path.mkdir(),
            "a device": lambda path: path.symlink_to("/dev/zero"),
            "text": b"X,y\n1,2\n",
            "an archive that was cut off": npz(X=X, y=Y)[:-40],
            "no arrays": npz(),
            "an array of another name": npz(X=X, y=Y, z=X),
            "a name that clears the screen": npz(**{BEFORE_A_TERMINAL: X}),
            "X twice": npz(X=X, x=X, y=Y),
            "X without y": npz(X=X),
            "test rows without training rows": npz(X_test=X, y_test=Y),
            "objects": npz(X=np.array([None, 1]), y=Y),
            "text in place of numbers": npz(X=np.array([["a", "b"]] * 6), y=Y),
            "rows of another number": npz(X=X, y=Y[:3]),
            "parts of another width": npz(X_train=X, y_train=Y, X_test=X[:, :1], y_test=Y),
            "pixels in one part alone": npz(X_train=np.full((6, 2), 255, np.uint8), y_train=Y, X_test=X, y_test=Y),
            "NaN": npz(X=X * np.nan, y=Y),
            "a label below 0": npz(X=X, y=Y - 1),
            "one label of 2^62": npz(X=X, y=Y + 2**62),
            "targets of three dimensions": npz(X=X, y=X[:, :, None]),
            "weights of another number": npz(X=X, y=Y, sample_weight=np.ones(5)),
            "weights below 0": npz(X=X, y=Y, sample_weight=-np.ones(6)),
            "two rows": npz(X=X[:2], y=Y[:2]),
        },
    ),
    Files(
        "npy", "load_rows('rows.npy')", "rows.npy",
        {
            "nothing there": lambda path: None,
            "text": b"1,2\n",
            "a header that claims 2^40 rows, in 100 bytes": header("(1099511627776, 1)"),
            "a shape of 2^140": header("(1180591620717411303424, 1180591620717411303424)"),
            "a shape below 0": header("(-3, -1)"),
            "code in the header": header("__import__('os').system('true')"),
            "objects": npy(np.array([None, 1])),
            "text in place of numbers": npy(np.array([["a"]])),
            "bytes behind the array": npy(X) + b"\0",
            "no rows": npy(X[:0]),
            "NaN": npy(X * np.nan),
        },
    ),
    Files(
        "pickle", "load_data('mnist.pkl.gz')", "mnist.pkl.gz",
        {
            "an empty file": b"",
            "a call of os.system": b"cposix\nsystem\n(S'true'\ntR.",
            "a newer protocol": pickle.dumps((PAIR_OF_ARRAYS,) * 3, 4),
            "other instructions": pickle.dumps({"X": 1}, 2),
            "one pair": pickle.dumps((PAIR_OF_ARRAYS,), 2),
            "numbers in place of pairs": pickle.dumps((1, 2, 3), 2),
            "lists in place of arrays": pickle.dumps((([1.0], [1]),) * 3, 2),
            "X of integers": pickle.dumps(((Y[:, None], Y),) * 3, 2),
            "labels below 0": pickle.dumps(((X, Y - 1),) * 3, 2),
            "another number of labels": pickle.dumps(((X, Y[:3]),) * 3, 2),
            "parts of another width": pickle.dumps((PAIR_OF_ARRAYS, PAIR_OF_ARRAYS, (X[:, :1], Y)), 2),
            "a gzip file that was cut off": gzip.compress(pickle.dumps((PAIR_OF_ARRAYS,) * 3, 2), mtime=0)[:-20],
        },
    ),
    Files(
        "model", "Network.load('model.safetensors')", "model.safetensors",
        {
            "nothing there": lambda path: None,
            "text": b"weights",
            "a header that claims 2^40 bytes": (1 << 40).to_bytes(8, "little") + b"{}",
            "a file of another program": lambda path: __import__("safetensors.numpy").numpy.save_file({"w": X}, path),
            "another format": changed(format="other"),
            "a newer version": changed(version=99),
            "a version that is none": changed(version="one"),
            "no layers": changed(layers=None),
            "a layer of an unknown type": changed(layers=[{"type": "os.system"}]),
            "layers of other sizes": changed(
                layers=[{"type": "SoftmaxLayer", "n_in": 9, "n_out": 3, "p_dropout": 0, "weights": "zeros", "biases": "zeros"}]
            ),
            "a task that is none": changed(task="magic"),
            "a mini-batch size of 0": changed(mini_batch_size=0),
            "NaN among its numbers": changed(**{"layers.0.biases": np.full(3, np.nan, np.float32)}),
        },
    ),
    Files(
        "checkpoint", "train(network, (X, y), epochs=2, resume='run', device='cpu', engine='native', verbose=False)", "run",
        {
            "nothing there": lambda path: None,
            "a folder without checkpoints": lambda path: path.mkdir(),
            "files that were cut off": trained(each_checkpoint(lambda content: content[:-40]), engine="native"),
            "files with a changed byte": trained(each_checkpoint(lambda content: content[:-1] + b"\x7f"), engine="native"),
            "models in place of checkpoints": trained(
                each_checkpoint(lambda content: content.replace(b"fcnet.checkpoint", b"fcnet.model     ")), engine="native"
            ),
            "another learning rate": trained(lambda path: None, engine="native", optimizer=fcnet.SGD(0.5)),
            "other data": trained(lambda path: None, engine="native", validation=(X[:, [0, 1, 0, 1]], Y)),
        },
    ),
    Files(
        "CSV", "read_table('table.csv')", "table.csv",
        {
            "an empty file": b"",
            "column names alone": b"a,b\n",
            "a row with a field too few": b"a,b\n1,2\n3\n",
            "a row with a field too many": b"a,b\n1,2\n3,4,5\n",
            "a quote that is never closed": b'a,b\n"1,2\n3,4\n',
            "quotes within a field": b'a,b\n1,5" pipe\n2,6" pipe\n',
            "a column name twice": b"a,a\n1,2\n",
            "a column without a name": b"a,\n1,2\n",
            "UTF-16": "a,b\n1,2\n".encode("utf-16-le").join([b"\xff\xfe", b""]),
            "Latin-1": b"a,b\ncaf\xe9,2\n",
            "binary data": b"a,b\n\0\1\2\3\n",
            "200,000 columns": b"," * 199_999 + b"\n",
            "a gzip file that was cut off": gzip.compress(b"a,b\n" + b"1,2\n" * 99, mtime=0)[:-12],
        },
    ),
    Files("a table of another name", "read_table('table.txt')", "table.txt", {"any": b"a,b\n1,2\n"}),
    Files(
        "Parquet", "read_table('table.parquet')", "table.parquet",
        {
            "text": b"a,b\n1,2\n",
            "a file that was cut off": parquet({"a": [1, 2]})[:60],
            "a column of lists": parquet({"a": [[1], [2]]}),
            "no rows": parquet({"a": []}),
        },
    ),
    Files(
        "table's model", "load_estimator(Path('run'))", "run",
        {
            "nothing there": lambda path: None,
            "another format": table_of(classifier, format="other"),
            "a newer version": table_of(classifier, version=99),
            "more networks than there are": table_of(classifier, members=3),
            "one class": table_of(classifier, classes=["a"]),
            "another number of classes": table_of(classifier, classes=["a", "b", "c"]),
            "a temperature of 0": table_of(classifier, temperature=0),
            "targets smoothed away": table_of(classifier, label_smoothing=1),
            "columns that are none": table_of(classifier, columns={"columns": 3}),
        },
    ),
    Files(
        "run.json", "runs.read(Path('run'))", "run",
        {
            "nothing there": lambda path: None,
            "no JSON": lambda path: (path.mkdir(), (path / "run.json").write_text("{")),
            "no results": lambda path: (path.mkdir(), (path / "run.json").write_text("[]")),
            "settings that are a number": lambda path: (
                path.mkdir(), (path / "run.json").write_text('{"results": {}, "settings": 3}'),
            ),
        },
    ),
    Files(
        "options in TOML", "words.config(Path('options.toml'), {'epochs': 'epochs', 'batch-size': 'batch_size'})", "options.toml",
        {
            "nothing there": lambda path: None,
            "no TOML": b"epochs",
            "an unknown option": b"epoch = 3\n",
        },
    ),
)  # fmt: skip

DOWNLOADS: dict[str, Callable[[str], Any]] = {
    "no mirror answers": mock.Mock(side_effect=urllib.error.URLError("no route to host")),
    "a page in place of the file": lambda url: io.BytesIO(b"<html>Log in to the network</html>"),
    "another file": lambda url: io.BytesIO(gzip.compress(LABELS, mtime=0)),
    "a file without an end": lambda url: io.BytesIO(bytes(1 << 25)),
}
"""What mirrors send in place of MNIST's files."""


# --- The command ---------------------------------------------------------------------------------------------------------

TRAIN, OF_TABLE = "fcnet train blobs.npz --hidden 4 --epochs 1", "fcnet train table.csv --target kind --preset fast"
COMMANDS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "DATA": ("fcnet train digit", "fcnet train nothing.csv --target kind"),
        "--hidden": (f"{TRAIN} --hidden 100,x",),
        "--activation": (f"{TRAIN} --activation rleu",),
        "--dropout": (f"{TRAIN} --dropout half", f"{TRAIN} --dropout 1.5", f"{TRAIN} --dropout 0.1,0.2,0.3"),
        "--epochs": (f"{TRAIN} --epochs 0", f"{TRAIN} --epochs many"),
        "--batch-size": (f"{TRAIN} --batch-size 0", f"{TRAIN} --batch-size 5000"),
        "--optimizer": (f"{TRAIN} --optimizer addam",),
        "--learning-rate": (f"{TRAIN} --learning-rate -1", f"{TRAIN} --learning-rate nan"),
        "--schedule": (f"{TRAIN} --schedule cosin",),
        "--l2": (f"{TRAIN} --l2 -1",),
        "--early-stopping": (f"{TRAIN} --early-stopping 0",),
        "--time-budget": (f"{TRAIN} --time-budget '5 weeks'", f"{TRAIN} --time-budget 0s"),
        "--on-nan": (f"{TRAIN} --on-nan halv",),
        "--seed": (f"{TRAIN} --seed -3",),
        "--out": (f"{TRAIN} --out run", f"{TRAIN} --out blobs.npz/run"),
        "--overwrite": (f"{TRAIN} --out notes --overwrite",),
        "--resume": (f"{TRAIN} --resume nothing", "fcnet train blobs.npz --resume run --out other", "fcnet train blobs.npz --resume run --seed 3"),
        "--checkpoint-every": (f"{TRAIN} --checkpoint-every often",),
        "--config": (f"{TRAIN} --config nothing.toml",),
        "--precision": (f"{TRAIN} --precision tf64",),
        "--engine": (f"{TRAIN} --engine xlaa", f"{OF_TABLE} --engine xlaa"),
        "--device": (f"{TRAIN} --device gppu",),
        "--threads": (f"{TRAIN} --threads 0",),
        "--dtype": (f"{TRAIN} --dtype float16",),
        "--target": ("fcnet train table.csv", "fcnet train table.csv --target knd", f"{TRAIN} --target kind"),
        "--task": (f"{OF_TABLE} --task classify", f"{OF_TABLE} --task regression"),
        "--split-column": (f"{OF_TABLE} --split-column colour",),
        "--drop": (f"{OF_TABLE} --drop size",),
        "--preset": ("fcnet train table.csv --target kind --preset fest",),
        "--interval": (f"{OF_TABLE} --interval 0.9", "fcnet train table.csv --target width --preset fast --interval 2"),
    },
    "evaluate": {
        "RUN": ("fcnet evaluate nothing blobs.npz",),
        "DATA": ("fcnet evaluate run blob.npz", "fcnet evaluate run wide.npz"),
        "--part": ("fcnet evaluate run blobs.npz --part tests",),
        "--engine": ("fcnet evaluate run blobs.npz --engine xlaa",),
        "--device": ("fcnet evaluate run blobs.npz --device gppu",),
    },
    "predict": {
        "RUN": ("fcnet predict nothing blobs.npz",),
        "DATA": ("fcnet predict run wide.npz", "fcnet predict run table.csv"),
        "--out": ("fcnet predict run blobs.npz --out 'no such folder/answers.csv'",),
        "--part": ("fcnet predict run blobs.npz --part tests",),
        "--engine": ("fcnet predict run blobs.npz --engine xlaa",),
        "--device": ("fcnet predict run blobs.npz --device gppu",),
    },
    "info": {"RUN": ("fcnet info nothing",)},
}  # fmt: skip
"""For each command and option, command lines that are refused."""


# --- What each is answered -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A bad input.

    Attributes:
        name: what it is given to.
        given: what is given, as the page shows it.
        refuse: gives it, in an empty folder; an error, or None where there was none.
        foreign: whether another program may find it, and say it in words of its own.
    """

    section: str
    name: str
    given: str
    refuse: Callable[[], BaseException | None]
    foreign: bool = False

    def answer(self) -> tuple[BaseException | None, str]:
        """The error, and its message, which is the same in each folder."""
        with folder() as place:
            error = self.refuse()
        text = " ".join(str(error).replace(str(place), "FOLDER").split())
        for pattern, replacement in VARIES.items():
            text = re.sub(pattern, replacement, text)
        return error, text

    def line(self) -> str:
        """Its line of the page."""
        error, text = self.answer()
        if self.foreign and not isinstance(error, FcnetError):
            text = "(in the words of the package that finds it)"
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
        return f"| {self.cell} | {text} |"

    @property
    def cell(self) -> str:
        """What is given, for the page."""
        given = self.given.replace("|", "\\|")
        return given if self.section == "Files" else f"`{given}`"


VARIES = {
    r"\((?:Error while|Invalid|incomplete|parquet:)[^)]*\)": "(...)",
    r" at 0x[0-9a-f]+": "",
    r"EOF: [^.]*": "...",
    r"(is not TOML: )[^(]*[(][^)]*[)]": r"\1...",
    r"supported formats: [^)]*": "...",
}
"""What other programs say within a message, which changes with their versions."""


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """An empty folder to be in, where nothing is printed."""
    with (
        tempfile.TemporaryDirectory() as place,
        contextlib.chdir(place),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield Path(place)


def refusal(expression: str, **more: Any) -> BaseException | None:
    """The error that an expression ends in; None where it does not."""
    try:
        eval(expression, scene() | more)
    except Exception as error:
        return error
    return None


def of_call(section: str, call: Call) -> Iterator[Row]:
    """A row for each bad value."""
    for parameter, values in call.bad.items():
        for value in values:

            def refuse(expression: str = call.expression(parameter, value)) -> BaseException | None:
                fitted = (
                    {"classifier": classifier(), "regressor": regressor()}
                    if expression.startswith(("classifier", "regressor"))
                    else {}
                )
                return refusal(expression, **fitted)

            name = "network.parameters" if call.name == "set_parameters" else call.name
            yield Row(section, name, f"{parameter}={value}", refuse, parameter in call.foreign)


def of_files(reader: Files) -> Iterator[Row]:
    """A row for each bad content."""
    for what, content in reader.contents.items():

        def refuse(content: bytes | Callable[[Path], None] = content) -> BaseException | None:
            if callable(content):
                content(Path(reader.name))
            else:
                Path(reader.name).write_bytes(content)
            return refusal(reader.read)

        yield Row("Files", reader.reader, what, refuse)


def of_downloads() -> Iterator[Row]:
    """A row for each mirror that does not send what it should."""
    for what, mirror in DOWNLOADS.items():

        def refuse(mirror: Callable[[str], Any] = mirror) -> BaseException | None:
            cache = mock.patch("platformdirs.user_cache_dir", return_value="cache")
            with (
                cache,
                mock.patch.object(mnist, "_open", side_effect=mirror),
                mock.patch.dict(os.environ, FCNET_DATA=""),
            ):
                return refusal("load_data('mnist')")

        yield Row("Files", "download", what, refuse)


def command(line: str) -> BaseException | None:
    """What the command says of a command line; None where it does not end in an error."""
    shutil.copytree(workplace(), ".", dirs_exist_ok=True)
    code, text = _call(line)
    if not code:
        return None
    if text.startswith("fcnet: error: "):
        return FcnetError(f"{text.removeprefix('fcnet: error: ').strip()} (exit code {code})")
    return ValueError(text)


@functools.cache
def workplace() -> Path:
    """A folder with data and a run."""
    made = Path(tempfile.mkdtemp(prefix="fcnet-refusals-"))
    atexit.register(shutil.rmtree, made)
    generator, labels = np.random.default_rng(0), np.arange(60) % 3
    for name, width in (("blobs", 4), ("wide", 9)):
        np.savez(made / name, X=generator.normal(size=(60, width)).astype(np.float32), y=labels)
    flowers = [f"{0.5 + n % 7},{('red', 'blue')[n % 2]},{('a', 'b')[n % 3 > 0]}" for n in range(60)]
    (made / "table.csv").write_text("\n".join(["width,colour,kind", *flowers]) + "\n")
    (made / "notes").mkdir()
    (made / "notes" / "notes.txt").write_text("mine")
    with contextlib.chdir(made):
        _call("fcnet train blobs.npz --hidden 4 --epochs 1 --out run --engine native --device cpu")
    return made


def _call(line: str) -> tuple[Any, str]:
    """The exit code of a command line, and what it says on standard error from the error on."""
    said = io.StringIO()
    with mock.patch.object(sys, "argv", shlex.split(line)), contextlib.redirect_stderr(said):
        try:
            app.main()
        except SystemExit as ended:
            text = said.getvalue()
            return ended.code, text[max(0, text.find("fcnet: error: ")) :]
    return 0, ""


def rows() -> Iterator[Row]:
    """All of them, in the page's order."""
    sections = {"Layers and networks": LAYERS_AND_NETWORKS, "Training": TRAINING, "The book's module": THE_BOOK}
    sections |= {"Estimators": ESTIMATORS, "Tables": TABLES}
    for section, calls in sections.items():
        for call in calls:
            yield from of_call(section, call)
    for reader in FILES:
        yield from of_files(reader)
    yield from of_downloads()
    for name, options in COMMANDS.items():
        for lines in options.values():
            for line in lines:
                foreign = line == f"{TRAIN} --epochs many"
                yield Row("The command", f"fcnet {name}", line, lambda line=line: command(line), foreign)


HEAD = """# Bad inputs, and what is answered

Every parameter of every public name, every option of the command, and every reader of files, with something that it refuses. The page is
written by `python tests/refusals.py`; `tests/test_refusals.py` gives each of these inputs again and compares the answer with its line here, and fails
where a parameter, an option or a reader has none. A line's test: `pytest tests/test_refusals.py -k "train and epochs"`.

All errors are `fcnet.FcnetError`: an `InputError` (a `ValueError`; the command's exit code is 2), or a `FileError`, `DeviceError`,
`OutOfMemoryError` or `DownloadError` (exit code 1). Where scikit-learn checks what its classes are given, it answers in its own words.
`X`, `y`, `network`, `layers` and `table` stand for small data that is as it should be.
"""


def page() -> str:
    """The whole page."""
    lines, section, name = [HEAD.rstrip()], "", ""
    for row in rows():
        if row.section != section:
            section = row.section
            lines += ["", f"## {section}"]
        if row.name != name:
            name = row.name
            lines += [
                "",
                f"### {name}" if section == "Files" else f"### `{name}`",
                "",
                "| given | answer |",
                "| --- | --- |",
            ]
        lines.append(row.line())
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
