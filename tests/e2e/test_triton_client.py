"""Each kind of call that Triton's HTTP client can make, against a running daemon."""

import asyncio
import functools
import gzip
import http.client
import json
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import quote

import ml_dtypes
import numpy as np
import onnx
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from app.paths import resource
from tests.support.daemon import RunningDaemon, until

DTYPES = {
    "BOOL": (np.bool_, TensorProto.BOOL),
    "UINT8": (np.uint8, TensorProto.UINT8),
    "UINT16": (np.uint16, TensorProto.UINT16),
    "UINT32": (np.uint32, TensorProto.UINT32),
    "UINT64": (np.uint64, TensorProto.UINT64),
    "INT8": (np.int8, TensorProto.INT8),
    "INT16": (np.int16, TensorProto.INT16),
    "INT32": (np.int32, TensorProto.INT32),
    "INT64": (np.int64, TensorProto.INT64),
    "FP16": (np.float16, TensorProto.FLOAT16),
    "BF16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
    "FP32": (np.float32, TensorProto.FLOAT),
    "FP64": (np.float64, TensorProto.DOUBLE),
    "BYTES": (np.object_, TensorProto.STRING),
}
LABELS = [f"class {n}" for n in range(10)]


def identity(path, datatypes):
    """A model that gives ``out_T`` = ``in_T`` [rows, any] for each type."""

    def values(prefix):
        return [helper.make_tensor_value_info(f"{prefix}_{t}", DTYPES[t][1], ["rows", f"n_{t}"]) for t in datatypes]

    nodes = [helper.make_node("Identity", [f"in_{t}"], [f"out_{t}"]) for t in datatypes]
    graph = helper.make_graph(nodes, "types", values("in"), values("out"))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def counter(path):
    """A model with state: ``sum`` is ``x`` added to what it was before."""
    info = helper.make_tensor_value_info
    inputs = [info(name, TensorProto.FLOAT, ["rows", 1]) for name in ("x", "before")]
    outputs = [info(name, TensorProto.FLOAT, ["rows", 1]) for name in ("sum", "after")]
    nodes = [helper.make_node("Add", ["x", "before"], [name]) for name in ("sum", "after")]
    graph = helper.make_graph(nodes, "counter", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """``digits``; ``types``, the identity of every type; ``strings``, of texts; ``echo``, slow and with a short queue;
    ``stopped``, which was never loaded."""
    folder = tmp_path_factory.mktemp("triton")
    identity(folder / "types.onnx", [name for name in DTYPES if name != "BYTES"])
    identity(folder / "strings.onnx", ["BYTES"])
    (folder / "echo.json").write_text(json.dumps({"engine": "echo", "kind": "tensor", "delay_ms": 150}))
    with RunningDaemon(folder / "data") as running:
        for name in ("types.onnx", "strings.onnx", "echo.json"):
            running.pull(f"file:{folder / name}", name=name.partition(".")[0])
        running.pull(f"file:{folder / 'strings.onnx'}", name="stopped")
        for name, settings in (("digits", {}), ("types", {}), ("strings", {})):
            state = running.deploy(name, settings=settings)
            assert state["state"] == "ready", state["error"]
        settings = {"queue_limit": 2, "max_batch_size": 1}
        assert running.deploy("echo", settings=settings)["state"] == "ready"
        yield running


@pytest.fixture
def address(served):
    return served.url.removeprefix("http://")


@pytest.fixture
def client(address):
    with closing(triton.InferenceServerClient(address, concurrency=8)) as made:
        yield made


@pytest.fixture(scope="module")
def images():
    with np.load(resource("digits/held_out.npz")) as arrays:
        return arrays["image"]


def tensor(name, array, binary=True):
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return made.set_data_from_numpy(array, binary_data=binary)


def value(*numbers):
    return tensor("input", np.array([numbers], np.float32))


def refused(call, *arguments, **named):
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **named)
    return caught.value.status(), caught.value.message()


# --- what there is -----------------------------------------------------------------------------------------


