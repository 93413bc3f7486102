"""Once a second: counters become samples, the machine is read, both are published and kept."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from app.clock import timestamp
from app.errors import NotReady
from app.events import Bus
from app.monitoring.gpu import disk_free_bytes, to_schema
from app.monitoring.metrics import Metrics, RouteMetrics
from app.monitoring.sketch import Sketch
from app.monitoring.timeseries import TimeSeries
from app.schema.manage import Hardware, RouteSample
from engines import hardware

log = logging.getLogger(__name__)

PERIOD_S = 1.0
FIRST_READING_S = 10.0
#: Percentiles and means look this far back.
WINDOW_S = 10


class _Snapshot:
    """The counters of a route at one moment."""

    def __init__(self, route: RouteMetrics, now_s: float, before: "_Snapshot | None"):
        self.route, self.now_s = route, now_s
        self.succeeded, self.failed = route.succeeded, route.failed_total
        self.duration_s, self.queue_s, self.compute_s = route.duration_s, route.queue_s, route.compute_s
        self.batches, self.batch_rows = route.batches, route.batch_rows
        self.confidence_sum, self.confidence_count = route.confidence_sum, route.confidence_count
        self.prompt_tokens, self.generated_tokens = route.prompt_tokens, route.generated_tokens
        self.cache_hits, self.cache_misses = route.cache_hits, route.cache_misses
        self.cached_tokens, self.drafted, self.accepted = route.cached_tokens, route.drafted, route.accepted
        # An idle route costs no copies.
        self.latency: Sketch = _copy(route.latency, before.latency if before else None)
        self.first_token: Sketch = _copy(route.time_to_first_token, before.first_token if before else None)
        self.inter_token: Sketch = _copy(route.inter_token, before.inter_token if before else None)


def _copy(sketch: Sketch, before: Sketch | None) -> Sketch:
    return before if before is not None and before.count == sketch.count else sketch.copy()


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def route_sample(
    now: _Snapshot, last: _Snapshot, oldest: _Snapshot, time_text: str, memory_bytes: int | None
) -> RouteSample:
    """``last`` is a period before ``now`` and gives rates; ``oldest`` is a window before and gives means."""
    route, elapsed_s = now.route, max(now.now_s - last.now_s, 1e-9)
    latency = now.latency.since(oldest.latency)
    sample = RouteSample(
        time=time_text,
        route=route.name,
        requests_per_s=(now.succeeded - last.succeeded) / elapsed_s,
        errors_per_s=(now.failed - last.failed) / elapsed_s,
        requests_total=now.succeeded,
        errors_total=now.failed,
        p50_ms=_ms(latency.quantile(0.50)),
        p95_ms=_ms(latency.quantile(0.95)),
        p99_ms=_ms(latency.quantile(0.99)),
        queue_depth=route.queue_depth,
        in_flight=route.in_flight,
        memory_bytes=memory_bytes,
    )
    if counted := now.confidence_count - oldest.confidence_count:
        sample.confidence = (now.confidence_sum - oldest.confidence_sum) / counted
    if route.caches:
        sample.cache_bytes = route.cache_bytes
        hits, misses = now.cache_hits - oldest.cache_hits, now.cache_misses - oldest.cache_misses
        if hits + misses:
            sample.cache_hit_rate = hits / (hits + misses)
    if route.kind == "tensor":
        if answered := now.succeeded - oldest.succeeded:
            queue_s, compute_s = now.queue_s - oldest.queue_s, now.compute_s - oldest.compute_s
            rest_s = now.duration_s - oldest.duration_s - queue_s - compute_s
            sample.queue_ms, sample.compute_ms = 1e3 * queue_s / answered, 1e3 * compute_s / answered
            sample.overhead_ms = max(0.0, 1e3 * rest_s / answered)
        if batches := now.batches - oldest.batches:
            sample.batch_size = (now.batch_rows - oldest.batch_rows) / batches
        if route.learned_rows:
            sample.learned_batch_size, sample.learned_delay_us = route.learned_rows, route.learned_delay_us
    else:
        sample.output_tokens_per_s = (now.generated_tokens - last.generated_tokens) / elapsed_s
        sample.prompt_tokens_per_s = (now.prompt_tokens - last.prompt_tokens) / elapsed_s
        sample.ttft_p50_ms = _ms(now.first_token.since(oldest.first_token).quantile(0.50))
        sample.itl_p50_ms = _ms(now.inter_token.since(oldest.inter_token).quantile(0.50))
        sample.kv_used, sample.prefix_cache_bytes = route.kv_used, route.prefix_cache_bytes
        if prompted := now.prompt_tokens - oldest.prompt_tokens:
            sample.prefix_hit_rate = (now.cached_tokens - oldest.cached_tokens) / prompted
        if drafted := now.drafted - oldest.drafted:
            sample.draft_acceptance = (now.accepted - oldest.accepted) / drafted
    return sample


class Sampler:
    """Publishes ``metrics``/ROUTE and ``hardware``/``now`` and keeps `series`.

    ``refresh`` is called before each sample, to set the gauges of the routes; ``memory_bytes`` gives the resident
    memory of a route's workers. The machine is read in a thread of its own, a daemon thread because a GPU that
    hangs must hold up neither the samples of routes nor the end of the process.
    """

    def __init__(
        self,
        metrics: Metrics,
        bus: Bus,
        data_dir: Path,
        *,
        refresh: Callable[[], None] = lambda: None,
        memory_bytes: Callable[[str], int | None] = lambda route: None,
        open_hardware: Callable[[], hardware.Sampler] = hardware.Sampler,
    ):
        self.series = TimeSeries()
        self.hardware: Hardware | None = None
        self.reading: hardware.Reading | None = None
        self.hardware_known = asyncio.Event()
        """Set by the first reading, some milliseconds after `run` has begun."""
        self._metrics, self._bus, self._data_dir = metrics, bus, data_dir
        self._refresh, self._memory_bytes, self._open_hardware = refresh, memory_bytes, open_hardware
        self._windows: dict[str, deque[_Snapshot]] = {}
        self._stop = threading.Event()

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        reader = threading.Thread(target=self._read_hardware, args=(loop,), name="hardware", daemon=True)
        reader.start()
        next_s = time.monotonic()
        try:
            while True:
                try:
                    self.sample(time.monotonic())
                except Exception:
                    log.exception("a sample was lost")
                # After a stall, go on from now: no burst of samples to catch up.
                next_s = max(next_s + PERIOD_S, time.monotonic())
                await asyncio.sleep(next_s - time.monotonic())
        finally:
            self._stop.set()

    async def machine(self) -> Hardware:
        """The latest reading; right after the start it waits for the first. Raises `NotReady`."""
        try:
            async with asyncio.timeout(FIRST_READING_S):
                await self.hardware_known.wait()
        except TimeoutError:
            raise NotReady("this machine could not be read", hint="the log has the details") from None
        assert self.hardware is not None
        return self.hardware

    def history(self, source: str, seconds: float) -> list[msgspec.Raw]:
        """See `TimeSeries.history`; up to now."""
        return self.series.history(source, seconds, time.monotonic())

    def sample(self, now_s: float) -> None:
        """Take one sample of every route at the monotonic time ``now_s``."""
        self._refresh()
        time_text = timestamp()
        routes = {route.name: route for route in self._metrics}
        for name in self._windows.keys() - routes.keys():
            del self._windows[name]
            self.series.forget(f"route:{name}")
            self._bus.publish("metrics", name, None)
        for name, route in routes.items():
            window = self._windows.get(name)
            if window is None or window[-1].route is not route:
                # What a new route answered before its first sample belongs to that sample.
                window = self._windows[name] = deque([_Snapshot(route.blank(), now_s - PERIOD_S, None)])
                window[0].route = route
            now = _Snapshot(route, now_s, window[-1])
            window.append(now)
            while window[1].now_s <= now_s - WINDOW_S + PERIOD_S / 2:
                window.popleft()
            sample = route_sample(now, window[-2], window[0], time_text, self._memory_bytes(name))
            self.series.append(f"route:{name}", now_s, sample)
            self._bus.publish("metrics", name, sample)

    def _read_hardware(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            sampler = self._open_hardware()
            facts = sampler.facts()
        except Exception:
            log.exception("this machine cannot be described")
            return
        next_s = time.monotonic()
        while not self._stop.is_set():
            try:
                reading = sampler.read()
                machine = to_schema(facts, reading, disk_free_bytes(self._data_dir))
            except Exception:
                log.exception("this machine could not be read")
            else:
                with suppress(RuntimeError):  # the loop has closed meanwhile
                    loop.call_soon_threadsafe(self._publish_hardware, reading, machine)
            next_s = max(next_s + PERIOD_S, time.monotonic())
            self._stop.wait(next_s - time.monotonic())
        sampler.close()

    def _publish_hardware(self, reading: hardware.Reading, machine: Hardware) -> None:
        self.reading, self.hardware = reading, machine
        self.series.append("hardware", time.monotonic(), machine)
        self._bus.publish("hardware", "now", machine)
        self.hardware_known.set()
