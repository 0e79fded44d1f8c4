"""fcnet's rows: that the numbers are right, and what they take."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import fcnet
from fcnet import costs, optimizers
from fcnet.data.arrays import Part
from fcnet.engines.choose import engine_named
from fcnet.engines.contract import Placement, Program, initial_state
from fcnet.engines.xla.engine import XlaEngine
from fcnet.engines.xla.programs import forward as compiled_forward
from fcnet.initializers import glorot_uniform, he_normal, zeros
from fcnet.model import Model
from fcnet.steps import Steps, penalty_per_mini_batches, seeded_order
from on_gpu.bench import (
    ARTICLE,
    CIRESAN,
    NAMES,
    WIDE,
    Bench,
    Figure,
    answers,
    asked,
    data,
    mnist,
    n_weights,
    operations,
    seconds_each,
)

TESTS = Path(__file__).resolve().parents[2] / "tests"


def layers_of(sizes: tuple[int, ...], activation: Any, p_dropout: float = 0.0) -> list[Any]:
    """Hidden layers, whose outputs are dropped, and a softmax layer."""
    weights = he_normal if activation == fcnet.relu else glorot_uniform
    made = [
        fcnet.FullyConnectedLayer(n_in, n_out, activation, p_dropout if index else 0.0, weights, zeros)
        for index, (n_in, n_out) in enumerate(itertools.pairwise(sizes[:-1]))
    ]
    return [*made, fcnet.SoftmaxLayer(*sizes[-2:], p_dropout, glorot_uniform)]


def cuda_engine(blocks: int | None = None, threads: int | None = None) -> Any:
    """The CUDA engine; imported here, so that a numba-cuda that does not work costs the rows of other engines nothing."""
    from fcnet.engines.cuda.engine import CudaEngine

    return CudaEngine(blocks, threads)


class Training:
    """A training on an engine, an epoch's tables at a time."""

    def __init__(
        self,
        engine: Any,
        device: str,
        sizes: tuple[int, ...],
        batch: int,
        n_rows: int,
        *,
        activation: Any = fcnet.sigmoid,
        optimizer: Any = optimizers.SGD(0.1),  # noqa: B008  (a frozen value)
        p_dropout: float = 0.0,
        precision: Any = "tf32",
        deterministic: bool = False,
    ) -> None:
        model = Model(tuple(layers_of(sizes, activation, p_dropout)), "training")
        program = Program(model, costs.log_likelihood, optimizer.rule, precision=precision)
        placement = Placement(device, deterministic=deterministic)
        if (reason := engine.supports(program, placement)) is not None:
            raise RuntimeError(reason)
        X, y = data(sizes[0], n_rows)
        self.engine, self.part = engine, Part(X, y % sizes[-1])
        self.steps = Steps(n_rows, batch, seeded_order(0, n_rows), True, 0, 100, penalty_per_mini_batches(0.0, 1), model, optimizer)  # fmt: skip
        self.plan = self.steps.plan(0)
        self.data = engine.put(self.part, program, placement)
        self.run = engine.start(program, initial_state(program, model.initial_parameters(0)), placement)

    def epoch(self) -> int:
        """All steps of the tables; how many they were."""
        report = self.engine.advance(self.run, self.data, self.plan)
        if report.bad_step >= 0:
            raise RuntimeError(f"the cost is not finite from step {report.bad_step} on")
        return self.plan.n_steps


def _said(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0][:160]}"


def _measured(bench: Bench, what: str, who: str, make: Callable[[], Training], scale: float, unit: str, **more: Any) -> Figure:  # fmt: skip
    """A figure of a training's step; one that fails says why and lets the others go on."""
    try:
        return Figure(what, who, scale * seconds_each(make().epoch, bench.seconds), unit, **more)
    except Exception as error:
        return Figure(what, who, note=_said(error), **more)


# --- That the numbers are right -----------------------------------------------------------------------------------------

