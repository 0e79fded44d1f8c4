"""Any sequence of training, killing, damaging, extending and resuming ends with the bytes of one training of as many epochs."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import fcnet
from fcnet import checkpoint as checkpoints
from fcnet import loop, training
from fcnet.checkpoint import load_checkpoint
from fcnet.errors import FileError
from fcnet.history import Observer
from fcnet.keeper import Keeper, checkpoint_files, newest_checkpoint

X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
DATA = X, np.arange(20) % 2
LAYERS = (fcnet.FullyConnectedLayer(3, 4, p_dropout=0.2), fcnet.SoftmaxLayer(4, 2))
STEPS = 4


class Killed(BaseException):
    """The process is gone."""


class Kill(Observer):
    def __init__(self, step):
        self.step = step

    def chunk_starts(self, step, n_steps):
        if step >= self.step:
            raise Killed


def train(epochs, callbacks=(), **places):
    network = fcnet.Network(LAYERS, mini_batch_size=5)
    history = training.train(
        network, DATA, DATA, epochs=epochs, optimizer=fcnet.Adam(0.03), l2=0.1, engine="native", device="cpu", n_threads=1,
        verbose=False, callbacks=callbacks, **places,
    )  # fmt: skip
    figures = [(r.epoch, r.training_cost, r.validation_cost, r.validation_accuracy) for r in history.epochs]
    return {name: array.tobytes() for name, array in network.arrays.items()}, figures, history.best_epoch


@functools.cache
def whole(epochs):
    return train(epochs)


def write_at_once(self, take, occasion):
    self._taken = take()
    self._write(self._taken)


class Trainings(RuleBasedStateMachine):
    """One run folder, and what happens to it."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="fcnet-machine-"))
        self.epochs = 2
        self.patches = [
            mock.patch.object(loop, "FIRST_CHUNK", 1),
            mock.patch.object(loop, "CHUNK_SECONDS", 0.0),
            mock.patch.object(Keeper, "state_is_whole", write_at_once),
        ]
        for patch in self.patches:
            patch.start()

    def teardown(self):
        for patch in self.patches:
            patch.stop()
        shutil.rmtree(self.folder)

    def places(self):
        return {"resume" if checkpoint_files(self.folder) else "checkpoint": self.folder}

    def two_are_whole(self):
        try:
            return len([load_checkpoint(file) for file in checkpoint_files(self.folder)]) == 2
        except FileError:
            return False

    @rule()
    def finish(self):
        assert train(self.epochs, **self.places()) == whole(self.epochs)

    @rule(step=st.integers(0, 24))
    def kill(self, step):
        try:
            assert train(self.epochs, [Kill(step)], **self.places()) == whole(self.epochs)
        except Killed:
            assert newest_checkpoint(self.folder).state.step >= min(step, 1)

    @rule(call=st.integers(1, 12), after=st.booleans())
    def kill_while_a_checkpoint_is_written(self, call, after):
        calls, replace = iter(range(1, 1000)), checkpoints.os.replace

        def crash(*names):
            if next(calls) != call:
                return replace(*names)
            if after:
                replace(*names)
            raise Killed

        with mock.patch.object(checkpoints.os, "replace", crash), contextlib.suppress(Killed):
            assert train(self.epochs, **self.places()) == whole(self.epochs)

    @precondition(lambda self: self.two_are_whole())
    @rule(place=st.floats(0, 0.999))
    def damage(self, place):
        newest = checkpoint_files(self.folder)[0]
        content = bytearray(newest.read_bytes())
        content[int(place * len(content))] ^= 0x15
        newest.write_bytes(content)

    @precondition(lambda self: self.epochs < 6)
    @rule()
    def extend(self):
        self.epochs += 1

    @precondition(lambda self: checkpoint_files(self.folder))
    @rule()
    def train_something_else(self):
        with pytest.raises(fcnet.InputError, match="cannot be resumed"):
            training.train(
                fcnet.Network(LAYERS, mini_batch_size=5),
                DATA,
                epochs=2,
                resume=self.folder,
                engine="native",
                verbose=False,
            )

    @invariant()
    def something_loads(self):
        if checkpoint_files(self.folder):
            newest_checkpoint(self.folder)


Trainings.TestCase.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
TestTrainings = Trainings.TestCase
