from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.monitoring import exposition
from app.monitoring.exposition import Station
from app.monitoring.metrics import Metrics
from engines.hardware import Gpu
from engines.protocol import SchedulerLoad

TRITON = {
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_pending_request_count",
}
GPU = {
    "nv_gpu_utilization",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_power_usage",
    "nv_gpu_power_limit",
}
VLLM = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_queries",
    "vllm:prefix_cache_hits",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:request_success_total",
    "vllm:num_preemptions_total",
    "vllm:spec_decode_num_draft_tokens_total",
    "vllm:spec_decode_num_accepted_tokens_total",
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:e2e_request_latency_seconds",
}
OWN = {
    "pilothouse_build_info",
    "pilothouse_uptime_seconds",
    "pilothouse_resident_memory_bytes",
    "pilothouse_cpu_seconds_total",
    "pilothouse_jobs_running",
    "pilothouse_deployments",
    "pilothouse_requests_total",
    "pilothouse_request_failures_total",
    "pilothouse_requests_in_flight",
    "pilothouse_request_latency_seconds",
    "pilothouse_prefix_cache_bytes",
    "pilothouse_preemptions_total",
    "pilothouse_draft_tokens_total",
    "pilothouse_draft_accepted_tokens_total",
    "pilothouse_worker_steps_total",
    "pilothouse_worker_step_seconds_total",
    "pilothouse_worker_decode_seconds_total",
    "pilothouse_confidence_mean",
    "pilothouse_confidence_total",
    "pilothouse_confidence_predictions_total",
}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(page: bytes) -> tuple[dict[str, str], Samples]:
    """Type lines by name, and values by name and labels; each series at most once."""
    types: dict[str, str] = {}
    samples: Samples = {}
    lines = page.decode().splitlines(keepends=True)
    for line in lines:
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in types, f"{name} is described twice"
            types[name] = kind
    assert list(text_string_to_metric_families("".join(lines))), "the page as a whole is well formed"
    # Told the types, the parser appends _total to the names of counters: untyped, it gives them as they are.
    for family in text_string_to_metric_families("".join(line for line in lines if not line.startswith("# "))):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"{key} appears twice"
            samples[key] = sample.value
    return types, samples


def bare(name: str, types: dict[str, str]) -> str:
    """The name of a sample without what its histogram adds."""
    for suffix in ("_bucket", "_count", "_sum"):
        if types.get(name.removesuffix(suffix)) == "histogram":
            return name.removesuffix(suffix)
    return name


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    digits = metrics.route("digits", model="digits", version=3, kind="tensor", engine="onnxruntime")
    digits.batch(4, 0.002)
    for _ in range(4):
        digits.answered(0.0042, 0.001, 0.002)
    digits.failed("REJECTED")
    digits.confidence(1.8, 2)
    digits.queue_depth, digits.in_flight = 5, 4
    gemma = metrics.route("chat", model="gemma-3-270m", version=1, kind="language", engine="llamacpp")
    gemma.first_token(0.03)
    gemma.token(0.0, 1)
    gemma.token(0.02, 1)
    gemma.prompt(127, 64)
    gemma.finished(1.7)
    gemma.finished(0.9, "length")
    gemma.failed("CANCELED")
    gemma.failed("REJECTED")
    gemma.scheduler(2, 1, 0.25, 4096)
    gemma.stepped(SchedulerLoad(preempted=3, drafted=10, accepted=7))
    return metrics


@pytest.fixture
def station() -> Station:
    gpu = Gpu(
        index=0,
        uuid="GPU-1",
        name="RTX",
        memory_total_bytes=24,
        memory_used_bytes=12,
        utilization_percent=71.0,
        power_w=286.5,
        power_limit_w=450.0,
    )
    blind = Gpu(1, "GPU-2", "MIG")
    return Station("0.1.0", 12.5, jobs_running=2, deployments={"ready": 2, "failed": 0}, gpus=[gpu, blind])


def test_the_names_are_exactly_those_of_the_contract(metrics: Metrics, station: Station) -> None:
    types, samples = read(exposition.text(metrics, station))
    assert set(types) == TRITON | GPU | VLLM | OWN
    assert {bare(name, types) for name, _ in samples} == set(types)


def test_counters_are_called_counters(metrics: Metrics, station: Station) -> None:
    types, _ = read(exposition.text(metrics, station))
    gauges = {"nv_inference_pending_request_count"} | GPU
    assert {name for name in TRITON | GPU if types[name] == "gauge"} == gauges
    assert types["vllm:prefix_cache_hits"] == types["vllm:prompt_tokens_total"] == "counter"
    assert types["vllm:kv_cache_usage_perc"] == "gauge"
    assert types["vllm:e2e_request_latency_seconds"] == "histogram"


