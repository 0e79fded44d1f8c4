"""jax by hand: an epoch, its order included, is one compiled ``lax.scan``; the last short batch is left out."""

import functools
import itertools

import epochs
import jax
import jax.numpy as jnp

settings, sizes = epochs.SETTINGS, epochs.SIZES
P_DROPOUT, RATE, BATCH = settings["p_dropout"], settings["learning_rate"], settings["batch"]
activation = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}[settings["activation"]]


def initial(key):
    initializer = (
        jax.nn.initializers.he_normal() if settings["activation"] == "relu" else jax.nn.initializers.glorot_uniform()
    )
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (initializer(k, shape), jnp.zeros(shape[1])) for k, shape in zip(keys, itertools.pairwise(sizes), strict=True)
    ]


def logits(parameters, X, key=None):
    *hidden, (w_last, b_last) = parameters
    for index, (w, b) in enumerate(hidden):
        X = activation(X @ w + b)
        if key is not None and P_DROPOUT:
            keep = jax.random.bernoulli(jax.random.fold_in(key, index), 1.0 - P_DROPOUT, X.shape)
            X = jnp.where(keep, X / (1.0 - P_DROPOUT), 0.0)
    return X @ w_last + b_last


def mean_cost(parameters, X, y, key):
    log_p = jax.nn.log_softmax(logits(parameters, X, key))
    return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()


def update(w, g, m, v, t):
    if settings["optimizer"] == "sgd":
        return w - RATE * g, m, v
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    return w - RATE * (m / (1.0 - 0.9**t)) / (jnp.sqrt(v / (1.0 - 0.999**t)) + 1e-8), m, v


@functools.partial(jax.jit, donate_argnums=0)
def epoch(state, X, y, key):
    def step(state, rows):
        parameters, slots, t = state
        g = jax.grad(mean_cost)(parameters, X[rows], y[rows], jax.random.fold_in(key, t))
        new = jax.tree.map(functools.partial(update, t=(t + 1).astype(jnp.float32)), parameters, g, *slots)
        parameters, *slots = jax.tree.transpose(jax.tree.structure(parameters), jax.tree.structure((0, 0, 0)), new)
        return (parameters, slots, t + 1), None

    order = jax.random.permutation(key, len(X))[: len(X) // BATCH * BATCH].reshape(-1, BATCH)
    return jax.lax.scan(step, state, order)[0]


@jax.jit
def accuracy(parameters, X, y):
    return (logits(parameters, X).argmax(axis=1) == y).mean()


X, y = map(jnp.asarray, epochs.rows("train"))
X_test, y_test = map(jnp.asarray, epochs.rows("test"))
root = jax.random.key(settings["seed"], impl="rbg")
parameters = initial(root)
state = (parameters, [jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)], jnp.int32(0))
for number in range(settings["epochs"]):
    state = epoch(state, X, y, jax.random.fold_in(root, number))
    if epochs.report(accuracy(state[0], X_test, y_test)):
        break
