"""A network as a file: arrays in safetensors, its description as JSON in the same file's header, so one rename saves both.

Nothing is ever executed on the way back: layers, activations and initializers are looked up by name in fcnet's own
tables. Beside ``NAME.safetensors`` lies ``NAME.json``, the same description for people and other programs to read.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet.activations import NAMED, softmax
from fcnet.data.files import open_file, shown, what_is_at
from fcnet.errors import FcnetError, FileError, InputError
from fcnet.initializers import INITIALIZERS
from fcnet.layers import FullyConnectedLayer, Layer, SoftmaxLayer
from fcnet.model import Model

FORMAT = "fcnet.model"
_DESCRIPTION_LIMIT = 1 << 22
"""How many characters a description may have: a layer's has less than 200, and as objects they take 30 times the memory."""
VERSION = 1
"""Raised when an older fcnet could not read what this one writes."""
MODEL_NAME = "model"
"""The name of the model's files in a folder."""


@dataclass(frozen=True, eq=False)
class SavedModel:
    """What a model file holds.

    Attributes:
        model: the layers.
        arrays: the named parameters.
        settings: the network's own few facts, plain JSON values.
    """

    model: Model
    arrays: Mapping[str, NDArray[Any]]
    settings: dict[str, Any]


def model_path(path: str | Path) -> Path:
    """The safetensors file that a path stands for: itself, the one in a folder, or with the ending added."""
    path = Path(path)
    if what_is_at(path) == "folder":
        return path / f"{MODEL_NAME}.safetensors"
    return path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")


def save_model(path: str | Path, saved: SavedModel) -> Path:
    """Write a model; the file under its final name is always whole. Returns that file's path.

    Raises:
        InputError: an activation or initializer that is not one of fcnet's own.
        FileError: the place cannot be written.
    """
    from safetensors.numpy import save

    file = model_path(path)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "layers": [_describe_layer(index, layer) for index, layer in enumerate(saved.model.layers)],
        "dropout_scaling": saved.model.dropout_scaling,
        **saved.settings,
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in saved.arrays.items()}
    write_atomically(file, save(arrays, {"fcnet": json.dumps(description)}))
    write_atomically(file.with_suffix(".json"), (json.dumps(description, indent=2) + "\n").encode())
    return file


