"""The one epoch loop: what it minimises, what it keeps, how it ends, and what it refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import jax
import matplotlib
import numpy as np
import polars
import pytest

import fcnet
import reference
from fcnet import loop, steps, training
from fcnet.engines import choose, gpus
from fcnet.engines.gpus import Surroundings
from fcnet.errors import DeviceError, DivergenceError, InputError
from fcnet.history import EpochRecord, Observer
from fcnet.optimizers import SGD

LAYERS = (fcnet.FullyConnectedLayer(4, 8), fcnet.SoftmaxLayer(8, 3))


def blobs(n_rows, seed, spread=1.0):
    """Three classes of points around three centres, ``(n_rows, 4)``; some lie nearer to another class's centre."""
    random = np.random.default_rng(seed)
    y = np.arange(n_rows) % 3
    centres = np.array([[1.0, 0, 0, 0.5], [0, 1.0, 0, 0.5], [0, 0, 1.0, -0.5]])
    return (centres[y] + spread * random.normal(size=(n_rows, 4))).astype(np.float32), y


TRAIN, VALIDATION, TEST = blobs(60, 1), blobs(30, 2), blobs(31, 3)


def small(seed=0, layers=LAYERS):
    return fcnet.Network(layers, mini_batch_size=10, seed=seed)


ENGINE = "native"


@pytest.fixture(params=["native", "xla"])
def each_engine(request, monkeypatch):
    """For what an engine has a part in; the loop itself is tested on one."""
    monkeypatch.setattr(sys.modules[__name__], "ENGINE", request.param)


def fit(network=None, train=TRAIN, validation=None, test=None, **options):
    network = network or small()
    options = {"epochs": 3, "verbose": False, "engine": ENGINE, "device": "cpu"} | options
    return network, training.train(network, train, validation, test, **options)


def bytes_of(network):
    return {name: array.tobytes() for name, array in network.arrays.items()}


class FromEpoch:
    """A learning rate that changes from some epoch on."""

    def __init__(self, epoch, before, after):
        self.epoch, self.before, self.after = epoch, before, after

    def __call__(self, epoch, epochs):
        return np.where(epoch < self.epoch, self.before, self.after)


# --- What a step is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.usefixtures("each_engine")
def test_steps_are_the_reference_s(drop_last):
    """25 rows in batches of 10 in the data's order: the short batch is a step on its own 5 rows, or is left out."""
    X, y = blobs(25, 4)
    network = small()
    start = network.arrays
    fit(network, (X, y), epochs=4, shuffle=False, drop_last=drop_last, l2=0.3, dtype="float64")

    rows = np.full((3, 10), -1)
    rows.flat[:25] = np.arange(25)
    rows = np.tile(rows[:2] if drop_last else rows, (4, 1))
    expected, _, _ = reference.train(
        LAYERS, start, X, y, rows=rows, rates=np.full(len(rows), 0.1), l2=np.full(len(rows), 0.3 / 2),
        dropout=np.zeros((len(rows), 2)), keys=np.zeros((len(rows), 2, 2), np.uint32),
        cost="log_likelihood", optimizer=fcnet.SGD(0.1), scaling="training",
    )  # fmt: skip
    for name, array in network.arrays.items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-12)


@pytest.mark.usefixtures("each_engine")
def test_training_cost_is_the_mean_over_the_epoch_s_rows():
    X, y = blobs(25, 4)
    network, history = fit(train=(X, y), epochs=1, optimizer=fcnet.SGD(0.0), dtype="float64")
    assert history.epochs[0].training_cost == pytest.approx(network.cost(X, y), rel=1e-12)


@pytest.mark.usefixtures("each_engine")
def test_training_cost_counts_rows_by_weight():
    X, y = blobs(25, 4)
    weights = np.arange(25.0) % 4
    repeated = np.repeat(np.arange(25), weights.astype(int))
    network, history = fit(train=(X, y, weights), epochs=1, optimizer=fcnet.SGD(0.0), dtype="float64")
    assert history.epochs[0].training_cost == pytest.approx(network.cost(X[repeated], y[repeated]), rel=1e-12)


def test_a_row_left_out_teaches_nothing():
    X, y = blobs(25, 4)
    other = X.copy()
    other[20:] += 1
    options = {"shuffle": False, "epochs": 2}
    same = [bytes_of(fit(train=(rows, y), drop_last=True, **options)[0]) for rows in (X, other)]
    different = [bytes_of(fit(train=(rows, y), drop_last=False, **options)[0]) for rows in (X, other)]
    assert same[0] == same[1]
    assert different[0] != different[1]


def test_steps_per_epoch():
    X, y = blobs(25, 4)
    assert fit(train=(X, y), epochs=1)[1].steps_per_epoch == 3
    assert fit(train=(X, y), epochs=1, drop_last=True)[1].steps_per_epoch == 2
    assert fit(train=(X, y), epochs=1, mini_batch_size=25)[1].steps_per_epoch == 1


def test_shuffle_changes_the_order():
    shuffled, plain = fit()[0], fit(shuffle=False)[0]
    assert bytes_of(shuffled) != bytes_of(plain)
    # In one batch of all rows the order plays no part.
    shuffled, plain = fit(mini_batch_size=60)[0], fit(mini_batch_size=60, shuffle=False)[0]
    np.testing.assert_allclose(shuffled.parameters[0][0], plain.parameters[0][0], atol=1e-6)


