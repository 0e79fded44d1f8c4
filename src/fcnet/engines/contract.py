"""The engine contract: what an engine compiles, what it is given, and what it answers.

An engine turns a state into a later state. Everything that may change between steps comes as a table in a ``Plan``: which
rows, which rates, how much decay, which dropout masks. Schedules, samplers and epochs therefore never enter an engine, and
nothing recompiles when they change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fcnet.activations import sigmoid, softmax
from fcnet.costs import Cost, cross_entropy
from fcnet.data.arrays import Part, Rows, TargetKind
from fcnet.errors import InputError, unknown_name
from fcnet.model import Model
from fcnet.optimizers import UpdateRule

Dtype = Literal["float32", "float64"]
Precision = Literal["float32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bf16")


@dataclass(frozen=True)
class Program:
    """What an engine compiles.

    Attributes:
        model: the layers.
        cost: what is minimised; its mean over a batch, weighted by row.
        rule: how a gradient changes a parameter.
        dtype: of parameters, data and arithmetic.
        members: None for one network; a number for so many in one program, each with its own parameters and plan.
        precision: what matrix products may round the numbers they multiply to; their sums, parameters, costs and updates stay
            in ``dtype``. "float32": not at all. "tf32": to 11 significant bits, on a device whose matrix units do so; elsewhere
            it changes nothing. "bf16": to 8 significant bits, and so what hidden layers hand on to each other, on any
            device. In float64 nothing is rounded, and "bf16" is refused.

    Raises:
        InputError: an unknown precision, or one that the type excludes.
    """

    model: Model
    cost: Cost
    rule: UpdateRule
    dtype: Dtype = "float32"
    members: int | None = None
    precision: Precision = "tf32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if self.precision == "bf16" and self.dtype == "float64":
            raise InputError(
                "precision='bf16' rounds products to 8 bits, which float64 excludes. Use float32 numbers, or precision='float32'."
            )


def accuracy_rule(program: Program, kind: TargetKind) -> Literal["argmax", "threshold"] | None:
    """How outputs are right or wrong: by the largest one, by the side of 0.5 that a single one is on, or not at all."""
    last = program.model.layers[-1].activation_fn
    if kind == "labels" or last == softmax:
        return "argmax"
    binary = last == sigmoid and program.cost == cross_entropy and program.model.n_out == 1
    return "threshold" if binary else None


@dataclass(frozen=True)
class Placement:
    """Where a run computes.

    Attributes:
        device: "cpu" or "gpu".
        index: which GPU.
        threads: at most so many on a CPU; None for what the environment says, and else one a core.
        shards: so many devices from ``index`` on, each of which takes some of a mini-batch's rows; each holds the data and the
            parameters.
        deterministic: on a GPU, only operations that answer the same bytes every time.
    """

    device: Literal["cpu", "gpu"] = "cpu"
    index: int = 0
    threads: int | None = None
    shards: int = 1
    deterministic: bool = False

    def __str__(self) -> str:
        name = self.device if self.index == 0 else f"{self.device}:{self.index}"
        return name if self.shards == 1 else f"{self.shards} {name}s"


OWN_SLOT = "own"
"""The slot for what an engine needs besides, to go on with the same bytes."""


@dataclass
class TrainState:
    """A training run as data, in one layout for every engine; with members, each array has a leading member axis.

    Attributes:
        parameters: named arrays, see ``fcnet.model``.
        slots: for each slot of the update rule, named arrays of the parameters' shapes. An engine may add ``OWN_SLOT``, which others
            pass over.
        step: how many steps have been done.
    """

    parameters: dict[str, NDArray[Any]]
    slots: dict[str, dict[str, NDArray[Any]]]
    step: int = 0


def initial_state(program: Program, parameters: Mapping[str, NDArray[Any]]) -> TrainState:
    """The state before the first step: the parameters, in the program's type, and slots of zeros."""
    own = {name: np.array(array, dtype=program.dtype) for name, array in parameters.items()}
    slots = {slot: {name: np.zeros_like(array) for name, array in own.items()} for slot in program.rule.slots}
    return TrainState(own, slots)


