"""PyTorch's rows, as its own expert would write them; and the chip's ceilings, which it measures by its libraries."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from on_gpu.bench import ARTICLE, CIRESAN, NAMES, WIDE, Bench, Figure, answers, asked, data, seconds_each

GRAPH = 100
"""Steps in one CUDA graph."""


def _device(bench: Bench) -> str:
    return "cuda" if bench.device == "gpu" else "cpu"


def _wait(bench: Bench) -> None:
    if bench.device == "gpu":
        torch.cuda.synchronize()


def chip(bench: Bench) -> Iterator[Figure]:
    """The chip's ceilings: a copy on the device, and a large product of random matrices."""
    device, n = _device(bench), bench.count(8192, 128)
    yield Figure("chip", "bytes", _copy_rate(bench), "bytes/s", note="a copy on the device, read and written")
    yield Figure("chip", "host", _host_rate(bench), "bytes/s", note="from the host's pinned memory")
    for precision in ("bf16", "tf32", "float32"):
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (torch.randn(n, n, device=device).to(kind) for _ in range(2))

        def multiply(a: Any = a, b: Any = b) -> int:
            for _ in range(5):
                a @ b
            _wait(bench)
            return 5

        rate = 2.0 * n**3 / seconds_each(multiply, bench.seconds)
        yield Figure("chip", precision, rate, "operations/s", note=f"a product {n} x {n} x {n} of random numbers")


def _host_rate(bench: Bench) -> float:
    """Bytes a second that come over from the host's pinned memory."""
    numbers = torch.rand(bench.count(1 << 27, 1 << 16))
    numbers = numbers.pin_memory() if bench.device == "gpu" else numbers
    there = torch.empty_like(numbers, device=_device(bench))

    def copy() -> int:
        there.copy_(numbers, non_blocking=True)
        _wait(bench)
        return 1

    return 4 * numbers.numel() / seconds_each(copy, bench.seconds / 3)


def _copy_rate(bench: Bench) -> float:
    """Bytes a second, read and written."""
    numbers = torch.rand(bench.count(1 << 30, 1 << 16), device=_device(bench))
    other = torch.empty_like(numbers)

    def copy() -> int:
        for _ in range(10):
            other.copy_(numbers)
        _wait(bench)
        return 10

    return 2 * 4 * numbers.numel() / seconds_each(copy, bench.seconds)


def _network(sizes: tuple[int, ...], activation: type[nn.Module], p_dropout: float, device: str) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(n_in, n_out), activation()]
        if p_dropout:
            layers.append(nn.Dropout(p_dropout))
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:])).to(device)


