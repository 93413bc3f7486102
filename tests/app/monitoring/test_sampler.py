import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.events import Bus
from app.monitoring.metrics import Metrics, RouteMetrics
from app.monitoring.sampler import Sampler
from app.schema.manage import Change, Hardware, RouteSample
from engines import hardware
from engines.protocol import SchedulerLoad


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def sampler(metrics: Metrics, bus: Bus, tmp_path: Path) -> Sampler:
    return Sampler(metrics, bus, tmp_path, memory_bytes=lambda route: 42)


def digits(metrics: Metrics, version: int = 1) -> RouteMetrics:
    return metrics.route("digits", model="digits", version=version, kind="tensor", engine="onnxruntime")


def shown(bus: Bus, route: str = "digits") -> RouteSample:
    return bus.state["metrics"][route]


def test_rates_are_of_the_second_and_percentiles_of_ten(metrics: Metrics, bus: Bus, sampler: Sampler) -> None:
    route = digits(metrics)
    sampler.sample(100.0)
    for second in range(1, 31):
        for _ in range(second):
            route.answered(second / 1000, 0.0, 0.0)
        route.failed("OTHER")
        sampler.sample(100.0 + second)
    sample = shown(bus)
    assert sample.requests_per_s == 30
    assert sample.errors_per_s == 1
    assert (sample.requests_total, sample.errors_total) == (465, 30)
    window = sorted(latency_ms for second in range(21, 31) for latency_ms in [second] * second)
    for q, got in ((0.5, sample.p50_ms), (0.95, sample.p95_ms), (0.99, sample.p99_ms)):
        assert got == pytest.approx(window[int(q * (len(window) - 1))], rel=0.011)


def test_where_the_time_went(metrics: Metrics, bus: Bus, sampler: Sampler) -> None:
    route = digits(metrics)
    sampler.sample(0.0)
    route.batch(2, 0.004)
    route.batch(1, 0.004)
    for _ in range(3):
        route.answered(0.010, 0.003, 0.004)
    route.confidence(2.7, 3)
    route.queue_depth, route.in_flight = 7, 2
    sampler.sample(1.0)
    sample = shown(bus)
    assert (sample.queue_ms, sample.compute_ms, sample.overhead_ms) == pytest.approx((3.0, 4.0, 3.0))
    assert sample.batch_size == 1.5
    assert sample.confidence == pytest.approx(0.9)
    assert (sample.queue_depth, sample.in_flight, sample.memory_bytes) == (7, 2, 42)
    assert sample.output_tokens_per_s is None


def test_what_the_batcher_has_learned(metrics: Metrics, bus: Bus, sampler: Sampler) -> None:
    route = digits(metrics)
    sampler.sample(0.0)
    assert shown(bus).learned_batch_size is None
    route.learned_rows, route.learned_delay_us = 24, 900
    sampler.sample(1.0)
    assert (shown(bus).learned_batch_size, shown(bus).learned_delay_us) == (24, 900)


def test_a_language_model(metrics: Metrics, bus: Bus, sampler: Sampler) -> None:
    route = metrics.route("chat", model="gemma", version=1, kind="language", engine="llamacpp")
    sampler.sample(0.0)
    route.first_token(0.2)
    for interval_s in (0.0, 0.02, 0.02, 0.02):
        route.token(interval_s, 1)
    route.prompt(127, 0)
    route.scheduler(1, 0, 0.5, 99)
    sampler.sample(2.0)
    sample = shown(bus, "chat")
    assert sample.output_tokens_per_s == 2
    assert sample.prompt_tokens_per_s == 63.5
    assert sample.ttft_p50_ms == pytest.approx(200, rel=0.011)
    assert sample.itl_p50_ms == pytest.approx(20, rel=0.011)
    assert sample.kv_used == 0.5
    assert sample.queue_ms is None and sample.p50_ms is None
    assert (sample.prefix_hit_rate, sample.prefix_cache_bytes, sample.draft_acceptance) == (0, 99, None)


def test_shares_are_of_the_last_ten_seconds(metrics: Metrics, bus: Bus, sampler: Sampler) -> None:
    route = metrics.route("chat", model="gemma", version=1, kind="language", engine="llamacpp")
    sampler.sample(0.0)
    assert shown(bus, "chat").prefix_hit_rate is None
    route.prompt(100, 0)
    route.stepped(SchedulerLoad(preempted=0, drafted=4, accepted=1))
    sampler.sample(1.0)
    route.prompt(100, 90)
    route.stepped(SchedulerLoad(preempted=0, drafted=4, accepted=4))
    sampler.sample(2.0)
    assert shown(bus, "chat").prefix_hit_rate == pytest.approx(0.45)
    assert shown(bus, "chat").draft_acceptance == pytest.approx(0.625)
    for second in range(3, 13):
        sampler.sample(float(second))
        assert (shown(bus, "chat").prefix_hit_rate is not None) == (second < 12)
    assert shown(bus, "chat").draft_acceptance is None


