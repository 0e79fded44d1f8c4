"""The article's network in float64 NumPy: the judge of every engine.

Read it from top to bottom like the book (Nielsen, "Neural Networks and Deep Learning", chapters 1 to 3 and 6): activation
functions, the forward path with and without dropout, cost functions, backpropagation by hand, update rules. Every formula
is written here a second time. What it shares with fcnet is the cipher behind the dropout masks, which published vectors
check, and the names and sizes in fcnet's records (layers, optimizers), which it only reads.

A table's first layer (after Holzmüller et al., "Better by Default", 2024) has its own forward and backward path.

Layers count from 0; x is ``(n_rows, n_in)``, w ``(n_in, n_out)``, b ``(n_out,)``.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, ndtr

from fcnet.counters import threefry2x32

# --- Activation functions a = f(z) and their derivatives f'(z) ---------------------------------------------------------


def softplus(z):
    return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))


def exponential_part(z):
    """e^z where z is negative, 1 elsewhere: without overflow."""
    return np.exp(np.where(z < 0, z, 0.0))


def mish_derivative(z):
    return np.tanh(softplus(z)) + z * expit(z) / np.cosh(softplus(z)) ** 2


LAMBDA, ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717

ACTIVATIONS = {
    "sigmoid": (expit, lambda z: expit(z) * expit(-z)),
    "tanh": (np.tanh, lambda z: np.cosh(z) ** -2.0),
    "relu": (lambda z: z * (z > 0), lambda z: 1.0 * (z > 0)),
    "leaky_relu": (lambda z: z * np.where(z > 0, 1.0, 0.01), lambda z: np.where(z > 0, 1.0, 0.01)),
    "elu": (lambda z: np.where(z > 0, z, exponential_part(z) - 1.0), exponential_part),
    "selu": (
        lambda z: np.where(z > 0, LAMBDA * z, LAMBDA * ALPHA * (exponential_part(z) - 1.0)),
        lambda z: np.where(z > 0, LAMBDA, LAMBDA * ALPHA * exponential_part(z)),
    ),
    "gelu": (
        lambda z: z * ndtr(z),
        lambda z: ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi),
    ),
    "silu": (lambda z: z * expit(z), lambda z: expit(z) + z * expit(z) * expit(-z)),
    "mish": (lambda z: z * np.tanh(softplus(z)), mish_derivative),
    "softplus": (softplus, expit),
    "exponential": (np.exp, np.exp),
    "linear": (lambda z: z, lambda z: 0.0 * z + 1.0),
    "sin": (np.sin, np.cos),
}


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def activate(name, z):
    return softmax(z) if name == "softmax" else ACTIVATIONS[name][0](z)


# --- Dropout: which inputs of a layer are kept in a step ---------------------------------------------------------------


def keep_mask(key, p, n_rows, n_units):
    """1 where a unit is kept, 0 where it is dropped, ``(n_rows, n_units)``.

    Unit u of row r is dropped where its 32 bits are below p * 2**32. The bits are the first word of the cipher's answer to
    (r, u) in the first half of the units, and the second word of its answer to (r, u - half) in the second half.
    """
    half = (n_units + 1) // 2
    row, unit = np.meshgrid(np.arange(n_rows, dtype=np.uint32), np.arange(half, dtype=np.uint32), indexing="ij")
    first, second = threefry2x32((key[:1], key[1:]), (row, unit))
    bits = np.hstack([first, second])[:, :n_units]
    return 1.0 * (bits >= np.rint(p * 2.0**32))


# --- A table's rows: waves of numbers, lines of codes, scales ------------------------------------------------------------


def is_table(layer):
    return type(layer).__name__ == "TableLayer"


def own(i, parameters):
    """A layer's arrays by their own names."""
    start = f"layers.{i}."
    return {name.removeprefix(start): array for name, array in parameters.items() if name.startswith(start)}