TOLERANCES = {"float32": 1e-4, "tf32": 5e-3, "bf16": 1e-2}
"""Of parameters and costs after 20 steps, relative to each array's largest number; products are rounded to 24, 11 and 8 bits. The steps
are small and without kinks: where a rounding can put a unit on the other side of one, no tolerance means anything."""


def conformance(bench: Bench) -> Iterator[Figure]:
    """Against the float64 reference that judges the engines in the tests."""
    sys.path.insert(0, str(TESTS))
    import warnings

    from test_conformance import Case, solo_arrays, worst

    warnings.filterwarnings("ignore", message="overflow encountered in scalar")  # of Numba's simulator
    placement = Placement(bench.device)
    one = (
        fcnet.FullyConnectedLayer(20, 15, fcnet.sigmoid, 0.2),
        fcnet.SoftmaxLayer(15, 5, 0.5, weights=glorot_uniform),
    )
    three = (
        fcnet.FullyConnectedLayer(40, 33, fcnet.tanh, weights=glorot_uniform),
        fcnet.FullyConnectedLayer(33, 20, fcnet.tanh, 0.3),
        fcnet.SoftmaxLayer(20, 5, 0.5, weights=glorot_uniform),
    )
    updates = (optimizers.SGD(0.03), optimizers.Momentum(0.03), optimizers.AdamW(0.003))
    blocks = (1,) if bench.device == "cpu" else (1, 4, None)
    engines = {
        **{f"cuda, {n or 'all'} blocks": (functools.partial(cuda_engine, n, 16 if bench.device == "cpu" else 256), (one, three), ("float32",)) for n in blocks},
        "xla": (XlaEngine, (one, three), tuple(TOLERANCES)),
    }  # fmt: skip
    for who, (make, networks, precisions) in engines.items():
        for precision in precisions:
            off, same, missing = 0.0, True, ""
            every = updates if precision == "float32" else updates[:1]
            asked = [(network, update, 8) for network in networks for update in every]
            asked += [(network, updates[0], 1) for network in networks] + [
                (one, updates[0], 10)
            ]  # other batches are other code
            for layers, update, batch in asked:
                case = Case(layers, costs.log_likelihood, update, "training", 0.01, n_rows=57, batch=batch, n_steps=bench.count(20, 4))  # fmt: skip
                program = replace(case.program("float32"), precision=precision)
                where = replace(placement, deterministic=True)
                try:
                    states, engine = [], make()
                    for _ in range(2):
                        run = engine.start(program, initial_state(program, case.parameters()), where)
                        report = engine.advance(run, engine.put(case.part(), program, where), case.plan())
                        states.append(solo_arrays(engine.snapshot(run)))
                except Exception as error:
                    missing = _said(error)
                    continue
                parameters, _, expected = case.expected()
                got = {name: states[0][f" {name}"] for name in parameters}
                far = worst(got, parameters), worst({"costs": report.costs}, {"costs": expected})
                off = max(off, *map(float, far))
                same &= all(states[0][name].tobytes() == states[1][name].tobytes() for name in states[0])
            goal = f"< {TOLERANCES[precision]:g}, the same bytes twice"
            reached = not missing and off < TOLERANCES[precision] and same
            note = missing or ("" if same else "other bytes the second time")
            yield Figure("conformance", f"{who}, {precision}", off, "of the largest", goal, reached, note=note)