@pytest.mark.usefixtures("each_engine")
def test_weights_are_as_good_as_repeated_rows():
    X, y = TRAIN
    weights = np.arange(60) % 4
    repeated = np.repeat(np.arange(60), weights)
    options = {"dtype": "float64", "l2": 0.1, "epochs": 5, "optimizer": fcnet.SGD(0.5)}
    weighted, history = fit(train=(X, y, weights), validation=(X, y, weights), mini_batch_size=60, **options)
    data = (X[repeated], y[repeated])
    longer, longer_history = fit(train=data, validation=data, mini_batch_size=len(repeated), **options)
    for name in weighted.arrays:
        np.testing.assert_allclose(weighted.arrays[name], longer.arrays[name], rtol=0, atol=1e-10)
    for record, longer_record in zip(history.epochs, longer_history.epochs, strict=True):
        assert record.training_cost == pytest.approx(longer_record.training_cost, abs=1e-10)
        assert record.validation_cost == pytest.approx(longer_record.validation_cost, abs=1e-10)
        assert record.validation_accuracy == pytest.approx(longer_record.validation_accuracy, abs=1e-12)


# --- Reproducible -------------------------------------------------------------------------------------------------------

DROPOUT_LAYERS = (fcnet.FullyConnectedLayer(4, 8, p_dropout=0.25), fcnet.SoftmaxLayer(8, 3, p_dropout=0.5))


@pytest.mark.parametrize(
    "setting",
    [
        (loop, "CHUNK_SECONDS", 0.0),
        (loop, "FIRST_CHUNK", 1),
        (loop, "FIRST_CHUNK", 4),
        (steps, "TABLE_NUMBERS", 20),
    ],
)
@pytest.mark.usefixtures("each_engine")
def test_chunks_do_not_change_a_bit(setting, monkeypatch):
    options = {"validation": VALIDATION, "epochs": 3, "optimizer": fcnet.Adam(fcnet.Cosine(0.05)), "l2": 0.1}
    whole, history = fit(small(layers=DROPOUT_LAYERS), **options)
    monkeypatch.setattr(*setting)
    cut, cut_history = fit(small(layers=DROPOUT_LAYERS), **options)
    assert bytes_of(cut) == bytes_of(whole)
    assert cut_history.best_epoch == history.best_epoch
    for record, cut_record in zip(history.epochs, cut_history.epochs, strict=True):
        assert record.validation_cost == cut_record.validation_cost
        assert record.training_cost == cut_record.training_cost


def test_chunks_cover_every_step_once(monkeypatch):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    monkeypatch.setattr(loop, "FIRST_CHUNK", 4)
    seen = []

    class Watch(Observer):
        def chunk_starts(self, step, n_steps):
            seen.append((step, n_steps))

        def chunk_ends(self, steps_done, cost):
            assert steps_done == sum(seen[-1])
            assert cost > 0

    fit(epochs=2, callbacks=[Watch()])
    assert seen == [(0, 4), (4, 1), (5, 1), *((step, 1) for step in range(6, 12))]


@pytest.mark.usefixtures("each_engine")
def test_the_seed_decides():
    assert bytes_of(fit(seed=3)[0]) == bytes_of(fit(seed=3)[0])
    assert bytes_of(fit(seed=3)[0]) != bytes_of(fit(seed=4)[0])
    options = {"layers": DROPOUT_LAYERS}
    masks = [bytes_of(fit(small(**options), seed=seed, shuffle=False)[0]) for seed in (3, 3, 4)]
    assert masks[0] == masks[1] != masks[2]
    starts = [bytes_of(fit(small(seed=seed), seed=3)[0]) for seed in (0, 0, 1)]
    assert starts[0] == starts[1] != starts[2]


def test_training_continues_where_it_was():
    once, _ = fit(epochs=2, shuffle=False)
    twice, _ = fit(epochs=1, shuffle=False)
    fit(twice, epochs=1, shuffle=False)
    assert bytes_of(once) == bytes_of(twice)


@pytest.mark.usefixtures("each_engine")
def test_float64():
    network, _ = fit(dtype="float64")
    single, _ = fit()
    assert {array.dtype for array in network.arrays.values()} == {np.dtype("float64")}
    assert {array.dtype for array in single.arrays.values()} == {np.dtype("float32")}
    assert network.predict_proba(TRAIN[0]).dtype == np.float64
    np.testing.assert_allclose(network.arrays["layers.0.weights"], single.arrays["layers.0.weights"], atol=1e-5)
    assert not np.array_equal(network.arrays["layers.0.weights"].astype("float32"), single.arrays["layers.0.weights"])
    assert jax.numpy.ones(1).dtype == np.float32  # float64 was for that run alone


# --- The best network is kept -------------------------------------------------------------------------------------------

RESTLESS = {"optimizer": fcnet.SGD(3.0), "epochs": 12}
"""So high a rate that the validation figures go up and down."""


def test_the_best_network_is_kept():
    network, history = fit(validation=VALIDATION, test=TEST, **RESTLESS)
    accuracies = [record.validation_accuracy for record in history.epochs]
    latest_best = max(range(12), key=lambda epoch: (accuracies[epoch], epoch))
    assert accuracies[-1] < max(accuracies), "the data must be such that the last epoch is not the best"
    assert history.best_epoch == latest_best
    assert history.best is history.epochs[latest_best]
    assert history.best_validation_accuracy == max(accuracies) == network.accuracy(*VALIDATION)
    assert history.test_accuracy == history.epochs[latest_best].test_accuracy == network.accuracy(*TEST)
    assert network.cost(*VALIDATION) == pytest.approx(history.best.validation_cost, rel=1e-6)
    assert network.history is history
    assert network.trained
    stopped_there, _ = fit(**RESTLESS | {"epochs": latest_best + 1})
    assert bytes_of(network) == bytes_of(stopped_there)


