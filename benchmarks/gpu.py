"""fcnet on a GPU: is it right, and how fast is it beside PyTorch, JAX by hand, and the chip's own limits. In under 8 minutes.

    python benchmarks/gpu.py                     all of it, on the GPU of this machine
    python benchmarks/gpu.py --only nielsen      rows whose name holds the word
    python benchmarks/gpu.py --json FILE         also every figure as JSON
    python benchmarks/gpu.py --floors            no run: each row's bytes and operations, and its floor by an H200's datasheet
    python benchmarks/gpu.py --cpu --quick       tiny sizes on a CPU: shows that every row runs, measures nothing

Needs fcnet's own dependencies without Polars, and jax and numba-cuda with GPU support; rows of PyTorch say so where it is missing.
MNIST is read from the folder that FCNET_DATA names; without it rows are noise as sparse as it, and rows that need accuracies say so.

Each row runs in a process of its own with a time limit, so that one that fails, hangs or crashes costs the others nothing. The table is
printed last.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from machine import describe  # noqa: E402
from markdown_tables import table  # noqa: E402
from on_gpu.bench import DATASHEET, WORK, Bench, Figure, caches, read  # noqa: E402

TOTAL_SECONDS = 460
"""After so many no further row begins; all of it ends by then. Rows for which no time was left can be asked for by ``--only``."""
ROWS = {
    "chip": ("torchs", "chip", 40),
    "conformance": ("ours", "conformance", 120),
    "nielsen": ("ours", "nielsen", 100),
    "nielsen, PyTorch": ("torchs", "nielsen", 70),
    "nielsen, lax.scan": ("ours", "scan", 40),
    "agreement": ("ours", "agreement", 90),
    "wide": ("ours", "wide", 60),
    "wide, PyTorch": ("torchs", "wide", 70),
    "online": ("ours", "online", 45),
    "online, PyTorch": ("torchs", "online", 30),
    "dropout": ("ours", "dropout", 40),
    "dropout, PyTorch": ("torchs", "dropout", 70),
    "whole": ("whole", "whole", 170),
    "inference": ("ours", "inference", 75),
    "inference, PyTorch": ("torchs", "inference", 60),
    "crossover": ("ours", "crossover", 90),
}
"""Module, function and seconds at most; the most wanted first."""


def run_row(module: str, function: str, given: Path, answer: Path) -> None:
    """In a row's own process: every figure is written as soon as it is there."""
    for figure in getattr(importlib.import_module(f"on_gpu.{module}"), function)(read(given)):
        with answer.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(figure)) + "\n")


def watch(name: str, bench: Bench, seconds: float, folder: Path) -> list[Figure]:
    """A row's figures; what it had where it came to an end before its time."""
    module, function, _ = ROWS[name]
    given, answer, log = (folder / f"{module}-{function}.{ending}" for ending in ("given", "answer", "log"))
    given.write_text(json.dumps(dataclasses.asdict(bench)))
    environment = surroundings(folder)
    if bench.device == "cpu":
        environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, __file__, "--row", module, function, str(given), str(answer)]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            ended = f"ended with {process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            ended = f"not done after {seconds:.0f} s"
    lines = answer.read_text().splitlines(keepends=True) if answer.exists() else []
    figures = [Figure(**json.loads(line)) for line in lines if line.endswith("\n")]  # the last one may be cut off
    if process.returncode:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        figures.append(Figure(name, "", note=f"{ended}: {said[-1][:160] if said else 'it said nothing'}"))
    return figures


def surroundings(folder: Path) -> dict[str, str]:
    """The environment of a row's process: where compilers keep what they have compiled, and what they and MNIST are found by."""
    found = dict(os.environ) | caches(folder) | {"PYTHONPATH": os.pathsep.join(sys.path[:2])}
    found["FCNET_COMPILES_BESIDE"] = (
        "1"  # no second process that compiles for the native engine: it would outlive the row
    )
    found.setdefault(
        "XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5"
    )  # the last row's memory may not be free yet, and the engine cuda needs some
    nvcc = shutil.which("nvcc")
    toolkit = Path(nvcc).resolve().parents[1] if nvcc else Path("/usr/local/cuda")
    if toolkit.is_dir() and not {"CUDA_HOME", "CUDA_PATH"} & found.keys():
        found["CUDA_HOME"] = str(toolkit)  # where Numba looks for NVVM
    for data in (HERE.parent / "shared" / "data", HERE.parents[1] / "shared" / "data"):
        if data.is_dir():
            found.setdefault("FCNET_DATA", str(data))
    return found


def warm_up(folder: Path) -> subprocess.Popen[bytes]:
    """Compile the native engine beside the first rows, which do not need it: a CPU's run is what others agree with."""
    program = "from fcnet.engines.native.ahead import warm_up; warm_up()"
    nothing = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-c", program], env=surroundings(folder), stdout=nothing, stderr=nothing)


