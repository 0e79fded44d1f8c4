"""The CUDA engine where there is no GPU: in Numba's simulator, in several blocks, and what it says it cannot do."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

import blocks
import driver
import reference
from fcnet.activations import linear, mish, relu, tanh
from fcnet.costs import absolute, cross_entropy, log_likelihood, quadratic
from fcnet.engines import choose
from fcnet.engines.contract import Placement, Program, initial_state
from fcnet.engines.cuda import chunks, device, layout, library, tiles
from fcnet.engines.cuda import engine as module
from fcnet.engines.cuda.device import Chip
from fcnet.engines.cuda.engine import CudaEngine
from fcnet.engines.xla import engine as xla
from fcnet.engines.xla.engine import XlaEngine
from fcnet.errors import InputError
from fcnet.initializers import glorot_uniform
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer
from fcnet.model import Model
from fcnet.optimizers import ADAM_RULE, SGD, SGD_RULE, AdamW, Momentum
from test_conformance import CPU, Case, assert_same_bytes, chunk_of, worst

HOPPER = Chip(multiprocessors=132, shared_bytes=227 << 10)
GPU = Placement("gpu")


def test_in_the_simulator():
    """In a process of its own, since Numba decides at its import whether it simulates."""
    here = Path(__file__).parent
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "simulated_cuda.py"],
        cwd=here, env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.skipif(
    not driver.can_be_made(), reason="needs a C compiler and numba-cuda's: pip install 'numba-cuda[cu12]'"
)
def test_as_compiled():
    """In a process of its own, since it has a driver of its own."""
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "compiled_cuda.py"],
        cwd=Path(__file__).parent, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.fixture
def hopper(monkeypatch):
    """As if there were a GPU."""
    monkeypatch.setattr(device, "chip", lambda placement: HOPPER)
    monkeypatch.setattr(device, "missing", lambda: None)
    monkeypatch.setattr(xla.XlaEngine, "why_no_gpu", lambda self, n=1: None)
    return CudaEngine()


def network(*sizes, hidden=relu, last=SoftmaxLayer, p=0.0, rule=SGD_RULE, cost=log_likelihood, **options):
    layers = [FullyConnectedLayer(n_in, n_out, hidden, p) for n_in, n_out in itertools.pairwise(sizes[:-1])]
    return Program(Model((*layers, last(*sizes[-2:]))), cost, rule, **options)


ARTICLE = network(784, 100, 10)


@pytest.mark.parametrize(
    ("program", "placement", "reason"),
    [
        (ARTICLE, Placement("cpu"), "it runs on GPUs only."),
        (ARTICLE, Placement("gpu", shards=2), "it runs on one GPU; the engine xla shares a batch out."),
        (dataclasses.replace(ARTICLE, members=2), GPU, "it trains one network at a time."),
        (dataclasses.replace(ARTICLE, precision="bf16"), GPU, "it multiplies float32 and float64 numbers; the engine xla rounds to bf16."),
        (network(784, 100, 100, 10), GPU, "the weights do not fit into the chip's shared memory."),
        (network(20, 64, 64, 100), GPU, "the weights do not fit into the chip's shared memory."),
        (network(784, 30, 10, hidden=mish), GPU, "the activation mish of layer 0 is not among its own; the engine xla takes any."),
        (network(9, 5, 2, last=FullyConnectedLayer, cost=absolute), GPU, "the cost absolute of sigmoid outputs is not among its own"),
        (network(9, 5, 2, cost=quadratic), GPU, "the cost quadratic of softmax outputs is not among its own"),
        (network(784, 100_000, 10), GPU, "the weights do not fit into the chip's shared memory."),
    ],
)  # fmt: skip
def test_what_it_cannot_do(hopper, program, placement, reason):
    assert hopper.supports(program, placement).startswith(reason)


@pytest.mark.parametrize(
    "program",
    [
        ARTICLE,
        network(784, 100, 10, p=0.5, rule=ADAM_RULE),
        network(20, 64, 2, last=FullyConnectedLayer, cost=cross_entropy),
        network(20, 64, 2, last=lambda i, o: FullyConnectedLayer(i, o, linear), cost=quadratic),
        network(784, 10),
        network(20, 64, 64, 2, p=0.5, rule=ADAM_RULE),
        network(64, 64, 64, 64, 10),
    ],
)
def test_what_it_can_do(hopper, program):
    assert hopper.supports(program, GPU) is None


def test_an_older_gpu_asks_but_does_not_train(hopper, monkeypatch):
    monkeypatch.setattr(device, "chip", lambda placement: dataclasses.replace(HOPPER, capability=(7, 5)))
    assert hopper.supports(ARTICLE, GPU) == "training needs compute capability 8.0; this GPU has 7.5."
    assert hopper.answers(ARTICLE, GPU) is None
    monkeypatch.setattr(choose, "usable_gpus", lambda: ["T4"])
    choice = choose.choose("auto", "auto", ARTICLE, mini_batch_size=10)
    assert str(choice) == "engine xla on gpu (T4; not cuda: training needs compute capability 8.0; this GPU has 7.5.)"


@pytest.fixture
def numba_cuda(monkeypatch, tmp_path):
    """As if it were installed, and a GPU there, and nothing were known of them; what the driver loads."""
    loaded = []

    def call(name, *arguments):
        loaded.append(name)
        return {"cuDriverGetVersion": 99000}.get(name)

    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=None))
    monkeypatch.setattr(device, "on", lambda placement: contextlib.nullcontext())
    monkeypatch.setattr(device, "_call", call)
    monkeypatch.setattr(device, "_driver", MagicMock())
    monkeypatch.setattr(device, "_chip_of", lambda index: HOPPER)
    monkeypatch.setattr(library, "folder", lambda: tmp_path)
    monkeypatch.setitem(sys.modules, "cuda.core", MagicMock())
    for cached in (device._missing, device._function):
        monkeypatch.setattr(device, cached.__name__, cached.__wrapped__)
    return loaded


def test_without_numba_cuda(numba_cuda, monkeypatch):
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)
    assert CudaEngine().supports(ARTICLE, GPU) == "it needs numba-cuda; install it with: pip install 'fcnet[gpu]'."


def test_a_numba_cuda_that_does_not_work(numba_cuda, monkeypatch):
    """It is another engine's turn then, with the reason; not the end of a training."""

    def broken():
        raise AttributeError("module 'numpy' has no attribute 'row_stack'\nmore")

    monkeypatch.setattr(library, "load_compiler", broken)
    reason = "numba-cuda does not work here (AttributeError: module 'numpy' has no attribute 'row_stack'); install it anew with: pip install 'fcnet[gpu]'."
    assert CudaEngine().supports(ARTICLE, GPU) == reason
    monkeypatch.setattr(choose, "usable_gpus", lambda: ["H200"])
    monkeypatch.setattr(xla.XlaEngine, "why_no_gpu", lambda self, n=1: None)
    monkeypatch.setattr(choose, "engine_named", lambda name: CudaEngine() if name == "cuda" else XlaEngine())
    for batch in (10, None):
        assert (
            str(choose.choose("auto", "auto", ARTICLE, mini_batch_size=batch))
            == f"engine xla on gpu (H200; not cuda: {reason})"
        )


