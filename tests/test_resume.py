"""A training that is cut at any step and resumed ends with the bytes of the one that was not."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import fcnet
from fcnet import keeper as keeping
from fcnet import loop, training
from fcnet.engines.contract import OWN_SLOT
from fcnet.errors import FileError, InputError, TrainingWarning
from fcnet.history import Observer
from fcnet.keeper import Every, Keeper, checkpoint_files, newest_checkpoint

LAYERS = (fcnet.FullyConnectedLayer(4, 8, p_dropout=0.25), fcnet.SoftmaxLayer(8, 3, p_dropout=0.5))


def blobs(n_rows, seed):
    """Three classes of points around three centres, ``(n_rows, 4)``."""
    random = np.random.default_rng(seed)
    y = np.arange(n_rows) % 3
    return (np.eye(3, 4)[y] + random.normal(size=(n_rows, 4))).astype(np.float32), y


TRAIN, VALIDATION, TEST = blobs(64, 1), blobs(30, 2), blobs(31, 3)
STEPS = 7  # in an epoch, the last one short


class Cut(Observer):
    """Raises where so many steps are done, as a process that ends there."""

    def __init__(self, step):
        self.step = step

    def chunk_starts(self, step, n_steps):
        if step >= self.step:
            raise ZeroDivisionError


def fit(network=None, data=TRAIN, validation=VALIDATION, test=TEST, **options):
    network = network or fcnet.Network(LAYERS, mini_batch_size=10, seed=0)
    options = {"epochs": 4, "optimizer": fcnet.Adam(fcnet.Cosine(0.05)), "l2": 0.1, "verbose": False} | options
    return network, training.train(network, data, validation, test, **{"engine": "native", "device": "cpu"} | options)


def cut_at(step, folder, **options):
    """A training that ends after so many steps, with a checkpoint after each chunk of one step."""
    with pytest.raises(ZeroDivisionError):
        fit(checkpoint=folder, checkpoint_every="0s", callbacks=[Cut(step)], **options)
    assert newest_checkpoint(folder).state.step == step


def figures(history):
    """All of a history but how long it took and why it ended."""
    records = [dataclasses.replace(record, seconds=0.0) for record in history.epochs]
    return dataclasses.replace(history, epochs=records, ending="finished")


def assert_same(one, other):
    for name, array in one[0].arrays.items():
        assert array.tobytes() == other[0].arrays[name].tobytes(), name
    assert figures(one[1]) == figures(other[1])


@pytest.fixture
def step_by_step(monkeypatch):
    """Chunks of one step, each followed by a checkpoint that is on the disk before the next."""
    monkeypatch.setattr(loop, "FIRST_CHUNK", 1)
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    monkeypatch.setattr(keeping, "_SHARE", 0)
    written = Keeper._write

    def write(self, checkpoint):
        written(self, checkpoint)
        self._pause = 0.0

    def at_once(self, take, occasion):
        if occasion != "last":
            self._taken = take()
            self._write(self._taken)

    monkeypatch.setattr(Keeper, "_write", write)
    monkeypatch.setattr(Keeper, "state_is_whole", at_once)


# --- The same bytes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["native", "xla"])
@pytest.mark.parametrize("step", [0, 1, 6, 7, 8, 14, 20, 27])
@pytest.mark.usefixtures("step_by_step")
def test_from_any_step(tmp_path, engine, step, monkeypatch):
    cut_at(step, tmp_path, engine=engine)
    monkeypatch.undo()
    assert_same(fit(resume=tmp_path, engine=engine), fit(engine=engine))


OPTIMIZERS = [fcnet.SGD, fcnet.Momentum, fcnet.Nesterov, fcnet.Adam, fcnet.AdamW]
SCHEDULES = [
    fcnet.Constant,
    fcnet.Cosine,
    fcnet.Step,
    fcnet.Exponential,
    lambda rate: fcnet.WarmUp(fcnet.Cosine(rate), 2),
]


@pytest.mark.parametrize(
    ("optimizer", "schedule", "engine"),
    [
        (optimizer, schedule, ["native", "xla"][(i + j) % 2])
        for (i, optimizer), (j, schedule) in itertools.product(enumerate(OPTIMIZERS), enumerate(SCHEDULES))
    ],
)
@pytest.mark.usefixtures("step_by_step")
def test_every_optimizer_and_schedule(tmp_path, optimizer, schedule, engine, monkeypatch):
    options = {
        "optimizer": optimizer(schedule(0.03)),
        "engine": engine,
        "dtype": ["float32", "float64"][engine == "xla"],
    }
    cut_at(17, tmp_path, **options)
    monkeypatch.undo()
    assert_same(fit(resume=tmp_path, **options), fit(**options))


@pytest.mark.parametrize(
    "options",
    [
        {"validation": None},
        {"test": None},
        {"monitor": "cost"},
        {"early_stopping": 2, "epochs": 30},
        {"shuffle": False, "drop_last": True},
        {"dropout_scaling": "inference"},
        {"data": (*TRAIN, np.arange(64.0) % 5)},
        {"seed": 5},
    ],
    ids=str,
)
@pytest.mark.usefixtures("step_by_step")
def test_every_setting(tmp_path, options, monkeypatch):
    cut_at(10, tmp_path, **options)
    monkeypatch.undo()
    assert_same(fit(resume=tmp_path, **options), fit(**options))


def test_sparse_rows(tmp_path):
    from scipy.sparse import csr_array

    data = (csr_array(np.where(TRAIN[0] > 1, TRAIN[0], 0)), TRAIN[1])
    fit(data=data, epochs=2, optimizer=fcnet.SGD(0.1), checkpoint=tmp_path)
    options = {"data": data, "optimizer": fcnet.SGD(0.1)}
    assert_same(fit(resume=tmp_path, **options), fit(**options))


@pytest.mark.parametrize("step", [1, 9])
@pytest.mark.usefixtures("step_by_step")
def test_weights_that_are_kept_as_a_product(tmp_path, step):
    """With plain SGD, L2 and sparse rows a checkpoint holds more than the weights' values."""
    from scipy.sparse import csr_array

    X, y = TRAIN
    X = np.where(np.arange(X.size).reshape(X.shape) % 5 == 0, X, 0).astype(np.float32)
    options = {"data": (csr_array(X), y), "validation": (X, y), "test": None, "optimizer": fcnet.SGD(0.5), "l2": 0.5}

    def network():
        layers = fcnet.FullyConnectedLayer(4, 40), fcnet.SoftmaxLayer(40, 3)
        return fcnet.Network(layers, mini_batch_size=10, seed=0)

    whole = fit(network(), **options)
    cut_at(step, tmp_path, network=network(), **options)
    assert OWN_SLOT in newest_checkpoint(tmp_path).state.slots
    assert_same(fit(network(), resume=tmp_path, **options), whole)


