"""The embedded model over HTTP, with the clients that people use."""

import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton

from app.paths import resource


@pytest.fixture
def held_out():
    with np.load(resource("digits/held_out.npz")) as arrays:
        return arrays["image"], arrays["labels"]


def test_the_accuracy_through_tritonclient_is_onnxruntimes_own(daemon, held_out):
    images, labels = held_out
    state = daemon.deploy("digits")
    assert state["state"] == "ready", state["error"]
    assert state["decision"]["reason"]
    session = onnxruntime.InferenceSession(str(resource("digits/digits.onnx")), providers=["CPUExecutionProvider"])
    own = session.run(["probabilities"], {"image": images})[0]
    client = triton.InferenceServerClient(daemon.url.removeprefix("http://"))
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits")
        assert client.get_model_metadata("digits")["inputs"][0] == {
            "name": "image",
            "datatype": "FP32",
            "shape": [-1, 1, 8, 8],
        }
        served = []
        for start in range(0, len(images), 32):
            batch = images[start : start + 32]
            tensor = triton.InferInput("image", list(batch.shape), "FP32")
            tensor.set_data_from_numpy(batch)  # binary, as by default
            served.append(client.infer("digits", [tensor]).as_numpy("probabilities"))
        served = np.concatenate(served)
    finally:
        client.close()
    np.testing.assert_allclose(served, own, rtol=1e-5, atol=1e-6)
    accuracy = (served.argmax(1) == labels).mean()
    assert accuracy == (own.argmax(1) == labels).mean()
    assert accuracy > 0.97


def test_json_and_binary_give_the_same_and_errors_name_the_field(daemon, held_out):
    daemon.deploy("digits")
    images, _ = held_out
    body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": images[0].tolist()}]}
    answer = daemon.post("/v2/models/digits/infer", body)
    assert answer["model_name"] == "digits"
    assert sum(answer["outputs"][0]["data"]) == pytest.approx(1, abs=1e-5)

    def refused(**changes):
        reply = daemon.http.post("/v2/models/digits/infer", json={"inputs": [body["inputs"][0] | changes]})
        assert reply.status_code == 400, reply.text
        return reply.json()["error"]

    assert "shape" in refused(shape=[1, 8, 8])
    assert "FP32" in refused(datatype="INT64", data=[1] * 64)
    assert "image" in refused(name="picture")
    assert "bytes" in refused(shape=[2, 1, 8, 8])
    assert daemon.http.post("/v2/models/nobody/infer", json=body).status_code == 404
    assert daemon.http.post("/v2/models/digits/infer", content=b"{").status_code == 400


def test_a_classifiers_confidence_and_latency_are_watched(daemon, held_out):
    daemon.deploy("digits")
    images, _ = held_out
    inputs = [{"name": "image", "datatype": "FP32", "shape": [8, 1, 8, 8], "data": images[:8].reshape(-1).tolist()}]
    for _ in range(5):
        daemon.post("/v2/models/digits/infer", {"inputs": inputs})
    sample = daemon.wait("metrics", "digits", lambda s: s["confidence"] is not None and s["requests_total"] == 5)
    assert 0.5 < sample["confidence"] <= 1
    text = daemon.http.get("/metrics").text
    assert 'nv_inference_request_success{model="digits",version="1"} 5' in text
    assert 'nv_inference_count{model="digits",version="1"} 40' in text
    history = daemon.get("/manage/v1/timeseries?source=route:digits&seconds=60")["items"]
    assert history[-1]["route"] == "digits"


def test_the_api_describes_itself(daemon):
    document = daemon.get("/openapi.json")
    assert "/v2/models/{model}/infer" in document["paths"]
    assert daemon.http.get("/docs").headers["content-type"].startswith("text/html")
    assert daemon.get("/health/ready") == {"status": "ready"}


def test_two_daemons_never_share_a_data_directory(daemon):
    import os
    import subprocess
    import sys

    environment = {**os.environ, "PILOTHOUSE_DATA_DIR": str(daemon.data_dir)}
    second = subprocess.run(
        [sys.executable, "-m", "app", "serve", "--port", "0"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert "another Pilothouse daemon" in second.stderr
    assert daemon.get("/health/ready") == {"status": "ready"}
