"""The CUDA engine with a driver that runs the compiled kernels in Python (``driver.py``), against the float64 reference.

Run by ``test_cuda.py`` where numba-cuda and its compiler are (``fcnet[gpu]``) and a C compiler; no GPU is needed. Simulators run a kernel's
Python; here is seen what became of it, types, addresses, what is one instruction, and which numbers cross when; and all that the engine
says to the driver.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import ptx
import reference
import test_conformance
from driver import Driver
from fcnet.activations import linear, sigmoid, tanh
from fcnet.costs import cross_entropy, log_likelihood, quadratic
from fcnet.engines import stored
from fcnet.engines.contract import initial_state
from fcnet.engines.cuda import chunks, device, layout, library
from fcnet.engines.cuda import engine as module
from fcnet.engines.cuda.engine import CudaEngine
from fcnet.engines.cuda.kinds import ACTIVATIONS, kind_of, rows_kind_of
from fcnet.engines.cuda.library import Kernel, Word
from fcnet.initializers import glorot_uniform
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer
from fcnet.optimizers import SGD, Adam, AdamW, Momentum, Nesterov
from test_conformance import CPU, TOLERANCE, Case, assert_agrees, spoiled, worst

FAULTY: list[tuple[str, str, int]] = []
"""What is replaced in a kernel's text, by what, and the how manyth of them."""


@functools.cache
def whole_text(kernel: Kernel, takes: tuple[Word, ...], capability: tuple[int, int]) -> str:
    """A kernel's PTX, as it should be."""
    text = library.text_of(kernel, takes, capability)
    assert ".maxntid" in text, "the compiler does not know how many threads there are"
    placed = re.findall(r"^\s*(.*?)\.shared \.align", text, re.MULTILINE)
    assert set(placed) == ({".extern "} if takes else set()), (
        "what else lies in shared memory moves the rows, which begin at multiples of 16 bytes"
    )
    assert "float32" not in takes or ".f64" not in text, "a kernel in float32 computes in float64"
    return text


