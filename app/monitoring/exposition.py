"""`/metrics`: Prometheus's text format, version 0.0.4.

Written here rather than by a client library, which would rename the counters: ``nv_inference_count`` is what
existing dashboards read, not ``nv_inference_count_total``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import psutil

from app.monitoring.metrics import Metrics, RouteMetrics
from app.monitoring.sketch import Sketch
from engines.hardware import Gpu

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# vLLM's bounds, in seconds (vllm/v1/metrics/loggers.py).
FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
INTER_TOKEN_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
ANSWER_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
#: A tensor model may answer in a fraction of a millisecond.
LATENCY_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0,
)  # fmt: skip

Labels = dict[str, str]
Value = tuple[Labels, float]


@dataclass(frozen=True)
class Station:
    """What is exposed beside the routes."""

    version: str
    uptime_s: float
    jobs_running: int = 0
    deployments: Mapping[str, int] = field(default_factory=dict)
    """How many are in each state."""
    gpus: Sequence[Gpu] = ()


class _Page:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, help_text: str, values: Iterable[Value]) -> None:
        lines = [_sample(name, labels, value) for labels, value in values]
        if lines:
            self._lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", *lines]

    def histogram(
        self, name: str, help_text: str, bounds_s: Sequence[float], sketches: Iterable[tuple[Labels, Sketch]]
    ) -> None:
        lines = []
        for labels, sketch in sketches:
            for bound, count in zip(bounds_s, sketch.cumulative(bounds_s), strict=True):
                lines.append(_sample(f"{name}_bucket", labels | {"le": repr(bound)}, count))
            lines.append(_sample(f"{name}_bucket", labels | {"le": "+Inf"}, sketch.count))
            lines.append(_sample(f"{name}_count", labels, sketch.count))
            lines.append(_sample(f"{name}_sum", labels, sketch.total_s))
        if lines:
            self._lines += [f"# HELP {name} {help_text}", f"# TYPE {name} histogram", *lines]

    def encode(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()


def text(metrics: Metrics, station: Station) -> bytes:
    """The page, of content type `CONTENT_TYPE`. Nothing is read from the machine but this process's own use."""
    page = _Page()
    routes = list(metrics)
    _tensor_models(page, [route for route in routes if route.kind == "tensor"])
    _caches(page, [route for route in routes if route.caches])
    _gpus(page, station.gpus)
    _language_models(page, [route for route in routes if route.kind == "language"])
    _own(page, routes, station)
    return page.encode()


def _tensor_models(page: _Page, routes: list[RouteMetrics]) -> None:
    """Triton's names. Durations are sums over requests, in whole microseconds."""

    def labels(route: RouteMetrics) -> Labels:
        return {"model": route.name, "version": str(route.version)}

    def counter(name: str, help_text: str, read: str, scale: float = 1) -> None:
        values = [(labels(route), int(getattr(route, read) * scale)) for route in routes]
        page.family(name, "counter", help_text, values)

    counter("nv_inference_request_success", "Number of successful inference requests", "succeeded")
    page.family(
        "nv_inference_request_failure",
        "counter",
        "Number of failed inference requests, by reason",
        [(labels(route) | {"reason": reason}, n) for route in routes for reason, n in route.failures.items()],
    )
    counter("nv_inference_count", "Number of inferences performed, a batch of n counting n", "batch_rows")
    counter("nv_inference_exec_count", "Number of executions of the model", "batches")
    counter("nv_inference_request_duration_us", "Cumulative request duration", "duration_s", 1e6)
    counter("nv_inference_queue_duration_us", "Cumulative time requests waited in the queue", "queue_s", 1e6)
    counter("nv_inference_compute_infer_duration_us", "Cumulative time in the engine", "compute_s", 1e6)
    pending = [(labels(route), route.queue_depth) for route in routes]
    page.family("nv_inference_pending_request_count", "gauge", "Requests awaiting execution", pending)


