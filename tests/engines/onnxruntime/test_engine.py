"""Any ONNX model: its signature, what batches, every type, and errors in words. The models are made by hand."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.engine import EngineError
from engines.onnxruntime import engine as engine_module
from engines.onnxruntime.engine import OnnxRuntimeEngine
from engines.protocol import Load
from engines.tensors import BF16, DTYPES, from_bf16, to_bf16

INT64, STRING = TensorProto.INT64, TensorProto.STRING


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def constant(name, values, dtype=np.int64):
    return numpy_helper.from_array(np.array(values, dtype), name)


def axes_of(engine):
    signature = engine.ready.signature
    return {spec.name: spec.batch_axis for spec in [*signature.inputs, *signature.outputs]}


def test_a_free_first_axis_batches_and_labels_are_read_from_the_file(save, tensor):
    engine = save(
        [node("Relu", ["x"], ["y"])],
        [tensor("x", ["n", 3])],
        [tensor("y", ["n", 3])],
        {"labels": json.dumps(["a", "b", "c"])},
    )
    signature = engine.ready.signature
    assert signature.batched and not engine.ready.notes
    assert (signature.inputs[0].datatype, signature.inputs[0].shape) == ("FP32", [-1, 3])
    assert signature.labels == ["a", "b", "c"]
    assert engine.ready.provider == "CPUExecutionProvider"
    out = engine.infer({"x": np.array([[-1, 0, 2]], np.float32)}, [])
    assert out["y"].tolist() == [[0, 0, 2]]


# Which axis batches


def test_an_output_that_does_not_follow_the_batch_is_noticed_by_the_probe_run(save, tensor):
    engine = save(
        [node("Reshape", ["x", "flat"], ["y"])],
        [tensor("x", ["n", 5])],
        [tensor("y", ["m"])],
        initializers=[constant("flat", [-1])],
    )
    assert not engine.ready.signature.batched
    assert "output y does not follow" in engine.ready.notes[0]


def test_a_fixed_first_axis_is_served_unbatched_and_says_so(save, tensor):
    engine = save([node("Relu", ["x"], ["y"])], [tensor("x", [1, 3])], [tensor("y", [1, 3])])
    assert not engine.ready.signature.batched
    assert "the first axis of input x is fixed at 1" in engine.ready.notes[0]


def test_transposed_outputs_and_inputs_batch_along_their_own_axes(save, tensor):
    engine = save([node("Transpose", ["x"], ["y"])], [tensor("x", ["n", 3])], [tensor("y", [3, "n"])])
    assert axes_of(engine) == {"x": 0, "y": 1}
    engine = save([node("Relu", ["x"], ["y"])], [tensor("x", [3, "n"])], [tensor("y", [3, "n"])])
    assert axes_of(engine) == {"x": 1, "y": 1}


def test_time_first_batches_along_the_axis_that_is_called_so(save, tensor):
    engine = save(
        [node("CumSum", ["x", "zero"], ["y"])],
        [tensor("x", ["time", "batch", 4])],
        [tensor("y", ["time", "batch", 4])],
        initializers=[constant("zero", 0)],
    )
    assert axes_of(engine) == {"x": 1, "y": 1}


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax", "Hardmax"])
def test_a_softmax_over_the_rows_is_not_batched(save, tensor, kind):
    engine = save([node(kind, ["x"], ["y"], axis=0)], [tensor("x", ["n", 4])], [tensor("y", ["n", 4])])
    assert not engine.ready.signature.batched
    assert "rows of a batch influence each other (output y)" in engine.ready.notes[0]


def test_a_loop_that_carries_a_state_from_row_to_row_is_not_batched(save, tensor):
    body = helper.make_graph(
        [node("Add", ["state", "row"], ["next"]), node("Identity", ["next"], ["out"])],
        "body",
        [tensor("state", [4]), tensor("row", [4])],
        [tensor("next", [4]), tensor("out", [4])],
    )
    engine = save(
        [node("Scan", ["start", "x"], ["last", "y"], num_scan_inputs=1, body=body)],
        [tensor("x", ["n", 4])],
        [tensor("y", ["n", 4])],
        initializers=[constant("start", [0, 0, 0, 0], np.float32)],
    )
    assert not engine.ready.signature.batched
    assert "influence each other" in engine.ready.notes[0]


def test_inputs_of_different_free_axes_batch_together(save, tensor):
    engine = save(
        [
            node("ReduceSum", ["a", "one"], ["a1"], keepdims=0),
            node("ReduceSum", ["b", "one"], ["b1"], keepdims=0),
            node("Add", ["a1", "b1"], ["y"]),
        ],
        [tensor("a", ["n", "s"]), tensor("b", ["n", "t"])],
        [tensor("y", ["n"])],
        initializers=[constant("one", [1])],
    )
    assert axes_of(engine) == {"a": 0, "b": 0, "y": 0}
    assert [spec.axes for spec in engine.ready.signature.inputs] == [["n", "s"], ["n", "t"]]


def test_a_feature_count_that_the_file_does_not_give_is_found(save, tensor):
    engine = save(
        [node("Gemm", ["x", "w"], ["y"])],
        [tensor("x", [None, None])],
        [tensor("y", [None, None])],
        initializers=[constant("w", np.ones((21, 2)), np.float32)],
    )
    assert engine.ready.signature.batched


def test_a_scalar_is_shared_by_the_batch_and_may_also_come_out(save, tensor):
    engine = save(
        [node("Mul", ["x", "scale"], ["y"])], [tensor("x", ["n", 2]), tensor("scale", [])], [tensor("y", ["n", 2])]
    )
    assert axes_of(engine) == {"x": 0, "scale": -1, "y": 0}
    out = engine.infer({"x": np.ones((1, 2), np.float32), "scale": np.array(3, np.float32)}, [])
    assert out["y"].tolist() == [[3, 3]]
    engine = save([node("ReduceSum", ["x"], ["y"], keepdims=0)], [tensor("x", ["n", 2])], [tensor("y", [])])
    assert not engine.ready.signature.batched
    assert engine.infer({"x": np.ones((2, 2), np.float32)}, [])["y"].shape == ()


def test_a_graph_of_its_own_nodes_is_not_batched(save, tensor):
    engine = save([node("Relu", ["x"], ["y"])], [tensor("x", ["n", "n"])], [tensor("y", ["n", "n"])])
    assert not engine.ready.signature.batched
    assert "has the axis n twice" in engine.ready.notes[0]


def test_a_model_that_draws_at_random_says_so(save, tensor):
    engine = save([node("RandomNormalLike", ["x"], ["y"])], [tensor("x", ["n", 3])], [tensor("y", ["n", 3])])
    assert not engine.ready.signature.batched
    assert "another one each time" in engine.ready.notes[0]


def test_a_decoder_begins_with_an_empty_past_and_may_be_sent_one(save, tensor):
    engine = save(
        [
            node("Concat", ["past", "x"], ["all"], axis=1),
            node("Unsqueeze", ["mask", "two"], ["column"]),
            node("Mul", ["all", "column"], ["present"]),
        ],
        [
            tensor("x", ["batch", "seq", 4]),
            tensor("past", ["batch", "past_seq", 4]),
            tensor("mask", ["batch", "past_seq + seq"]),
        ],
        [tensor("present", ["batch", "past_seq + seq", 4])],
        initializers=[constant("two", [2])],
    )
    assert engine.ready.signature.batched
    empty = np.zeros((1, 0, 4), np.float32)
    out = engine.infer({"x": np.ones((1, 2, 4), np.float32), "past": empty, "mask": np.ones((1, 2), np.float32)}, [])
    assert out["present"].shape == (1, 2, 4)


def test_dynamic_quantisation_is_batched_with_a_warning(save, tensor):
    engine = save(
        [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        [tensor("x", ["n", 8])],
        [tensor("y", ["n", 8])],
    )
    assert engine.ready.signature.batched
    assert "depends a little" in engine.ready.notes[0]


def test_a_model_that_does_not_end_is_stopped_and_served_unbatched(save, tensor, monkeypatch):
    monkeypatch.setattr(engine_module, "BUDGET_S", 0.1)
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["go_on"]),
            node("Identity", ["v"], ["v_out"]),
        ],
        "body",
        [tensor("i", [], INT64), tensor("go", [], TensorProto.BOOL), tensor("v", ["n", 3])],
        [tensor("go_on", [], TensorProto.BOOL), tensor("v_out", ["n", 3])],
    )
    engine = save(
        [node("Loop", ["most", "yes", "x"], ["y"], body=body)],
        [tensor("x", ["n", 3])],
        [tensor("y", ["n", 3])],
        initializers=[constant("most", 1 << 40), constant("yes", True, np.bool_)],
    )
    assert not engine.ready.signature.batched
    assert "the probe of the model was stopped after 0." in engine.ready.notes[0]


def test_what_the_batcher_sends_first_has_run_before(save, tensor, monkeypatch):
    seen = []
    original = OnnxRuntimeEngine._run

    def spy(self, inputs, outputs, options):
        seen.append(len(inputs["x"]))
        return original(self, inputs, outputs, options)

    monkeypatch.setattr(OnnxRuntimeEngine, "_run", spy)
    relu = [node("Relu", ["x"], ["y"])], [tensor("x", ["n", 3])], [tensor("y", ["n", 3])]
    save(*relu)
    assert {1, 2, 3, 32} <= set(seen)
    seen.clear()
    save(*relu, settings={"max_batch_size": 8})
    assert max(seen) == 8


# Types


NUMBERS = {
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BOOL": TensorProto.BOOL,
    **{f"{sign}INT{bits}": getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)},
}


@pytest.mark.parametrize("datatype", sorted(NUMBERS))
def test_every_number_goes_in_and_out(save, tensor, datatype):
    kind = NUMBERS[datatype]
    engine = save([node("Identity", ["x"], ["y"])], [tensor("x", ["n", 2], kind)], [tensor("y", ["n", 2], kind)])
    signature = engine.ready.signature
    assert signature.batched
    assert (signature.inputs[0].datatype, signature.outputs[0].datatype) == (datatype, datatype)
    sent = np.array([[0, 1]], DTYPES[datatype])
    out = engine.infer({"x": sent}, [])["y"]
    assert out.dtype == sent.dtype and out.tolist() == sent.tolist()


def test_bf16_goes_in_and_out_as_its_bits_beside_other_types(save, tensor):
    engine = save(
        [
            node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
            node("Add", ["f", "other"], ["sum"]),
            node("Cast", ["sum"], ["y"], to=TensorProto.BFLOAT16),
        ],
        [tensor("x", ["n", 2], TensorProto.BFLOAT16), tensor("other", ["n", 2])],
        [tensor("y", ["n", 2], TensorProto.BFLOAT16), tensor("sum", ["n", 2])],
    )
    signature = engine.ready.signature
    assert signature.batched
    assert [spec.datatype for spec in [*signature.inputs, *signature.outputs]] == ["BF16", "FP32", "BF16", "FP32"]
    sent = np.array([[1.5, -2]], np.float32)
    out = engine.infer({"x": to_bf16(sent), "other": np.array([[1, 1]], np.float32)}, [])
    assert out["y"].dtype == BF16 and out["y"].shape == (1, 2)
    assert from_bf16(out["y"]).tolist() == [[2.5, -1]] == out["sum"].tolist()


def test_strings_go_in_and_out_and_bytes_that_are_no_text_are_refused(save, tensor):
    engine = save([node("Identity", ["x"], ["y"])], [tensor("x", ["n", 1], STRING)], [tensor("y", ["n", 1], STRING)])
    assert engine.ready.signature.batched
    assert engine.infer({"x": np.array([["ü".encode()]], dtype=object)}, [])["y"].tolist() == [["ü"]]
    with pytest.raises(EngineError, match="not UTF-8") as caught:
        engine.infer({"x": np.array([[b"\xff"]], dtype=object)}, [])
    assert (caught.value.code, caught.value.field) == ("invalid_input", "x")


def test_categories_become_numbers_beside_numbers(save, tensor):
    encode = helper.make_node(
        "LabelEncoder", ["colour"], ["c"], domain="ai.onnx.ml", keys_strings=["red"], values_floats=[5.0]
    )
    engine = save(
        [encode, node("Add", ["c", "size"], ["y"])],
        [tensor("colour", ["n", 1], STRING), tensor("size", ["n", 1])],
        [tensor("y", ["n", 1])],
    )
    assert engine.ready.signature.batched
    sizes = np.array([[1], [2]], np.float32)
    out = engine.infer({"colour": np.array([[b"red"], [b"?"]], dtype=object), "size": sizes}, [])
    assert out["y"].tolist() == [[6], [2]]


def test_an_optional_output_is_left_out_where_there_is_none(save, tensor):
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 2])
    optional = helper.make_value_info("y", helper.make_optional_type_proto(kind))
    x, z = tensor("x", ["n", 2]), tensor("z", ["n", 2])
    same = node("Identity", ["x"], ["z"])
    there = save([node("Optional", ["x"], ["y"]), same], [x], [optional, z])
    assert there.ready.signature.batched
    assert list(there.infer({"x": np.ones((1, 2), np.float32)}, [])) == ["y", "z"]
    missing = save([node("Optional", [], ["y"], type=kind), same], [x], [optional, z])
    assert list(missing.infer({"x": np.ones((1, 2), np.float32)}, [])) == ["z"]


def test_sequences_of_tensors_are_refused_in_words(save, tensor):
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 2])
    sequence = helper.make_value_info("boxes", helper.make_sequence_type_proto(kind))
    with pytest.raises(EngineError, match=r"boxes has type seq\(tensor\(float\)\)") as caught:
        save([node("SequenceConstruct", ["x"], ["boxes"])], [tensor("x", ["n", 2])], [sequence])
    assert caught.value.code == "bad_model" and caught.value.hint


def test_external_data_beside_the_model_is_found(tmp_path, tensor):
    weights = constant("w", np.full((2, 2), 3.0), np.float32)
    graph = helper.make_graph(
        [node("MatMul", ["x", "w"], ["y"])], "g", [tensor("x", ["n", 2])], [tensor("y", ["n", 2])], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    assert (tmp_path / "model.onnx_data").exists()
    engine = OnnxRuntimeEngine(Load(engine="onnxruntime", path=str(path)))
    assert engine.infer({"x": np.ones((1, 2), np.float32)}, [])["y"].tolist() == [[6, 6]]
    (tmp_path / "model.onnx_data").unlink()
    with pytest.raises(EngineError, match=r"model\.onnx") as caught:
        OnnxRuntimeEngine(Load(engine="onnxruntime", path=str(path)))
    assert caught.value.code == "bad_model"


# Errors


@pytest.fixture
def two_inputs(save, tensor):
    return save(
        [node("Gather", ["w", "i"], ["y"])],
        [tensor("w", [3]), tensor("i", ["n"], INT64)],
        [tensor("y", ["n"])],
    )


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"i": np.array([99])}, "", "out of data bounds"),
        ({"i": np.array([0], np.int32)}, "i", "must be INT64, not INT32"),
        ({"i": np.array([[0]])}, "i", "must have shape"),
        ({"w": np.zeros(4, np.float32)}, "w", "must have shape"),
        ({"i": np.zeros(0, np.int64)}, "i", "axis of length 0"),
        ({"other": np.zeros(1)}, "other", "no input other"),
    ],
)
def test_a_request_that_fails_is_told_what_was_wrong_and_the_next_one_is_served(two_inputs, change, field, words):
    good = {"w": np.array([5, 6, 7], np.float32), "i": np.array([2])}
    with pytest.raises(EngineError, match=words) as caught:
        two_inputs.infer(good | change, [])
    assert (caught.value.code, caught.value.field) == ("invalid_input", field)
    assert two_inputs.infer(good, [])["y"].tolist() == [7]


def test_a_missing_input_and_an_unknown_output_are_named(two_inputs):
    with pytest.raises(EngineError, match="input i is missing"):
        two_inputs.infer({"w": np.zeros(3, np.float32)}, [])
    with pytest.raises(EngineError, match=r"output name: *q") as caught:
        two_inputs.infer({"w": np.zeros(3, np.float32), "i": np.array([0])}, ["q"])
    assert caught.value.code == "invalid_input"


def test_more_memory_than_there_is_fails_that_request_only(save, tensor):
    engine = save([node("ConstantOfShape", ["s"], ["y"])], [tensor("s", [1], INT64)], [tensor("y", ["m"])])
    with pytest.raises(EngineError) as caught:
        engine.infer({"s": np.array([1 << 50])}, [])
    assert caught.value.code == "out_of_memory"
    assert engine.infer({"s": np.array([2])}, [])["y"].tolist() == [0, 0]


@pytest.mark.parametrize("content", [b"", b"noise" * 100, b"\x08\x08"])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"bad\.onnx") as caught:
        OnnxRuntimeEngine(Load(engine="onnxruntime", path=str(path)))
    assert caught.value.code == "bad_model"


@pytest.mark.parametrize(("device", "code"), [("cuda:0", "device_unavailable"), ("tpu", "bad_setting")])
def test_a_device_that_is_not_there_is_an_error_and_never_the_cpu(save, tensor, device, code):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this environment has the GPU build of ONNX Runtime")
    with pytest.raises(EngineError) as caught:
        save([node("Relu", ["x"], ["y"])], [tensor("x", ["n", 3])], [tensor("y", ["n", 3])], device=device)
    assert caught.value.code == code
