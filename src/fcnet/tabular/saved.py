"""A fitted estimator as files: each network in safetensors, everything else in ``table.json``. No pickle, no code.

``model.safetensors`` is the first network, and a network file as any other; ``member-2.safetensors`` and so on are those that are
averaged with it, ``interval.safetensors`` the one of an interval's two ends.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fcnet.checkpoint import MODEL_NAME, write_atomically
from fcnet.data.files import open_file, read_some, shown, what_is_at
from fcnet.errors import FcnetError, FileError, InputError
from fcnet.network import Network
from fcnet.tabular.columns import Columns
from fcnet.tabular.estimator import TabularEstimator, network_of
from fcnet.tabular.estimators import TabularClassifier, TabularRegressor
from fcnet.tabular.recipe import Architecture

TABLE_FILE = "table.json"
FORMAT = "fcnet.table"
VERSION = 1
"""Raised when an older fcnet could not read what this one writes."""
_LIMIT = 1 << 28
"""Bytes of ``table.json``."""
_MOST_MEMBERS = 64


def is_saved_table(folder: Path) -> bool:
    """Whether a folder holds an estimator of a table."""
    return what_is_at(folder / TABLE_FILE) == "file"


def save_estimator(estimator: TabularEstimator, folder: Path, target: str, **facts: Any) -> None:
    """Write a fitted estimator into a folder that is there.

    Args:
        estimator: what to write.
        folder: where.
        target: the name of the target's column.
        facts: more plain JSON values to keep with it.

    Raises:
        InputError: classes that JSON has no word for.
        FileError: the place cannot be written.
    """
    description: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "target": target,
        "members": len(estimator.members_),
        "columns": estimator.columns_.to_json(),
        "validation_score": estimator.validation_score_,
        **facts,
    }
    if isinstance(estimator, TabularClassifier):
        classes = estimator.classes_.tolist()
        if not all(isinstance(label, str | int | float | bool) for label in classes):
            raise InputError(f"Classes must be text, numbers or booleans to be saved, got {type(classes[0]).__name__}.")
        description |= {"task": "classification", "classes": classes, "temperature": estimator.temperature_}
        description |= {"ece": estimator.ece_}
    elif isinstance(estimator, TabularRegressor):
        description |= {
            "task": "regression",
            "target_mean": estimator.target_mean_,
            "target_scale": estimator.target_scale_,
            "target_range": list(estimator.target_range_),
            "interval": estimator.interval if estimator.limits_ is not None else None,
        }
        if estimator.limits_ is not None:
            description |= {"correction": estimator.correction_, "coverage": estimator.coverage_}
            network_of(replace(estimator.architecture_, n_out=2), estimator.limits_).save(folder / "interval")
    for place, arrays in enumerate(estimator.members_):
        network_of(estimator.architecture_, arrays).save(folder / _member(place))
    write_atomically(folder / TABLE_FILE, (json.dumps(description, indent=1) + "\n").encode())


def load_estimator(folder: Path) -> tuple[TabularClassifier | TabularRegressor, dict[str, Any]]:
    """A fitted estimator, ready to predict, and everything that ``table.json`` says.

    Raises:
        FileError: a file is missing, damaged, from a newer fcnet, or does not fit the others.
    """
    file = folder / TABLE_FILE
    description = _read(file)
    try:
        columns = Columns.from_json(description["columns"])
        n_members, task = description["members"], description["task"]
        if (
            type(n_members) is not int
            or not 1 <= n_members <= _MOST_MEMBERS
            or not isinstance(description["target"], str)
        ):
            raise InputError("members or target is not what it may be")
        networks = [Network.load(folder / f"{_member(place)}.safetensors") for place in range(n_members)]
        estimator = _classifier(description) if task == "classification" else _regressor(description)
        n_out = len(description["classes"]) if task == "classification" else 1
        estimator.columns_ = columns
        estimator._names = tuple(column.name for column in columns.columns)
        estimator.n_features_in_ = len(columns.columns)
        estimator.members_ = [_arrays(network, columns.width, n_out, task) for network in networks]
        estimator.architecture_ = _architecture(networks[0])
        if isinstance(estimator, TabularRegressor) and estimator.interval is not None:
            ends = Network.load(folder / "interval.safetensors")
            estimator.limits_ = _arrays(ends, columns.width, 2, task)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, FileError):
            raise
        why = str(error) if isinstance(error, FcnetError) else f"{type(error).__name__} {error}"
        raise FileError(f"{file} cannot be read ({shown(why)}). The file is damaged.") from None
    return estimator, description


def _member(place: int) -> str:
    return MODEL_NAME if place == 0 else f"member-{place + 1}"


def _read(file: Path) -> dict[str, Any]:
    with open_file(file) as opened:
        content = read_some(opened, _LIMIT + 1)
    try:
        if len(content) > _LIMIT:
            raise ValueError
        description = json.loads(content)
    except (ValueError, RecursionError):
        raise FileError(f"{file} is not JSON. The file is damaged.") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise FileError(f"{file} is not what fcnet writes for a table: its format is not {FORMAT!r}.")
    version = description.get("version")
    if type(version) is not int or version < 1:
        raise FileError(f"{file}: its version is {version!r:.50}, expected a number from 1. The file is damaged.")
    if version > VERSION:
        raise FileError(f"{file} was written by a newer fcnet: its version is {version}. Upgrade fcnet.")
    return description


def _classifier(description: dict[str, Any]) -> TabularClassifier:
    estimator = TabularClassifier()
    classes = description["classes"]
    kinds = {type(label) for label in classes}
    if len(classes) < 2 or len(kinds) != 1 or not kinds <= {str, int, float, bool}:
        raise InputError("its classes are not two or more of one type")
    estimator.classes_ = np.array(classes)
    estimator.temperature_ = _number(description, "temperature", above=0.0)
    estimator.validation_score_ = _number(description, "validation_score")
    estimator.ece_ = _number(description, "ece")
    return estimator


def _regressor(description: dict[str, Any]) -> TabularRegressor:
    interval = description["interval"]
    estimator = TabularRegressor(interval=None if interval is None else _number(description, "interval", above=0.0))
    estimator.target_mean_ = _number(description, "target_mean")
    estimator.target_scale_ = _number(description, "target_scale", above=0.0)
    low, high = description["target_range"]
    estimator.target_range_ = float(low), float(high)
    estimator.validation_score_ = _number(description, "validation_score")
    estimator.limits_ = None
    if interval is not None:
        estimator.correction_ = _number(description, "correction")
    return estimator


def _number(description: dict[str, Any], name: str, above: float = -math.inf) -> float:
    number = description[name]
    if isinstance(number, bool) or not isinstance(number, int | float) or not (above < number < math.inf):
        raise InputError(f"{name} is {number!r:.50}")
    return float(number)


def _arrays(network: Network, n_in: int, n_out: int, task: str) -> dict[str, Any]:
    if (network.model.n_in, network.model.n_out, network.task) != (n_in, n_out, task):
        raise InputError(
            f"a network reads {network.model.n_in} features and writes {network.model.n_out} numbers, expected {n_in} and {n_out}"
        )
    return dict(network.arrays)


def _architecture(network: Network) -> Architecture:
    *inner, last = network.layers
    hidden = tuple(layer.n_out for layer in inner)
    activation = inner[0].activation_fn.name if inner else "relu"
    return Architecture(
        network.model.n_in, hidden, network.model.n_out, activation, last.p_dropout, network.task == "classification"
    )
