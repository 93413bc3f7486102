"""Monitor: one route and the machine, live."""

from dataclasses import dataclass
from time import time

from PySide6.QtWidgets import QGridLayout, QWidget

from app.schema.manage import Deployment, Gpu, Hardware, RouteSample
from ui import format
from ui.pages.page import Page
from ui.session import Session
from ui.stores.series import Columns
from ui.widgets.bars import Bar, Bars
from ui.widgets.basics import label, set_text
from ui.widgets.card import Card
from ui.widgets.chart import Crosshair, Line
from ui.widgets.chart_card import ChartCard
from ui.widgets.empty import Empty
from ui.widgets.segmented import Segmented
from ui.words import engine_and_device, is_language, is_pipeline, title

#: The grid is twelve columns wide: it holds 1, 2, 3 or 4 cards of equal width.
TWELVE = 12
RANGES = {"60": "1 m", "300": "5 m", "900": "15 m", "3600": "1 h"}


@dataclass(frozen=True)
class Spec:
    """A chart: its lines are (name, field, colour) of one source."""

    key: str
    title: str
    unit: str
    lines: tuple[tuple[str, str, str], ...]
    machine: bool = False
    area: bool = True
    fixed_max: float | None = None


THROUGHPUT = Spec("throughput", "Throughput", "/s", (("requests", "requests_per_s", "series_1"),))
QUEUE = Spec("queue", "Queue depth", "", (("waiting", "queue_depth", "series_2"),), area=False)
TENSOR = (
    THROUGHPUT,
    Spec("batch", "Batch size, mean", "", (("batch", "batch_size", "series_3"),), area=False),
    QUEUE,
    Spec(
        "confidence", "Confidence, mean", "share", (("top class", "confidence", "series_4"),), area=False, fixed_max=1.0
    ),
)
PIPELINE = (
    THROUGHPUT,
    Spec("in_flight", "Under way at once", "", (("requests", "in_flight", "series_3"),), area=False),
)
CACHE = Spec(
    "cache",
    "Answers from the cache, share",
    "share",
    (("hits", "cache_hit_rate", "series_3"),),
    area=False,
    fixed_max=1.0,
)
LANGUAGE = (
    Spec("tokens", "Output tokens", "tok/s", (("tokens", "output_tokens_per_s", "series_1"),)),
    Spec("ttft", "Time to first token, p50", "ms", (("TTFT", "ttft_p50_ms", "series_2"),), area=False),
    Spec("itl", "Between tokens, p50", "ms", (("ITL", "itl_p50_ms", "series_3"),), area=False),
    THROUGHPUT,
    QUEUE,
    Spec(
        "prefix",
        "Prompt from the cache, share",
        "share",
        (("prefix hits", "prefix_hit_rate", "series_4"),),
        area=False,
        fixed_max=1.0,
    ),
)
#: Only where the route has them: (chart, the reading above which it says something).
LANGUAGE_EXTRA = (
    (Spec("prefix_cache", "Prefixes kept aside", "B", (("kept", "prefix_cache_bytes", "series_3"),), area=False), 0.0),
    (
        Spec(
            "draft",
            "Guesses accepted, share",
            "share",
            (("accepted", "draft_acceptance", "series_2"),),
            area=False,
            fixed_max=1.0,
        ),
        -1.0,
    ),
)
LATENCY = (("p50", "p50_ms", "series_1"), ("p95", "p95_ms", "series_2"), ("p99", "p99_ms", "series_4"))


def machine_specs(hardware: Hardware | None) -> list[Spec]:
    """Processor, memory, and every reading that the driver gives for every GPU."""
    total = hardware.memory_total_bytes if hardware else None
    specs = [
        Spec("cpu", "Processor", "%", (("CPU", "cpu_percent", "series_1"),), machine=True, fixed_max=100),
        Spec(
            "memory",
            "Memory",
            "B",
            (("used", "memory_used_bytes", "series_3"),),
            machine=True,
            area=False,
            fixed_max=total,
        ),
    ]
    for gpu in hardware.gpus if hardware else []:
        specs += _gpu_specs(gpu)
    return specs


