"""What is counted, in Triton's words."""

import msgspec

from app.api.kserve import statistics
from app.dataplane.routing import Target
from app.monitoring.metrics import RouteMetrics


def test_counts_add_up_and_times_are_nanoseconds():
    metrics = RouteMetrics("r", "m", 2, "tensor", "echo")
    for _ in range(3):
        metrics.answered(0.004, 0.001, 0.002, input_s=0.0001, output_s=0.0002)
    metrics.failed("REJECTED", 0.002)
    metrics.failed("OTHER", 0.001)
    metrics.batches, metrics.batch_rows, metrics.last_inference_ms = 2, 7, 1234
    metrics.batch_sizes = {4: (1, 0.003), 3: (1, 0.001)}
    found = msgspec.to_builtins(statistics.of(Target("r", "m", 2, "", 0, metrics=metrics)))
    assert (found["name"], found["version"], found["last_inference"]) == ("r", "2", 1234)
    assert (found["inference_count"], found["execution_count"]) == (7, 2)
    stats = found["inference_stats"]
    assert stats["success"] == {"count": 3, "ns": 12_000_000}
    assert stats["fail"] == {"count": 2, "ns": 3_000_000}
    assert stats["queue"] == {"count": 3, "ns": 3_000_000}
    assert stats["compute_input"] == {"count": 3, "ns": 300_000}
    assert stats["compute_infer"] == {"count": 3, "ns": 6_000_000}
    assert stats["compute_output"] == {"count": 3, "ns": 600_000}
    sizes = [(entry["batch_size"], entry["compute_infer"]) for entry in found["batch_stats"]]
    assert sizes == [(3, {"count": 1, "ns": 1_000_000}), (4, {"count": 1, "ns": 3_000_000})]


def test_an_answer_out_of_the_cache_was_not_computed():
    metrics = RouteMetrics("r", "m", 2, "tensor", "echo")
    metrics.answered(0.004, 0.001, 0.002)
    metrics.answered(0.001, 0, 0)
    metrics.cache_hits, metrics.cache_misses = 1, 1
    stats = statistics.of(Target("r", "m", 2, "", 0, metrics=metrics)).inference_stats
    assert (stats.success.count, stats.cache_hit.count, stats.cache_miss.count) == (2, 1, 1)
    assert stats.compute_infer.count == stats.queue.count == 1
