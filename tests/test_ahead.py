"""Kernels compiled before they are used: by ``fcnet warmup``, and in a process beside the first training."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fcnet.engines.native import ahead

REPORT = """
import json
from fcnet.engines.native import ahead, linking
{call}
stats = {{kernel.dispatcher.__name__: kernel.dispatcher.stats for kernel in linking.KERNELS}}
found = {{name: [sum(own.cache_hits.values()), sum(own.cache_misses.values())] for name, own in stats.items()}}
print(json.dumps(found))
"""


def kernels_read_and_compiled(call):
    """For each kernel, how many of it a new process read from the cache, and how many it compiled."""
    command = [sys.executable, "-c", REPORT.format(call=call)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_the_process_beside_compiles_what_a_training_needs():
    """Were it other types of arguments, the training would compile all of it again, and nobody would notice."""
    kernels_read_and_compiled("ahead.compile_last_first('float32')")
    found = kernels_read_and_compiled(TRAINING)
    assert not {name for name, (_, compiled) in found.items() if compiled}
    expected = ("learn_lines", "write_table", "backward", "advance", "outputs", "evaluate", "count_nonzeros")
    assert all(found[name][0] == 1 for name in expected)


TRAINING = """
import fcnet, numpy as np
network = fcnet.Network([fcnet.FullyConnectedLayer(4, 3), fcnet.SoftmaxLayer(3, 2)], 2)
data = np.zeros((4, 4), np.float32), np.array([0, 1, 0, 1])
fcnet.train(network, data, data, epochs=1, engine="native", verbose=False)
network.predict(data[0])
"""


def test_after_a_warm_up_nothing_is_compiled():
    """For either type of numbers."""
    found = kernels_read_and_compiled("ahead.warm_up()")
    found = kernels_read_and_compiled("ahead.warm_up()")
    assert not {name for name, (_, compiled) in found.items() if compiled}
    assert {read for name, (read, _) in found.items() if name != "split_rows"} == {2}  # which reads no such number


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
