"""Activation functions: one record each.

An ``Activation`` is a name, a function a = f(z) and its derivative f'(z). The functions are written once for any
array library that has the array API namespace (NumPy, JAX), so the same ``fcnet.relu`` is called on an array by a
reader of the book and traced by an engine. ``softmax`` works along the last axis; the others work element by element.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fcnet.errors import InputError, unknown_name

Array = Any
"""A NumPy or JAX array."""


@dataclass(frozen=True)
class Activation:
    """An activation function.

    Attributes:
        name: as the command line and saved files know it.
        function: weighted inputs z of any shape -> outputs of that shape.
        derivative: z -> f'(z), element by element; None where the function is not elementwise.
    """

    name: str
    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InputError(f"Activation: name must be a text, got {self.name!r}.")
        if not callable(self.function) or not (self.derivative is None or callable(self.derivative)):
            raise InputError(
                f"Activation {self.name!r}: function must be callable, and derivative too where there is one."
            )

    def __call__(self, z: Array) -> Array:
        """The outputs f(z)."""
        return self.function(z)

    def __repr__(self) -> str:
        return f"fcnet.{self.name}"


SELU_SCALE = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772
LEAK = 0.01


def _np(z: Array) -> Any:
    """The array namespace z belongs to: numpy or jax.numpy."""
    return z.__array_namespace__()


def _sigmoid(z: Array) -> Array:
    return 0.5 * (_np(z).tanh(0.5 * z) + 1.0)


def _softplus(z: Array) -> Array:
    xp = _np(z)
    positive = z > 0
    return xp.where(positive, z, 0.0) + xp.log1p(xp.exp(xp.where(positive, -z, z)))


def _normal_cdf(z: Array) -> Array:
    if _np(z).__name__ == "numpy":
        from scipy.special import erf
    else:
        from jax.lax import erf
    return 0.5 * (1.0 + erf(z * math.sqrt(0.5)))


def _normal_pdf(z: Array) -> Array:
    return _np(z).exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


def _elu(z: Array) -> Array:
    xp = _np(z)
    return xp.where(z > 0, z, xp.expm1(xp.minimum(z, 0.0)))


def _elu_derivative(z: Array) -> Array:
    xp = _np(z)
    return xp.where(z > 0, 1.0, xp.exp(xp.minimum(z, 0.0)))


def _selu(z: Array) -> Array:
    xp = _np(z)
    return SELU_SCALE * xp.where(z > 0, z, SELU_ALPHA * xp.expm1(xp.minimum(z, 0.0)))


def _selu_derivative(z: Array) -> Array:
    xp = _np(z)
    return SELU_SCALE * xp.where(z > 0, 1.0, SELU_ALPHA * xp.exp(xp.minimum(z, 0.0)))


def _mish_derivative(z: Array) -> Array:
    t = _np(z).tanh(_softplus(z))
    return t + z * (1.0 - t * t) * _sigmoid(z)


def _softmax(z: Array) -> Array:
    xp = _np(z)
    e = xp.exp(z - xp.max(z, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


def _tanh(z: Array) -> Array:
    return _np(z).tanh(z)


sigmoid = Activation("sigmoid", _sigmoid, lambda z: _sigmoid(z) * (1.0 - _sigmoid(z)))
tanh = Activation("tanh", _tanh, lambda z: 1.0 - _tanh(z) ** 2)
relu = Activation("relu", lambda z: _np(z).maximum(z, 0.0), lambda z: _np(z).where(z > 0, _np(z).ones_like(z), 0.0))
leaky_relu = Activation(
    "leaky_relu",
    lambda z: _np(z).where(z > 0, z, LEAK * z),
    lambda z: _np(z).where(z > 0, _np(z).ones_like(z), LEAK),
)
elu = Activation("elu", _elu, _elu_derivative)
selu = Activation("selu", _selu, _selu_derivative)
gelu = Activation("gelu", lambda z: z * _normal_cdf(z), lambda z: _normal_cdf(z) + z * _normal_pdf(z))
silu = Activation("silu", lambda z: z * _sigmoid(z), lambda z: _sigmoid(z) * (1.0 + z * (1.0 - _sigmoid(z))))
mish = Activation("mish", lambda z: z * _np(z).tanh(_softplus(z)), _mish_derivative)
softplus = Activation("softplus", _softplus, _sigmoid)
linear = Activation("linear", lambda z: z, lambda z: _np(z).ones_like(z))
exponential = Activation("exponential", lambda z: _np(z).exp(z), lambda z: _np(z).exp(z))
softmax = Activation("softmax", _softmax)

ELEMENTWISE = {
    activation.name: activation
    for activation in (sigmoid, tanh, relu, leaky_relu, elu, selu, gelu, silu, mish, softplus, linear)
}
"""The activations of hidden layers by name: for the command line."""
NAMED = {**ELEMENTWISE, exponential.name: exponential}
"""All elementwise activations by name, for files: hidden exponential units would leave the range of any float."""


def activation_named(name: str) -> Activation:
    """The elementwise activation of that name; an unknown one is refused with the closest."""
    if name not in NAMED:
        raise unknown_name("activation", name, NAMED)
    return NAMED[name]


def as_activation(function: Activation | Callable[[Array], Array]) -> Activation:
    """An ``Activation`` as it is; any other callable becomes one, under its own name.

    A callable must map an array to an array of the same shape with ``jax.numpy`` operations; the general engine
    differentiates it.
    """
    if isinstance(function, Activation):
        return function
    if isinstance(function, str):
        raise InputError(
            f"activation_fn must be a function such as fcnet.relu, got the string {function!r}. "
            f"Write fcnet.{function}, or fcnet.activations.activation_named({function!r})."
        )
    if not callable(function):
        raise InputError(f"activation_fn must be a function of an array such as fcnet.relu, got {function!r}.")
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return Activation(name, function)