@pytest.mark.parametrize("monitor", ["accuracy", "cost"])
def test_of_equals_the_latest_is_kept(monitor):
    _, history = fit(validation=VALIDATION, epochs=5, optimizer=fcnet.SGD(FromEpoch(2, 0.1, 0.0)), monitor=monitor)
    figures = [getattr(record, f"validation_{monitor}") for record in history.epochs]
    assert figures[1] == figures[2] == figures[3] == figures[4] or figures[2] == figures[3] == figures[4]
    best = max(figures) if monitor == "accuracy" else min(figures)
    assert history.best_epoch == max(epoch for epoch in range(5) if figures[epoch] == best)


def test_the_latest_of_equals_by_callback():
    """The network of one that ties, not only its number, is the later one."""
    rate = FromEpoch(3, 0.05, 1e-7)  # from epoch 3 on weights change, and no prediction does
    network, history = fit(validation=VALIDATION, epochs=6, optimizer=fcnet.SGD(rate), dtype="float64")
    accuracies = [record.validation_accuracy for record in history.epochs]
    assert accuracies[3] == accuracies[4] == accuracies[5] == max(accuracies)
    assert history.best_epoch == 5
    last, _ = fit(epochs=6, optimizer=fcnet.SGD(rate), dtype="float64")
    assert bytes_of(network) == bytes_of(last)


def test_monitor_cost():
    network, history = fit(validation=VALIDATION, monitor="cost", **RESTLESS)
    costs = [record.validation_cost for record in history.epochs]
    assert history.monitor == "cost"
    assert history.best_epoch == int(np.argmin(costs)) != 11
    assert network.cost(*VALIDATION) == pytest.approx(min(costs), rel=1e-6)


def test_without_validation_the_last_network_is_kept():
    _, history = fit(test=TEST, **RESTLESS)
    assert history.monitor is None
    assert history.best_epoch == 11
    assert history.best_steps == 72
    assert history.best_iteration == 71
    assert history.best_validation_accuracy is None
    assert history.test_accuracy == history.epochs[-1].test_accuracy


# --- History ------------------------------------------------------------------------------------------------------------


def test_history():
    _, history = fit(validation=VALIDATION, test=TEST, epochs=4, optimizer=fcnet.SGD(fcnet.Exponential(0.2, 0.5)))
    assert (history.engine, history.device, history.ending) == ("native", "cpu", "finished")
    assert history.monitor == "accuracy"
    assert history.steps_per_epoch == 6
    assert [record.epoch for record in history.epochs] == [0, 1, 2, 3]
    for epoch, record in enumerate(history.epochs):
        assert record.learning_rate == pytest.approx(0.2 * 0.5 ** (epoch + 5 / 6))  # of the epoch's last step
        assert 0 <= record.validation_accuracy <= 1
        assert 0 <= record.test_accuracy <= 1
        assert record.validation_cost > 0
        assert 0 < record.seconds < 10
    assert history.seconds == sum(record.seconds for record in history.epochs)
    assert history.best_steps == 6 * (history.best_epoch + 1)
    assert history.best_iteration == history.best_steps - 1
    with pytest.raises(AttributeError):
        history.epochs[0].epoch = 3


def test_to_frame():
    _, history = fit(validation=VALIDATION)
    frame = history.to_frame()
    assert frame.columns == list(EpochRecord.__dataclass_fields__)
    assert frame.shape == (3, 7)
    assert frame["epoch"].dtype == polars.Int64
    assert frame["test_accuracy"].null_count() == 3
    assert frame["validation_accuracy"].to_list() == [record.validation_accuracy for record in history.epochs]
    assert frame.equals(polars.read_csv(history.to_csv().encode(), schema=frame.schema))
    assert fcnet.History("native", "cpu", None, 1).to_frame().shape == (0, 7)
    assert fcnet.History("native", "cpu", None, 1).to_csv().count("\n") == 1


@pytest.mark.parametrize("validation", [None, VALIDATION])
@pytest.mark.parametrize("epochs", [1, 3])
def test_plot(tmp_path, validation, epochs):
    _, history = fit(validation=validation, epochs=epochs)
    figure = history.plot(tmp_path / "curves.png")
    assert isinstance(figure, matplotlib.figure.Figure)
    assert len(figure.axes) == (2 if validation else 1)
    assert [axis.get_ylabel() for axis in figure.axes] == ["mean cost", "accuracy"][: len(figure.axes)]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    (line,) = (line for line in figure.axes[0].lines if line.get_label() == "training")
    np.testing.assert_allclose(line.get_ydata(), [record.training_cost for record in history.epochs])
    assert isinstance(history.plot(), matplotlib.figure.Figure)


def test_plot_of_regression_has_costs_only():
    X = np.linspace(-1, 1, 20)[:, None]
    network = fcnet.Network([fcnet.FullyConnectedLayer(1, 1, fcnet.linear)], 10)
    _, history = fit(network, (X, X), (X, X))
    assert [axis.get_ylabel() for axis in history.plot().axes] == ["mean cost"]


# --- How training ends --------------------------------------------------------------------------------------------------


def test_a_callback_sees_every_record_and_may_stop():
    seen = []

    def stop_in_epoch_2(record):
        seen.append(record)
        return record.epoch == 2

    _, history = fit(epochs=10, callbacks=[stop_in_epoch_2])
    assert history.ending == "callback"
    assert seen == history.epochs
    assert len(seen) == 3


@pytest.mark.parametrize(("answer", "epochs"), [(np.True_, 1), (True, 1), (np.False_, 3), (False, 3), (None, 3)])
def test_what_a_callback_answers(answer, epochs):
    assert len(fit(callbacks=[lambda record: answer])[1].epochs) == epochs


