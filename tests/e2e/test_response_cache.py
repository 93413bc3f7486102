"""The response cache of a real daemon: over HTTP, in its figures, and in Redis from one daemon to the next."""

import json

import numpy as np
import pytest
import tritonclient.http as triton

from tests.support.daemon import RunningDaemon, until
from tests.support.redis_server import redis_server  # noqa: F401

IMAGE = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8) / 4


def infer(daemon, image=IMAGE, route="digits", **headers):
    tensor = {"name": "image", "datatype": "FP32", "shape": list(image.shape), "data": image.ravel().tolist()}
    answer = daemon.http.post(f"/v2/models/{route}/infer", json={"inputs": [tensor]}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def outcomes(daemon, count, **more):
    return [infer(daemon, **more).headers.get("x-cache") for _ in range(count)]


def figures(daemon):
    lines = [line for line in daemon.http.get("/metrics").text.splitlines() if "cache_" in line and line[0] != "#"]
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.fixture
def cached(daemon):
    state = daemon.deploy("digits", settings={"response_cache": True})
    assert state["state"] == "ready", state["error"]
    return daemon


def test_a_kept_answer_is_the_computed_one_and_is_counted(cached):
    first, second = infer(cached), infer(cached)
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
    assert first.json() == second.json()
    client = triton.InferenceServerClient(cached.url.removeprefix("http://"))
    try:
        tensor = triton.InferInput("image", [1, 1, 8, 8], "FP32")
        tensor.set_data_from_numpy(IMAGE)  # the same values, as binary
        binary = client.infer("digits", [tensor])
        assert binary.as_numpy("probabilities").ravel().tolist() == pytest.approx(
            next(output["data"] for output in first.json()["outputs"] if output["name"] == "probabilities"), rel=1e-6
        )
        [statistics] = client.get_inference_statistics("digits")["model_stats"]
    finally:
        client.close()
    counted = statistics["inference_stats"]
    # Not the same answer: this one wants its outputs named.
    hits, misses = counted["cache_hit"]["count"], counted["cache_miss"]["count"]
    assert hits + misses == counted["success"]["count"] == 3
    assert hits >= 1
    assert statistics["execution_count"] == misses == counted["compute_infer"]["count"]
    assert counted["cache_hit"]["ns"] > 0
    found = figures(cached)
    assert found["nv_cache_num_hits_per_model"] == found["pilothouse_cache_hits_total"] == hits
    assert found["pilothouse_cache_saved_seconds_total"] > 0
    sample = cached.wait("metrics", "digits", lambda s: s["cache_hit_rate"] is not None)
    assert sample["cache_bytes"] > 0


def test_it_can_be_emptied_and_is_off_unless_it_is_wanted(cached):
    assert outcomes(cached, 2) == ["miss", "hit"]
    assert cached.http.delete("/manage/v1/deployments/digits/cache").status_code == 200
    assert outcomes(cached, 2) == ["miss", "hit"]
    cached.deploy("digits", "plain")
    assert outcomes(cached, 2, route="plain") == [None, None]
    refused = cached.http.delete("/manage/v1/deployments/plain/cache")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert cached.http.delete("/manage/v1/deployments/nothing/cache").status_code == 404


def test_a_small_cache_stays_small(daemon):
    daemon.deploy("digits", settings={"response_cache": True, "response_cache_mb": 1})
    for n in range(40):
        images = np.full((32, 1, 8, 8), n, np.float32) + np.arange(32, dtype=np.float32).reshape(-1, 1, 1, 1)
        infer(daemon, np.tile(images, (20, 1, 1, 1)))
    until(lambda: figures(daemon)["pilothouse_cache_evictions_total"] > 0)
    assert figures(daemon)["pilothouse_cache_bytes"] <= 1 << 20


def test_pictures_are_kept_one_by_one(cached):
    """Through the steps that digits declares: an item is a picture."""
    import base64
    import io

    from PIL import Image

    def picture(shade):
        out = io.BytesIO()
        Image.new("L", (28, 28), shade).save(out, "PNG")
        return {"image": base64.b64encode(out.getvalue()).decode()}

    def classify(*shades):
        body = {"model": "digits", "input": [picture(shade) for shade in shades]}
        answer = cached.http.post("/v1/classify", json=body)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-cache"], answer.json()["data"]

    first = classify(0, 100)
    second = classify(200, 100, 0)
    third = classify(0, 100)
    assert (first[0], second[0], third[0]) == ("miss", "miss", "hit")
    assert third[1] == first[1]
    found = figures(cached)
    assert found["pilothouse_cache_entries_computed_total"] == 3
    assert found["pilothouse_cache_entries_found_total"] == 4


def test_a_text_survives_its_daemon_in_redis(redis_server, tmp_path):  # noqa: F811
    model = tmp_path / "echo.json"
    model.write_text(json.dumps({"engine": "echo", "kind": "language"}))
    body = {"model": "echo", "prompt": "one two three", "temperature": 0}
    with RunningDaemon(tmp_path / "data", PILOTHOUSE_CACHE_URL=redis_server.url) as daemon:
        daemon.pull(f"file:{model}", name="echo")
        daemon.deploy("echo", settings={"response_cache": True})
        first = daemon.http.post("/v1/completions", json=body)
        settings = {entry["key"]: entry["value"] for entry in daemon.get("/manage/v1/settings")["items"]}
        assert settings["cache_url"] == "•••"
        daemon.stop()
        daemon.start()
        daemon.wait("deployment", "echo", lambda d: d["state"] == "ready")
        second = daemon.http.post("/v1/completions", json=body)
        assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
        assert first.json()["choices"] == second.json()["choices"]
        redis_server.stop()
        third = daemon.http.post("/v1/completions", json=body)
        assert (third.status_code, third.headers["x-cache"]) == (200, "miss")
        assert third.json()["choices"] == first.json()["choices"]
        until(lambda: figures(daemon)["pilothouse_cache_errors_total"] > 0)
