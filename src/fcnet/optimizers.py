"""Optimizers: one record each, and learning-rate schedules.

An optimizer is split in two. Its ``UpdateRule`` is what an engine compiles: pure elementwise arithmetic on a parameter,
its gradient and its slots. Everything that changes from step to step, or from run to run, reaches the rule as numbers in
a table that ``coefficients`` fills on the host in float64: the scheduled learning rate, decay constants, Adam's bias
corrections. So a new rate or schedule never compiles anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fcnet.errors import InputError, unknown_name
from fcnet.model import Model, is_weights

Array = Any
"""A NumPy or JAX array, or one number of it."""
Floats = NDArray[np.float64]


# --- Schedules: epochs elapsed -> learning rate -----------------------------------------------------------------------


class Schedule(Protocol):
    """A learning rate as a function of time."""

    def __call__(self, epoch: Floats, epochs: float) -> Floats:
        """The rates at the times ``epoch`` (fractions of an epoch count) of a run of ``epochs`` epochs."""


@dataclass(frozen=True)
class Constant:
    """The same rate at every step."""

    rate: float

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def __call__(self, epoch: Floats, epochs: float) -> Floats:
        """The rate, for every step."""
        return np.full_like(epoch, self.rate, dtype=np.float64)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from ``rate`` down to ``final`` over the run.

    final + (rate - final) * (1 + cos(pi * epoch / epochs)) / 2; Loshchilov and Hutter, SGDR, 2017, without restarts.
    """

    rate: float
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_rate(self.rate)
        _check_rate(self.final)

    def __call__(self, epoch: Floats, epochs: float) -> Floats:
        """The rate at each step."""
        done = np.minimum(epoch / epochs, 1.0)
        return self.final + (self.rate - self.final) * 0.5 * (1.0 + np.cos(math.pi * done))


@dataclass(frozen=True)
class FlatCosine:
    """``rate`` for the first part ``flat`` of the run, then half a cosine down to ``final``: for weight decay and dropout, in RealMLP.

    final + (rate - final) * (1 + cos(pi * s)) / 2, where s goes from 0 to 1 over the rest of the run.
    """

    rate: float = 1.0
    final: float = 0.0
    flat: float = 0.5

    def __post_init__(self) -> None:
        _check_rate(self.rate)
        _check_rate(self.final)
        _check_fraction(type(self).__name__, "flat", self.flat)

    def __call__(self, epoch: Floats, epochs: float) -> Floats:
        """The rate at each step."""
        done = np.clip((epoch / epochs - self.flat) / (1.0 - self.flat), 0.0, 1.0)
        return self.final + (self.rate - self.final) * 0.5 * (1.0 + np.cos(math.pi * done))


@dataclass(frozen=True)
class Step:
    """``rate * factor ** floor(epoch / every)``: times ``factor`` every so many epochs."""

    rate: float
    factor: float = 0.5
    every: float = 10.0

    def __post_init__(self) -> None:
        _check_rate(self.rate)
        _check_positive("Step", "factor", self.factor)
        _check_positive("Step", "every", self.every)

    def __call__(self, epoch: Floats, epochs: float) -> Floats:
        """The rate at each step."""
        return self.rate * self.factor ** np.floor(epoch / self.every)


@dataclass(frozen=True)
class Exponential:
    """``rate * factor ** epoch``: times ``factor`` each epoch, smoothly."""

    rate: float
    factor: float = 0.95

    def __post_init__(self) -> None:
        _check_rate(self.rate)
        _check_positive("Exponential", "factor", self.factor)

    def __call__(self, epoch: Floats, epochs: float) -> Floats:
        """The rate at each step."""
        return self.rate * self.factor**epoch


@dataclass(frozen=True)
class WarmUp:
    """From near 0 linearly up to another schedule over the first ``warm_up`` epochs; that schedule then starts at its beginning."""

    schedule: Schedule
    warm_up: float = 1.0

    def __post_init__(self) -> None:
        if not _is_schedule(self.schedule):
            raise InputError(f"WarmUp: schedule must be a schedule such as fcnet.Constant(0.1), got {self.schedule!r}.")
        _check_positive("WarmUp", "warm_up", self.warm_up)

    def __call__(self, epoch: Floats, epochs: float) -> Floats:
        """The rate at each step."""
        after = self.schedule(np.maximum(epoch - self.warm_up, 0.0), max(epochs - self.warm_up, 1e-9))
        return after * np.minimum(epoch / self.warm_up, 1.0)


def _check_rate(rate: object) -> None:
    if not isinstance(rate, Real) or not 0.0 <= float(rate) < math.inf:
        raise InputError(f"A learning rate must be a finite number, 0 or above, got {rate!r}.")


def _check_positive(owner: str, name: str, number: object) -> None:
    if not isinstance(number, Real) or not 0 < float(number) < math.inf:
        raise InputError(f"{owner}: {name} must be a finite number above 0, got {number!r}.")


def _is_schedule(value: object) -> bool:
    return callable(value) and not isinstance(value, type)