def test_more_epochs(tmp_path):
    constant = {"optimizer": fcnet.Adam(0.01)}
    fit(epochs=2, checkpoint=tmp_path, **constant)
    assert_same(fit(epochs=5, resume=tmp_path, **constant), fit(epochs=5, **constant))


def test_more_epochs_of_a_schedule_that_depends_on_them(tmp_path):
    fit(epochs=2, checkpoint=tmp_path)
    with pytest.warns(TrainingWarning, match="depends on the number of epochs, which was 2 and is 5"):
        _, history = fit(epochs=5, resume=tmp_path)
    assert [record.learning_rate for record in history.epochs[2:]] == [
        record.learning_rate for record in fit(epochs=5)[1].epochs[2:]
    ]


def test_a_training_that_is_over_is_loaded(tmp_path):
    trained = fit(checkpoint=tmp_path)
    files = checkpoint_files(tmp_path)
    assert_same(fit(resume=tmp_path), trained)
    assert checkpoint_files(tmp_path)[0].read_bytes() == files[0].read_bytes()


@pytest.mark.usefixtures("step_by_step")
def test_an_early_stop_stays_the_end(tmp_path, monkeypatch):
    options = {"early_stopping": 1, "epochs": 60}
    _, whole = fit(checkpoint=tmp_path, **options)
    assert whole.ending == "early stopping"
    monkeypatch.undo()
    _, resumed = fit(resume=tmp_path, **options)
    assert resumed.ending == "early stopping"
    assert figures(resumed) == figures(whole)


def test_a_time_budget_within_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "FIRST_CHUNK", 3)
    _, history = fit(checkpoint=tmp_path, time_budget=1e-9)
    assert (history.ending, len(history.epochs)) == ("time budget", 1)
    assert newest_checkpoint(tmp_path).state.step == 3
    monkeypatch.undo()
    assert_same(fit(resume=tmp_path), fit())


