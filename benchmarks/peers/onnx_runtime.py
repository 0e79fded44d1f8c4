"""ONNX Runtime on a graph of Gemm, Relu and Softmax, made directly; it optimises the graph when it is loaded."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from machine import cores
from peers.questions import Answers
from workloads import Parameters

OPSET = 17
IR_VERSION = 9


def graph(parameters: Parameters) -> bytes:
    nodes, constants, name = [], [], "X"
    for index, (w, b) in enumerate(parameters):
        constants += [numpy_helper.from_array(w, f"w{index}"), numpy_helper.from_array(b, f"b{index}")]
        nodes.append(helper.make_node("Gemm", [name, f"w{index}", f"b{index}"], [f"z{index}"]))
        last = index == len(parameters) - 1
        name = "p" if last else f"a{index}"
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"z{index}"], [name]))
    n_in, n_out = len(parameters[0][0]), len(parameters[-1][1])
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["rows", n_in])]
    outputs = [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["rows", n_out])]
    model = helper.make_model(
        helper.make_graph(nodes, "network", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    return bytes(model.SerializeToString())


class Inference(Answers):
    threads = tuple(sorted({1, cores()}))

    def build(self, parameters: Parameters, X: NDArray[np.float32]) -> None:
        self._graph = graph(parameters)
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        self.use_threads(self.threads[-1])

    def use_threads(self, n_threads: int | None) -> None:
        if not hasattr(self, "_graph"):
            return
        if n_threads not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = n_threads
            self._sessions = {  # one at a time: the threads of another would spin beside it
                n_threads: onnxruntime.InferenceSession(self._graph, options, providers=["CPUExecutionProvider"])
            }
        self._session = self._sessions[n_threads]

    def answer(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._session.run(None, {"X": X})[0]