def test_an_observer_sees_it_all(monkeypatch):
    monkeypatch.setattr(loop, "FIRST_CHUNK", 6)
    events = []

    class Watch(Observer):
        def training_starts(self, info):
            events.append(("training starts", info.epochs, info.steps_per_epoch))
            assert info.choice == "engine native on cpu (as asked)"

        def chunk_starts(self, step, n_steps):
            events.append(("chunk starts", step, n_steps))

        def chunk_ends(self, steps_done, cost):
            events.append(("chunk ends", steps_done))

        def epoch_ends(self, record, best):
            events.append(("epoch ends", record.epoch, best))
            return record.epoch == 1

        def training_ends(self, history):
            events.append(("training ends", history.ending))

    fit(epochs=3, callbacks=[Watch(), Observer()])
    assert events == [
        ("training starts", 3, 6),
        *(("chunk starts", 0, 6), ("chunk ends", 6), ("epoch ends", 0, True)),
        *(("chunk starts", 6, 6), ("chunk ends", 12), ("epoch ends", 1, True)),
        ("training ends", "callback"),
    ]


def test_an_error_in_a_callback_passes_through_and_the_best_network_stays():
    def fail(record):
        if record.epoch == 1:
            raise RuntimeError("no room for the record")

    endings = []

    class Watch(Observer):
        def training_ends(self, history):
            endings.append(history.ending)

    network = small()
    with pytest.raises(RuntimeError, match="no room for the record"):
        fit(network, validation=VALIDATION, callbacks=[fail, Watch()])
    assert endings == ["failed"]
    assert network.trained
    assert len(network.history.epochs) == 2


def test_early_stopping():
    _, history = fit(validation=VALIDATION, epochs=50, optimizer=fcnet.SGD(0.0), early_stopping=3)
    assert history.ending == "early stopping"
    assert len(history.epochs) == 4  # one to compare with, three that are not better
    _, history = fit(validation=VALIDATION, epochs=5, optimizer=fcnet.SGD(0.0), early_stopping=5)
    assert history.ending == "finished"
    _, history = fit(validation=VALIDATION, epochs=60, optimizer=fcnet.SGD(3.0), monitor="cost", early_stopping=4)
    costs = [record.validation_cost for record in history.epochs]
    assert history.ending == "early stopping"
    assert int(np.argmin(costs)) == len(costs) - 5


def test_time_budget(monkeypatch):
    monkeypatch.setattr(loop, "FIRST_CHUNK", 2)
    network, history = fit(validation=VALIDATION, epochs=1000, time_budget=1e-6)
    assert history.ending == "time budget"
    assert len(history.epochs) == 1
    assert history.best_steps == 2  # in the middle of an epoch, at the end of a chunk
    assert network.accuracy(*VALIDATION) == history.best_validation_accuracy
    assert fit(epochs=2, time_budget=3600)[1].ending == "finished"


class Interrupt(Observer):
    """Ctrl-C, so many times, when so many steps are done."""

    def __init__(self, steps, times=1):
        self.steps, self.times = steps, times
        self.ending = None

    def chunk_ends(self, steps_done, cost):
        if steps_done == self.steps:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)

    def training_ends(self, history):
        self.ending = history.ending


def test_ctrl_c_keeps_the_best_network():
    handler = signal.getsignal(signal.SIGINT)
    network, interrupt = small(), Interrupt(steps=18)
    with pytest.raises(KeyboardInterrupt):
        fit(network, validation=VALIDATION, epochs=50, callbacks=[interrupt])
    assert signal.getsignal(signal.SIGINT) is handler
    assert interrupt.ending == network.history.ending == "interrupted"
    assert len(network.history.epochs) == 2
    assert network.accuracy(*VALIDATION) == network.history.best_validation_accuracy
    expected, _ = fit(epochs=network.history.best_epoch + 1)
    assert bytes_of(network) == bytes_of(expected)


@pytest.mark.parametrize("validation", [None, VALIDATION])
def test_ctrl_c_in_the_first_epoch_keeps_what_there_is(validation, monkeypatch):
    monkeypatch.setattr(loop, "FIRST_CHUNK", 4)
    network = small()
    before = bytes_of(network)
    with pytest.raises(KeyboardInterrupt):
        fit(network, validation=validation, callbacks=[Interrupt(steps=4)])
    assert bytes_of(network) != before
    assert network.trained
    assert network.history.epochs == []
    assert network.history.best is None
    assert network.history.test_accuracy is None


def test_a_second_ctrl_c_interrupts_at_once():
    handler = signal.getsignal(signal.SIGINT)
    network, interrupt = small(), Interrupt(steps=12, times=2)
    with pytest.raises(KeyboardInterrupt):
        fit(network, validation=VALIDATION, callbacks=[interrupt])
    assert signal.getsignal(signal.SIGINT) is handler
    assert interrupt.ending == network.history.ending == "interrupted"
    assert len(network.history.epochs) == 1


def test_another_thread_may_train():
    networks = []
    thread = threading.Thread(target=lambda: networks.append(fit()[0]))
    thread.start()
    thread.join()
    assert bytes_of(networks[0]) == bytes_of(fit()[0])


# --- Divergence ---------------------------------------------------------------------------------------------------------

RELU_LAYERS = (fcnet.FullyConnectedLayer(4, 8, fcnet.relu), fcnet.SoftmaxLayer(8, 3))


@pytest.mark.parametrize("validation", [None, VALIDATION])
def test_nan_stops_and_the_best_network_is_kept(validation):
    network = small(layers=RELU_LAYERS)
    with pytest.raises(DivergenceError) as caught:
        fit(network, validation=validation, epochs=9, optimizer=fcnet.SGD(FromEpoch(2, 0.1, 1e6)))
    step = caught.value.step
    assert step >= 12
    epoch = step // 6
    advice = (
        f"The cost became NaN or infinite at step {step} (epoch {epoch}). It begins in layer 1. The learning rate, 1e+06, is "
        "probably too high: try 100000, or scale the inputs to about 0 to 1, or lower the L2 strength. The network is the best one seen "
        f"before, of epoch {network.history.best_epoch}."
    )
    assert str(caught.value) == advice
    assert caught.value.history is network.history
    assert network.history.ending == "diverged"
    assert len(network.history.epochs) >= 2
    assert all(np.isfinite(array).all() for array in network.arrays.values())
    expected = small(layers=RELU_LAYERS)
    fit(expected, epochs=network.history.best_epoch + 1, optimizer=fcnet.SGD(FromEpoch(2, 0.1, 1e6)))
    assert bytes_of(network) == bytes_of(expected)


