"""A fitted estimator as files: each network in safetensors, everything else in ``table.json``. No pickle, no code.

``model.safetensors`` is the first network, and a network file as any other; ``member-2.safetensors`` and so on are those that are
averaged with it, ``interval.safetensors`` the one of an interval's two ends.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet.checkpoint import MODEL_NAME, write_atomically
from fcnet.data.files import open_file, read_some, shown, what_is_at
from fcnet.errors import FcnetError, FileError, InputError
from fcnet.network import Network

TABLE_FILE = "table.json"
FORMAT = "fcnet.table"
VERSION = 4
"""Raised when an older fcnet could not read what this one writes."""
_LIMIT = 1 << 28
"""Bytes of ``table.json``."""
_MOST_MEMBERS = 64


def is_saved_table(folder: Path) -> bool:
    """Whether a folder holds an estimator of a table."""
    return what_is_at(folder / TABLE_FILE) == "file"


def member(place: int) -> str:
    """The name of a member's file, without its ending."""
    return MODEL_NAME if place == 0 else f"member-{place + 1}"


def make_folder(folder: Path) -> None:
    """A folder to write into; one that is there must be empty, or hold an estimator, whose files go.

    Raises:
        FileError: the folder cannot be written, or holds other files.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not is_saved_table(folder) and any(folder.iterdir()):
            raise FileError(f"{folder} holds other files. Name a folder that is new or empty.")
        for old in [*folder.glob("member-*"), *folder.glob("interval.*")]:
            old.unlink()
    except OSError as error:
        if isinstance(error, FcnetError):
            raise
        raise FileError(f"{folder} cannot be written: {error.strerror}. Name another.") from None


def write(folder: Path, description: dict[str, Any], networks: Mapping[str, Network]) -> None:
    """Write networks by their names, then ``table.json``, into a folder that is there.

    Raises:
        FileError: the place cannot be written.
    """
    for name, network in networks.items():
        network.save(folder / name)
    content = json.dumps({"format": FORMAT, "version": VERSION, **description}, indent=1) + "\n"
    write_atomically(folder / TABLE_FILE, content.encode())


@dataclass(frozen=True)
class Files:
    """What a folder holds, not yet believed.

    Attributes:
        folder: where.
        description: all of ``table.json``.
    """

    folder: Path
    description: dict[str, Any]

    @property
    def members(self) -> int:
        """How many networks are averaged."""
        n_members = self.description["members"]
        if type(n_members) is not int or not 1 <= n_members <= _MOST_MEMBERS:
            raise InputError(f"members is {n_members!r:.50}")
        return n_members

    def number(self, name: str, above: float = -math.inf) -> float:
        """A finite number of the description."""
        number = self.description[name]
        if isinstance(number, bool) or not isinstance(number, int | float) or not (above < number < math.inf):
            raise InputError(f"{name} is {number!r:.50}")
        return float(number)

    def label_smoothing(self) -> float:
        """What the networks' class targets were smoothed by; files before version 3 do not take it back."""
        if self.description["version"] < 3:
            return 0.0
        smoothing = self.number("label_smoothing")
        if not 0.0 <= smoothing < 1.0:
            raise InputError(f"label_smoothing is {smoothing:g}")
        return smoothing

    def shares(self) -> NDArray[np.float64]:
        """What part of the answer each network has; alike in files of version 1."""
        shares = self.description.get("shares", [1.0 / self.members] * self.members)
        if len(shares) != self.members or not all(
            type(share) in (int, float) and 0.0 < share < math.inf for share in shares
        ):
            raise InputError(f"shares is {shares!r:.50}")
        return np.array(shares, np.float64)

    def network(self, name: str, n_in: Sequence[int], n_out: int, task: str) -> Network:
        """A network that reads one of so many features."""
        network = Network.load(self.folder / f"{name}.safetensors")
        if network.model.n_in not in n_in or (network.model.n_out, network.task) != (n_out, task):
            widths = " or ".join(map(str, dict.fromkeys(n_in)))
            raise InputError(
                f"a network reads {network.model.n_in} features and writes {network.model.n_out} numbers, expected {widths} and {n_out}"
            )
        return network

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Make a FileError of whatever does not fit."""
        try:
            yield
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, FileError):
                raise
            why = str(error) if isinstance(error, FcnetError) else f"{type(error).__name__} {error}"
            raise FileError(
                f"{self.folder / TABLE_FILE} cannot be read ({shown(why)}). The file is damaged, or not what was asked for."
            ) from None


def read(folder: Path) -> Files:
    """The files of a folder.

    Raises:
        FileError: there is no ``table.json``, or it is damaged or from a newer fcnet.
    """
    file = folder / TABLE_FILE
    with open_file(file) as opened:
        content = read_some(opened, _LIMIT + 1)
    try:
        if len(content) > _LIMIT:
            raise ValueError
        description = json.loads(content.decode())
    except (ValueError, RecursionError):
        raise FileError(f"{file} is not JSON. The file is damaged.") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise FileError(f"{file} is not what fcnet writes for a table: its format is not {FORMAT!r}.")
    version = description.get("version")
    if type(version) is not int or version < 1:
        raise FileError(f"{file}: its version is {version!r:.50}, expected a number from 1. The file is damaged.")
    if version > VERSION:
        raise FileError(f"{file} was written by a newer fcnet: its version is {version}. Upgrade fcnet.")
    if not isinstance(description.get("target"), str):
        raise FileError(f"{file} does not name its target. The file is damaged.")
    return Files(folder, description)
