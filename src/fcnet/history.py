"""What happened in a training: a record an epoch, and who may watch."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fcnet.errors import FileError, check_path

if TYPE_CHECKING:
    import polars
    from matplotlib.figure import Figure

Monitor = Literal["accuracy", "cost"]
"""Which validation figure decides what is best: the highest accuracy or the lowest cost."""
Ending = Literal["finished", "early stopping", "time budget", "callback", "interrupted", "diverged", "failed"]

Occasion = Literal["start", "chunk", "epoch", "last"]
"""Before the first step, between two chunks of an epoch, between two epochs, or when no further step is done."""


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: counted from 0, as the article prints it.
        training_cost: mean cost of the epoch's rows on the dropout path, while the parameters changed; without L2 penalty.
        validation_cost, validation_accuracy, test_accuracy: after the epoch, without dropout; None where there is no such
            data, or no classes.
        learning_rate: at the epoch's last step.
        seconds: of training alone, without validation and test.
    """

    epoch: int
    training_cost: float
    validation_cost: float | None
    validation_accuracy: float | None
    test_accuracy: float | None
    learning_rate: float
    seconds: float


@dataclass
class History:
    """A training, epoch by epoch.

    Attributes:
        epochs: a record for each epoch.
        engine, device: what it ran on, such as "xla" and "cpu".
        monitor: which validation figure decided what is best; None without validation data.
        steps_per_epoch: mini-batches in an epoch.
        best_epoch: the epoch whose network was kept; the last one without validation data, None before any epoch ended.
        best_steps: how many steps were done when that network was seen.
        ending: why training ended.
        halvings: the steps at which numbers went wrong, training went back and the learning rate was halved.
    """

    engine: str
    device: str
    monitor: Monitor | None
    steps_per_epoch: int
    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None
    best_steps: int | None = None
    ending: Ending = "finished"
    halvings: list[int] = field(default_factory=list)

    @property
    def best(self) -> EpochRecord | None:
        """The record of the epoch whose network was kept."""
        return None if self.best_epoch is None else self.epochs[self.best_epoch]

    @property
    def best_iteration(self) -> int | None:
        """The step, counted from 0, after which the best network was seen."""
        return None if self.best_steps is None else self.best_steps - 1

    @property
    def best_validation_accuracy(self) -> float | None:
        """Validation accuracy of the network that was kept."""
        return self.best.validation_accuracy if self.best else None

    @property
    def test_accuracy(self) -> float | None:
        """Test accuracy of the network that was kept."""
        return self.best.test_accuracy if self.best else None

    @property
    def seconds(self) -> float:
        """Seconds of training alone, over all epochs."""
        return sum(record.seconds for record in self.epochs)

    def to_frame(self) -> polars.DataFrame:
        """A Polars data frame with one row an epoch and one column for each field of ``EpochRecord``."""
        import polars

        columns = dict.fromkeys(EpochRecord.__dataclass_fields__, polars.Float64) | {"epoch": polars.Int64}
        return polars.DataFrame([asdict(record) for record in self.epochs], schema=columns)

    def to_csv(self) -> str:
        """The same as text: a line of names, and a line for each epoch, empty where there is no figure."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(EpochRecord.__dataclass_fields__)
        writer.writerows(astuple(record) for record in self.epochs)
        return text.getvalue()

    def plot(self, path: str | Path | None = None) -> Figure:
        """Cost and accuracy by epoch, as a Matplotlib figure; written to ``path`` where one is given.

        Raises:
            FileError: the place cannot be written, or its name ends in no format of pictures.
        """
        from matplotlib.figure import Figure

        epochs = [record.epoch for record in self.epochs]
        columns = {
            name: [getattr(record, name) for record in self.epochs]
            for name in ("training_cost", "validation_cost", "validation_accuracy", "test_accuracy")
        }
        known = {name: values for name, values in columns.items() if any(value is not None for value in values)}
        accuracies = [name for name in ("validation_accuracy", "test_accuracy") if name in known]
        figure = Figure(figsize=(10 if accuracies else 5.5, 4), layout="constrained")
        axes = figure.subplots(1, 2 if accuracies else 1, squeeze=False)[0]
        lines = [
            (axes[0], "training_cost", "C0"),
            (axes[0], "validation_cost", "C1"),
            *((axes[1], name, colour) for name, colour in zip(accuracies, ("C1", "C2"), strict=False)),
        ]
        for axis, name, colour in lines:
            if name in known:
                marker = "o" if len(epochs) == 1 else ""
                values = [math.nan if value is None else value for value in known[name]]
                axis.plot(epochs, values, color=colour, marker=marker, label=name.split("_")[0])
        for axis, label in zip(axes, ("mean cost", "accuracy"), strict=False):
            if self.best_epoch is not None:
                axis.axvline(self.best_epoch, color="0.6", linewidth=1, linestyle=":", label="best")
            axis.set(xlabel="epoch", ylabel=label)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(frameon=False)
        if path is not None:
            check_path("path", path)
            try:
                figure.savefig(path, dpi=120)
            except (OSError, ValueError) as error:  # the latter: an unknown format
                raise FileError(
                    f"{path} cannot be written: {error}. Name a file such as curves.png in a folder that exists."
                ) from None
        return figure


@dataclass(frozen=True)
class RunInfo:
    """What is about to be trained.

    Attributes:
        choice: engine, device and the reason for them, in words.
        epochs: at most so many.
        steps_per_epoch: mini-batches in an epoch.
    """

    choice: str
    epochs: int
    steps_per_epoch: int


class Observer:
    """Someone who watches a training; override what you want to see. Steps are counted from 0 over the whole training."""

    def training_starts(self, info: RunInfo) -> None:
        """Everything is checked; the first step comes next."""

    def chunk_starts(self, step: int, n_steps: int) -> None:
        """Steps ``step`` to ``step + n_steps - 1`` come next, in one call of the engine."""

    def chunk_ends(self, steps_done: int, cost: float) -> None:
        """So many steps are done; ``cost`` is the epoch's mean cost so far."""

    def epoch_ends(self, record: EpochRecord, best: bool) -> bool | None:
        """An epoch is done and its network is, or is not, the best to date. Return True to end training."""

    def state_is_whole(self, take: Callable[[], Any], occasion: Occasion) -> None:
        """Training could be cut here; ``take()`` copies what it needs to go on from here, a ``fcnet.checkpoint.Checkpoint``."""

    def training_ends(self, history: History) -> None:
        """Training is over, for whatever reason."""