def load_model(path: str | Path) -> SavedModel:
    """Read a model.

    Raises:
        FileError: missing, truncated, foreign, from a newer fcnet, or not fitting its own description.
    """
    from safetensors import SafetensorError, safe_open

    file = model_path(path)
    if what_is_at(file) != "file":
        raise FileError(f"There is no model file {file}. Expected a file written by Network.save, or a run folder.")
    open_file(file).close()  # safetensors would say of a file that may not be read that it is not there
    try:
        with safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            if "fcnet" not in metadata:
                raise FileError(f"{file} is a safetensors file, but not one that fcnet wrote.")
            description = _parse_description(file, metadata["fcnet"])
            model = _model(file, description)
            expected = dict(model.shapes())
            _check_names(file, set(opened.keys()), set(expected))
            arrays = {name: _array(file, opened, name, shape) for name, shape in expected.items()}
    except SafetensorError as error:
        raise FileError(f"{file} is truncated, damaged, or not a model file ({error}).") from None
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error}.") from None
    settings = {name: description[name] for name in description.keys() - _STRUCTURE}
    return SavedModel(model, arrays, settings)


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file so that its name shows either the old content or all of the new, also after a power loss."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial")
    try:
        with temporary.open("xb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        raise FileError(f"{file} cannot be written: {reason}. Check that the folder exists and is writable.") from None


_STRUCTURE = {"format", "version", "layers", "dropout_scaling"}
_ACTIVATIONS = {**NAMED, softmax.name: softmax}


# --- Layers as JSON ---------------------------------------------------------------------------------------------------


def _describe_layer(index: int, layer: Layer) -> dict[str, Any]:
    activation = layer.activation_fn
    if _ACTIVATIONS.get(activation.name) != activation:
        raise InputError(
            f"Layer {index} has the custom activation {activation.name!r}, and a file never holds code. Save the numbers with "
            f"numpy.savez(path, **network.arrays), and rebuild the network in code before you set network.parameters; or use "
            f"one of: {', '.join(NAMED)}."
        )
    for initializer in (layer.weights, layer.biases):
        if INITIALIZERS.get(initializer.name) != initializer:
            raise InputError(
                f"Layer {index} has the custom initializer {initializer.name!r}, and a file never holds code. "
                f"Once trained it is not needed: set it to one of {', '.join(INITIALIZERS)} before saving."
            )
    return {
        "type": type(layer).__name__,
        "n_in": layer.n_in,
        "n_out": layer.n_out,
        "activation": activation.name,
        "p_dropout": layer.p_dropout,
        "weights": layer.weights.name,
        "biases": layer.biases.name,
    }


def _parse_description(file: Path, text: str) -> dict[str, Any]:
    if len(text) > _DESCRIPTION_LIMIT:
        raise FileError(
            f"{file}: its description has {len(text)} characters, expected {_DESCRIPTION_LIMIT} at most. The file is damaged."
        )
    try:
        description = json.loads(text)
    except (ValueError, RecursionError):
        raise FileError(f"{file}: its description is not JSON. The file is damaged.") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise FileError(f"{file} is not a model that fcnet wrote: its format is not {FORMAT!r}.")
    version = description.get("version")
    if not isinstance(version, int) or version < 1:
        raise FileError(f"{file}: its version is {version!r:.50}, expected a number from 1. The file is damaged.")
    if version > VERSION:
        raise FileError(
            f"{file} was written by a newer fcnet: its version is {version}, this fcnet reads up to {VERSION}. Upgrade fcnet."
        )
    return description


def _model(file: Path, description: dict[str, Any]) -> Model:
    layers = description.get("layers")
    scaling = description.get("dropout_scaling")
    if not isinstance(layers, list) or scaling not in ("inference", "training"):
        raise FileError(f"{file}: its description lacks layers or dropout_scaling. The file is damaged.")
    try:
        return Model(tuple(_layer(layer) for layer in layers), scaling)
    except (FcnetError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{file}: its layers cannot be read ({shown(str(error))}). The file is damaged.") from None


def _layer(description: dict[str, Any]) -> Layer:
    kind: Callable[..., Layer] = {"FullyConnectedLayer": FullyConnectedLayer, "SoftmaxLayer": SoftmaxLayer}[
        description["type"]
    ]
    activation = {} if kind is SoftmaxLayer else {"activation_fn": _ACTIVATIONS[description["activation"]]}
    return kind(
        n_in=description["n_in"],
        n_out=description["n_out"],
        p_dropout=description["p_dropout"],
        weights=INITIALIZERS[description["weights"]],
        biases=INITIALIZERS[description["biases"]],
        **activation,
    )


def _check_names(file: Path, found: set[str], expected: set[str]) -> None:
    if found != expected:
        raise FileError(
            f"{file} holds the arrays {_listed(found)}, but its layers need {_listed(expected)}. The file is damaged."
        )


def _listed(names: set[str]) -> str:
    more = f" and {len(names) - 12:,} more" if len(names) > 12 else ""
    return ", ".join(map(shown, sorted(names)[:12])) + more or "none"


def _array(file: Path, opened: Any, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """One array, its shape and type checked in the header before anything is read."""
    view = opened.get_slice(name)
    if tuple(view.get_shape()) != shape or view.get_dtype() not in ("F32", "F64"):
        raise FileError(
            f"{file}: {name} has shape {tuple(view.get_shape())} and type {view.get_dtype()}, expected {shape!s:.100} of F32 or F64. "
            "The file is damaged."
        )
    array = opened.get_tensor(name)
    if not np.isfinite(array).all():
        raise FileError(f"{file}: {name} contains NaN or infinity. The file is damaged.")
    return np.array(array)
