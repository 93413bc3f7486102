"""Where the time of one answer went, as the daemon tells it in `Server-Timing`. Pure."""

import re
from collections.abc import Mapping, Sequence

from ui import format

Part = tuple[str, float, str]
"""Name, milliseconds, colour."""
PARTS = (("queue", "queue and batch", "series_1"), ("input", "preparing", "series_2"), ("compute", "model", "series_3"))
STEP_COLORS = ("series_3", "series_1", "series_2", "series_4")


def server_timing(header: str) -> dict[str, float]:
    """``queue;dur=0.1, compute;dur=2`` as milliseconds by name."""
    found = {}
    for entry in header.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            try:
                if key == "dur":
                    found[name] = float(value)
            except ValueError:
                continue
    return found


def was_cached(headers: Mapping[str, str]) -> bool | None:
    """`None` where the deployment keeps no answers."""
    return {"hit": True, "miss": False}.get(headers.get("x-cache", ""))


def parts(headers: Mapping[str, str], total_ms: float, steps: Sequence[str] = ()) -> list[Part]:
    """What an answer's ``total_ms`` consists of; ``steps`` are the names of a pipeline's. What is left over after them
    is the way there and back. Empty where the daemon told nothing."""
    told = server_timing(headers.get("server-timing", ""))
    if not told or was_cached(headers):
        return []
    if steps:  # steps may run at the same time: they are told one by one, and need not add up
        return [
            (name, told[_token(name)], STEP_COLORS[at % len(STEP_COLORS)])
            for at, name in enumerate(steps)
            if _token(name) in told
        ]
    known = [(word, told[key], color) for key, word, color in PARTS if key in told]
    left = total_ms - sum(value for _, value, _ in known)
    return [*known, ("there and back", max(0.0, left), "faint")]


def _token(name: str) -> str:
    """As the daemon writes it: what may not be in a name there is an underscore."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def sentence(headers: Mapping[str, str], total_ms: float) -> str:
    """``4.1 ms · from the cache``"""
    cached = was_cached(headers)
    where = "" if cached is None else "from the cache" if cached else "not cached"
    return format.joined(format.milliseconds(total_ms), where)
