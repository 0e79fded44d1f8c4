"""The book's module: chapter 6's snippets with fully connected and softmax layers, as they stand."""

from __future__ import annotations

import gzip
import itertools
import pickle
import re
import struct

import numpy as np
import pytest

import fcnet
import fcnet.network3 as network3
import reference
from fcnet.errors import FileError, InputError
from fcnet.network3 import ConvPoolLayer, FullyConnectedLayer, Network, ReLU, SoftmaxLayer, dropout_layer, size

GPU_MESSAGE = """\
Trying to run under a GPU.  If this is not desired, then modify network3.py
to set the GPU flag to False.
"""
CPU_MESSAGE = """\
Running with a CPU.  If this is not desired, then the modify network3.py to set
the GPU flag to True.
"""
"""As Nielsen's network3.py prints them, "the modify" and all."""


@pytest.fixture(autouse=True)
def a_new_program(monkeypatch):
    """As if fcnet.network3 had just been imported."""
    monkeypatch.setattr(network3, "GPU", True)
    monkeypatch.setattr(network3, "_announced", None)
    monkeypatch.setattr(network3, "_networks", itertools.count())


def digits_like(n_rows, seed):
    """Ten classes of noisy 28 x 28 images, as the book's file has them: float32 in [0, 1], int64."""
    patterns = np.random.default_rng(0).random((10, 784))
    random = np.random.default_rng(seed)
    y = random.integers(0, 10, n_rows)
    X = np.clip(0.2 * patterns[y] + 0.6 * random.random((n_rows, 784)), 0, 1)
    return X.astype(np.float32), y


PARTS = digits_like(203, 1), digits_like(57, 2), digits_like(48, 3)


@pytest.fixture
def book(tmp_path, monkeypatch):
    """The book's folders, ``data`` and ``src``, with the program run in the latter."""
    (tmp_path / "data").mkdir()
    (tmp_path / "src").mkdir()
    with gzip.open(tmp_path / "data" / "mnist.pkl.gz", "wb") as file:
        pickle.dump(PARTS, file, protocol=2)
    monkeypatch.chdir(tmp_path / "src")
    return tmp_path


def article_transcript(layers, epochs, eta, lmbda=0.0, mini_batch_size=10, seed=0):
    """What the book's program prints after its GPU message, every accuracy computed by the reference in float64."""
    train, validation, test = PARTS
    batches = len(train[0]) // mini_batch_size
    rows = np.arange(batches * mini_batch_size).reshape(batches, mini_batch_size)
    parameters = fcnet.Network(layers, mini_batch_size, seed).arrays
    tables = {
        "rows": rows,
        "rates": np.full(batches, eta),
        "l2": np.full(batches, lmbda / batches),
        "dropout": np.zeros((batches, len(layers))),
        "keys": np.zeros((batches, len(layers), 2), np.uint32),
    }
    options = {"cost": "log_likelihood", "optimizer": fcnet.SGD(eta)}
    best, lines = 0.0, []
    for epoch in range(epochs):
        for iteration in range(epoch * batches, (epoch + 1) * batches):
            if iteration % 1000 == 0:
                lines.append(f"Training mini-batch number {iteration}")
        parameters, _, _ = reference.train(layers, parameters, *train, **tables, **options)
        _, accuracy = reference.evaluate(layers, parameters, *validation, "log_likelihood", "inference")
        lines.append(f"Epoch {epoch}: validation accuracy {accuracy:.2%}")
        if accuracy >= best:
            best, best_iteration = accuracy, iteration
            _, test_accuracy = reference.evaluate(layers, parameters, *test, "log_likelihood", "inference")
            lines.append("This is the best validation accuracy to date.")
            lines.append(f"The corresponding test accuracy is {test_accuracy:.2%}")
    lines.append("Finished training network.")
    lines.append(f"Best validation accuracy of {best:.2%} obtained at iteration {best_iteration}")
    lines.append(f"Corresponding test accuracy of {test_accuracy:.2%}")
    return "\n".join(lines) + "\n"


# --- Chapter 6 ----------------------------------------------------------------------------------------------------------


def test_the_shallow_network(book, capsys):
    program = """
import fcnet.network3 as network3
from fcnet.network3 import Network
from fcnet.network3 import ConvPoolLayer, FullyConnectedLayer, SoftmaxLayer
training_data, validation_data, test_data = network3.load_data_shared()
mini_batch_size = 10
net = Network([
        FullyConnectedLayer(n_in=784, n_out=100),
        SoftmaxLayer(n_in=100, n_out=10)], mini_batch_size)
net.SGD(training_data, 60, mini_batch_size, 0.1,
            validation_data, test_data)
"""
    variables = {}
    exec(program, variables)
    layers = [fcnet.FullyConnectedLayer(784, 100), fcnet.SoftmaxLayer(100, 10)]
    printed = capsys.readouterr()
    assert printed.out == GPU_MESSAGE + article_transcript(layers, 60, 0.1)
    assert printed.out.count("Training mini-batch number") == 2
    assert re.fullmatch(r"fcnet: engine \w+ on .*\n", printed.err)
    assert variables["net"].history.test_accuracy > 0.8


