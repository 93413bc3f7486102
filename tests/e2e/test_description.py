"""What a running daemon says about itself: its API, its page, its metrics, its past."""

from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client.parser import text_string_to_metric_families

IMAGE = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.0] * 64}]}


def test_the_api_is_described(daemon):
    document = daemon.get("/openapi.json")
    OpenAPIV31SpecValidator(document).validate()
    assert {
        "/v1/models",
        "/v1/chat/completions",
        "/v1/completions",
        "/v2/models/{model}/infer",
        "/manage/v1/jobs",
        "/manage/v1/deployments/{route}",
        "/manage/v1/events",
        "/metrics",
    } <= document["paths"].keys()
    page = daemon.http.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "Pilothouse API" in page.text


def test_requests_are_counted_and_kept(daemon):
    assert daemon.deploy("digits")["state"] == "ready"
    for _ in range(3):
        daemon.post("/v2/models/digits/infer", IMAGE)
    refused = daemon.http.post("/v2/models/digits/infer", json={"inputs": []})
    assert refused.status_code == 400

    page = daemon.http.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert list(text_string_to_metric_families(page.text))
    values = dict(line.rsplit(" ", 1) for line in page.text.splitlines() if not line.startswith("#"))
    digits = '{model="digits",version="1"}'
    assert float(values[f"nv_inference_request_success{digits}"]) == 3
    assert float(values[f"nv_inference_request_duration_us{digits}"]) > 0
    failures = [float(value) for name, value in values.items() if name.startswith("nv_inference_request_failure{")]
    assert sum(failures) == 1

    sample = daemon.wait("metrics", "digits", lambda s: s["requests_total"] == 3 and s["p50_ms"] is not None)
    assert sample["errors_total"] == 1
    kept = daemon.get("/manage/v1/timeseries", params={"source": "route:digits", "seconds": 60})["items"]
    assert sample in kept
    machine = daemon.get("/manage/v1/timeseries", params={"source": "hardware", "seconds": 60})["items"][-1]
    assert machine["memory_total_bytes"] > machine["memory_used_bytes"] > 0
