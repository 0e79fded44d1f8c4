"""A network, or a training half-way, as a file: arrays in safetensors, what they are as JSON in the same file's header.

So one rename saves both.
Nothing is ever executed on the way back: layers, activations and initializers are looked up by name in fcnet's own
tables. Beside ``NAME.safetensors`` lies ``NAME.json``, the same description for people and other programs to read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from fcnet.activations import NAMED, softmax
from fcnet.data.files import open_file, shown, what_is_at
from fcnet.engines.contract import TrainState
from fcnet.errors import FcnetError, FileError, InputError, check_path
from fcnet.history import Ending, EpochRecord, History
from fcnet.initializers import INITIALIZERS
from fcnet.layers import FullyConnectedLayer, Layer, SoftmaxLayer, TableLayer
from fcnet.model import Model

FORMAT = "fcnet.model"
_DESCRIPTION_LIMIT = 1 << 22
"""How many characters a description may have: a layer's has less than 200, and as objects they take 30 times the memory."""
PARTIAL = ".partial"
"""How the name of a file ends that is still being written."""
VERSION = 2
"""Raised when an older fcnet could not read what this one writes; files are written with the lowest version that can."""
PLAIN = 1
"""The version of files without a ``TableLayer`` and without parametric activations."""
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
    check_path("path", path)
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
    layers = [_describe_layer(index, layer) for index, layer in enumerate(saved.model.layers)]
    plain = all(layer["type"] != TableLayer.__name__ and "parametric" not in layer for layer in layers)
    description = {
        "format": FORMAT,
        "version": PLAIN if plain else VERSION,
        "layers": layers,
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
            description = _parse_description(file, metadata["fcnet"], FORMAT)
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
    """Write a file so that its name shows either the old content or all of the new, also after a power loss.

    The content is on the disk before the name is given to it, and the name before this returns.
    """
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(opened, rest) :]
            os.fsync(opened)
        finally:
            os.close(opened)
        os.replace(temporary, file)  # noqa: PTH105  (one way to each operation, so that tests can fail every one)
        sync_folder(file.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        raise FileError(f"{file} cannot be written: {reason}. Check that the folder exists and is writable.") from None


def sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


_STRUCTURE = {"format", "version", "layers", "dropout_scaling"}
_ACTIVATIONS = {**NAMED, softmax.name: softmax}


# --- Layers as JSON ---------------------------------------------------------------------------------------------------


def _describe_layer(index: int, layer: Layer) -> dict[str, Any]:
    if isinstance(layer, TableLayer):
        sizes = dataclasses.asdict(layer)
        return {"type": TableLayer.__name__, **sizes, "categories": list(layer.categories)}
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
        **({"parametric": True} if getattr(layer, "parametric", False) else {}),
    }