def as_text(kernel: Kernel, takes: Sequence[Word], capability: tuple[int, int]) -> tuple[bytes, bytes]:
    """In the place of machine code."""
    text = whole_text(kernel, tuple(takes), capability)
    (name,) = re.findall(r"\.visible\s+\.entry\s+(\w+)", text)
    for old, new, which in FAULTY:
        *before, after = text.split(old, which + 1)
        text = old.join(before) + new + after
    return name.encode(), text.encode()


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    return Driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def chip(driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """A GPU of three multiprocessors, whose code is text; what was compiled for an earlier one is forgotten."""
    monkeypatch.setattr(library, "compiled", as_text)
    monkeypatch.setattr(library, "folder", lambda: tmp_path)
    monkeypatch.setattr(
        test_conformance, "must_support", lambda engine, program: None
    )  # JAX sees no GPU, and is not asked
    launch = device.launch

    def launched(*arguments: Any, **more: Any) -> None:
        driver.error = None
        try:
            launch(*arguments, **more)
        except RuntimeError as error:
            raise driver.error or error from None

    monkeypatch.setattr(device, "launch", launched)
    device._function.cache_clear()
    has(driver, 3)
    yield driver
    device._function.cache_clear()


def has(chip: Driver, multiprocessors: int, shared_bytes: int = 227 << 10) -> None:
    """Another GPU."""
    chip.has(multiprocessors, shared_bytes)
    device._chip_of.cache_clear()


LASTS = {
    log_likelihood: SoftmaxLayer(7, 3, 0.5, weights=glorot_uniform),
    cross_entropy: FullyConnectedLayer(7, 3, sigmoid, 0.3, weights=glorot_uniform),
    quadratic: FullyConnectedLayer(7, 2, tanh, weights=glorot_uniform),
}
RULES = {"sgd": SGD(0.3), "momentum": Momentum(0.05), "nesterov": Nesterov(0.05), "adam": AdamW(0.01, weight_decay=0.1)}
EVERYTHING = [
    (*both, activation, batch)
    for both, activation, batch in zip(
        itertools.product(RULES, LASTS), itertools.cycle(ACTIVATIONS), itertools.cycle((4, 1, 10, 7, 16)), strict=False
    )
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rule", "cost", "activation", "batch"), EVERYTHING)
def test_agreement(chip, rule, cost, activation, batch, dtype):
    """Every update rule, cost, activation and group of rows; the last block has fewer units, the last batch fewer rows."""
    p = LASTS[cost].p_dropout
    layers = FullyConnectedLayer(8 if batch == 10 else 9, 7, activation, p / 2, weights=glorot_uniform), LASTS[cost]
    case = Case(layers, cost, RULES[rule], "training", 0.01, 3 * batch + 1, batch, 5, weighted=batch == 7)
    assert_agrees(CudaEngine(threads=40), case, dtype)


DEEP = {
    log_likelihood: (FullyConnectedLayer(7, 5, sigmoid, 0.2, weights=glorot_uniform), SoftmaxLayer(5, 3, 0.5, weights=glorot_uniform)),
    cross_entropy: (FullyConnectedLayer(7, 4, tanh, weights=glorot_uniform), FullyConnectedLayer(4, 3, sigmoid, weights=glorot_uniform)),
    quadratic: (FullyConnectedLayer(7, 2, tanh, weights=glorot_uniform),),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rule", "cost", "activation", "batch"), EVERYTHING)
def test_agreement_of_blocks_that_have_rows(chip, monkeypatch, rule, cost, activation, batch, dtype):
    """Two to three layers and more rows than blocks, or fewer; dropout where the last layers have some."""
    monkeypatch.setattr(chunks, "CROSSINGS", 0)
    first = FullyConnectedLayer(9, 7, activation, DEEP[cost][-1].p_dropout / 2, weights=glorot_uniform)
    case = Case((first, *DEEP[cost]), cost, RULES[rule], "training", 0.01, 3 * batch + 1, batch, 4, weighted=batch == 7)
    assert_agrees(CudaEngine(threads=40), case, dtype)


def test_no_hidden_layer(chip):
    case = Case((SoftmaxLayer(9, 4, weights=glorot_uniform),), log_likelihood, SGD(0.3), n_rows=31, batch=8, n_steps=6)
    assert_agrees(CudaEngine(threads=32), case, "float32")


def test_one_buffer_and_one_block(chip):
    layers = FullyConnectedLayer(6, 7, tanh, 0.4), SoftmaxLayer(7, 3, 0.5, weights=glorot_uniform)
    case = Case(layers, log_likelihood, Adam(0.01), n_rows=14, batch=4, n_steps=6)
    places = layout.places_of(case.program("float64"), 4, 7, 1, labels=True)
    has(chip, 1, 8 * places.end)
    assert_agrees(CudaEngine(threads=33), case, "float64")


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(("targets", "n_out"), [("labels", 50), ("values", 50), ("values", 3)])
def test_many_outputs(chip, monkeypatch, targets, n_out, early):
    """More than threads, whose rows some threads sum up for all; and targets that are values, with copies early and late."""
    monkeypatch.setattr(ptx, "EARLY", early)
    layers = FullyConnectedLayer(8, 5, tanh), SoftmaxLayer(5, n_out, weights=glorot_uniform)
    case = Case(layers, log_likelihood, SGD(0.3), n_rows=13, batch=4, n_steps=5)
    part = case.part()
    if targets == "values":
        y = np.random.default_rng(0).random((part.n_rows, n_out))
        part = dataclasses.replace(part, y=y / 2)
    assert_agrees(CudaEngine(threads=32), case, "float32", part)


@pytest.mark.parametrize("buffers", [1, 2])
def test_a_bad_step(chip, buffers):
    case, part = spoiled("nan")
    case = dataclasses.replace(case, n_steps=6)
    program, plan = case.program("float32"), case.plan()
    plan.rows[plan.rows == 29] = 28
    plan.rows[3, 4] = 29
    has(
        chip,
        1,
        4 * layout.places_of(program, 10, program.model.layers[0].n_out, buffers, labels=part.kind == "labels").end,
    )
    engine = CudaEngine(threads=32)
    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    report = engine.advance(run, engine.put(part, program, CPU), plan)
    assert report.bad_step == 3
    assert np.isfinite(report.costs[:3]).all()
    assert all(np.isfinite(array).all() for array in engine.snapshot(run).parameters.values())


def test_the_article(chip):
    """784-100-10, batch 10, two steps on four blocks of as many threads as on a GPU."""
    layers = FullyConnectedLayer(784, 100, sigmoid), SoftmaxLayer(100, 10)
    case = Case(layers, log_likelihood, SGD(0.1), n_rows=20, batch=10, n_steps=2)
    has(chip, 4)
    assert_agrees(CudaEngine(), case, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hidden", ACTIVATIONS)
def test_outputs(chip, monkeypatch, hidden, dtype):
    monkeypatch.setattr(module, "FEW_NUMBERS", 1)
    layers = (
        FullyConnectedLayer(9, 7, hidden, 0.2, weights=glorot_uniform),
        FullyConnectedLayer(7, 8, linear, 0.5, weights=glorot_uniform),
        SoftmaxLayer(8, 3, 0.5, weights=glorot_uniform),
    )
    case = Case(layers, log_likelihood, SGD(0.3), n_rows=41, n_steps=1)
    program, X = case.program(dtype), case.part().X
    engine = CudaEngine(threads=40)
    for shared_bytes in (227 << 10, np.dtype(dtype).itemsize * (4 * 9 + 4 * 40)):
        has(chip, 2, shared_bytes)
        run = engine.start(program, initial_state(program, case.parameters()), CPU)
        got = engine.forward(run, X)
        expected = reference.outputs(case.layers, case.parameters(), X, case.scaling)
        assert worst({"a": got}, {"a": expected}) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("old", "new", "which", "message"),
    [
        ("bar.sync \t0;", "", 4, "since the last barrier|between two barriers"),
        ("cp.async.wait_all;", "", 0, "nan"),  # of shared memory that nobody wrote
        ("st.relaxed.gpu.global.u64", "st.relaxed.gpu.global.b32", 0, "never comes"),
    ],
    ids=["a barrier", "a wait for copies", "a tag"],
)
def test_what_is_missing_is_found(chip, monkeypatch, old, new, which, message):
    """That the tests above could fail: the same code without it."""
    layers = FullyConnectedLayer(9, 7, tanh), SoftmaxLayer(7, 3)
    case = Case(layers, log_likelihood, SGD(0.3), n_rows=14, batch=4, n_steps=3)
    monkeypatch.setitem(globals(), "FAULTY", [(old, new, which)])
    with pytest.raises(AssertionError, match=message):
        assert_agrees(CudaEngine(threads=33), case, "float32")


def test_evaluation_is_the_kernels_and_the_hosts(chip):
    """Cost and accuracy, with weights and with targets of each kind, of sums that softmax would take to 0."""
    for last, cost in ((LASTS[log_likelihood], log_likelihood), (FullyConnectedLayer(7, 1, sigmoid), cross_entropy), (LASTS[quadratic], quadratic)):  # fmt: skip
        layers = FullyConnectedLayer(9, 7, tanh, 0.2), last
        case = Case(layers, cost, SGD(0.3), "inference", n_rows=31, batch=4, n_steps=1, weighted=True)
        program, part = case.program("float32"), case.part()
        part = dataclasses.replace(part, X=100 * part.X)
        engine = CudaEngine(threads=32)
        run = engine.start(program, initial_state(program, case.parameters()), CPU)
        got = engine.evaluate(run, engine.put(part, program, CPU))[0]
        expected = engine._general.evaluate(engine._fresh(run), engine._general.put(part, program, CPU))[0]
        assert got.cost == pytest.approx(expected.cost, rel=1e-5)
        assert (got.accuracy is None) == (expected.accuracy is None)
        assert got.accuracy is None or got.accuracy == pytest.approx(expected.accuracy)


def test_the_rest_of_the_contract(chip, monkeypatch):
    """Sparse rows, rows of weight 0 that hold NaN, other parameters, outputs in pieces and by another thread, and what is the general
    engine's, which is given the data once."""
    layers = FullyConnectedLayer(9, 7, tanh, 0.2), LASTS[log_likelihood]
    case = Case(layers, log_likelihood, Momentum(0.05), n_rows=31, batch=4, n_steps=3, density=0.3)
    program, part = case.program("float32"), case.part()
    weights = np.ones(31)
    weights[5] = 0.0
    engine, X = CudaEngine(threads=32), part.X.copy()
    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    sparse = engine.put(dataclasses.replace(part, X=scipy.sparse.csr_array(X)), program, CPU)
    engine.advance(run, sparse, case.plan())
    parameters, _, _ = case.expected()
    assert worst(engine.snapshot(run).parameters, parameters) < TOLERANCE["float32"]
    X[5] = np.nan
    spoiled_data = engine.put(dataclasses.replace(part, X=X, weights=weights), program, CPU)
    assert not np.isnan(device_numbers(spoiled_data.X)).any()

    outputs = reference.outputs(case.layers, parameters, part.X, case.scaling)
    for bytes_at_a_time, few in ((1 << 20, 1 << 14), (4 * 9 * 6, 1), (4 * 9 * 6, 1 << 14)):
        monkeypatch.setattr(module, "CHUNK_BYTES", bytes_at_a_time)
        monkeypatch.setattr(module, "FEW_NUMBERS", few)
        run.few = None
        assert worst({"a": engine.forward(run, part.X)}, {"a": outputs}) < TOLERANCE["float32"]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda row: engine.forward(run, part.X[row : row + 1]), range(4)))
    assert worst({"a": np.concatenate(answers)}, {"a": outputs[:4]}) < TOLERANCE["float32"]

    data = engine.put(part, program, CPU)
    _, _, gradient = reference.cost_and_gradient(
        case.layers, parameters, part.X, part.y, "log_likelihood", case.scaling, None, 0.0
    )
    assert worst(engine.cost_and_gradient(run, data)[1], gradient) < TOLERANCE["float32"]
    once = data.general
    monkeypatch.setattr(module, "COSTS", ())  # as if the cost were somebody's own
    cost, _ = reference.evaluate(case.layers, parameters, part.X, part.y, "log_likelihood", case.scaling)
    assert engine.evaluate(run, data)[0].cost == pytest.approx(cost, rel=1e-5)
    assert data.general is once
    other = dataclasses.replace(case, seed=7).parameters()
    engine.replace(run, other)
    assert worst(engine.snapshot(run).parameters, other) < 1e-7
    assert (
        worst({"a": engine.forward(run, part.X)}, {"a": reference.outputs(case.layers, other, part.X, case.scaling)})
        < 1e-5
    )


def device_numbers(array: Any) -> Any:
    with device.on(CPU):
        return device.to_host(array)


def test_what_a_driver_refuses(chip):
    """More blocks than wait for each other at once, and more memory than there is."""
    layers = FullyConnectedLayer(9, 7, tanh), SoftmaxLayer(7, 3)
    case = Case(layers, log_likelihood, SGD(0.3), n_rows=14, batch=4, n_steps=3)
    device.chip(CPU)
    chip.has(2)  # and the engine has seen three
    with pytest.raises(RuntimeError, match="cuLaunchCooperativeKernel with CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE"):
        assert_agrees(CudaEngine(threads=33), case, "float32")
    with device.on(CPU), pytest.raises(RuntimeError, match="cuMemAlloc with CUDA_ERROR_OUT_OF_MEMORY"):
        device.room(1 << 60, np.float32)
    with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_CONTEXT"):
        device.room(4, np.float32)


def test_a_driver_that_is_too_old(chip):
    look = device._missing.__wrapped__
    chip.has(3, version=11080)
    assert look().startswith("the NVIDIA driver is made for CUDA 11, and numba-cuda's libraries here for CUDA 1")
    chip.has(3)
    assert look() is None
    assert device.gpus() == ["no GPU"]


def test_memory_is_given_back(chip):
    with device.on(CPU):
        whole = device.to_device(np.arange(10, dtype=np.float32))
        part = whole[3:7]
        address = whole.address
        del whole
        assert device.to_host(part).tolist() == [3, 4, 5, 6]
        chip._find(address, 4)
        del part
        with pytest.raises(ptx.Fault):
            chip._find(address, 4)
        here, there = device.mapped(4, np.float64)
        here[:] = 5.0
        assert device.to_host(there).tolist() == [5.0] * 4
        del there
        assert here.sum() == 20.0  # its memory is still there


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_they_become_what_a_gpu_runs(driver, tmp_path, monkeypatch, dtype):
    """Machine code, which is found on the disk by the next process, without Numba."""
    monkeypatch.setattr(library, "folder", lambda: tmp_path)
    layers = FullyConnectedLayer(784, 100, sigmoid, 0.2), SoftmaxLayer(100, 10, 0.5)
    program = Case(layers, log_likelihood, AdamW(0.1)).program(dtype)
    kind = kind_of(program, True, 8)
    tables = "int32", dtype, "uint32", "uint64", dtype, "int64"
    for kernel, takes in (
        (chunks.units_kernel(kind), (*4 * [dtype], *tables, *8 * [None])),
        (chunks.rows_kernel(rows_kind_of(program, True)), (*4 * [dtype], *tables, "int64", *8 * [None])),
        (module._outputs(dtype), (dtype, dtype, "int64", dtype, dtype, *5 * [None])),
    ):
        with device.on(CPU):
            name, code = library.code_of(kernel, takes, (9, 0))
        assert code.startswith(b"\x7fELF")
        assert name in code
        assert stored.read(tmp_path / f"{kernel.name}.sm_90") == (name, code)
        monkeypatch.setattr(library, "compiled", None)
        assert library.code_of(kernel, takes, (9, 0)) == (name, code)
        monkeypatch.undo()
        monkeypatch.setattr(library, "folder", lambda: tmp_path)


A_TRAINING = """
import json, pathlib, re, sys
from driver import Driver
driver = Driver(pathlib.Path(sys.argv[1]))
from fcnet.engines import gpus
from fcnet.engines.cuda import library

gpus._driver = lambda: (580, 65)

def as_text(kernel, takes, capability):
    text = library.text_of(kernel, takes, capability)
    return re.search(r"\\.entry\\s+(\\w+)", text)[1].encode(), text.encode()

library.compiled = as_text
import numpy as np
import fcnet
y = np.arange(40) % 3
X = (np.eye(3, 4)[y] + 0.1 * np.random.default_rng(0).normal(size=(40, 4))).astype(np.float32)
network = fcnet.Network([fcnet.FullyConnectedLayer(4, 5), fcnet.SoftmaxLayer(5, 3, 0.2)], 10)
history = fcnet.train(network, (X, y), (X, y), test=(X, y), epochs=2, device="gpu", verbose=False)
digits = network.predict_proba(X[:3], device="gpu").tolist()
loaded = [name for name in ("numba", "jax") if name in sys.modules]
print(json.dumps([history.engine, history.epochs[-1].validation_cost, digits, loaded]))
"""


def test_a_later_process_needs_neither_numba_nor_jax(tmp_path):
    """A whole training, with validation, test and predictions, where the kernels' code is on the disk."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("JAX_PLATFORMS", None)  # as one that hides GPUs
    command = [sys.executable, "-c", A_TRAINING, str(tmp_path)]
    runs = []
    for _ in range(2):
        answer = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        runs.append(json.loads(answer.stdout))
    (engine, cost, outputs, first), (*again, later) = runs
    assert engine == "cuda"
    assert 0 < cost < 1.1
    assert (first, later) == (["numba"], [])
    assert again == [engine, cost, outputs]