def test_instructions_that_this_numba_cuda_does_not_take(numba_cuda, monkeypatch):
    from fcnet.engines.cuda.kernels import memory

    monkeypatch.setattr(memory, "broken", "ImportError: no intrinsic")
    monkeypatch.setattr(library, "text_of", lambda kernel, takes, capability: kernel.make())
    assert device._missing().startswith("numba-cuda does not work here (RuntimeError: ImportError: no intrinsic)")


def test_a_linker_that_refuses(numba_cuda, monkeypatch):
    monkeypatch.setattr(library, "text_of", lambda *arguments: ".visible .entry nothing()")
    linker = MagicMock(side_effect=RuntimeError("Unsupported .version 9.5"))
    monkeypatch.setitem(sys.modules, "cuda.core", MagicMock(Linker=linker))
    assert device._missing().startswith("numba-cuda does not work here (RuntimeError: Unsupported .version 9.5)")


def test_one_that_works_is_loaded_from_the_disk_the_next_time(numba_cuda, monkeypatch):
    monkeypatch.setattr(library, "compiled", lambda kernel, takes, capability: (b"nothing", b"code"))
    assert device._missing() is None
    monkeypatch.setattr(library, "compiled", None)
    assert device._missing() is None
    assert numba_cuda.count("cuModuleLoadData") == 2


