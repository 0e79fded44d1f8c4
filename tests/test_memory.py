"""What a training needs of memory is said before it starts."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fcnet
from fcnet import host, memory, training
from fcnet.engines.choose import Choice, engine_named
from fcnet.engines.contract import Placement
from fcnet.host import free_on_host, in_words
from fcnet.memory import MemoryPlan

X, Y = np.ones((50, 10), np.float32), np.arange(50) % 2


def fit(**options):
    network = fcnet.Network([fcnet.FullyConnectedLayer(10, 100), fcnet.SoftmaxLayer(100, 2)], 20)
    return training.train(network, (X, Y), epochs=1, optimizer=fcnet.Adam(), device="cpu", verbose=False, **options)


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch):
    """1,302 parameters of 4 bytes, twice, and two moments; a row has 10 inputs and twice 102 outputs."""
    monkeypatch.setattr(memory, "free_on", lambda choice: 4 * 1302 * 4 + 7 * 856)
    message = (
        "This training needs about 38 KB of memory on the cpu, of which 26.8 KB are free: data 0 bytes, parameters 10.4 KB, "
        "optimizer 10.4 KB, activations of 20 rows 17.1 KB. The largest mini-batch that would fit has 7 rows."
    )
    with pytest.raises(fcnet.OutOfMemoryError, match=re.escape(message)):
        fit()
    assert fit(mini_batch_size=7).ending == "finished"
    with pytest.raises(fcnet.OutOfMemoryError, match="would fit has 7 rows"):
        fit(mini_batch_size=8)
    monkeypatch.setattr(memory, "free_on", lambda choice: 1000)
    with pytest.raises(fcnet.OutOfMemoryError, match="No mini-batch would fit: train on fewer rows"):
        fit()


def test_data_of_another_type_is_copied(monkeypatch):
    monkeypatch.setattr(memory, "free_on", lambda choice: 0)
    with pytest.raises(fcnet.OutOfMemoryError, match=r"data 4 KB, .*"):
        fit(dtype="float64")


def test_the_host_beside_a_gpu():
    plan = MemoryPlan("gpu", 10, 10, 10, 1, 5, host=2000)
    plan.check(35, 2000)
    plan.check(None, None)
    with pytest.raises(fcnet.OutOfMemoryError, match=r"needs about 2 KB of the host's memory, of which 1 KB are free"):
        plan.check(35, 1000)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes."),
        RuntimeError("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"),
    ],
    ids=str,
)
def test_a_device_that_runs_out(monkeypatch, error):
    def advance(*_):
        raise error

    monkeypatch.setattr(engine_named("native"), "advance", advance)
    message = r"This training ran out of memory on the cpu\. It needs at least 38 KB: .*Use a smaller mini-batch"
    with pytest.raises(fcnet.OutOfMemoryError, match=message):
        fit(engine="native")


def test_other_errors_stay_what_they_are(monkeypatch):
    def advance(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(engine_named("native"), "advance", advance)
    with pytest.raises(ZeroDivisionError):
        fit(engine="native")


def test_what_is_free(monkeypatch, tmp_path):
    assert free_on_host() > 1 << 20
    for name, text in {
        "memory.max": "5000\n",
        "memory.current": "3000\n",
        "memory.stat": "anon 1\ninactive_file 500\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(host, "_CGROUP", tmp_path)
    assert free_on_host() == 2500
    (tmp_path / "memory.max").write_text("max\n")
    assert free_on_host() > 1 << 20


def test_what_is_free_on_a_gpu_is_asked_of_the_engine():
    placement = Placement("gpu", 1)
    knows = SimpleNamespace(free_memory=lambda place: 1000 * place.index)
    assert memory.free_on(Choice(knows, placement, "")) == 1000
    assert memory.free_on(Choice(SimpleNamespace(), placement, "")) is None


def test_a_system_that_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "_CGROUP", tmp_path)
    monkeypatch.setattr(host.Path, "read_text", lambda self: (_ for _ in ()).throw(FileNotFoundError))
    assert free_on_host() is None
    with (
        pytest.raises(
            fcnet.OutOfMemoryError, match=r"^It does not fit into the memory that this process may have\. Use"
        ),
        host.room_for("It", 1 << 40),
    ):
        raise MemoryError


def test_in_words():
    assert [in_words(n) for n in (0, 999, 1000, 1_234_567, 5 * 10**12)] == [
        "0 bytes",
        "999 bytes",
        "1 KB",
        "1.23 MB",
        "5 TB",
    ]


# --- What does not fit, before there is a training ------------------------------------------------------------------------


def test_a_network_that_does_not_fit():
    message = r"^A network of 1,000,001,000,000 parameters needs 4 TB of memory at least, of which .* are free\. Use a smaller one"
    with pytest.raises(fcnet.OutOfMemoryError, match=message):
        fcnet.Network([fcnet.SoftmaxLayer(10**6, 10**6)], 1)
    with pytest.raises(fcnet.OutOfMemoryError, match=r"needs 5\.58e\+30 TB"):
        fcnet.Network([fcnet.SoftmaxLayer(2**70, 2**70)], 1)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_the_estimators_have_a_plan_too(monkeypatch, solver):
    monkeypatch.setattr(memory, "free_on", lambda choice: 1000)
    message = r"^This training needs about .* of memory on the cpu, of which 1 KB are free: .*parameters 9\.61 KB"
    with pytest.raises(fcnet.OutOfMemoryError, match=message):
        fcnet.MLPClassifier((100,), solver=solver).fit(X, Y)
    with pytest.raises(fcnet.OutOfMemoryError, match=r"of which 1 KB are free: data "):
        fcnet.TabularClassifier("fast").fit(np.random.default_rng(0).normal(size=(50, 3)), Y)


IN_A_SMALL_PROCESS = """
import resource, sys
import numpy, polars
from fcnet.data.sources import load_data, load_rows
from fcnet.data.table import read_table
from fcnet.errors import OutOfMemoryError
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (200 << 20),) * 2)
try:
    {read}
except OutOfMemoryError as error:
    print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux how much memory it has taken")
@pytest.mark.parametrize("kind", ["idx", "npz", "pickle"])
def test_a_file_that_does_not_fit(tmp_path, kind):
    """300 MB of honest zeros, with 200 MB of address space left: an error with figures, and no other."""
    pixels = np.zeros((300_000, 1000), np.uint8)
    if kind == "idx":
        (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\2" + np.array(pixels.shape, ">u4").tobytes())
        with (tmp_path / "train-images-idx3-ubyte").open("r+b") as file:
            file.truncate(12 + pixels.size)
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\1" + np.array([300_000], ">u4").tobytes() + bytes(300_000)
        )
        path = tmp_path
    elif kind == "npz":
        path = tmp_path / "data.npz"
        np.savez_compressed(path, X=pixels, y=pixels[:, 0])
    else:
        path = tmp_path / "mnist.pkl"
        rows = np.zeros((75_000, 1000), np.float32)
        path.write_bytes(pickle.dumps(((rows, pixels[:75_000, 0]),) * 3, 2))
    program = IN_A_SMALL_PROCESS.format(read=f"load_data({str(path)!r})")
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert re.match(
        rf"The .* in {re.escape(str(path))}.* does not fit into the memory that this process may have", said
    )
    assert "Use a smaller one, or a machine with more memory." in said
