"""The object a person holds: its numbers, its answers, and the article's SGD with its printed lines."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest

import fcnet
import reference
from fcnet import loop
from fcnet.errors import DivergenceError, FcnetError, InputError

FC, Softmax = fcnet.FullyConnectedLayer, fcnet.SoftmaxLayer
LAYERS = (FC(4, 8), Softmax(8, 3))


def blobs(n_rows, seed, spread=1.0):
    random = np.random.default_rng(seed)
    y = np.arange(n_rows) % 3
    return (np.eye(3, 4)[y] + spread * random.normal(size=(n_rows, 4))).astype(np.float32), y


TRAIN, VALIDATION, TEST = blobs(65, 1), blobs(33, 2), blobs(31, 3)


def small(seed=0, layers=LAYERS, mini_batch_size=10):
    return fcnet.Network(layers, mini_batch_size, seed)


# --- Making one ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ([FC(784, 100), Softmax(90, 10)], 10),
            "Layer 1 (SoftmaxLayer(90, 10)) reads 90 numbers, but layer 0 (FullyConnectedLayer(784, 100)) writes 100. "
            "Give layer 1 n_in=100, or layer 0 n_out=90.",
        ),
        (([], 10), "A network needs at least one layer, got an empty list."),
        ((FC(2, 2), 10), "layers must be a list of layers, got FullyConnectedLayer"),
        (([FC(2, 2), "softmax"], 10), "Layer 1 must be a FullyConnectedLayer or a SoftmaxLayer, got 'softmax'."),
        ((LAYERS, 0), "mini_batch_size must be a positive integer, got 0."),
        ((LAYERS, -5), "mini_batch_size must be a positive integer, got -5."),
        ((LAYERS, 2.5), "mini_batch_size must be a positive integer, got 2.5."),
        ((LAYERS, None), "mini_batch_size must be a positive integer, got None."),
        ((LAYERS, 10, -1), "seed must lie in [0, 2**64), got -1."),
        ((LAYERS, 10, 2**64), "seed must lie in [0, 2**64)"),
        ((LAYERS, 10, 1.5), "seed must be an integer, got 1.5."),
        ((LAYERS, 10, None), "seed must be an integer, got None."),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        fcnet.Network(*arguments)


def test_begins_as_the_article_says():
    network = fcnet.Network([FC(300, 200), Softmax(200, 10)], 10)
    (w, b), (softmax_w, softmax_b) = network.parameters
    assert w.shape == (300, 200)
    assert b.shape == (200,)
    assert w.dtype == b.dtype == np.float32
    assert w.std() == pytest.approx(np.sqrt(1 / 200), rel=0.02)
    assert b.std() == pytest.approx(1, rel=0.2)
    assert not softmax_w.any()
    assert not softmax_b.any()
    assert not network.trained
    assert network.history is None
    assert network.task == "classification"


def test_the_seed_decides_the_weights():
    same, other = small(seed=5), small(seed=6)
    assert small(seed=5).arrays["layers.0.weights"].tobytes() == same.arrays["layers.0.weights"].tobytes()
    assert not np.array_equal(same.arrays["layers.0.weights"], other.arrays["layers.0.weights"])


def test_repr_and_summary():
    network = fcnet.Network(
        [FC(784, 1000, fcnet.relu, 0.5), FC(1000, 100, fcnet.tanh), Softmax(100, 10, 0.25)], 10, seed=3
    )
    assert repr(network) == (
        "Network([FullyConnectedLayer(784, 1000), FullyConnectedLayer(1000, 100), SoftmaxLayer(100, 10)], "
        "mini_batch_size=10, seed=3)"
    )
    assert network.summary() == (
        "layer  type                 n_in   n_out  activation  p_dropout  parameters\n"
        "0      FullyConnectedLayer  784    1,000  relu        0.5        785,000\n"
        "1      FullyConnectedLayer  1,000  100    tanh        0          100,100\n"
        "2      SoftmaxLayer         100    10     softmax     0.25       1,010\n"
        "886,110 parameters"
    )


# --- Parameters ---------------------------------------------------------------------------------------------------------


def test_parameters_can_be_set():
    network, other = small(), small(seed=1)
    network.parameters = other.parameters
    np.testing.assert_array_equal(network.predict_proba(TEST[0]), other.predict_proba(TEST[0]))
    network.parameters = [(w.tolist(), b.tolist()) for w, b in small(seed=2).parameters]
    assert network.arrays["layers.0.weights"].dtype == np.float64  # Python's numbers are
    network.parameters = [(w.astype("float16"), b) for w, b in network.parameters]
    assert network.arrays["layers.0.weights"].dtype == np.float32


def test_parameters_are_copied_in():
    network = small()
    own = [(w.copy(), b.copy()) for w, b in network.parameters]
    network.parameters = own
    own[0][0][:] = 7
    assert not (network.parameters[0][0] == 7).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:1], "parameters must be one (w, b) a layer: expected 2, got 1."),
        (lambda p: [(p[0][0].T, p[0][1]), p[1]], "layers.0.weights must have shape (4, 8), got (8, 4)."),
        (lambda p: [p[0], (p[1][0], p[1][1][:, None])], "layers.1.biases must have shape (3,), got (3, 1)."),
        (lambda p: [p[0][0], p[1][0]], "parameters must be one (w, b) a layer, got ndarray for layer 0."),
        (lambda p: [p[0], (p[1][0],)], "parameters must be one (w, b) a layer, got tuple for layer 1."),
        (lambda p: [p[0], (p[1][0], ["a", "b", "c"])], "layers.1.biases must hold numbers, got an array of <U1."),
        (lambda p: [(p[0][0] * np.nan, p[0][1]), p[1]], "layers.0.weights contains NaN or infinity."),
        (lambda p: [p[0], (p[1][0], p[1][1] + np.inf)], "layers.1.biases contains NaN or infinity."),
    ],
)
def test_refused_parameters(change, message):
    network = small()
    before = network.arrays
    with pytest.raises(InputError, match=re.escape(message)):
        network.parameters = change(network.parameters)
    assert network.arrays is before


# --- Answers ------------------------------------------------------------------------------------------------------------

DROPOUT_LAYERS = (FC(4, 8, fcnet.tanh, 0.25), FC(8, 6, fcnet.relu), Softmax(6, 3, 0.5))


@pytest.fixture
def dropout_network():
    random = np.random.default_rng(0)
    network = small(layers=DROPOUT_LAYERS)
    network.parameters = [(random.normal(size=w.shape), random.normal(size=b.shape)) for w, b in network.parameters]
    return network


def test_answers_are_those_of_the_equations(dropout_network):
    X, y = TEST
    x = X.astype(np.float64)
    for (w, b), layer in zip(dropout_network.parameters, DROPOUT_LAYERS, strict=True):
        z = (1 - layer.p_dropout) * x @ w + b
        x = reference.activate(layer.activation_fn.name, z)
    np.testing.assert_allclose(dropout_network.predict_proba(X), x, atol=1e-12)
    np.testing.assert_array_equal(dropout_network.predict(X), x.argmax(axis=1))
    assert dropout_network.accuracy(X, y) == np.mean(x.argmax(axis=1) == y)
    assert dropout_network.cost(X, y) == pytest.approx(-np.log(x[np.arange(len(y)), y]).mean(), abs=1e-12)
    quadratic = 0.5 * ((x - np.eye(3)[y]) ** 2).sum(axis=1).mean()
    assert dropout_network.cost(X, y, cost=fcnet.quadratic) == pytest.approx(quadratic, abs=1e-12)
    assert dropout_network.predict(X).dtype == np.int64


def test_images_of_any_shape():
    network = small()
    X = TEST[0]
    np.testing.assert_array_equal(network.predict_proba(X.reshape(-1, 2, 2)), network.predict_proba(X))
    np.testing.assert_array_equal(network.predict_proba(X.tolist()[:1]), network.predict_proba(X[:1]))


@pytest.mark.parametrize("n_rows", [1, 2, 7, 8, 9, 1023, 1025, 100_000])
def test_any_number_of_rows(n_rows, dropout_network):
    X, y = np.resize(TEST[0], (n_rows, 4)), np.resize(TEST[1], n_rows)
    outputs = dropout_network.predict_proba(X)
    assert outputs.shape == (n_rows, 3)
    few = dropout_network.predict_proba(TEST[0])
    np.testing.assert_allclose(outputs[-1], few[(n_rows - 1) % len(few)], atol=1e-12)
    assert dropout_network.accuracy(X, y) == pytest.approx(np.mean(outputs.argmax(axis=1) == y), abs=1e-12)


def test_memory_is_bounded():
    """A hidden layer of 500,000 rows would take 1 GB; a block of rows is what is held."""
    network = fcnet.Network([FC(4, 512, fcnet.relu), Softmax(512, 2)], 10)
    X = np.ones((500_000, 4), np.float32)
    network.predict(X[:10])
    before = peak_memory()
    tracemalloc.start()
    network.predict(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
    assert peak_memory() - before < 400e6


def peak_memory():
    """The most this process has held, in bytes."""
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("X", [np.ones((5, 3)), np.ones((0, 4)), np.full((5, 4), np.nan), [["a"] * 4]])
def test_refused_rows(X):
    for answer in (small().predict, small().predict_proba):
        with pytest.raises(InputError, match="X "):
            answer(X)


@pytest.mark.parametrize("engine", ["native", "xla"])
@pytest.mark.parametrize("rows", [1, 40, 20_000])  # the last are two threads' work
@pytest.mark.parametrize("zeros", [0, 60], ids=["dense", "sparse"])
def test_a_number_that_is_none(monkeypatch, engine, rows, zeros):
    """Wherever it stands, and in whichever thread's rows; numbers that only sum up to infinity are answered."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    network = fcnet.Network([FC(80, 32), fcnet.SoftmaxLayer(32, 3)], 10)
    X = np.random.default_rng(0).normal(size=(rows, 80)).astype(np.float32)
    X[:, 10 : 10 + zeros] = 0.0
    for bad in (np.nan, np.inf, -np.inf):
        for row in {0, min(200, rows - 1), rows - 1}:
            wrong = X.copy()
            wrong[row, 79] = bad
            with pytest.raises(InputError, match=rf"X contains \w+ \(first at row {row}, column 79\)"):
                network.predict_proba(wrong, engine=engine, device="cpu")
    expected = network.predict_proba(X, engine=engine, device="cpu")
    X[-1, :5] = 2e38
    assert np.isfinite(network.predict_proba(X, engine=engine, device="cpu")).all()
    np.testing.assert_array_equal(network.predict_proba(X, engine=engine, device="cpu")[:-1], expected[:-1])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_code_that_is_no_number(kind):
    table = fcnet.TableLayer(n_plain=2, categories=(3,))
    network = fcnet.Network([table, fcnet.SoftmaxLayer(table.n_out, 2)], 10)
    X = np.zeros((9, 3), kind)
    X[2, 0] = X[5, 2] = np.nan
    with pytest.raises(InputError, match=r"X contains NaN \(first at row 2, column 0\)"):
        network.predict(X)