def test_nan_in_the_first_epoch_leaves_the_network_as_it_was():
    network = small(layers=RELU_LAYERS)
    before = bytes_of(network)
    with pytest.raises(DivergenceError, match=r"The network is as it was before training\.$") as caught:
        fit(network, validation=VALIDATION, optimizer=fcnet.SGD(1e30))
    assert caught.value.step < 6
    assert bytes_of(network) == before
    assert not network.trained
    assert network.history is None
    assert caught.value.history.epochs == []


@pytest.mark.parametrize("validation", [None, VALIDATION])
def test_numbers_that_overflow_in_the_last_step_are_found(validation):
    """The cost of a step is that before its update; what the last update did is seen in validation."""
    network = small(layers=RELU_LAYERS)
    rate = FromEpoch(5 / 6 - 1e-6, 0.1, 3e38)
    with pytest.raises(DivergenceError, match=r"at step 5 \(epoch 0\)"):
        fit(network, validation=validation, epochs=1, optimizer=fcnet.SGD(rate), l2=1000.0)
    assert not network.trained


# --- Dropout conventions ------------------------------------------------------------------------------------------------


def test_a_trained_network_keeps_its_function_in_the_other_convention():
    network = small(layers=DROPOUT_LAYERS)
    fit(network, optimizer=fcnet.SGD(0.5), dropout_scaling="inference")
    assert network.model.dropout_scaling == "inference"
    before, w = network.predict_proba(TEST[0]), network.parameters[1][0]
    fit(network, optimizer=fcnet.SGD(0.0), dropout_scaling="training")
    assert network.model.dropout_scaling == "training"
    np.testing.assert_allclose(network.predict_proba(TEST[0]), before, atol=1e-6)
    np.testing.assert_allclose(network.parameters[1][0], 0.5 * w, rtol=1e-6)
    fit(network, optimizer=fcnet.SGD(0.0), dropout_scaling="inference")
    np.testing.assert_allclose(network.parameters[1][0], w, rtol=1e-6)


def test_an_untrained_network_has_no_convention_yet():
    network = small(layers=DROPOUT_LAYERS)
    w = network.parameters[0][0]
    fit(network, optimizer=fcnet.SGD(0.0))
    np.testing.assert_array_equal(network.parameters[0][0], w)


# --- Tasks --------------------------------------------------------------------------------------------------------------


def test_regression():
    X = np.linspace(-1, 1, 100)[:, None]
    y = np.sin(3 * X[:, 0])
    network = fcnet.Network(
        [fcnet.FullyConnectedLayer(1, 20, fcnet.tanh), fcnet.FullyConnectedLayer(20, 1, fcnet.linear)], 10
    )
    _, history = fit(network, (X, y), (X, y), (X, y), epochs=100, optimizer=fcnet.Adam(fcnet.Cosine(0.05)))
    assert history.monitor == "cost"
    assert history.best.validation_accuracy is None
    assert history.test_accuracy is None
    assert history.best.validation_cost < 1e-3
    assert network.task == "regression"
    assert network.predict(X).shape == (100,)
    assert np.abs(network.predict(X) - y).max() < 0.15


