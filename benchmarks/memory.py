"""The most memory that this process has used so far."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_memory() -> float:
    """In MB. Linux's VmHWM where there is one: ``ru_maxrss`` of a new process begins at its parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