def test_what_was_long_ago_is_no_longer_shown(metrics: Metrics, bus: Bus, sampler: Sampler) -> None:
    route = digits(metrics)
    sampler.sample(0.0)
    route.answered(0.01, 0.0, 0.01)
    for second in range(1, 12):
        sampler.sample(float(second))
        assert (shown(bus).p50_ms is not None) == (second <= 10)
        assert (shown(bus).compute_ms is not None) == (second <= 10)
    assert shown(bus).requests_per_s == 0
    assert shown(bus).requests_total == 1


def test_another_version_begins_anew_and_its_route_goes_on(metrics: Metrics, bus: Bus, sampler: Sampler) -> None:
    digits(metrics).answered(0.01, 0.0, 0.0)
    sampler.sample(0.0)
    sampler.sample(1.0)
    second = digits(metrics, version=2)
    sampler.sample(2.0)
    second.answered(0.01, 0.0, 0.0)
    sampler.sample(3.0)
    assert (shown(bus).requests_per_s, shown(bus).requests_total) == (1, 1)
    assert len(sampler.series.history("route:digits", 3600, 3.0)) == 4


def test_a_route_that_is_gone_is_removed(metrics: Metrics, bus: Bus, sampler: Sampler) -> None:
    digits(metrics)
    sampler.sample(0.0)
    sampler.sample(1.0)
    metrics.forget("digits")
    sampler.sample(2.0)
    assert bus.state["metrics"] == {}
    assert not sampler._windows


def test_gauges_are_refreshed_before_a_sample(metrics: Metrics, bus: Bus, tmp_path: Path) -> None:
    route = digits(metrics)

    def refresh() -> None:
        route.queue_depth = 9

    sampler = Sampler(metrics, bus, tmp_path, refresh=refresh)
    sampler.sample(0.0)
    sampler.sample(1.0)
    assert shown(bus).queue_depth == 9


async def test_the_machine_is_read_and_published(
    metrics: Metrics, bus: Bus, sampler: Sampler, tmp_path: Path
) -> None:
    running = asyncio.create_task(sampler.run())
    try:
        async with asyncio.timeout(10):
            await sampler.hardware_known.wait()
    finally:
        running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    machine = bus.state["hardware"]["now"]
    assert isinstance(machine, Hardware)
    assert machine.disk_free_bytes > 0 and machine.memory_total_bytes > 0 and machine.cpu.name
    assert machine.gpus or machine.gpu_note
    (kept,) = sampler.history("hardware", 60)
    assert msgspec.json.decode(kept, type=Hardware) == machine


class Stuck(hardware.Sampler):
    """A GPU whose driver does not return."""

    def __init__(self, entered: threading.Event, release: threading.Event):
        super().__init__()
        self._entered, self._release = entered, release

    def read(self) -> hardware.Reading:
        self._entered.set()
        self._release.wait()
        return super().read()


async def test_a_hanging_gpu_holds_up_neither_samples_nor_the_end(
    metrics: Metrics, bus: Bus, tmp_path: Path
) -> None:
    entered, release = threading.Event(), threading.Event()
    sampler = Sampler(metrics, bus, tmp_path, open_hardware=lambda: Stuck(entered, release))
    digits(metrics)
    running = asyncio.create_task(sampler.run())

    async def first_sample() -> Any:
        async for _, message in bus.subscribe():
            if isinstance(message, Change) and message.kind == "metrics":
                return message.value

    try:
        async with asyncio.timeout(10):
            assert (await first_sample()).route == "digits"
            assert await asyncio.to_thread(entered.wait, 5)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert "hardware" not in bus.state
    finally:
        release.set()
        for thread in threading.enumerate():
            if thread.name == "hardware":
                await asyncio.to_thread(thread.join, 5)


async def test_a_failing_sample_is_logged_and_the_next_one_taken(
    metrics: Metrics, bus: Bus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[int] = []
    third = asyncio.Event()

    def refresh() -> None:
        taken.append(1)
        if len(taken) == 1:
            raise ValueError("a gauge that fails once")
        third.set()

    sampler = Sampler(metrics, bus, tmp_path, refresh=refresh)
    running = asyncio.create_task(sampler.run())
    async with asyncio.timeout(10):
        await third.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "a gauge that fails once" in caplog.text