def series(samples: Samples, prefix: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for (name, labels), value in samples.items():
        if name.startswith(prefix):
            yield name, dict(labels), value


def test_tensor_models_under_tritons_names(metrics: Metrics, station: Station) -> None:
    _, samples = read(exposition.text(metrics, station))
    for _, labels, _ in series(samples, "nv_inference_"):
        assert set(labels) - {"reason"} == {"model", "version"}
    digits = frozenset({("model", "digits"), ("version", "3")})
    assert samples["nv_inference_request_success", digits] == 4
    assert samples["nv_inference_count", digits] == 4
    assert samples["nv_inference_exec_count", digits] == 1
    assert samples["nv_inference_request_duration_us", digits] == pytest.approx(16_800, abs=1)
    assert samples["nv_inference_queue_duration_us", digits] == pytest.approx(4_000, abs=1)
    assert samples["nv_inference_compute_infer_duration_us", digits] == pytest.approx(8_000, abs=1)
    assert samples["nv_inference_pending_request_count", digits] == 5
    assert samples["nv_inference_request_failure", digits | {("reason", "REJECTED")}] == 1
    assert samples["nv_inference_request_failure", digits | {("reason", "BACKEND")}] == 0


def test_gpus_by_uuid_and_a_refused_reading_is_left_out(metrics: Metrics, station: Station) -> None:
    _, samples = read(exposition.text(metrics, station))
    first = frozenset({("gpu_uuid", "GPU-1")})
    assert samples["nv_gpu_utilization", first] == pytest.approx(0.71)
    assert samples["nv_gpu_power_usage", first] == 286.5
    assert {labels["gpu_uuid"] for _, labels, _ in series(samples, "nv_gpu_")} == {"GPU-1"}


def test_language_models_under_vllms_names(metrics: Metrics, station: Station) -> None:
    _, samples = read(exposition.text(metrics, station))
    for _, labels, _ in series(samples, "vllm:"):
        assert set(labels) - {"le", "finished_reason"} == {"model_name", "engine"}
    chat = frozenset({("model_name", "chat"), ("engine", "llamacpp")})
    assert samples["vllm:num_requests_running", chat] == 2
    assert samples["vllm:kv_cache_usage_perc", chat] == 0.25
    assert samples["vllm:prefix_cache_queries", chat] == samples["vllm:prompt_tokens_total", chat] == 127
    assert samples["vllm:prefix_cache_hits", chat] == 64
    assert samples["vllm:generation_tokens_total", chat] == 2
    bucket = "vllm:time_to_first_token_seconds_bucket"
    assert [samples[bucket, chat | {("le", le)}] for le in ("0.02", "0.04", "2560.0", "+Inf")] == [0, 1, 1, 1]
    assert samples["vllm:time_to_first_token_seconds_sum", chat] == pytest.approx(0.03)
    assert samples["vllm:e2e_request_latency_seconds_count", chat] == 2
    ends = {reason: samples["vllm:request_success_total", chat | {("finished_reason", reason)}]
            for reason in ("stop", "length", "abort", "error")}  # fmt: skip
    assert ends == {"stop": 1, "length": 1, "abort": 1, "error": 0}
    assert samples["vllm:num_preemptions_total", chat] == 3
    assert samples["vllm:spec_decode_num_draft_tokens_total", chat] == 10
    assert samples["vllm:spec_decode_num_accepted_tokens_total", chat] == 7
    assert len([1 for name, _, _ in series(samples, bucket) if name == bucket]) == 23


def test_the_station_itself(metrics: Metrics, station: Station) -> None:
    _, samples = read(exposition.text(metrics, station))
    assert samples["pilothouse_build_info", frozenset({("version", "0.1.0")})] == 1
    assert samples["pilothouse_uptime_seconds", frozenset()] == 12.5
    assert samples["pilothouse_resident_memory_bytes", frozenset()] > 1e6
    assert samples["pilothouse_jobs_running", frozenset()] == 2
    assert samples["pilothouse_deployments", frozenset({("state", "ready")})] == 2
    assert [value for name, _, value in series(samples, "pilothouse_prefix_cache_bytes")] == [4096]
    means = [value for name, _, value in series(samples, "pilothouse_confidence_mean")]
    assert means == [pytest.approx(0.9)]


def test_a_fresh_daemon_exposes_no_empty_family() -> None:
    types, samples = read(exposition.text(Metrics(), Station("0.1.0", 0.0)))
    assert set(types) == {name for name, _ in samples}
    assert not set(types) & (TRITON | VLLM | GPU)


def test_labels_are_escaped() -> None:
    metrics = Metrics()
    strange = 'a "b" \\ \n c'
    metrics.route(strange, model="m", version=1, kind="tensor", engine="e")
    _, samples = read(exposition.text(metrics, Station("0.1.0", 0.0)))
    assert ("nv_inference_count", frozenset({("model", strange), ("version", "1")})) in samples