def test_questions_without_an_answer():
    network = fcnet.Network([FC(4, 3, fcnet.tanh)], 10)
    assert network.task == "regression"
    assert network.predict(TEST[0]).shape == (31, 3)
    message = (
        "predict_proba needs softmax or sigmoid outputs, but the last layer's activation is tanh. Use predict, or end"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        network.predict_proba(TEST[0])
    with pytest.raises(InputError, match=r"accuracy needs class labels; for values, use cost\(X, y\)"):
        network.accuracy(TEST[0], np.full((31, 3), 0.5))
    with pytest.raises(InputError, match="The cost log_likelihood needs softmax outputs"):
        network.cost(*TEST, cost=fcnet.log_likelihood)
    with pytest.raises(InputError, match=r"cost must be a cost such as fcnet\.quadratic, got 'quadratic'"):
        network.cost(*TEST, cost="quadratic")
    with pytest.raises(InputError, match=r"Unknown engine 'xa'\. Did you mean 'xla'"):
        network.predict(TEST[0], engine="xa")
    assert issubclass(InputError, FcnetError)


# --- SGD: the article's equations ---------------------------------------------------------------------------------------


def sgd_by_hand(network, X, y, epochs, eta, lmbda):
    """The article, line by line, for sigmoid and softmax layers, in float64."""
    size = network.mini_batch_size
    (w1, b1), (w2, b2) = [(w.astype(np.float64), b.astype(np.float64)) for w, b in network.parameters]
    num_training_batches = len(X) // size
    for _ in range(epochs):
        for i in range(num_training_batches):
            x, t = X[i * size : (i + 1) * size].astype(np.float64), np.eye(3)[y[i * size : (i + 1) * size]]
            a1 = 1 / (1 + np.exp(-(x @ w1 + b1)))
            z2 = a1 @ w2 + b2
            a2 = np.exp(z2) / np.exp(z2).sum(axis=1, keepdims=True)
            delta2 = (a2 - t) / size
            delta1 = delta2 @ w2.T * a1 * (1 - a1)
            decay = lmbda / num_training_batches
            w2, b2 = w2 - eta * (a1.T @ delta2 + decay * w2), b2 - eta * delta2.sum(axis=0)
            w1, b1 = w1 - eta * (x.T @ delta1 + decay * w1), b1 - eta * delta1.sum(axis=0)
    return [(w1, b1), (w2, b2)]


@pytest.mark.parametrize("lmbda", [0.0, 0.5])
def test_sgd_is_the_article_s(lmbda, capsys):
    network = small(seed=2)
    expected = sgd_by_hand(network, *TRAIN, epochs=10, eta=0.3, lmbda=lmbda)
    network.SGD(TRAIN, 10, 10, 0.3, None, None, lmbda)  # 65 rows: the last 5 are left out of every epoch
    for (w, b), (expected_w, expected_b) in zip(network.parameters, expected, strict=True):
        assert w.dtype == np.float32
        np.testing.assert_allclose(w, expected_w, atol=1e-4 * np.abs(expected_w).max())
        np.testing.assert_allclose(b, expected_b, atol=1e-4 * np.abs(expected_b).max())


def test_accuracy_counts_the_short_batch(capsys):
    """33 validation rows in batches of 10: the article's program left 3 out, its text does not."""
    network = small()
    history = network.SGD(TRAIN, 3, 10, 0.5, VALIDATION, TEST)
    assert history.best_validation_accuracy == np.mean(network.predict(VALIDATION[0]) == VALIDATION[1])
    assert history.test_accuracy == np.mean(network.predict(TEST[0]) == TEST[1])
    assert history.best_validation_accuracy * 33 == pytest.approx(round(history.best_validation_accuracy * 33))


def test_rows_of_the_last_short_batch_teach_nothing(capsys):
    X, y = TRAIN
    other = X.copy()
    other[60:] = 9
    networks = [small(), small()]
    for network, rows in zip(networks, (X, other), strict=True):
        network.SGD((rows, y), 2, 10, 0.5, VALIDATION)
    assert networks[0].parameters[0][0].tobytes() == networks[1].parameters[0][0].tobytes()


def test_dropout_follows_the_article(capsys):
    network = small(layers=(FC(4, 8, p_dropout=0.25), Softmax(8, 3, 0.5)))
    network.SGD(TRAIN, 3, 10, 0.5, VALIDATION)
    assert network.model.dropout_scaling == "inference"
    (w1, b1), (w2, b2) = [(w.astype(np.float64), b) for w, b in network.parameters]
    hidden = 1 / (1 + np.exp(-(0.75 * TEST[0] @ w1 + b1)))
    np.testing.assert_allclose(network.predict_proba(TEST[0]), reference.softmax(0.5 * hidden @ w2 + b2), atol=1e-6)


# --- SGD: the article's lines -------------------------------------------------------------------------------------------


def article_transcript(train, validation, test, epochs, eta, size=10):
    """What the article prints, with accuracies computed by hand after every epoch."""
    lines, best, best_iteration, test_accuracy = [], 0.0, None, None
    batches = len(train[0]) // size
    start = small(mini_batch_size=size)

    def accuracy(parameters, data):
        (w1, b1), (w2, b2) = parameters
        outputs = 1 / (1 + np.exp(-(data[0].astype(np.float64) @ w1 + b1))) @ w2 + b2
        return np.mean(outputs.argmax(axis=1) == data[1])

    for epoch in range(epochs):
        for iteration in range(epoch * batches, (epoch + 1) * batches):
            if iteration % 1000 == 0:
                lines.append("Training mini-batch number {0}".format(iteration))  # noqa: UP030, UP032  (the article's)
        parameters = sgd_by_hand(start, *train, epoch + 1, eta, 0.0)
        validation_accuracy = accuracy(parameters, validation)
        lines.append("Epoch {0}: validation accuracy {1:.2%}".format(epoch, validation_accuracy))  # noqa: UP030, UP032
        if validation_accuracy >= best:
            lines.append("This is the best validation accuracy to date.")
            best, best_iteration = validation_accuracy, iteration
            if test:
                test_accuracy = accuracy(parameters, test)
                lines.append("The corresponding test accuracy is {0:.2%}".format(test_accuracy))  # noqa: UP030, UP032
    lines.append("Finished training network.")
    lines.append("Best validation accuracy of {0:.2%} obtained at iteration {1}".format(best, best_iteration))  # noqa: UP030, UP032
    if test:
        lines.append("Corresponding test accuracy of {0:.2%}".format(test_accuracy))  # noqa: UP030, UP032
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("test", [TEST, None])
def test_transcript(test, capsys):
    history = small().SGD(TRAIN, 6, 10, 3.0, VALIDATION, test)
    printed = capsys.readouterr()
    transcript = article_transcript(TRAIN, VALIDATION, test, 6, 3.0)
    assert printed.out == transcript
    assert transcript.count("to date") < 6, "the rate must be so high that not every epoch is the best"
    assert printed.err.startswith("fcnet: engine ")
    assert printed.err.count("\n") == 1
    assert f"iteration {history.best_iteration}\n" in printed.out


def test_golden_transcript(capsys):
    """To the letter, with numbers that anyone can check: a network that is given the answer, and a rate of 0."""
    X = np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 5]
    network = fcnet.Network([FC(4, 4, fcnet.linear), Softmax(4, 4)], 10)
    network.parameters = [(np.eye(4), np.zeros(4))] * 2
    y = np.arange(20) % 4
    validation, test = (X, np.where(np.arange(20) < 3, (y + 1) % 4, y)), (X[:7], np.minimum(y[:7], 2))
    network.SGD((X, y), 2, 10, 0.0, validation, test)
    assert capsys.readouterr().out == (
        "Training mini-batch number 0\n"
        "Epoch 0: validation accuracy 85.00%\n"
        "This is the best validation accuracy to date.\n"
        "The corresponding test accuracy is 85.71%\n"
        "Epoch 1: validation accuracy 85.00%\n"
        "This is the best validation accuracy to date.\n"
        "The corresponding test accuracy is 85.71%\n"
        "Finished training network.\n"
        "Best validation accuracy of 85.00% obtained at iteration 3\n"
        "Corresponding test accuracy of 85.71%\n"
    )