def test_resumed_again_and_again(tmp_path):
    for epochs in (1, 2, 3):
        fit(
            epochs=epochs,
            checkpoint=tmp_path if epochs == 1 else None,
            resume=tmp_path if epochs > 1 else None,
            optimizer=fcnet.SGD(0.1),
        )
    assert_same(fit(resume=tmp_path, optimizer=fcnet.SGD(0.1)), fit(optimizer=fcnet.SGD(0.1)))


def test_from_one_folder_into_another(tmp_path):
    fit(epochs=2, checkpoint=tmp_path / "a", optimizer=fcnet.SGD(0.1))
    before = checkpoint_files(tmp_path / "a")[0].read_bytes()
    assert_same(
        fit(resume=tmp_path / "a", checkpoint=tmp_path / "b", optimizer=fcnet.SGD(0.1)), fit(optimizer=fcnet.SGD(0.1))
    )
    assert checkpoint_files(tmp_path / "a")[0].read_bytes() == before
    assert newest_checkpoint(tmp_path / "b").state.step == 4 * STEPS


# --- What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"l2": 0.2}, "settings.l2 was 0.1, is 0.2"),
        ({"optimizer": fcnet.Adam(fcnet.Cosine(0.06))}, "settings.optimizer.learning_rate.rate was 0.05, is 0.06"),
        ({"optimizer": fcnet.SGD(0.1)}, "settings.optimizer was Adam, is SGD"),
        ({"engine": "xla"}, "settings.engine was native, is xla"),
        ({"seed": 1}, "settings.seed was 0, is 1"),
        ({"cost": fcnet.quadratic}, "settings.cost.name was log_likelihood, is quadratic"),
        ({"network": fcnet.Network([fcnet.FullyConnectedLayer(4, 9), fcnet.SoftmaxLayer(9, 3)], 10)}, "settings.layers.0.n_out was 8, is 9"),
        ({"data": (TRAIN[0] + 1, TRAIN[1])}, "data.train.X was"),
        ({"data": (TRAIN[0][:60], TRAIN[1][:60])}, "data.train.rows was 64, is 60"),
        ({"validation": None}, "data.validation"),
        ({"dtype": "float64"}, "settings.dtype was float32, is float64"),
        ({"deterministic": True}, "settings.deterministic was False, is True"),
        ({"precision": "float32"}, "settings.precision was tf32, is float32"),
        ({"factors": fcnet.Factors({"biases": 0.1})}, "settings.factors was None, is Factors; settings.factors.rates.biases was None, is 0.1"),
        ({"early_stopping": 3}, "settings.early_stopping was None, is 3"),
    ],
    ids=str,
)  # fmt: skip
def test_another_training_is_refused(tmp_path, options, difference):
    fit(epochs=1, checkpoint=tmp_path, optimizer=fcnet.Adam(fcnet.Cosine(0.05)))
    message = f"The training in {tmp_path} cannot be resumed, because it would not be the same: "
    with pytest.raises(InputError, match=f"{re.escape(message)}.*{re.escape(difference)}"):
        fit(resume=tmp_path, **options)


def test_another_version_is_refused(tmp_path, monkeypatch):
    fit(epochs=1, checkpoint=tmp_path)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9")
    with pytest.raises(InputError, match=r"versions\.numba was .*, is 9\.9"):
        fit(resume=tmp_path)


def test_a_folder_that_holds_another_training(tmp_path):
    fit(epochs=1, checkpoint=tmp_path)
    with pytest.raises(FileError, match=r"holds the checkpoints of an earlier training\. Go on with it by resume="):
        fit(epochs=1, checkpoint=tmp_path)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(FileError, match=r"There is no checkpoint in .*, so nothing to resume"):
        fit(resume=tmp_path)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"Checkpoints cannot be written into .*file.*: Not a directory"):
        fit(checkpoint=tmp_path / "file")


@pytest.mark.parametrize("path", [3, b"x"])
def test_what_is_no_path(path):
    with pytest.raises(InputError, match="checkpoint must be a path, got "):
        fit(checkpoint=path)


@pytest.mark.parametrize("every", ["", "soon", "0epochs", "-3s", "3 days"])
def test_what_is_no_interval(tmp_path, every):
    with pytest.raises(InputError, match="checkpoint_every must be such as '1epoch', '3epochs', '30s' or '5m'"):
        fit(checkpoint=tmp_path, checkpoint_every=every)


