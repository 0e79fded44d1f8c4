"""What can go wrong, in a few kinds.

Every message says what happened, what was expected and how to fix it. Every kind is an ``FcnetError``,
and also the built-in error that a caller who knows nothing of fcnet would catch.
"""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Iterable
from typing import Any


class FcnetError(Exception):
    """Anything that fcnet refuses or cannot do."""


class InputError(FcnetError, ValueError):
    """An argument, an array or a network that cannot be used as it is."""


class FileError(FcnetError, ValueError):
    """A file that is missing, damaged, of another kind, or that cannot be written."""


class DeviceError(FcnetError, RuntimeError):
    """A device or an engine that was asked for and is not there."""


class OutOfMemoryError(FcnetError, MemoryError):
    """A training that does not fit into the memory there is."""


class DownloadError(FcnetError, OSError):
    """Data that could not be fetched."""


class DivergenceError(FcnetError, ArithmeticError):
    """The cost became NaN or infinite during training.

    ``step`` is the first bad step, counted from 0; ``history`` holds the epochs before it. The network is the
    best one seen until then.
    """

    def __init__(self, message: str, *, step: int, history: Any = None) -> None:
        super().__init__(message)
        self.step = step
        self.history = history


class TrainingWarning(UserWarning):
    """Something about a training that is probably not what was wanted."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """``" Did you mean 'relu'?"`` where one of the choices is close to the name, else an empty string."""
    close = difflib.get_close_matches(name.lower(), list(choices), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown_name(kind: str, name: object, choices: Iterable[str]) -> InputError:
    """The error for a name that is not among the choices."""
    choices = list(choices)
    suggestion = did_you_mean(name, choices) if isinstance(name, str) else ""
    return InputError(f"Unknown {kind} {name!r}.{suggestion} Expected one of: {', '.join(choices)}.")


def check_count(name: str, number: object, least: int = 1) -> int:
    """A positive integer, or one from ``least`` on; anything else, True too, is refused by name."""
    expected = "a positive integer" if least == 1 else f"an integer, {least} or above"
    try:
        count = least - 1 if isinstance(number, bool) else operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        count = least - 1
    if count < least:
        raise InputError(f"{name} must be {expected}, got {number!r}.")
    return count


def check_flag(name: str, value: object) -> None:
    """True or False; anything else is refused by name: a text such as "no" would count as true."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r:.50}.")


def check_path(name: str, path: object) -> None:
    """A path; anything else is refused by name."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{name} must be a path, got {path!r}.")
