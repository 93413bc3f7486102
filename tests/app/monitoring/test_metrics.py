import time

import pytest

from app.monitoring.metrics import Metrics, RouteMetrics


def digits(metrics: Metrics, version: int = 1) -> RouteMetrics:
    return metrics.route("digits", model="digits", version=version, kind="tensor", engine="onnxruntime")


def test_a_route_is_one_object_until_something_else_serves_it() -> None:
    metrics = Metrics()
    first = digits(metrics)
    assert digits(metrics) is first
    second = digits(metrics, version=2)
    assert second is not first
    assert list(metrics) == [second]
    metrics.forget("digits")
    metrics.forget("digits")
    assert list(metrics) == []


def test_tensor_requests() -> None:
    route = digits(Metrics())
    route.batch(3, 0.002)
    route.answered(0.005, 0.001, 0.002, rows=2)
    route.answered(0.003, 0.0, 0.002)
    assert (route.succeeded, route.batches, route.batch_rows) == (2, 1, 3)
    assert route.duration_s == pytest.approx(0.008)
    assert route.queue_s == pytest.approx(0.001)
    assert route.compute_s == pytest.approx(0.004)
    assert route.latency.count == 2


def test_failures_by_reason_and_an_unknown_one_is_other() -> None:
    route = digits(Metrics())
    for reason in ("REJECTED", "REJECTED", "CANCELED", "BACKEND", "OTHER", "meteorite"):
        route.failed(reason)
    assert route.failures == {"REJECTED": 2, "CANCELED": 1, "BACKEND": 1, "OTHER": 2}
    assert route.failed_total == 6


def test_tokens() -> None:
    route = Metrics().route("gemma", model="gemma", version=1, kind="language", engine="llamacpp")
    route.first_token(0.2)
    route.token(0.0, 1)  # the first one follows none
    route.token(0.02, 1)
    route.token(0.06, 2)  # two at once: 30 ms each
    route.prompt(100, 40)
    route.finished(0.5)
    assert route.generated_tokens == 4
    assert (route.inter_token.count, route.inter_token.total_s) == (3, pytest.approx(0.08))
    assert route.time_to_first_token.count == 1
    assert (route.prompt_tokens, route.cached_tokens) == (100, 40)
    assert (route.succeeded, route.latency.count) == (1, 1)
    route.finished(0.5, "length")
    route.finished(0.5, "tool_calls")
    assert route.finish_reasons == {"stop": 2, "length": 1}


def test_counting_does_not_weigh_on_the_hot_path() -> None:
    """A request pays well under 2 µs; the bound leaves room for a busy machine."""
    route = digits(Metrics())
    calls = 10_000

    def seconds_per_call() -> float:
        begun = time.perf_counter()
        for _ in range(calls):
            route.answered(0.0012, 0.0001, 0.001)
        return (time.perf_counter() - begun) / calls

    assert min(seconds_per_call() for _ in range(7)) < 5e-6


def test_what_is_to_serve_a_route_counts_when_it_is_adopted():
    metrics = Metrics()
    first = digits(metrics)
    candidate = metrics.candidate("digits", model="digits", version=2, kind="tensor", engine="onnxruntime")
    candidate.failed("OTHER")
    assert list(metrics) == [first]
    assert metrics.adopt(candidate) is candidate
    assert list(metrics) == [candidate]
    again = metrics.candidate("digits", model="digits", version=2, kind="tensor", engine="onnxruntime")
    assert again is candidate  # the same version goes on counting
