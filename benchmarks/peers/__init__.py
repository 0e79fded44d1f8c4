"""The contestants, each written as its own expert would: one file each, imported only in its own process.

Every library is given the machine's CPU and nothing else. Data lies in memory before the clock runs; what a library would
do once for a training (checking, copying, compiling) is off the clock too, and what it does for every step is on it.
"""

from __future__ import annotations

CPU_ONLY = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "2"}
"""Variables of every contestant's process."""

FCNET = "fcnet"
"""The contestant whose ratio to the best peer is the result."""

TRAINING = {
    "scikit-learn": "peers.scikit_learn:Training",
    "PyTorch": "peers.pytorch:Training",
    "torch.compile": "peers.pytorch:CompiledTraining",
    "Keras": "peers.keras_jax:Training",
    "jax scan": "peers.plain_jax:Training",
    "fcnet xla": "peers.fcnet_engines:XlaTraining",
    FCNET: "peers.fcnet_engines:NativeTraining",
}
INFERENCE = {
    "scikit-learn": "peers.scikit_learn:Inference",
    "PyTorch": "peers.pytorch:Inference",
    "jax": "peers.plain_jax:Inference",
    "ONNX Runtime": "peers.onnx_runtime:Inference",
    FCNET: "peers.fcnet_engines:Inference",
}


def is_peer(name: str) -> bool:
    """Whether the contestant is another library."""
    return not name.startswith(FCNET)