def as_schedule(learning_rate: float | Schedule) -> Schedule:
    """A schedule as it is; a number as a constant one."""
    return learning_rate if _is_schedule(learning_rate) else Constant(learning_rate)  # type: ignore[return-value, arg-type]


# --- Update rules: what an engine compiles ----------------------------------------------------------------------------


@dataclass(frozen=True)
class UpdateRule:
    """The arithmetic of one optimizer.

    Attributes:
        name: as the command line knows it.
        slots: names of the arrays it keeps beside each parameter; they begin at zero.
        coefficients: names of the numbers it is given at each step.
        update: (parameter, gradient, slots, coefficients) -> (new parameter, new slots).
    """

    name: str
    slots: tuple[str, ...]
    coefficients: tuple[str, ...]
    update: Callable[[Array, Array, Sequence[Array], Sequence[Array]], tuple[Array, tuple[Array, ...]]]

    def scaled(self, numbers: Sequence[Array], factors: Array) -> tuple[Array, ...]:
        """The coefficients for one parameter, by its factors of the learning rate and of the weight decay."""
        by_name = {"rate": factors[0], "decay": factors[1]}
        return tuple(
            number * by_name[name] if name in by_name else number
            for name, number in zip(self.coefficients, numbers, strict=True)
        )


def _sgd(w: Array, g: Array, slots: Sequence[Array], c: Sequence[Array]) -> Any:
    (rate,) = c
    return w - rate * g, ()


def _momentum(w: Array, g: Array, slots: Sequence[Array], c: Sequence[Array]) -> Any:
    rate, momentum = c
    velocity = momentum * slots[0] - rate * g
    return w + velocity, (velocity,)


def _nesterov(w: Array, g: Array, slots: Sequence[Array], c: Sequence[Array]) -> Any:
    rate, momentum = c
    velocity = momentum * slots[0] - rate * g
    return w + momentum * velocity - rate * g, (velocity,)


def _adam(w: Array, g: Array, slots: Sequence[Array], c: Sequence[Array]) -> Any:
    rate, beta_1, gain_1, beta_2, gain_2, epsilon, first_correction, second_correction, decay = c
    first = beta_1 * slots[0] + gain_1 * g
    second = beta_2 * slots[1] + gain_2 * g * g
    root = (second * second_correction).__array_namespace__().sqrt(second * second_correction)
    return w - (rate * (first * first_correction) / (root + epsilon) + decay * w), (first, second)


SGD_RULE = UpdateRule("sgd", (), ("rate",), _sgd)
MOMENTUM_RULE = UpdateRule("momentum", ("velocity",), ("rate", "momentum"), _momentum)
NESTEROV_RULE = UpdateRule("nesterov", ("velocity",), ("rate", "momentum"), _nesterov)
ADAM_RULE = UpdateRule(
    "adam",
    ("first_moment", "second_moment"),
    (
        "rate",
        "beta_1",
        "gain_1",
        "beta_2",
        "gain_2",
        "epsilon",
        "first_correction",
        "second_correction",
        "decay",
    ),
    _adam,
)


# --- Optimizers: what a person writes ---------------------------------------------------------------------------------


class Optimizer(Protocol):
    """An update rule with its settings."""

    @property
    def learning_rate(self) -> float | Schedule:
        """A constant rate or a schedule."""

    @property
    def rule(self) -> UpdateRule:
        """What an engine compiles."""

    def coefficients(self, step: NDArray[np.int64], rate: Floats) -> Floats:
        """The rule's numbers, ``(n_steps, n_coefficients)``.

        Args:
            step: 0 for the first step of training.
            rate: the scheduled learning rate of each step.
        """


@dataclass(frozen=True)
class SGD:
    """Gradient descent: w <- w - rate * g."""

    learning_rate: float | Schedule = 0.1
    rule = SGD_RULE

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)

    def coefficients(self, step: NDArray[np.int64], rate: Floats) -> Floats:
        """The learning rate."""
        return rate[:, None]


@dataclass(frozen=True)
class Momentum:
    """Gradient descent with momentum: v <- momentum * v - rate * g, w <- w + v (Nielsen, chapter 3)."""

    learning_rate: float | Schedule = 0.01
    momentum: float = 0.9
    rule = MOMENTUM_RULE

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        _check_fraction(type(self).__name__, "momentum", self.momentum)

    def coefficients(self, step: NDArray[np.int64], rate: Floats) -> Floats:
        """Learning rate and momentum."""
        return np.column_stack([rate, np.full_like(rate, self.momentum)])


