"""What Numba compiles, and all that imports Numba: imported only where a kernel is not on the disk yet."""

from fcnet.engines.native.kernels import lists, steps

__all__ = ["lists", "steps"]
