"""``train``: a network, data and settings in; the best network and its history out.

Everything is checked here, before training starts; then ``loop.Loop`` trains.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fcnet import counters, identity
from fcnet.checkpoint import Checkpoint
from fcnet.costs import Cost, default_cost
from fcnet.data.arrays import Part
from fcnet.engines.choose import choose
from fcnet.engines.contract import OWN_SLOT, Dtype, Precision, Program, TrainState, accuracy_rule, initial_state
from fcnet.errors import FileError, InputError, TrainingWarning, check_count, check_flag, unknown_name
from fcnet.history import EpochRecord, History, Monitor, Observer, RunInfo
from fcnet.judges import BestFigure
from fcnet.keeper import Keeper, as_keeper
from fcnet.layers import DropoutScaling
from fcnet.loop import Loop, Parts
from fcnet.memory import within_memory
from fcnet.model import Model, rescale_for
from fcnet.optimizers import SGD, Factors, Optimizer
from fcnet.progress import Verbose, progress_observer
from fcnet.steps import Steps, penalty_per_mini_batches, same_order, seeded_order

Task = Literal["classification", "regression"]
OnNan = Literal["stop", "halve"]
Callback = Observer | Callable[[EpochRecord], bool | None]


class Trainable(Protocol):
    """What ``train`` reads of a network, and leaves changed."""

    model: Model
    arrays: Mapping[str, NDArray[Any]]
    mini_batch_size: int
    task: Task
    trained: bool
    history: History | None


def train(
    network: Trainable,
    train: Any,
    validation: Any = None,
    test: Any = None,
    *,
    epochs: int,
    mini_batch_size: int | None = None,
    optimizer: Optimizer = SGD(0.1),  # noqa: B008  (a frozen value)
    cost: Cost | None = None,
    l2: float = 0.0,
    factors: Factors | None = None,
    shuffle: bool = True,
    drop_last: bool = False,
    dropout_scaling: DropoutScaling = "training",
    monitor: Monitor | None = None,
    seed: int = 0,
    engine: str = "auto",
    device: str = "auto",
    n_threads: int | None = None,
    deterministic: bool = False,
    dtype: Dtype = "float32",
    precision: Precision = "tf32",
    callbacks: Sequence[Callback] = (),
    time_budget: float | None = None,
    early_stopping: int | None = None,
    checkpoint: str | Path | Keeper | None = None,
    resume: str | Path | None = None,
    checkpoint_every: str = "1epoch",
    on_nan: OnNan = "stop",
    verbose: Verbose = True,
) -> History:
    """Train a network, and leave it as the best one seen.

    What is minimised at each step is the mean cost of a mini-batch on the dropout path
    + 0.5 * l2 * sum(w^2) / (number of whole mini-batches in the training data).

    Args:
        network: a ``fcnet.Network``; it continues from the parameters it has.
        train: ``(X, y)`` or ``(X, y, sample_weight)``: X ``(n_rows, ...)`` with n_in numbers a row; y ``(n_rows,)`` class
            labels from 0, or ``(n_rows, n_out)`` values.
        validation: data that decides which epoch is best; without it the last one is kept.
        test: data whose accuracy is noted after every epoch, and decides nothing.
        epochs: passes over the training data, at most.
        mini_batch_size: rows a step; the network's own where not given.
        optimizer: such as ``fcnet.Adam(0.001)`` or ``fcnet.SGD(fcnet.Cosine(0.1))``.
        cost: such as ``fcnet.quadratic``; by default what pairs with the last layer: log-likelihood with softmax,
            cross-entropy with sigmoid, quadratic otherwise.
        l2: strength of the L2 penalty on weights (the book's lambda, per number of mini-batches as in the article).
        factors: ``fcnet.Factors``: parameters that learn or decay faster or slower than others; schedules of decay and dropout.
        shuffle: a new order for every epoch; else the data's own.
        drop_last: leave out a short last mini-batch; else it is a step of its own.
        dropout_scaling: "training" (the field's inverted dropout) or "inference" (the article's), see ``fcnet.layers``.
        monitor: "accuracy" (highest is best, for classes the default) or "cost" (lowest is best). Of equals the later wins.
        seed: decides order and dropout masks. The same seed gives the same run.
        engine: "auto", "native" (a CPU, fcnet's own activations), "cuda" (an NVIDIA GPU, small networks) or
            "xla" (CPU and GPU, any activation).
        device: "auto", "cpu", "gpu", "gpu:1", or "gpus": all there are, each with a part of every mini-batch's rows.
        n_threads: threads of the native engine at most; by default what OMP_NUM_THREADS or NUMBA_NUM_THREADS says, else one
            a core.
        deterministic: on a GPU, use only operations that answer the same bytes every time; they may be slower. On a CPU all do.
        dtype: "float32" or "float64".
        precision: what matrix products may round the numbers they multiply to: "float32" (nothing), "tf32" (11 bits, on a GPU
            that does so; a CPU's products are float32 all the same) or "bf16" (8 bits; about twice as fast as "tf32" for
            large networks on a GPU). Parameters and their updates stay float32.
        callbacks: called with each ``EpochRecord``; one that returns True ends training. Or ``fcnet.Observer`` objects.
        time_budget: seconds after which training ends, with what it has.
        early_stopping: end after so many epochs without a better validation figure.
        checkpoint: a folder to write checkpoints into, from which training can be resumed after any kind of end.
        resume: the folder of a training to go on with, from its newest checkpoint; the network's own parameters are not used.
            Data and settings must be the same, but for ``epochs``, ``time_budget``, ``callbacks``, ``verbose`` and checkpoints.
            It ends with the same bytes as a training that was never interrupted. Where a schedule depends on ``epochs`` and
            these are changed, the steps before keep their rates and later ones follow the new schedule; a warning says so.
        checkpoint_every: "1epoch", "3epochs", "30s", "5m"; less often where they would take more than 1% of the time.
        on_nan: what to do where the cost becomes NaN or infinite: "stop", or "halve" to go back to the end of the epoch before and
            halve the learning rate from there on, at most three times; ``history.halvings`` notes it. Checkpoints are then
            taken at the ends of epochs alone.
        verbose: True for a bar on a terminal and a line an epoch elsewhere; "bar"; "lines"; or False.

    Returns:
        The history; it is ``network.history`` too.

    Raises:
        InputError: arguments or data that cannot be used, before training starts.
        OutOfMemoryError: what it needs is not there, by a plan before it starts, or by the device while it goes on.
        FileError: the checkpoint folder cannot be written, is in use, holds another training, or has nothing to resume.
        DeviceError: a GPU was asked for that is not there.
        DivergenceError: the cost became NaN or infinite; the network is the best one seen before.
        KeyboardInterrupt: Ctrl-C, at the end of the chunk; the network is the best one seen.
        SystemExit: SIGTERM, likewise, where checkpoints are written.
    """
    started = time.perf_counter()
    if not all(hasattr(network, name) for name in ("model", "arrays", "mini_batch_size")):
        raise InputError(
            f"network must be a fcnet.Network, got {type(network).__name__}. Write Network(layers, mini_batch_size)."
        )
    _check_settings(optimizer, l2, time_budget)
    check_flag("shuffle", shuffle)
    check_flag("drop_last", drop_last)
    check_flag("deterministic", deterministic)
    epochs = check_count("epochs", epochs)
    mini_batch_size = check_count(
        "mini_batch_size", network.mini_batch_size if mini_batch_size is None else mini_batch_size
    )
    if n_threads is not None:
        n_threads = check_count("n_threads", n_threads)
    seed = counters.check_seed(seed)
    model, arrays = network.model, network.arrays
    if on_nan not in ("stop", "halve"):
        raise unknown_name("on_nan", on_nan, ("stop", "halve"))
    if dropout_scaling not in ("training", "inference"):
        raise unknown_name("dropout_scaling", dropout_scaling, ("training", "inference"))
    if network.trained:  # its weights mean what they mean under its convention
        arrays = rescale_for(model, dropout_scaling, arrays)
    model = replace(model, dropout_scaling=dropout_scaling)

    parts = Parts.read(model, train, validation, test, mini_batch_size, check_dtype(dtype))
    cost = check_cost(cost) or default_cost(model.layers[-1].activation_fn)
    cost.check_pairing(model.layers[-1].activation_fn)
    program = Program(model, cost, optimizer.rule, dtype, precision=precision)
    choice = choose(engine, device, program, n_threads, deterministic, mini_batch_size)
    task: Task = "regression" if accuracy_rule(program, parts.train.kind) is None else "classification"
    monitor = _check_monitor(monitor, early_stopping, parts.validation, task)

    n_rows = parts.train.n_rows
    order = seeded_order(seed, n_rows) if shuffle else same_order(n_rows)
    penalty = penalty_per_mini_batches(l2, n_rows // mini_batch_size)
    steps = Steps(
        n_rows,
        mini_batch_size,
        order,
        drop_last,
        seed,
        epochs,
        penalty,
        model,
        optimizer,
        factors=_check_factors(factors, model),
    )
    keeper = as_keeper(checkpoint, resume, checkpoint_every)
    if not isinstance(callbacks, Sequence):
        raise InputError(f"callbacks must be a list of functions or observers, got {callbacks!r}. Write [callback].")
    observers = [as_observer(callback) for callback in callbacks]
    if (progress := progress_observer(verbose)) is not None:
        observers.append(progress)
    history = History(choice.engine.name, str(choice.placement), monitor, steps.per_epoch)
    judge = BestFigure(program, steps, monitor, early_stopping)
    loop = Loop(choice, program, parts, steps, history, observers, judge)
    loop.halves = on_nan == "halve"
    state = initial_state(program, arrays)
    with contextlib.ExitStack() as held:
        held.enter_context(within_memory(choice, program, parts.given, mini_batch_size))
        if keeper is not None:
            if keeper is not checkpoint:
                held.enter_context(keeper)
            settings = {
                "layers": model.layers, "dropout_scaling": dropout_scaling, "cost": cost, "optimizer": optimizer, "l2": l2, "factors": factors,
                "mini_batch_size": mini_batch_size, "shuffle": shuffle, "drop_last": drop_last, "seed": seed, "dtype": dtype, "precision": precision,
                "monitor": monitor, "early_stopping": early_stopping, "engine": choice.engine.name, "on_nan": on_nan,
                "device": str(replace(choice.placement, index=0)), "deterministic": deterministic,
            }  # fmt: skip
            keeper.identity = {
                "settings": {name: identity.describe(value) for name, value in settings.items()},
                "data": {name: identity.of_part(part) for name, part in vars(parts).items()},
                "versions": identity.of_versions(choice.engine.name),
                "length": {"epochs": epochs},
                "command": keeper.command,
            }
            if resume is not None:
                resumed = keeper.newest(Path(resume))
                check_resumable(resumed, keeper.identity, state, steps, Path(resume))
                state = resumed.state
                loop.go_on(resumed)
            else:
                keeper.check_free()
            observers.append(keeper)
            loop.signals = (signal.SIGINT, signal.SIGTERM)
        try:
            loop.run(state, RunInfo(str(choice), epochs, steps.per_epoch), started + (time_budget or math.inf))
        finally:
            if loop.kept is not None:
                network.model, network.arrays = model, loop.kept
                network.task, network.trained, network.history = task, True, loop.history
    if loop.history.ending == "interrupted":
        if loop.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt
    if loop.history.ending == "diverged":
        raise loop.divergence()
    return loop.history


# --- Checks -----------------------------------------------------------------------------------------------------------


class _Callback(Observer):
    """A plain function of an epoch's record, as an observer."""

    def __init__(self, function: Callable[[EpochRecord], bool | None]) -> None:
        self._function = function

    def epoch_ends(self, record: EpochRecord, best: bool) -> bool | None:
        return self._function(record)


def as_observer(callback: Callback) -> Observer:
    """An observer as it is; a function of an epoch's record as one; anything else is refused."""
    if isinstance(callback, Observer):
        return callback
    if not callable(callback):
        raise InputError(f"A callback must be a function of an EpochRecord, or an Observer, got {callback!r}.")
    return _Callback(callback)


def check_dtype(dtype: object) -> Dtype:
    """One of the types that a network can compute in."""
    if dtype not in ("float32", "float64"):
        raise unknown_name("dtype", dtype, ("float32", "float64"))
    return dtype


def _check_settings(optimizer: object, l2: object, time_budget: object) -> None:
    if isinstance(optimizer, type) or not hasattr(optimizer, "rule"):
        raise InputError(f"optimizer must be an optimizer such as fcnet.Adam(0.001), got {optimizer!r}.")
    if not isinstance(l2, Real) or not 0 <= float(l2) < math.inf:
        raise InputError(f"The L2 strength must be a finite number, 0 or above, got {l2!r}.")
    if time_budget is not None and (not isinstance(time_budget, Real) or not float(time_budget) > 0):
        raise InputError(f"time_budget must be a number of seconds above 0, got {time_budget!r}.")


def _check_factors(factors: object, model: Model) -> Factors:
    """The factors, which fit the model; none where none are given."""
    if not isinstance(factors, Factors | None):
        raise InputError(f"factors must be fcnet.Factors(...), got {factors!r}.")
    if factors is None:
        return Factors()
    factors.of(model)
    if factors.dropout is not None and model.dropout_scaling == "inference":
        raise InputError(
            "A schedule of dropout needs dropout_scaling='training': under 'inference' the weights would mean another function in "
            "each step."
        )
    return factors


def check_cost(cost: object) -> Cost | None:
    """A cost, or None for the one that pairs with the last layer; anything else is refused."""
    if cost is not None and not isinstance(cost, Cost):
        raise InputError(f"cost must be a cost such as fcnet.quadratic, got {cost!r}.")
    return cost


def _check_monitor(
    monitor: Monitor | None, early_stopping: int | None, validation: Part | None, task: Task
) -> Monitor | None:
    """Which validation figure decides what is best; None without validation data."""
    if monitor not in (None, "accuracy", "cost"):
        raise unknown_name("monitor", monitor, ("accuracy", "cost"))
    if early_stopping is not None:
        check_count("early_stopping", early_stopping)
    if validation is None:
        if early_stopping is not None or monitor is not None:
            asked = "early_stopping" if early_stopping is not None else "monitor"
            raise InputError(f"{asked} needs validation data: pass validation=(X, y).")
        return None
    if monitor == "accuracy" and task == "regression":
        raise InputError("monitor='accuracy' needs class labels; for regression use monitor='cost'.")
    return monitor or ("accuracy" if task == "classification" else "cost")


def check_resumable(resumed: Checkpoint, now: dict[str, Any], state: TrainState, steps: Steps, folder: Path) -> None:
    """Refuse a checkpoint of another training, and say what differs."""
    same = ("settings", "data", "versions")
    changed = identity.differences(*({name: one.get(name) for name in same} for one in (resumed.identity, now)))
    if changed:
        raise InputError(
            f"The training in {folder} cannot be resumed, because it would not be the same: {'; '.join(changed[:8])}"
            f"{f'; and {len(changed) - 8} more' if len(changed) > 8 else ''}. Go back to what it was, or train anew."
        )
    layout = lambda of: {slot: {n: (a.shape, a.dtype) for n, a in arrays.items()} for slot, arrays in of.items()}  # noqa: E731
    inside = resumed.state.step - len(resumed.history.epochs) * steps.per_epoch
    slots = {slot: arrays for slot, arrays in resumed.state.slots.items() if slot != OWN_SLOT}
    fits = layout({"": resumed.state.parameters, **slots}) == layout({"": state.parameters, **state.slots})
    kept = resumed.kept is None or layout({"": resumed.kept}) == layout({"": state.parameters})
    if not (fits and kept and 0 <= inside <= steps.per_epoch and resumed.history.steps_per_epoch == steps.per_epoch):
        raise FileError(
            f"The newest checkpoint in {folder} does not fit its own settings. The file is damaged; train anew."
        )
    epochs = resumed.identity.get("length", {}).get("epochs")
    if epochs != steps.epochs and isinstance(epochs, int) and resumed.state.step:
        done = np.arange(resumed.state.step)[-10_000:]
        if not np.array_equal(steps.rates(done), replace(steps, epochs=epochs).rates(done)):
            warnings.warn(
                f"The learning rate's schedule depends on the number of epochs, which was {epochs} and is {steps.epochs}: the "
                "steps before keep their rates, and later ones follow the new schedule.",
                TrainingWarning,
                stacklevel=3,
            )
