"""What people type, as values: lists of numbers, durations, names of activations, optimizers and schedules."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from fcnet import initializers
from fcnet.activations import activation_named, linear
from fcnet.data.arrays import DataSet
from fcnet.errors import FileError, InputError, unknown_name
from fcnet.layers import FullyConnectedLayer, Layer, SoftmaxLayer
from fcnet.network import Network
from fcnet.optimizers import OPTIMIZERS, SCHEDULES, Optimizer

LEARNING_RATES = {"sgd": 0.1, "momentum": 0.01, "nesterov": 0.01, "adam": 0.003, "adamw": 0.003}
"""Where ``--learning-rate`` is not given: what suits small batches and a falling schedule."""

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def sizes(text: str) -> list[int]:
    """ "100,50" as [100, 50]; an empty text, "0" or "none" as no hidden layer at all."""
    if text.strip().lower() in ("", "0", "none"):
        return []
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise InputError(f"--hidden must be positive integers separated by commas, such as 100,100; got {text!r}.")
    return numbers


def dropout(text: str, n_layers: int) -> list[float]:
    """The dropout of each layer's input.

    One number is for every layer but the first, whose input is the data; as many numbers as layers are for each in turn.
    """
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"--dropout must be a number, or numbers separated by commas, got {text!r}.") from None
    if len(numbers) == 1:
        return [0.0, *numbers * (n_layers - 1)]
    if len(numbers) != n_layers:
        raise InputError(
            f"--dropout has {len(numbers)} numbers, but the network has {n_layers} layers (the hidden ones and the last). "
            "Give one number for all, or one for each layer's input."
        )
    return numbers


def seconds(text: str) -> float:
    """ "90", "90s", "5m" or "1.5h" in seconds."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([smh]?)\s*", text.lower())
    if found is None:
        raise InputError(f"--time-budget must be a duration such as 90s, 5m or 1.5h, got {text!r}.")
    return float(found[1]) * _UNITS[found[2]]


def optimizer(name: str, learning_rate: float, schedule: str) -> Optimizer:
    """The optimizer of that name, with its learning rate on a schedule."""
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    if schedule not in SCHEDULES:
        raise unknown_name("schedule", schedule, SCHEDULES)
    return OPTIMIZERS[name](SCHEDULES[schedule](learning_rate))


def network(settings: dict[str, Any], data_set: DataSet) -> Network:
    """The network that the options describe, for the data's sizes."""
    activation = activation_named(settings["activation"])
    saturating = activation.name in ("sigmoid", "tanh", "linear")
    weights = initializers.glorot_uniform if saturating else initializers.he_normal
    sizes = [data_set.n_in, *settings["hidden"]]
    *inner, last = settings["dropout"]
    layers: list[Layer] = [
        FullyConnectedLayer(n_in, n_out, activation, p, weights, initializers.zeros)
        for n_in, n_out, p in zip(sizes, sizes[1:], inner, strict=False)
    ]
    if data_set.n_classes is not None:
        layers.append(SoftmaxLayer(sizes[-1], max(2, data_set.n_classes), last))
    else:
        n_out = data_set.train.y.shape[1]
        layers.append(
            FullyConnectedLayer(sizes[-1], n_out, linear, last, initializers.glorot_uniform, initializers.zeros)
        )
    return Network(layers, settings["batch_size"], settings["seed"])


def config(path: Path, options: dict[str, str]) -> dict[str, Any]:
    """A TOML file of options by their long names, such as ``batch-size = 32``; for what the command line leaves out.

    Args:
        path: the file.
        options: the long name of each option -> the name of what it sets.
    """
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"The configuration {path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise FileError(f"The configuration {path} is not TOML: {error}.") from None
    values = {}
    for name, value in settings.items():
        option = name.replace("_", "-")
        if option not in options:
            raise unknown_name(f"setting in {path}:", name, options)
        values[options[option]] = ",".join(map(str, value)) if isinstance(value, list) else value
    return values
