"""The fast engine: fused loops on the CPU, compiled by Numba."""
