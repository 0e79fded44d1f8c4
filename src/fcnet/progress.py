"""Progress on standard error: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any, Literal

from fcnet.errors import InputError
from fcnet.history import EpochRecord, History, Observer, RunInfo

Verbose = Literal[False, True, "bar", "lines"]


def progress_observer(verbose: Verbose) -> Observer | None:
    """The observer for a ``verbose`` setting: True is a bar on a terminal and lines elsewhere; False is silence."""
    if verbose not in (False, True, "bar", "lines"):
        raise InputError(f"verbose must be True, False, 'bar' or 'lines', got {verbose!r}.")
    if not verbose:
        return None
    if verbose == "bar" or (verbose is True and sys.stderr.isatty()):
        return Bar()
    return Lines()


def print_choice(info: RunInfo) -> None:
    """The one line that says which engine and device a run is on, and why."""
    print(f"fcnet: {info.choice}", file=sys.stderr, flush=True)


def describe(record: EpochRecord) -> str:
    """The figures of an epoch, in words."""
    words = [f"cost {record.training_cost:.4f}"]
    if record.validation_accuracy is not None:
        words.append(f"validation {record.validation_accuracy:.2%}")
    elif record.validation_cost is not None:
        words.append(f"validation cost {record.validation_cost:.4f}")
    return "  ".join(words)


class Lines(Observer):
    """A line an epoch."""

    def training_starts(self, info: RunInfo) -> None:
        """Say what runs where."""
        print_choice(info)
        self._epochs = info.epochs

    def epoch_ends(self, record: EpochRecord, best: bool) -> None:
        """Say how it went."""
        mark = "  best" if best else ""
        line = f"epoch {record.epoch + 1}/{self._epochs}  {describe(record)}  {record.seconds:.2f} s{mark}"
        print(line, file=sys.stderr, flush=True)


class Bar(Observer):
    """A live bar: epoch, cost, validation accuracy, steps a second, time left."""

    def __init__(self) -> None:
        self._progress: Any = None

    def training_starts(self, info: RunInfo) -> None:
        """Draw the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        print_choice(info)
        self._info = info
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
        )
        self._figures = ""
        total = info.epochs * info.steps_per_epoch
        self._task = self._progress.add_task("", total=total, epoch=f"1/{info.epochs}", figures="", speed="")
        self._progress.start()

    def chunk_ends(self, steps_done: int, cost: float) -> None:
        """Move the bar."""
        epoch = min((steps_done - 1) // self._info.steps_per_epoch + 1, self._info.epochs)
        speed = self._progress.tasks[0].finished_speed or self._progress.tasks[0].speed
        self._progress.update(
            self._task,
            completed=steps_done,
            epoch=f"{epoch}/{self._info.epochs}",
            figures=self._figures or f"cost {cost:.4f}",
            speed=f"{speed:,.0f} steps/s" if speed else "",
        )

    def epoch_ends(self, record: EpochRecord, best: bool) -> None:
        """Show the epoch's figures."""
        self._figures = describe(record)
        self._progress.update(self._task, figures=self._figures)

    def training_ends(self, history: History) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()
