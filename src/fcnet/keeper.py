"""Who writes a training's checkpoints: when, where, off the training path; one process a folder, and the newest whole one back.

Checkpoints are numbered files in the folder ``checkpoints`` of a run. A new one is whole and on the disk before an older
one goes, so that at every moment the folder holds one to go on from.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fcnet.checkpoint import PARTIAL, Checkpoint, checkpoint_bytes, load_checkpoint, sync_folder, write_atomically
from fcnet.data.files import shown
from fcnet.errors import FileError, InputError, check_path
from fcnet.history import Observer, Occasion

FOLDER = "checkpoints"
"""Where in a run folder its checkpoints lie."""
RETRY_SECONDS = 10.0
"""A checkpoint that could not be written is tried again after so long."""
_SHARE = 400
"""Copying a state, and the processor's time to write it, are at most one part in so many of the training's time: all in all, with
what they take from it besides (caches, the interpreter's lock), that is to be less than a hundredth."""
_NAME = re.compile(r"checkpoint-(\d{1,12})\.safetensors")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Every:
    """How often: so many epochs or so many seconds apart."""

    epochs: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Every:
        """ "3epochs", "30s", "5m" or "1h"."""
        found = re.fullmatch(r"\s*(\d+)\s*epochs?\s*", str(text).lower())
        if found and int(found[1]) > 0:
            return cls(epochs=int(found[1]))
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([smh]?)\s*", str(text).lower())
        if not found:
            raise InputError(f"checkpoint_every must be such as '1epoch', '3epochs', '30s' or '5m', got {text!r}.")
        return cls(seconds=float(found[1]) * _UNITS[found[2]])


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoints of a run folder, the newest first; none where there is no such folder."""
    try:
        names = os.listdir(folder / FOLDER)  # noqa: PTH208  (names, of which most are no paths of ours)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: no folder's name holds a zero byte
        return []
    except OSError as error:  # never taken for an empty folder, or numbers would begin anew
        raise FileError(f"{folder} cannot be listed: {error.strerror}. Check the folder and who may read it.") from None
    numbered = sorted(((int(found[1]), name) for name in names if (found := _NAME.fullmatch(name))), reverse=True)
    return [folder / FOLDER / name for _, name in numbered]


def newest_checkpoint(folder: str | Path) -> Checkpoint:
    """The newest checkpoint of a run folder that is whole, see ``newest_file``."""
    return newest_file(Path(folder))[1]


def newest_file(folder: Path) -> tuple[Path, Checkpoint]:
    """The newest checkpoint of a run folder that is whole, and its file; one that is damaged is said and passed over.

    Raises:
        FileError: there is none, or none is whole.
    """
    found = checkpoint_files(folder)
    for number, file in enumerate(found, start=1):
        try:
            return file, load_checkpoint(file)
        except FileError as error:
            if number == len(found):
                raise
            _say(f"{error} The one before it is taken.")
    raise FileError(
        f"There is no checkpoint in {folder}, so nothing to resume. Expected the folder of a training that was started with "
        "checkpoint=..., or by 'fcnet train'. Check the path, or train anew."
    )


@dataclass(eq=False)
class Keeper(Observer):
    """Writes checkpoints of a training into a run folder, which it holds alone while it is open; a context manager.

    Attributes:
        folder: of the run; made where it is not there.
        every: how often a checkpoint is due.
        command: the options of a command line, for whoever resumes it.
        replaces: whether checkpoints of an earlier training go when the first of this one comes.
        identity: settings, data and versions, which go into every checkpoint.
        written: how many checkpoints it has written.
    """

    folder: Path
    every: Every = Every(epochs=1)
    command: dict[str, Any] = field(default_factory=dict)
    replaces: bool = False
    identity: dict[str, Any] = field(default_factory=dict)
    written: int = 0
    _lock: int | None = None
    _writer: threading.Thread | None = None
    _whole: Path | None = None
    _step: int = -1
    _epochs: int = 0
    _taken_at: float = 0.0
    _pause: float = 0.0
    _error: str | None = None

    def __enter__(self) -> Keeper:
        try:
            (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
            for holder in (
                self.folder,
                self.folder.parent,
            ):  # or a power loss could take the folder with what is synced in it
                with contextlib.suppress(PermissionError):  # who may not list a folder may still write into it
                    sync_folder(holder)
            self._lock = _lock(self.folder)
            for left in (self.folder / FOLDER).glob(f".*{PARTIAL}"):
                left.unlink(missing_ok=True)
        except OSError as error:
            self.__exit__()
            raise FileError(
                f"Checkpoints cannot be written into {self.folder}: {error.strerror}. Choose another folder."
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.join()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def check_free(self) -> None:
        """Refuse a folder with checkpoints of an earlier training, where they are not to be replaced."""
        if not self.replaces and checkpoint_files(self.folder):
            raise FileError(
                f"{self.folder} holds the checkpoints of an earlier training. Go on with it by resume={str(self.folder)!r}, or "
                "choose another folder, or delete that one."
            )

    def newest(self, folder: Path) -> Checkpoint:
        """What to go on from; where it lies in the keeper's own folder, it stays until there is another one after the next."""
        file, checkpoint = newest_file(folder)
        if folder == self.folder:
            self._whole = file
        return checkpoint

    def state_is_whole(self, take: Callable[[], Checkpoint], occasion: Occasion) -> None:
        """Copy the state where a checkpoint is due, and write it in a thread of its own; at the start and the end, wait for it."""
        if occasion == "start":
            earlier = checkpoint_files(self.folder)
            self._note(take(), 0.0)
            self._write(self._taken)
            for file in earlier:
                file.unlink(missing_ok=True)
        elif occasion == "last":
            if self._writer is not None:
                self._writer.join()
            checkpoint = take()
            if checkpoint.state.step != self._step or self._error is not None:
                self._note(checkpoint, 0.0)
                self._try()
        elif self._due(occasion):
            began = time.monotonic()
            self._note(take(), began)
            self._pause = _SHARE * (time.monotonic() - began)
            self._writer = threading.Thread(target=self._try, name="fcnet checkpoint", daemon=True)
            self._writer.start()

    def _due(self, occasion: Occasion) -> bool:
        self._epochs += occasion == "epoch"
        since = time.monotonic() - self._taken_at
        if since < self._pause or (self._writer is not None and self._writer.is_alive()):
            return False
        if self._error is not None:
            return since >= RETRY_SECONDS
        if self.every.epochs is not None:
            return occasion == "epoch" and self._epochs >= self.every.epochs
        return since >= (self.every.seconds or 0.0)

    def _note(self, checkpoint: Checkpoint, now: float) -> None:
        self._taken, self._taken_at, self._epochs = checkpoint, now or time.monotonic(), 0

    def _try(self) -> None:
        """Write; where that fails, say so, and training goes on."""
        try:
            self._write(self._taken)
        except FileError as error:
            if str(error) != self._error:
                _say(
                    f"no checkpoint at step {self._taken.state.step}: {error} Training goes on, and it is tried again."
                )
            self._error = str(error)
        else:
            if self._error is not None:
                _say(f"checkpoints are written again, at step {self._step}.")
            self._error = None

    def _write(self, checkpoint: Checkpoint) -> None:
        """One checkpoint under the next number; then the oldest go."""
        if not all(np.isfinite(array).all() for array in checkpoint.state.parameters.values()):
            return  # nothing to go on from: training is about to say so
        folder = self.folder / FOLDER
        began, worked = time.monotonic(), time.thread_time()
        checkpoint.identity.update(self.identity)
        content = checkpoint_bytes(checkpoint)
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                sync_folder(folder.parent)
            found = checkpoint_files(self.folder)
            number = 1 + max((int(_NAME.fullmatch(file.name)[1]) for file in found), default=0)  # type: ignore[index]
            new = folder / f"checkpoint-{number:06}.safetensors"
            write_atomically(new, content)
        except OSError as error:
            raise FileError(f"{folder} cannot be written: {error.strerror or error}.") from None
        self._step = checkpoint.state.step
        self.written += 1
        self._pause += time.monotonic() - began + _SHARE * (time.thread_time() - worked)
        before, self._whole = self._whole or next(iter(found), None), new
        with contextlib.suppress(OSError):  # one too many does no harm
            for file in found:
                if file != before:  # not simply all but the newest: that one may be damaged
                    os.unlink(file)  # noqa: PTH108  (as in ``write_atomically``)


def as_keeper(checkpoint: Any, resume: Any, every: str) -> Keeper | None:
    """The keeper that ``train``'s arguments ask for; None where they ask for none."""
    if isinstance(checkpoint, Keeper):
        return checkpoint
    parsed = Every.parse(every)
    for name, path in (("checkpoint", checkpoint), ("resume", resume)):
        if path is not None:
            check_path(name, path)
    folder = resume if checkpoint is None else checkpoint
    return None if folder is None else Keeper(Path(folder), parsed)


def _lock(folder: Path) -> int:
    """Hold a run folder until the file is closed, or the process ends in whatever way: a stale lock holds nobody up."""
    import fcntl

    file = folder / FOLDER / "lock"
    opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(opened, 0)
        os.pwrite(
            opened,
            f"{Path(sys.argv[0]).name or 'python'} (process {os.getpid()} on {socket.gethostname()})".encode(),
            0,
        )
    except BlockingIOError:
        holder = os.pread(opened, 200, 0).decode(errors="replace") or "another process"
        os.close(opened)
        raise FileError(
            f"The run folder {folder} is in use by {shown(holder)}. Wait until that training is over, end it, or choose "
            "another folder."
        ) from None
    except BaseException:
        os.close(opened)
        raise
    return opened


def _say(words: str) -> None:
    print(f"fcnet: {words}", file=sys.stderr, flush=True)