def _caches(page: _Page, routes: list[RouteMetrics]) -> None:
    """Triton's names for tensor models, and our own. Triton's durations are in whole microseconds."""
    for name, help_text, read, scale in (
        ("num_hits", "Number of requests that a kept answer served", "cache_hits", 1),
        ("num_misses", "Number of requests for which something was computed", "cache_misses", 1),
        ("hit_duration", "Cumulative duration of looking up what was found", "cache_hit_s", 1e6),
        ("miss_duration", "Cumulative duration of looking up what was not, and keeping it", "cache_miss_s", 1e6),
    ):
        values: list[Value] = [
            ({"model": route.name, "version": str(route.version)}, int(getattr(route, read) * scale))
            for route in routes
            if route.kind == "tensor"
        ]
        page.family(f"nv_cache_{name}_per_model", "counter", help_text, values)
    for name, kind, help_text, read in (
        ("hits_total", "counter", "Requests that a kept answer served", "cache_hits"),
        ("misses_total", "counter", "Requests for which something was computed", "cache_misses"),
        ("entries_found_total", "counter", "Answers and items that were found", "cache_found"),
        ("entries_computed_total", "counter", "Answers and items that were not", "cache_computed"),
        ("saved_seconds_total", "counter", "What was found had taken so long to compute", "cache_saved_s"),
        ("evictions_total", "counter", "Answers that had to go for others", "cache_evictions"),
        ("errors_total", "counter", "Calls that the cache's Redis did not answer", "cache_errors"),
        ("bytes", "gauge", "Size of the answers in memory", "cache_bytes"),
        ("items", "gauge", "Answers in memory", "cache_items"),
    ):
        page.family(f"pilothouse_cache_{name}", kind, help_text, [(_labels(r), getattr(r, read)) for r in routes])


def _labels(route: RouteMetrics) -> Labels:
    return {"route": route.name, "model": route.model, "version": str(route.version), "engine": route.engine}


def _gpus(page: _Page, gpus: Sequence[Gpu]) -> None:
    def gauge(name: str, help_text: str, read: str, scale: float = 1) -> None:
        values = [({"gpu_uuid": gpu.uuid}, value * scale) for gpu in gpus if (value := getattr(gpu, read)) is not None]
        page.family(name, "gauge", help_text, values)

    gauge("nv_gpu_utilization", "GPU utilization, 0.0 to 1.0", "utilization_percent", 0.01)
    gauge("nv_gpu_memory_total_bytes", "GPU memory, in bytes", "memory_total_bytes")
    gauge("nv_gpu_memory_used_bytes", "GPU memory in use, in bytes", "memory_used_bytes")
    gauge("nv_gpu_power_usage", "GPU power usage, in watts", "power_w")
    gauge("nv_gpu_power_limit", "GPU power limit, in watts", "power_limit_w")


def _language_models(page: _Page, routes: list[RouteMetrics]) -> None:
    """vLLM's names."""

    def labels(route: RouteMetrics) -> Labels:
        return {"model_name": route.name, "engine": route.engine}

    def family(name: str, kind: str, help_text: str, read: str) -> None:
        page.family(name, kind, help_text, [(labels(route), getattr(route, read)) for route in routes])

    def histogram(name: str, help_text: str, bounds_s: Sequence[float], read: str) -> None:
        page.histogram(name, help_text, bounds_s, [(labels(route), getattr(route, read)) for route in routes])

    family("vllm:num_requests_running", "gauge", "Sequences being decoded", "running")
    family("vllm:num_requests_waiting", "gauge", "Sequences waiting to be decoded", "waiting")
    family("vllm:kv_cache_usage_perc", "gauge", "KV cache usage; 1 means 100 percent", "kv_used")
    family("vllm:prefix_cache_queries", "counter", "Prompt tokens looked up in the prefix cache", "prompt_tokens")
    family("vllm:prefix_cache_hits", "counter", "Prompt tokens found in the prefix cache", "cached_tokens")
    family("vllm:prompt_tokens_total", "counter", "Number of prompt tokens", "prompt_tokens")
    family("vllm:generation_tokens_total", "counter", "Number of generated tokens", "generated_tokens")
    ends = [(labels(route) | {"finished_reason": reason}, n) for route in routes for reason, n in _ends(route)]
    page.family("vllm:request_success_total", "counter", "Requests that ended, by reason", ends)
    family("vllm:num_preemptions_total", "counter", "Sequences sent back to the queue", "preempted")
    family("vllm:spec_decode_num_draft_tokens_total", "counter", "Tokens guessed ahead", "drafted")
    family("vllm:spec_decode_num_accepted_tokens_total", "counter", "Of them, those that were right", "accepted")
    histogram("vllm:time_to_first_token_seconds", "Time to first token", FIRST_TOKEN_S, "time_to_first_token")
    histogram("vllm:inter_token_latency_seconds", "Time between tokens", INTER_TOKEN_S, "inter_token")
    histogram("vllm:e2e_request_latency_seconds", "End-to-end request latency", ANSWER_S, "latency")


