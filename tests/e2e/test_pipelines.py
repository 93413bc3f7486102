"""Pipelines of real ONNX models: preprocessing before digits, branches, failing steps, a step that changes."""

import http.client
import json
import threading

import httpx2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from app.paths import resource
from tests.support.daemon import until

ROUTE = "/manage/v1/deployments"
DIGITS = {"name": "classify", "route": "digits", "inputs": {"image": "image"}, "outputs": {"probabilities": "p"}}
PREPARE = {"name": "prepare", "route": "prepare", "inputs": {"pixels": "pixels"}, "outputs": {"image": "image"}}
CHAIN = {"pipeline": {"steps": [PREPARE, DIGITS], "outputs": {"probabilities": "p"}}}


def save(path, nodes, inputs, outputs, constants=()):
    """A model of ``nodes``; tensors are (name, shape), all of them FP32."""
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return f"file:{path}"


def preprocessing(path, scale=1 / 16):
    """``pixels`` [n, 64] times ``scale`` as ``image`` [n, 1, 8, 8]."""
    return save(
        path,
        [
            helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
            helper.make_node("Reshape", ["scaled", "shape"], ["image"]),
        ],
        [("pixels", ["n", 64])],
        [("image", ["n", 1, 8, 8])],
        [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]),
            helper.make_tensor("shape", TensorProto.INT64, [4], [-1, 1, 8, 8]),
        ],
    )


def unary(path, operator, constant):
    """``y`` = ``x`` operator ``constant``, [n, 10]."""
    return save(
        path,
        [helper.make_node(operator, ["x", "c"], ["y"])],
        [("x", ["n", 10])],
        [("y", ["n", 10])],
        [helper.make_tensor("c", TensorProto.FLOAT, [], [constant])],
    )


def joining(path):
    """``sum`` = ``a`` + ``b``, [n, 10]."""
    inputs = [("a", ["n", 10]), ("b", ["n", 10])]
    return save(path, [helper.make_node("Add", ["a", "b"], ["sum"])], inputs, [("sum", ["n", 10])])


@pytest.fixture
def pixels():
    return np.random.default_rng(4).integers(0, 17, (3, 64)).astype(np.float32)


@pytest.fixture
def digits(daemon, tmp_path):
    """``daemon`` with ``prepare`` and ``digits`` deployed."""
    daemon.pull(preprocessing(tmp_path / "prepare.onnx"))
    for route in ("prepare", "digits"):
        state = daemon.deploy(route)
        assert state["state"] == "ready", state["error"]
    return daemon


def body(**tensors):
    return {
        "inputs": [
            {"name": name, "datatype": "FP32", "shape": list(values.shape), "data": values.flatten().tolist()}
            for name, values in tensors.items()
        ]
    }


def infer(daemon, route, **tensors):
    answer = daemon.post(f"/v2/models/{route}/infer", body(**tensors))
    return {o["name"]: np.array(o["data"], np.float32).reshape(o["shape"]) for o in answer["outputs"]}


def test_preprocessing_and_digits_answer_as_digits_does_with_its_times(digits, pixels):
    declared = digits.put(f"{ROUTE}/read", CHAIN)
    assert (declared["state"], declared["engine"]) == ("ready", "ensemble")
    reply = digits.http.post("/v2/models/read/infer", json=body(pixels=pixels))
    assert reply.status_code == 200, reply.text
    output = reply.json()["outputs"][0]
    alone = infer(digits, "digits", image=(pixels / 16).reshape(-1, 1, 8, 8))["probabilities"]
    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), alone, atol=1e-6)
    timing = dict(part.strip().split(";dur=") for part in reply.headers["server-timing"].split(","))
    assert float(timing["prepare"]) > 0 and float(timing["classify"]) > 0