@pytest.mark.parametrize("chunk", [None, ("FIRST_CHUNK", 1), ("FIRST_CHUNK", 1000), ("FIRST_CHUNK", 1001)])
def test_a_line_every_thousand_mini_batches(chunk, capsys, monkeypatch):
    if chunk:
        monkeypatch.setattr(loop, *chunk)
    X, y = blobs(1300, 7)
    small(mini_batch_size=1).SGD((X, y), 3, 1, 0.01, VALIDATION)
    lines = capsys.readouterr().out.splitlines()
    places = [line for line in lines if line.startswith(("Training mini-batch", "Epoch"))]
    assert [re.sub(r": validation.*", "", line) for line in places] == [
        "Training mini-batch number 0",
        "Training mini-batch number 1000",
        "Epoch 0",
        "Training mini-batch number 2000",
        "Epoch 1",
        "Training mini-batch number 3000",
        "Epoch 2",
    ]


def test_without_validation_data(capsys):
    network = small()
    history = network.SGD(TRAIN, 2, 10, 0.5, None, TEST)
    assert capsys.readouterr().out == "Training mini-batch number 0\nFinished training network.\n"
    assert history.best_epoch == 1
    assert history.test_accuracy == network.accuracy(*TEST)


def test_a_regression_prints_no_accuracy(capsys):
    X, _ = TRAIN
    network = fcnet.Network([FC(4, 1, fcnet.linear)], 10)
    network.SGD((X, X[:, 0]), 2, 10, 0.1, (X, X[:, 0]))
    assert capsys.readouterr().out == "Training mini-batch number 0\nFinished training network.\n"


