"""What `tritonclient.grpc` can call, against a real daemon: `/v2` over gRPC on a port of its own."""

import queue
import signal
import socket
import time

import grpc
import numpy as np
import onnx
import psutil
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, shared_memory

from app.paths import resource
from tests.support.daemon import RunningDaemon, until

TYPES = {
    "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def same(path, *without):
    """A model that gives each input back, one of every type."""
    types = {name: kind for name, kind in TYPES.items() if name not in without}
    nodes = [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in types]
    inputs = [helper.make_tensor_value_info(f"in_{name}", kind, ["n", 2]) for name, kind in types.items()]
    outputs = [helper.make_tensor_value_info(f"out_{name}", kind, ["n", 2]) for name, kind in types.items()]
    graph = helper.make_graph(nodes, "same", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """With `digits`, `same`, and `echo`, which takes half a second for a request and has room for one more."""
    folder, port = tmp_path_factory.mktemp("grpc"), free_port()
    with RunningDaemon(folder / "data", PILOTHOUSE_GRPC_PORT=str(port), PILOTHOUSE_MAX_BODY_MB="1") as running:
        running.grpc = f"127.0.0.1:{port}"
        (folder / "echo.json").write_text('{"engine": "echo", "kind": "tensor", "delay_ms": 500}')
        running.pull(f"file:{folder / 'echo.json'}", name="echo")
        running.pull(f"file:{same(folder / 'same.onnx')}", name="same")
        running.pull(f"file:{same(folder / 'typed.onnx', 'FP16')}", name="typed")
        for name in ("digits", "same", "typed", "echo"):
            state = running.deploy(name, settings={"max_batch_size": 1, "queue_limit": 1} if name == "echo" else {})
            assert state["state"] == "ready", state["error"]
        yield running


@pytest.fixture
def client(daemon):
    with triton.InferenceServerClient(daemon.grpc) as made:
        yield made


@pytest.fixture(scope="module")
def held_out():
    with np.load(resource("digits/held_out.npz")) as arrays:
        return arrays["image"], arrays["labels"]


def tensor(name: str, values: np.ndarray) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made


def image(values: np.ndarray) -> list[triton.InferInput]:
    return [tensor("image", values)]


def slow(value: float = 1) -> list[triton.InferInput]:
    return [tensor("input", np.full((1, 1), value, np.float32))]


def refused(call, *arguments, **options) -> InferenceServerException:
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **options)
    return caught.value


def status(error: InferenceServerException) -> str:
    return error.status().removeprefix("StatusCode.")


# --- what there is ---------------------------------------------------------------------------------------


def test_health_and_metadata(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("digits") and client.is_model_ready("digits", "1")
    assert not client.is_model_ready("nobody") and not client.is_model_ready("digits", "7")
    server = client.get_server_metadata()
    assert server.name == "pilothouse" and "sequence" in server.extensions
    model = client.get_model_metadata("digits", as_json=True)
    assert (model["name"], model["versions"], model["platform"]) == ("digits", ["1"], "onnxruntime_onnx")
    assert model["inputs"] == [{"name": "image", "datatype": "FP32", "shape": ["-1", "1", "8", "8"]}]
    assert status(refused(client.get_model_metadata, "nobody")) == "NOT_FOUND"
    assert status(refused(client.get_model_metadata, "digits", "7")) == "NOT_FOUND"


def test_the_configuration_says_what_http_says(client, daemon):
    config = client.get_model_config("digits").config
    over_http = daemon.get("/v2/models/digits/config")
    assert config.max_batch_size == over_http["max_batch_size"]
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching" and "dynamic_batching" in over_http
    assert [(entry.name, list(entry.dims)) for entry in config.input] == [
        (entry["name"], entry["dims"]) for entry in over_http["input"]
    ]
    assert config.instance_group[0].count == 1
    assert list(config.version_policy.specific.versions) == [1]


def test_statistics_count_each_request_once(client, held_out):
    images, _ = held_out

    def counted():
        [stats] = client.get_inference_statistics("digits").model_stats
        return stats

    before = counted()
    client.infer("digits", image(images[:3]))
    refused(client.infer, "digits", image(images[:3].reshape(3, 64)))
    refused(client.infer, "digits", image(images[:3]), outputs=[triton.InferRequestedOutput("nothing")])
    after = counted()
    assert after.inference_count - before.inference_count == 3
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.fail.count - before.inference_stats.fail.count == 2
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert after.last_inference >= time.time() * 1000 - 60_000
    assert {stats.name for stats in client.get_inference_statistics().model_stats} >= {"digits", "same", "echo"}


# --- inference -------------------------------------------------------------------------------------------


def test_the_answers_are_those_of_http(client, daemon, held_out):
    images, labels = held_out
    answer = client.infer("digits", image(images[:64]), request_id="7")
    body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [64, 1, 8, 8], "data": images[:64].tolist()}]}
    over_http = daemon.post("/v2/models/digits/infer", body)["outputs"][0]["data"]
    np.testing.assert_allclose(answer.as_numpy("probabilities").ravel(), over_http, rtol=1e-6)
    assert (answer.as_numpy("label") == labels[:64]).mean() > 0.95
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("7", "digits", "1")