def _gpu_specs(gpu: Gpu) -> list[Spec]:
    at = f"gpu{gpu.index}"

    def spec(
        key: str, title: str, unit: str, field: str, color: str, *, area: bool = False, top: float | None = None
    ) -> Spec:
        return Spec(
            f"{at}.{key}", title, unit, ((key, f"{at}.{field}", color),), machine=True, area=area, fixed_max=top
        )

    specs = []
    if gpu.utilization_percent is not None:
        specs.append(
            spec("load", f"GPU {gpu.index} · {gpu.name}", "%", "utilization_percent", "series_1", area=True, top=100)
        )
    if gpu.memory_used_bytes is not None:
        specs.append(
            spec("memory", f"GPU {gpu.index} memory", "B", "memory_used_bytes", "series_3", top=gpu.memory_total_bytes)
        )
    if gpu.temperature_c is not None:
        specs.append(spec("temperature", f"GPU {gpu.index} temperature", "°C", "temperature_c", "series_2"))
    if gpu.power_w is not None:
        specs.append(spec("power", f"GPU {gpu.index} power", "W", "power_w", "series_4", top=gpu.power_limit_w))
    return specs


def time_parts(sample: RouteSample | None) -> list[tuple[str, float | None, str]]:
    """(name, milliseconds, color) of what an answer's time consists of; for a language model of the median answer."""
    if sample is None:
        return []
    if sample.output_tokens_per_s is None:
        return [
            ("queue", sample.queue_ms, "series_1"),
            ("compute", sample.compute_ms, "series_3"),
            ("overhead", sample.overhead_ms, "series_4"),
        ]
    return _answer_parts(sample)


def step_parts(deployment: Deployment, samples: dict[str, RouteSample]) -> list[tuple[str, float | None, str]]:
    """Of a pipeline: each step with the median of the route that it calls."""
    steps = deployment.spec.pipeline.steps if deployment.spec.pipeline is not None else []
    found = []
    for step in steps:
        sample = samples.get(step.route)
        found.append((step.name, sample.p50_ms if sample else None, "series_3"))
    return found


def batching_note(sample: RouteSample | None) -> str:
    """What the batcher has learned: ``leaves at 8 rows, or after 120 µs``."""
    if sample is None or sample.learned_batch_size is None:
        return ""
    rows = format.plural(sample.learned_batch_size, "row")
    delay_us = sample.learned_delay_us
    if not delay_us:
        return f"Learned: leaves at once, with up to {rows}"
    wait = format.milliseconds(delay_us / 1000) if delay_us >= 1000 else f"{delay_us} µs"
    return f"Learned: leaves at {rows}, or after {wait}"


def cache_note(sample: RouteSample | None, deployment: Deployment) -> str:
    """``12 MB of 64 MiB kept``"""
    if sample is None or sample.cache_bytes is None:
        return ""
    most = deployment.spec.settings.get("response_cache_mb", 64)
    return f"{format.size(sample.cache_bytes)} kept, at most {most} MiB"


def _answer_parts(sample: RouteSample) -> list[tuple[str, float | None, str]]:
    first, whole = sample.ttft_p50_ms, sample.p50_ms
    writing = max(0.0, whole - first) if first is not None and whole is not None else None
    return [("first token", first, "series_2"), ("writing", writing, "series_1")]


