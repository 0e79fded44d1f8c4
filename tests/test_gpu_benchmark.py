"""``benchmarks/gpu.py`` where there is no GPU: that it runs, and what it makes of figures."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not here")


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


def command(*options):
    answer = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), *options], capture_output=True, text=True, timeout=300
    )
    return answer.returncode, answer.stdout, answer.stderr


def test_a_row_runs_and_is_written(tmp_path):
    code, out, err = command("--cpu", "--quick", "--only", "agreement", "--json", str(tmp_path / "figures.json"))
    assert code == 0, err
    assert "| CPU and GPU after an epoch | native on a CPU, xla here |" in out
    record = json.loads((tmp_path / "figures.json").read_text())
    (figure,) = record["figures"]
    assert figure["reached"]
    assert figure["value"] <= 1e-3
    assert {"gpu", "date", "jax", "numba-cuda", "torch"} <= record["machine"].keys()


def test_without_a_gpu(gpu, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "gpu", lambda: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "nvidia-smi shows no GPU here. On a CPU, --cpu --quick shows that every row runs." in capsys.readouterr().err


def test_a_row_that_crashes_or_hangs_costs_the_others_nothing(gpu, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "on_gpu").mkdir()
    program = """
import os, sys, time
def crashes(bench):
    from on_gpu.bench import Figure
    yield Figure("one", "fcnet", 1.0)
    raise RuntimeError("no luck")
def hangs(bench):
    time.sleep(60)
    yield
def stops_in_a_line(bench):
    from on_gpu.bench import Figure
    yield Figure("one", "fcnet", 1.0)
    with open(sys.argv[-1], "a") as answer:
        answer.write('{"what": "tw')
    os._exit(3)
"""
    broken = BENCHMARKS / "on_gpu" / "broken_for_a_test.py"
    monkeypatch.setattr(
        gpu, "ROWS", {name: ("broken_for_a_test", name, 9) for name in ("crashes", "hangs", "stops_in_a_line")}
    )
    broken.write_text(program)
    try:
        bench = gpu.Bench("cpu", True)
        crashed = gpu.watch("crashes", bench, 60, tmp_path)
        hung = gpu.watch("hangs", bench, 5, tmp_path)
        stopped = gpu.watch("stops_in_a_line", bench, 60, tmp_path)
    finally:
        broken.unlink()
    assert [(one.what, one.value) for one in crashed] == [("one", 1.0), ("crashes", None)]
    assert crashed[1].note == "ended with 1: RuntimeError: no luck"
    assert hung[0].note == "not done after 5 s: it said nothing"
    assert [(one.what, one.note) for one in stopped] == [
        ("one", ""),
        ("stops_in_a_line", "ended with 3: it said nothing"),
    ]


def test_a_row_s_surroundings(gpu, monkeypatch, tmp_path):
    """Numba finds the CUDA toolkit that nvcc belongs to; what someone has set stays."""
    nvcc = tmp_path / "cuda-13" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(nvcc.parent))
    for name in ("CUDA_HOME", "CUDA_PATH", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    found = gpu.surroundings(tmp_path)
    assert found["CUDA_HOME"] == str(tmp_path / "cuda-13")
    assert found["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"
    assert str(tmp_path) in found["NUMBA_CACHE_DIR"] or found["NUMBA_CACHE_DIR"] == os.environ["NUMBA_CACHE_DIR"]
    monkeypatch.setenv("CUDA_PATH", "/mine")
    assert "CUDA_HOME" not in gpu.surroundings(tmp_path)


def test_a_broken_numba_cuda_costs_the_general_engine_nothing(gpu, monkeypatch):
    from on_gpu import ours

    monkeypatch.setattr(ours, "cuda_engine", lambda *settings, **more: 1 / 0)
    (cuda, *xla) = ours.conformance(gpu.Bench("cpu", True))
    assert cuda.note == "ZeroDivisionError: division by zero"
    assert [one.reached for one in xla] == [True, True, True]


def test_goals_against_the_best_peer(gpu):
    what = "784-100-10, batch 10"
    peers = [
        gpu.Figure(what, "peer: one", 50.0, "µs"),
        gpu.Figure(what, "peer: two", 21.0, "µs"),
        gpu.Figure(what, "peer: three"),
    ]
    for ours, reached in ((3.9, True), (4.1, False)):
        figures = [gpu.Figure(what, "fcnet, slow", 9.0), gpu.Figure(what, "fcnet, fast", ours, "µs", floor=1.2), *peers]
        slow, fast, *_ = gpu.compared(figures)
        assert slow.goal == ""
        assert (fast.goal, fast.reached) == ("<= 4 µs; >= 5x the best peer", reached)
        assert fast.note == f"{21 / ours:.2f}x the best peer"
        line = gpu.line_of(fast)
        assert line[2:4] == [f"{ours} µs", "1.2"]
        assert line[6].startswith("reached: " if reached else "not reached: ")
    assert gpu.line_of(dataclasses.replace(peers[2], note="not installed"))[2] == "unmeasured"


CODE = """HloModule jit_advance

%fused_multiply (param_0: f32[8,4]) -> f32[8,4] {
  %param_0 = f32[8,4]{1,0} parameter(0)
  ROOT %multiply = f32[8,4]{1,0} multiply(%param_0, %param_0)
}

%body (arg: (f32[8,4], f32[1048576,8])) -> (f32[8,4], s32[]) {
  %arg = (f32[8,4]{1,0}, f32[1048576,8]{1,0}) parameter(0)
  %w = f32[8,4]{1,0} get-tuple-element(%arg), index=0
  %X = f32[1048576,8]{1,0} get-tuple-element(%arg), index=1
  %row = f32[1,8]{1,0} fusion(%X), kind=kLoop, calls=%fused_row
  %dot = bf16[1,4]{1,0} custom-call(%row, %w), custom_call_target="__cublas$gemm"
  %both = (f32[8,4]{1,0}, f32[4]{0}) fusion(%w, %dot, %w), kind=kLoop, calls=%fused_multiply
  ROOT %answer = (f32[8,4]{1,0}, s32[]) tuple(%both, %arg)
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  ROOT %copy = f32[8,4]{1,0} copy(%x)
}
"""


def test_kernels_of_a_step_are_counted(monkeypatch):
    """Operands once each, the data set not at all; the longest list is a step's."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kernels

    found = kernels.kernels_of(CODE)
    assert [name.split()[0] for name, _ in found] == ["%row", "%dot", "%both"]
    assert [size for _, size in found] == [32, 8 + 32 + 128, 128 + 16 + 128 + 8]
    assert kernels.n_bytes("(pred[3], s32[], f32[524288,2], bf16[2,5])") == 3 + 4 + 20
