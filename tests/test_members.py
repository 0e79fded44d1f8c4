"""Several networks trained as one: each as if it were alone."""

from __future__ import annotations

import numpy as np
import pytest

import fcnet
from fcnet import loop
from fcnet.errors import InputError
from fcnet.members import train_members

TABLE = fcnet.TableLayer(3, 0, (4,))
LAYERS = (TABLE, fcnet.FullyConnectedLayer(TABLE.n_out, 9, fcnet.selu, parametric=True), fcnet.SoftmaxLayer(9, 3, 0.2))
FACTORS = fcnet.Factors({"biases": 0.1, "scales": 6.0}, dropout=fcnet.FlatCosine())


def rows(n_rows, seed):
    random = np.random.default_rng(seed)
    X = np.hstack([random.normal(size=(n_rows, 3)), random.integers(-1, 4, size=(n_rows, 1))]).astype(np.float32)
    return X, (X[:, 0] > 0).astype(np.int64) + (X[:, 3] > 1)


TRAIN, VALIDATION = rows(203, 0), rows(60, 1)


def networks(n=3):
    return [fcnet.Network(LAYERS, mini_batch_size=20, seed=seed) for seed in range(n)]


def options(**more):
    optimizer = fcnet.AdamW(fcnet.Cosine(0.02), beta_2=0.95)
    return {"epochs": 8, "optimizer": optimizer, "factors": FACTORS, "l2": 0.01, "device": "cpu", **more}


@pytest.mark.parametrize("engine", ["native", "xla"])
@pytest.mark.parametrize("patience", [None, 2])
def test_each_is_as_if_it_were_alone(monkeypatch, engine, patience):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    together, alone = networks(), networks()
    given = options(engine=engine, early_stopping=patience)
    histories = train_members(together, TRAIN, VALIDATION, **given)
    for network, other, history in zip(together, alone, histories, strict=True):
        expected = fcnet.train(other, TRAIN, VALIDATION, seed=other.seed, verbose=False, **given)
        assert network.history is history
        assert (history.best_epoch, history.best_steps) == (expected.best_epoch, expected.best_steps)
        assert history.ending == expected.ending
        costs = [[record.training_cost for record in one.epochs] for one in (history, expected)]
        np.testing.assert_allclose(*costs, rtol=1e-4)
        for name, array in other.arrays.items():
            np.testing.assert_allclose(network.arrays[name], array, rtol=1e-3, atol=1e-4)
            if engine == "native":
                assert network.arrays[name].tobytes() == array.tobytes()
    if patience:
        assert len({len(history.epochs) for history in histories}) > 1


def test_one_that_diverges_leaves_the_others_alone():
    together, alone = networks(2), networks(2)
    spoiled = {**together[0].arrays, "layers.1.biases": np.full(9, 3e38, np.float32)}
    together[0].arrays = spoiled
    given = options(engine="native")
    first, second = train_members(together, TRAIN, VALIDATION, **given)
    expected = fcnet.train(alone[1], TRAIN, VALIDATION, seed=1, verbose=False, **given)
    assert first.ending == "diverged"
    assert not together[0].trained
    assert second.best_epoch == expected.best_epoch
    assert together[1].arrays["layers.1.weights"].tobytes() == alone[1].arrays["layers.1.weights"].tobytes()


def test_a_time_budget_ends_them_all():
    together = networks(2)
    histories = train_members(together, TRAIN, VALIDATION, **options(time_budget=1e-9))
    assert [history.ending for history in histories] == ["time budget"] * 2
    assert [len(history.epochs) for history in histories] == [1, 1]


def test_networks_that_are_no_members():
    other = fcnet.Network([fcnet.SoftmaxLayer(4, 3)], 20)
    for given in ([], [*networks(1), other]):
        with pytest.raises(InputError, match=r"^Members must be networks with the same layers, at least one\.$"):
            train_members(given, TRAIN, **options())