@dataclass(frozen=True)
class Nesterov(Momentum):
    """Nesterov's momentum: v <- momentum * v - rate * g, w <- w + momentum * v - rate * g.

    The form of Sutskever et al. (2013) in terms of the parameters after the look-ahead, as in scikit-learn and Lasagne.
    """

    rule = NESTEROV_RULE


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay, on weights and not on biases (Loshchilov and Hutter, 2019).

    m <- beta_1 m + (1 - beta_1) g          v <- beta_2 v + (1 - beta_2) g^2
    w <- w - rate * (m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon) + weight_decay * w),  t = 1, 2, ...
    """

    learning_rate: float | Schedule = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    rule = ADAM_RULE

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        for name in ("beta_1", "beta_2"):
            _check_fraction(type(self).__name__, name, getattr(self, name))
        _check_positive(type(self).__name__, "epsilon", self.epsilon)
        if self.epsilon < (least := np.finfo(np.float32).tiny):
            raise InputError(
                f"{type(self).__name__}: epsilon must be {least:.2g} or above, since smaller numbers are 0 in float32, got "
                f"{self.epsilon!r}."
            )
        if not isinstance(self.weight_decay, Real) or not 0 <= float(self.weight_decay) < math.inf:
            raise InputError(
                f"{type(self).__name__}: weight_decay must be a finite number, 0 or above, got {self.weight_decay!r}."
            )

    def coefficients(self, step: NDArray[np.int64], rate: Floats) -> Floats:
        """Rate, betas and 1 - beta (exact here, not in float32), epsilon, 1 / (1 - beta^t), rate * weight_decay."""
        t = step + 1.0
        numbers = np.empty((len(step), len(self.rule.coefficients)))
        numbers[:, 0] = rate
        numbers[:, 1:6] = self.beta_1, 1.0 - self.beta_1, self.beta_2, 1.0 - self.beta_2, self.epsilon
        numbers[:, 6] = 1.0 / (1.0 - self.beta_1**t)
        numbers[:, 7] = 1.0 / (1.0 - self.beta_2**t)
        numbers[:, 8] = rate * self.weight_decay
        return numbers


@dataclass(frozen=True)
class Adam(AdamW):
    """Adam (Kingma and Ba, 2015, algorithm 1): ``AdamW`` without weight decay."""

    weight_decay: float = 0.0


# --- Factors: parameters that learn faster or slower than others, decay and dropout that change over time ----------------


@dataclass(frozen=True)
class Factors:
    """What learning rates, weight decay and dropout are multiplied by: for some of the parameters, and over time.

    Names are those of all arrays of a kind, such as "biases", or of one array, such as "layers.0.biases", which counts before its
    kind. None of these numbers is compiled.

    Args:
        rates: of the learning rate, by name; 1 where none is given.
        decays: of AdamW's weight decay, by name: a parameter shrinks by learning rate * weight decay * this factor, and its factor
            of the rate does not enter. Where none is given it is 1 for weights, 0 for others.
        decay: a schedule for the weight decay and the L2 penalty, such as ``FlatCosine()``.
        dropout: a schedule for the layers' dropout probabilities, from 0 to 1; under inverted dropout only.

    Raises:
        InputError: a factor that is not a finite number from 0 on, or a schedule that is none.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    decays: Mapping[str, float] = field(default_factory=dict)
    decay: Schedule | None = None
    dropout: Schedule | None = None

    def __post_init__(self) -> None:
        for what in ("rates", "decays"):
            if not isinstance(factors := getattr(self, what), Mapping):
                raise InputError(f"Factors: {what} must be a dictionary of numbers by name, got {factors!r:.50}.")
            for name, factor in factors.items():
                if not isinstance(factor, Real) or not 0.0 <= factor < math.inf:  # type: ignore[operator]
                    raise InputError(
                        f"Factors: that of {name} in {what} must be a finite number, 0 or above, got {factor!r:.50}."
                    )
        for what in ("decay", "dropout"):
            if (schedule := getattr(self, what)) is not None and not callable(schedule):
                raise InputError(
                    f"Factors: {what} must be a schedule such as fcnet.FlatCosine(), got {schedule!r:.50}."
                )

    def of(self, model: Model) -> Floats:
        """Each parameter's factors of learning rate and weight decay, ``(n_parameters, 2)``, in the order of ``model.shapes()``.

        Raises:
            InputError: a name that no parameter has.
        """
        names = [name for name, _ in model.shapes()]
        known = {*names, *map(_kind, names)}
        for name in (*self.rates, *self.decays):
            if name not in known:
                raise unknown_name("parameter in factors", name, sorted(known))
        rates = [_factor(name, self.rates, 1.0) for name in names]
        decays = [_factor(name, self.decays, 1.0 if is_weights(name) else 0.0) for name in names]
        return np.column_stack([rates, decays])


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _factor(name: str, factors: Mapping[str, float], otherwise: float) -> float:
    return float(factors.get(name, factors.get(_kind(name), otherwise)))


def _check_fraction(owner: str, name: str, number: object) -> None:
    if not isinstance(number, Real) or not 0.0 <= float(number) < 1.0:
        raise InputError(f"{owner}: {name} must lie in [0, 1), got {number!r}.")


OPTIMIZERS: dict[str, type[SGD | Momentum | Nesterov | Adam | AdamW]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adam": Adam,
    "adamw": AdamW,
}
"""The optimizers by name: for the command line."""

SCHEDULES: dict[str, Callable[[float], Schedule]] = {
    "constant": Constant,
    "cosine": Cosine,
    "flat-cosine": FlatCosine,
    "step": Step,
    "exponential": Exponential,
    "warmup": lambda rate: WarmUp(Constant(rate)),
    "warmup-cosine": lambda rate: WarmUp(Cosine(rate)),
}
"""The schedules by name: for the command line."""