def agreement(bench: Bench) -> Iterator[Figure]:
    """A CPU's and a GPU's runs of one seed, after an epoch."""
    sizes, n_rows = bench.sizes(ARTICLE), bench.count(50_000, 200)
    test = mnist("test")
    settings: dict[str, Any] = {"activation": fcnet.sigmoid, "precision": "float32"}
    there = Training(engine_named("native"), "cpu", sizes, 10, n_rows, **settings)
    there.epoch()
    expected = there.engine.snapshot(there.run).parameters

    def accuracy(training: Training) -> float | None:
        if test is None:
            return None
        outputs = training.engine.forward(training.run, test[0])
        return float((outputs.argmax(axis=1) == test[1]).mean())

    ours: dict[str, Any] = {"xla": XlaEngine} if bench.device == "cpu" else {"cuda": cuda_engine, "xla": XlaEngine}
    for who, make in ours.items():
        try:
            training = Training(make(), bench.device, sizes, 10, n_rows, **settings)
            training.epoch()
        except Exception as error:
            yield Figure("CPU and GPU after an epoch", f"native on a CPU, {who} here", note=_said(error))
            continue
        got = training.engine.snapshot(training.run).parameters
        off = max(float(np.abs(got[name] - expected[name]).max()) for name in expected)
        note = f"test accuracy {accuracy(there):.4f} and {accuracy(training):.4f}" if test else "no MNIST here"
        yield Figure("CPU and GPU after an epoch", f"native on a CPU, {who} here", off, "in a parameter", "<= 1e-3", off <= 1e-3, note=note)  # fmt: skip


# --- What they take -----------------------------------------------------------------------------------------------------


ONE_GRAPH = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,WHILE",
    "xla_gpu_command_buffer_unroll_loops": True,
    "xla_gpu_graph_min_graph_size": 1,
}
"""XLA's options for a pass as one CUDA graph, in which its steps stand one after the other."""
WAYS: dict[str, dict[str, Any]] = {
    "passes of 16": {},
    "passes of 16, each one graph": {"options": ONE_GRAPH},
    "a look before each step": {"steps_per_pass": 1},
}
"""Ways to run the general engine: ``XlaEngine``'s own arguments."""


def nielsen(bench: Bench) -> Iterator[Figure]:
    """784-100-10, batch 10: a step, with each way to run it."""
    sizes, n_rows, what = bench.sizes(ARTICLE), bench.count(50_000, 100), "784-100-10, batch 10"
    more: dict[str, Any] = bench.roofline("784-100-10, batch 10", "float32", 1e6)
    make = functools.partial(Training, device=bench.device, sizes=sizes, batch=10, n_rows=n_rows)
    if bench.device == "gpu":
        for blocks, threads in ((None, 256), (50, 256), (25, 256), (None, 128), (50, 128)):
            who = f"fcnet cuda, {blocks or 'all'} blocks of {threads}"
            yield _measured(
                bench, what, who, lambda b=blocks, t=threads: make(cuda_engine(b, t)), 1e6, "µs a step", **more
            )  # type: ignore[misc]
    ways = {
        **WAYS,
        "passes of 64": {"steps_per_pass": 64},
        "passes of 64, each one graph": {"steps_per_pass": 64, "options": ONE_GRAPH},
        "no graphs": {"options": {"xla_gpu_enable_command_buffer": ""}},
        "16 steps side by side": {"steps_per_pass": 16, "unroll": 16},
    }
    for name, way in ways.items():
        yield _measured(bench, what, f"fcnet xla, {name}", lambda w=way: make(XlaEngine(**w)), 1e6, "µs a step", **more)  # type: ignore[misc]


def crossover(bench: Bench) -> Iterator[Figure]:
    """From where on the general engine is the faster one: both, on growing networks and batches."""
    engines: dict[str, Any] = {"xla": XlaEngine} if bench.device == "cpu" else {"cuda": cuda_engine, "xla": XlaEngine}
    tables = [((20, 64, 64, 2), batch) for batch in (32, 256, 1024)] + [((20, 64, 2), 256), ((64, 128, 10), 64)]
    images = [((784, n_hidden, 10), batch) for n_hidden, batch in ((30, 10), (100, 1), (100, 32), (300, 10), (300, 32), (1000, 10))]  # fmt: skip
    for whole_sizes, batch in tables + images:
        sizes = bench.sizes(whole_sizes)
        work = operations(sizes, batch)
        for name, engine in engines.items():
            make = lambda e=engine, s=sizes, b=batch: Training(e(), bench.device, s, b, max(b, bench.count(16_000, 64)))  # noqa: E731
            what = f"{'-'.join(map(str, whole_sizes))}, batch {batch}"
            yield _measured(bench, what, f"fcnet {name}", make, 1e6, "µs a step", operations=work)