class Steps:
    """Steps of SGD over rows on the device; the optimizer is the fused one on a GPU."""

    def __init__(
        self,
        bench: Bench,
        sizes: tuple[int, ...],
        batch: int,
        n_rows: int,
        activation: type[nn.Module],
        *,
        p_dropout: float = 0.0,
        rate: float = 0.1,
        precision: str = "tf32",
        compiled: bool = False,
    ) -> None:
        torch.set_float32_matmul_precision("high")
        self.bench, self.precision, device = bench, precision, _device(bench)
        X, y = data(sizes[0], n_rows)
        self.X = torch.from_numpy(X).to(device).split(batch)
        self.y = torch.from_numpy(y).to(device).split(batch)
        network = _network(sizes, activation, p_dropout, device)
        self.optimizer = torch.optim.SGD(network.parameters(), lr=rate, fused=True)
        cost: Callable[[Any, Any], Any] = lambda X, y: functional.cross_entropy(network(X), y)  # noqa: E731
        self.cost = torch.compile(cost, dynamic=False) if compiled else cost

    def step(self, index: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        rounded = torch.autocast(_device(self.bench), dtype=torch.bfloat16, cache_enabled=False)
        with rounded if self.precision == "bf16" else contextlib.nullcontext():
            cost = self.cost(self.X[index % len(self.X)], self.y[index % len(self.X)])
        cost.backward()
        self.optimizer.step()

    def eager(self) -> int:
        """Every step launched by itself."""
        n = min(len(self.X), self.bench.count(500, 3))
        for index in range(n):
            self.step(index)
        _wait(self.bench)
        return n

    def graph(self, n_steps: int) -> Callable[[], int]:
        """So many steps as one CUDA graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for index in range(5):
                self.step(index)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            for index in range(n_steps):
                self.step(index)

        def replay() -> int:
            graph.replay()
            torch.cuda.synchronize()
            return n_steps

        return replay


def _peers(bench: Bench, what: str, scale: float, unit: str, ways: dict[str, tuple[bool, int]], *arguments: Any, **options: Any) -> Iterator[Figure]:  # fmt: skip
    """A figure for each way: whether it is compiled, and steps of a CUDA graph (0 for none)."""
    for name, (compiled, n_graph) in ways.items():
        who = f"peer: PyTorch, {name}"
        if bench.device == "cpu" and (compiled or n_graph):
            yield Figure(what, who, note="needs a GPU")
            continue
        try:
            steps = Steps(bench, *arguments, compiled=compiled, **options)
            call = steps.graph(n_graph) if n_graph else steps.eager
            yield Figure(what, who, scale * seconds_each(call, bench.seconds), unit)
        except Exception as error:
            yield Figure(what, who, note=f"{type(error).__name__}: {str(error).splitlines()[0][:160]}")


EAGER, GRAPHED, COMPILED, BOTH = (False, 0), (False, GRAPH), (True, 0), (True, GRAPH)


def nielsen(bench: Bench) -> Iterator[Figure]:
    """784-100-10, batch 10."""
    ways = {"eager": EAGER, f"CUDA graph of {GRAPH} steps": GRAPHED, f"compiled, CUDA graph of {GRAPH} steps": BOTH}
    yield from _peers(bench, "784-100-10, batch 10", 1e6, "µs a step", ways, bench.sizes(ARTICLE), 10, bench.count(50_000, 100), nn.Sigmoid)  # fmt: skip


def wide(bench: Bench) -> Iterator[Figure]:
    """Cireşan's largest network, batch 4096."""
    sizes, batch = bench.sizes(CIRESAN), bench.count(4096, 32)
    for precision in ("bf16", "tf32"):
        what = f"841-...-10, batch {batch}, {precision}"
        yield from _peers(
            bench, what, 1e3, "ms a step", {"eager": EAGER, "compiled": COMPILED}, sizes, batch, 16 * batch, nn.Tanh,
            precision=precision,
        )  # fmt: skip


def online(bench: Bench) -> Iterator[Figure]:
    """Cireşan's largest network, one row a step."""
    ways = {"eager": EAGER, f"CUDA graph of {GRAPH} steps": GRAPHED}
    yield from _peers(bench, "841-...-10, batch 1", 1e6, "µs a step", ways, bench.sizes(CIRESAN), 1, bench.count(1_000, 40), nn.Tanh, rate=0.001)  # fmt: skip


def dropout(bench: Bench) -> Iterator[Figure]:
    """784-1024-1024-10, dropout 0.5, batch 128."""
    sizes, n_rows = bench.sizes(WIDE), bench.count(49_920, 512)
    for precision in ("tf32", "bf16"):
        ways = {f"eager, {precision}": EAGER, f"compiled, CUDA graph of {GRAPH} steps, {precision}": BOTH}
        yield from _peers(
            bench, "784-1024-1024-10, dropout, batch 128", 1e6, "µs a step", ways, sizes, 128, n_rows, nn.ReLU, p_dropout=0.5,
            precision=precision,
        )  # fmt: skip


def inference(bench: Bench) -> Iterator[Figure]:
    """One row, and a million, of networks small and large."""
    torch.set_float32_matmul_precision("high")
    device = _device(bench)
    for name, sizes in NAMES.items():
        own, arrays, rows = asked(bench, sizes)
        network = nn.Sequential(*_network(own, nn.ReLU, 0.0, device), nn.Softmax(dim=1)).requires_grad_(False).eval()
        linear = [layer for layer in network if isinstance(layer, nn.Linear)]
        for layer, w, b in zip(linear, arrays[::2], arrays[1::2], strict=True):
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(w.T)))
            layer.bias.copy_(torch.from_numpy(b))
        there = torch.from_numpy(rows).to(device)
        ways: dict[str, Callable[[Any], Any]] = {"eager": network}
        if bench.device == "gpu":
            ways["compiled"] = torch.compile(network, dynamic=False)
        for who, way in ways.items():

            def ask(rows: Any, way: Any = way) -> Any:
                with torch.inference_mode():
                    return way(torch.from_numpy(rows).to(device)).cpu().numpy()

            def compute(rows: Any, way: Any = way) -> None:
                with torch.inference_mode():
                    way(rows)
                _wait(bench)

            yield from answers(name, f"peer: PyTorch, {who}", bench, rows, there, ask, compute)
        if bench.device == "gpu":
            try:
                yield from answers(name, "peer: PyTorch, CUDA graph", bench, rows[:1], there[:1], _asked_by_graph(network, own), None)  # fmt: skip
            except Exception as error:
                yield Figure(f"predict, {name}, one row", "peer: PyTorch, CUDA graph", note=f"{type(error).__name__}: {error}"[:160])  # fmt: skip


def _asked_by_graph(network: nn.Module, sizes: tuple[int, ...]) -> Callable[[Any], Any]:
    """One row by one launch of a graph, the two copies in it."""
    here, back = torch.zeros(1, sizes[0]).pin_memory(), torch.zeros(1, sizes[-1]).pin_memory()
    into = torch.zeros(1, sizes[0], device="cuda")
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.inference_mode():
        with torch.cuda.stream(stream):
            for _ in range(3):
                network(into)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            into.copy_(here, non_blocking=True)
            back.copy_(network(into), non_blocking=True)

    def ask(rows: Any) -> Any:
        here.numpy()[:] = rows
        graph.replay()
        torch.cuda.synchronize()
        return back.numpy().copy()

    return ask