def table_forward(layer, arrays, x):
    """One row and one column at a time: the numbers written, before the scales."""
    written = np.zeros((len(x), layer.n_out))
    width, wide, plain_at = layer.number_width, layer.category_width, layer.n_numbers * layer.number_width
    for r, row in enumerate(x):
        for c in range(layer.n_numbers):
            written[r, c * width] = row[c]
            if width > 1:
                waves = np.cos(2 * np.pi * row[c] * arrays["frequencies"][c] + arrays["phases"][c])
                written[r, c * width + 1 : (c + 1) * width] = waves @ arrays["amplitudes"][c] + arrays["offsets"][c]
        for c in range(layer.n_plain):
            written[r, plain_at + c] = row[layer.n_numbers + c]
        for c in range(len(layer.categories)):
            code = int(row[layer.n_numbers + layer.n_plain + c])
            if code >= 0:
                at = plain_at + layer.n_plain + c * wide
                written[r, at : at + wide] = arrays["embeddings"][sum(layer.categories[:c]) + code]
    return written


def table_gradient(layer, arrays, x, delta):
    """The gradient of each array; delta is d cost / d outputs."""
    gradient = {name: np.zeros_like(array) for name, array in arrays.items()}
    written = table_forward(layer, arrays, x)
    if layer.scaled:
        gradient["scales"] = (delta * written).sum(axis=0)
        delta = delta * arrays["scales"]
    width, wide = layer.number_width, layer.category_width
    codes_at = layer.n_numbers * width + layer.n_plain
    for r, row in enumerate(x):
        for c in range(layer.n_numbers if width > 1 else 0):
            d = delta[r, c * width + 1 : (c + 1) * width]
            angle = 2 * np.pi * row[c] * arrays["frequencies"][c] + arrays["phases"][c]
            back = -np.sin(angle) * (arrays["amplitudes"][c] @ d)
            gradient["amplitudes"][c] += np.outer(np.cos(angle), d)
            gradient["offsets"][c] += d
            gradient["phases"][c] += back
            gradient["frequencies"][c] += back * 2 * np.pi * row[c]
        for c in range(len(layer.categories)):
            code = int(row[layer.n_numbers + layer.n_plain + c])
            if code >= 0:
                at = codes_at + c * wide
                gradient["embeddings"][sum(layer.categories[:c]) + code] += delta[r, at : at + wide]
    return gradient


def blend(layer, arrays, z):
    """What a layer writes: f(z), or z + a (f(z) - z) where it is parametric."""
    a = activate(layer.activation_fn.name, z)
    return z + arrays["blends"] * (a - z) if "blends" in arrays else a


def blend_derivative(layer, arrays, z):
    derivative = ACTIVATIONS[layer.activation_fn.name][1](z)
    return 1 + arrays["blends"] * (derivative - 1) if "blends" in arrays else derivative


# --- The forward path --------------------------------------------------------------------------------------------------


def forward(layers, parameters, x, scaling, dropout=None, keys=None):
    """What each layer reads, its weighted inputs and the factors on what the layer before wrote.

    With ``dropout`` (a probability a layer) and ``keys`` (a key a layer) it is the path of a training step:

        "inference" scaling, the article     z = (x * mask) . w + b
        "training" scaling, the field        z = (x * mask / (1 - p)) . w + b

    and without them the path without dropout: z = (1 - p) x . w + b, or z = x . w + b.

    Returns:
        inputs, zs, factors, each a list with one entry a layer; and the network's outputs.
    """
    inputs, zs, factors = [], [], []
    a = np.asarray(x, np.float64)
    for i, layer in enumerate(layers):
        factor = np.ones_like(a)
        if dropout is not None and layer.p_dropout > 0:
            factor = keep_mask(keys[i], dropout[i], *a.shape)
            if scaling == "training":
                factor = factor / (1.0 - dropout[i])
        elif dropout is None and scaling == "inference":
            factor = factor * (1.0 - layer.p_dropout)
        a = a * factor
        if is_table(layer):
            arrays = own(i, parameters)
            inputs.append(a)
            zs.append(None)
            factors.append(factor)
            a = table_forward(layer, arrays, a) * arrays.get("scales", 1.0)
            continue
        z = a @ parameters[f"layers.{i}.weights"] + parameters[f"layers.{i}.biases"]
        inputs.append(a)
        zs.append(z)
        factors.append(factor)
        a = blend(layer, own(i, parameters), z)
    return inputs, zs, factors, a