# --- SGD: refusals and mishaps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (TRAIN, 1, 20, 0.1, VALIDATION),
            "SGD was given mini_batch_size=20, but the network was made with mini_batch_size=10. Give both the same number.",
        ),
        ((TRAIN, 1, "10", 0.1, VALIDATION), "mini_batch_size must be a positive integer, got '10'."),
        (
            (blobs(9, 0), 1, 10, 0.1, VALIDATION),
            "mini_batch_size=10 is larger than the training data, which has 9 rows.",
        ),
        ((TRAIN, 0, 10, 0.1, VALIDATION), "epochs must be a positive integer, got 0."),
        ((TRAIN, 1, 10, -0.1, VALIDATION), "A learning rate must be a finite number, 0 or above, got -0.1."),
        ((TRAIN, 1, 10, float("nan"), VALIDATION), "A learning rate must be a finite number, 0 or above, got nan."),
        ((TRAIN, 1, 10, "0.1", VALIDATION), "A learning rate must be a finite number, 0 or above, got '0.1'."),
        ((TRAIN, 1, 10, 0.1, VALIDATION, None, -1.0), "The L2 strength must be a finite number, 0 or above, got -1.0."),
        ((TRAIN[0], 1, 10, 0.1, VALIDATION), "training data must be (X, y) or (X, y, sample_weight), got ndarray."),
        ((TRAIN, 1, 10, 0.1, VALIDATION[0]), "validation data must be (X, y)"),
        ((TRAIN, 1, 10, 0.1, VALIDATION, (TEST[0], TEST[1] + 1)), "y of the test data has the label 3 in row 2"),
    ],
)
def test_refused_training(arguments, message, capsys):
    network = small()
    before = network.arrays
    with pytest.raises(InputError, match=re.escape(message)):
        network.SGD(*arguments)
    assert network.arrays is before
    assert capsys.readouterr().out == ""