def compared(figures: list[Figure]) -> list[Figure]:
    """Goals that a row can only be held to once its peers are there."""
    answer = []
    found = Bench("", False, found=tuple(figures))
    times = {"784-100-10, batch 10": 5.0, "784-1024-1024-10, dropout, batch 128": 2.0}
    for one in figures:
        wanted = times.get(one.what) or (1.2 if one.what.startswith("841-...-10, batch 4096") else None)
        ours = found.best(one.what, "fcnet")
        if wanted and one.value and one.value == ours and (theirs := found.best(one.what, "peer")):
            ratio = theirs / ours
            reached = ratio >= wanted and one.reached is not False
            goals = [one.goal, f">= {wanted:g}x the best peer"]
            if one.what == "784-100-10, batch 10":
                goals[0], reached = "<= 4 µs", reached and ours <= 4.0
            notes = filter(None, (one.note, f"{ratio:.2f}x the best peer"))
            one = dataclasses.replace(one, goal="; ".join(filter(None, goals)), reached=reached, note="; ".join(notes))
        answer.append(one)
    return answer


def line_of(figure: Figure) -> list[str]:
    """A figure as a line of the table."""
    short = lambda number: "-" if number is None else f"{number:,.0f}" if 100 <= number < 1e6 else f"{number:.3g}"  # noqa: E731
    verdict = {None: "", True: "reached: ", False: "not reached: "}[figure.reached if figure.goal else None]
    return [
        figure.what, figure.who, f"{short(figure.value)} {figure.unit}".strip() if figure.value is not None else "unmeasured", short(figure.floor), short(figure.bytes), short(figure.operations), f"{verdict}{figure.goal}", figure.note,
    ]  # fmt: skip


def floors() -> str:
    """The least that each workload moves and computes, and how long that takes by the datasheet."""
    lines = []
    for what in WORK:
        steps = "batch" in what and "784-100-10" not in what
        for precision in ("bf16", "tf32") if steps and what[-7:] != "batch 1" else ("float32",):
            least = Bench("gpu", False).roofline(what, precision, 1e6)
            lines.append([what, precision, *(f"{least[name]:.3g}" for name in ("bytes", "operations", "floor"))])
    return table(["workload", "precision", "bytes", "operations", "floor, µs"], lines)


def gpu() -> str | None:
    """What nvidia-smi says of the GPU and its driver; None where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="on a CPU, to see that it runs")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--only", default="", help="rows whose name holds one of these words, with commas between them")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--floors", action="store_true", help="each row's bytes, operations and floor by the datasheet")
    parser.add_argument("--row", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row:
        module, function, given, answer = asked.row
        run_row(module, function, Path(given), Path(answer))
        return
    if asked.floors:
        print(floors())
        return
    began, found = time.monotonic(), gpu()
    if found is None and not asked.cpu:
        parser.error("nvidia-smi shows no GPU here. On a CPU, --cpu --quick shows that every row runs.")
    words = [word for word in asked.only.split(",") if word]
    names = [name for name in ROWS if not words or any(word in name for word in words)]
    bench = Bench("cpu" if asked.cpu else "gpu", asked.quick)
    figures: list[Figure] = []
    record = {"gpu": found or "none", **describe(("numba-cuda", "cupy", "triton"))}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        if not asked.quick:
            stack.callback(warm_up(Path(folder)).kill)
        for name in names:
            left = TOTAL_SECONDS - (time.monotonic() - began)
            if left < 10:
                figures.append(Figure(name, "", note=f"no time was left; --only '{name}' runs it alone"))
                continue
            row_began = time.monotonic()
            try:
                figures += watch(name, bench, min(ROWS[name][2], left), Path(folder))
            except Exception as error:
                figures.append(Figure(name, "", note=f"{type(error).__name__}: {error}"[:160]))
            print(f"{name}: {time.monotonic() - row_began:.0f} s", flush=True)
            ceilings = {
                one.who: one.value for one in figures if one.what == "chip" and one.value and one.who in DATASHEET
            }
            bench = dataclasses.replace(bench, ceilings=ceilings, found=tuple(figures))
            if asked.json:  # after every row, so that nothing is lost
                seconds = round(time.monotonic() - began, 1)
                kept = {
                    "machine": record,
                    "seconds": seconds,
                    "figures": [dataclasses.asdict(one) for one in compared(figures)],
                }
                asked.json.write_text(json.dumps(kept, indent=1))
    print()
    print("\n".join(f"{name}: {value}" for name, value in record.items()))
    print(f"seconds: {time.monotonic() - began:.0f}\n")
    # without padding, so that most of it stays where only the end of an output is shown
    lines = [["workload", "contestant", "figure", "floor", "bytes", "operations", "goal", "note"], ["---"] * 8]
    for line in [*lines, *map(line_of, compared(figures))]:
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
