"""Which engine on which device for a model: a pure ranking, with a reason for each candidate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: Memory beside the weights: buffers of the engine and of the process itself.
OVERHEAD_BYTES = 100 << 20
#: format -> (engine, name for people)
ENGINES = {
    "onnx": ("onnxruntime", "ONNX Runtime"),
    "gguf": ("llamacpp", "llama.cpp"),
    "echo": ("echo", "the echo engine"),
}


@dataclass(frozen=True)
class Installed:
    """One engine in one runtime, as its probe found it. ``devices`` are kinds: ``cuda``, ``cpu``."""

    engine: str
    runtime: str
    version: str
    devices: Sequence[str]
    note: str = ""


@dataclass(frozen=True)
class Device:
    """``name`` is ``cpu`` or ``cuda:N``; ``free_bytes`` is `None` where it is not known."""

    name: str
    title: str
    free_bytes: int | None

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]


@dataclass(frozen=True)
class Candidate:
    engine: str
    runtime: str | None
    device: str
    usable: bool
    reason: str
    memory_bytes: int


def readable(size: float) -> str:
    """Decimal units, as disks and models are sold: ``253 MB``."""
    for unit in ("B", "kB", "MB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def rank(
    model_format: str,
    size_bytes: int,
    installed: Sequence[Installed],
    devices: Sequence[Device],
    *,
    engine: str = "auto",
    device: str = "auto",
    memory_bytes: Callable[[Device], int] | None = None,
) -> list[Candidate]:
    """Candidates, best first: usable before not, GPU before CPU, the runtime that came first before others.
    ``memory_bytes`` is what the model takes on a device, where more is known than the size of its file.

    Until measurements exist the order is a preference, and each reason says that it is one. ``engine`` and
    ``device`` other than ``auto`` leave only what was asked for. Empty: no engine here knows the format.
    """
    wanted = ENGINES.get(model_format)
    if wanted is None:
        return []
    name, title = wanted
    candidates = []
    for entry in installed:
        if entry.engine != name or engine not in ("auto", name, entry.runtime):
            continue
        for place in devices:
            if device not in ("auto", place.name, place.kind):
                continue
            need = (memory_bytes(place) if memory_bytes else size_bytes) + OVERHEAD_BYTES
            if place.kind not in entry.devices:
                why = entry.note or f"{title} {entry.version} in {entry.runtime} is built without {place.kind}"
                candidates.append(Candidate(name, entry.runtime, place.name, False, why, need))
            elif place.free_bytes is not None and need > place.free_bytes:
                why = f"needs about {readable(need)}, {place.title} has {readable(place.free_bytes)} free"
                candidates.append(Candidate(name, entry.runtime, place.name, False, why, need))
            else:
                why = f"{title} {entry.version} on {place.title}"
                if place.free_bytes is not None:
                    why += f", about {readable(place.free_bytes - need)} to spare"
                candidates.append(Candidate(name, entry.runtime, place.name, True, why, need))
    # sorted() is stable: within a class the runtime that came first stays first.
    return sorted(candidates, key=lambda c: (not c.usable, c.device == "cpu"))
