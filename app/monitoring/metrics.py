"""What the hot path counts. One `RouteMetrics` a route: plain attributes, added to from the event loop only."""

from collections.abc import Iterator
from typing import Literal

from app.errors import DeadlineExceeded, NotReady, PilothouseError, QueueFull
from app.monitoring.sketch import Sketch
from engines.protocol import SchedulerLoad

Kind = Literal["tensor", "language"]
#: Why a request failed, in Triton's words.
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
#: Why an answer of a language model is complete, in vLLM's words.
FINISH_REASONS = ("stop", "length")


def reason_of(error: BaseException) -> str:
    """Which of `REASONS` it is."""
    if isinstance(error, (QueueFull, NotReady)):
        return "REJECTED"
    if isinstance(error, DeadlineExceeded) or not isinstance(error, Exception):
        return "CANCELED"
    return "BACKEND" if isinstance(error, PilothouseError) and error.status >= 500 else "OTHER"


class RouteMetrics:
    """Counters since the deployment started, and gauges. Seconds everywhere; a call costs about a microsecond."""

    __slots__ = (
        "accepted", "batch_rows", "batch_sizes", "batches", "cache_bytes", "cache_computed", "cache_errors",
        "cache_evictions", "cache_found", "cache_hit_s", "cache_hits", "cache_items", "cache_miss_s", "cache_misses",
        "cache_saved_s", "cached_tokens", "caches", "compute_s", "confidence_count", "confidence_sum", "decode_s",
        "drafted", "duration_s", "engine", "failed_s", "failures", "finish_reasons", "generated_tokens", "in_flight",
        "input_s", "inter_token", "kind", "kv_used", "last_inference_ms", "latency", "learned_delay_us", "learned_rows",
        "model", "name", "output_s", "preempted", "prefix_cache_bytes", "prompt_tokens", "queue_depth", "queue_s",
        "running", "step_s", "steps", "succeeded", "time_to_first_token", "version", "waiting",
    )  # fmt: skip

    def __init__(self, name: str, model: str, version: int, kind: Kind, engine: str):
        self.name, self.model, self.version, self.kind, self.engine = name, model, version, kind, engine
        self.succeeded = 0
        self.failures: dict[str, int] = dict.fromkeys(REASONS, 0)
        self.failed_s = 0.0
        self.duration_s = self.queue_s = self.input_s = self.compute_s = self.output_s = 0.0
        """Sums over the answered requests."""
        self.last_inference_ms = 0
        """Of the last batch, Unix time."""
        self.batch_sizes: dict[int, tuple[int, float]] = {}
        """Rows → how many batches of so many, and the seconds they took."""
        self.cache_hits = self.cache_misses = 0
        self.cache_saved_s = 0.0
        """What the answers that were found would have taken to compute."""
        self.cache_found = self.cache_computed = 0
        """Entries: a request of several items is a hit when all of them were found, and each counts here."""
        self.cache_hit_s = self.cache_miss_s = 0.0
        """Looking up what was found; looking up what was not, and keeping it."""
        self.cache_evictions = self.cache_errors = 0
        """Answers that had to go; times that a store elsewhere did not answer."""
        self.latency = Sketch()
        self.batches = self.batch_rows = 0
        self.confidence_sum, self.confidence_count = 0.0, 0
        self.prompt_tokens = self.cached_tokens = self.generated_tokens = 0
        self.finish_reasons: dict[str, int] = dict.fromkeys(FINISH_REASONS, 0)
        self.preempted = self.drafted = self.accepted = self.steps = 0
        self.step_s = self.decode_s = 0.0
        """Of the workers' steps, and of the engine's own decode in them."""
        self.time_to_first_token = Sketch()
        self.inter_token = Sketch()
        # gauges
        self.queue_depth = self.in_flight = 0
        self.running = self.waiting = 0
        self.kv_used = 0.0
        self.prefix_cache_bytes = 0
        self.caches = False
        """Whether there is a response cache; what of it is in memory here."""
        self.cache_bytes = self.cache_items = 0
        self.learned_rows, self.learned_delay_us = 0, 0
        """What the batcher aims at now."""

    def blank(self) -> "RouteMetrics":
        """The same route before anything was counted."""
        return RouteMetrics(self.name, self.model, self.version, self.kind, self.engine)

    @property
    def failed_total(self) -> int:
        return sum(self.failures.values())

    def answered(
        self,
        total_s: float,
        queue_s: float,
        compute_s: float,
        rows: int = 1,
        *,
        input_s: float = 0.0,
        output_s: float = 0.0,
    ) -> None:
        """One tensor request was answered; ``rows`` of it were part of some batch (see `batch`)."""
        self.succeeded += 1
        self.duration_s += total_s
        self.queue_s += queue_s
        self.input_s += input_s
        self.compute_s += compute_s
        self.output_s += output_s
        self.latency.add(total_s)

    def failed(self, reason: str, total_s: float = 0.0) -> None:
        """``reason`` is one of `REASONS`; any other counts as ``OTHER``. ``total_s`` is since the request came."""
        self.failures[reason if reason in self.failures else "OTHER"] += 1
        self.failed_s += total_s

    def batch(self, rows: int, compute_s: float, now_ms: int = 0) -> None:
        """The engine ran once, on ``rows`` rows, and was done at ``now_ms`` of Unix time."""
        self.batches += 1
        self.batch_rows += rows
        count, seconds = self.batch_sizes.get(rows, (0, 0.0))
        self.batch_sizes[rows] = count + 1, seconds + compute_s
        self.last_inference_ms = now_ms

    def confidence(self, total: float, count: int) -> None:
        """``count`` predictions whose top classes' confidences (0 to 1) add up to ``total``."""
        self.confidence_sum += total
        self.confidence_count += count

    def prompt(self, tokens: int, cached: int) -> None:
        """A prompt of ``tokens`` tokens, ``cached`` of which needed no computing."""
        self.prompt_tokens += tokens
        self.cached_tokens += cached

    def first_token(self, seconds: float) -> None:
        """From the arrival of the request to its first token; the tokens themselves are counted by `token`."""
        self.time_to_first_token.add(seconds)

    def token(self, seconds_since_previous: float, count: int) -> None:
        """``count`` tokens came at once; 0 seconds where there was none before them."""
        self.generated_tokens += count
        if seconds_since_previous > 0 and count > 0:
            self.inter_token.add(seconds_since_previous / count, count)

    def finished(self, total_s: float, reason: str = "stop") -> None:
        """One answer of a language model is complete; any ``reason`` but ``length`` is that the model stopped."""
        self.finish_reasons["length" if reason == "length" else "stop"] += 1
        self.succeeded += 1
        self.duration_s += total_s
        self.latency.add(total_s)

    def scheduler(self, running: int, waiting: int, kv_used: float, prefix_cache_bytes: int = 0) -> None:
        """Gauges after a step: sequences, the share of the KV cells in use (0 to 1), and the size of the computed
        prefixes that are kept outside them."""
        self.running, self.waiting, self.kv_used = running, waiting, kv_used
        self.prefix_cache_bytes = prefix_cache_bytes

    def stepped(self, counted: SchedulerLoad) -> None:
        """What the replicas' schedulers counted since the last call."""
        self.preempted += counted.preempted
        self.drafted += counted.drafted
        self.accepted += counted.accepted
        self.steps += counted.steps
        self.step_s += counted.step_us / 1e6
        self.decode_s += counted.decode_us / 1e6


class Metrics:
    """The routes that are counted."""

    def __init__(self) -> None:
        self._routes: dict[str, RouteMetrics] = {}

    def candidate(self, name: str, *, model: str, version: int, kind: Kind, engine: str) -> RouteMetrics:
        """What will count ``name`` when `adopt` is called: the present one where it is of this model, version and
        engine, else one that begins anew."""
        current = self._routes.get(name)
        identity = (model, version, kind, engine)
        if current is None or (current.model, current.version, current.kind, current.engine) != identity:
            current = RouteMetrics(name, model, version, kind, engine)
        return current

    def adopt(self, metrics: RouteMetrics) -> RouteMetrics:
        """From now on ``metrics`` are those of its route."""
        self._routes[metrics.name] = metrics
        return metrics

    def route(self, name: str, *, model: str, version: int, kind: Kind, engine: str) -> RouteMetrics:
        """The one object for ``name``; another model, version or engine behind it begins to count anew."""
        return self.adopt(self.candidate(name, model=model, version=version, kind=kind, engine=engine))

    def forget(self, name: str) -> None:
        self._routes.pop(name, None)

    def __iter__(self) -> Iterator[RouteMetrics]:
        return iter(list(self._routes.values()))