def _parse_description(file: Path, text: str, form: str) -> dict[str, Any]:
    if len(text) > _DESCRIPTION_LIMIT:
        raise FileError(
            f"{file}: its description has {len(text)} characters, expected {_DESCRIPTION_LIMIT} at most. The file is damaged."
        )
    try:
        description = json.loads(text)
    except (ValueError, RecursionError):
        raise FileError(f"{file}: its description is not JSON. The file is damaged.") from None
    if not isinstance(description, dict) or description.get("format") != form:
        kind = form.removeprefix("fcnet.")
        raise FileError(f"{file} is not a {kind} that fcnet wrote: its format is not {form!r}.")
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
    if description["type"] == TableLayer.__name__:
        return TableLayer(**{one.name: description[one.name] for one in dataclasses.fields(TableLayer)})
    kind: Callable[..., Layer] = {"FullyConnectedLayer": FullyConnectedLayer, "SoftmaxLayer": SoftmaxLayer}[
        description["type"]
    ]
    options = {}
    if kind is FullyConnectedLayer:
        options = {
            "activation_fn": _ACTIVATIONS[description["activation"]],
            "parametric": description.get("parametric", False),
        }
    return kind(
        n_in=description["n_in"],
        n_out=description["n_out"],
        p_dropout=description["p_dropout"],
        weights=INITIALIZERS[description["weights"]],
        biases=INITIALIZERS[description["biases"]],
        **options,
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


# --- A training half-way ----------------------------------------------------------------------------------------------

CHECKPOINT_FORMAT = "fcnet.checkpoint"


@dataclass
class EpochSoFar:
    """Sums over the steps of an epoch that is not over.

    They are added up one step after the other, so that they do not depend on how the epoch is cut into chunks.

    Attributes:
        cost: of the steps' mean costs, times what their rows weigh.
        weight: of their rows.
        seconds: of training.
    """

    cost: float = 0.0
    weight: float = 0.0
    seconds: float = 0.0

    def add(self, costs: NDArray[np.float64], weights: NDArray[np.float64], seconds: float) -> None:
        """Add some steps: their mean costs ``(n_steps,)`` and what their rows weigh."""
        self.cost = float(np.add.accumulate(np.concatenate([[self.cost], costs * weights]))[-1])
        self.weight = float(np.add.accumulate(np.concatenate([[self.weight], weights]))[-1])
        self.seconds += seconds

    @property
    def mean_cost(self) -> float:
        """Of a row."""
        return self.cost / self.weight if self.weight else 0.0


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that a training needs to go on as if it had never stopped.

    Attributes:
        state: what the engine knows: parameters, slots, steps done.
        kept: the parameters of the best network so far; None before any epoch was the best.
        history: the epochs that are over. What early stopping counts follows from it.
        so_far: of the epoch that is not.
        identity: settings, data and versions, as ``fcnet.identity`` tells them: what must be the same where it goes on.
    """

    state: TrainState
    kept: dict[str, NDArray[Any]] | None
    history: History
    so_far: EpochSoFar = field(default_factory=EpochSoFar)
    identity: dict[str, Any] = field(default_factory=dict)


def checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as the content of a file, with a checksum over everything in it."""
    from safetensors.numpy import save

    state = checkpoint.state
    groups = {"parameters": state.parameters, "best": checkpoint.kept or {}} | {
        f"slots.{slot}": arrays for slot, arrays in state.slots.items()
    }
    groups["history"] = {"epochs": _figures(checkpoint.history)}
    arrays = {
        f"{group}/{name}": np.ascontiguousarray(array)
        for group, named in groups.items()
        for name, array in named.items()
    }
    description = {
        "format": CHECKPOINT_FORMAT,
        "version": PLAIN,
        "step": state.step,
        "so_far": dataclasses.asdict(checkpoint.so_far),
        "history": {name: value for name, value in vars(checkpoint.history).items() if name != "epochs"},
        "identity": checkpoint.identity,
    }
    description["sha256"] = _checksum(description, arrays)
    return save(arrays, {"fcnet": json.dumps(description)})


def load_checkpoint(file: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        FileError: missing, truncated, changed since it was written, foreign, or from a newer fcnet.
    """
    from safetensors import SafetensorError, safe_open

    open_file(file).close()
    try:
        with safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            if "fcnet" not in metadata:
                raise FileError(f"{file} is a safetensors file, but not one that fcnet wrote.")
            description = _parse_description(file, metadata["fcnet"], CHECKPOINT_FORMAT)
            arrays = {name: _any_array(file, opened, name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
    except SafetensorError as error:
        raise FileError(f"{file} is truncated, damaged, or not a checkpoint ({error}).") from None
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error}.") from None
    groups: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in arrays.items():
        group, _, own = name.partition("/")
        groups.setdefault(group, {})[own] = array
    parameters, kept, records = (groups.pop(name, None) for name in ("parameters", "best", "history"))
    slots = {group.removeprefix("slots."): named for group, named in groups.items()}
    try:
        if description.pop("sha256", None) != _checksum(description, arrays):
            raise ValueError("its checksum is not that of its content")
        if not parameters or not all(np.isfinite(array).all() for array in parameters.values()):
            raise ValueError("its parameters are missing, or contain NaN or infinity")
        step = _count(description["step"])
        so_far = EpochSoFar(**{name: _number(number) for name, number in description["so_far"].items()})
        history = _history(description["history"], (records or {})["epochs"])
        identity = description["identity"]
        if not isinstance(identity, dict) or not all(isinstance(part, dict) for part in identity.values()):
            raise ValueError("identity")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise FileError(
            f"{file} is damaged ({shown(str(error))}). Go on from the checkpoint before it, or train anew."
        ) from None
    return Checkpoint(TrainState(parameters, slots, step), kept, history, so_far, identity)


def _checksum(description: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    sha256 = hashlib.sha256(json.dumps(description).encode())
    for name, array in sorted(arrays.items()):
        sha256.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        sha256.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha256.hexdigest()


def _any_array(file: Path, opened: Any, name: str) -> NDArray[Any]:
    if (dtype := opened.get_slice(name).get_dtype()) not in ("F32", "F64"):
        raise FileError(f"{file}: {shown(name)} is of type {dtype}, expected F32 or F64. The file is damaged.")
    return np.array(opened.get_tensor(name))


_NEEDED = ("training_cost", "learning_rate", "seconds")
_OPTIONAL = ("validation_cost", "validation_accuracy", "test_accuracy")


def _figures(history: History) -> NDArray[np.float64]:
    """A history's epochs as numbers ``(n_epochs, 6)``, NaN where there is none: as text, many thousands would take long to write."""
    records = [[getattr(record, name) for name in (*_NEEDED, *_OPTIONAL)] for record in history.epochs]
    return np.array(records, np.float64).reshape(-1, len(_NEEDED) + len(_OPTIONAL))


def _history(values: dict[str, Any], figures: NDArray[Any]) -> History:
    """A history from JSON and its epochs' figures, checked one by one."""
    if figures.dtype != np.float64 or figures.ndim != 2 or figures.shape[1] != len(_NEEDED) + len(_OPTIONAL):
        raise ValueError(f"figures of epochs of shape {figures.shape}")
    if not np.isfinite(figures[:, : len(_NEEDED)]).all() or np.isinf(figures).any():
        raise ValueError("figures of epochs that are not finite")
    epochs = []
    for number, row in enumerate(figures.tolist()):
        named: dict[str, Any] = dict(zip((*_NEEDED, *_OPTIONAL), row, strict=True))
        named |= {name: None for name in _OPTIONAL if math.isnan(named[name])}
        epochs.append(EpochRecord(number, **named))
    history = History(**{**values, "epochs": epochs})
    _count(history.steps_per_epoch)
    for count in (history.best_epoch, history.best_steps):
        if count is not None:
            _count(count)
    if history.best_epoch is not None and history.best_epoch >= len(epochs):
        raise ValueError(f"best epoch {history.best_epoch}")
    if not isinstance(history.halvings, list) or len([_count(step) for step in history.halvings]) > 1000:
        raise ValueError("halvings")
    if not isinstance(history.engine, str) or not isinstance(history.device, str):
        raise ValueError("engine or device")
    if history.monitor not in (None, "accuracy", "cost") or history.ending not in get_args(Ending):
        raise ValueError("monitor or ending")
    return history


def _count(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 1 << 62:
        raise ValueError(f"{number!r:.50} is not a count")
    return number


def _number(number: Any) -> float:
    if type(number) not in (int, float) or not math.isfinite(number):
        raise ValueError(f"{number!r:.50} is not a number")
    return float(number)
