"""Signals that end a training at a place where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any


class Interrupts:
    """Ctrl-C, or another signal, as a number that is read between chunks; a second Ctrl-C interrupts at once.

    In the main thread only, where signals arrive.
    """

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self.noted: int | None = None
        self._signals = signals if threading.current_thread() is threading.main_thread() else ()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        self._previous = {number: signal.signal(number, self._note) for number in self._signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.noted = number