def scan(bench: Bench) -> Iterator[Figure]:
    """JAX by hand: one ``lax.scan`` over an epoch."""
    import jax
    import jax.numpy as jnp

    from peers.plain_jax import scan as steps
    from workloads import WORKLOADS, initial_parameters

    sizes, what = bench.sizes(ARTICLE), "784-100-10, batch 10"
    X, y = data(784, bench.count(50_000, 100))
    X_there, y_there = jnp.asarray(X.reshape(-1, 10, 784)), jnp.asarray(y.reshape(-1, 10), jnp.int32)
    for unroll in (1, 4, 16):
        workload = replace(WORKLOADS["nielsen"], sizes=sizes)
        state = [(jax.tree.map(jnp.array, initial_parameters(sizes, "sigmoid")), [])]

        def epoch(unroll: int = unroll, workload: Any = workload, state: list[Any] = state) -> int:
            arguments = state[0], X_there, y_there, 0, workload, len(X_there), unroll
            state[0] = jax.block_until_ready(steps(*arguments))
            return len(X_there)

        seconds = seconds_each(epoch, bench.seconds)
        yield Figure(what, f"peer: one lax.scan, unroll {unroll}", 1e6 * seconds, "µs a step")


def wide(bench: Bench) -> Iterator[Figure]:
    """Cireşan's largest network, batch 4096: in TF32 and bfloat16."""
    sizes, batch = bench.sizes(CIRESAN), bench.count(4096, 32)
    for precision in ("bf16", "tf32"):
        more = bench.roofline("841-...-10, batch 4096", precision, 1e3)
        made = functools.partial(
            Training, XlaEngine(), bench.device, sizes, batch, 16 * batch, activation=fcnet.tanh, precision=precision
        )
        what = f"841-...-10, batch {batch}, {precision}"
        figure = _measured(bench, what, "fcnet xla", made, 1e3, "ms a step", **more)  # fmt: skip
        if figure.value and (rate := bench.ceilings.get(precision)):
            share = more["operations"] / (figure.value / 1e3) / rate
            figure = replace(figure, goal=">= 65% of the chip's rate", reached=share >= 0.65, note=f"{share:.0%} of the chip's rate")  # fmt: skip
        yield figure


def online(bench: Bench) -> Iterator[Figure]:
    """Cireşan's largest network, one row a step."""
    sizes, n_rows = bench.sizes(CIRESAN), bench.count(4_000, 40)
    weights = n_weights(sizes)
    more: dict[str, Any] = bench.roofline("841-...-10, batch 1", "float32", 1e6) | {"goal": ">= 1.5e11 weights/s"}
    for precision in ("tf32", "bf16"):
        for name, way in WAYS.items():
            make = functools.partial(
                Training, XlaEngine(**way), bench.device, sizes, 1, n_rows, activation=fcnet.tanh, precision=precision,
                optimizer=optimizers.SGD(0.001),
            )  # fmt: skip
            figure = _measured(bench, "841-...-10, batch 1", f"fcnet xla, {precision}, {name}", make, 1e6, "µs a step", **more)  # fmt: skip
            if figure.value:
                rate = weights / (figure.value / 1e6)
                figure = replace(figure, reached=rate >= 1.5e11, note=f"{rate:.3g} weights/s")
            yield figure


def dropout(bench: Bench) -> Iterator[Figure]:
    """784-1024-1024-10, dropout 0.5, batch 128."""
    sizes = bench.sizes(WIDE)
    for precision, (name, way) in itertools.product(("tf32", "bf16"), list(WAYS.items())[:2]):
        make = functools.partial(
            Training, XlaEngine(**way), bench.device, sizes, 128, bench.count(49_920, 512), activation=fcnet.relu, p_dropout=0.5,
            precision=precision,
        )  # fmt: skip
        more: dict[str, Any] = bench.roofline("784-1024-1024-10, dropout, batch 128", precision, 1e6)
        yield _measured(bench, "784-1024-1024-10, dropout, batch 128", f"fcnet xla, {precision}, {name}", make, 1e6, "µs a step", **more)  # fmt: skip