# --- Costs: a number a row, and what it says about the last layer's weighted inputs ------------------------------------


def targets_of(y, n_out):
    """Labels ``(n_rows,)`` as one-hot rows; values as they are."""
    y = np.asarray(y)
    return np.eye(n_out)[y] if y.ndim == 1 else y.astype(np.float64)


def row_costs(cost, z, a, t):
    """The cost of each row, ``(n_rows,)``; ``cost`` is a name, or a name and its constants."""
    name, *constants = (cost,) if isinstance(cost, str) else cost
    if name == "label_smoothing":
        name, t = "log_likelihood", (1.0 - constants[0]) * t + constants[0] / t.shape[1]
    if name == "binary_label_smoothing":
        name, t = "cross_entropy", (1.0 - constants[0]) * t + constants[0] / 2.0
    if name in ("log_likelihood", "focal"):  # - sum_j t_j log a_j, for focal times (1 - a_j)^gamma
        log_a = z - z.max(axis=1, keepdims=True)
        log_a = log_a - np.log(np.exp(log_a).sum(axis=1, keepdims=True))
        return -(t * log_a * ((1.0 - a) ** constants[0] if constants and name == "focal" else 1.0)).sum(axis=1)
    if name == "cross_entropy":  # - sum_j [t_j log a_j + (1 - t_j) log(1 - a_j)], log a = -softplus(-z)
        return (t * softplus(-z) + (1.0 - t) * softplus(z)).sum(axis=1)
    if name == "binary_focal":  # the same, with (1 - a_j)^gamma and a_j^gamma
        (gamma,) = constants
        return (t * (1.0 - a) ** gamma * softplus(-z) + (1.0 - t) * a**gamma * softplus(z)).sum(axis=1)
    if name == "poisson":  # a_j - t_j log a_j + t_j log t_j - t_j
        return (a - t * z + np.where(t > 0, t * np.log(np.where(t > 0, t, 1.0)), 0.0) - t).sum(axis=1)
    return ERRORS[name][0](a - t, *constants).sum(axis=1)


def output_error(cost, activation, z, a, t):
    """delta = d cost / d z of the last layer, a row at a time."""
    name, *constants = (cost,) if isinstance(cost, str) else cost
    if name == "label_smoothing":
        name, t = "log_likelihood", (1.0 - constants[0]) * t + constants[0] / t.shape[1]
    if name == "binary_label_smoothing":
        name, t = "cross_entropy", (1.0 - constants[0]) * t + constants[0] / 2.0
    if name == "log_likelihood":  # softmax outputs
        return t.sum(axis=1, keepdims=True) * a - t
    if name in ("cross_entropy", "poisson"):  # sigmoid outputs; exponential outputs
        return a - t
    if name == "binary_focal":  # by a, with log a = -softplus(-z) and d a / d z = a (1 - a)
        (gamma,) = constants
        ones = t * (1.0 - a) ** gamma * (-gamma * a * softplus(-z) - (1.0 - a))
        zeros = (1.0 - t) * a**gamma * (gamma * (1.0 - a) * softplus(z) + a)
        return ones + zeros
    if name == "focal":  # d cost / d a_j = t_j [gamma (1 - a_j)^(gamma - 1) log a_j - (1 - a_j)^gamma / a_j]
        (gamma,) = constants
        slope = t * (gamma * (1.0 - a) ** (gamma - 1.0) * np.log(a) - (1.0 - a) ** gamma / a)
    else:
        slope = ERRORS[name][1](a - t, *constants)  # d cost / d a
    if activation == "softmax":  # d a_j / d z_k = a_j ([j = k] - a_k)
        return a * (slope - (slope * a).sum(axis=1, keepdims=True))
    return slope * ACTIVATIONS[activation][1](z)


