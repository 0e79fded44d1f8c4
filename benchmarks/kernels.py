"""What XLA makes of a step for an H200, without one: how many kernels, and what they read and write.

    python benchmarks/kernels.py                       every workload that the general engine has on a GPU
    python benchmarks/kernels.py --only online --list  and the kernels one by one, the largest first

Needs JAX's CUDA plugin of JAX's own version, without the libraries that it needs to run:
``pip install --no-deps jax-cuda12-pjrt==VERSION jax-cuda12-plugin==VERSION``.

Bytes are those of all operands and outputs of a step's kernels, each as often as it is one; of the data set and the tables only the
step's own rows. XLA chooses products by trying them where it has a GPU, and by rules here.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # that CUDA's libraries are there
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

import jax  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import SingleDeviceSharding  # noqa: E402

import fcnet  # noqa: E402
from fcnet import costs, optimizers  # noqa: E402
from fcnet.engines.contract import Program  # noqa: E402
from fcnet.engines.xla import programs  # noqa: E402
from fcnet.engines.xla.engine import STEPS_PER_PASS  # noqa: E402
from fcnet.model import Model  # noqa: E402
from markdown_tables import table  # noqa: E402
from on_gpu.bench import ARTICLE, CIRESAN, DATASHEET, WIDE  # noqa: E402

H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 151397597184
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H200"
"""
"""What XLA wants to know of a GPU, by NVIDIA's datasheet and CUDA's table of compute capabilities."""
N_ROWS, N_STEPS = 1 << 20, 1 << 19
"""Of the data set and of the tables: longer than anything else, so that they are known by their length."""
WORKLOADS: dict[str, tuple[tuple[int, ...], int, Any, float]] = {
    "784-100-10, batch 10": (ARTICLE, 10, fcnet.sigmoid, 0.0),
    "841-...-10, batch 4096": (CIRESAN, 4096, fcnet.tanh, 0.0),
    "841-...-10, batch 1, online": (CIRESAN, 1, fcnet.tanh, 0.0),
    "784-1024-1024-10, dropout, batch 128": (WIDE, 128, fcnet.relu, 0.5),
}
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
KERNELS = {"fusion", "custom-call", "copy", "reduce", "dot", "gather", "scatter", "dynamic-update-slice", "transpose"}


def code_of(workload: str, precision: Any) -> str:
    """XLA's own code for a chunk of steps."""
    sizes, batch, activation, p = WORKLOADS[workload]
    layers = [
        fcnet.FullyConnectedLayer(n_in, n_out, activation, p if index else 0.0)
        for index, (n_in, n_out) in enumerate(itertools.pairwise(sizes[:-1]))
    ]
    model = Model((*layers, fcnet.SoftmaxLayer(*sizes[-2:], p)), "training")
    rule = optimizers.SGD(0.1).rule
    program = Program(model, costs.log_likelihood, rule, precision=precision)
    where = SingleDeviceSharding(_h200())

    def array(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    n = len(model.layers)
    tables = {
        "rows": array(N_STEPS, batch, dtype="int32"), "coefficients": array(N_STEPS, len(rule.coefficients)), "l2": array(N_STEPS),
        "gain": array(N_STEPS, n), "thresholds": array(N_STEPS, n, dtype="uint32"), "keys": array(N_STEPS, n, 2, dtype="uint32"),
    }  # fmt: skip
    way = programs.Way(STEPS_PER_PASS["gpu"], 1, None)
    data = array(N_ROWS, sizes[0]), array(N_ROWS, dtype="int32"), array(N_ROWS)
    parameters = {name: array(*shape) for name, shape in model.shapes()}
    factors, n_steps = array(len(parameters), 2), array(dtype="int32")
    lowered = programs.compiled(programs.advance, ()).lower(
        program, way, parameters, {}, *data, tables, factors, n_steps
    )
    return str(lowered.compile().as_text())


def _h200() -> Any:
    try:
        jax.local_devices(backend="cpu")  # finds the plugin
        return topologies.get_topology_desc("", "cuda", topology="1x1x1", target_config=H200).devices[0]
    except Exception as error:
        version = jax.__version__
        need = f"pip install --no-deps jax-cuda12-pjrt=={version} jax-cuda12-plugin=={version}"
        sys.exit(f"JAX's CUDA plugin is not to be used here ({error}). Install it with: {need}")


def n_bytes(shape: str) -> int:
    """Of an array, or of several in brackets; none of the data set and the tables."""
    total = 0
    for kind, dimensions in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape):
        sizes = [int(size) for size in dimensions.split(",") if size]
        if kind in BYTES and not {N_ROWS, N_STEPS} & set(sizes):
            total += BYTES[kind] * math.prod(sizes)
    return total


def kernels_of(code: str) -> list[tuple[str, int]]:
    """The kernels of a step with their bytes: the longest list of them among XLA's computations is a step's."""
    steps = []
    for computation in re.split(r"\n(?=%|ENTRY)", code):
        shapes, found = {}, []
        for line in computation.split("\n")[1:]:
            match = re.match(r"\s*(?:ROOT )?(%[\w.-]+) = (\([^)]*\)|\S+) ([\w-]+)\((.*)", line)
            if match is None:
                continue
            name, shape, operation, rest = match.groups()
            shapes[name] = shape
            if operation in KERNELS:
                operands = set(re.findall(r"%[\w.-]+", rest.split("), ")[0]))
                size = n_bytes(shape) + sum(n_bytes(shapes.get(one, "")) for one in operands)
                found.append((f"{name} {re.sub(r'{[^}]*}', '', shape)}", size))
        steps.append(found)
    return max(steps, key=len)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="workloads whose name holds this")
    parser.add_argument("--list", action="store_true", help="the kernels one by one")
    asked = parser.parse_args()
    lines = []
    for workload in (name for name in WORKLOADS if asked.only in name):
        for precision in ("tf32", "bf16"):
            kernels = kernels_of(code_of(workload, precision))
            total = sum(size for _, size in kernels)
            floor = 1e6 * total / DATASHEET["bytes"]
            lines.append([workload, precision, str(len(kernels)), f"{total / 1e6:.2f}", f"{floor:.1f}"])
            if asked.list:
                largest = sorted(kernels, key=lambda kernel: -kernel[1])
                print(f"\n{workload}, {precision}\n" + table(["kernel", "MB"], [[name[:140], f"{size / 1e6:.3f}"] for name, size in largest]))  # fmt: skip
    print(table(["step", "precision", "kernels", "MB", "µs for them at 4.8 TB/s"], lines))


if __name__ == "__main__":
    main()