def test_binary_with_one_sigmoid_output():
    X, labels = blobs(80, 5)
    y = (labels == 0).astype(int)
    network = fcnet.Network([fcnet.FullyConnectedLayer(4, 8, fcnet.tanh), fcnet.FullyConnectedLayer(8, 1)], 10)
    _, history = fit(network, (X, y), (X, y), epochs=20, optimizer=fcnet.Adam(0.05))
    assert history.monitor == "accuracy"
    assert network.task == "classification"
    assert history.best_validation_accuracy > 0.8
    predictions, probabilities = network.predict(X), network.predict_proba(X)
    assert set(predictions) == {0, 1}
    assert probabilities.shape == (80, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(predictions, probabilities.argmax(axis=1))
    assert network.accuracy(X, y) == np.mean(predictions == y) == history.best_validation_accuracy


def test_several_classes_at_once():
    X, labels = blobs(60, 6, spread=0.3)
    y = np.column_stack([labels == 0, labels != 1]).astype(float)
    network = fcnet.Network([fcnet.FullyConnectedLayer(4, 8, fcnet.tanh), fcnet.FullyConnectedLayer(8, 2)], 10)
    _, history = fit(network, (X, y), (X, y), epochs=20, optimizer=fcnet.Adam(0.05))
    assert history.monitor == "cost"
    assert history.best.validation_cost < 0.3
    assert network.predict(X).shape == (60, 2)
    assert np.mean((network.predict(X) > 0.5) == y) > 0.95


def test_soft_labels_and_quadratic_cost():
    X, y = TRAIN
    soft = 0.9 * np.eye(3)[y] + 0.1 / 3
    network, history = fit(train=(X, soft), validation=(X, soft), cost=fcnet.quadratic, epochs=20)
    assert history.monitor == "accuracy"
    assert history.epochs[-1].training_cost < history.epochs[0].training_cost
    assert network.accuracy(X, soft) == history.best_validation_accuracy


def test_a_callable_is_an_activation():
    layers = [fcnet.FullyConnectedLayer(4, 8, jax.numpy.sin), fcnet.SoftmaxLayer(8, 3)]
    _, history = fit(small(layers=layers), epochs=10, engine="xla")
    assert history.epochs[-1].training_cost < history.epochs[0].training_cost


# --- Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a positive integer, got 0."),
        ({"epochs": -1}, "epochs must be a positive integer, got -1."),
        ({"epochs": 1.5}, "epochs must be a positive integer, got 1.5."),
        ({"epochs": "3"}, "epochs must be a positive integer, got '3'."),
        ({"mini_batch_size": 0}, "mini_batch_size must be a positive integer, got 0."),
        ({"mini_batch_size": 2.0}, "mini_batch_size must be a positive integer, got 2.0."),
        ({"mini_batch_size": 61}, "mini_batch_size=61 is larger than the training data, which has 60 rows. Use 60 or less."),
        ({"l2": -0.1}, "The L2 strength must be a finite number, 0 or above, got -0.1."),
        ({"l2": float("nan")}, "The L2 strength must be a finite number, 0 or above, got nan."),
        ({"l2": float("inf")}, "The L2 strength must be a finite number, 0 or above, got inf."),
        ({"l2": "0.1"}, "The L2 strength must be a finite number, 0 or above, got '0.1'."),
        ({"seed": -1}, "seed must lie in [0, 2**64), got -1."),
        ({"seed": 0.5}, "seed must be an integer, got 0.5."),
        ({"time_budget": 0}, "time_budget must be a number of seconds above 0, got 0."),
        ({"time_budget": "5m"}, "time_budget must be a number of seconds above 0, got '5m'."),
        ({"early_stopping": 0, "validation": VALIDATION}, "early_stopping must be a positive integer, got 0."),
        ({"early_stopping": 3}, "early_stopping needs validation data: pass validation=(X, y)."),
        ({"monitor": "cost"}, "monitor needs validation data: pass validation=(X, y)."),
        ({"monitor": "acuracy"}, "Unknown monitor 'acuracy'. Did you mean 'accuracy'? Expected one of: accuracy, cost."),
        ({"engine": "xlaa"}, "Unknown engine 'xlaa'. Did you mean 'xla'? Expected one of: auto, "),
        ({"device": "gppu"}, "Unknown device 'gppu'. Did you mean 'gpu'? Expected one of: auto, cpu, gpu, gpu:1, gpus."),
        ({"device": "gpu:x"}, "Unknown device 'gpu:x'."),
        ({"device": "cuda"}, "Unknown device 'cuda'. Expected one of: auto, cpu, gpu, gpu:1, gpus."),
        ({"dtype": "float23"}, "Unknown dtype 'float23'. Did you mean 'float32'? Expected one of: float32, float64."),
        ({"precision": "fp32"}, "Unknown precision 'fp32'. Did you mean 'tf32'? Expected one of: float32, tf32, bf16."),
        ({"precision": "bf16", "dtype": "float64"}, "precision='bf16' rounds products to 8 bits, which float64 excludes."),
        ({"precision": "bf16", "engine": "native"}, "it multiplies float32 and float64 numbers; the engine xla rounds to bf16."),
        ({"dropout_scaling": "trainig"}, "Unknown dropout_scaling 'trainig'. Did you mean 'training'?"),
        ({"callbacks": ["print"]}, "A callback must be a function of an EpochRecord, or an Observer, got 'print'."),
        ({"optimizer": "adam"}, "optimizer must be an optimizer such as fcnet.Adam(0.001), got 'adam'."),
        ({"optimizer": fcnet.Adam}, "optimizer must be an optimizer such as fcnet.Adam(0.001), got <class"),
        ({"cost": "quadratic"}, "cost must be a cost such as fcnet.quadratic, got 'quadratic'."),
        ({"cost": fcnet.cross_entropy}, "The cost cross_entropy needs sigmoid outputs, but the last layer's activation is softmax."),
        ({"validation": (TRAIN[0][:, :3], TRAIN[1])}, "X of the validation data has shape (60, 3): 3 numbers a row"),
        ({"test": (TRAIN[0], TRAIN[1] + 1)}, "y of the test data has the label 3 in row 2"),
        ({"test": (TRAIN[0], np.full((60, 3), 0.3))}, "y of the test data holds values, but the training data holds class labels."),
        ({"train": (np.full((60, 4), np.nan), TRAIN[1])}, "X of the training data contains NaN (first at row 0, column 0)."),
    ],
)  # fmt: skip
def test_refused(options, message):
    network = small()
    before = bytes_of(network)
    with pytest.raises(InputError, match=re.escape(message)):
        fit(network, **options)
    assert bytes_of(network) == before
    assert network.history is None


def test_refused_for_regression():
    X = np.linspace(-1, 1, 20)[:, None]
    network = fcnet.Network([fcnet.FullyConnectedLayer(1, 1, fcnet.linear)], 10)
    with pytest.raises(InputError, match="monitor='accuracy' needs class labels; for regression use monitor='cost'"):
        fit(network, (X, X), (X, X), monitor="accuracy")
    with pytest.raises(
        InputError, match=r"The cost log_likelihood needs softmax outputs, .* is linear\. End the network with"
    ):
        fit(network, (X, X), cost=fcnet.log_likelihood)


def test_an_activation_that_cannot_be_traced_is_refused():
    def by_hand(z):
        return z if z.sum() > 0 else -z

    layers = [fcnet.FullyConnectedLayer(4, 8, by_hand), fcnet.SoftmaxLayer(8, 3)]
    message = (
        "The engine xla cannot run this network: the activation .*by_hand of layer 0 cannot be traced .* jax.numpy"
    )
    with pytest.raises(InputError, match=message):
        fit(small(layers=layers), engine="xla")


# --- Devices ------------------------------------------------------------------------------------------------------------


SEEN = Surroundings((580, 65, 6), True, 13, None)


