"""Devices as JAX knows them, and what is set in JAX for a run."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fcnet.engines.contract import Placement, Program


def gpus() -> list[jax.Device]:
    """The GPUs that JAX can use; empty where there is none, or JAX came without GPU support."""
    try:
        return jax.devices("gpu")
    except RuntimeError:
        return []


def why_no_gpus() -> str:
    """What JAX says when it is asked for a GPU, in a line; empty where it has one."""
    try:
        jax.devices("gpu")
    except RuntimeError as error:
        return str(error).strip().split("\n")[0][:300]
    return ""


def jax_device(placement: Placement) -> jax.Device:
    """The JAX device of a placement."""
    return (jax.devices("cpu") if placement.device == "cpu" else gpus())[placement.index]


def mesh(placement: Placement) -> Mesh | None:
    """The devices that share out a batch's rows; None for one alone."""
    if placement.shards == 1:
        return None
    devices = jax.devices("cpu") if placement.device == "cpu" else gpus()
    return Mesh(np.array(devices[placement.index : placement.index + placement.shards]), ("rows",))


def everywhere(placement: Placement) -> Any:
    """Where arrays go: to the placement's device, or to each of its devices."""
    shared = mesh(placement)
    return jax_device(placement) if shared is None else NamedSharding(shared, PartitionSpec())


def precision(program: Program) -> AbstractContextManager[Any]:
    """float64 is on for the run that asks for it, and for no other."""
    return jax.enable_x64(program.dtype == "float64")


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless the user has chosen a place; without one all still works."""
    chosen = jax.config.values
    if chosen["jax_compilation_cache_dir"] or not chosen["jax_enable_compilation_cache"]:
        return
    try:
        import platformdirs  # not needed by who has chosen a place
    except ImportError:
        return
    folder = Path(platformdirs.user_cache_dir("fcnet")) / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
