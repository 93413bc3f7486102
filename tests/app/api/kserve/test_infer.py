"""`/v2` bytes <-> tensors, JSON and binary."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.api.http import Request
from app.api.kserve import infer, parameters
from app.api.kserve.service import Call
from app.api.kserve.shared_memory import Regions
from app.api.kserve.tensors import DTYPES
from app.dataplane.inference import Inference
from app.dataplane.routing import Target
from app.dataplane.tensors import Tensor, pack_strings, unpack_strings
from app.errors import InvalidInput
from app.schema.kserve import InferRequest, InferRequestedOutput


def decode(asked):
    asked.params = {"model": "m"}
    message, call = infer.decode(asked, Regions())
    return message, call.inputs


def encode(message, answer):
    wanted = [parameters.wanted(output.name, output.parameters) for output in message.outputs]
    return infer.encode(message, Call("m", [], wanted), answer)


def request(body, **headers):
    head = [(name.replace("_", "-").encode(), str(value).encode()) for name, value in headers.items()]
    made = Request({"method": "POST", "path": "/", "query_string": b"", "headers": head})
    made.body = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return made


def one(data, datatype="FP32", shape=None, **more):
    return {"inputs": [{"name": "x", "datatype": datatype, "shape": shape or [len(data)], "data": data} | more]}


@pytest.mark.parametrize("datatype", sorted(set(DTYPES) - {"BOOL"}))
def test_numbers_become_the_bytes_of_their_type(datatype):
    _, (tensor,) = decode(request(one([0, 1, 2, 3], datatype)))
    assert np.frombuffer(tensor.data, DTYPES[datatype]).tolist() == [0, 1, 2, 3]


def test_nested_lists_are_read_in_c_order():
    _, (tensor,) = decode(request(one([[1, 2], [3, 4.5]], shape=[2, 2])))
    assert np.frombuffer(tensor.data, "<f4").tolist() == [1, 2, 3, 4.5]


def test_booleans_and_strings():
    _, (tensor,) = decode(request(one([True, False], "BOOL")))
    assert tensor.data == b"\1\0"
    _, (tensor,) = decode(request(one([["a", "ü"]], "BYTES", [1, 2])))
    assert unpack_strings(tensor.data) == [b"a", "ü".encode()]


@pytest.mark.parametrize(
    ("data", "datatype"),
    [
        (["a"], "FP32"),
        ([None], "INT64"),
        ([1.5], "INT32"),
        ([300], "UINT8"),
        ([-1], "UINT8"),
        ([1], "BOOL"),
        ([1], "BYTES"),
        ([{}], "FP32"),
    ],
)
def test_values_of_another_type_are_refused_by_name(data, datatype):
    with pytest.raises(InvalidInput, match=r"inputs\.x\.data.*" + datatype):
        decode(request(one(data, datatype)))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        ({}, "inputs"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": ["a"], "data": []}]}, r"inputs\[0\]\.shape\[0\]"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}, "has no data"),
        (one([1], "FP99"), "FP99"),
    ],
)
def test_what_is_wrong_with_a_body_is_named(body, words):
    with pytest.raises(InvalidInput, match=words):
        decode(request(body))


def binary(header, payload):
    encoded = msgspec.json.encode(header)
    return request(encoded + payload, inference_header_content_length=len(encoded))


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=5), elements=st.floats(width=32)))
def test_binary_tensors_are_taken_as_they_are(array):
    header = {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": list(array.shape),
                "parameters": {"binary_data_size": array.nbytes},
            }
        ]
    }
    _, (tensor,) = decode(binary(header, array.tobytes()))
    assert bytes(tensor.data) == array.tobytes()


@pytest.mark.parametrize("size", [-1, 5, "4", 3])
def test_binary_sizes_that_do_not_add_up_are_refused(size):
    header = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": size}}]}
    with pytest.raises(InvalidInput):
        decode(binary(header, b"1234"))


@pytest.mark.parametrize("length", ["x", "-1", "100000"])
def test_a_header_length_that_cannot_be_is_refused(length):
    with pytest.raises(InvalidInput, match="Inference-Header-Content-Length"):
        decode(request(b"{}", inference_header_content_length=length))


def answer():
    tensors = [
        Tensor("p", "FP32", [1, 2], np.array([0.25, 0.75], "<f4").tobytes()),
        Tensor("s", "BYTES", [2], pack_strings(["a", "bc"])),
    ]
    return Inference(Target("r", "m", 3, "", 0), tensors)


def test_outputs_are_json_unless_binary_was_asked_for():
    body = msgspec.json.decode(encode(InferRequest([], "7"), answer()).body)
    assert body["id"] == "7"
    assert (body["model_name"], body["model_version"]) == ("r", "3")
    assert [output["data"] for output in body["outputs"]] == [[0.25, 0.75], ["a", "bc"]]


def test_binary_outputs_follow_the_header_in_order():
    message = InferRequest([], parameters={"binary_data_output": True})
    response = encode(message, answer())
    length = int(dict(response.headers)[b"inference-header-content-length"])
    header = msgspec.json.decode(response.body[:length])
    sizes = [output["parameters"]["binary_data_size"] for output in header["outputs"]]
    assert sizes == [8, 11]
    assert response.body[length : length + 8] == np.array([0.25, 0.75], "<f4").tobytes()
    assert len(response.body) == length + sum(sizes)


def test_each_output_may_choose_for_itself():
    asked = [InferRequestedOutput("p", {"binary_data": False}), InferRequestedOutput("s")]
    response = encode(InferRequest([], outputs=asked, parameters={"binary_data_output": True}), answer())
    length = int(dict(response.headers)[b"inference-header-content-length"])
    first, second = msgspec.json.decode(response.body[:length])["outputs"]
    assert first["data"] == [0.25, 0.75]
    assert second["parameters"]["binary_data_size"] == 11
