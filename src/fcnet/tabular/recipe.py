"""How a table's networks are made and trained: the settings of each preset, and nothing that depends on a table's name.

From RealMLP-TD (Holzmüller, Grinsztajn and Steinwart, "Better by Default", 2024) come the sizes, Adam's beta_2, the schedule that runs
to its end, label smoothing, the scales of features and the best epoch that is kept; the average of several networks from TabM (Gorishniy, Kotelnikov and Babenko, 2024) in its
simplest form.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet import costs, initializers
from fcnet.activations import activation_named, linear
from fcnet.costs import Cost
from fcnet.data.arrays import Part, is_sparse
from fcnet.engines.choose import choose
from fcnet.engines.contract import Program
from fcnet.engines.native.threads import available_threads
from fcnet.history import Observer
from fcnet.layers import FullyConnectedLayer, Layer, SoftmaxLayer, TableLayer
from fcnet.model import array_name, weights_name
from fcnet.network import Network
from fcnet.optimizers import AdamW, Factors
from fcnet.tabular.together import Ends, share_out
from fcnet.training import train


@dataclass(frozen=True)
class CosineLog:
    """Several cosines, each longer than the one before: rate * (1 - cos(2 pi log2(1 + (2^cycles - 1) t))) / 2, t in [0, 1].

    RealMLP's "coslog" schedule: it starts and ends at 0, and the first cycles are short.
    """

    rate: float
    cycles: int = 4

    def __call__(self, epoch: NDArray[np.float64], epochs: float) -> NDArray[np.float64]:
        """The rate at each step."""
        done = np.minimum(epoch / epochs, 1.0)
        return self.rate * 0.5 * (1.0 - np.cos(2.0 * math.pi * np.log2(1.0 + (2.0**self.cycles - 1.0) * done)))


Arrays = dict[str, NDArray[Any]]
"""A network's parameters by their names."""
MOST_EPOCHS = 256
FEWEST_EPOCHS = 8
FEW_PIECES = 16
PIECE_ROWS = 100
MOST_NUMBERS = 5_000_000
"""A column becomes as many at most, over all rows, where it has more than ``FEW_PIECES``."""
_SAFE = 0.8
"""The part of the time that a schedule is laid out over: an epoch may take longer than the one that was timed."""


