"""Trainings at the same time: how many, what Ctrl-C and errors do to the others, and that they change no result."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from fcnet import TabularClassifier
from fcnet.tabular import recipe
from fcnet.tabular.together import MOST_BYTES, at_once, share_out


@pytest.fixture
def hears_ctrl_c():
    """Python's own handler, where whoever runs the tests has set another."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("n_networks", "n_threads", "expected"),
    [(4, 1, 1), (4, 2, 2), (4, 3, 3), (4, 8, 4), (10, 16, 8), (2, 3, 1), (1, 4, 1)],
)
def test_networks_share_the_threads_evenly(n_networks, n_threads, expected):
    assert at_once(n_networks, 1000, n_threads) == expected
    assert at_once(n_networks, MOST_BYTES + 1, n_threads) == 1


def test_each_job_is_done_once_and_the_caller_does_its_part():
    done, together = [], threading.Barrier(2, timeout=60)

    def job(number, ends, calling):
        if number < 2:
            together.wait()  # the first two are under way at the same time
        done.append((number, calling, calling == (threading.current_thread() is threading.main_thread())))

    assert share_out(5, 2, job) is None
    assert sorted(number for number, _, _ in done) == [0, 1, 2, 3, 4]
    assert {number: calling for number, calling, _ in done if number < 2} == {0: True, 1: False}
    assert all(right for _, _, right in done)


@pytest.mark.parametrize("fails", ["calling", "other"])
def test_an_error_ends_the_others_and_is_answered(fails):
    begun, together = [], threading.Barrier(2, timeout=60)

    def job(number, ends, calling):
        begun.append(number)
        together.wait()
        if calling == (fails == "calling"):
            raise ValueError("a bad job")
        while True:
            ends.chunk_ends(1, 0.5)
            time.sleep(0.001)

    answer = share_out(9, 2, job)
    assert isinstance(answer, ValueError)
    assert sorted(begun) == [0, 1]


def test_ctrl_c_while_the_caller_waits_for_the_others(hears_ctrl_c):
    def job(number, ends, calling):
        while not calling:
            if waiting.is_set():
                waiting.clear()
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            if ends.told:
                time.sleep(0.2)
                ended.append(number)
            ends.chunk_ends(1, 0.5)
        waiting.set()

    waiting, ended = threading.Event(), []
    assert isinstance(share_out(2, 2, job), KeyboardInterrupt)
    assert len(ended) == 1  # it was waited for


def table(n=400):
    X = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    return X, (X[:, 0] * X[:, 1] > 0).astype(int)


def test_results_do_not_depend_on_how_many_train_at_once():
    X, y = table()
    models = [TabularClassifier("fast", random_state=0, n_threads=n).fit(X, y) for n in (1, 2)]
    assert [model._at_once for model in models] == [1, 2]
    for alone, beside in zip(*(model.members_ for model in models), strict=True):
        for name, array in alone.items():
            np.testing.assert_array_equal(array, beside[name])


def test_ctrl_c_ends_all_networks_and_keeps_the_best_of_each(monkeypatch, hears_ctrl_c):
    train, seen, told = recipe.train, {}, []

    def interrupted(network, *arguments, callbacks, **settings):
        def noted(record):
            seen[threading.current_thread().name] = record.epoch
            if threading.current_thread() is threading.main_thread() and len(seen) == 2 and not told:
                told.append("heard")
                signal.raise_signal(signal.SIGINT)

        return train(network, *arguments, callbacks=[*callbacks, noted], **settings | {"epochs": 1_000_000})

    monkeypatch.setattr(recipe, "train", interrupted)
    X, y = table()
    model = TabularClassifier("fast", random_state=0, n_threads=2)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert len(seen) == 2
    assert model.history_.ending == "interrupted"
    assert model.predict(X).shape == (400,)