def test_the_server_and_its_models_tell_of_themselves(client):
    assert client.is_server_live() and client.is_server_ready()
    server = client.get_server_metadata()
    assert server["name"] == "pilothouse"
    assert {"binary_tensor_data", "classification", "sequence", "statistics", "system_shared_memory"} <= set(
        server["extensions"]
    )
    assert client.is_model_ready("digits") and client.is_model_ready("digits", "1")
    assert not client.is_model_ready("digits", "7")
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready("stopped")
    metadata = client.get_model_metadata("digits", "1")
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    config = client.get_model_config("digits")
    assert (config["name"], config["platform"], config["max_batch_size"]) == ("digits", "onnxruntime_onnx", 32)
    assert config["input"][0]["dims"] == [1, 8, 8]
    assert config["instance_group"][0]["kind"] == "KIND_CPU"
    assert "dynamic_batching" in config
    assert refused(client.get_model_config, "digits", "7")[0] == "404"


@pytest.mark.parametrize("name", ["nobody", "no/body", "nö body?", "no%2Fbody"])
def test_a_model_that_is_not_there_is_404_with_a_message(client, name):
    for call in (client.get_model_metadata, client.get_model_config):
        status, message = refused(call, name)
        assert status == "404" and message
    assert refused(client.infer, name, [value(1)])[0] == "404"


def test_odd_names_are_decoded_before_they_are_looked_up(served):
    answer = served.http.get(f"/v2/models/{quote('a/b c', safe='')}/config")
    assert answer.status_code == 404
    assert "'a/b c'" in answer.json()["error"]


# --- tensors -----------------------------------------------------------------------------------------------


def every_type():
    random = np.random.default_rng(7)
    arrays = {}
    for name, (dtype, _) in DTYPES.items():
        if name == "BYTES":
            continue
        if name == "BOOL":
            arrays[name] = random.integers(0, 2, (3, 4)).astype(dtype)
        elif name[0] in "IU":
            limits = np.iinfo(dtype)
            arrays[name] = random.integers(limits.min, limits.max, (3, 4), dtype, endpoint=True)
            arrays[name][0, :2] = limits.min, limits.max
        else:
            arrays[name] = random.standard_normal((3, 4)).astype(dtype)
    return arrays


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["to-binary", "to-json"])
def test_tensors_of_every_type_come_back_as_they_were(client, binary_in, binary_out):
    arrays = every_type()
    inputs = [tensor(f"in_{t}", array, binary_in or t == "BF16") for t, array in arrays.items()]
    outputs = [triton.InferRequestedOutput(f"out_{t}", binary_data=binary_out or t == "BF16") for t in arrays]
    answer = client.infer("types", inputs, outputs=outputs)
    for name, array in arrays.items():
        got = answer.as_numpy(f"out_{name}")
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array, err_msg=name)


def test_without_a_list_of_outputs_all_come_as_binary(client):
    arrays = every_type()
    answer = client.infer("types", [tensor(f"in_{t}", array) for t, array in arrays.items()])
    assert all("binary_data_size" in output["parameters"] for output in answer.get_response()["outputs"])
    assert len(answer.get_response()["outputs"]) == len(arrays)


def test_brain_floats_have_no_form_in_json(client):
    arrays = every_type()
    inputs = [tensor(f"in_{t}", array) for t, array in arrays.items()]
    wanted = [triton.InferRequestedOutput("out_BF16", binary_data=False)]
    status, message = refused(client.infer, "types", inputs, outputs=wanted)
    assert status == "400" and "BF16" in message and "binary" in message


def test_what_is_no_number_goes_both_ways(client):
    array = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)
    inputs = [tensor("in_FP32", array, binary=False)]  # Triton's client writes a bare NaN
    inputs += [tensor(f"in_{t}", rest[:1]) for t, rest in every_type().items() if t != "FP32"]
    exact = client.infer("types", inputs).as_numpy("out_FP32")
    np.testing.assert_array_equal(exact, array)
    wanted = [triton.InferRequestedOutput("out_FP32", binary_data=False)]
    as_json = client.infer("types", inputs, outputs=wanted).as_numpy("out_FP32")
    np.testing.assert_array_equal(np.isfinite(as_json), np.isfinite(array))