def test_eta_of_a_million_stops_with_advice(capsys):
    network = small(layers=(FC(4, 8, fcnet.relu), FC(8, 8, fcnet.relu), Softmax(8, 3)))
    before = network.arrays["layers.0.weights"].copy()
    with pytest.raises(DivergenceError, match=r"The learning rate, 1e\+06, is probably too high: try 100000") as caught:
        network.SGD(TRAIN, 20, 10, 1e6, VALIDATION, TEST)
    assert f"NaN or infinite at step {caught.value.step} (epoch {caught.value.step // 6})" in str(caught.value)
    assert "Finished" not in capsys.readouterr().out
    if network.history is None:
        np.testing.assert_array_equal(network.arrays["layers.0.weights"], before)
    else:
        assert network.accuracy(*VALIDATION) == network.history.best_validation_accuracy


def test_time_budget(capsys):
    history = small().SGD(TRAIN, 1000, 10, 0.1, VALIDATION, time_budget=1e-6)
    assert history.ending == "time budget"
    assert "Finished training network." in capsys.readouterr().out


def test_one_network_may_be_trained_again(capsys):
    once, twice = small(), small()
    once.SGD(TRAIN, 2, 10, 0.1, None)
    for _ in range(2):
        twice.SGD(TRAIN, 1, 10, 0.1, None)
    assert once.parameters[0][0].tobytes() == twice.parameters[0][0].tobytes()


@pytest.mark.parametrize("dtype", ["float64", "longdouble"])
def test_numbers_beyond_what_the_network_computes_in_are_refused(dtype):
    X = np.zeros((3, 4), dtype)
    X[1] = np.finfo(dtype).max
    with pytest.raises(InputError, match=r"X contains .* \(first beyond float32 in row 1\)"):
        small().predict(X)