def _ends(route: RouteMetrics) -> list[tuple[str, int]]:
    """How requests ended, in vLLM's words; one that was refused never began."""
    failures = route.failures
    return [*route.finish_reasons.items(), ("abort", failures["CANCELED"]), ("error", failures["BACKEND"])]


def _own(page: _Page, routes: list[RouteMetrics], station: Station) -> None:
    process = psutil.Process()
    with process.oneshot():
        memory_bytes, cpu = process.memory_info().rss, process.cpu_times()

    page.family("pilothouse_build_info", "gauge", "The version that runs", [({"version": station.version}, 1)])
    page.family("pilothouse_uptime_seconds", "gauge", "Time since the daemon started", [({}, station.uptime_s)])
    page.family("pilothouse_resident_memory_bytes", "gauge", "Resident memory of the daemon", [({}, memory_bytes)])
    cpu_s = cpu.user + cpu.system
    page.family("pilothouse_cpu_seconds_total", "counter", "Processor time of the daemon", [({}, cpu_s)])
    page.family("pilothouse_jobs_running", "gauge", "Jobs at work", [({}, station.jobs_running)])
    states = [({"state": state}, count) for state, count in station.deployments.items()]
    page.family("pilothouse_deployments", "gauge", "Deployments in each state", states)
    answered = [(_labels(route), route.succeeded) for route in routes]
    page.family("pilothouse_requests_total", "counter", "Answered requests", answered)
    failed = [(_labels(route) | {"reason": reason}, n) for route in routes for reason, n in route.failures.items()]
    page.family("pilothouse_request_failures_total", "counter", "Failed requests, by reason", failed)
    in_flight = [(_labels(route), route.in_flight) for route in routes]
    page.family("pilothouse_requests_in_flight", "gauge", "Requests in an engine", in_flight)
    latency = [(_labels(route), route.latency) for route in routes]
    page.histogram("pilothouse_request_latency_seconds", "From arrival to the whole answer", LATENCY_S, latency)
    language = [route for route in routes if route.kind == "language"]
    for name, kind, help_text, read in (
        ("prefix_cache_bytes", "gauge", "Computed prefixes kept outside the KV cache", "prefix_cache_bytes"),
        ("preemptions_total", "counter", "Sequences sent back to the queue", "preempted"),
        ("draft_tokens_total", "counter", "Tokens guessed ahead", "drafted"),
        ("draft_accepted_tokens_total", "counter", "Of them, those that were right", "accepted"),
        ("worker_steps_total", "counter", "Steps of the workers' schedulers", "steps"),
        ("worker_step_seconds_total", "counter", "Time in those steps", "step_s"),
        ("worker_decode_seconds_total", "counter", "Of it, time in the engine's own decode", "decode_s"),
    ):
        values = [(_labels(route), getattr(route, read)) for route in language]
        page.family(f"pilothouse_{name}", kind, help_text, values)
    confident = [route for route in routes if route.confidence_count]
    means = [(_labels(route), route.confidence_sum / route.confidence_count) for route in confident]
    page.family("pilothouse_confidence_mean", "gauge", "Mean confidence of the top class", means)
    sums = [(_labels(route), route.confidence_sum) for route in confident]
    page.family("pilothouse_confidence_total", "counter", "Sum of the confidences of the top class", sums)
    counts = [(_labels(route), route.confidence_count) for route in confident]
    page.family("pilothouse_confidence_predictions_total", "counter", "Predictions with a confidence", counts)


def _sample(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value!r}" if inside else f"{name} {value!r}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
