"""The second model of `tensor.py`: 8 layers of 2048×2048 with ReLU, which gains from batching. 134 MB.

python benchmarks/heavy_model.py FILE
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, WIDTH = 8, 2048


def make(path: Path) -> Path:
    """Always the same weights; activations keep their size from layer to layer."""
    random = np.random.default_rng(8)
    nodes, weights, last = [], [], "x"
    for layer in range(LAYERS):
        values = random.standard_normal((WIDTH, WIDTH), np.float32) * np.sqrt(2 / WIDTH, dtype=np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        last = f"a{layer}" if layer < LAYERS - 1 else "y"
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [last]))
    shape = ["batch", WIDTH]
    graph = helper.make_graph(
        nodes,
        "heavy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


if __name__ == "__main__":
    make(Path(sys.argv[1]))
