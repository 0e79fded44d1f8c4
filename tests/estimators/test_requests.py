"""What scikit-learn's users asked for: a test each, under the number of scikit-learn's issue."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_digits, load_iris, make_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss

import fcnet
from fcnet import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

IRIS = load_iris(return_X_y=True)
X_DIGITS, Y_DIGITS = load_digits(return_X_y=True)
X_DIGITS = X_DIGITS / 16.0


def halves(X, y):
    return X[::2], y[::2], X[1::2], y[1::2]


X_TRAIN, Y_TRAIN, X_OWN, Y_OWN = halves(X_DIGITS, Y_DIGITS)


# --- Dropout (6175, 7407) -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.3, (0.3,), (0.1, 0.3)])
def test_dropout(dropout):
    plain = MLPClassifier(random_state=0, max_iter=30).fit(X_TRAIN, Y_TRAIN)
    dropped = MLPClassifier(random_state=0, max_iter=30, dropout=dropout).fit(X_TRAIN, Y_TRAIN)
    assert dropped.loss_ > 1.2 * plain.loss_  # the cost of the path with dropout
    assert dropped.score(X_OWN, Y_OWN) > 0.9
    again = MLPClassifier(random_state=0, max_iter=30, dropout=dropout).fit(X_TRAIN, Y_TRAIN)
    np.testing.assert_array_equal(again.coefs_[0], dropped.coefs_[0])


def test_dropout_is_of_hidden_outputs_or_of_each_layer():
    model = MLPClassifier((8, 6), dropout=0.2, max_iter=1).fit(*IRIS)._model()
    assert [layer.p_dropout for layer in model.layers] == [0.0, 0.2, 0.2]
    model = MLPClassifier((8, 6), dropout=(0.1, 0.2, 0.3), max_iter=1).fit(*IRIS)._model()
    assert [layer.p_dropout for layer in model.layers] == [0.1, 0.2, 0.3]


def test_dropout_refused():
    with pytest.raises(
        fcnet.InputError, match=r"dropout must be one number .* each of 1 hidden layers, .*; got \[0.1, 0.2, 0.3\]"
    ):
        MLPClassifier(dropout=(0.1, 0.2, 0.3)).fit(*IRIS)
    with pytest.raises(fcnet.InputError, match=r"solver='lbfgs' cannot be used with dropout"):
        MLPClassifier(dropout=0.1, solver="lbfgs").fit(*IRIS)


# --- Class weights (9113) -----------------------------------------------------------------------------------------------


def rare():
    return make_classification(400, weights=[0.95], flip_y=0.1, random_state=0)


def test_class_weight():
    X, y = rare()
    plain = MLPClassifier(random_state=0, max_iter=40).fit(X, y)
    balanced = MLPClassifier(random_state=0, max_iter=40, class_weight="balanced").fit(X, y)
    assert balanced.predict(X).mean() > 1.5 * plain.predict(X).mean()
    by_hand = {0: 400 / (2 * np.sum(y == 0)), 1: 400 / (2 * np.sum(y == 1))}
    same = MLPClassifier(random_state=0, max_iter=40, class_weight=by_hand).fit(X, y)
    np.testing.assert_allclose(same.coefs_[0], balanced.coefs_[0])


def test_class_weight_multiplies_sample_weight():
    X, y = rare()
    sample_weight = np.linspace(0.5, 1.5, len(y))
    both = MLPClassifier(random_state=0, max_iter=5, class_weight={1: 7.0}).fit(X, y, sample_weight)
    product = MLPClassifier(random_state=0, max_iter=5).fit(X, y, sample_weight * np.where(y == 1, 7.0, 1.0))
    np.testing.assert_allclose(both.coefs_[0], product.coefs_[0])


def test_class_weight_in_partial_fit():
    X, y = rare()
    weighted = MLPClassifier(random_state=0, class_weight={1: 7.0})
    product = MLPClassifier(random_state=0)
    for part in (slice(0, 200), slice(200, 400)):
        weighted.partial_fit(X[part], y[part], classes=[0, 1])
        product.partial_fit(X[part], y[part], np.where(y[part] == 1, 7.0, 1.0), classes=[0, 1])
    np.testing.assert_allclose(weighted.coefs_[0], product.coefs_[0])


def test_balanced_counts_all_parts_seen():
    X, y = rare()
    order = np.argsort(y, kind="stable")
    estimator = MLPClassifier(random_state=0, class_weight="balanced")
    estimator.partial_fit(X[order[:200]], y[order[:200]], classes=[0, 1])
    estimator.partial_fit(X[order[200:]], y[order[200:]])
    np.testing.assert_array_equal(estimator._class_weights.seen, np.bincount(y))


def test_class_weight_of_an_unknown_class():
    with pytest.raises(fcnet.InputError, match=r"class_weight names \['c'\], but the classes are \[0, 1, 2\]"):
        MLPClassifier(class_weight={"c": 2.0}).fit(*IRIS)


# --- Devices and engines ------------------------------------------------------------------------------------------------


def test_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr("fcnet.engines.choose.usable_gpus", list)
    with pytest.raises(fcnet.DeviceError, match=r"device='gpu' was asked for, but there is no GPU"):
        MLPClassifier(device="gpu").fit(*IRIS)


def test_engines_agree():
    native = MLPClassifier(random_state=0, max_iter=10, engine="native").fit(*IRIS)
    xla = MLPClassifier(random_state=0, max_iter=10, engine="xla").fit(*IRIS)
    np.testing.assert_allclose(native.coefs_[0], xla.coefs_[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(native.loss_curve_, xla.loss_curve_, rtol=1e-9)


# --- Validation data, curve and score (18748, 18507, 24411) -------------------------------------------------------------


def test_own_validation_set():
    estimator = MLPClassifier(random_state=0, max_iter=25, early_stopping=True, n_iter_no_change=25)
    estimator.fit(X_TRAIN, Y_TRAIN, eval_set=(X_OWN, Y_OWN))
    assert len(estimator.validation_scores_) == len(estimator.validation_loss_curve_) == estimator.n_iter_
    assert estimator.score(X_OWN, Y_OWN) == estimator.best_validation_score_ == max(estimator.validation_scores_)


def test_validation_cost_curve():
    estimator = MLPClassifier(random_state=0, max_iter=25).fit(X_TRAIN, Y_TRAIN, eval_set=(X_OWN, Y_OWN))
    assert estimator.validation_scores_ is None  # it decides nothing without early_stopping
    assert estimator.validation_loss_curve_[-1] == pytest.approx(log_loss(Y_OWN, estimator.predict_proba(X_OWN)))
    inner = MLPClassifier(random_state=0, max_iter=5, early_stopping=True).fit(*IRIS)
    assert len(inner.validation_loss_curve_) == 5


def test_stopping_on_the_validation_cost():
    estimator = MLPRegressor(random_state=0, early_stopping=True, scoring="loss", learning_rate_init=0.03, max_iter=500)
    X, y = make_regression(120, 20, noise=30, random_state=0)
    y = y / y.std()
    estimator.fit(X[:60], y[:60], eval_set=(X[60:], y[60:]))
    assert estimator.n_iter_ < 500
    assert estimator.best_validation_score_ == -min(estimator.validation_loss_curve_)
    cost = 0.5 * np.mean((estimator.predict(X[60:]) - y[60:]) ** 2)
    assert cost == pytest.approx(min(estimator.validation_loss_curve_))


@pytest.mark.parametrize("scoring", ["neg_log_loss", lambda estimator, X, y: -log_loss(y, estimator.predict_proba(X))])
def test_stopping_on_any_scorer_with_the_best_weights_restored(scoring):
    estimator = MLPClassifier(random_state=0, early_stopping=True, scoring=scoring, max_iter=20)
    estimator.fit(X_TRAIN, Y_TRAIN, eval_set=(X_OWN, Y_OWN))
    assert -estimator.best_validation_score_ == pytest.approx(min(estimator.validation_loss_curve_))
    assert -estimator.best_validation_score_ == pytest.approx(log_loss(Y_OWN, estimator.predict_proba(X_OWN)))


def test_a_scorer_on_the_inner_split_of_a_data_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(IRIS[0], columns=["a", "b", "c", "d"])
    estimator = MLPClassifier(early_stopping=True, scoring="f1_macro", max_iter=3).fit(frame, IRIS[1])
    assert len(estimator.validation_scores_) == 3
    estimator.fit(frame, IRIS[1], eval_set=(frame, IRIS[1]))


def test_eval_set_with_weights_and_names():
    names = np.array(["a", "b", "c"])[IRIS[1]]
    weights = np.where(names == "a", 1.0, 0.0)
    estimator = MLPClassifier(random_state=0, early_stopping=True, max_iter=30, learning_rate_init=0.01)
    estimator.fit(IRIS[0], names, eval_set=(IRIS[0], names, weights))
    assert estimator.best_validation_score_ == 1.0


@pytest.mark.parametrize(
    ("eval_set", "message"),
    [
        (IRIS[0], r"eval_set must be \(X, y\) or \(X, y, sample_weight\), got ndarray of 150"),
        ((IRIS[0], np.full(150, 7)), r"`y` has classes not in `self\.classes_`"),
        ((IRIS[0][:, :2], IRIS[1]), r"X has 2 features, but MLPClassifier is expecting 4 features"),
    ],
)
def test_eval_set_refused(eval_set, message):
    with pytest.raises(ValueError, match=message):
        MLPClassifier().fit(*IRIS, eval_set=eval_set)


# --- partial_fit (25693, 12505) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_early_stopping_in_partial_fit(kind):
    estimator = kind(random_state=0, early_stopping=True, n_iter_no_change=3, learning_rate_init=0.01)
    classes = {"classes": [0, 1, 2]} if kind is MLPClassifier else {}
    epochs = 0
    while not getattr(estimator, "stopped_", False):
        estimator.partial_fit(*IRIS, **classes, eval_set=IRIS)
        epochs += 1
        assert epochs < 1000
    assert estimator.score(*IRIS) == pytest.approx(max(estimator.validation_scores_))
    weights = estimator.coefs_[0].copy()
    estimator.partial_fit(*IRIS, eval_set=IRIS)
    np.testing.assert_array_equal(estimator.coefs_[0], weights)


def test_partial_fit_refuses_early_stopping_without_eval_set():
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True without eval_set"):
        MLPClassifier(early_stopping=True).partial_fit(*IRIS, classes=[0, 1, 2])


@pytest.mark.parametrize("as_given", [np.asarray, sparse.csr_matrix])
def test_partial_fit_of_several_labels_a_row(as_given):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 5))
    Y = (X[:, :3] > 0).astype(int)
    estimator = MLPClassifier(random_state=0, learning_rate_init=0.02)
    for _ in range(60):
        estimator.partial_fit(X, as_given(Y))
    assert estimator.score(X, Y) > 0.85
    one = MLPClassifier().partial_fit(X, as_given(np.eye(3, dtype=int)[rng.integers(3, size=300)]))
    assert one._classes.kind == "multilabel"  # also where each row happens to have one label


def test_partial_fit_starts_from_coefs_that_were_set():
    estimator = MLPClassifier(random_state=0, hidden_layer_sizes=4).fit(*IRIS)
    estimator.coefs_ = [np.zeros_like(weights) for weights in estimator.coefs_]
    estimator.intercepts_ = [np.zeros_like(biases) for biases in estimator.intercepts_]
    np.testing.assert_allclose(estimator.predict_proba(IRIS[0]), 1 / 3)
    estimator.partial_fit(*IRIS)
    assert np.abs(estimator.coefs_[0]).max() < 0.1
    estimator.coefs_[0] = np.zeros((4, 5))
    with pytest.raises(fcnet.InputError, match=r"coefs_ have the layers|Layer 1 .* reads 4 numbers"):
        estimator.predict(IRIS[0])


@pytest.mark.parametrize("engine", ["native", "xla"])
def test_partial_fit_after_a_change_of_solver_type_or_shape(engine):
    """Moments that no longer fit are dropped, and the optimizer's steps are counted anew."""
    estimator = MLPRegressor(random_state=0, hidden_layer_sizes=4, engine=engine).partial_fit(*IRIS)
    estimator.partial_fit(IRIS[0].astype(np.float32), IRIS[1])
    assert estimator._optimizer.step == 2
    assert estimator.coefs_[0].dtype == np.float32
    estimator.set_params(solver="sgd").partial_fit(*IRIS)
    assert estimator._optimizer.step == 1
    estimator.set_params(hidden_layer_sizes=2)
    estimator.coefs_ = [estimator.coefs_[0][:, :2], estimator.coefs_[1][:2]]
    estimator.intercepts_ = [estimator.intercepts_[0][:2], estimator.intercepts_[1]]
    estimator.partial_fit(*IRIS)
    assert estimator._optimizer.step == 1
    estimator.predict(IRIS[0])