def test_rectified_linear_units_and_l2(book, capsys):
    program = """
import fcnet.network3 as network3
from fcnet.network3 import Network
from fcnet.network3 import ConvPoolLayer, FullyConnectedLayer, SoftmaxLayer
training_data, validation_data, test_data = network3.load_data_shared()
mini_batch_size = 10
from fcnet.network3 import ReLU
net = Network([
        FullyConnectedLayer(n_in=784, n_out=30, activation_fn=ReLU),
        FullyConnectedLayer(n_in=30, n_out=20, activation_fn=ReLU),
        SoftmaxLayer(n_in=20, n_out=10)], mini_batch_size)
net.SGD(training_data, 20, mini_batch_size, 0.03,
            validation_data, test_data, lmbda=0.1)
"""
    exec(program, {})
    layers = [
        fcnet.FullyConnectedLayer(784, 30, fcnet.relu),
        fcnet.FullyConnectedLayer(30, 20, fcnet.relu),
        fcnet.SoftmaxLayer(20, 10),
    ]
    assert capsys.readouterr().out == GPU_MESSAGE + article_transcript(layers, 20, 0.03, lmbda=0.1)


def test_dropout(book, capsys):
    program = """
import fcnet.network3 as network3
from fcnet.network3 import *
mini_batch_size = 10
expanded_training_data, _, _ = network3.load_data_shared(
        "../data/mnist.pkl.gz")
_, validation_data, test_data = network3.load_data_shared()
net = Network([
        FullyConnectedLayer(
            n_in=784, n_out=50, activation_fn=ReLU, p_dropout=0.5),
        FullyConnectedLayer(
            n_in=50, n_out=50, activation_fn=ReLU, p_dropout=0.5),
        SoftmaxLayer(n_in=50, n_out=10, p_dropout=0.5)],
        mini_batch_size)
net.SGD(expanded_training_data, 10, mini_batch_size, 0.03,
            validation_data, test_data)
"""
    variables = {}
    exec(program, variables)
    out = capsys.readouterr().out
    epochs = [int(line.split(":")[0][6:]) for line in out.splitlines() if line.startswith("Epoch")]
    assert epochs == list(range(10))
    assert "Finished training network.\nBest validation accuracy of " in out
    net = variables["net"]
    assert net.model.dropout_scaling == "inference"
    assert f"\nCorresponding test accuracy of {net.accuracy(*PARTS[2]):.2%}\n" in out


def test_an_ensemble(book, capsys):
    """The book's conv.py lets several networks vote, mini-batch by mini-batch."""
    training_data, validation_data, test_data = network3.load_data_shared()
    nets = []
    for _ in range(3):
        net = Network([FullyConnectedLayer(784, 20), SoftmaxLayer(20, 10)], 8)
        net.SGD(training_data, 5, 8, 0.1, validation_data, test_data)
        nets.append(net)
    votes = [np.concatenate([net.test_mb_predictions(i) for i in range(6)]) for net in nets]
    for net, predictions in zip(nets, votes, strict=True):
        np.testing.assert_array_equal(predictions, net.predict(test_data[0]))
    test_y_eval = test_data[1].eval()
    assert len(test_y_eval) == 48
    assert not np.array_equal(votes[0], votes[1]) or not np.array_equal(votes[0], votes[2])


# --- What the book's figures read ---------------------------------------------------------------------------------------


@pytest.fixture
def net():
    return Network([FullyConnectedLayer(784, 20, p_dropout=0.1), SoftmaxLayer(20, 10)], 10)


def test_numbers_as_theano_gave_them(net, capsys):
    w = net.layers[0].w
    np.testing.assert_array_equal(w.get_value(), net.parameters[0][0])
    np.testing.assert_array_equal(w.eval(), net.parameters[0][0])
    assert type(w.get_value()) is type(w.eval()) is type(w.get_value(borrow=True)) is np.ndarray
    w.get_value()[:] = 0
    assert net.layers[0].w.get_value().any()
    assert [param.shape for param in net.params] == [(784, 20), (20,), (20, 10), (10,)]
    assert net.layers[1].params[1].get_value().tolist() == [0] * 10
    assert (net.layers[0].n_in, net.layers[0].n_out, net.layers[0].p_dropout) == (784, 20, 0.1)
    assert net.layers[0].activation_fn is network3.sigmoid
    before = net.layers[0].b.get_value()
    net.SGD(PARTS[0], 1, 10, 0.1, PARTS[1])
    assert not np.array_equal(net.layers[0].b.get_value(), before)
    np.testing.assert_array_equal(net.layers[0].b.get_value(), net.parameters[0][1])