ERRORS = {
    "quadratic": (lambda e: e**2 / 2, lambda e: e),
    "absolute": (np.abs, np.sign),
    "huber": (
        lambda e, delta: np.where(np.abs(e) <= delta, e**2 / 2, delta * (np.abs(e) - delta / 2)),
        lambda e, delta: np.where(np.abs(e) <= delta, e, delta * np.sign(e)),
    ),
    "log_cosh": (lambda e: np.log(np.cosh(e)), np.tanh),
    "quantile": (  # e = a - t, so too low a guess has e < 0
        lambda e, *q: np.where(e < 0, -np.array(q) * e, (1.0 - np.array(q)) * e),
        lambda e, *q: np.where(e < 0, -np.array(q), np.where(e > 0, 1.0 - np.array(q), 0.0)),
    ),
}
"""Costs that are a sum of functions of the error e = a_j - t_j: the function and its derivative, each given the constants."""


def weights_of_rows(weights, n_rows):
    return np.ones(n_rows) if weights is None else np.asarray(weights, np.float64)


# --- Backpropagation ---------------------------------------------------------------------------------------------------


def cost_and_gradient(layers, parameters, x, y, cost, scaling, weights=None, l2=0.0, dropout=None, keys=None):
    """Mean cost of the rows by weight, 0.5 * l2 * sum(w^2), and the gradient of their sum."""
    inputs, zs, factors, a = forward(layers, parameters, x, scaling, dropout, keys)
    t = targets_of(y, a.shape[1])
    w = weights_of_rows(weights, len(a))
    share = w / w.sum()
    mean_cost = (share * row_costs(cost, zs[-1], a, t)).sum()
    penalty = sum(0.5 * l2 * (array**2).sum() for name, array in parameters.items() if name.endswith(".weights"))

    gradient = {}
    delta = share[:, None] * output_error(cost, layers[-1].activation_fn.name, zs[-1], a, t)
    for i in reversed(range(len(layers))):
        w_i = parameters[f"layers.{i}.weights"]
        gradient[f"layers.{i}.weights"] = inputs[i].T @ delta + l2 * w_i
        gradient[f"layers.{i}.biases"] = delta.sum(axis=0)
        if i > 0:
            delta = (delta @ w_i.T) * factors[i]  # d cost / d outputs of the layer before
            before, arrays = layers[i - 1], own(i - 1, parameters)
            if is_table(before):
                for name, array in table_gradient(before, arrays, inputs[i - 1], delta).items():
                    gradient[f"layers.{i - 1}.{name}"] = array
                break
            if "blends" in arrays:
                z = zs[i - 1]
                gradient[f"layers.{i - 1}.blends"] = (delta * (activate(before.activation_fn.name, z) - z)).sum(axis=0)
            delta = delta * blend_derivative(before, arrays, zs[i - 1])
    return mean_cost, penalty, gradient


# --- Update rules ------------------------------------------------------------------------------------------------------

SLOTS = {
    "SGD": (),
    "Momentum": ("velocity",),
    "Nesterov": ("velocity",),
    "Adam": ("first_moment", "second_moment"),
    "AdamW": ("first_moment", "second_moment"),
}


