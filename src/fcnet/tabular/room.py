"""What a training on a table takes of memory, told before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from fcnet.errors import OutOfMemoryError
from fcnet.memory import free_on_host, in_words
from fcnet.tabular.columns import ROWS, Columns
from fcnet.tabular.recipe import Architecture, Recipe

if TYPE_CHECKING:
    import polars

_LISTED = 8
"""Bytes of a number that is kept with its place."""
_FEW = 0.4
"""Of features of which fewer are not 0, an engine may make lists."""
_COPIES = 4
"""Of a network's parameters: its own, the best epoch's, and two moments."""


@dataclass(frozen=True)
class Room:
    """Bytes, about.

    Attributes:
        table: the columns as they came.
        features: of all rows, and once more for each network that trains at the same time, cut into those that train and those that are
            set aside.
        passing: what one block of rows takes while it is encoded, and a column while it is looked at.
        networks: parameters, moments, and a mini-batch's outputs.
    """

    table: int
    features: int
    passing: int
    networks: int

    @property
    def total(self) -> int:
        """All at once."""
        return self.table + self.features + self.passing + self.networks

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {in_words(size)}" for name, size in vars(self).items())
        return f"about {in_words(self.total)} ({parts})"

    def check(self) -> None:
        """Refuse what does not fit beside the table, which is there already.

        Raises:
            OutOfMemoryError: with the figures.
        """
        free = free_on_host()
        if free is not None and self.total - self.table > free:
            raise OutOfMemoryError(
                f"Training on this table needs {self} of memory, of which {in_words(free)} are free beside the table. "
                "Leave columns or rows out."
            )


def feature_bytes(columns: Columns, n_rows: int) -> int:
    """What the features of so many rows take, as a network reads them."""
    each = _LISTED * columns.filled if columns.sparse else 4 * columns.width
    if columns.sparse or columns.filled < _FEW * columns.width:
        each += _LISTED * columns.filled  # an engine's own lists, and once more, shared out to threads
    return each * n_rows


def room_of(
    frame: polars.DataFrame, columns: Columns, architecture: Architecture, recipe: Recipe, at_once: int
) -> Room:
    """The memory that a training on this table takes, of so many networks at the same time."""
    widest = max(column.width for column in columns.used)
    sizes = (architecture.n_in, *architecture.hidden, architecture.n_out)
    parameters = sum(n_in * n_out + n_out for n_in, n_out in pairwise(sizes))
    return Room(
        table=int(frame.estimated_size()),
        features=(1 + at_once) * feature_bytes(columns, frame.height),
        passing=16 * min(frame.height, ROWS) * widest + 64 * frame.height,
        networks=4 * (_COPIES * at_once + recipe.members) * parameters + 8 * at_once * recipe.batch_size * sum(sizes),
    )
