"""Between messages and tensors."""

import numpy as np
import pytest

from app.api.grpc import inference_pb2 as pb
from app.api.grpc import tensors
from app.api.kserve.parameters import Place, Wanted
from app.api.kserve.service import Call
from app.dataplane.inference import Inference
from app.dataplane.routing import Target
from app.dataplane.tensors import Tensor, unpack_strings
from app.errors import InvalidInput

Input = pb.ModelInferRequest.InferInputTensor
Contents = pb.InferTensorContents


def no_memory(place: Place) -> bytes:
    raise AssertionError(f"nothing lies in shared memory, {place} was asked for")


def read(*inputs, raw=()) -> list[Tensor]:
    return tensors.inputs(pb.ModelInferRequest(inputs=inputs, raw_input_contents=raw), no_memory)


@pytest.mark.parametrize(
    ("datatype", "field", "values", "dtype"),
    [
        ("BOOL", "bool_contents", [True, False], "?"),
        ("INT8", "int_contents", [-128, 127], "i1"),
        ("INT16", "int_contents", [-(2**15), 2**15 - 1], "<i2"),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1], "<i4"),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1], "<i8"),
        ("UINT8", "uint_contents", [0, 255], "u1"),
        ("UINT16", "uint_contents", [0, 2**16 - 1], "<u2"),
        ("UINT32", "uint_contents", [0, 2**32 - 1], "<u4"),
        ("UINT64", "uint64_contents", [0, 2**64 - 1], "<u8"),
        ("FP32", "fp32_contents", [0.5, float("inf")], "<f4"),
        ("FP64", "fp64_contents", [0.1, -1e300], "<f8"),
    ],
)
def test_typed_contents_of_every_type(datatype, field, values, dtype):
    [tensor] = read(Input(name="x", datatype=datatype, shape=[2], contents=Contents(**{field: values})))
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", datatype, [2])
    assert np.frombuffer(tensor.data, dtype).tolist() == values


def test_texts_are_bytes_of_any_kind():
    [tensor] = read(
        Input(name="x", datatype="BYTES", shape=[3], contents=Contents(bytes_contents=[b"a", b"", b"\xff"]))
    )
    assert unpack_strings(tensor.data) == [b"a", b"", b"\xff"]


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (Input(name="x", datatype="INT8", contents=Contents(int_contents=[300])), "beyond INT8"),
        (Input(name="x", datatype="UINT8", contents=Contents(uint_contents=[256])), "beyond UINT8"),
        (Input(name="x", datatype="FP32", contents=Contents(fp64_contents=[1])), "fp32_contents, not in fp64_contents"),
        (Input(name="x", datatype="FP16", contents=Contents(fp32_contents=[1])), "FP16 has no field"),
        (Input(name="x", datatype="WORD"), "WORD has no field"),
    ],
)
def test_contents_that_do_not_fit_are_refused_by_name(tensor, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        read(tensor)
    assert caught.value.field == "inputs.x.contents"


def test_raw_contents_go_to_the_inputs_in_their_order():
    a, b = Input(name="a", datatype="FP16", shape=[1]), Input(name="b", datatype="INT8", shape=[2])
    assert [(t.name, bytes(t.data)) for t in read(a, b, raw=[b"ha", b"\1\2"])] == [("a", b"ha"), ("b", b"\1\2")]
    for raw, words in (([b"ha"], "nothing for input b"), ([b"", b"", b""], "3 entries, 2 inputs")):
        with pytest.raises(InvalidInput, match=words):
            read(a, b, raw=raw)


def test_raw_and_typed_contents_do_not_mix():
    typed = Input(name="a", datatype="INT8", shape=[1], contents=Contents(int_contents=[1]))
    with pytest.raises(InvalidInput, match="has contents, and the request raw_input_contents"):
        read(typed, Input(name="b", datatype="INT8", shape=[1]), raw=[b"\1", b"\2"])


def test_an_input_in_shared_memory_takes_no_raw_contents():
    there = Input(name="a", datatype="INT8", shape=[2])
    there.parameters["shared_memory_region"].string_param = "r"
    there.parameters["shared_memory_byte_size"].int64_param = 2
    there.parameters["shared_memory_offset"].int64_param = 8
    request = pb.ModelInferRequest(
        inputs=[there, Input(name="b", datatype="INT8", shape=[1])], raw_input_contents=[b"b"]
    )
    memory = {Place("r", 8, 2): b"aa"}
    assert [bytes(tensor.data) for tensor in tensors.inputs(request, memory.__getitem__)] == [b"aa", b"b"]


def test_parameters_are_plain_values_of_their_kind():
    request = pb.ModelInferRequest()
    request.parameters["flag"].bool_param = False
    request.parameters["signed"].int64_param = -1
    request.parameters["unsigned"].uint64_param = 2**64 - 1
    request.parameters["real"].double_param = 0.5
    request.parameters["text"].string_param = ""
    request.parameters["nothing"].SetInParent()
    expected = {"flag": False, "signed": -1, "unsigned": 2**64 - 1, "real": 0.5, "text": ""}
    found = tensors.parameters(request.parameters)
    assert found == expected
    assert {key: type(value) for key, value in found.items()} == {key: type(value) for key, value in expected.items()}


def test_an_output_in_shared_memory_says_where_and_keeps_its_place_among_the_raw_ones():
    target = Target("route", "model", 3, "", 0)
    outputs = [Tensor("a", "INT8", [2], b""), Tensor("b", "INT8", [1], memoryview(b"b"))]
    wanted = [Wanted("a", place=Place("r", 4, 2)), Wanted("b")]
    message = tensors.response(Call("route", [], wanted, id="7"), Inference(target, outputs))
    assert (message.model_name, message.model_version, message.id) == ("route", "3", "7")
    assert list(message.raw_output_contents) == [b"", b"b"]
    assert tensors.parameters(message.outputs[0].parameters) == {
        "shared_memory_region": "r",
        "shared_memory_byte_size": 2,
        "shared_memory_offset": 4,
    }
    assert not message.outputs[1].parameters
