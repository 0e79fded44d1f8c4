"""Numba's compiler on the CUDA kernels, without a GPU: types that simulators do not see, and arithmetic in the program's own type.

    python tests/compile_cuda.py        needs numba-cuda with its compiler (fcnet[gpu]), and no driver

Prints the size of each kernel's PTX for compute capability 9.0. A kernel in float32 that computes in float64 is an error.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

from numba import types
from numba.cuda import api, compile, dispatcher

from fcnet import activations, costs
from fcnet.engines.contract import Program
from fcnet.engines.cuda import inference, training
from fcnet.engines.cuda.device import load_compiler
from fcnet.engines.cuda.elementary import ACTIVATIONS
from fcnet.engines.cuda.updates import RULES
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer
from fcnet.model import Model

CAPABILITY = (9, 0)
NETWORKS = {
    "log_likelihood": (SoftmaxLayer(100, 10), True),
    "cross_entropy": (FullyConnectedLayer(100, 10, activations.sigmoid, 0.5), False),
    "quadratic": (FullyConnectedLayer(100, 10, activations.tanh, 0.5), False),
}
"""Cost -> the last layer, and whether the targets are labels."""


def array(kind: types.Type, ndim: int) -> types.Type:
    return types.Array(kind, ndim, "C")


def of_training(number: types.Type) -> types.Type:
    """The types of the training kernel's arguments, in their order."""
    numbers = array(number, 1)
    tables = array(types.int32, 1), numbers, array(types.uint32, 1), array(types.uint64, 1), numbers
    return types.void(numbers, numbers, numbers, array(number, 2), *tables, array(types.int64, 1), *[types.int64] * 7)


def of_inference(number: types.Type) -> types.Type:
    """And of the inference kernel's."""
    numbers = array(number, 1)
    return types.void(numbers, numbers, array(types.int64, 2), numbers, numbers, *[types.int64] * 5)


def check(name: str, kernel: object, signature: types.Type, number: types.Type) -> None:
    ptx, _ = compile(kernel.py_func, signature, cc=CAPABILITY, output="ptx")  # type: ignore[attr-defined]
    doubles = sum(".f64" in line for line in ptx.splitlines())
    print(f"{name:<68}{len(ptx):>8,} characters")
    assert number == types.float64 or doubles == 0, f"{name}: {doubles} operations in float64"


def main() -> None:
    load_compiler()
    here = SimpleNamespace(compute_capability=CAPABILITY)
    dispatcher.get_current_device = api.get_current_device = lambda: here  # asked for where functions are compiled
    hidden, groups = itertools.cycle(ACTIVATIONS), itertools.cycle(training.GROUPS)
    for number in (types.float32, types.float64):
        check(f"outputs, {number}", inference.kernel_of(str(number)), of_inference(number), number)
        for rule, (cost, (last, labels)) in itertools.product(RULES, NETWORKS.items()):
            layers = FullyConnectedLayer(784, 100, next(hidden), last.p_dropout), last
            program = Program(Model(layers), getattr(costs, cost), rule, str(number))
            group = next(groups)
            name = f"steps, {rule.name}, {layers[0].activation_fn.name}, {cost}, {number}, groups of {group}"
            check(name, training.kernel_of(program, labels, group), of_training(number), number)


if __name__ == "__main__":
    main()
