"""A race: contestants in processes of their own take turns, so that they share whatever the machine does meanwhile.

Only one works at a time. Turns are interleaved in rounds, each in another order, and a turn is about as long for everyone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from racer import serve

LIMIT = 180.0
"""Seconds that a contestant may take to import, compile or tune, before it is out."""


@dataclass(frozen=True)
class Effort:
    """How long to race.

    Attributes:
        rounds: turns of each contestant.
        seconds: of a turn.
        pause: seconds between turns, in which the last one's threads fall asleep.
    """

    rounds: int
    seconds: float
    pause: float = 0.05


@dataclass(frozen=True)
class Timing:
    """Microseconds a step: median and 10th to 90th percentile of turns."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, turns: list[tuple[int, float]]) -> Timing:
        low, median, high = np.percentile([1e6 * seconds / steps for steps, seconds in turns], (10, 50, 90))
        return cls(float(median), float(low), float(high))


@dataclass
class Racer:
    """A contestant as the master sees it.

    Attributes:
        name: in tables.
        home: "module:Class" in ``peers``.
        environment: variables of its process.
        arguments: of its class.
        description: what it chose when it tuned itself.
        out: why it is out of the race; None while it is in.
        turns: (steps, seconds) of each turn.
        memory: (most MB used in all, most MB used by the imports alone).
    """

    name: str
    home: str
    environment: dict[str, str]
    arguments: tuple[Any, ...]

    def __post_init__(self) -> None:
        self.description = ""
        self.out: str | None = None
        self.turns: list[tuple[int, float]] = []
        self.memory: tuple[float, float] | None = None

    @property
    def timing(self) -> Timing | None:
        return Timing.of(self.turns) if self.turns and self.out is None else None

    def as_data(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "tuned_to": self.description,
            "out": self.out,
            "microseconds": asdict(self.timing) if self.timing else None,
            "turns": self.turns,
            "memory_mb": self.memory,
        }

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self.home, self.arguments))
        with _environment(self.environment):  # some libraries read it when they are imported, before any code of ours
            self._process.start()
        theirs.close()
        self._answer()

    def ask(self, order: Any) -> Any:
        """Its answer to an order; None where it is, or is now, out of the race."""
        if self.out is not None:
            return None
        self._tell(order)
        return self._answer()

    def stop(self) -> None:
        if not hasattr(self, "_process"):
            return
        if self.out is None:
            self._tell("stop")
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _tell(self, order: Any) -> None:
        with contextlib.suppress(OSError):  # it died; the answer that doesn't come will say so
            self._pipe.send(order)

    def _answer(self) -> Any:
        try:
            if not self._pipe.poll(LIMIT):
                self.out = f"not ready within {LIMIT:.0f} s"
                self._process.kill()
                return None
            kind, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            self.out = f"died with exit code {self._process.exitcode}"
            return None
        if kind == "out":
            self.out = answer
            return None
        return answer

    def get_ready(self, seconds: float) -> None:
        description = self.ask(("race", seconds))
        self.description = description or ""

    def leave(self) -> None:
        """Leave the race, and say how much memory it took."""
        if self.out is None:
            self._tell("end")
            self.memory = self.ask("memory")


def race(racers: list[Racer], effort: Effort) -> None:
    """Let started racers run, turn by turn; their ``turns`` and ``memory`` are what came of it."""
    for racer in racers:
        note(f"  {racer.name} warms up")
        racer.get_ready(effort.seconds)
    order = random.Random(0)
    for number in range(effort.rounds):
        note(f"  round {number + 1} of {effort.rounds}")
        for racer in order.sample(racers, len(racers)):
            time.sleep(effort.pause)
            turn = racer.ask("turn")
            if turn is not None:
                racer.turns.append(turn)
    for racer in racers:
        racer.leave()
    note("")


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """These variables set, for a process that starts meanwhile."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def note(text: str) -> None:
    """What happens now, on one line of a terminal's standard error."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