def test_intervals():
    assert Every.parse("3epochs") == Every(epochs=3)
    assert Every.parse("1 epoch") == Every(epochs=1)
    assert Every.parse("30s") == Every.parse("30") == Every(seconds=30.0)
    assert Every.parse("1.5m") == Every(seconds=90.0)


# --- The files ----------------------------------------------------------------------------------------------------------


def test_the_last_two_are_kept(tmp_path):
    fit(epochs=6, checkpoint=tmp_path)
    assert 1 <= len(checkpoint_files(tmp_path)) <= 2
    assert newest_checkpoint(tmp_path).state.step == 6 * STEPS
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        "lock",
        *(path.name for path in checkpoint_files(tmp_path)),
    }


@pytest.mark.usefixtures("step_by_step")
def test_a_damaged_one_is_passed_over(tmp_path, capsys, monkeypatch):
    cut_at(10, tmp_path)
    newest, before = checkpoint_files(tmp_path)
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1
    newest.write_bytes(content)
    assert newest_checkpoint(tmp_path).state.step == 9
    assert "its checksum is not that of its content" in capsys.readouterr().err
    before.write_bytes(b"")
    with pytest.raises(FileError, match="truncated, damaged, or not a checkpoint"):
        newest_checkpoint(tmp_path)


def test_a_folder_is_one_training_s(tmp_path):
    with Keeper(tmp_path), pytest.raises(FileError, match=rf"{tmp_path} is in use by .*process {os.getpid()} on "):
        fit(checkpoint=tmp_path)
    fit(checkpoint=tmp_path)


def test_a_stale_lock_is_taken_over(tmp_path):
    program = f"import os; from fcnet.keeper import Keeper; from pathlib import Path; Keeper(Path({str(tmp_path)!r})).__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 9
    assert (tmp_path / "checkpoints" / "lock").read_text()
    fit(checkpoint=tmp_path)


# --- Numbers going wrong ------------------------------------------------------------------------------------------------

LINE = (np.ones((40, 1), np.float32), np.ones((40, 1), np.float32))


def steep(rate, **options):
    """Gradient descent on (w + b - 1)^2 / 2: each step multiplies the error by 1 - 2 * rate."""
    network = fcnet.Network([fcnet.FullyConnectedLayer(1, 1, fcnet.linear)], mini_batch_size=1)
    return fit(network, LINE, None, None, **{"epochs": 20, "optimizer": fcnet.SGD(rate), "l2": 0.0} | options)


def test_halving_goes_on_where_stopping_would_end():
    with pytest.raises(
        fcnet.DivergenceError, match=r"at step \d+ \(epoch \d+\)\. It begins in layer 0\. The learning rate, 3, is"
    ):
        steep(3.0)
    with pytest.warns(TrainingWarning, match=r"goes back to step \d+, and on with half the learning rate"):
        network, history = steep(3.0, on_nan="halve")
    assert len(history.halvings) == 2
    assert history.epochs[-1].learning_rate == 0.75
    assert len(history.epochs) == 20
    np.testing.assert_allclose(network.predict(LINE[0]), 1.0, atol=1e-6)


def test_three_halvings_at_most():
    with (
        pytest.warns(TrainingWarning, match="half the learning rate"),
        pytest.raises(fcnet.DivergenceError) as caught,
    ):
        steep(1e6, on_nan="halve")
    assert len(caught.value.history.halvings) == 3


@pytest.mark.filterwarnings("ignore::fcnet.TrainingWarning")
def test_a_halved_training_resumes(tmp_path):
    whole = steep(3.0, on_nan="halve")
    for step in (30, 90, 400, 700):
        with pytest.raises(ZeroDivisionError):
            steep(3.0, on_nan="halve", checkpoint=tmp_path / str(step), callbacks=[Cut(step)])
        assert newest_checkpoint(tmp_path / str(step)).state.step % 40 == 0
        assert_same(steep(3.0, on_nan="halve", resume=tmp_path / str(step)), whole)


def test_on_nan_is_one_of_two():
    with pytest.raises(InputError, match=r"Unknown on_nan 'halv'\. Did you mean 'halve'\?"):
        steep(0.1, on_nan="halv")


def test_no_checkpoint_of_numbers_that_went_wrong(tmp_path):
    with pytest.raises(fcnet.DivergenceError):
        steep(3.0, checkpoint=tmp_path, checkpoint_every="0s")
    assert np.isfinite(newest_checkpoint(tmp_path).state.parameters["layers.0.weights"]).all()
