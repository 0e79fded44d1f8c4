"""A whole process, from its start to its last epoch, as its parent sees it."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from peers import CPU_ONLY

SCRIPTS = {
    "fcnet": "with_fcnet.py",
    "scikit-learn": "with_scikit_learn.py",
    "PyTorch": "with_pytorch.py",
    "Keras": "with_keras.py",
    "jax": "with_jax.py",
}
FOLDER = Path(__file__).parent / "whole"
CACHES = {
    "NUMBA_CACHE_DIR": "numba",
    "XDG_CACHE_HOME": "cache",
    "KERAS_HOME": "keras",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "MPLCONFIGDIR": "matplotlib",
}
"""Variables that say where compiled code is kept, and the folder for each."""


@dataclass(frozen=True)
class Settings:
    """What a script trains; it gets them as JSON."""

    hidden: tuple[int, ...]
    p_dropout: float = 0.0
    activation: str = "relu"
    optimizer: str = "adam"
    learning_rate: float = 0.001
    batch: int = 128
    data: str = "all"
    seed: int = 0
    epochs: int = 1
    goal: float = 2.0
    device: str = "cpu"

    def of(self, seed: int, epochs: int, goal: float) -> Settings:
        """The same, for at most so many epochs and until a test accuracy is reached."""
        return replace(self, seed=seed, epochs=epochs, goal=goal)

    def as_data(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        network = "-".join(map(str, (784, *self.hidden, 10)))
        dropout = f", dropout {self.p_dropout:g}" if self.p_dropout else ""
        return f"{network} {self.activation}, {self.optimizer} {self.learning_rate:g}, batch {self.batch}{dropout}"


@dataclass
class Whole:
    """What a process did.

    Attributes:
        ends: seconds from the start of the process to the end of each epoch, its test included.
        accuracies: test accuracy of each epoch.
        reached: seconds to the goal; None where it wasn't reached.
        out: why there is nothing to see.
        memory: most MB used.
        seconds: from start to exit.
    """

    ends: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    reached: float | None = None
    out: str | None = None
    memory: float = 0.0
    seconds: float = 0.0

    @property
    def epochs(self) -> int:
        return len(self.ends)

    @property
    def best(self) -> float:
        return max(self.accuracies, default=0.0)

    @property
    def first(self) -> float:
        """Seconds to the end of the first epoch."""
        return self.ends[0]

    @property
    def epoch_seconds(self) -> float:
        """Median of all epochs but the first, which compiles; that one where there is no other."""
        later = [b - a for a, b in itertools.pairwise(self.ends)]
        return statistics.median(later or self.ends)

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


def users_environment(device: str = "cpu") -> dict[str, str]:
    """Variables of a process as its user has them: Python keeps its bytecode, which for installed peers pip has made."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return own | CPU_ONLY if device == "cpu" else own


def watch(script: str, data: Path, settings: Settings, limit: float, caches: Path | None = None) -> Whole:
    """Run a script until it has reached its goal or done its epochs, at most ``limit`` seconds."""
    command = [sys.executable, str(FOLDER / script), str(data), json.dumps(settings.as_data())]
    environment = users_environment(settings.device)
    if caches is not None:
        environment |= {variable: str(caches / name) for variable, name in CACHES.items()}
    whole = Whole()
    with tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            alarm = threading.Timer(limit, process.kill)
            alarm.start()
            for line in process.stdout:
                if line.startswith("{"):
                    _note(whole, json.loads(line), time.perf_counter() - began, settings.goal)
        alarm.cancel()
        whole.seconds = time.perf_counter() - began
        errors.seek(0)
        last = errors.read().strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
    if not whole.ends:
        missing, slow = last[0].startswith("ModuleNotFoundError"), whole.seconds >= limit
        whole.out = f"no epoch in {limit:.0f} s" if slow else "not installed" if missing else f"failed: {last[0]:.80}"
    return whole


def _note(whole: Whole, line: dict[str, float], now: float, goal: float) -> None:
    whole.ends.append(now)
    whole.accuracies.append(line["accuracy"])
    whole.memory = max(whole.memory, line["memory"])
    if whole.reached is None and line["accuracy"] >= goal:
        whole.reached = now
