"""Where and with what a benchmark was run."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("fcnet", "numpy", "numba", "jax", "scikit-learn", "torch", "keras", "onnxruntime")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(more: tuple[str, ...] = ()) -> dict[str, str]:
    """With the versions of ``PACKAGES`` and of more."""
    return {
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "processor": _processor(),
        "cores": str(cores()),
        "memory": _memory(),
        "system": platform.platform(terse=True),
        "load before": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        **{package: _version(package) for package in (*PACKAGES, *more)},
    }


def is_busy() -> bool:
    """Whether something else was at work just before, so that times mean little."""
    return os.getloadavg()[0] > 0.25 * cores()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in cpuinfo.read_text().splitlines() if ":" in line
    )
    wide = "AVX-512" if "avx512f" in fields.get("flags", "") else "AVX2" if "avx2" in fields.get("flags", "") else ""
    name = fields.get("model name", platform.machine())
    return " ".join(filter(None, (name, f"(family {fields['cpu family']}, model {fields['model']})", wide)))


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