# --- Warm start and time (6091) -----------------------------------------------------------------------------------------


def test_warm_start_keeps_the_optimizer():
    whole = MLPRegressor(random_state=np.random.RandomState(0), max_iter=20, n_iter_no_change=99, shuffle=False)
    X, y = make_regression(100, 5, random_state=0)
    whole.fit(X, y)
    halved = MLPRegressor(
        random_state=np.random.RandomState(0), max_iter=10, n_iter_no_change=99, shuffle=False, warm_start=True,
        keep_optimizer=True,
    )  # fmt: skip
    halved.fit(X, y).fit(X, y)
    np.testing.assert_array_equal(whole.coefs_[0], halved.coefs_[0])
    assert whole.loss_curve_ == pytest.approx(halved.loss_curve_)
    anew = MLPRegressor(random_state=np.random.RandomState(0), max_iter=10, shuffle=False, warm_start=True).fit(X, y)
    anew.fit(X, y)
    assert np.abs(whole.coefs_[0] - anew.coefs_[0]).max() > 1e-6


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_time_budget(solver):
    began = time.perf_counter()
    estimator = MLPClassifier(
        (200, 200), solver=solver, max_time=0.3, max_iter=100_000, max_fun=10**6, tol=0, n_iter_no_change=10**6
    ).fit(X_DIGITS, Y_DIGITS % 7 + 3 * (X_DIGITS[:, 20] > 0.5))
    assert time.perf_counter() - began < 5
    assert 0 < estimator.n_iter_ < 100_000