@dataclass(frozen=True, eq=False)
class Plan:
    """Tables for a chunk of steps. The tables of one run have one length; only the first ``n_steps`` rows of them are done.

    With members, every table has a leading member axis.

    Attributes:
        n_steps: how many steps to do.
        rows: ``(length, batch)`` int32, row indices into the training data; -1 pads a short batch.
        coefficients: ``(length, n_coefficients)`` float64, the update rule's numbers.
        l2: ``(length,)`` float64, c in the penalty 0.5 * c * sum(w^2).
        dropout: ``(length, n_layers)`` float64, the probability that an input of the layer is dropped.
        keys: ``(length, n_layers, 2)`` uint32, the key of each layer's dropout mask.
        factors: ``(n_parameters, 2)`` float64, what the coefficients "rate" and "decay" are multiplied by for each parameter, in
            the model's order; the same in all steps.
    """

    n_steps: int
    rows: NDArray[np.int32]
    coefficients: NDArray[np.float64]
    l2: NDArray[np.float64]
    dropout: NDArray[np.float64]
    keys: NDArray[np.uint32]
    factors: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Report:
    """What a chunk did.

    Attributes:
        costs: ``(n_steps,)`` float64, with members ``(members, n_steps)``: the mean cost of each step's batch on the dropout
            path, without the L2 penalty. NaN for steps that were not done.
        bad_step: the first step of the chunk whose cost was not finite, or -1; with members ``(members,)``. From it on the
            parameters were left as they were.
    """

    costs: NDArray[np.float64]
    bad_step: Any


@dataclass(frozen=True)
class Metrics:
    """How a network does on data, without dropout and without the L2 penalty.

    Attributes:
        cost: mean cost of a row, by row weight.
        accuracy: fraction of rows whose largest output is the label, by row weight; for one sigmoid output, whose output is
            on the label's side of 0.5. None for values.
    """

    cost: float
    accuracy: float | None


class Engine(Protocol):
    """An engine: the same results as every other, up to rounding.

    ``Data`` and ``Run`` are the engine's own; a caller only hands them back. A run is one training or one inference network
    on a placement; it changes in ``advance`` alone.
    """

    name: str

    @property
    def description(self) -> str:
        """What it is and what it runs on."""

    def supports(self, program: Program, placement: Placement) -> str | None:
        """None where the engine can do this; else the reason why not."""

    def put(self, part: Part, program: Program, placement: Placement) -> Any:
        """Data on the device, copied once at most; its arrays must not change while it is in use. ``Data``."""

    def start(self, program: Program, state: TrainState, placement: Placement) -> Any:
        """Copy a state to the device. ``Run``."""

    def replace(self, run: Any, parameters: Mapping[str, NDArray[Any]]) -> None:
        """Put other parameters in the place of a run's; the rest of its state stays."""

    def advance(self, run: Any, data: Any, plan: Plan) -> Report:
        """Do a chunk of steps."""

    def evaluate(self, run: Any, data: Any) -> list[Metrics]:
        """Cost and accuracy on data, in bounded memory, of each member; a list of one where there are no members."""

    def forward(self, run: Any, X: Rows) -> NDArray[Any]:
        """Outputs ``(n_rows, n_out)`` for rows ``(n_rows, n_in)`` without dropout, in bounded memory.

        Raises:
            InputError: NaN or infinity in X, where the first is.
        """

    def cost_and_gradient(self, run: Any, data: Any, l2: float = 0.0) -> tuple[float, dict[str, NDArray[Any]]]:
        """Mean cost without dropout + 0.5 * l2 * sum(w^2), and its gradient, over all of the data."""

    def snapshot(self, run: Any) -> TrainState:
        """The state, copied to the host."""