TEXTS = np.array([["plain", "", "ünïcödé 🚢"], ["\x00nul", "line\nbreak", '"quoted"']], np.object_)


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["to-binary", "to-json"])
def test_texts_come_back_as_they_were(client, binary_in, binary_out):
    wanted = [triton.InferRequestedOutput("out_BYTES", binary_data=binary_out)]
    answer = client.infer("strings", [tensor("in_BYTES", TEXTS, binary_in)], outputs=wanted)
    got = answer.as_numpy("out_BYTES")
    assert got.shape == TEXTS.shape
    assert [entry if isinstance(entry, str) else entry.decode() for entry in got.ravel()] == TEXTS.ravel().tolist()


def test_json_and_binary_tensors_may_be_mixed(client):
    arrays = every_type()
    inputs = [tensor(f"in_{t}", array, binary=t in ("BF16", "INT8", "FP64")) for t, array in arrays.items()]
    outputs = [triton.InferRequestedOutput(f"out_{t}", binary_data=t in ("FP32", "BF16")) for t in arrays]
    answer = client.infer("types", inputs, outputs=outputs)
    for name, array in arrays.items():
        np.testing.assert_array_equal(answer.as_numpy(f"out_{name}"), array)


@pytest.mark.parametrize("response", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_bodies_may_be_compressed_both_ways(client, images, request_, response, binary):
    batch = np.repeat(images[:1], 64, axis=0)
    plain = client.infer("digits", [tensor("image", batch)]).as_numpy("probabilities")
    answer = client.infer(
        "digits",
        [tensor("image", batch, binary)],
        outputs=[triton.InferRequestedOutput("probabilities", binary_data=binary)],
        request_compression_algorithm=request_,
        response_compression_algorithm=response,
    )
    np.testing.assert_allclose(answer.as_numpy("probabilities"), plain, atol=1e-6)


def test_the_header_length_of_a_compressed_answer_is_of_the_json_before(served, images):
    batch = np.repeat(images[:1], 64, axis=0)
    body = {
        "inputs": [{"name": "image", "datatype": "FP32", "shape": list(batch.shape), "data": batch.ravel().tolist()}],
        "parameters": {"binary_data_output": True},
    }
    headers = {"accept-encoding": "gzip", "content-encoding": "gzip", "content-type": "application/json"}
    url = f"{served.url}/v2/models/digits/infer"
    with served.http.stream("POST", url, headers=headers, content=gzip.compress(json.dumps(body).encode())) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    whole = gzip.decompress(raw)
    head = json.loads(whole[: int(answer.headers["inference-header-content-length"])])
    size = sum(output["parameters"]["binary_data_size"] for output in head["outputs"])
    assert len(whole) == int(answer.headers["inference-header-content-length"]) + size


def test_a_body_may_be_one_tensor_and_nothing_else(served, images):
    headers = {"inference-header-content-length": "0", "content-type": "application/octet-stream"}
    answer = served.http.post("/v2/models/digits/infer", headers=headers, content=images[3].tobytes())
    assert answer.status_code == 200, answer.text
    found = triton.InferenceServerClient.parse_response_body(
        answer.content, header_length=int(answer.headers["inference-header-content-length"])
    )
    assert found.as_numpy("probabilities").shape == (1, 10)
    short = served.http.post("/v2/models/digits/infer", headers=headers, content=images[3].tobytes()[:-1])
    assert short.status_code == 400


# --- ways to call ------------------------------------------------------------------------------------------


def test_requests_may_overlap(client, images):
    alone = client.infer("digits", [tensor("image", images[:16])]).as_numpy("probabilities")
    pending = [client.async_infer("digits", [tensor("image", images[n : n + 1])]) for n in range(16)]
    together = np.concatenate([request.get_result().as_numpy("probabilities") for request in pending])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)


async def test_the_asyncio_client(address, images):
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        assert (await client.get_model_metadata("digits"))["name"] == "digits"
        answers = await asyncio.gather(
            *(client.infer("digits", [tensor("image", images[n : n + 1])], request_id=str(n)) for n in range(8))
        )
        assert [answer.get_response()["id"] for answer in answers] == [str(n) for n in range(8)]
        packed = await client.infer(
            "digits",
            [tensor("image", images[:40])],
            request_compression_algorithm="gzip",
            response_compression_algorithm="deflate",
        )
        assert packed.as_numpy("probabilities").shape == (40, 10)
        with pytest.raises(InferenceServerException, match="nobody"):
            await client.infer("nobody", [value(1)])