# --- Memory of predict (12675) ------------------------------------------------------------------------------------------

MEMORY = """
import resource, sys
import numpy as np
import fcnet
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
X = np.zeros((400_000, 4), np.float32)
estimator = fcnet.MLPRegressor(hidden_layer_sizes=2000, max_iter=1).fit(X[:20], np.zeros(20))
estimator.predict(X[:1000])
before = peak()
estimator.predict(X)
print((peak() - before) / 1024)
"""


def test_predict_in_bounded_memory():
    """Hidden outputs of all rows would be 3 GB."""
    answer = subprocess.run([sys.executable, "-W", "ignore", "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(answer.stdout) < 100


# --- Costs (14571) and intervals (8303) ---------------------------------------------------------------------------------


def outliers():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 1))
    y = X[:, 0].copy()
    y[:20] += 100.0
    return X, y


@pytest.mark.parametrize("loss", ["huber", "absolute_error", "log_cosh", fcnet.huber(0.5), fcnet.absolute])
def test_costs_that_outliers_do_not_pull(loss):
    X, y = outliers()
    settings = {"activation": "identity", "max_iter": 400, "learning_rate_init": 0.02, "random_state": 0}
    robust = MLPRegressor(loss, 4, **settings).fit(X, y)
    squared = MLPRegressor("squared_error", 4, **settings).fit(X, y)
    error = {name: np.abs(model.predict(X)[20:] - y[20:]).mean() for name, model in (("r", robust), ("s", squared))}
    assert error["r"] < 0.4 < 3 < error["s"]