def every_type() -> dict[str, np.ndarray]:
    values = {
        name: np.array([[0, 1]], helper.tensor_dtype_to_np_dtype(kind))
        for name, kind in TYPES.items()
        if name != "BYTES"
    }
    return {**values, "BYTES": np.array([[b"", "ü".encode()]], np.object_)}


def test_every_type_goes_through_unchanged(client):
    values = every_type()
    answer = client.infer("same", [tensor(f"in_{name}", value) for name, value in values.items()])
    for name, value in values.items():
        found = answer.as_numpy(f"out_{name}")
        assert found.tolist() == value.tolist(), name
        assert found.dtype == value.dtype or name == "BYTES"


def test_typed_contents_are_as_good_as_raw_ones(daemon):
    """`tritonclient` never sends them; stubs of other languages do."""
    contents = {
        "BOOL": ("bool_contents", [False, True]),
        **{f"INT{bits}": ("int_contents", [-1, 1]) for bits in (8, 16, 32)},
        "INT64": ("int64_contents", [-1, 1]),
        **{f"UINT{bits}": ("uint_contents", [0, 1]) for bits in (8, 16, 32)},
        "UINT64": ("uint64_contents", [0, 1]),
        "FP32": ("fp32_contents", [0.5, 1]),
        "FP64": ("fp64_contents", [0.5, 1]),
        "BYTES": ("bytes_contents", [b"", "ü".encode()]),
    }
    request = service_pb2.ModelInferRequest(model_name="typed")
    for name, (field, values) in contents.items():
        entry = request.inputs.add(name=f"in_{name}", datatype=name, shape=[1, 2])
        getattr(entry.contents, field).extend(values)
    with grpc.insecure_channel(daemon.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = triton.InferResult(stub.ModelInfer(request))
        for name, (_, values) in contents.items():
            assert answer.as_numpy(f"out_{name}").tolist() == [values], name
        request.inputs[0].contents.int_contents.append(1)
        with pytest.raises(grpc.RpcError, match="BOOL belongs in bool_contents"):
            stub.ModelInfer(request)


def test_only_the_outputs_that_are_asked_for_are_sent(client, held_out):
    wanted = [triton.InferRequestedOutput("label")]
    answer = client.infer("digits", image(held_out[0][:2]), outputs=wanted)
    assert [output.name for output in answer.get_response().outputs] == ["label"]
    assert answer.as_numpy("probabilities") is None


def test_the_best_classes_of_each_row(client, held_out):
    images, labels = held_out
    wanted = [triton.InferRequestedOutput("probabilities", class_count=3)]
    answer = client.infer("digits", image(images[:16]), outputs=wanted).as_numpy("probabilities")
    assert answer.shape == (16, 3)
    best = [text.decode().split(":") for text in answer[:, 0]]
    assert np.mean([int(index) for _, index, *_ in best] == labels[:16]) > 0.9
    scores = [[float(text.split(b":")[0]) for text in row] for row in answer]
    assert all(row == sorted(row, reverse=True) for row in scores)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_requests_may_be_compressed(client, held_out, algorithm):
    images, _ = held_out
    plain = client.infer("digits", image(images[:8])).as_numpy("probabilities")
    packed = client.infer("digits", image(images[:8]), compression_algorithm=algorithm).as_numpy("probabilities")
    np.testing.assert_allclose(packed, plain, rtol=1e-6)


def test_what_is_wrong_is_named(client, held_out):
    images, _ = held_out
    cases = [
        (("nobody", image(images[:1])), {}, "NOT_FOUND", "nobody"),
        (("digits", image(images[:1])), {"model_version": "9"}, "NOT_FOUND", "version 1, not 9"),
        (("digits", []), {}, "INVALID_ARGUMENT", "input image is missing"),
        (("digits", image(images[:1].astype(np.float64))), {}, "INVALID_ARGUMENT", "must be FP32"),
        (("digits", image(images[:1].reshape(1, 64))), {}, "INVALID_ARGUMENT", "shape"),
        (("digits", image(images[:1])), {"timeout": -1}, "INVALID_ARGUMENT", "timeout"),
        (("digits", image(np.zeros((4200, 1, 8, 8), np.float32))), {}, "RESOURCE_EXHAUSTED", "larger than max"),
    ]
    for arguments, options, code, words in cases:
        error = refused(client.infer, *arguments, **options)
        assert status(error) == code and words in error.message(), error


# --- time ------------------------------------------------------------------------------------------------


def reasons(daemon, route: str) -> dict[str, float]:
    """How many requests of ``route`` failed, and why."""
    found = {}
    for line in daemon.http.get("/metrics").text.splitlines():
        if line.startswith("nv_inference_request_failure{") and f'model="{route}"' in line:
            found[line.split('reason="')[1].split('"')[0]] = float(line.split()[-1])
    return found


def test_a_deadline_of_the_call_or_of_the_request_is_kept(client):
    """The model takes half a second."""
    for patience in ({"client_timeout": 0.1}, {"timeout": 100_000}):
        began = time.monotonic()
        assert status(refused(client.infer, "echo", slow(), **patience)) == "DEADLINE_EXCEEDED", patience
        assert time.monotonic() - began < 0.45, patience
    assert client.infer("echo", slow(7), client_timeout=30, timeout=20_000_000).as_numpy("output").tolist() == [[7]]


def test_a_request_that_is_given_up_is_cancelled_where_it_runs(client, daemon, tmp_path):
    """The model takes so long that the sampler, which looks once a second, sees it at work."""
    (tmp_path / "sleepy.json").write_text('{"engine": "echo", "kind": "tensor", "delay_ms": 2000}')
    daemon.pull(f"file:{tmp_path / 'sleepy.json'}", name="sleepy")
    assert daemon.deploy("sleepy")["state"] == "ready"
    answers: queue.Queue = queue.Queue()
    call = client.async_infer("sleepy", slow(), lambda result, error: answers.put(error))
    daemon.wait("metrics", "sleepy", lambda sample: sample["in_flight"] == 1)
    call.cancel()
    assert status(answers.get(timeout=10)) == "CANCELLED"
    until(lambda: reasons(daemon, "sleepy")["CANCELED"] == 1)


def test_overload_is_told_as_such_and_counted(daemon):
    request = service_pb2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="input", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(np.ones(1, np.float32).tobytes())
    before = reasons(daemon, "echo")["REJECTED"]
    with grpc.insecure_channel(daemon.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = [stub.ModelInfer.future(request) for _ in range(8)]
        errors = [error for call in calls if (error := call.exception(timeout=30)) is not None]
    assert 0 < len(errors) < 8
    for error in errors:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        told = dict(error.trailing_metadata())
        assert int(told["retry-after"]) * 1000 == int(told["grpc-retry-pushback-ms"]) > 0
    assert reasons(daemon, "echo")["REJECTED"] == before + len(errors)


# --- many requests ---------------------------------------------------------------------------------------


def test_callbacks_get_the_answers_of_their_own_requests(client, held_out):
    images, _ = held_out
    answers: queue.Queue = queue.Queue()
    for n in range(20):
        client.async_infer(
            "digits", image(images[n : n + 1]), lambda result, error: answers.put((result, error)), request_id=str(n)
        )
    together = client.infer("digits", image(images[:20])).as_numpy("probabilities")
    for _ in range(20):
        result, error = answers.get(timeout=10)
        assert error is None
        row = int(result.get_response().id)
        np.testing.assert_allclose(result.as_numpy("probabilities")[0], together[row], rtol=1e-5, atol=1e-6)


def test_a_stream_answers_in_order_and_tells_of_errors(client, held_out):
    images, _ = held_out
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for n in range(30):
        model = "nobody" if n == 10 else "digits"
        client.async_stream_infer(
            model, image(images[n : n + 1]), request_id=str(n), enable_empty_final_response=n % 2 == 0
        )
    client.stop_stream()
    told = [answers.get(timeout=10) for _ in range(30)]
    assert [result.get_response().id for result, error in told if error is None] == [
        str(n) for n in range(30) if n != 10
    ]
    assert "nobody" in told[10][1].message()
    for result, error in told:
        if error is None:
            assert result.get_response().parameters["triton_final_response"].bool_param


async def test_the_asynchronous_client_infers_and_streams(daemon, held_out):
    images, labels = held_out

    async def requests():
        for n in range(10):
            yield {"model_name": "digits", "inputs": image(images[n : n + 1]), "request_id": str(n)}

    async with triton_aio.InferenceServerClient(daemon.grpc) as client:
        assert await client.is_server_live()
        answer = await client.infer("digits", image(images[:10]))
        streamed = [(result, error) async for result, error in client.stream_infer(requests())]
        with pytest.raises(InferenceServerException, match="nobody"):
            await client.infer("nobody", image(images[:1]))
    assert [error for _, error in streamed if error is not None] == []
    assert [int(result.as_numpy("label")[0]) for result, _ in streamed] == answer.as_numpy("label").tolist()
    assert np.mean(answer.as_numpy("label") == labels[:10]) > 0.8


# --- sequences and kept answers --------------------------------------------------------------------------


def counter(path):
    """A model with state: ``sum`` is ``x`` and all that came before it in the sequence."""
    info = helper.make_tensor_value_info
    inputs = [info(name, TensorProto.FLOAT, ["rows", 1]) for name in ("x", "before")]
    outputs = [info(name, TensorProto.FLOAT, ["rows", 1]) for name in ("sum", "after")]
    nodes = [helper.make_node("Add", ["x", "before"], [name]) for name in ("sum", "after")]
    graph = helper.make_graph(nodes, "counter", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_sequences_on_one_stream(client, daemon, tmp_path):
    """Two sequences whose requests alternate; the ids are a number and a text."""
    counter(tmp_path / "counter.onnx")
    daemon.pull(f"file:{tmp_path / 'counter.onnx'}", name="counter")
    daemon.put("/manage/v1/models/counter/versions/1/card", {"states": {"before": "after"}})
    assert daemon.deploy("counter")["state"] == "ready"
    assert client.get_model_config("counter").config.sequence_batching.state[0].input_name == "before"
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for n in range(1, 6):
        for sequence, scale in ((7, 1), ("seven", 10)):
            x = [tensor("x", np.full((1, 1), n * scale, np.float32))]
            client.async_stream_infer(
                "counter", x, sequence_id=sequence, sequence_start=n == 1, sequence_end=n == 5, priority=1
            )
    client.stop_stream()
    told = [answers.get(timeout=10) for _ in range(10)]
    assert [error for _, error in told if error is not None] == []
    sums = [result.as_numpy("sum").item() for result, _ in told]
    assert sums == [value for total in (1, 3, 6, 10, 15) for value in (total, 10 * total)]
    x = [tensor("x", np.ones((1, 1), np.float32))]
    assert "sequence" in refused(client.infer, "counter", x, sequence_id=7).message()


def test_an_answer_that_was_kept_says_so(daemon, held_out):
    assert daemon.deploy("digits", "kept", settings={"response_cache": True})["state"] == "ready"
    request = service_pb2.ModelInferRequest(model_name="kept")
    request.inputs.add(name="image", datatype="FP32", shape=[1, 1, 8, 8])
    request.raw_input_contents.append(held_out[0][:1].tobytes())
    with grpc.insecure_channel(daemon.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def outcome(*metadata):
            answer, call = stub.ModelInfer.with_call(request, metadata=metadata)
            told = dict(call.trailing_metadata())
            assert [part.strip().partition(";")[0] for part in told["server-timing"].split(",")] == [
                "queue", "input", "compute", "output"
            ]  # fmt: skip
            return answer.raw_output_contents[0], told["x-cache"]

        told = [outcome(), outcome(), outcome(("cache-control", "no-cache")), outcome()]
    assert [found for _, found in told] == ["miss", "hit", "miss", "hit"]
    assert len({data for data, _ in told}) == 1


# --- shared memory ---------------------------------------------------------------------------------------


@pytest.fixture
def region():
    name = f"pilothouse_grpc_{free_port()}"
    made = shared_memory.create_shared_memory_region("region", f"/{name}", 4096)
    yield f"/{name}", made
    shared_memory.destroy_shared_memory_region(made)


def test_tensors_in_shared_memory(client, held_out, region):
    key, handle = region
    values = held_out[0][:2]
    client.register_system_shared_memory("region", key, 4096)
    try:
        [status_of] = client.get_system_shared_memory_status("region").regions.values()
        assert (status_of.key, status_of.byte_size, status_of.offset) == (key, 4096, 0)
        assert status(refused(client.register_system_shared_memory, "region", key, 4096)) == "FAILED_PRECONDITION"
        shared_memory.set_shared_memory_region(handle, [values])
        there = triton.InferInput("image", list(values.shape), "FP32")
        there.set_shared_memory("region", values.nbytes)
        wanted = triton.InferRequestedOutput("probabilities")
        wanted.set_shared_memory("region", 80, offset=2048)
        answer = client.infer("digits", [there], outputs=[triton.InferRequestedOutput("label"), wanted])
        found = shared_memory.get_contents_as_numpy(handle, np.float32, [2, 10], offset=2048)
        expected = client.infer("digits", image(values))
        np.testing.assert_allclose(found, expected.as_numpy("probabilities"), rtol=1e-5, atol=1e-6)
        assert answer.as_numpy("label").tolist() == expected.as_numpy("label").tolist()
        there.set_shared_memory("region", values.nbytes, offset=4000)
        assert "do not fit" in refused(client.infer, "digits", [there]).message()
    finally:
        client.unregister_system_shared_memory()
    assert not client.get_system_shared_memory_status().regions
    assert "no shared memory region" in refused(client.infer, "digits", [there]).message()


def test_cuda_shared_memory_is_refused_in_words(client):
    assert not client.get_cuda_shared_memory_status().regions
    error = refused(client.register_cuda_shared_memory, "r", b"AAAA", 0, 64)
    assert status(error) == "INVALID_ARGUMENT" and "CUDA shared memory is not served" in error.message()
    client.unregister_cuda_shared_memory()


# --- control ---------------------------------------------------------------------------------------------


def test_models_are_unloaded_and_loaded(client, held_out):
    def states():
        return {entry.name: entry.state for entry in client.get_model_repository_index().models}

    assert states()["typed"] == "READY"
    client.unload_model("typed")
    assert states()["typed"] == "UNAVAILABLE" and not client.is_model_ready("typed")
    client.load_model("typed", config='{"max_batch_size": 3, "dynamic_batching": {"max_queue_delay_microseconds": 50}}')
    assert states()["typed"] == "READY" and client.is_model_ready("typed")
    config = client.get_model_config("typed").config
    assert (config.max_batch_size, config.dynamic_batching.max_queue_delay_microseconds) == (3, 50)
    assert status(refused(client.load_model, "nobody")) == "NOT_FOUND"
    error = refused(client.load_model, "typed", config="{}", files={"file:1/model.onnx": b"x"})
    assert status(error) == "INVALID_ARGUMENT" and "pilothouse pull" in error.message()


def test_log_settings_are_read_and_changed(client):
    before = client.get_log_settings(as_json=True)["settings"]
    assert before["log_info"]["bool_param"] and before["log_verbose_level"]["uint32_param"] == 0
    try:
        changed = client.update_log_settings({"log_verbose_level": 1, "log_info": False})
        assert changed.settings["log_verbose_level"].uint32_param == 1
        assert not changed.settings["log_info"].bool_param
    finally:
        client.update_log_settings({"log_verbose_level": 0, "log_info": True})
    assert "log_nothing" in refused(client.update_log_settings, {"log_nothing": True}).message()


def test_traces_are_switched_on_for_a_model_and_written(client, daemon, held_out):
    assert list(client.get_trace_settings().settings["trace_level"].value) == ["OFF"]
    changed = client.update_trace_settings("digits", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    assert list(changed.settings["trace_level"].value) == ["TIMESTAMPS"]
    client.infer("digits", image(held_out[0][:1]), request_id="traced")
    back = client.update_trace_settings("digits", {"trace_level": None, "trace_rate": None})
    assert list(back.settings["trace_level"].value) == ["OFF"]
    assert '"request_id":"traced"' in (daemon.data_dir / "logs" / "traces.jsonl").read_text()
    assert "trace_nothing" in refused(client.update_trace_settings, "digits", {"trace_nothing": "1"}).message()


# --- the port --------------------------------------------------------------------------------------------


def imports_grpc(daemon) -> bool:
    return any("cygrpc" in entry.path for entry in psutil.Process(daemon.pid).memory_maps())


def test_without_a_port_the_library_is_not_even_imported(tmp_path, daemon):
    assert imports_grpc(daemon)
    with RunningDaemon(tmp_path / "data") as plain:
        assert not imports_grpc(plain)
        assert plain.wait("daemon", "info", lambda info: True)["grpc_address"] is None


def test_the_address_is_told(daemon):
    assert daemon.wait("daemon", "info", lambda info: True)["grpc_address"] == daemon.grpc


def test_a_taken_port_is_a_note_and_the_rest_serves(tmp_path, daemon):
    port = daemon.grpc.rpartition(":")[2]
    with RunningDaemon(tmp_path / "data", PILOTHOUSE_GRPC_PORT=port) as second:
        info = second.wait("daemon", "info", lambda info: True)
        assert info["grpc_address"] is None
        assert [port in note and "grpc_port" in note for note in info["notes"]] == [True]
        assert second.get("/health/ready")


def test_a_missing_library_is_a_note_and_the_rest_serves(tmp_path):
    hidden = tmp_path / "path" / "grpc"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError(\"No module named 'grpc'\")")
    path = str(hidden.parent)
    with RunningDaemon(tmp_path / "data", PILOTHOUSE_GRPC_PORT=str(free_port()), PYTHONPATH=path) as plain:
        info = plain.wait("daemon", "info", lambda info: True)
        assert info["grpc_address"] is None
        [note] = info["notes"]
        assert "No module named 'grpc'" in note and "pilothouse[grpc]" in note
        assert plain.get("/health/ready")


def test_a_daemon_that_is_told_twice_does_not_wait_for_a_request(tmp_path):
    """Once: it lets the request end, for which the model takes a minute."""
    port = free_port()
    (tmp_path / "minute.json").write_text('{"engine": "echo", "kind": "tensor", "delay_ms": 60000}')
    with RunningDaemon(tmp_path / "data", PILOTHOUSE_GRPC_PORT=str(port)) as running:
        running.pull(f"file:{tmp_path / 'minute.json'}", name="minute")
        assert running.deploy("minute")["state"] == "ready"
        answers: queue.Queue = queue.Queue()
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            client.async_infer("minute", slow(), lambda result, error: answers.put(error))
            running.wait("metrics", "minute", lambda sample: sample["in_flight"] == 1)
            running.process.send_signal(signal.SIGTERM)
            until(lambda: running.http.get("/v2").status_code == 503)
            assert answers.empty()
            began = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - began < 10
            assert status(answers.get(timeout=10)) in ("UNAVAILABLE", "CANCELLED")


def test_a_stream_does_not_keep_the_daemon_from_stopping(tmp_path):
    port = free_port()
    with RunningDaemon(tmp_path / "data", PILOTHOUSE_GRPC_PORT=str(port)) as running:
        answers: queue.Queue = queue.Queue()
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            client.start_stream(lambda result, error: answers.put(error))
            client.async_stream_infer("nobody", slow())
            assert "nobody" in answers.get(timeout=10).message()
            began = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - began < 2
            assert status(answers.get(timeout=10)) == "UNAVAILABLE"
