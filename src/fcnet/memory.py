"""What a training needs of memory, before it starts, and what there is of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcnet.data.arrays import Part, is_sparse
from fcnet.engines.choose import Choice
from fcnet.engines.contract import Program
from fcnet.errors import OutOfMemoryError
from fcnet.host import free_on_host, in_words


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes, about; a plan from below, so that nothing is refused that could run.

    Attributes:
        device: "cpu", where all of it is the host's, or "gpu".
        data: rows and targets as the engine keeps them; 0 where it reads the caller's own.
        parameters: of the run, and the best ones.
        optimizer: its slots.
        activations: of each row of a mini-batch, in the forward and the backward pass.
        mini_batch_size: rows in a step.
        host: what stays on the host beside a GPU: the best parameters and a state that is being saved.
    """

    device: str
    data: int
    parameters: int
    optimizer: int
    activations: int
    mini_batch_size: int
    host: int = 0

    @property
    def total(self) -> int:
        """On the device."""
        return self.data + self.parameters + self.optimizer + self.activations * self.mini_batch_size

    def __str__(self) -> str:
        batch = self.activations * self.mini_batch_size
        return (
            f"data {in_words(self.data)}, parameters {in_words(self.parameters)}, optimizer {in_words(self.optimizer)}, "
            f"activations of {self.mini_batch_size:,} rows {in_words(batch)}"
        )

    def check(self, free: int | None, free_on_host: int | None = None) -> None:
        """Refuse what does not fit into so many free bytes; None where that is not known.

        Raises:
            OutOfMemoryError: with the figures, and the largest mini-batch that would fit.
        """
        if free is not None and self.total > free:
            raise self.error(
                f"needs about {in_words(self.total)} of memory on the {self.device}, of which {in_words(free)} are free",
                free,
            )
        if free_on_host is not None and self.host > free_on_host:
            raise self.error(
                f"needs about {in_words(self.host)} of the host's memory, of which {in_words(free_on_host)} are free"
            )

    def error(self, what: str, free: int | None = None) -> OutOfMemoryError:
        """The error that says what a training needs, and what would fit."""
        advice = "Use a smaller mini-batch, a smaller network, or float32."
        if free is not None:
            rows = (free - self.total + self.activations * self.mini_batch_size) // max(1, self.activations)
            advice = (
                f"The largest mini-batch that would fit has {rows:,} rows."
                if rows > 0
                else "No mini-batch would fit: train on fewer rows, a smaller network, or in float32."
            )
        return OutOfMemoryError(f"This training {what}: {self}. {advice}")


def memory_plan(choice: Choice, program: Program, parts: list[Part], mini_batch_size: int) -> MemoryPlan:
    """What a training needs, by its sizes."""
    item = np.dtype(program.dtype).itemsize
    sizes = [program.model.n_in, *(layer.n_out for layer in program.model.layers)]
    parameters = item * sum(int(np.prod(shape)) for _, shape in program.model.shapes())
    slots = len(program.rule.slots)
    data = sum(_bytes_of(choice, program, part) for part in parts)
    on_host = choice.placement.device == "cpu"
    return MemoryPlan(
        choice.placement.device,
        data=data,
        parameters=(2 if on_host else 1) * parameters,
        optimizer=slots * parameters,
        activations=item * (sizes[0] + 2 * sum(sizes[1:])),
        mini_batch_size=mini_batch_size,
        host=0 if on_host else (2 + slots) * parameters,
    )


def _bytes_of(choice: Choice, program: Program, part: Part) -> int:
    """A part as an engine keeps it beside the caller's own arrays."""
    item = np.dtype(program.dtype).itemsize
    if is_sparse(part.X):
        dense = choice.engine.name == "cuda"
        return int(np.prod(part.X.shape)) * item if dense else int(part.X.nnz) * (item + 4)
    if choice.placement.device == "cpu" and part.X.dtype == np.dtype(program.dtype):
        return 0
    return int(part.X.size) * (item if part.X.dtype.itemsize > 1 or choice.engine.name != "native" else 1)


@contextmanager
def within_memory(choice: Choice, program: Program, parts: list[Part], mini_batch_size: int) -> Iterator[None]:
    """A training that is refused where its plan does not fit, and whose device's own error says what the plan is.

    Raises:
        OutOfMemoryError: with the figures.
    """
    plan = memory_plan(choice, program, parts, mini_batch_size)
    plan.check(free_on(choice), free_on_host())
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise plan.error(
            f"ran out of memory on the {choice.placement}. It needs at least {in_words(plan.total)}"
        ) from error


def free_on(choice: Choice) -> int | None:
    """Bytes that are free on a device; None where it does not say."""
    if choice.placement.device == "cpu":
        return free_on_host()
    free: Any = getattr(choice.engine, "free_memory", lambda placement: None)(choice.placement)
    return free


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an engine's error says that memory ran out."""
    says = str(error)
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in says or "CUDA_ERROR_OUT_OF_MEMORY" in says
