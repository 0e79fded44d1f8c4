"""What kernels there are code for: activations, costs, update rules, and of each kernel for steps the parts it is made of."""

from __future__ import annotations

from typing import NamedTuple

from fcnet import activations, costs, optimizers
from fcnet.engines.contract import Dtype, Program

ACTIVATIONS = (
    activations.sigmoid,
    activations.tanh,
    activations.relu,
    activations.leaky_relu,
    activations.elu,
    activations.silu,
    activations.gelu,
    activations.linear,
)
"""Of hidden layers, and of a last layer with the quadratic cost."""
COSTS = (costs.log_likelihood, costs.cross_entropy, costs.quadratic)
RULES = (optimizers.SGD_RULE, optimizers.MOMENTUM_RULE, optimizers.NESTEROV_RULE, optimizers.ADAM_RULE)


class Kind(NamedTuple):
    """What the code of a kernel for steps depends on, whose blocks have units; all else it is given.

    Attributes:
        dtype: the type of its numbers.
        rule, cost, hidden, last: names, of ``RULES``, ``COSTS`` and ``ACTIVATIONS``, or softmax.
        drops_inputs, drops_hidden: whether inputs, or hidden outputs, are dropped.
        labels: whether a row's target is its label, and not ``n_out`` values.
        group: rows that a thread multiplies with a weight that it has read.
    """

    dtype: Dtype
    rule: str
    cost: str
    hidden: str
    last: str
    drops_inputs: bool
    drops_hidden: bool
    labels: bool
    group: int


class RowsKind(NamedTuple):
    """The same of a kernel whose blocks have rows; activations of hidden layers are arguments.

    Attributes:
        drops: whether any layer drops inputs.
    """

    dtype: Dtype
    rule: str
    cost: str
    last: str
    drops: bool
    labels: bool


def rows_kind_of(program: Program, labels: bool) -> RowsKind:
    """The kernel that a program of any depth needs."""
    last = program.model.layers[-1].activation_fn.name
    drops = any(layer.p_dropout for layer in program.model.layers)
    return RowsKind(program.dtype, program.rule.name, program.cost.name, last, drops, labels)


def kind_of(program: Program, labels: bool, group: int) -> Kind:
    """The kernel that a program with one hidden layer needs."""
    hidden, last = program.model.layers
    names = program.rule.name, program.cost.name, hidden.activation_fn.name, last.activation_fn.name
    return Kind(program.dtype, *names, bool(hidden.p_dropout), bool(last.p_dropout), labels, group)