def update(optimizer, rate, t, name, w, g, slots, factors=None):
    """One parameter's new value; ``slots`` are changed in place. ``t`` is 1 in the first step of training.

    ``factors`` are the parameter's own: of its learning rate, and of the weight decay, which else is for weights alone.
    """
    decay_rate = rate * (1.0 * name.endswith(".weights") if factors is None else factors[1])
    rate = rate * (1.0 if factors is None else factors[0])
    rule = type(optimizer).__name__
    if rule == "SGD":
        return w - rate * g
    if rule in ("Momentum", "Nesterov"):
        mu = optimizer.momentum
        v = slots["velocity"][name] = mu * slots["velocity"][name] - rate * g
        return w + v if rule == "Momentum" else w + (mu * v - rate * g)
    m = optimizer.beta_1 * slots["first_moment"][name] + (1 - optimizer.beta_1) * g
    v = optimizer.beta_2 * slots["second_moment"][name] + (1 - optimizer.beta_2) * g**2
    slots["first_moment"][name], slots["second_moment"][name] = m, v
    m_hat = m / (1 - optimizer.beta_1**t)
    v_hat = v / (1 - optimizer.beta_2**t)
    step = rate * m_hat / (np.sqrt(v_hat) + optimizer.epsilon)
    if rule == "AdamW":  # the decay is decoupled from the gradient
        step = step + decay_rate * optimizer.weight_decay * w
    return w - step


# --- Training ----------------------------------------------------------------------------------------------------------


def train(
    layers,
    parameters,
    X,
    y,
    *,
    rows,
    rates,
    l2,
    dropout,
    keys,
    cost,
    optimizer,
    scaling="inference",
    weights=None,
    slots=None,
    first_step=0,
    factors=None,
):
    """Mini-batch descent, one step for each row of the tables.

    Args:
        layers: fcnet's layer records.
        parameters: named arrays to start from; not changed.
        X, y: all rows and their labels or values.
        rows: ``(n_steps, batch)``, which rows each step reads; -1 pads a short batch.
        rates, l2: ``(n_steps,)``.
        dropout, keys: ``(n_steps, n_layers)`` and ``(n_steps, n_layers, 2)``.
        cost: a cost's name.
        optimizer: fcnet's optimizer record.
        weights: how much each row of X counts; None where all count 1.
        slots: what the optimizer keeps beside the parameters; None for zeros.
        first_step: how many steps of training came before.
        factors: for each parameter's name, the factors of its learning rate and of its weight decay; None for none.

    Returns:
        parameters, slots, and the mean cost of each step's batch on the dropout path, without the penalty.
    """
    parameters = {name: np.array(array, np.float64) for name, array in parameters.items()}
    slots = slots or {
        slot: {name: np.zeros_like(array) for name, array in parameters.items()}
        for slot in SLOTS[type(optimizer).__name__]
    }
    X = np.asarray(X, np.float64)
    row_weights = weights_of_rows(weights, len(X))
    costs = []
    for step, padded in enumerate(rows):
        batch = padded[padded >= 0]
        mean_cost, _, gradient = cost_and_gradient(
            layers, parameters, X[batch], y[batch], cost, scaling,
            row_weights[batch], l2[step], dropout[step], keys[step],
        )  # fmt: skip
        costs.append(mean_cost)
        for name in parameters:
            parameters[name] = update(
                optimizer, rates[step], first_step + step + 1, name, parameters[name], gradient[name], slots,
                None if factors is None else factors[name],
            )  # fmt: skip
    return parameters, slots, np.array(costs)


# --- What is reported --------------------------------------------------------------------------------------------------


def outputs(layers, parameters, X, scaling):
    """The network's outputs without dropout."""
    return forward(layers, parameters, X, scaling)[-1]


def evaluate(layers, parameters, X, y, cost, scaling, weights=None):
    """Mean cost of a row without dropout, and the fraction of rows that are right; None where y holds values to be met."""
    _, zs, _, a = forward(layers, parameters, X, scaling)
    t = targets_of(y, a.shape[1])
    w = weights_of_rows(weights, len(a))
    mean_cost = np.average(row_costs(cost, zs[-1], a, t), weights=w)
    if np.ndim(y) == 1 or layers[-1].activation_fn.name == "softmax":
        right = a.argmax(axis=1) == t.argmax(axis=1)
    elif cost == "cross_entropy" and a.shape[1] == 1:
        right = (a[:, 0] > 0.5) == (t[:, 0] > 0.5)
    else:
        return mean_cost, None
    return mean_cost, np.average(right, weights=w)
