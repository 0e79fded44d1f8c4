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
from fcnet.engines.cuda.kernel import ACTIVATIONS, RULES, kernel_of
from fcnet.layers import FullyConnectedLayer, SoftmaxLayer
from fcnet.model import Model

CAPABILITY = (9, 0)
NETWORKS = {
    "log_likelihood": (SoftmaxLayer(100, 10), True),
    "cross_entropy": (FullyConnectedLayer(100, 10, activations.sigmoid, 0.5), False),
    "quadratic": (FullyConnectedLayer(100, 10, activations.tanh, 0.5), False),
}
"""Cost -> the last layer, and whether the targets are labels."""


def signature(number: types.Type) -> types.Type:
    """The types of the kernel's arguments, in their order."""

    def array(kind: types.Type, ndim: int) -> types.Type:
        return types.Array(kind, ndim, "C")

    rows = array(number, 2), array(types.int32, 1), array(number, 2), array(number, 1), array(number, 2)
    tables = array(types.int32, 2), array(number, 3), array(number, 1), array(number, 2)
    masks = array(types.uint32, 2), array(types.uint32, 3)
    return types.void(*rows, *tables, *masks, array(number, 2), array(number, 1), *[types.int64] * 7)


def main() -> None:
    here = SimpleNamespace(compute_capability=CAPABILITY)
    dispatcher.get_current_device = api.get_current_device = lambda: here  # asked for where functions are compiled
    hidden = itertools.cycle(ACTIVATIONS)
    for number, rule, (cost, (last, labels)) in itertools.product(
        (types.float32, types.float64), RULES, NETWORKS.items()
    ):
        layers = FullyConnectedLayer(784, 100, next(hidden), last.p_dropout), last
        program = Program(Model(layers), getattr(costs, cost), rule, str(number))
        ptx, _ = compile(kernel_of(program, labels).py_func, signature(number), cc=CAPABILITY, output="ptx")
        doubles = sum(".f64" in line for line in ptx.splitlines())
        name = f"{rule.name}, {layers[0].activation_fn.name}, {cost}, {number}"
        print(f"{name:<48}{len(ptx):>8,} characters")
        assert number == types.float64 or doubles == 0, f"{name}: {doubles} operations in float64"


if __name__ == "__main__":
    main()
