"""What a person may write as an estimator's parameters, and what it becomes.

Strings live here, at the edge: everything further in gets activations, costs, optimizers and numbers.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet import optimizers
from fcnet.activations import ELEMENTWISE, Activation, as_activation, linear, sigmoid
from fcnet.costs import Cost
from fcnet.engines.contract import PRECISIONS
from fcnet.errors import InputError, did_you_mean
from fcnet.optimizers import AdamW, Momentum, Nesterov, Optimizer

ACTIVATIONS = ELEMENTWISE | {"identity": linear, "logistic": sigmoid}
"""Hidden layers' activations by name: scikit-learn's own two names, and fcnet's."""
SOLVERS = ("lbfgs", "sgd", "adam", "adamw")
RATES = ("constant", "invscaling", "adaptive", *(name for name in optimizers.SCHEDULES if name != "constant"))


# --- What each parameter may be ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """What a parameter may be, in words, and whether a value is that; ``names`` are the strings it may be."""

    words: str
    holds: Callable[[Any], bool]
    names: tuple[str, ...] = ()


def _real(low: float, high: float, brackets: str = "[)") -> Rule:
    def holds(value: Any) -> bool:
        if isinstance(value, bool | np.bool_) or not isinstance(value, Real) or math.isnan(value):
            return False
        number = float(value)
        above = number >= low if brackets[0] == "[" else number > low
        return above and (number <= high if brackets[1] == "]" else number < high)

    return Rule(f"a float in the range {brackets[0]}{low:g}, {high:g}{brackets[1]}", holds)


def _count() -> Rule:
    return Rule("an int in the range [1, inf)", lambda value: _is_integer(value) and value >= 1)


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool | np.bool_)


def _one_of(*names: str) -> Rule:
    return Rule(
        f"a str among {{{', '.join(map(repr, names))}}}", lambda value: isinstance(value, str) and value in names, names
    )


def _object(words: str, *types: type) -> Rule:
    return Rule(words, lambda value: isinstance(value, types))


_BOOLEAN = _object("a bool", bool, np.bool_)
_NONE = Rule("None", lambda value: value is None)
_CALLABLE = Rule("a callable", callable)
_SEQUENCE = Rule(
    "a sequence", lambda value: isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)
)
_SCHEDULE = Rule("a schedule such as fcnet.Cosine(0.01)", lambda value: callable(value) and not isinstance(value, type))
_OPTIMIZER = Rule(
    "an optimizer such as fcnet.AdamW(0.001)", lambda value: hasattr(value, "rule") and not isinstance(value, type)
)
_RANDOM = Rule(
    "an int, a numpy.random.RandomState or None",
    lambda value: (
        value is None or (_is_integer(value) and 0 <= value < 2**32) or isinstance(value, np.random.RandomState)
    ),
)

RULES: dict[str, tuple[Rule, ...]] = {
    "hidden_layer_sizes": (_count(), _SEQUENCE),
    "activation": (_one_of(*ACTIVATIONS), _object("an Activation", Activation), _CALLABLE, _SEQUENCE),
    "solver": (_one_of(*SOLVERS), _OPTIMIZER),
    "alpha": (_real(0, math.inf),),
    "batch_size": (_one_of("auto"), _count()),
    "learning_rate": (_one_of(*RATES), _SCHEDULE),
    "learning_rate_init": (_real(0, math.inf, "()"),),
    "power_t": (_real(0, math.inf),),
    "max_iter": (_count(),),
    "shuffle": (_BOOLEAN,),
    "random_state": (_RANDOM,),
    "tol": (_real(0, math.inf),),
    "verbose": (
        Rule("an int in the range [0, inf)", lambda value: isinstance(value, Integral) and int(value) >= 0),
        _BOOLEAN,
    ),
    "warm_start": (_BOOLEAN,),
    "momentum": (_real(0, 1, "[]"),),
    "nesterovs_momentum": (_BOOLEAN,),
    "early_stopping": (_BOOLEAN,),
    "validation_fraction": (_real(0, 1),),
    "beta_1": (_real(0, 1),),
    "beta_2": (_real(0, 1),),
    "epsilon": (_real(0, math.inf, "()"),),
    "n_iter_no_change": (_count(), Rule("inf", lambda value: isinstance(value, Real) and value == math.inf)),
    "max_fun": (_count(),),
    "dropout": (_real(0, 1), _SEQUENCE),
    "weight_decay": (_real(0, math.inf),),
    "scoring": (_NONE, Rule("a str", lambda value: isinstance(value, str)), _CALLABLE),
    "max_time": (_NONE, _real(0, math.inf, "()")),
    "keep_optimizer": (_BOOLEAN,),
    "callbacks": (_SEQUENCE,),
    "engine": (_one_of("auto", "native", "cuda", "xla"),),
    "device": (Rule("'auto', 'cpu', 'gpu' or 'gpu:1'", lambda value: isinstance(value, str)),),
    "n_threads": (_NONE, _count()),
    "precision": (_one_of(*PRECISIONS),),
    "class_weight": (_NONE, _one_of("balanced"), _object("a dict", dict), _SEQUENCE),
    "label_smoothing": (_real(0, 1),),
    "quantiles": (_SEQUENCE,),
}
"""Every parameter but ``loss``, which each estimator has its own of."""

_LOSS_OBJECTS = (_object("a Cost such as fcnet.huber(1.0)", Cost), Rule("a callable (z, a, targets)", callable))


