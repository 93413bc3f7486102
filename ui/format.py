"""Numbers in words: pure, and short enough for a table."""

from datetime import UTC, datetime
from math import isnan

NONE = "–"


def number(value: float | None, digits: int | None = None) -> str:
    """About three significant figures, with thousands separated; `–` for `None`."""
    if value is None or isnan(value):
        return NONE
    if digits is None:
        size = abs(value)
        digits = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2
    return f"{value:,.{digits}f}"


def size(value_bytes: float | None) -> str:
    """Decimal units, as disks and models are sold by."""
    if value_bytes is None:
        return NONE
    if value_bytes < 1000:
        return f"{value_bytes:.0f} B"
    for unit, scale in (("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)):
        scaled = value_bytes / scale
        if scaled < 999.5 or unit == "TB":
            whole = scaled >= 99.5 or unit == "KB" or (unit == "MB" and scaled >= 9.95)
            return f"{scaled:.0f} {unit}" if whole else f"{scaled:.1f} {unit}"
    raise AssertionError("unreachable")


def size_of(part_bytes: float | None, whole_bytes: float | None) -> str:
    """``3.1 of 5.0 GB``, both in the unit of the whole."""
    if part_bytes is None or whole_bytes is None:
        return size(part_bytes)
    unit = size(whole_bytes).split()[-1]
    scale = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    digits = 0 if unit in {"B", "KB"} or whole_bytes / scale >= 99.5 else 1
    return f"{part_bytes / scale:.{digits}f} of {whole_bytes / scale:.{digits}f} {unit}"


def milliseconds(value_ms: float | None) -> str:
    if value_ms is None or isnan(value_ms):
        return NONE
    if value_ms >= 1000:
        return f"{value_ms / 1000:.1f} s"
    return f"{number(value_ms)} ms"


def duration(seconds: float | None) -> str:
    """``46 s``, ``2 min``, ``3 h 5 min``, ``6 d``."""
    if seconds is None:
        return NONE
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 36:
        return f"{hours} h {minutes} min" if minutes and hours < 10 else f"{hours} h"
    return f"{round(hours / 24)} d"


def age(seconds: float) -> str:
    """In one unit: ``46 s``, ``12 min``, ``3 h``, ``6 d``."""
    for unit, size_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size_s:
            return f"{seconds // size_s:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def parse_time(text: str) -> float | None:
    """An RFC 3339 time as seconds since the epoch."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def clock(seconds: float, *, with_seconds: bool = False) -> str:
    """Local time of day."""
    return datetime.fromtimestamp(seconds).strftime("%H:%M:%S" if with_seconds else "%H:%M")


def since(text: str, now: float) -> str:
    """``since 14:20`` today, ``since 12 Mar`` earlier; empty when not known."""
    moment = parse_time(text)
    if moment is None:
        return ""
    if now - moment < 20 * 3600:
        return f"since {clock(moment)}"
    day = datetime.fromtimestamp(moment)
    return f"since {day.day} {day:%b}"


def plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def joined(*parts: str) -> str:
    """Parts that say something, separated by middle dots."""
    return " · ".join(part for part in parts if part and part != NONE)
