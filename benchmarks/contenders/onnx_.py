"""ONNX Runtime, on a model that is built here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks import cases

FIRST_PREDICTION = """
import sys
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {"x": np.ones((1, 128), np.float32)})
"""


class Network:
    """The case's network as Gemm and activation nodes; for inference only."""

    def __init__(self, case: cases.Case, threads: int) -> None:
        nodes, arrays, name = [], [], "x"
        for i, ((w, b), (_, _, activation, _)) in enumerate(zip(cases.parameters(case), case.layers(), strict=True)):
            arrays += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
            nodes.append(helper.make_node("Gemm", [name, f"w{i}", f"b{i}"], [name := f"z{i}"]))
            if activation:
                nodes.append(helper.make_node(activation.capitalize(), [name], [name := f"a{i}"]))
        ends = [
            helper.make_tensor_value_info(end, TensorProto.FLOAT, ["rows", width])
            for end, width in (("x", case.widths[0]), (name, case.widths[-1]))
        ]
        graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], arrays)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        self.model = model.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])

    def predict(self, x: np.ndarray) -> Callable[[int], np.ndarray]:
        """Predict, from a NumPy array to a NumPy array."""

        def run(k: int) -> np.ndarray:
            for _ in range(k):
                (y,) = self.session.run(None, {"x": x})
            return y

        return run

    def save(self, path: str) -> None:
        """Write what `FIRST_PREDICTION` reads."""
        Path(path).write_bytes(self.model)
