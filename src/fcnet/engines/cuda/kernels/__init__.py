"""What Numba compiles, and all that imports Numba: imported only where a kernel is not on the disk yet, and in simulators."""