@pytest.mark.parametrize(
    ("seen", "advice"),
    [
        ({"driver": None, "card": False}, "this machine shows no NVIDIA driver; with an NVIDIA GPU, install its driver and 'fcnet[gpu]'."),
        ({"driver": None}, "this machine has an NVIDIA GPU, but no driver for it is loaded; install the driver, and run nvidia-smi to check it."),
        ({"cuda": None}, "JAX is installed without GPU support; install it with: pip install 'fcnet[gpu]'."),
        ({"driver": (470, 82, 1)}, "the NVIDIA driver 470.82.1 is too old for JAX's CUDA 13, which needs 580.65 or newer; update the driver."),
        ({"hidden": "JAX_PLATFORMS=cpu"}, "the environment says JAX_PLATFORMS=cpu, which hides GPUs; unset it."),
        ({}, "JAX's GPU support is installed but found no usable GPU; run nvidia-smi to check driver and GPU. JAX says: no luck"),
        ({"driver": ()}, "JAX's GPU support is installed but found no usable GPU; run nvidia-smi to check driver and GPU. JAX says: no luck"),
    ],
)  # fmt: skip
def test_a_gpu_that_is_not_there(monkeypatch, capsys, seen, advice):
    monkeypatch.setattr(choose, "usable_gpus", list)
    monkeypatch.setattr(choose, "surroundings", lambda: replace(SEEN, **seen))
    monkeypatch.setattr("fcnet.engines.xla.devices.why_no_gpus", lambda: "no luck")
    message = f"device='gpu' was asked for, but there is no GPU: {advice} Or use device='cpu'."
    with pytest.raises(DeviceError, match=re.escape(message)):
        fit(engine="auto", device="gpu")
    with pytest.raises(DeviceError, match="device='gpu:1' was asked for, but there is no GPU"):
        small().predict(TEST[0], device="gpu:1")
    fit(engine="auto", device="auto", verbose="lines", epochs=1)
    assert capsys.readouterr().err.startswith(f"fcnet: engine native on cpu (no GPU: {advice})\n")


def test_what_is_seen_of_gpus(monkeypatch, tmp_path):
    """Files and variables as they are on machines with and without a GPU."""
    monkeypatch.setattr(gpus, "Path", lambda path: Path(tmp_path / str(path).lstrip("/")))
    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda name: object() if "cuda12" in name else None)
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    assert gpus.surroundings() == Surroundings(None, False, 12, None)
    device = tmp_path / "sys/bus/pci/devices/0000:00:04.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    assert not gpus.surroundings().card
    (device / "class").write_text("0x030200\n")
    assert gpus.surroundings().card
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: 12.2.0\n"
    )
    assert gpus.surroundings().driver == (535, 183, 1)
    version.unlink()
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert gpus.surroundings().driver == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpus.surroundings().hidden == "CUDA_VISIBLE_DEVICES=-1"
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert gpus.surroundings().hidden == "JAX_PLATFORMS=cpu"
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert gpus.surroundings().hidden is None


def test_a_gpu_beyond_those_there_are(monkeypatch):
    monkeypatch.setattr(choose, "usable_gpus", lambda: ["H200"])
    with pytest.raises(DeviceError, match="device='gpu:3' was asked for, but there is 1 GPU: gpu:0"):
        fit(engine="xla", device="gpu:3")
    monkeypatch.setattr(choose, "usable_gpus", lambda: ["H200", "H100"])
    with pytest.raises(DeviceError, match="device='gpu:3' was asked for, but there are 2 GPUs: gpu:0 to gpu:1"):
        fit(engine="xla", device="gpu:3")
    assert choose._places("auto")[0] == (choose.Placement("gpu", 0), "H200")
    assert choose._places("gpu:1") == [(choose.Placement("gpu", 1), "H100")]
    assert choose._places("gpus") == [(choose.Placement("gpu", shards=2), "H200, H100")]
    assert choose._places("cpu") == [(choose.Placement("cpu", 0), "as asked")]


def test_a_gpu_that_no_engine_here_can_use(monkeypatch, capsys):
    """The driver shows it, but neither numba-cuda nor JAX's support is installed: an error where it was asked for, else the CPU, and said."""
    monkeypatch.setattr(choose, "usable_gpus", lambda: ["H200"])
    monkeypatch.setattr("fcnet.engines.xla.engine.surroundings", lambda: replace(SEEN, cuda=None))
    numba = "it needs numba-cuda; install it with: pip install 'fcnet[gpu]'."
    jax = "JAX is installed without GPU support; install it with: pip install 'fcnet[gpu]'."
    monkeypatch.setattr("fcnet.engines.cuda.device.missing", lambda: numba)
    with pytest.raises(
        InputError, match=re.escape(f"No engine can run this network: not cuda: {numba}; not xla: {jax}")
    ):
        fit(engine="auto", device="gpu")
    with pytest.raises(InputError, match=re.escape(f"The engine xla cannot run this network: {jax}")):
        fit(engine="xla", device="gpu")
    fit(engine="auto", device="auto", verbose="lines", epochs=1)
    why = f"H200, but no engine runs this there; not cuda: {numba}; not xla: {jax}"
    assert capsys.readouterr().err.startswith(f"fcnet: engine native on cpu ({why})\n")
    fit(engine="xla", device="auto", verbose="lines", epochs=1)
    assert capsys.readouterr().err.startswith("fcnet: engine xla on cpu (H200, but no engine runs this there")


# --- What is printed ----------------------------------------------------------------------------------------------------


