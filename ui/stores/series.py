"""Readings over time, for charts: one column of numbers a field, bounded, `nan` where there was none."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from math import isnan
from typing import Any

import msgspec
from PySide6.QtCore import QObject, Signal

from app.schema.manage import Hardware, RouteSample
from ui.format import parse_time
from ui.sse import Event

#: An hour at one reading a second.
LIMIT = 3600
NAN = float("nan")
#: Seconds that sparklines look back.
HISTORY = 900
ROUTE_FIELDS = (
    "requests_per_s", "errors_per_s", "p50_ms", "p95_ms", "p99_ms", "queue_ms", "compute_ms", "overhead_ms",
    "batch_size", "queue_depth", "in_flight", "confidence", "output_tokens_per_s", "prompt_tokens_per_s",
    "ttft_p50_ms", "itl_p50_ms", "kv_used", "prefix_hit_rate", "prefix_cache_bytes", "draft_acceptance", "memory_bytes",
    "cache_hit_rate", "cache_bytes",
)  # fmt: skip
GPU_FIELDS = ("utilization_percent", "memory_used_bytes", "temperature_c", "power_w")


def route_row(sample: RouteSample) -> dict[str, float | None]:
    return {name: getattr(sample, name) for name in ROUTE_FIELDS}


def hardware_row(sample: Hardware) -> dict[str, float | None]:
    row: dict[str, float | None] = {
        "cpu_percent": sample.cpu_percent,
        "memory_used_bytes": sample.memory_used_bytes,
    }
    for gpu in sample.gpus:
        row |= {f"gpu{gpu.index}.{name}": getattr(gpu, name) for name in GPU_FIELDS}
    return row


class Columns:
    """Times (seconds since the epoch, ascending) and one column of equal length for each field seen."""

    def __init__(self) -> None:
        self.times = array("d")
        self.fields: dict[str, array[float]] = {}

    def __len__(self) -> int:
        return len(self.times)

    def append(self, time: float, row: dict[str, float | None]) -> None:
        """Adds a reading at the end; one that is not newer than the last is passed over."""
        if self.times and time <= self.times[-1]:
            return
        for name in row:
            if name not in self.fields:
                self.fields[name] = array("d", [NAN]) * len(self.times)
        self.times.append(time)
        for name, column in self.fields.items():
            value = row.get(name)
            column.append(NAN if value is None else value)
        if len(self.times) > LIMIT + 60:
            excess = len(self.times) - LIMIT
            for kept in (self.times, *self.fields.values()):
                del kept[:excess]

    def column(self, name: str) -> "array[float]":
        """The values of a field, empty when it was never seen."""
        return self.fields.get(name, array("d"))

    def any_over(self, name: str, least: float) -> bool:
        """Whether a field was ever above ``least``."""
        return any(value > least for value in self.column(name))


def across(
    columns: Sequence[tuple[Sequence[float], Sequence[float]]], combine: Callable[[list[float]], float]
) -> list[float]:
    """Combines several routes' (times, values) second by second over the last fifteen minutes."""
    end = max((times[-1] for times, _ in columns if len(times)), default=None)
    if end is None:
        return []
    slots: list[list[float]] = [[] for _ in range(HISTORY)]
    for times, values in columns:
        for at in range(max(0, len(values) - HISTORY), len(values)):
            slot = HISTORY - 1 - round(end - times[at])
            if slot >= 0 and not isnan(values[at]):
                slots[slot].append(values[at])
    combined = [combine(slot) if slot else NAN for slot in slots]
    first = next((at for at, value in enumerate(combined) if not isnan(value)), HISTORY)
    return combined[first:]


class SeriesStore(QObject):
    """History of the machine (source ``hardware``) and of each route (``route:NAME``).

    `apply` takes the live readings from the event stream; `fill` puts fetched history under them.
    """

    changed = Signal(str)
    """The source that grew."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._columns: dict[str, Columns] = {}

    def of(self, source: str) -> Columns:
        return self._columns.setdefault(source, Columns())

    def apply(self, event: Event) -> None:
        if event.name == "change":
            message = msgspec.json.decode(event.data)
            if message["value"] is not None:
                self._apply(message["kind"], message["key"], message["value"])
        elif event.name == "snapshot":
            state = msgspec.json.decode(event.data)["state"]
            for kind in ("hardware", "metrics"):
                for key, value in state.get(kind, {}).items():
                    self._apply(kind, key, value)

    def _apply(self, kind: str, key: str, value: Any) -> None:
        if kind == "hardware":
            self._append("hardware", Hardware, hardware_row, [value])
        elif kind == "metrics":
            self._append(f"route:{key}", RouteSample, route_row, [value])

    def fill(self, source: str, items: list[Any]) -> None:
        """``items``: what `/manage/v1/timeseries` answered, oldest first. Live readings newer than it are kept."""
        live = self._columns.get(source)
        self._columns[source] = Columns()
        if source == "hardware":
            self._append(source, Hardware, hardware_row, items, quiet=True)
        else:
            self._append(source, RouteSample, route_row, items, quiet=True)
        if live is not None:
            fresh = self._columns[source]
            for index, time in enumerate(live.times):
                fresh.append(time, {name: column[index] for name, column in live.fields.items()})
        self.changed.emit(source)

    def _append(
        self, source: str, cls: type, row: Callable[[Any], dict[str, float | None]], items: Iterable[Any],
        *, quiet: bool = False,
    ) -> None:  # fmt: skip
        columns = self.of(source)
        for item in items:
            sample: Any = msgspec.convert(item, cls)
            time = parse_time(sample.time)
            if time is not None:
                columns.append(time, row(sample))
        if not quiet:
            self.changed.emit(source)