def test_the_last_layer_s_accuracy(net, capsys):
    with pytest.raises(
        InputError, match=r"accuracy compares y, of shape \(48,\), .* but there are none\. For other data"
    ):
        net.layers[-1].accuracy(PARTS[2][1])
    with pytest.raises(InputError, match="There are no predictions before SGD"):
        net.test_mb_predictions(0)
    net.SGD(PARTS[0], 2, 10, 0.1, PARTS[1], PARTS[2])
    assert net.layers[-1].accuracy(PARTS[2][1]) == net.history.test_accuracy
    np.testing.assert_array_equal(net.layers[-1].y_out, net.predict(PARTS[2][0]))
    with pytest.raises(InputError, match=r"but they have shape \(48,\)"):
        net.layers[-1].accuracy(PARTS[1][1])
    net.SGD(PARTS[0], 1, 10, 0.1, PARTS[1])
    assert net.layers[-1].accuracy(PARTS[1][1]) == net.history.best_validation_accuracy


def test_successive_networks_differ_and_a_program_repeats_itself(monkeypatch, capsys):
    def program():
        monkeypatch.setattr(network3, "_networks", itertools.count())
        return [Network([FullyConnectedLayer(9, 4), SoftmaxLayer(4, 2)], 5).params[0].get_value() for _ in range(2)]

    first, again = program(), program()
    assert not np.array_equal(first[0], first[1])
    np.testing.assert_array_equal(first, again)
    seeded = Network([FullyConnectedLayer(9, 4), SoftmaxLayer(4, 2)], 5, seed=1)
    np.testing.assert_array_equal(seeded.params[0], first[1])


def test_a_layer_belongs_to_one_network(capsys):
    layer = FullyConnectedLayer(4, 3)
    with pytest.raises(InputError, match="A layer has numbers once it is in a Network"):
        layer.w
    Network([layer, SoftmaxLayer(3, 2)], 5)
    assert layer.w.shape == (4, 3)
    with pytest.raises(InputError, match=r"Layer 0 is in another network already\. Make a new layer for each network"):
        Network([layer, SoftmaxLayer(3, 2)], 5)


def test_save_and_load(tmp_path, net, capsys):
    net.SGD(PARTS[0], 1, 10, 0.1, PARTS[1])
    loaded = Network.load(net.save(tmp_path / "net"))
    np.testing.assert_array_equal(loaded.layers[0].w.get_value(), net.layers[0].w.get_value())
    np.testing.assert_array_equal(loaded.predict(PARTS[2][0]), net.predict(PARTS[2][0]))
    assert repr(loaded) == repr(net).replace("seed=1", "seed=0")
    assert "FullyConnectedLayer(784, 20)" in repr(net)


def test_layers_that_do_not_fit(capsys):
    with pytest.raises(
        InputError, match=r"Layer 1 \(SoftmaxLayer\(30, 10\)\) reads 30 numbers, but layer 0 .* writes 100"
    ):
        Network([FullyConnectedLayer(784, 100), SoftmaxLayer(30, 10)], 10)
    with pytest.raises(InputError, match=r"p_dropout must lie in \[0, 1\), got 1\.5"):
        FullyConnectedLayer(784, 100, p_dropout=1.5)
    with pytest.raises(InputError, match=r"got the string 'ReLU'\. Write fcnet\.ReLU"):
        FullyConnectedLayer(784, 100, activation_fn="ReLU")


def test_a_full_layer_may_be_last(capsys):
    net = Network([FullyConnectedLayer(784, 30), FullyConnectedLayer(30, 10)], 10)
    history = net.SGD(PARTS[0], 3, 10, 0.5, PARTS[1], cost=fcnet.quadratic)
    assert history.epochs[-1].training_cost < history.epochs[0].training_cost
    assert "Epoch 2: validation accuracy" in capsys.readouterr().out


def test_convolutions_are_elsewhere():
    message = "fcnet trains fully connected networks; it has no ConvPoolLayer. For the book's convolutional networks use Keras"
    with pytest.raises(InputError, match=re.escape(message)):
        ConvPoolLayer(image_shape=(10, 1, 28, 28), filter_shape=(20, 1, 5, 5), poolsize=(2, 2))