def test_a_pipeline_has_metadata_config_and_statistics_of_its_own(digits, pixels):
    digits.put(f"{ROUTE}/read", CHAIN)
    infer(digits, "read", pixels=pixels)
    infer(digits, "prepare", pixels=pixels)
    metadata = digits.get("/v2/models/read")
    assert metadata["platform"] == "ensemble"
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}]
    assert metadata["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]
    config = digits.get("/v2/models/read/config")
    assert config["platform"] == "ensemble"
    steps = config["ensemble_scheduling"]["step"]
    assert [step["model_name"] for step in steps] == ["prepare", "digits"]

    def successes(route):
        return digits.get(f"/v2/models/{route}/stats")["model_stats"][0]["inference_stats"]["success"]["count"]

    assert [successes(route) for route in ("read", "prepare", "digits")] == [1, 2, 1]


@pytest.mark.slow
def test_a_diamond_of_four_models(digits, tmp_path, pixels):
    for name, source in {
        "double": unary(tmp_path / "double.onnx", "Mul", 2.0),
        "more": unary(tmp_path / "more.onnx", "Add", 1.0),
        "join": joining(tmp_path / "join.onnx"),
    }.items():
        digits.pull(source)
        assert digits.deploy(name)["state"] == "ready"
    steps = [
        {"name": "join", "route": "join", "inputs": {"a": "l", "b": "r"}, "outputs": {"sum": "s"}},
        {"name": "left", "route": "double", "inputs": {"x": "p"}, "outputs": {"y": "l"}},
        {"name": "right", "route": "more", "inputs": {"x": "p"}, "outputs": {"y": "r"}},
        DIGITS,
    ]
    digits.put(f"{ROUTE}/diamond", {"pipeline": {"steps": steps, "outputs": {"sum": "s", "p": "p"}}})
    image = (pixels / 16).reshape(-1, 1, 8, 8)
    found = infer(digits, "diamond", image=image)
    np.testing.assert_allclose(found["sum"], 3 * found["p"] + 1, atol=1e-5)
    outer = {"name": "inner", "route": "diamond", "inputs": {"image": "image"}, "outputs": {"sum": "sum"}}
    digits.put(f"{ROUTE}/outer", {"pipeline": {"steps": [PREPARE, outer], "outputs": {"sum": "sum"}}})
    np.testing.assert_allclose(infer(digits, "outer", pixels=pixels)["sum"], found["sum"], atol=1e-5)
    circle = {"name": "again", "route": "outer", "inputs": {"pixels": "pixels"}, "outputs": {"sum": "sum"}}
    refusal = digits.http.put(f"{ROUTE}/diamond", json={"pipeline": {"steps": [circle], "outputs": {"s": "sum"}}})
    assert refusal.status_code == 400
    assert "calls diamond" in refusal.json()["error"]["message"]


def test_a_refusal_names_the_field(digits):
    wrong = {**DIGITS, "inputs": {"imag": "image"}}
    refusal = digits.http.put(f"{ROUTE}/read", json={"pipeline": {"steps": [PREPARE, wrong], "outputs": {"p": "p"}}})
    assert refusal.status_code == 400
    error = refusal.json()["error"]
    assert "digits has no input imag" in error["message"]
    assert error["details"]["field"] == "pipeline.steps[1].inputs.imag"
    both = digits.http.put(f"{ROUTE}/read", json={"model": "digits", **CHAIN})
    assert both.status_code == 400
    setting = digits.http.put(f"{ROUTE}/read", json={**CHAIN, "settings": {"max_batch_size": 2}})
    assert setting.json()["error"]["details"]["field"] == "settings.max_batch_size"
    neither = digits.http.put(f"{ROUTE}/read", json={})
    assert neither.status_code == 400


def test_what_a_pipeline_needs_is_not_undeployed_by_accident_and_it_follows_its_routes(digits, pixels):
    digits.put(f"{ROUTE}/read", CHAIN)
    refusal = digits.http.delete(f"{ROUTE}/prepare")
    assert refusal.status_code == 409
    assert refusal.json()["error"]["details"] == {"pipelines": ["read"]}
    assert digits.http.delete(f"{ROUTE}/prepare?force=true").status_code == 200
    state = digits.wait("deployment", "read", lambda d: d["state"] == "starting")
    assert "there is no route prepare" in state["error"]["message"]
    reply = digits.http.post("/v2/models/read/infer", json=body(pixels=pixels))
    assert reply.status_code == 503
    assert "prepare" in reply.json()["error"] and reply.headers["retry-after"]
    digits.deploy("prepare")
    assert digits.settled("read")["error"] is None
    infer(digits, "read", pixels=pixels)
    assert digits.http.delete(f"{ROUTE}/read").status_code == 200
    assert digits.http.delete(f"{ROUTE}/prepare").status_code == 200


def test_a_pipeline_comes_back_after_a_kill(digits, pixels):
    digits.put(f"{ROUTE}/aread", CHAIN)  # sorts before the routes that it calls
    before = infer(digits, "aread", pixels=pixels)["probabilities"]
    digits.kill()
    digits.start()
    assert digits.settled("aread")["state"] == "ready"
    np.testing.assert_array_equal(infer(digits, "aread", pixels=pixels)["probabilities"], before)


def test_a_route_that_changes_its_tensors_ends_the_pipeline_with_the_reason(digits, tmp_path):
    digits.put(f"{ROUTE}/read", CHAIN)
    digits.pull(unary(tmp_path / "other.onnx", "Mul", 2.0))
    digits.put(f"{ROUTE}/prepare", {"model": "other"})
    state = digits.wait("deployment", "read", lambda d: d["state"] == "failed")
    assert "prepare has no input pixels" in state["error"]["message"]
    digits.put(f"{ROUTE}/prepare", {"model": "prepare"})
    assert digits.wait("deployment", "read", lambda d: d["state"] == "ready")["error"] is None


def echo_steps(*routes):
    return [
        {"name": f"step-{route}", "route": route, "inputs": {"input": f"v{n}"}, "outputs": {"output": f"v{n + 1}"}}
        for n, route in enumerate(routes)
    ]


def test_a_failing_step_is_named(daemon, echo_model):
    daemon.pull(echo_model("good"))
    daemon.pull(echo_model("bad", error_on=7.0))
    daemon.deploy("good")
    daemon.deploy("bad")
    daemon.put(f"{ROUTE}/pipe", {"pipeline": {"steps": echo_steps("good", "bad"), "outputs": {"out": "v2"}}})
    fine = infer(daemon, "pipe", v0=np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(fine["out"], np.ones((1, 2)))
    refused = daemon.http.post("/v2/models/pipe/infer", json=body(v0=np.full((1, 2), 7.0, np.float32)))
    assert refused.status_code == 400
    assert "step step-bad (bad): echo was asked to refuse" in refused.json()["error"]
    late = daemon.http.post(
        "/v2/models/pipe/infer", json={**body(v0=np.ones((1, 2), np.float32)), "parameters": {"timeout": 1}}
    )
    assert late.status_code in (503, 504)
    assert "step " in late.json()["error"]


def test_a_client_that_leaves_ends_what_the_pipeline_would_do_next(daemon, echo_model):
    daemon.pull(echo_model("slow", delay_ms=700))
    daemon.pull(echo_model("next"))
    daemon.deploy("slow")
    daemon.deploy("next")
    daemon.put(f"{ROUTE}/pipe", {"pipeline": {"steps": echo_steps("slow", "next"), "outputs": {"out": "v2"}}})
    connection = http.client.HTTPConnection(daemon.url.removeprefix("http://"))
    connection.request("POST", "/v2/models/pipe/infer", json.dumps(body(v0=np.ones((1, 2), np.float32))))
    daemon.get("/health")
    connection.close()

    def counts(route):
        stats = daemon.get(f"/v2/models/{route}/stats")["model_stats"][0]["inference_stats"]
        return stats["success"]["count"], stats["fail"]["count"]

    until(lambda: counts("pipe") == (0, 1))
    infer(daemon, "slow", input=np.ones((1, 2), np.float32))  # behind the one that was given up
    assert counts("next") == (0, 0)


@pytest.mark.slow
def test_a_step_changes_under_load_without_a_failed_request(digits, tmp_path, pixels):
    digits.put(f"{ROUTE}/read", CHAIN)
    expected = infer(digits, "read", pixels=pixels)["probabilities"]
    other = onnx.load(str(resource("digits/digits.onnx")))
    other.producer_name = "another"
    (tmp_path / "digits.onnx").write_bytes(other.SerializeToString())
    digits.pull(f"file:{tmp_path / 'digits.onnx'}", name="digits")
    seen, stop = [], threading.Event()

    def load():
        with httpx2.Client(timeout=30) as client:
            while not stop.is_set() and len(seen) < 20_000:
                reply = client.post(f"{digits.url}/v2/models/read/infer", json=body(pixels=pixels))
                if reply.status_code == 200:
                    output = reply.json()["outputs"][0]
                    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), expected, atol=1e-5)
                seen.append(reply.status_code)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for n in range(6):
            state = digits.deploy("digits", version=2 - n % 2)
            assert (state["version"], state["pending"]) == (2 - n % 2, None)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(seen) > 50
    assert set(seen) == {200}
