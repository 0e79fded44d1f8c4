"""A contestant's side of a race: a process that lives all through it and works only when it is told to.

A contestant says how it takes steps (``Stepper``), or runs its own loop and asks for turns (``Contestant``).
"""

from __future__ import annotations

import importlib
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from memory import peak_memory

Option = TypeVar("Option")

RESTART_EPOCHS = 20
"""A training begins anew after so many epochs, off the clock: otherwise a fast contestant would soon train a network whose
gradients have vanished, and meet other (denormal) numbers than a slow one."""


class CannotRace(Exception):
    """A contestant has no part in this race; the message is what its row says."""


class Turns:
    """When a contestant may work.

    Attributes:
        seconds: how long a turn should last.
    """

    def __init__(self, pipe: Connection, seconds: float) -> None:
        self._pipe, self.seconds = pipe, seconds

    def ready(self, description: str) -> None:
        """Warm, and tuned as the description says."""
        self._pipe.send(("ready", description))

    def wait(self) -> bool:
        """Sleep until it is this contestant's turn; False when the race is over."""
        return bool(self._pipe.recv() == "turn")

    def done(self, steps: int, seconds: float) -> None:
        """The turn is over."""
        self._pipe.send(("done", (steps, seconds)))


class Contestant(ABC):
    """Who takes part; what it is made with, its race says."""

    lazy_imports: tuple[str, ...] = ()
    """Modules that the library imports only when it needs them; memory is counted from there on."""

    @abstractmethod
    def race(self, turns: Turns) -> None:
        """Warm up, call ``turns.ready``, then work and call ``turns.done`` for as long as ``turns.wait`` says so."""

    def proof(self, amount: int) -> Any:
        """What the judge looks at: after ``amount`` steps from the start the parameters, or the outputs."""
        raise NotImplementedError


class Stepper(Contestant):
    """A contestant that can be told how many steps to take."""

    description = ""
    steps_per_epoch: int

    @abstractmethod
    def restart(self) -> None:
        """Begin the training anew: the initial parameters, nothing remembered by the optimizer, the first batch."""

    @abstractmethod
    def advance(self, n_steps: int) -> int:
        """Take about so many steps, and have them finished; how many they were."""

    @abstractmethod
    def parameters(self) -> Any:
        """The parameters as they are now."""

    def proof(self, amount: int) -> Any:
        self.restart()
        while amount > 0:
            amount -= self.advance(amount)
        return self.parameters()

    def tune(self, seconds: float) -> None:
        """Choose what an expert would choose by trying, for turns of this length."""

    def race(self, turns: Turns) -> None:
        self.restart()
        self.tune(turns.seconds)
        pace = self.pace(turns.seconds)
        turns.ready(self.description)
        while turns.wait():
            if self.steps_done > RESTART_EPOCHS * self.steps_per_epoch:
                self.restart()
                self.steps_done = 0
            steps, seconds = self.timed(max(1, round(turns.seconds / pace)))
            pace = seconds / steps
            turns.done(steps, seconds)

    steps_done = 0

    def timed(self, n_steps: int) -> tuple[int, float]:
        """Take steps: how many, and in how many seconds."""
        done, began = 0, time.perf_counter()
        while done < n_steps:
            done += self.advance(n_steps - done)
        self.steps_done += done
        return done, time.perf_counter() - began

    def pace(self, seconds: float) -> float:
        """Seconds a step, when warm; found by bursts that grow to half of ``seconds``."""
        self.timed(1)  # compiles, allocates
        steps, spent = self.timed(2)
        while spent < 0.5 * seconds:
            steps, spent = self.timed(min(4 * steps, max(steps + 1, round(0.6 * seconds * steps / spent))))
        return spent / steps

    def best(self, options: Iterable[Option], use: Callable[[Option], None], seconds: float) -> Option:
        """The option with the fastest steps, and leave it in use; each is tried twice, for a few tenths of a turn."""
        options = list(options)
        paces: dict[int, float] = {}
        for _ in range(2):
            for index, option in enumerate(options):
                use(option)
                self.restart()
                paces[index] = min(paces.get(index, float("inf")), self.pace(0.4 * seconds))
        winner = options[min(paces, key=paces.__getitem__)]
        use(winner)
        self.restart()
        return winner


def serve(pipe: Connection, home: str, arguments: tuple[Any, ...]) -> None:
    """The process of a contestant.

    Args:
        pipe: to the master.
        home: "module:Class".
        arguments: of the class.
    """
    module, name = home.split(":")
    try:
        maker = getattr(importlib.import_module(module), name)
        for lazy in maker.lazy_imports:
            importlib.import_module(lazy)
        imported = peak_memory()
        contestant: Contestant = maker(*arguments)
        pipe.send(("made", None))
        while (order := pipe.recv()) != "stop":
            match order:
                case ("proof", amount):
                    pipe.send(("proof", contestant.proof(amount)))
                case ("race", seconds):
                    contestant.race(Turns(pipe, seconds))
                case "memory":
                    pipe.send(("memory", (peak_memory(), imported)))
    except ModuleNotFoundError as error:
        pipe.send(("out", f"not installed: {error.name}"))
    except CannotRace as reason:
        pipe.send(("out", str(reason)))
    except (EOFError, KeyboardInterrupt):
        pass
    except BaseException as error:
        traceback.print_exc()
        pipe.send(("out", f"failed: {type(error).__name__}: {error}".splitlines()[0]))