def test_the_id_version_and_parameters_of_a_request(client, images):
    answer = client.infer(
        "digits",
        [tensor("image", images[:1])],
        model_version="1",
        request_id="mine",
        priority=0,
        timeout=60_000_000,
        parameters={"unknown": "is ignored", "number": 3},
    )
    found = answer.get_response()
    assert (found["id"], found["model_name"], found["model_version"]) == ("mine", "digits", "1")
    assert refused(client.infer, "digits", [tensor("image", images[:1])], model_version="2")[0] == "404"


def test_the_best_classes_of_each_row(client, images):
    plain = client.infer("digits", [tensor("image", images[:2])]).as_numpy("probabilities")
    wanted = [triton.InferRequestedOutput("probabilities", class_count=3)]
    answer = client.infer("digits", [tensor("image", images[:2])], outputs=wanted).as_numpy("probabilities")
    assert answer.shape == (2, 3)
    for row, texts in zip(plain, answer, strict=True):
        parts = [text.decode().split(":") for text in texts]
        assert [int(part[1]) for part in parts] == row.argsort()[::-1][:3].tolist()
        assert [float(part[0]) for part in parts] == pytest.approx(np.sort(row)[::-1][:3], abs=1e-5)
        assert all(part[2] == part[1] for part in parts)  # the digits are labelled with themselves
    wanted = [triton.InferRequestedOutput("probabilities", class_count=1, binary_data=False)]
    as_json = client.infer("digits", [tensor("image", images[:2])], outputs=wanted)
    assert as_json.get_output("probabilities")["datatype"] == "BYTES"
    wanted = [triton.InferRequestedOutput("out_BYTES", class_count=1)]
    assert refused(client.infer, "strings", [tensor("in_BYTES", TEXTS)], outputs=wanted)[0] == "400"


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "image is missing"),
        ([np.zeros((1, 64), np.float32)], "shape"),
        ([np.zeros((1, 1, 8, 8), np.float64)], "FP32"),
        ([np.zeros((0, 1, 8, 8), np.float32)], "no rows"),
        ([np.zeros((1, 1, 8, 8), np.float32)] * 2, "twice"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(client, inputs, words):
    status, message = refused(client.infer, "digits", [tensor("image", array) for array in inputs])
    assert status == "400" and words in message


def test_outputs_that_are_not_there_are_refused_by_name(client, images):
    wanted = [triton.InferRequestedOutput("nothing")]
    status, message = refused(client.infer, "digits", [tensor("image", images[:1])], outputs=wanted)
    assert status == "400" and "nothing" in message


def test_a_timeout_is_honoured_while_the_request_waits(client):
    running = client.async_infer("echo", [value(1)])
    status, message = refused(client.infer, "echo", [value(2)], timeout=30_000)
    assert status == "504" and "timeout" in message
    assert running.get_result().as_numpy("output").tolist() == [[1]]


def test_more_than_the_queue_holds_is_503_and_says_when_to_come_back(served, address):
    body = json.dumps({"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [1]}]})

    def ask(_):
        with closing(http.client.HTTPConnection(address, timeout=30)) as connection:
            connection.request("POST", "/v2/models/echo/infer", body)
            answer = connection.getresponse()
            return answer.status, answer.getheader("retry-after"), json.loads(answer.read())

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(ask, range(12)))
    full = [(after, answer) for status, after, answer in answers if status == 503]
    assert full and {status for status, _, _ in answers} == {200, 503}
    assert all(int(after) >= 1 and "waiting" in answer["error"] for after, answer in full)
    assert metric(served, "nv_inference_request_failure", model="echo", reason="REJECTED") == len(full)


def test_what_a_client_that_left_had_asked_for_is_not_computed(served, client, address):
    settings = {"delay_ms": 2200, "max_batch_size": 1}
    assert served.deploy("echo", "slow", settings=settings)["state"] == "ready"
    body = json.dumps({"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [1]}]})

    def ask(_):
        return served.http.post("/v2/models/slow/infer", content=body).status_code

    def accepted():
        """Gauges, which are read once a second."""
        waiting = metric(served, "nv_inference_pending_request_count", model="slow")
        return waiting + metric(served, "pilothouse_requests_in_flight", route="slow")

    with ThreadPoolExecutor(2) as threads, closing(http.client.HTTPConnection(address, timeout=30)) as leaving:
        staying = threads.map(ask, range(2))
        until(lambda: accepted() == 2)
        leaving.request("POST", "/v2/models/slow/infer", body)
        until(lambda: accepted() == 3)
        leaving.close()
        assert list(staying) == [200, 200]
    until(lambda: metric(served, "nv_inference_request_failure", model="slow", reason="CANCELED") == 1)
    until(lambda: statistics(client, "slow")["inference_count"] == 2)
    served.http.delete("/manage/v1/deployments/slow")


def metric(served, name, **labels):
    """The sum over all labels that are not given."""
    wanted = {f'{key}="{value}"' for key, value in labels.items()}
    lines = [line for line in served.http.get("/metrics").text.splitlines() if line.startswith(name + "{")]
    found = [line for line in lines if wanted <= set(line[len(name) + 1 : line.rindex("}")].split(","))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def test_requests_of_a_sequence_see_what_was_before(served, client, tmp_path):
    counter(tmp_path / "counter.onnx")
    served.pull(f"file:{tmp_path / 'counter.onnx'}", name="counter")
    served.put("/manage/v1/models/counter/versions/1/card", {"states": {"before": "after"}})
    state = served.deploy("counter")
    assert state["state"] == "ready", state["error"]
    assert client.get_model_config("counter")["sequence_batching"]["state"][0]["input_name"] == "before"

    def add(number, sequence, **marks):
        asked = tensor("x", np.array([[number]], np.float32))
        answer = client.infer("counter", [asked], sequence_id=sequence, **marks)
        return answer.as_numpy("sum").item()

    assert add(1, 7, sequence_start=True) == 1
    assert add(10, "text", sequence_start=True) == 10
    assert add(2, 7) == 3
    assert add(20, "text") == 30
    assert add(3, 7, sequence_end=True) == 6
    status, message = refused(client.infer, "counter", [tensor("x", np.ones((1, 1), np.float32))], sequence_id=7)
    assert status == "400" and "sequence" in message
    assert add(5, 7, sequence_start=True) == 5
    served.http.delete("/manage/v1/deployments/counter")


# --- statistics --------------------------------------------------------------------------------------------


def statistics(client, model, version=""):
    (found,) = client.get_inference_statistics(model, version)["model_stats"]
    return found


def test_statistics_add_up(client, images):
    before = statistics(client, "digits")
    pending = [client.async_infer("digits", [tensor("image", images[n : n + 1 + n % 3])]) for n in range(30)]
    for request in pending:
        request.get_result()
    for _ in range(4):
        refused(client.infer, "digits", [tensor("image", np.zeros((1, 64), np.float32))])
    after = until(lambda: grown(statistics(client, "digits"), before, 60))

    def growth(*path):
        return functools.reduce(dict.__getitem__, path, after) - functools.reduce(dict.__getitem__, path, before)

    assert growth("inference_stats", "success", "count") == 30
    assert growth("inference_stats", "fail", "count") == 4
    assert growth("inference_count") == sum(1 + n % 3 for n in range(30))
    for phase in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert growth("inference_stats", phase, "count") == 30
    parts = sum(growth("inference_stats", phase, "ns") for phase in ("queue", "compute_infer"))
    assert 0 < parts <= growth("inference_stats", "success", "ns")
    batches = sum(entry["compute_infer"]["count"] for entry in after["batch_stats"])
    rows = sum(entry["batch_size"] * entry["compute_infer"]["count"] for entry in after["batch_stats"])
    assert (batches, rows) == (after["execution_count"], after["inference_count"])
    assert after["last_inference"] > 1_600_000_000_000
    everyone = {entry["name"] for entry in client.get_inference_statistics()["model_stats"]}
    assert {"digits", "types", "strings", "echo"} <= everyone
    assert refused(client.get_inference_statistics, "nobody")[0] == "404"


def grown(after, before, rows):
    """What a batch adds is counted just after its answers are on their way."""
    return after if after["inference_count"] - before["inference_count"] >= rows else None


def test_requests_that_cannot_be_read_are_counted_too(served, client):
    before = statistics(client, "strings")["inference_stats"]["fail"]["count"]
    assert served.http.post("/v2/models/strings/infer", content=b"{").status_code == 400
    assert statistics(client, "strings")["inference_stats"]["fail"]["count"] == before + 1


# --- the repository ----------------------------------------------------------------------------------------


def states(client):
    return {entry["name"]: entry.get("state") for entry in client.get_model_repository_index()}


def test_a_model_is_loaded_and_unloaded(served, client):
    assert states(client)["stopped"] is None
    assert states(client)["digits"] == "READY"
    client.load_model("stopped")
    assert client.is_model_ready("stopped")
    assert client.infer("stopped", [tensor("in_BYTES", TEXTS)]).as_numpy("out_BYTES").shape == TEXTS.shape
    ready = served.post("/v2/repository/index", {"ready": True})
    assert {"name": "stopped", "version": "1", "state": "READY"} in ready
    config = json.dumps({"max_batch_size": 5, "dynamic_batching": {"max_queue_delay_microseconds": 700}})
    client.load_model("stopped", config=config)
    found = client.get_model_config("stopped")
    assert found["max_batch_size"] == 5
    assert found["dynamic_batching"]["max_queue_delay_microseconds"] == 700
    client.unload_model("stopped")
    until(lambda: not client.is_model_ready("stopped"))
    assert states(client)["stopped"] == "UNAVAILABLE"
    assert refused(client.infer, "stopped", [tensor("in_BYTES", TEXTS)])[0] == "503"
    client.load_model("stopped")
    assert client.get_model_config("stopped")["max_batch_size"] == 5
    client.unload_model("stopped", unload_dependents=True)


def test_what_cannot_be_loaded_says_why(served, client, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps({"engine": "echo", "kind": "tensor", "load_error": "bad_model"}))
    served.pull(f"file:{path}", name="broken")
    status, message = refused(client.load_model, "broken")
    assert status == "400" and "failed to load 'broken'" in message and "bad_model" in message
    assert states(client)["broken"] == "UNAVAILABLE"
    assert refused(client.load_model, "nobody")[0] == "404"
    assert refused(client.unload_model, "nobody")[0] == "404"
    status, message = refused(client.load_model, "digits", config="{}", files={"file:1/model.onnx": b"x"})
    assert status == "400" and "files" in message
    status, message = refused(client.load_model, "digits", config='{"magic": 1}')
    assert status == "400" and "magic" in message
    assert client.is_model_ready("digits")


# --- settings ----------------------------------------------------------------------------------------------


def test_what_is_logged_can_be_changed(served, client):
    log = served.data_dir / "logs" / "pilothouse.log"
    before = client.get_log_settings()
    assert before["log_verbose_level"] == 0 and before["log_info"] is True
    off = client.update_log_settings({"log_info": False})
    assert off["log_info"] is False and off["log_warning"] is True
    size = log.stat().st_size
    client.load_model("stopped")  # of which a line at level info tells
    assert b"deployment stopped" not in log.read_bytes()[size:]
    client.update_log_settings({"log_info": True})
    client.unload_model("stopped")
    assert b"deployment stopped" in log.read_bytes()[size:]
    assert refused(client.update_log_settings, {"log_file": "/tmp/elsewhere"})[0] == "400"
    assert client.get_log_settings() == before


def test_requests_can_be_traced(served, client, images):
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    changed = client.update_trace_settings(
        "digits", {"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "2"}
    )
    assert (changed["trace_level"], changed["trace_rate"]) == (["TIMESTAMPS"], "2")
    assert client.get_trace_settings("types")["trace_level"] == ["OFF"]
    for n in range(1, 8):
        client.infer("digits", [tensor("image", images[:1])], request_id=f"trace {n}")
    traces = [json.loads(line) for line in (served.data_dir / "logs" / "traces.jsonl").read_text().splitlines()]
    assert [trace["request_id"] for trace in traces] == ["trace 2", "trace 4"]
    moments = {entry["name"]: entry["ns"] for entry in traces[0]["timestamps"]}
    assert moments["REQUEST_START"] <= moments["COMPUTE_START"] < moments["COMPUTE_END"] <= moments["REQUEST_END"]
    cleared = client.update_trace_settings("digits", {"trace_level": None, "trace_rate": None, "trace_count": None})
    assert cleared == client.get_trace_settings()
    assert refused(client.update_trace_settings, "nobody", {"trace_rate": "2"})[0] == "404"
    assert refused(client.update_trace_settings, settings={"trace_rate": "0"})[0] == "400"


# --- shared memory -----------------------------------------------------------------------------------------


@pytest.fixture
def region():
    shm = pytest.importorskip("tritonclient.utils.shared_memory")
    if sys.platform == "win32":
        pytest.skip("POSIX shared memory")
    key = f"/pilothouse-{uuid.uuid4().hex}"
    handle = shm.create_shared_memory_region("region", key, 4096)
    yield shm, handle, key
    shm.destroy_shared_memory_region(handle)


def test_tensors_may_lie_in_shared_memory(client, images, region):
    shm, handle, key = region
    batch = np.ascontiguousarray(images[:4])
    shm.set_shared_memory_region(handle, [batch], offset=64)
    client.register_system_shared_memory("region", key, 4096 - 64, offset=64)
    assert client.get_system_shared_memory_status() == [
        {"name": "region", "key": key, "offset": 64, "byte_size": 4096 - 64}
    ]
    assert len(client.get_system_shared_memory_status("region")) == 1
    source = triton.InferInput("image", list(batch.shape), "FP32")
    source.set_shared_memory("region", batch.nbytes)
    output = triton.InferRequestedOutput("probabilities")
    output.set_shared_memory("region", 4 * 10 * 4, offset=2048)
    try:
        answer = client.infer("digits", [source], outputs=[output])
        found = answer.get_output("probabilities")
        assert found["shape"] == [4, 10]
        assert found["parameters"]["shared_memory_region"] == "region"
        got = shm.get_contents_as_numpy(handle, np.float32, [4, 10], offset=64 + 2048)
        expected = client.infer("digits", [tensor("image", batch)]).as_numpy("probabilities")
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)

        source.set_shared_memory("region", batch.nbytes, offset=4096 - 64 - batch.nbytes + 1)
        status, message = refused(client.infer, "digits", [source])
        assert status == "400" and "do not fit" in message
        output.set_shared_memory("region", 8)
        status, message = refused(client.infer, "digits", [tensor("image", batch)], outputs=[output])
        assert status == "400" and "160 bytes" in message
        assert refused(client.register_system_shared_memory, "region", key, 16)[0] == "409"
    finally:
        client.unregister_system_shared_memory("region")
    assert client.get_system_shared_memory_status() == []
    status, message = refused(client.infer, "digits", [source])
    assert status == "400" and "no shared memory region" in message
    assert refused(client.get_system_shared_memory_status, "region")[0] == "404"
    client.unregister_system_shared_memory()


@pytest.mark.parametrize("key", ["/etc/passwd", "../../etc/passwd", "/..", ""])
def test_nothing_but_shared_memory_is_opened(client, key):
    status, message = refused(client.register_system_shared_memory, "region", key, 16)
    assert status == "400" and "no name of shared memory" in message


def test_texts_may_lie_in_shared_memory(client, region):
    from tritonclient.utils import serialize_byte_tensor

    shm, handle, key = region
    packed = serialize_byte_tensor(TEXTS)
    shm.set_shared_memory_region(handle, [packed])
    client.register_system_shared_memory("texts", key, 4096)
    try:
        source = triton.InferInput("in_BYTES", list(TEXTS.shape), "BYTES")
        source.set_shared_memory("texts", len(packed.item()))
        got = client.infer("strings", [source]).as_numpy("out_BYTES")
        assert [entry.decode() for entry in got.ravel()] == TEXTS.ravel().tolist()
    finally:
        client.unregister_system_shared_memory()


def test_cuda_shared_memory_is_told_to_be_missing(client):
    assert client.get_cuda_shared_memory_status() == []
    client.unregister_cuda_shared_memory()
    status, message = refused(client.register_cuda_shared_memory, "region", b"handle", 0, 16)
    assert status == "400" and "CUDA" in message
