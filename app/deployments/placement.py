"""Where a model runs: a pure decision, stored with the deployment and shown to the user as a sentence."""

from collections.abc import Sequence

from app.errors import EngineUnavailable, InsufficientMemory, InvalidInput
from app.schema.manage import Candidate, Decision, Hardware
from engines import selection
from engines.selection import Device, Installed

#: engine -> the runtime that brings it on the CPU, and with CUDA
RUNTIMES = {"onnxruntime": ("onnxruntime-cpu", "onnxruntime-cuda"), "llamacpp": ("llamacpp-cpu", "llamacpp-cuda")}


def devices(hardware: Hardware) -> list[Device]:
    places = [
        Device(
            f"cuda:{gpu.index}",
            f"GPU {gpu.index} ({gpu.name})",
            None
            if gpu.memory_total_bytes is None or gpu.memory_used_bytes is None
            else gpu.memory_total_bytes - gpu.memory_used_bytes,
        )
        for gpu in hardware.gpus
    ]
    return [*places, Device("cpu", "the CPU", hardware.memory_total_bytes - hardware.memory_used_bytes)]


def decide(
    model_format: str,
    size_bytes: int,
    installed: Sequence[Installed],
    hardware: Hardware,
    *,
    engine: str,
    device: str,
) -> tuple[Decision, selection.Candidate]:
    """The decision and the candidate it chose.

    Raises `InvalidInput` for an engine or device that cannot be, `EngineUnavailable` (``details.runtime`` names what
    to install) or `InsufficientMemory`.
    """
    if model_format not in selection.ENGINES:
        raise InvalidInput(f"no engine serves the format {model_format!r}", field="model")
    name, title = selection.ENGINES[model_format]
    places = devices(hardware)
    if engine not in ("auto", name, *RUNTIMES.get(name, ())):
        raise InvalidInput(
            f"a {model_format} model is served by {name}, not by {engine}",
            hint="leave engine at auto",
            field="engine",
        )
    if device != "auto" and not any(device in (place.name, place.kind) for place in places):
        there = ", ".join(place.name for place in places)
        raise InvalidInput(f"there is no device {device!r}", hint=f"this machine has: {there}", field="device")
    ranked = selection.rank(model_format, size_bytes, installed, places, engine=engine, device=device)
    chosen = next((candidate for candidate in ranked if candidate.usable), None)
    if chosen is None:
        raise _nothing(name, title, engine, device, ranked)
    others = len(ranked) - 1
    reason = f"{chosen.reason}: {_why(title, others, installed, name)}"
    return Decision(reason=reason, candidates=[_schema(candidate, candidate is chosen) for candidate in ranked]), chosen


def _why(title: str, others: int, installed: Sequence[Installed], name: str) -> str:
    if others == 0:
        return "the only engine and device here for this format"
    if sum(entry.engine == name for entry in installed) > 1:
        return "the first usable of the runtimes installed"
    return "GPU before CPU until both are measured"


def _nothing(
    name: str, title: str, engine: str, device: str, ranked: Sequence[selection.Candidate]
) -> EngineUnavailable | InsufficientMemory:
    cpu, cuda = RUNTIMES.get(name, ("", ""))
    wants_cuda = device.startswith("cuda") or engine == cuda
    runtime = cuda if wants_cuda else cpu
    if not ranked:
        return EngineUnavailable(
            f"{title} is not installed here",
            hint=f"pilothouse runtime install {runtime}",
            details={"runtime": runtime},
        )
    reasons = "; ".join(dict.fromkeys(candidate.reason for candidate in ranked))
    if any("needs about" in candidate.reason for candidate in ranked):
        return InsufficientMemory(reasons, hint="close other programs, or choose a smaller quantisation")
    return EngineUnavailable(
        reasons, hint=f"pilothouse runtime install {runtime}", details={"runtime": runtime} if wants_cuda else {}
    )


def _schema(candidate: selection.Candidate, chosen: bool) -> Candidate:
    return Candidate(
        engine=candidate.engine,
        device=candidate.device,
        runtime=candidate.runtime,
        chosen=chosen,
        usable=candidate.usable,
        estimated_memory_bytes=candidate.memory_bytes,
        reason=candidate.reason,
    )
