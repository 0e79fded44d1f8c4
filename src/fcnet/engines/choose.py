"""Choosing an engine and a device from what was asked for and what is there. Never a silent fallback."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace

from fcnet.engines.contract import Engine, Placement, Program
from fcnet.engines.gpus import surroundings, why_not
from fcnet.errors import DeviceError, InputError, unknown_name


def _native() -> Engine:
    from fcnet.engines.native.engine import NativeEngine

    return NativeEngine()


def _cuda() -> Engine:
    from fcnet.engines.cuda.engine import CudaEngine

    return CudaEngine()


def _xla() -> Engine:
    from fcnet.engines.xla.engine import XlaEngine

    return XlaEngine()


ENGINES: dict[str, Callable[[], Engine]] = {"native": _native, "cuda": _cuda, "xla": _xla}
"""The engines by name, loaded when they are first used."""
AUTO = {"cpu": ("native", "xla"), "gpu": ("cuda", "xla")}
"""Of these "auto" takes the first that can do it."""


@functools.cache
def engine_named(name: str) -> Engine:
    """The one instance of the engine of that name."""
    if name not in ENGINES:
        raise unknown_name("engine", name, ("auto", *ENGINES))
    return ENGINES[name]()


@dataclass(frozen=True)
class Choice:
    """An engine, where it runs, and why; ``str()`` is the one line a person reads."""

    engine: Engine
    placement: Placement
    reason: str

    def __str__(self) -> str:
        return f"engine {self.engine.name} on {self.placement} ({self.reason})"


def choose(
    engine: str,
    device: str,
    program: Program,
    n_threads: int | None = None,
    deterministic: bool = False,
    mini_batch_size: int | None = None,
) -> Choice:
    """The engine and the placement for a program.

    Args:
        engine: "auto", "native", "cuda" or "xla".
        device: "auto" (a GPU where there is one), "cpu", "gpu", "gpu:1", or "gpus" for all there are, each with a part of
            every mini-batch.
        program: what is to run.
        n_threads: at most so many on a CPU; None for what the environment says, and else one a core.
        deterministic: on a GPU, only operations that answer the same bytes every time.
        mini_batch_size: rows of a step; None where nothing is trained step by step.

    Raises:
        InputError: an unknown engine or device, or a program that the engine cannot run.
        DeviceError: a GPU was asked for that is not there.
    """
    objections: list[str] = []
    for placement, reason in _places("cpu" if (engine, device) == ("native", "auto") else device):
        placement = replace(placement, threads=n_threads, deterministic=deterministic)
        for name in AUTO[placement.device] if engine == "auto" else (engine,):
            chosen = engine_named(name)
            objection = _why_not(chosen, program, placement, mini_batch_size)
            if objection is None and engine == "auto":
                objection = _why_not_auto(chosen, program, placement, mini_batch_size)
            if objection is None:
                return Choice(chosen, placement, "; ".join([reason, *objections]))
            objections.append(f"not {name}: {objection}")
    if engine != "auto":
        raise InputError(f"The engine {engine} cannot run this network: {objections[0].partition(': ')[2]}")
    raise InputError(f"No engine can run this network: {'; '.join(objections)}")


def _why_not(engine: Engine, program: Program, placement: Placement, mini_batch_size: int | None) -> str | None:
    """Why an engine cannot run a program; one that trains fewer networks than it answers for says so by ``answers``."""
    asked = engine.supports if mini_batch_size is not None else getattr(engine, "answers", engine.supports)
    return asked(program, placement)


def _why_not_auto(engine: Engine, program: Program, placement: Placement, mini_batch_size: int | None) -> str | None:
    """Why an engine that can run a program is not the one to choose; None where it is."""
    pays = getattr(engine, "pays", None)
    if pays is None or pays(program, mini_batch_size, placement):
        return None
    return (
        "its kernels are for small batches of small networks."
        if mini_batch_size
        else "its kernels are for small networks."
    )


def _places(device: str) -> list[tuple[Placement, str]]:
    """Where a device may be, the best place first, and why."""
    if device == "cpu":
        return [(Placement("cpu"), "as asked")]
    if device == "auto":
        if found := usable_gpus():
            return [(Placement("gpu"), found[0]), (Placement("cpu"), f"{found[0]}, but no engine runs this there")]
        return [(Placement("cpu"), f"no GPU: {why_no_gpu()}")]
    kind, _, number = str(device).partition(":")
    if device != "gpus" and (kind != "gpu" or (number and not number.isdecimal())):
        raise unknown_name("device", device, ("auto", "cpu", "gpu", "gpu:1", "gpus"))
    index, found = int(number or 0), usable_gpus()
    if not found:
        raise DeviceError(f"device={device!r} was asked for, but there is no GPU: {why_no_gpu()} Or use device='cpu'.")
    if index >= len(found):
        there = "is 1 GPU: gpu:0" if len(found) == 1 else f"are {len(found)} GPUs: gpu:0 to gpu:{len(found) - 1}"
        raise DeviceError(f"device={device!r} was asked for, but there {there}.")
    if device == "gpus":
        return [(Placement("gpu", shards=len(found)), ", ".join(found))]
    return [(Placement("gpu", index), found[index])]


def usable_gpus() -> list[str]:
    """The names of the GPUs that an engine can use."""
    seen = surroundings()
    if seen.hidden is not None or (seen.driver is None and not importlib.util.find_spec("jax_plugins")):
        return []  # known without asking
    from fcnet.engines.cuda import device

    if found := device.gpus():
        return found
    from fcnet.engines.xla.devices import gpus  # imports JAX, and takes seconds to find GPUs

    return [gpu.device_kind for gpu in gpus()]


def why_no_gpu() -> str:
    """Why no GPU can be used, and what to install."""
    seen = surroundings()
    if seen.driver is None or seen.cuda is None:
        return why_not(seen)
    from fcnet.engines.xla.devices import why_no_gpus

    return why_not(seen, why_no_gpus())
