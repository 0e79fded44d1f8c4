"""Run folders: what a training leaves behind.

model.safetensors, model.json   the best network
run.json                        settings, seed, versions, device, results
history.csv, curves.png         every epoch
table.json, member-2.safetensors, ..., confusion.png or predicted.png    of a table's, see ``tabular.saved``
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import platform
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fcnet.checkpoint import write_atomically
from fcnet.data.files import what_is_at
from fcnet.errors import FileError
from fcnet.history import History
from fcnet.network import Network

RUN_FILE = "run.json"
_OWN = {"model.safetensors", "model.json", RUN_FILE, "history.csv", "curves.png"}
_OF_TABLES = re.compile(r"table\.json|(member-\d+|interval)\.(safetensors|json)|(confusion|predicted)\.png")


def make_folder(out: Path | None, source: str, overwrite: bool) -> Path:
    """A folder for a run, made before training so that a bad place is known then; an earlier run in it stays until ``write``.

    Args:
        out: where; without it the next free ``runs/NAME-001``.
        source: the data set's name.
        overwrite: whether a run folder that exists may be replaced.

    Raises:
        FileError: it exists, or cannot be made or written.
    """
    folder = out or _next_free(Path("runs"), Path(source).stem or "run")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            _check_replaceable(folder, overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FileError(
            f"The run folder {folder} cannot be made or written: {error.strerror}. Choose another place with --out."
        ) from None
    return folder


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not overwrite:
        raise FileError(
            f"The run folder {folder} exists already. Choose another with --out, or replace it with --overwrite."
        )
    foreign = [] if folder.is_dir() and (folder / RUN_FILE).exists() else [folder.name]
    if folder.is_dir():
        foreign += sorted(
            path.name for path in folder.iterdir() if path.name not in _OWN and not _OF_TABLES.fullmatch(path.name)
        )
    if foreign:
        raise FileError(
            f"{folder} is not a run folder, or holds more than a run ({', '.join(foreign[:5])}), so it is left alone. "
            "Choose another place with --out."
        )


def discard(folder: Path) -> None:
    """Remove a folder that ``make_folder`` made and nothing came into; one with an earlier run in it stays."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _next_free(parent: Path, name: str) -> Path:
    return next(path for n in itertools.count(1) if not (path := parent / f"{name}-{n:03}").exists())


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Without Ctrl-C, so that a second one does not lose what the first one saves."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def write(folder: Path, network: Network, history: History, run: dict[str, Any]) -> None:
    """Write a run into its folder."""
    network.save(folder)
    write_history(folder, history)
    write_record(folder, run)


def write_history(folder: Path, history: History) -> None:
    """Write the epochs and their picture."""
    try:
        history.to_frame().write_csv(folder / "history.csv")
        (folder / "curves.png").unlink(missing_ok=True)
        if history.epochs:
            history.plot(folder / "curves.png")
    except OSError as error:
        raise FileError(f"The run folder {folder} cannot be written: {error.strerror or error}.") from None


def write_record(folder: Path, run: dict[str, Any]) -> None:
    """Write settings, versions and results."""
    write_atomically(folder / RUN_FILE, (json.dumps(run, indent=2) + "\n").encode())


def read(folder: Path) -> dict[str, Any]:
    """The contents of a run's ``run.json``."""
    file = folder / RUN_FILE
    if what_is_at(file) != "file":
        raise FileError(
            f"There is no run in {folder}: {RUN_FILE} is missing. Expected a folder that 'fcnet train' made."
        )
    try:
        run = json.loads(file.read_bytes())
    except (ValueError, RecursionError, OSError):
        raise FileError(f"{file} is damaged: it is not JSON.") from None
    if not isinstance(run, dict) or not isinstance(run.get("results"), dict):
        raise FileError(f"{file} is damaged: it has no results.")
    if not all(isinstance(run.get(title, {}), dict) for title in ("settings", "versions")):
        raise FileError(f"{file} is damaged: its settings or versions are not named values.")
    return run


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    packages = {name: importlib.metadata.version(name) for name in ("fcnet", "numpy", "numba", "jax", "jaxlib")}
    return {"python": platform.python_version(), **packages, "platform": platform.platform()}
