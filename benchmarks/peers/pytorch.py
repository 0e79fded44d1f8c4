"""PyTorch on tensors in memory: batches are views made once, gradients are set to None, optimizer and threads tried."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from machine import cores
from peers.questions import Answers
from racer import CannotRace, Stepper
from workloads import Parameters, Task

STEPS = {"plain": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
"""PyTorch's three ways to apply an optimizer."""


def network(parameters: Parameters, activation: str, p_dropout: float) -> nn.Sequential:
    """Logits; log softmax belongs to the cost."""
    layers: list[nn.Module] = []
    for index, (w, _) in enumerate(parameters):
        layers.append(nn.Linear(*w.shape))
        if index < len(parameters) - 1:
            layers.append(nn.ReLU() if activation == "relu" else nn.Sigmoid())
            if p_dropout:
                layers.append(nn.Dropout(p_dropout))
    made = nn.Sequential(*layers)
    set_parameters(made, parameters)
    return made


def linears(network: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in network if isinstance(layer, nn.Linear)]


def set_parameters(network: nn.Sequential, parameters: Parameters) -> None:
    with torch.no_grad():
        for linear, (w, b) in zip(linears(network), parameters, strict=True):
            linear.weight.copy_(torch.from_numpy(w.T))
            linear.bias.copy_(torch.from_numpy(b))


class Training(Stepper):
    def __init__(self, task: Task) -> None:
        self._task, workload = task, task.workload
        X, y = map(torch.from_numpy, task.rows())
        self._batches = list(zip(X.split(workload.batch), y.split(workload.batch), strict=True))
        self.steps_per_epoch = len(self._batches)
        self._network = network(task.parameters(), workload.activation, workload.p_dropout)
        self._cost = self.cost_of(self._network)
        self._use(("plain", cores()))

    def _use(self, option: tuple[str, int]) -> None:
        self._way, n_threads = option
        torch.set_num_threads(n_threads)

    def cost_of(self, network: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        return lambda X, y: functional.cross_entropy(network(X), y)

    def restart(self) -> None:
        workload = self._task.workload
        torch.manual_seed(0)
        set_parameters(self._network, self._task.parameters())
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[workload.optimizer]
        self._optimizer = kind(self._network.parameters(), lr=workload.learning_rate, **STEPS[self._way])
        self._source = itertools.cycle(self._batches)

    def advance(self, n_steps: int) -> int:
        cost, optimizer = self._cost, self._optimizer
        for X, y in itertools.islice(self._source, n_steps):
            optimizer.zero_grad(set_to_none=True)
            cost(X, y).backward()
            optimizer.step()
        return n_steps

    def parameters(self) -> Parameters:
        return [
            (linear.weight.detach().numpy().T.copy(), linear.bias.detach().numpy().copy())
            for linear in linears(self._network)
        ]

    def tune(self, seconds: float) -> None:
        way, n_threads = self.best(itertools.product(STEPS, sorted({1, cores()})), self._use, seconds)
        self.description = f"{way} optimizer, {n_threads} thread(s)"


class CompiledTraining(Training):
    """Forward and backward by ``torch.compile``; the optimizer is the fused one, which is compiled already."""

    def __init__(self, task: Task) -> None:
        if not any(map(shutil.which, ("g++", "c++", "clang++"))):
            raise CannotRace("no C++ compiler")
        super().__init__(task)
        self._use(("fused", 1))

    def cost_of(self, network: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        return torch.compile(super().cost_of(network), dynamic=False)

    def tune(self, seconds: float) -> None:
        _, n_threads = self.best((("fused", n) for n in sorted({1, cores()})), self._use, seconds)
        self.description = f"fused optimizer, {n_threads} thread(s)"


class Inference(Answers):
    threads = tuple(sorted({1, cores()}))

    def build(self, parameters: Parameters, X: NDArray[np.float32]) -> None:
        self._network = network(parameters, "relu", 0.0).append(nn.Softmax(dim=1)).eval()

    def answer(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return self._network(torch.from_numpy(X)).numpy()

    def use_threads(self, n_threads: int | None) -> None:
        torch.set_num_threads(n_threads or cores())