def test_threads_are_what_the_kernels_may_have():
    engine = CudaEngine(threads=4096)
    assert (engine._threads, engine._answer_threads) == (256, 512)


def test_where_it_pays(hopper):
    """Small batches of small networks; a batch that does not fit on the chip is another engine's."""
    assert hopper.pays(ARTICLE, 10, GPU)
    assert hopper.pays(network(20, 64, 2), 256, GPU)
    assert hopper.pays(network(20, 64, 64, 2), 2048, GPU)
    assert not hopper.pays(network(20, 64, 64, 2), 4096, GPU)
    assert not hopper.pays(ARTICLE, 512, GPU)
    assert not hopper.pays(network(784, 1024, 10), 32, GPU)


@pytest.mark.parametrize(
    ("program", "batch", "way"),
    [
        (ARTICLE, 10, "units"),
        (ARTICLE, 128, None),  # neither that many rows fit, nor all weights
        (network(20, 64, 2), 10, "units"),
        (network(20, 64, 2), 256, "rows"),
        (network(20, 64, 64, 2), 1, "rows"),
        (network(784, 2000, 10), 1, "units"),
    ],
)
def test_what_blocks_have(program, batch, way):
    assert chunks.way_of(program, batch, CudaEngine()._most(HOPPER)) == way


@pytest.mark.parametrize(
    ("batch", "blocks", "shares"),
    [(256, 132, (128, 2, 45)), (133, 132, (67, 2, 85)), (132, 132, (132, 1, 43)), (10, 132, (10, 1, 564)), (7, 3, (3, 3, 1878)), (1, 132, (1, 1, 5634))],
)  # fmt: skip
def test_rows_and_parameters_of_each_block(batch, blocks, shares):
    assert layout.shares_of(network(20, 64, 64, 2), batch, blocks) == shares


@pytest.mark.parametrize(
    ("blocks", "n_hidden", "division"),
    [(None, 100, (100, 1)), (None, 300, (100, 3)), (25, 100, (25, 4)), (7, 5, (5, 1))],
)
def test_hidden_units_of_each_block(blocks, n_hidden, division):
    assert chunks.units_of(n_hidden, CudaEngine(blocks)._most(HOPPER).blocks) == division


# --- Outputs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "n_rows", "takes"),
    [
        ((784, 100, 10), 1, True),
        ((784, 100, 10), 1_000_000, True),
        ((20, 64, 64, 2), 1_000_000, True),
        ((20, 256, 256, 2), 1000, True),
        ((20, 256, 256, 2), 1_000_000, False),  # arithmetic takes longer than the rows' way to the device
        ((841, 2500, 2000, 1500, 1000, 500, 10), 1, False),
        ((100_000, 3), 1, False),  # no room for the rows
    ],
)
def test_which_outputs_are_its_own(hopper, sizes, n_rows, takes):
    assert (hopper._tiles(network(*sizes), n_rows, GPU) is not None) == takes
    if not takes and n_rows == 1:
        assert not hopper.pays(network(*sizes), None, GPU)


