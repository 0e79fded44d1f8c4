"""A kernel that does nothing: whether kernels can be compiled, linked and loaded is tried with it."""

from __future__ import annotations

from fcnet.engines.cuda.kernels.elementary import kernel
from fcnet.engines.cuda.kernels.memory import wait_for_copies


@kernel(32, 1)
def nothing() -> None:
    """Nothing, by an instruction that Numba has no word for."""
    wait_for_copies()
