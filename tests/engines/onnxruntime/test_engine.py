"""Any ONNX model: its signature, what batches, and errors in words. The models are made here, by hand."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engines.engine import EngineError
from engines.onnxruntime.engine import OnnxRuntimeEngine
from engines.protocol import Load


@pytest.fixture
def save(tmp_path):
    """Write a one-node model and load it."""

    def save(nodes, inputs, outputs, metadata=None, **load):
        graph = helper.make_graph(nodes, "g", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        if metadata:
            helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return OnnxRuntimeEngine(Load(engine="onnxruntime", path=str(path), **load))

    return save


def tensor(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def test_a_free_first_axis_batches_and_labels_are_read_from_the_file(save):
    engine = save(
        [helper.make_node("Relu", ["x"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["n", 3])],
        [tensor("y", TensorProto.FLOAT, ["n", 3])],
        {"labels": json.dumps(["a", "b", "c"])},
    )
    signature = engine.ready.signature
    assert signature.batched
    assert (signature.inputs[0].datatype, signature.inputs[0].shape) == ("FP32", [-1, 3])
    assert signature.labels == ["a", "b", "c"]
    assert engine.ready.provider == "CPUExecutionProvider"
    out = engine.infer({"x": np.array([[-1, 0, 2]], np.float32)}, [])
    assert out["y"].tolist() == [[0, 0, 2]]


def test_an_output_that_does_not_follow_the_batch_is_noticed_by_the_probe_run(save):
    flat = helper.make_tensor("flat", TensorProto.INT64, [1], [-1])
    engine = save(
        [helper.make_node("Constant", [], ["shape"], value=flat), helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["n", 5])],
        [tensor("y", TensorProto.FLOAT, ["m"])],
    )
    assert not engine.ready.signature.batched
    assert "does not follow" in engine.ready.notes[0]


def test_a_fixed_first_axis_is_served_unbatched_and_says_so(save):
    engine = save(
        [helper.make_node("Relu", ["x"], ["y"])],
        [tensor("x", TensorProto.FLOAT, [1, 3])],
        [tensor("y", TensorProto.FLOAT, [1, 3])],
    )
    assert not engine.ready.signature.batched
    assert engine.ready.notes


def test_strings_go_in_and_out_and_bytes_that_are_no_text_are_refused(save):
    engine = save(
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", TensorProto.STRING, ["n", 1])],
        [tensor("y", TensorProto.STRING, ["n", 1])],
    )
    assert engine.infer({"x": np.array([["ü".encode()]], dtype=object)}, [])["y"].tolist() == [["ü"]]
    with pytest.raises(EngineError) as caught:
        engine.infer({"x": np.array([[b"\xff"]], dtype=object)}, [])
    assert caught.value.code == "invalid_input"


def test_a_run_that_fails_on_its_input_is_the_callers_problem(save):
    engine = save(
        [helper.make_node("Gather", ["w", "i"], ["y"])],
        [tensor("w", TensorProto.FLOAT, [3]), tensor("i", TensorProto.INT64, ["n"])],
        [tensor("y", TensorProto.FLOAT, ["n"])],
    )
    with pytest.raises(EngineError) as caught:
        engine.infer({"w": np.zeros(3, np.float32), "i": np.array([99])}, [])
    assert caught.value.code == "invalid_input"


@pytest.mark.parametrize("content", [b"", b"noise" * 100, b"\x08\x08"])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"bad\.onnx") as caught:
        OnnxRuntimeEngine(Load(engine="onnxruntime", path=str(path)))
    assert caught.value.code == "bad_model"


@pytest.mark.parametrize(("device", "code"), [("cuda:0", "device_unavailable"), ("tpu", "bad_setting")])
def test_a_device_that_is_not_there_is_an_error_and_never_the_cpu(save, device, code):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this environment has the GPU build of ONNX Runtime")
    with pytest.raises(EngineError) as caught:
        save(
            [helper.make_node("Relu", ["x"], ["y"])],
            [tensor("x", TensorProto.FLOAT, ["n", 3])],
            [tensor("y", TensorProto.FLOAT, ["n", 3])],
            device=device,
        )
    assert caught.value.code == code
