"""fcnet: fully connected networks on CPUs and GPUs."""

__version__ = "0.1.0"
