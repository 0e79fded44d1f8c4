"""Many threads predict while one trains; forked and spawned workers train."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import threading
import time

import numpy as np
import pytest

import fcnet
from fcnet.engines.native import engine as native
from fcnet.engines.native.ahead import entry

X = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def trained(epochs=3):
    network = fcnet.Network([fcnet.FullyConnectedLayer(6, 8), fcnet.SoftmaxLayer(8, 2)], 20)
    fcnet.train(network, (X, Y), epochs=epochs, engine="native", device="cpu", verbose=False)
    return network


@pytest.mark.parametrize("at_work", ["steps", "outputs"])
def test_an_error_of_one_thread_is_raised(monkeypatch, at_work):
    """And not lost, with the rows that the thread was to answer; nor do the others wait for it."""
    rows = np.ones((40_000, 6), np.float32)
    network = fcnet.Network([fcnet.FullyConnectedLayer(6, 300), fcnet.SoftmaxLayer(300, 2)], 20_000)

    def entry_without_memory(name, dtype):
        if name.startswith("steps.") and threading.current_thread() is not threading.main_thread():
            raise MemoryError
        return entry(name, dtype)

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(native, "entry", entry_without_memory)
    labels = np.zeros(len(rows), int)
    asked = {
        "steps": lambda: fcnet.train(network, (rows, labels), epochs=1, engine="native", device="cpu", verbose=False),
        "outputs": lambda: network.predict_proba(rows, engine="native", device="cpu"),
    }
    with pytest.raises(MemoryError):
        asked[at_work]()


@pytest.mark.parametrize("engine", ["native", "xla"])
def test_24_threads_predict_while_another_trains(engine):
    network = trained()
    expected = network.predict_proba(X, engine=engine)
    network = fcnet.Network(network.layers, 20)
    network.model, network.arrays = trained().model, trained().arrays  # nothing is started yet
    ended, wrong = threading.Event(), []

    def predict():
        for _ in range(20):
            if not np.array_equal(network.predict_proba(X, engine=engine), expected):
                wrong.append(1)

    def train():
        while not ended.is_set():
            trained(1)

    trainer = threading.Thread(target=train)
    trainer.start()
    threads = [threading.Thread(target=predict) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ended.set()
    trainer.join(60)
    assert not any(thread.is_alive() for thread in [trainer, *threads])
    assert wrong == []


def weights(_):
    return np.array(trained().arrays["layers.0.weights"])


def test_spawned_workers_train():
    """Forked ones stand in ``test_training.py``, loky's in ``estimators/test_dropin.py``."""
    expected = weights(None)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for found in pool.map_async(weights, range(3)).get(timeout=100):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("sizes", "batch", "share", "way"),
    [
        ((300, 400, 10), 64, 1.0, "advance"),
        ((20, 64, 64, 2), 256, 1.0, "advance_by_groups"),
        ((784, 100, 10), 10, 0.2, "advance_by_units"),
    ],
)
def test_a_training_interrupted_as_its_threads_start_leaves_none_behind(sizes, batch, share, way, monkeypatch):
    """They would wait at the first barrier for the thread that called, and the process would never end."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(4096, sizes[0])) * (rng.random((4096, sizes[0])) < share)).astype(np.float32)
    hidden = [fcnet.FullyConnectedLayer(n_in, n_out, fcnet.relu) for n_in, n_out in itertools.pairwise(sizes[:-1])]
    network = fcnet.Network([*hidden, fcnet.SoftmaxLayer(*sizes[-2:])], batch)
    left, used = [], []

    def interrupted(n_threads, work):
        if n_threads == 1:  # a few steps, to see how long they take
            work(0)
            return
        left.append(threading.Thread(target=work, args=(1,), daemon=True))
        left[0].start()
        time.sleep(0.05)  # it is at the barrier
        raise KeyboardInterrupt

    def noted(name, dtype):
        used.append(name)
        return entry(name, dtype)

    monkeypatch.setattr(native, "in_threads", interrupted)
    monkeypatch.setattr(native, "entry", noted)
    with contextlib.suppress(KeyboardInterrupt):
        fcnet.train(
            network, (X, rng.integers(sizes[-1], size=4096)), epochs=1, engine="native", n_threads=2, verbose=False
        )
    assert used[-1] == f"steps.{way}"
    left[0].join(20)
    assert not left[0].is_alive()