@dataclass(frozen=True)
class Recipe:
    """Settings of a training.

    Attributes:
        hidden: units of each hidden layer.
        activation: of the hidden layers.
        dropout: probability that a hidden output is dropped in a step.
        epochs: passes of a network over its training rows; see ``laid_out``.
        steps: the fewest and the most of a network.
        batch_size: rows in a step, at most.
        learning_rate, weight_decay: of AdamW, with beta_2 = 0.95.
        decay_rows: over more training rows than these weight decay falls with their number.
        label_smoothing: the share of a class target that is spread over all classes.
        members: networks, whose answers are averaged.
        pieces: the most linear pieces that numbers are encoded in, see ``columns.Number`` and ``pieces_for``.
        plain: whether every second network reads numbers without their pieces.
        scale_rate: how fast the scales of features learn, in learning rates; 0 where there are none, see ``_with_scales``.
    """

    hidden: tuple[int, ...] = (256, 256, 256)
    activation: str = "silu"
    dropout: float = 0.15
    epochs: int = 64
    steps: tuple[int, int] = (250, 8000)
    batch_size: int = 256
    learning_rate: float = 0.004
    weight_decay: float = 0.3
    decay_rows: float = 2000.0
    label_smoothing: float = 0.1
    members: int = 4
    pieces: int = 48
    plain: bool = True
    scale_rate: float = 6.0

    def pieces_for(self, n_rows: int) -> int:
        """The linear pieces of a number: more than 16 where each holds 100 rows and all rows' pieces can be kept in memory."""
        return min(self.pieces, max(FEW_PIECES, min(n_rows // PIECE_ROWS, MOST_NUMBERS // n_rows)))

    def laid_out(self, n_rows: int) -> Recipe:
        """The recipe for so many training rows.

        More epochs where they have few steps, RealMLP's 256 at most, and fewer where they have very many. Weight decay is divided by
        the number of rows, so that weights forget over as many epochs, however many steps these have (Wang and Aitchison, "How to
        set AdamW's weight decay as you scale model and dataset size", 2024).
        """
        per_epoch = -(-n_rows // self.batch_size)
        fewest, most = self.steps
        epochs = min(max(self.epochs, -(-fewest // per_epoch)), MOST_EPOCHS)
        epochs = max(min(epochs, most // per_epoch), FEWEST_EPOCHS)
        return replace(self, epochs=epochs, weight_decay=self.weight_decay * min(1.0, self.decay_rows / n_rows))


PRESETS = {
    "fast": Recipe(hidden=(128, 128), epochs=48, learning_rate=0.008, members=2, pieces=16),
    "default": Recipe(),
    "best": Recipe(members=10, epochs=128),
}
"""fast: two small networks; default: four of three layers of 256; best: ten of those, trained twice as long."""


@dataclass(frozen=True)
class Architecture:
    """What a network looks like, in plain values.

    Attributes:
        n_in, hidden, n_out: sizes.
        classes: whether the outputs are probabilities of classes, else values.
    """

    n_in: int
    hidden: tuple[int, ...]
    n_out: int
    activation: str
    dropout: float
    classes: bool

    def network(self, mini_batch_size: int = 1, seed: int = 0) -> Network:
        """A network of this shape with new weights."""
        activation = activation_named(self.activation)
        sizes = (self.n_in, *self.hidden)
        layers: list[Layer] = [
            FullyConnectedLayer(
                n_in, n_out, activation, self.dropout if place else 0.0, initializers.he_normal, initializers.zeros
            )
            for place, (n_in, n_out) in enumerate(pairwise(sizes))
        ]
        last = self.dropout if self.hidden else 0.0
        if self.classes:
            layers.append(SoftmaxLayer(sizes[-1], self.n_out, last))
        else:
            layers.append(
                FullyConnectedLayer(
                    sizes[-1], self.n_out, linear, last, initializers.glorot_uniform, initializers.zeros
                )
            )
        return Network(layers, mini_batch_size, seed)


def network_of(architecture: Architecture, arrays: Arrays) -> Network:
    """A trained network of its arrays; it may read fewer features than the architecture says."""
    network = replace(architecture, n_in=len(arrays[weights_name(0)])).network()
    network.model = replace(network.model, dropout_scaling="training")
    network.arrays = dict(arrays)
    network.trained = True
    return network


def architecture_of(network: Network) -> Architecture:
    """The shape of a network."""
    *inner, last = network.layers
    hidden = tuple(layer.n_out for layer in inner)
    activation = inner[0].activation_fn.name if inner else "relu"
    return Architecture(
        network.model.n_in, hidden, network.model.n_out, activation, last.p_dropout, network.task == "classification"
    )


@dataclass(frozen=True)
class Machine:
    """Where and how loudly: see ``fcnet.train``.

    Attributes:
        at_once: networks that train at the same time on the native engine, see ``together``; others train one after the other.
    """

    engine: str
    device: str
    n_threads: int | None
    verbose: Any
    at_once: int = 1


def train_members(
    recipe: Recipe,
    architecture: Architecture,
    cost: Cost,
    parts: Callable[[int], tuple[Part, Part]],
    seeds: Callable[[], int],
    machine: Machine,
    deadline: float,
) -> tuple[list[Network], BaseException | None]:
    """The networks of a recipe, each left as its best epoch; and Ctrl-C, where it ended the training.

    The best epoch is that of the least validation cost, which swings less than accuracy does on few rows. ``parts`` answers a member's
    training and validation rows. With a deadline (on ``time.perf_counter``) one epoch is timed first, and the schedule is laid out over
    as many as there is time for, so that rates have fallen when it ends. At least one network is trained. Those that train at the
    same time end as they would alone, to the byte.
    """
    training, validation = parts(0)
    n_rows = training.n_rows
    recipe = recipe.laid_out(n_rows)
    if math.isfinite(deadline):
        recipe = _in_time(recipe, architecture, cost, training, validation, seeds(), machine, deadline)
    del training, validation  # before others take as much room
    own_seeds = [seeds() for _ in range(recipe.members)]
    networks: list[Network | None] = [None] * recipe.members
    workers = _workers(recipe, architecture, cost, machine)
    shared = replace(
        machine, n_threads=available_threads(machine.n_threads) // workers if workers > 1 else machine.n_threads
    )
    quiet = replace(shared, verbose=False)

    def train_one(member: int, ends: Ends, calling: bool) -> None:
        left = deadline - time.perf_counter()
        if member and left <= 0:
            return
        training, validation = parts(member)
        shape = replace(architecture, n_in=training.X.shape[1])
        networks[member] = network = shape.network(min(recipe.batch_size, n_rows), own_seeds[member])
        budget = max(left / -(-(recipe.members - member) // workers), 1e-3) if math.isfinite(left) else None
        where = shared if calling else quiet
        _train(network, recipe, recipe.epochs, cost, training, validation, where, budget, [ends])

    ended = share_out(recipe.members, workers, train_one)
    if ended is not None and not isinstance(ended, KeyboardInterrupt):
        raise ended
    # The ones after a member that is missing are not used: a member's number says which rows have not trained it.
    trained = takewhile(lambda network: network and network.history and network.history.epochs, networks)
    return list(trained), ended  # type: ignore[arg-type]


def _workers(recipe: Recipe, architecture: Architecture, cost: Cost, machine: Machine) -> int:
    """How many networks train at the same time on the engine that will be chosen."""
    model, rule = architecture.network().model, AdamW(recipe.learning_rate).rule
    choice = choose(
        machine.engine, machine.device, Program(model, cost, rule), machine.n_threads, False, recipe.batch_size
    )
    return min(machine.at_once, recipe.members) if choice.engine.name == "native" else 1


def _in_time(recipe: Recipe, architecture: Architecture, *arguments: Any) -> Recipe:
    """The recipe with as many epochs and networks as there is time for."""
    cost, training, validation, seed, machine, deadline = arguments
    network = architecture.network(min(recipe.batch_size, training.n_rows), seed)
    quiet = replace(machine, verbose=False)
    _train(network, recipe, 1, cost, training, validation, quiet, max(deadline - time.perf_counter(), 1e-3) / 2)
    began = time.perf_counter()
    _train(network, recipe, 1, cost, training, validation, quiet, max(deadline - began, 1e-3) / 2)
    epochs = max(1.0, _SAFE * (deadline - time.perf_counter()) / (time.perf_counter() - began))
    members = max(1, min(recipe.members, int(epochs / min(recipe.epochs, 10))))
    return replace(recipe, members=members, epochs=max(1, min(recipe.epochs, int(epochs / members))))


def _train(
    network: Network,
    recipe: Recipe,
    epochs: int,
    cost: Cost,
    training: Part,
    validation: Part,
    machine: Machine,
    budget: float | None,
    observers: Sequence[Observer] = (),
) -> None:
    """Leave a network as its best epoch, trained with scales in front where its features are dense."""
    scaled = recipe.scale_rate > 0.0 and not is_sparse(training.X)
    learner = _with_scales(network) if scaled else network
    try:
        train(
            learner,
            training,
            validation,
            epochs=epochs,
            optimizer=AdamW(CosineLog(recipe.learning_rate), beta_2=0.95, weight_decay=recipe.weight_decay),
            cost=cost,
            factors=Factors({"scales": recipe.scale_rate} if scaled else {}),
            monitor="cost",
            seed=network.seed,
            engine=machine.engine,
            device=machine.device,
            n_threads=machine.n_threads,
            time_budget=budget,
            callbacks=observers,
            verbose=machine.verbose,
        )
    finally:
        if scaled and learner.trained:
            _take_over(network, learner)


def _with_scales(network: Network) -> Network:
    """The same layers behind a scale for each feature, which is learnt: what says much soon gets louder than what says little.

    From RealMLP. A scale times a weight is a weight, so that the scales change how the network learns and not what it can be.
    """
    return Network([TableLayer(n_plain=network.model.n_in), *network.layers], network.mini_batch_size, network.seed)


def _take_over(network: Network, learner: Network) -> None:
    """Make a network what it learnt as ``_with_scales``: its first weights are multiplied by the scales."""
    arrays = {
        array_name(index, name): learner.arrays[array_name(index + 1, name)]
        for index, layer in enumerate(network.layers)
        for name, _, _ in layer.arrays
    }
    arrays[weights_name(0)] = learner.arrays[array_name(0, "scales")][:, None] * arrays[weights_name(0)]
    network.model = replace(network.model, dropout_scaling=learner.model.dropout_scaling)
    network.arrays, network.task = arrays, learner.task
    network.trained, network.history = True, learner.history


def class_cost(recipe: Recipe) -> Cost:
    """The cost of a classifier's networks."""
    return costs.label_smoothing(recipe.label_smoothing) if recipe.label_smoothing else costs.log_likelihood