class MonitorPage(Page):
    name, title = "monitor", "Monitor"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.crosshair = Crosshair(self)
        self.route = Segmented("Route")
        self.route.chosen.connect(lambda _: self.refresh())
        self.range = Segmented("Time range", list(RANGES.items()))
        self.range.set_current("300")
        self.range.chosen.connect(lambda _: self.refresh())
        self.act(self.route, self.range)
        self.latency = ChartCard("Latency", "ms", self.crosshair, tall=True)
        self.times = Bars("Where the time goes", row_height=44, bar_height=16)
        self._times_note = label("mean of the last 10 s", "caption")
        self._times_card = Card("Where the time goes", self._times_note)
        self._times_card.add(self.times)
        self._times_empty = label("No request was answered in the last ten seconds.", "muted", wrap=True)
        self._times_card.add(self._times_empty)
        self._times_card.body.addStretch(1)
        self.cards: dict[str, ChartCard] = {}
        self._layout_key: tuple[object, ...] = ()
        self._grid_holder = QWidget()
        self._grid = QGridLayout(self._grid_holder)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(16)
        for index in range(TWELVE):
            self._grid.setColumnStretch(index, 1)
        for card in (self.latency, self._times_card):
            card.setParent(self._grid_holder)
        self.quiet = label("", "muted", wrap=True)
        self.empty = Empty(
            "activity",
            "Nothing to watch yet",
            "The machine is shown below; a deployment adds its latency, throughput and more.",
        )
        self.add(self.empty)
        self.add(self._grid_holder)
        self.add(self.quiet)
        self.body.addStretch(1)

    def watch(self, route: str) -> None:
        """Shows a route, as if its segment had been pressed."""
        self.refresh()
        self.route.set_current(route)
        self.refresh()

    def refresh(self) -> None:
        station = self.session.station
        self.route.set_choices([(route, route) for route in station.deployments])
        deployment = station.deployments.get(self.route.current())
        specs = self._specs(deployment) + machine_specs(station.hardware)
        self._arrange(deployment, specs)
        self.empty.setVisible(deployment is None and station.loaded)
        hardware = station.hardware
        set_text(self.quiet, hardware.gpu_note if hardware and not hardware.gpus else "")
        machine = self.session.series.of("hardware")
        source = self.session.series.of(f"route:{deployment.route}") if deployment else Columns()
        end = max([columns.times[-1] for columns in (machine, source) if len(columns)], default=time())
        start = end - float(self.range.current())
        marks = self.session.marks.of(deployment.route) if deployment else []
        if deployment is not None:
            self.latency.show_lines(
                [
                    Line(name, color, source.times, source.column(field), name == "p50")
                    for name, field, color in LATENCY
                ],
                start,
                end,
                marks,
            )
            self._show_times(deployment)
        for spec in specs:
            columns = machine if spec.machine else source
            lines = [
                Line(name, color, columns.times, columns.column(field), spec.area) for name, field, color in spec.lines
            ]
            self.cards[spec.key].show_lines(lines, start, end, [] if spec.machine else marks)
        if deployment is not None:
            self._show_notes(deployment)
        self.say(self._sentence_of(deployment))

    def _specs(self, deployment: Deployment | None) -> list[Spec]:
        if deployment is None:
            return []
        if is_language(deployment):
            columns = self.session.series.of(f"route:{deployment.route}")
            extra = [spec for spec, least in LANGUAGE_EXTRA if columns.any_over(spec.lines[0][1], least)]
            return [*LANGUAGE, *extra, *([CACHE] if self._caches(deployment) else [])]
        sample = self.session.station.samples.get(deployment.route)
        cache = [CACHE] if self._caches(deployment) else []
        if is_pipeline(deployment):
            return [*PIPELINE, *cache]
        classifies = bool(deployment.labels) or (sample is not None and sample.confidence is not None)
        return [*(spec for spec in TENSOR if spec.key != "confidence" or classifies), *cache]

    def _caches(self, deployment: Deployment) -> bool:
        sample = self.session.station.samples.get(deployment.route)
        return sample is not None and (sample.cache_hit_rate is not None or sample.cache_bytes is not None)

    def _show_notes(self, deployment: Deployment) -> None:
        sample = self.session.station.samples.get(deployment.route)
        for key, text in (("batch", batching_note(sample)), ("cache", cache_note(sample, deployment))):
            if key in self.cards:
                self.cards[key].say(text)

    def _sentence_of(self, deployment: Deployment | None) -> str:
        if deployment is None:
            return "No route to watch; this is the machine" if self.session.station.loaded else "Asking the daemon…"
        sample = self.session.station.samples.get(deployment.route)
        answered = f"{sample.requests_total:,} answered" if sample and sample.requests_total else "no request yet"
        errors = format.plural(sample.errors_total, "error") if sample and sample.errors_total else ""
        return format.joined(title(deployment), engine_and_device(deployment), answered, errors)

    def _show_times(self, deployment: Deployment) -> None:
        samples = self.session.station.samples
        pipeline = is_pipeline(deployment)
        parts = step_parts(deployment, samples) if pipeline else time_parts(samples.get(deployment.route))
        self._times_note.setText("each step's route, p50" if pipeline else "mean of the last 10 s")
        known = [(name, value, color) for name, value, color in parts if value is not None]
        top = max((value for _, value, _ in known), default=0.0) or 1.0
        self.times.set_bars([Bar(name, value / top, format.milliseconds(value), color) for name, value, color in known])
        self.times.setVisible(bool(known))
        self._times_empty.setVisible(not known)

    # --- the grid --------------------------------------------------------------------------------------

    def _columns(self) -> int:
        width = self.viewport().width() - 56
        return 4 if width >= 1080 else 3 if width >= 820 else 2 if width >= 560 else 1

    def _arrange(self, deployment: Deployment | None, specs: list[Spec]) -> None:
        columns = self._columns()
        key = (columns, deployment is not None, tuple(specs))
        if key == self._layout_key:
            return
        self._layout_key = key
        self.setUpdatesEnabled(False)
        while self._grid.count():
            self._grid.takeAt(0)
        keys = {spec.key for spec in specs}
        for gone in set(self.cards) - keys:
            card = self.cards.pop(gone)
            card.hide()
            card.setParent(None)
            card.deleteLater()
        at = 0
        if deployment is not None:
            beside = columns >= 3
            self._grid.addWidget(self.latency, 0, 0, 1, 8 if beside else TWELVE)
            self._grid.addWidget(self._times_card, *((0, 8, 1, 4) if beside else (1, 0, 1, TWELVE)))
            at = 1 if beside else 2
        for widget in (self.latency, self._times_card):
            widget.setVisible(deployment is not None)
        for group in (
            [spec for spec in specs if not spec.machine],
            [spec for spec in specs if spec.machine and "." not in spec.key],
            [spec for spec in specs if spec.machine and "." in spec.key],
        ):
            at = self._arrange_group(group, at, columns)
        self.setUpdatesEnabled(True)

    def _arrange_group(self, group: list[Spec], at: int, columns: int) -> int:
        """Rows of at most ``columns`` cards, as even as can be, from grid row ``at``; returns the next free row."""
        rest = [self._card(spec) for spec in group]
        while rest:
            rows_left = -(-len(rest) // columns)
            in_row = -(-len(rest) // rows_left)
            span = TWELVE // in_row
            for index, card in enumerate(rest[:in_row]):
                self._grid.addWidget(card, at, index * span, 1, span)
                card.show()
            rest = rest[in_row:]
            at += 1
        return at

    def _card(self, spec: Spec) -> ChartCard:
        if spec.key not in self.cards:
            self.cards[spec.key] = ChartCard(spec.title, spec.unit, self.crosshair)
        card = self.cards[spec.key]
        card.chart.fixed_max = spec.fixed_max
        card.suffix = f"of {format.size(spec.fixed_max)}" if spec.unit == "B" and spec.fixed_max else ""
        return card

    def resizeEvent(self, event) -> None:
        super().resizeEvent(event)
        if self.isVisible():
            self.refresh()
