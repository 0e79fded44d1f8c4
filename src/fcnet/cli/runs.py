"""Run folders: what a training leaves behind.

checkpoints/                    what training goes on from, however it ends
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
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fcnet.checkpoint import write_atomically
from fcnet.data.files import what_is_at
from fcnet.errors import FileError, TrainingWarning
from fcnet.history import History
from fcnet.keeper import FOLDER, checkpoint_files, newest_checkpoint
from fcnet.network import Network

RUN_FILE = "run.json"
_OF_TABLES = re.compile(r"table\.json|(member-\d+|interval)\.(safetensors|json)|(confusion|predicted)\.png")
_NOT_RESUMED = {"out", "overwrite", "resume", "json_line", "config"}
_OWN = {FOLDER, "model.safetensors", "model.json", RUN_FILE, "history.csv", "curves.png"}


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
        if folder.exists() and (
            not folder.is_dir() or any(path.name != FOLDER for path in folder.iterdir()) or checkpoint_files(folder)
        ):
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
            f"The run folder {folder} exists already. Choose another with --out, go on with it by --resume, or replace it with "
            "--overwrite."
        )
    is_run = folder.is_dir() and ((folder / RUN_FILE).exists() or checkpoint_files(folder))
    foreign = [] if is_run else [folder.name]
    if folder.is_dir():
        foreign += sorted(
            path.name for path in folder.iterdir() if path.name not in _OWN and not _OF_TABLES.fullmatch(path.name)
        )
    if foreign:
        raise FileError(
            f"{folder} is not a run folder, or holds more than a run ({', '.join(foreign[:5])}), so it is left alone. "
            "Choose another place with --out."
        )


def discard(folder: Path, written: bool = False) -> None:
    """Remove a folder that ``make_folder`` made and no network came into; an earlier run in it stays, and one that was killed too.

    Args:
        folder: of the run.
        written: whether checkpoints in it are this run's own.
    """
    if not (folder / RUN_FILE).exists() and (written or not checkpoint_files(folder)):
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def command(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a command line that a run goes on with, as plain values; where the data lies, from anywhere."""
    kept = {name: value for name, value in options.items() if name not in _NOT_RESUMED and value is not None}
    if Path(kept["data"]).exists():
        kept["data"] = str(Path(kept["data"]).resolve())
    return kept


def command_of(folder: Path) -> dict[str, Any]:
    """The options that the run in a folder was started with."""
    options = newest_checkpoint(folder).identity.get("command", {})
    if "data" not in options or not all(isinstance(value, str | int | float) for value in options.values()):
        raise FileError(
            f"The checkpoints in {folder} are not of 'fcnet train'. Go on with fcnet.train(..., resume=...)."
        )
    return options


def _next_free(parent: Path, name: str) -> Path:
    return next(path for n in itertools.count(1) if not (path := parent / f"{name}-{n:03}").exists())


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Without Ctrl-C and SIGTERM, so that a second one does not lose what the first one saves."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """What is suspicious, as lines on standard error and no traceback's words."""

    def line(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", TrainingWarning)
        original: Callable[..., None] = warnings.showwarning
        warnings.showwarning = line
        try:
            yield
        finally:
            warnings.showwarning = original


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[list[int]]:
    """SIGTERM is heard as Ctrl-C is, so that what is trained is saved; the list then holds it."""
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        signal.raise_signal(signal.SIGINT)

    previous = signal.signal(signal.SIGTERM, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, previous)


def write(folder: Path, network: Network, history: History, run: dict[str, Any]) -> None:
    """Write a run into its folder: all of it that can be written.

    Raises:
        FileError: something could not be; it is named.
    """
    _write_all(
        folder, lambda: network.save(folder), lambda: write_record(folder, run), *_history_writers(folder, history)
    )


def write_history(folder: Path, history: History) -> None:
    """Write the epochs and their picture; raises as ``write`` does."""
    _write_all(folder, *_history_writers(folder, history))


def write_record(folder: Path, run: dict[str, Any]) -> None:
    """Write settings, versions and results."""
    write_atomically(folder / RUN_FILE, (json.dumps(run, indent=2) + "\n").encode())


def _history_writers(folder: Path, history: History) -> tuple[Callable[[], object], ...]:
    return (
        lambda: write_atomically(folder / "history.csv", history.to_csv().encode()),
        lambda: _draw(folder / "curves.png", history),
    )


def _write_all(folder: Path, *writers: Callable[[], object]) -> None:
    """Call each, whatever became of the others."""
    failed = []
    with contextlib.suppress(OSError):  # where it has vanished meanwhile
        folder.mkdir(parents=True, exist_ok=True)
    for write_one in writers:
        try:
            write_one()
        except (FileError, OSError) as error:
            failed.append(str(error))
    if failed:
        raise FileError(" ".join(failed))


def _draw(file: Path, history: History) -> None:
    file.unlink(missing_ok=True)
    if history.epochs:
        history.plot(file)


def read(folder: Path) -> dict[str, Any]:
    """The contents of a run's ``run.json``."""
    file = folder / RUN_FILE
    if what_is_at(file) != "file":
        raise FileError(
            f"There is no run in {folder}: {RUN_FILE} is missing. Expected a folder that 'fcnet train' made."
        )
    try:
        run = json.loads(file.read_bytes().decode())
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