def test_poisson():
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(300, 2))
    y = rng.poisson(np.exp(1 + X[:, 0]))
    estimator = MLPRegressor("poisson", 8, max_iter=300, learning_rate_init=0.01, random_state=0).fit(X, y)
    assert estimator.out_activation_ == "exp"
    assert (estimator.predict(X) > 0).all()
    np.testing.assert_allclose(estimator.predict(X), np.exp(1 + X[:, 0]), rtol=0.3)
    with pytest.raises(fcnet.InputError, match="poisson needs targets of 0 or above"):
        estimator.fit(X, -y - 1)


@pytest.mark.parametrize("loss", ["focal", "squared_error", fcnet.focal(1.0)])
@pytest.mark.parametrize("binary", [True, False])
def test_classification_costs(loss, binary):
    X, y = IRIS[0], (IRIS[1] == 0) if binary else IRIS[1]
    estimator = MLPClassifier(loss=loss, max_iter=150, learning_rate_init=0.01, random_state=0).fit(X, y)
    assert estimator.score(X, y) > 0.9


@pytest.mark.parametrize("binary", [True, False])
def test_label_smoothing(binary):
    X, y = IRIS[0], (IRIS[1] == 0) if binary else IRIS[1]
    settings = {"max_iter": 500, "learning_rate_init": 0.02, "random_state": 0}
    smooth = MLPClassifier(label_smoothing=0.2, **settings).fit(X, y)
    plain = MLPClassifier(**settings).fit(X, y)
    assert smooth.score(X, y) > 0.95
    assert smooth.predict_proba(X).max(axis=1).mean() < 0.95 < plain.predict_proba(X).max(axis=1).mean()


