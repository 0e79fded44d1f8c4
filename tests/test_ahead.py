"""Kernels compiled before they are used: by ``fcnet warmup``, and in a process beside the first training."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fcnet.engines.native import ahead, library

REPORT = """
import json, sys
from fcnet.engines.native import ahead, library
made, make = [], library.make
library.make = lambda name, dtype: made.append(name) or make(name, dtype)
{call}
print(json.dumps([[name for name, _ in library._ADDRESSES], made, "numba" in sys.modules]))
"""


def kernels_read_and_compiled(call):
    """The kernels that a new process loads, those of them that it compiles, and whether it imports Numba."""
    command = [sys.executable, "-c", REPORT.format(call=call)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_the_process_beside_compiles_what_a_training_needs():
    """Then a training compiles nothing, and loads the kernels without Numba."""
    kernels_read_and_compiled("ahead.compile_last_first('float32')")
    loaded, compiled, with_numba = kernels_read_and_compiled(TRAINING)
    assert not compiled
    assert not with_numba
    expected = {"updates.learn_lines", "tables.write_table", "passes.backward", "steps.advance", "steps.outputs", "steps.evaluate", "lists.count_nonzeros"}  # fmt: skip
    assert expected <= set(loaded)


TRAINING = """
import fcnet, numpy as np
network = fcnet.Network([fcnet.FullyConnectedLayer(4, 3), fcnet.SoftmaxLayer(3, 2)], 2)
data = np.zeros((4, 4), np.float32), np.array([0, 1, 0, 1])
fcnet.train(network, data, data, epochs=1, engine="native", verbose=False)
network.predict(data[0])
"""


def test_after_a_warm_up_nothing_is_compiled():
    """For either type of numbers."""
    kernels_read_and_compiled("ahead.warm_up()")
    loaded, compiled, with_numba = kernels_read_and_compiled("ahead.warm_up()")
    assert not compiled
    assert not with_numba
    assert sorted(loaded) == sorted([*library.listed(), *library.listed()])


@pytest.mark.parametrize(
    ("executable", "threads", "mark", "starts"),
    [
        (sys.executable, "2", None, True),
        (sys.executable, "1", None, False),  # nobody would be quicker
        (sys.executable, "2", "1", False),  # this is the process beside
        ("/usr/bin/photo-editor", "2", None, False),  # a program with Python inside would be started anew
        (None, "2", None, False),
    ],
)
def test_when_a_process_beside_is_started(executable, threads, mark, starts, monkeypatch):
    started = []

    class Process:
        def __init__(self, command, env, **_):
            started.append((command, env))

        def wait(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setenv(ahead.BESIDE, mark) if mark else monkeypatch.delenv(ahead.BESIDE)
    ahead.compile_beside("float32")
    assert bool(started) == starts
    assert all(env[ahead.BESIDE] == "1" for _, env in started)


def test_a_process_that_cannot_be_started_is_no_error(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.delenv(ahead.BESIDE)
    ahead.compile_beside("float32")
