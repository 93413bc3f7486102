"""Triton's statistics extension, out of what the hot path counts."""

from app.dataplane.routing import Target
from app.monitoring.metrics import RouteMetrics
from app.schema.kserve import BatchStatistics, Count, InferStatistics, ModelStatistics


def of(target: Target) -> ModelStatistics:
    """Since the version began to serve. ``success`` and ``fail`` together are all requests; an answer out of the
    cache is a success and a ``cache_hit``, and has no share in the queue's and the computing's counts."""
    counted = target.metrics
    computed = max(counted.succeeded - counted.cache_hits, 0)
    return ModelStatistics(
        name=target.route,
        version=str(target.version),
        last_inference=counted.last_inference_ms,
        inference_count=counted.batch_rows,
        execution_count=counted.batches,
        inference_stats=InferStatistics(
            success=_count(counted.succeeded, counted.duration_s),
            fail=_count(counted.failed_total, counted.failed_s),
            queue=_count(computed, counted.queue_s),
            compute_input=_count(computed, counted.input_s),
            compute_infer=_count(computed, counted.compute_s),
            compute_output=_count(computed, counted.output_s),
            cache_hit=_count(counted.cache_hits, counted.cache_hit_s),
            cache_miss=_count(counted.cache_misses, counted.cache_miss_s),
        ),
        batch_stats=_batches(counted),
    )


def _count(count: int, seconds: float) -> Count:
    return Count(count, round(seconds * 1e9))


def _batches(counted: RouteMetrics) -> list[BatchStatistics]:
    """How long each size took is counted of the model alone: the shares before and after it are not known by size."""
    return [
        BatchStatistics(rows, Count(count, 0), _count(count, seconds), Count(count, 0))
        for rows, (count, seconds) in sorted(counted.batch_sizes.items())
    ]