def test_a_callable_cost():
    def fourth_power(z, a, targets):
        return jnp.sum((a - targets) ** 4, axis=-1)

    X, y = outliers()
    y = np.clip(y, -3, 3)
    estimator = MLPRegressor(fourth_power, 4, max_iter=200, learning_rate_init=0.02, random_state=0).fit(X, y)
    assert estimator._cost().name == "fourth_power"
    assert estimator.loss_ < estimator.loss_curve_[0] / 2


def test_intervals_from_quantiles():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(1500, 1))
    y = X[:, 0] + rng.normal(scale=0.2 + 0.3 * (X[:, 0] > 0))
    estimator = MLPRegressor(
        "quantile", 20, quantiles=(0.05, 0.5, 0.95), max_iter=150, learning_rate_init=0.01, random_state=0
    ).fit(X, y)
    low, high = estimator.predict_interval(X).T
    assert np.mean((low <= y) & (y <= high)) == pytest.approx(0.9, abs=0.04)
    width = high - low
    assert width[X[:, 0] > 0.2].mean() > 1.5 * width[X[:, 0] < -0.2].mean()
    quantiles = estimator.predict_quantiles(X)
    assert quantiles.shape == (1500, 3)
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert estimator.predict(X).shape == (1500,)
    assert estimator.score(X, y) > 0.4
    with pytest.raises(fcnet.InputError, match="predict_quantiles needs loss='quantile'"):
        MLPRegressor().predict_quantiles(X)


# --- Activations (10097, 30199) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["gelu", fcnet.silu, ("tanh", "relu"), (fcnet.mish, "logistic")])
def test_activations_by_layer(activation):
    estimator = MLPClassifier((16, 8), activation, max_iter=150, learning_rate_init=0.01, random_state=0).fit(*IRIS)
    assert estimator.score(*IRIS) > 0.9
    assert len({layer.activation_fn for layer in estimator._model().layers[:-1]}) == (
        2 if isinstance(activation, tuple) else 1
    )


def squared_relu(z):
    return jnp.maximum(z, 0.0) ** 2


def test_a_callable_activation():
    estimator = MLPClassifier(8, squared_relu, max_iter=100, learning_rate_init=0.01, random_state=0).fit(*IRIS)
    assert estimator.score(*IRIS) > 0.9
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict(IRIS[0]), estimator.predict(IRIS[0]))


def test_activations_refused():
    with pytest.raises(fcnet.InputError, match=r"must be one, or one for each of 2 hidden layers; got 3"):
        MLPClassifier((4, 4), ("relu",) * 3).fit(*IRIS)
    with pytest.raises(fcnet.InputError, match=r"Unknown activation 'rellu'\. Did you mean 'relu'\?"):
        MLPClassifier((4, 4), ("rellu", "tanh")).fit(*IRIS)