def test_names():
    for name in network3.__all__:
        assert hasattr(network3, name)
    assert ReLU(np.array([-1.0, 2.0])).tolist() == [0.0, 2.0]
    assert network3.linear(np.array([-1.0])).tolist() == [-1.0]
    assert network3.tanh(np.zeros(1)) == 0
    assert network3.sigmoid(np.zeros(1)) == 0.5


# --- dropout_layer ------------------------------------------------------------------------------------------------------


def test_dropout_layer_draws_a_mask_of_its_own_each_time():
    layer = np.ones((200, 300), np.float32)
    first, second = dropout_layer(layer, 0.3), dropout_layer(layer, 0.3)
    assert not np.array_equal(first, second)
    for dropped in (first, second):
        assert set(np.unique(dropped)) == {0, 1}
        assert dropped.mean() == pytest.approx(0.7, abs=0.01)
    assert np.mean(first == second) == pytest.approx(0.7**2 + 0.3**2, abs=0.01)  # independent
    np.testing.assert_array_equal(dropout_layer(layer, 0.0), layer)
    assert dropout_layer(np.ones((5, 4, 3)), 0.5).shape == (5, 4, 3)
    for p in (1.0, -0.1, None):
        with pytest.raises(InputError, match=r"dropout_layer: p_dropout must lie in \[0, 1\), got"):
            dropout_layer(layer, p)


# --- The flag -----------------------------------------------------------------------------------------------------------


def test_the_flag_s_messages(monkeypatch, capsys, net):
    assert capsys.readouterr().out == GPU_MESSAGE
    net.SGD(PARTS[0], 1, 10, 0.1, PARTS[1])
    assert "GPU" not in capsys.readouterr().out  # said once
    monkeypatch.setattr(network3, "GPU", False)
    net.SGD(PARTS[0], 1, 10, 0.1, PARTS[1])
    printed = capsys.readouterr()
    assert printed.out.startswith(CPU_MESSAGE + "Training mini-batch number 0\n")
    assert re.fullmatch(r"fcnet: engine \w+ on cpu \(as asked\)\n", printed.err)


def test_a_device_that_is_asked_for_wins(monkeypatch, capsys):
    monkeypatch.setattr("fcnet.engines.choose.usable_gpus", list)
    monkeypatch.setattr(network3, "GPU", False)
    net = Network([FullyConnectedLayer(784, 20), SoftmaxLayer(20, 10)], 10)
    with pytest.raises(fcnet.DeviceError, match="device='gpu' was asked for, but there is no GPU"):
        net.SGD(PARTS[0], 1, 10, 0.1, PARTS[1], device="gpu")


# --- Data ---------------------------------------------------------------------------------------------------------------


def check_parts(parts, expected):
    assert len(parts) == 3
    for (X, y), (expected_X, expected_y) in zip(parts, expected, strict=True):
        assert X.dtype == np.float32
        assert y.dtype == np.int32
        np.testing.assert_array_equal(X.get_value(), expected_X)
        np.testing.assert_array_equal(y.eval(), expected_y)
        assert size((X, y)) == len(expected_X)
        assert X.get_value(borrow=True).shape[0] == size((X, y))


def test_the_book_s_pickle(book):
    check_parts(network3.load_data_shared(), PARTS)
    check_parts(network3.load_data_shared(book / "data" / "mnist.pkl.gz"), PARTS)


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def test_a_folder_of_idx_files(tmp_path):
    random = np.random.default_rng(0)
    images = {"train": random.integers(0, 256, (60, 28, 28)), "t10k": random.integers(0, 256, (20, 28, 28))}
    labels = {name: random.integers(0, 10, len(some)) for name, some in images.items()}
    for name in images:
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx(images[name]))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[name])))
    X, test_X = ((images[name].reshape(-1, 784) / np.float32(255)).astype(np.float32) for name in ("train", "t10k"))
    y, test_y = labels["train"], labels["t10k"]
    check_parts(network3.load_data_shared(str(tmp_path)), [(X[:50], y[:50]), (X[50:], y[50:]), (test_X, test_y)])


def test_files_that_are_not_the_book_s(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "attacked"), "w"))

    with gzip.open(tmp_path / "mnist.pkl.gz", "wb") as file:
        pickle.dump(Attack(), file, protocol=2)
    with pytest.raises(FileError, match="open"):
        network3.load_data_shared(tmp_path / "mnist.pkl.gz")
    assert not (tmp_path / "attacked").exists()
    with pytest.raises(FileError, match="There is no file"):
        network3.load_data_shared(tmp_path / "nothing.pkl.gz")