def test_lines_go_to_standard_error(capsys):
    _, history = fit(validation=VALIDATION, epochs=2, verbose=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    choice, *lines = printed.err.splitlines()
    assert choice == "fcnet: engine native on cpu (as asked)"
    best = -1.0
    for record, line in zip(history.epochs, lines, strict=True):
        mark = "  best" if record.validation_accuracy >= best else ""
        best = max(best, record.validation_accuracy)
        assert line == (
            f"epoch {record.epoch + 1}/2  cost {record.training_cost:.4f}  validation {record.validation_accuracy:.2%}"
            f"  {record.seconds:.2f} s{mark}"
        )


def test_silence(capsys):
    fit(verbose=False)
    assert capsys.readouterr() == ("", "")


def test_bar(capsys):
    fit(validation=VALIDATION, epochs=3, verbose="bar")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "fcnet: engine native on cpu (as asked)" in printed.err
    assert "epoch 3/3" in printed.err
    assert "validation" in printed.err


def test_the_bar_stops_when_training_fails(capsys):
    threads = threading.active_count()
    with pytest.raises(DivergenceError):
        fit(small(layers=RELU_LAYERS), optimizer=fcnet.SGD(1e30), verbose="bar")
    patience = time.monotonic() + 5
    while threading.active_count() > threads:  # the bar's own thread
        assert time.monotonic() < patience
        time.sleep(0.01)


# --- What is refused, or warned of, on the way in -------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_threads_that_are_no_number_of_threads(threads):
    with pytest.raises(InputError, match="n_threads must be a positive integer"):
        fit(n_threads=threads)


def test_threads_change_no_byte(monkeypatch):
    monkeypatch.setattr("fcnet.engines.native.engine.START_OPERATIONS", 1)
    networks = [fit(n_threads=n, engine="native")[0] for n in (1, 2, 5)]
    assert bytes_of(networks[0]) == bytes_of(networks[1]) == bytes_of(networks[2])


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "NUMBA_NUM_THREADS"])
def test_the_environment_says_how_many_threads(monkeypatch, variable):
    from fcnet.engines.native.threads import available_threads

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv(variable, "3")
    assert available_threads() == 3
    assert available_threads(2) == 2


def test_a_number_beyond_float32_is_refused():
    X = TRAIN[0].astype(float)
    X[7, 1] = -1e300
    with pytest.raises(InputError, match=r"X of the training data contains 1e\+300 \(first beyond float32 in row 7\)"):
        fit(train=(X, TRAIN[1]))
    with np.errstate(over="ignore"):
        fit(train=(np.minimum(np.abs(X), 1e5), TRAIN[1]), dtype="float64", epochs=1)


def test_a_cost_far_above_guessing_is_warned_of():
    with pytest.warns(fcnet.TrainingWarning, match="where guessing costs 1.099. The learning rate, 1e.06, is probably"):
        fit(optimizer=SGD(1e6), epochs=1)


def test_auto_takes_native_on_a_cpu_and_says_why_not():
    import jax.numpy as jnp

    _, history = fit(engine="auto", epochs=1)
    assert history.engine == "native"
    custom = small(layers=[fcnet.FullyConnectedLayer(4, 5, jnp.sin), fcnet.SoftmaxLayer(5, 3)])
    seen = []

    class Watcher(fcnet.Observer):
        def training_starts(self, info):
            seen.append(info.choice)

    _, history = fit(custom, engine="auto", epochs=1, callbacks=[Watcher()])
    assert history.engine == "xla"
    assert "not native: the activation sin of layer 0 is not one of fcnet's own" in seen[0]
    with pytest.raises(InputError, match="The engine native cannot run this network: the activation sin of layer 0"):
        fit(custom, engine="native")


def test_two_trainings_at_once_do_not_disturb_each_other():
    alone = [bytes_of(fit(small(seed), epochs=20, seed=seed)[0]) for seed in (1, 2)]
    networks = [small(1), small(2)]
    threads = [
        threading.Thread(target=fit, args=(network,), kwargs={"epochs": 20, "seed": network.seed})
        for network in networks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [bytes_of(network) for network in networks] == alone


FORK = """
import os
import numpy as np
import fcnet

X, y = np.random.default_rng(0).random((64, 8), np.float32), np.arange(64) % 3

def fit():
    layers = [fcnet.FullyConnectedLayer(8, 200), fcnet.FullyConnectedLayer(200, 200), fcnet.SoftmaxLayer(200, 3)]
    network = fcnet.Network(layers, 32)
    fcnet.train(network, (X, y), epochs=3, engine="native", n_threads=2, verbose=False)
    return network.arrays["layers.0.weights"].tobytes()

before = fit()
child = os.fork()
if child == 0:
    os._exit(0 if fit() == before else 1)
print(os.waitpid(child, 0)[1], fit() == before)
"""


def test_a_forked_child_trains():
    """After its parent has trained in two threads: there is no pool that a fork could break."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["0", "True"]


# --- Factors ------------------------------------------------------------------------------------------------------------


def test_a_factor_of_zero_leaves_a_parameter_as_it_was(each_engine):
    network, before = small(), small().arrays
    fit(network, factors=fcnet.Factors({"biases": 0.0, "layers.1.biases": 1.0}), optimizer=fcnet.AdamW(0.1))
    moved = {name: not np.array_equal(network.arrays[name], before[name]) for name in before}
    assert moved == {
        "layers.0.weights": True,
        "layers.0.biases": False,
        "layers.1.weights": True,
        "layers.1.biases": True,
    }


def test_factors_that_are_none():
    with pytest.raises(InputError, match=r"^factors must be fcnet\.Factors\(\.\.\.\), got 0\.5\.$"):
        fit(factors=0.5)
    with pytest.raises(InputError, match=r"layers\.7\.biases"):
        fit(factors=fcnet.Factors({"layers.7.biases": 0.5}))
    with pytest.raises(InputError, match=r"^A schedule of dropout needs dropout_scaling='training'"):
        fit(factors=fcnet.Factors(dropout=fcnet.FlatCosine()), dropout_scaling="inference")