def check_parameters(estimator: Any, losses: tuple[str, ...]) -> None:
    """Refuse a parameter that is not what it may be, in scikit-learn's words.

    Raises:
        InputError: with the parameter, what was expected, what came, and the closest name for a misspelt one.
    """
    for name, value in estimator.get_params(deep=False).items():
        rules = (_one_of(*losses), *_LOSS_OBJECTS) if name == "loss" else RULES[name]
        if any(rule.holds(value) for rule in rules):
            continue
        words = [rule.words for rule in rules]
        expected = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
        known = [known for rule in rules for known in rule.names]
        suggestion = did_you_mean(value, known) if isinstance(value, str) else ""
        raise InputError(
            f"The {name!r} parameter of {type(estimator).__name__} must be {expected}. Got {value!r} instead.{suggestion}"
        )


def refuses_unknown_parameters(init: Callable[..., None]) -> Callable[..., None]:
    """An ``__init__`` that answers a misspelt keyword with the closest known one."""
    names = [name for name in inspect.signature(init).parameters if name != "self"]

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **parameters: Any) -> None:
        for name in parameters:
            if name not in names:
                raise TypeError(unknown_parameter(type(self).__name__, name, names))
        init(self, *args, **parameters)

    return checked


def unknown_parameter(owner: str, name: str, names: Sequence[str]) -> str:
    """The message for a parameter that is not among the names."""
    return f"{owner} has no parameter {name!r}.{did_you_mean(name, names)} Valid parameters are: {', '.join(sorted(names))}."


# --- What they become -------------------------------------------------------------------------------------------------


def hidden_sizes(hidden_layer_sizes: Any) -> list[int]:
    """The number of units of each hidden layer."""
    sizes = list(hidden_layer_sizes) if hasattr(hidden_layer_sizes, "__iter__") else [hidden_layer_sizes]
    if any(not _is_integer(size) or size <= 0 for size in sizes):
        raise InputError(
            f"hidden_layer_sizes must be > 0, got {sizes}. Expected the number of units of each hidden layer."
        )
    return [int(size) for size in sizes]


def hidden_activations(activation: Any, n_hidden: int) -> list[Activation]:
    """One for every hidden layer, from one for all or a sequence."""
    if _SEQUENCE.holds(activation):
        given = list(activation)
        if len(given) != n_hidden:
            raise InputError(f"activation must be one, or one for each of {n_hidden} hidden layers; got {len(given)}.")
    else:
        given = [activation] * n_hidden
    found = []
    for one in given:
        if isinstance(one, str) and one not in ACTIVATIONS:
            raise InputError(
                f"Unknown activation {one!r}.{did_you_mean(one, ACTIVATIONS)} Expected one of: {', '.join(ACTIVATIONS)}."
            )
        found.append(ACTIVATIONS[one] if isinstance(one, str) else as_activation(one))
    return found


def layer_dropout(dropout: Any, n_hidden: int) -> list[float]:
    """The probability that an input of each layer, hidden and last, is dropped.

    One number is that of every hidden layer's outputs. A sequence has one for each hidden layer's outputs, and may have one
    more in front: that of the features.
    """
    if isinstance(dropout, Real):
        return [0.0, *[float(dropout)] * n_hidden]
    given = list(dropout)
    if len(given) not in (n_hidden, n_hidden + 1) or not all(_real(0, 1).holds(p) for p in given):
        raise InputError(
            f"dropout must be one number in [0, 1), or one for each of {n_hidden} hidden layers, with one more in front for "
            f"the features; got {given}."
        )
    return [0.0] * (n_hidden + 1 - len(given)) + [float(p) for p in given]


class CurrentRate:
    """A learning rate that changes between epochs only: by the judge, or by the number of rows seen."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, epoch: NDArray[np.float64], epochs: float) -> NDArray[np.float64]:
        """The present rate, for every step."""
        return np.full(len(epoch), self.rate)


@dataclass(frozen=True)
class ScikitLearnAdam(AdamW):
    """Adam as scikit-learn has it: epsilon is added before the second moment's bias is corrected.

    w <- w - rate * sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon): Kingma and Ba, 2015, end of section 2.
    """

    weight_decay: float = 0.0

    def coefficients(self, step: NDArray[np.int64], rate: NDArray[np.float64]) -> NDArray[np.float64]:
        """As Adam's, with epsilon / sqrt(1 - beta_2^t) for epsilon."""
        numbers = super().coefficients(step, rate)
        numbers[:, self.rule.coefficients.index("epsilon")] /= np.sqrt(1.0 - self.beta_2 ** (step + 1.0))
        return numbers


class _MomentumOfOne:
    """scikit-learn lets the momentum be 1, with which a velocity never fades."""

    def __post_init__(self) -> None:
        """Nothing is left to check: the parameters were."""


class ScikitLearnMomentum(_MomentumOfOne, Momentum):
    """Momentum in [0, 1]."""


class ScikitLearnNesterov(_MomentumOfOne, Nesterov):
    """Nesterov's momentum in [0, 1]."""


def optimizer_of(estimator: Any, rate: CurrentRate) -> Optimizer:
    """The optimizer that the parameters describe; its rate is ``rate``, unless a schedule or an optimizer brings its own."""
    if not isinstance(estimator.solver, str):
        return estimator.solver
    schedule: Any = rate
    if not isinstance(estimator.learning_rate, str):
        schedule = estimator.learning_rate
    elif estimator.learning_rate not in ("constant", "invscaling", "adaptive"):
        schedule = optimizers.SCHEDULES[estimator.learning_rate](estimator.learning_rate_init)
    if estimator.solver == "sgd":
        kind = ScikitLearnNesterov if estimator.nesterovs_momentum else ScikitLearnMomentum
        return kind(schedule, estimator.momentum)
    adam = ScikitLearnAdam(schedule, estimator.beta_1, estimator.beta_2, estimator.epsilon)
    if estimator.solver == "adamw":
        values = (schedule, estimator.beta_1, estimator.beta_2, estimator.epsilon)
        return AdamW(*values, weight_decay=estimator.weight_decay)
    return adam
