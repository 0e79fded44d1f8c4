"""The general engine: JAX, on CPU and GPU, with any callable as activation."""
