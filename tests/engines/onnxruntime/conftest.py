"""Models made by hand, one odd case each."""

import onnx
import pytest
from onnx import TensorProto, helper

from engines.onnxruntime.engine import OnnxRuntimeEngine
from engines.protocol import Load


@pytest.fixture
def save(tmp_path):
    """Write a graph and load it."""

    def save(nodes, inputs, outputs, metadata=None, initializers=(), opset=17, ir_version=8, **load):
        graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
        if metadata:
            helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return OnnxRuntimeEngine(Load(engine="onnxruntime", path=str(path), threads=1, **load))

    return save


@pytest.fixture
def tensor():
    def tensor(name, shape, kind=TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, kind, shape)

    return tensor
