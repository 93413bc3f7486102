"""What a chart draws, as numbers: ticks, buckets, segments. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isnan, log10

from ui import format


@dataclass(frozen=True)
class Scale:
    """Maps a time (s) and a value to pixels inside the plot's rectangle; the y axis starts at zero."""

    left: float
    top: float
    width: float
    height: float
    start: float
    end: float
    maximum: float

    def x(self, time: float) -> float:
        return self.left + (time - self.start) / (self.end - self.start) * self.width

    def y(self, value: float) -> float:
        return self.top + self.height * (1 - value / self.maximum)

    def time(self, x: float) -> float:
        return self.start + (x - self.left) / self.width * (self.end - self.start)


def nice_ticks(maximum: float, count: int = 5) -> list[float]:
    """From zero to at least ``maximum`` in at most ``count`` round numbers (1, 2, 2.5, 5 × 10ⁿ apart)."""
    if not maximum > 0:
        maximum = 1.0
    raw = maximum / (count - 1)
    power = 10.0 ** floor(log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return [index * step for index in range(ceil(maximum / step - 1e-9) + 1)]


def byte_ticks(maximum: float, count: int = 5) -> list[float]:
    """As `nice_ticks`, round in the unit in which `format.size` will write them."""
    scale = 1000.0 ** floor(log10(maximum) / 3) if maximum > 1 else 1.0
    return [tick * scale for tick in nice_ticks(maximum / scale, count)]


TIME_STEPS = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)


def time_ticks(start: float, end: float, count: int) -> list[float]:
    """Round moments between two times, at most ``count``."""
    wanted = (end - start) / max(1, count)
    step = next((step for step in TIME_STEPS if step >= wanted), TIME_STEPS[-1])
    first = ceil(start / step) * step
    return [first + index * step for index in range(int((end - first) // step) + 1)]


def bucket_s(span_s: float, width_px: float) -> float:
    """Seconds averaged into one point, so that there is about one point for every two pixels. Buckets are aligned
    to the clock: as time passes the line moves and no point of it changes but the last."""
    wanted = span_s / max(1.0, width_px / 2)
    return float(next((size for size in (1, 2, 5, 10, 20, 30, 60) if size >= wanted), 120))


def segments(
    times: Sequence[float], values: Sequence[float], start: float, end: float, bucket: float
) -> list[list[tuple[float, float]]]:
    """Runs of (time, mean) points within [start, end]. A reading that is missing (`nan`), or more than two and a
    half buckets (at least 3.5 s) without one, ends a run."""
    runs: list[list[tuple[float, float]]] = []
    run: list[tuple[float, float]] = []
    gap = max(2.5 * bucket, 3.5)
    slot, total, count, last = 0, 0.0, 0, 0.0

    def flush() -> None:
        nonlocal total, count
        if count:
            point = (last if bucket <= 1 else (slot + 0.5) * bucket, total / count)
            if run and point[0] - run[-1][0] > gap:
                runs.append(run.copy())
                run.clear()
            run.append(point)
        total, count = 0.0, 0

    for index in range(max(0, first_after(times, start) - 1), len(times)):
        time = times[index]
        if time > end:
            break
        value = values[index]
        if isnan(value):
            continue
        here = floor(time / bucket)
        if here != slot:
            flush()
            slot = here
        total, count, last = total + value, count + 1, time
    flush()
    if run:
        runs.append(run)
    return runs


def first_after(times: Sequence[float], moment: float) -> int:
    """The index of the first time that is not before ``moment``."""
    low, high = 0, len(times)
    while low < high:
        middle = (low + high) // 2
        if times[middle] < moment:
            low = middle + 1
        else:
            high = middle
    return low


def value_at(times: Sequence[float], values: Sequence[float], moment: float, within_s: float = 3.0) -> float | None:
    """The reading nearest to a moment, or `None` where there is none within ``within_s``."""
    index = first_after(times, moment)
    best: float | None = None
    distance = within_s
    for at in (index - 1, index):
        if 0 <= at < len(values) and abs(times[at] - moment) <= distance and not isnan(values[at]):
            best, distance = values[at], abs(times[at] - moment)
    return best


def tick_text(value: float, unit: str) -> str:
    """``16 ms``, ``100 %``, ``12 GB`` (unit ``B``), ``1,200``."""
    if unit == "B":
        return format.size(value) if value else "0"
    if unit == "share":
        return format.number(value, 2) if 0 < value < 1 else format.number(value, 0)
    if unit == "ms" and not value:
        return "0"
    if unit == "ms" and value >= 1000:
        value, unit = value / 1000, "s"
    digits = 0 if value == round(value) else 1 if round(value, 1) == round(value, 3) else 2
    text = format.number(value, digits)
    return f"{text} {unit}" if unit in {"ms", "s", "%", "°C", "W"} else text


def value_text(value: float | None, unit: str) -> str:
    """The current value of a line, as its legend says it."""
    if value is None or isnan(value):
        return format.NONE
    if unit == "B":
        return format.size(value)
    if unit == "ms":
        return format.milliseconds(value)
    if unit == "share":
        return format.number(value, 3)
    if unit == "%":
        return f"{format.number(value, 0)} %"
    return f"{format.number(value)} {unit}".strip()
