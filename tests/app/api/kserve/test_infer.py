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
from app.api.kserve.tensors import encode_json
from app.dataplane.arrays import DTYPES
from app.dataplane.inference import Inference
from app.dataplane.routing import Target
from app.dataplane.tensors import Tensor, pack_strings, unpack_strings
from app.errors import InvalidInput
from app.schema.kserve import InferRequest, InferRequestedOutput
from engines.protocol import Signature, TensorSpec


def decode(asked):
    asked.params = {"model": "m"}
    message, call = infer.decode(asked, asked.header(infer.HEADER_LENGTH), Regions())
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


@pytest.mark.parametrize("datatype", sorted(set(DTYPES) - {"BOOL", "BF16"}))
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
        ([1.5], "UINT64"),
        ([1e39], "FP32"),
        ([True], "FP32"),
        ([True, 1], "BOOL"),
        (["infinity"], "FP64"),
        ([-1], "UINT8"),
        ([1], "BOOL"),
        ([1], "BYTES"),
        ([{}], "FP32"),
    ],
)
def test_values_of_another_type_are_refused_by_name(data, datatype):
    with pytest.raises(InvalidInput, match=r"inputs\.x\.data.*" + datatype):
        decode(request(one(data, datatype)))


def test_what_json_has_no_number_for_is_read_in_every_way_that_clients_write_it():
    body = msgspec.json.encode(one([0, 1, 2, 3, 4, 5]))
    body = body.replace(b"[0,1,2,3,4,5]", b'[NaN,Infinity,-Infinity,null,"Infinity",1.5]')
    body = body.replace(b'"shape":', b'"shape":[6],"unknown":')
    _, (tensor,) = decode(request(body))
    expected = np.array([np.nan, np.inf, -np.inf, np.nan, np.inf, 1.5], "<f4")
    np.testing.assert_array_equal(np.frombuffer(tensor.data, "<f4"), expected)


def test_a_number_that_is_none_is_no_integer():
    body = msgspec.json.encode(one([7], "INT64")).replace(b"[7]", b"[NaN]")
    with pytest.raises(InvalidInput, match="INT64"):
        decode(request(body))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_whole_numbers_keep_every_digit(values):
    _, (tensor,) = decode(request(one(values, "INT64")))
    assert np.frombuffer(tensor.data, "<i8").tolist() == values


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_floats_come_back_from_json_as_they_were(values):
    _, (tensor,) = decode(request(one(values)))
    written = msgspec.json.decode(msgspec.json.encode(encode_json(tensor)))
    assert written == values


def test_no_values_are_no_values_of_any_type():
    for datatype in ("FP32", "BYTES", "BOOL"):
        _, (tensor,) = decode(request(one([], datatype, [0])))
        assert tensor.data == b""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        ({}, "inputs"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": ["a"], "data": []}]}, r"inputs\[0\]\.shape\[0\]"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}, "has no data"),
        (one([1], "FP99"), "FP99"),
        (one([1], "BF16"), "BF16 cannot be sent as JSON"),
        (one([1], parameters={"binary_data_size": 0}), "both data and binary_data_size"),
        (one([1], parameters={"shared_memory_region": 7}), "name of a region"),
        (one([1], parameters={"shared_memory_region": "r"}), "shared_memory_byte_size is missing"),
        (one([1], parameters={"shared_memory_region": "r", "shared_memory_byte_size": 4}), "no shared memory region"),
        (one([1]) | {"outputs": [{"name": "y", "parameters": {"classification": -1}}]}, r"outputs\.y\.parameters"),
        (one([1]) | {"outputs": [{}]}, r"outputs\[0\]\.name"),
        (b'{"inputs": [NaN]}', r"inputs\[0\]"),
        (b'{"inputs":[{"name":"","datatype":"","shape":[],"data":' + b"[" * 9999 + b"NaN", "not valid JSON"),
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


def test_binary_and_json_inputs_may_be_mixed_in_any_order():
    header = {
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}},
            {"name": "b", "datatype": "BYTES", "shape": [1], "data": ["t"]},
            {"name": "c", "datatype": "BF16", "shape": [1], "parameters": {"binary_data_size": 2}},
        ]
    }
    _, tensors = decode(binary(header, b"1234ab"))
    assert [bytes(tensor.data) for tensor in tensors] == [b"1234", pack_strings(["t"]), b"ab"]


def test_bytes_that_no_input_claims_are_refused():
    with pytest.raises(InvalidInput, match="1 bytes follow"):
        decode(binary(one([1]), b"x"))


@pytest.mark.parametrize("size", [True, 2.5, 1 << 60])
def test_a_binary_size_is_a_number_of_bytes_that_are_there(size):
    header = {"inputs": [{"name": "x", "datatype": "UINT8", "shape": [1], "parameters": {"binary_data_size": size}}]}
    with pytest.raises(InvalidInput, match="binary_data_size"):
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


def test_an_output_that_json_cannot_hold_is_refused_in_words():
    tensors = [Tensor("s", "BYTES", [1], pack_strings([b"\xff"])), Tensor("h", "BF16", [1], b"ab")]
    for tensor, words in zip(tensors, ("no UTF-8", "no form in JSON"), strict=True):
        inference = Inference(Target("r", "m", 3, "", 0), [tensor])
        with pytest.raises(InvalidInput, match=words) as caught:
            encode(InferRequest([]), inference)
        assert caught.value.field == f"outputs.{tensor.name}.parameters.binary_data"
        response = encode(InferRequest([], parameters={"binary_data_output": True}), inference)
        assert response.body.endswith(tensor.data)


def test_nan_and_infinity_are_null_in_json():
    tensor = Tensor("p", "FP32", [3], np.array([np.nan, np.inf, 1], "<f4").tobytes())
    body = msgspec.json.decode(encode(InferRequest([]), Inference(Target("r", "m", 3, "", 0), [tensor])).body)
    assert body["outputs"][0]["data"] == [None, None, 1]


# --- a body that is one tensor and nothing else ----------------------------------------------------------


def raw(body, *specs, batched=True):
    asked = request(body)
    asked.params = {"model": "m"}
    message, call = infer.decode_raw(asked, Signature(list(specs), [], batched))
    assert message.parameters == {"binary_data_output": True}
    return call.inputs[0]


def test_a_raw_body_is_one_row():
    tensor = raw(b"12345678", TensorSpec("x", "FP32", [-1, 2], batch_axis=0))
    assert (tensor.shape, bytes(tensor.data)) == ([1, 2], b"12345678")


def test_one_dimension_of_a_raw_body_may_be_told_by_its_size():
    assert raw(b"12345678", TensorSpec("x", "UINT16", [-1, 2, -1], batch_axis=0)).shape == [1, 2, 2]
    with pytest.raises(InvalidInput, match="no whole number of 4"):
        raw(b"1234567", TensorSpec("x", "UINT16", [-1, 2, -1], batch_axis=0))


def test_a_raw_body_is_one_text():
    tensor = raw(b"any \xff bytes", TensorSpec("x", "BYTES", [-1, 1], batch_axis=0))
    assert unpack_strings(tensor.data) == [b"any \xff bytes"]
    assert tensor.shape == [1, 1]


def test_a_raw_body_that_its_size_does_not_explain_is_refused():
    with pytest.raises(InvalidInput, match="2 dimensions"):
        raw(b"1234", TensorSpec("x", "UINT8", [-1, -1], batch_axis=-1), batched=False)
    with pytest.raises(InvalidInput, match="2 inputs"):
        raw(b"1234", TensorSpec("x", "UINT8", [-1]), TensorSpec("y", "UINT8", [-1]))