# --- Callbacks and progress ---------------------------------------------------------------------------------------------


def test_callbacks():
    seen = []

    def stop_at_five(record):
        seen.append(record.training_cost)
        return len(seen) == 5

    estimator = MLPClassifier(callbacks=[stop_at_five], alpha=0).fit(*IRIS)
    assert estimator.n_iter_ == 5
    assert seen == estimator.loss_curve_
    assert estimator.history_.ending == "callback"


def test_verbose(capsys):
    MLPClassifier(max_iter=2).fit(*IRIS)
    assert capsys.readouterr() == ("", "")
    MLPClassifier(max_iter=2, verbose=2).fit(*IRIS)
    out, err = capsys.readouterr()
    assert out.count("Iteration") == 2
    assert err == ""
    MLPClassifier(max_iter=2, verbose=1).fit(*IRIS)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 2/2" in err


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_keeps_the_network():
    assert threading.current_thread() is threading.main_thread()

    def interrupt(record):
        if record.epoch == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(UserWarning, match="Training interrupted by user"):
        estimator = MLPClassifier(callbacks=[interrupt], random_state=0).fit(*IRIS)
    assert 4 <= estimator.n_iter_ <= 5
    estimator.predict(IRIS[0])


# --- Optimizers and schedules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "adamw", "weight_decay": 0.1},
        {"solver": fcnet.AdamW(fcnet.Cosine(0.02))},
        {"solver": "sgd", "nesterovs_momentum": True, "learning_rate": "cosine", "learning_rate_init": 0.1},
        {"learning_rate": fcnet.WarmUp(fcnet.Exponential(0.02), 5)},
        {"learning_rate": "step", "learning_rate_init": 0.02},
    ],
)
def test_optimizers_and_schedules(settings):
    estimator = MLPClassifier(random_state=0, max_iter=80, **settings).fit(*IRIS)
    assert estimator.score(*IRIS) > 0.9
    rates = {record.learning_rate for record in estimator.history_.epochs}
    assert (len(rates) > 1) == (settings.get("solver") != "adamw")


def test_weight_decay_shrinks_weights():
    sizes = [
        np.abs(
            MLPClassifier(random_state=0, solver="adamw", weight_decay=decay, max_iter=50).fit(*IRIS).coefs_[0]
        ).sum()
        for decay in (0.0, 5.0)
    ]
    assert sizes[1] < 0.9 * sizes[0]


# --- Diverging ----------------------------------------------------------------------------------------------------------


def test_max_iter_warns():
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        MLPClassifier(max_iter=2).fit(*IRIS)


def test_non_finite_weights_are_an_error():
    X, y = make_regression(50, 5, random_state=0)
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        MLPRegressor(solver="sgd", learning_rate_init=1e6, activation="identity").fit(X * 1e3, y)


# --- The page that lists all this ---------------------------------------------------------------------------------------


def documented_calls():
    page = Path(__file__).parents[2] / "docs" / "estimators.md"
    rows = [line.rsplit("|", 2)[1] for line in page.read_text().splitlines() if line.startswith("| ")][2:]
    return [call for row in rows for call in re.findall(r"`([^`]+)`", row) if "(" in call]


@pytest.mark.parametrize("call", documented_calls())
def test_the_page_s_lines_run(call):
    """As they stand, but for the device, which may not be there, and two epochs."""
    X, y = IRIS[0], IRIS[1] == 0
    model = MLPClassifier(max_iter=2, early_stopping="partial_fit" in call).fit(X, y)
    if "from_sklearn" in call:
        model = model.to_sklearn()
    names = {
        "MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor, "fcnet": fcnet, "jnp": jnp, "model": model,
        "X": X, "y": y, "Y": np.column_stack([y, ~y, y]).astype(int), "X_val": X, "y_val": y, "sample_weight": np.ones(150),
    }  # fmt: skip
    if call.startswith("while"):
        model.set_params(n_iter_no_change=1)
        exec(call, names)
        return
    answer = eval(call.replace('device="gpu"', 'device="auto"'), names)
    if hasattr(answer, "set_params"):
        answer.set_params(max_iter=2).fit(X, y)