def inference(bench: Bench) -> Iterator[Figure]:
    """One row, and a million, of networks small and large; JAX by hand beside them."""
    import jax
    import jax.numpy as jnp

    for name, sizes in NAMES.items():
        own, arrays, rows = asked(bench, sizes)
        network = fcnet.Network(layers_of(own, fcnet.relu), 10)
        network.arrays = dict(zip((name for name, _ in network.model.shapes()), arrays, strict=True))
        few = rows[: bench.count(20_000, 12)]
        expected, there = network.predict_proba(few, engine="native", device="cpu"), jax.device_put(rows)
        for who, contestant in (("cuda", _asked_of_cuda), ("xla", _asked_of_xla)):
            tolerance = 1e-5 if who == "cuda" else 5e-3  # TF32's 11 bits
            try:
                ask, compute, on_device = contestant(bench, network, rows)
                off = max(float(np.abs(ask(some) - expected[: len(some)]).max()) for some in (few, few[:1], few[:7]))
            except Exception as error:
                yield Figure(f"predict, {name}", f"fcnet {who}", note=_said(error))
                continue
            yield Figure(f"predict, {name}", f"fcnet {who}, native beside it", off, "in an output", f"<= {tolerance:g}", off <= tolerance)  # fmt: skip
            yield from answers(name, f"fcnet {who}", bench, rows, on_device, ask, compute)
        network_there = jax.device_put(arrays)

        @jax.jit
        def by_hand(arrays: Any, x: Any) -> Any:
            for w, b in zip(arrays[:-2:2], arrays[1:-2:2], strict=True):
                x = jnp.maximum(x @ w + b, 0.0)
            return jax.nn.softmax(x @ arrays[-2] + arrays[-1])

        yield from answers(
            name, "peer: jax.jit", bench, rows, there,
            lambda rows: np.asarray(by_hand(network_there, rows)),  # noqa: B023  (called before the next network)
            lambda rows: jax.block_until_ready(by_hand(network_there, rows)),  # noqa: B023
        )  # fmt: skip


def _asked_of_xla(bench: Bench, network: Any, rows: Any) -> tuple[Any, Any, Any]:
    """Rows of the host -> outputs; rows on the device -> outputs there; those rows."""
    import jax

    engine, program = XlaEngine(), network._program(None)
    run = engine.start(program, initial_state(program, network.arrays), Placement(bench.device))
    compute = engine._compiled(compiled_forward, run)
    on_device = lambda rows: jax.block_until_ready(compute(program, run.parameters, rows))  # noqa: E731
    return functools.partial(engine.forward, run), on_device, jax.device_put(rows)


def _asked_of_cuda(bench: Bench, network: Any, rows: Any) -> tuple[Any, Any, Any]:
    """The same, where the engine takes the network; it leaves many rows of some to the other engine."""
    from fcnet.engines.cuda import device

    engine, program = cuda_engine(threads=16 if bench.device == "cpu" else None), network._program(None)
    placement, n_rows = Placement(bench.device), len(rows)
    if (reason := engine.answers(program, placement)) is not None:
        raise RuntimeError(reason)
    if not engine.pays(program, None, placement):
        raise RuntimeError("left to the engine xla")
    run = engine.start(program, initial_state(program, network.arrays), placement)
    if engine._tiles(program, n_rows, placement) is None:
        return functools.partial(engine.forward, run), None, None
    with device.on(placement):
        shares = engine._all_tiles(program, n_rows, placement)
        given = device.to_device(rows), device.room(n_rows * program.model.n_out, "float32"), n_rows, shares
        answers = engine._answers_of(run)

    def on_device(given: Any) -> None:
        with device.on(placement):
            engine._answer(run, answers, answers.layers, *given)
            device.wait()

    return functools.partial(engine.forward, run), on_device, given
