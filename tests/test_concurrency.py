"""Many threads predict while one trains; forked and spawned workers train."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest

import fcnet

X = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def trained(epochs=3):
    network = fcnet.Network([fcnet.FullyConnectedLayer(6, 8), fcnet.SoftmaxLayer(8, 2)], 20)
    fcnet.train(network, (X, Y), epochs=epochs, engine="native", device="cpu", verbose=False)
    return network


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
