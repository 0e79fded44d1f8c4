"""The CUDA kernels as Numba compiles them, run on a GPU in Python (``ptx.py``) against the float64 reference.

Run by ``test_cuda.py`` where numba-cuda and its compiler are (``fcnet[gpu]``); no driver is needed. Simulators run a kernel's Python;
here is seen what became of it: types, addresses, what is one instruction, and which numbers cross when.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
from numba import types
from numba.cuda import api, compile, dispatcher

import ptx
import reference
from fcnet.activations import linear, sigmoid, tanh
from fcnet.costs import cross_entropy, log_likelihood, quadratic
from fcnet.engines.contract import initial_state
from fcnet.engines.cuda import device, inference, layout, memory, training
from fcnet.engines.cuda import engine as module
from fcnet.engines.cuda.device import Chip, load_compiler
from fcnet.engines.cuda.elementary import ACTIVATIONS
from fcnet.engines.cuda.engine import CudaEngine
from fcnet.initializers import glorot_uniform
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer
from fcnet.optimizers import SGD, Adam, AdamW, Momentum, Nesterov
from test_conformance import CPU, TOLERANCE, Case, assert_agrees, spoiled, worst

CAPABILITY = (9, 0)
TYPES = {np.dtype(name): getattr(types, name) for name in ("float32", "float64", "int32", "int64", "uint32", "uint64")}


@functools.cache
def compiled(kernel: object, signature: types.Type) -> str:
    """A kernel's PTX."""
    load_compiler()
    here = SimpleNamespace(compute_capability=CAPABILITY)
    dispatcher.get_current_device = api.get_current_device = lambda: here  # asked for where functions are compiled
    bounds = kernel.targetoptions["launch_bounds"]  # type: ignore[attr-defined]
    text, _ = compile(kernel.py_func, signature, device=False, abi="numba", cc=CAPABILITY, output="ptx", launch_bounds=bounds)  # type: ignore[attr-defined]  # fmt: skip
    assert ".maxntid" in text, "the compiler does not know how many threads there are"
    placed = re.findall(r"^\s*(.*?)\.shared \.align", text, re.MULTILINE)
    assert set(placed) == {".extern "}, (
        "what else lies in shared memory moves the rows, which begin at multiples of 16 bytes"
    )
    if signature.args[0].dtype == types.float32:
        assert ".f64" not in text, "a kernel in float32 computes in float64"
    return text


class Device:
    """In the place of a GPU: launches go to Python, arrays stay where they are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.gpu: ptx.Gpu | None = None
        monkeypatch.setattr(device, "is_simulated", lambda: True)
        monkeypatch.setattr(device, "launch", self.launch)
        self.has(3)

    def has(self, multiprocessors: int, shared_bytes: int = 227 << 10) -> None:
        """What its chip has."""
        self._patch.setattr(device, "SIMULATED", Chip(multiprocessors, shared_bytes))

    def launch(
        self, kernel: object, n_blocks: int, n_threads: int, n_bytes: int, arguments: tuple[object, ...]
    ) -> None:
        kinds = [
            types.Array(TYPES[one.dtype], one.ndim, "C") if isinstance(one, np.ndarray) else types.int64
            for one in arguments
        ]
        self.gpu = ptx.Gpu(compiled(kernel, types.void(*kinds)))
        self.gpu.launch(n_blocks, n_threads, n_bytes, arguments)


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch) -> Device:
    assert memory.copy.__module__ != memory.__name__, "numba-cuda is not whole"
    return Device(monkeypatch)


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


def test_one_buffer_and_one_block(chip):
    layers = FullyConnectedLayer(6, 7, tanh, 0.4), SoftmaxLayer(7, 3, 0.5, weights=glorot_uniform)
    case = Case(layers, log_likelihood, Adam(0.01), n_rows=14, batch=4, n_steps=6)
    places = layout.places_of(case.program("float64"), 4, 7, 1, labels=True)
    chip.has(1, 8 * places.end)
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
    chip.has(
        1, 4 * layout.places_of(program, 10, program.model.layers[0].n_out, buffers, labels=part.kind == "labels").end
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
    chip.has(4)
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
        chip.has(2, shared_bytes)
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
    whole = compiled

    def without(kernel: object, signature: types.Type) -> str:
        *before, after = whole(kernel, signature).split(old, which + 1)
        return old.join(before) + new + after

    monkeypatch.setitem(globals(), "compiled", without)
    with pytest.raises(AssertionError, match=message):
        assert_agrees(CudaEngine(threads=33), case, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_they_link_to_what_a_gpu_runs(dtype):
    """As Numba does it: optimized as a whole, with CUDA's own part for the barrier over the grid; without a driver."""
    nvjitlink = pytest.importorskip("cuda.bindings.nvjitlink")
    from numba.cuda.cudadrv.libs import get_cudalib

    number = getattr(types, dtype)
    row, integers = types.Array(number, 1, "C"), [types.int64]
    whole = {kind: types.Array(getattr(types, kind), 1, "C") for kind in ("int32", "uint32", "uint64", "int64")}
    tables = whole["int32"], row, whole["uint32"], whole["uint64"], row, whole["int64"]
    layers = FullyConnectedLayer(784, 100, sigmoid, 0.2), SoftmaxLayer(100, 10, 0.5)
    program = Case(layers, log_likelihood, AdamW(0.1)).program(dtype)
    for kernel, signature in (
        (
            training.kernel_of(program, True, 8),
            types.void(row, row, row, types.Array(number, 2, "C"), *tables, *7 * integers),
        ),
        (inference.kernel_of(dtype), types.void(row, row, types.Array(types.int64, 2, "C"), row, row, *5 * integers)),
    ):
        compiled(kernel, signature)  # what Numba asks a GPU for is answered from here on
        bounds = kernel.targetoptions["launch_bounds"]
        code, _ = compile(kernel.py_func, signature, device=False, abi="numba", cc=CAPABILITY, output="ltoir", launch_bounds=bounds)  # fmt: skip
        linker = nvjitlink.create(2, ["-arch=sm_90", "-lto"])
        try:
            nvjitlink.add_data(linker, nvjitlink.InputType.LTOIR, code, len(code), "kernel")
            nvjitlink.add_file(linker, nvjitlink.InputType.LIBRARY, get_cudalib("cudadevrt", static=True))
            nvjitlink.complete(linker)
            assert nvjitlink.get_linked_cubin_size(linker) > 1000
        finally:
            nvjitlink.destroy(linker)