@pytest.mark.parametrize("sizes", [(784, 100, 10), (20, 64, 64, 2), (3, 1), (784, 256, 10), (4000, 100, 10)])
@pytest.mark.parametrize("itemsize", [4, 8])
def test_tiles(sizes, itemsize):
    """They fit on the chip; few rows are spread over all of it, and weights are fetched once where many rows come."""
    model = network(*sizes).model
    n_parameters = sum(n_in * n_out + n_out for n_in, n_out in itertools.pairwise(sizes))
    before = 0
    for n_rows in (1, 4, 5, 528, 529, 10_000, 1_000_000):
        shares = tiles.tiles_for(model, n_rows, 512, HOPPER, itemsize)
        assert shares.numbers * itemsize <= HOPPER.shared_bytes
        assert shares.rows % tiles.GROUP == 0
        assert shares.rows >= before
        assert shares.blocks == min(-(-n_rows // shares.rows), 264)
        assert n_rows > 528 or shares.rows == 4
        assert shares.numbers - shares.weights_at == (n_parameters if shares.stays else 0)
        before = shares.rows
    assert shares.stays == (sizes in ((20, 64, 64, 2), (3, 1)))


def answered(monkeypatch, case, n_blocks, n_threads, step, shared_bytes):
    """A case's outputs before training, from a grid of blocks."""
    grid = blocks.Grid()
    pretend(monkeypatch, n_blocks, grid, step, shared_bytes)
    monkeypatch.setattr(module, "_python_of_outputs", blocks.loaded("inference", grid).kernel_of)
    monkeypatch.setattr(module, "FEW_NUMBERS", 1)
    monkeypatch.setattr(module, "CHUNK_BYTES", 8 * 9 * 60)  # 60 rows at a time
    engine, program = CudaEngine(threads=n_threads), case.program("float64")
    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    return engine.forward(run, case.part().X)


@pytest.mark.parametrize(
    "shared_bytes", [227 << 10, 8 * 4 * 9 + 8 * 4 * 70], ids=["weights in shared memory", "and not"]
)
def test_outputs_of_several_blocks(monkeypatch, shared_bytes):
    layers = (
        FullyConnectedLayer(9, 7, tanh, 0.2),
        FullyConnectedLayer(7, 8, relu, 0.5),
        SoftmaxLayer(8, 3, 0.5, weights=glorot_uniform),
    )
    case = Case(layers, log_likelihood, SGD(0.3), n_rows=101, n_steps=1)
    parameters = case.parameters()
    expected = reference.outputs(case.layers, parameters, case.part().X, case.scaling)
    for n_threads in (5, 70):
        answers = [
            answered(monkeypatch, case, n_blocks, n_threads, step, shared_bytes)
            for n_blocks, step in ((1, 1), (1, -1), (3, 1), (3, -1))
        ]
        for answer in answers:
            np.testing.assert_allclose(answer, expected, rtol=1e-12)
        assert answers[0].tobytes() == answers[1].tobytes()
        assert answers[2].tobytes() == answers[3].tobytes()


# --- The choice between the engines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "mini_batch_size", "engine", "reason"),
    [
        (ARTICLE, 10, "cuda", "H200"),
        (ARTICLE, 512, "xla", "H200; not cuda: its kernels are for small batches of small networks."),
        (ARTICLE, None, "cuda", "H200"),
        (network(784, 30, 30, 10), None, "cuda", "H200"),
        (network(784, 2000, 1000, 10), None, "xla", "H200; not cuda: its kernels are for small networks."),
        (
            network(784, 30, 10, hidden=mish),
            None,
            "xla",
            "H200; not cuda: the activation mish of layer 0 is not among its own; the engine xla takes any.",
        ),
        (network(20, 64, 64, 2), 256, "cuda", "H200"),
        (network(20, 64, 64, 2), 10_000, "xla", "H200; not cuda: its kernels are for small batches of small networks."),
        (
            network(784, 100, 100, 10),
            10,
            "xla",
            "H200; not cuda: the weights do not fit into the chip's shared memory.",
        ),
    ],
)
def test_auto_on_a_gpu(hopper, monkeypatch, program, mini_batch_size, engine, reason):
    monkeypatch.setattr(choose, "usable_gpus", lambda: ["H200"])
    choice = choose.choose("auto", "auto", program, mini_batch_size=mini_batch_size)
    assert (choice.engine.name, choice.reason) == (engine, reason)
    assert str(choice) == f"engine {engine} on gpu ({reason})"
    with pytest.raises(InputError, match="The engine native cannot run this network: it runs on CPUs only"):
        choose.choose("native", "gpu", program)


# --- Several blocks -----------------------------------------------------------------------------------------------------


def pretend(monkeypatch, multiprocessors, grid, step, shared_bytes=227 << 10):
    """As if the grid were a GPU's."""
    monkeypatch.setattr(device, "is_simulated", lambda: True)
    monkeypatch.setattr(device, "SIMULATED", Chip(multiprocessors, shared_bytes))

    def launch(kernel, *arguments, together=False):
        grid.launch(kernel.make(), *arguments, step=step)

    monkeypatch.setattr(device, "launch", launch)


def advanced(monkeypatch, case, n_blocks, n_threads, step, late=False):
    """A case's state and report from a grid of blocks, see ``blocks.py``."""
    grid = blocks.Grid(late)
    pretend(monkeypatch, n_blocks, grid, step)
    for name in ("units", "rows"):
        monkeypatch.setattr(chunks, f"_python_of_{name}", blocks.loaded(name, grid).kernel_of)
    engine, program = CudaEngine(threads=n_threads), case.program("float64")
    run = engine.start(program, initial_state(program, case.parameters()), CPU)
    report = engine.advance(run, engine.put(case.part(), program, CPU), case.plan())
    return engine.snapshot(run), report


@pytest.mark.parametrize(
    ("optimizer", "p", "batch", "n_in"),
    [(SGD(0.3), 0.0, 4, 9), (AdamW(0.01), 0.5, 4, 8), (Momentum(0.05), 0.3, 40, 9), (SGD(0.3), 0.3, 1, 6)],
    ids=["sgd", "adamw", "large", "online"],
)
def test_blocks_threads_and_their_order_change_no_byte(monkeypatch, optimizer, p, batch, n_in):
    """Several blocks, the last one with fewer units, in two orders, with copies early and late: no barrier is missing, and nothing is
    read before it is there."""
    layers = (FullyConnectedLayer(n_in, 7, tanh, p), SoftmaxLayer(7, 3, p, weights=glorot_uniform))
    case = Case(layers, log_likelihood, optimizer, "training", 0.01, 3 * batch + 1, batch, 7)
    parameters, _, costs = case.expected()
    states = []
    for n_blocks, n_threads, step, late in (
        (1, 5, 1, False), (3, 5, 1, True), (3, 5, -1, False), (7, 2, -1, True), (4, 70, 1, True), (4, 70, -1, False),
    ):  # fmt: skip
        state, report = advanced(monkeypatch, case, n_blocks, n_threads, step, late)
        assert worst(state.parameters, parameters) < 1e-12
        assert worst({"costs": report.costs}, {"costs": costs}) < 1e-12
        states.append(state)
    for state in states[1:]:
        assert_same_bytes(state, states[0])


DEEP = {
    "two hidden layers": (FullyConnectedLayer(6, 7, tanh, 0.3), FullyConnectedLayer(7, 5, relu, 0.2), SoftmaxLayer(5, 3, 0.5, weights=glorot_uniform)),
    "none": (SoftmaxLayer(6, 3, weights=glorot_uniform),),
    "values": (FullyConnectedLayer(6, 4, tanh), FullyConnectedLayer(4, 5, tanh), FullyConnectedLayer(5, 2, linear, weights=glorot_uniform)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("layers", "optimizer", "batch", "scaling"),
    [
        ("two hidden layers", AdamW(0.01, weight_decay=0.1), 7, "training"),
        ("two hidden layers", SGD(0.3), 1, "inference"),
        ("none", SGD(0.3), 4, "training"),
        ("values", Momentum(0.05), 5, "training"),
    ],
)
def test_blocks_that_have_rows(monkeypatch, layers, optimizer, batch, scaling):
    """The reference's numbers from any number of blocks; the same bytes from an order of blocks and threads and its reverse, with copies
    early and late."""
    cost = quadratic if layers == "values" else log_likelihood
    case = Case(DEEP[layers], cost, optimizer, scaling, 0.01, 3 * batch + 1, batch, 7, weighted=batch == 7)
    parameters, _, costs = case.expected()
    for n_blocks, n_threads in ((1, 5), (3, 5), (4, 70)):
        states = []
        for step, late in ((1, False), (-1, True), (1, True)):
            state, report = advanced(monkeypatch, case, n_blocks, n_threads, step, late)
            assert worst(state.parameters, parameters) < 1e-12
            assert worst({"costs": report.costs}, {"costs": costs}) < 1e-12
            states.append(state)
        for state in states[1:]:
            assert_same_bytes(state, states[0])


@pytest.mark.parametrize("layers", [DEEP["two hidden layers"], DEEP["two hidden layers"][::2]], ids=["rows", "units"])
@pytest.mark.parametrize("before", [0, layout.LAP - 4])
def test_chunks_of_one_run(monkeypatch, layers, before):
    """What was posted in an earlier launch is still there, and is not taken for what is to come; tags begin anew when there are no more."""
    if len(layers) == 2:
        layers = layers[0], dataclasses.replace(layers[1], n_in=7)
    case = Case(layers, log_likelihood, Momentum(0.05), "training", n_rows=20, batch=5, n_steps=8)
    grid = blocks.Grid()
    pretend(monkeypatch, 3, grid, 1)
    for name in ("units", "rows"):
        monkeypatch.setattr(chunks, f"_python_of_{name}", blocks.loaded(name, grid).kernel_of)
    engine, program, plan = CudaEngine(threads=40), case.program("float64"), case.plan()
    data, parameters = engine.put(case.part(), program, CPU), case.expected()[0]
    run = engine.start(program, dataclasses.replace(initial_state(program, case.parameters()), step=before), CPU)
    for start, n_steps in ((0, 3), (3, 1), (4, 4)):
        engine.advance(run, data, chunk_of(plan, start, n_steps, 8))
    assert worst(engine.snapshot(run).parameters, parameters) < 1e-12
    assert run.step == before + 8


def test_a_bad_step_of_blocks_that_have_rows(monkeypatch):
    """All blocks see it at once; nothing of it is learnt."""
    case = Case(DEEP["none"], log_likelihood, Momentum(0.3), n_rows=13, batch=4, n_steps=7)
    part, plan = case.part(), case.plan()
    X = part.X.copy()
    X[11] = np.nan
    plan.rows[plan.rows == 11] = 10
    states = []
    for bad, n_steps in ((True, 7), (False, 3)):
        if bad:
            plan.rows[3, 2] = 11
        monkeypatch.setattr(Case, "part", lambda self: dataclasses.replace(part, X=X))
        monkeypatch.setattr(Case, "plan", lambda self, n_steps=n_steps: chunk_of(plan, 0, n_steps, 7))
        state, report = advanced(monkeypatch, case, 3, 40, 1)
        assert report.bad_step == (3 if bad else -1)
        assert np.isfinite(report.costs[:3]).all()
        states.append(state)
    assert_same_bytes(dataclasses.replace(states[0], step=3), states[1])


def test_a_missing_barrier_is_found(monkeypatch):
    """That the test above could fail: the same kernel without one of its barriers."""
    case = Case(
        (FullyConnectedLayer(9, 7, tanh), SoftmaxLayer(7, 3)), log_likelihood, SGD(0.3), n_rows=14, batch=4, n_steps=4
    )
    monkeypatch.setattr(blocks.Grid, "syncthreads", lambda self: None)
    parameters, _, _ = case.expected()
    try:
        states = [advanced(monkeypatch, case, 3, 5, step)[0] for step in (1, -1)]
    except AssertionError:  # blocks that wait for what never comes
        return
    assert max(worst(state.parameters, parameters) for state in states) > 1e-3 or not all(
        np.isfinite(array).all() for state in states for array in state.parameters.values()
    )
