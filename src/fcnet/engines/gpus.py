"""Why a GPU can or cannot be used: what is to be seen of the driver, the card and JAX's support, without importing JAX."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

OLDEST_DRIVERS = {12: (525, 60), 13: (580, 65)}
"""The oldest NVIDIA driver that each version of CUDA runs on, by NVIDIA's release notes."""


@dataclass(frozen=True)
class Surroundings:
    """What a process sees of NVIDIA GPUs.

    Attributes:
        driver: the version of the kernel's driver as ``(580, 65)``; () where there is one that does not say, None where there is none.
        card: whether the PCI bus shows an NVIDIA GPU.
        cuda: the version of CUDA that JAX's support for GPUs is made for; None where it is not installed.
        hidden: the setting in the environment that hides GPUs, as ``JAX_PLATFORMS=cpu``; None where there is none.
    """

    driver: tuple[int, ...] | None
    card: bool
    cuda: int | None
    hidden: str | None


def surroundings() -> Surroundings:
    """What this process sees."""
    installed = [n for n in OLDEST_DRIVERS if importlib.util.find_spec(f"jax_cuda{n}_plugin") is not None]
    return Surroundings(_driver(), _card(), max(installed, default=None), _hidden())


def why_not(seen: Surroundings, said: str = "") -> str:
    """Why no GPU can be used, and what to do about it.

    Args:
        seen: what the process sees.
        said: what JAX said when it was asked for a GPU.
    """
    if seen.driver is None:
        if seen.card:
            return "this machine has an NVIDIA GPU, but no driver for it is loaded; install the driver, and run nvidia-smi to check it."
        return "this machine shows no NVIDIA driver; with an NVIDIA GPU, install its driver and 'fcnet[gpu]'."
    if seen.hidden is not None:
        return f"the environment says {seen.hidden}, which hides GPUs; unset it."
    if seen.cuda is None:
        return "JAX is installed without GPU support; install it with: pip install 'fcnet[gpu]'."
    oldest = OLDEST_DRIVERS[seen.cuda]
    if seen.driver and seen.driver[:2] < oldest:
        driver, needed = (".".join(map(str, version)) for version in (seen.driver, oldest))
        return f"the NVIDIA driver {driver} is too old for JAX's CUDA {seen.cuda}, which needs {needed} or newer; update the driver."
    answer = f" JAX says: {said}" if said else ""
    return f"JAX's GPU support is installed but found no usable GPU; run nvidia-smi to check driver and GPU.{answer}"


def _driver() -> tuple[int, ...] | None:
    """The version that the kernel's module tells, as in "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  ..."."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return () if Path("/dev/nvidiactl").exists() else None
    found = re.search(r"\b(\d{3,})\.(\d+)(?:\.(\d+))?\b", text)
    return tuple(int(number) for number in found.groups() if number is not None) if found else ()


def _card() -> bool:
    """Whether a display controller or an accelerator of NVIDIA's is on the bus."""
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == "0x10de" and kind[:4] in ("0x03", "0x12"):
            return True
    return False


def _hidden() -> str | None:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return f"JAX_PLATFORMS={platforms}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"CUDA_VISIBLE_DEVICES={visible}" if visible in ("", "-1", "NoDevFiles") else None
