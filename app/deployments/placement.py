"""Where a model runs: a pure decision, stored with the deployment and shown to the user as a sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import EngineUnavailable, InsufficientMemory, InvalidInput
from app.schema.manage import Candidate, Decision, Hardware
from engines import selection
from engines.selection import Device, Installed

#: engine -> the runtime that brings it on the CPU, and with CUDA
RUNTIMES = {"onnxruntime": ("onnxruntime-cpu", "onnxruntime-cuda"), "llamacpp": ("llamacpp-cpu", "llamacpp-cuda")}

#: Bytes of one value in key-value memory: ggml's block sizes, of 32 values.
_CELL_BYTES = {
    "f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32, "q4_0": 18 / 32, "q4_1": 20 / 32, "q5_0": 22 / 32,
    "q5_1": 24 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip
_NOTHING: Mapping[str, int] = {}
#: What llama.cpp deployments do where nothing is set (`engines.llamacpp.settings`, which the app may not import).
SEQUENCES, CONTEXT_TOKENS, LEAST_CONTEXT_TOKENS, KV_SHARE = 8, 4096, 512, 0.5


@dataclass(frozen=True)
class Piece:
    """A file that is loaded: the model, or a part of it. ``metadata`` as `app.registry.formats` tells it."""

    size_bytes: int
    metadata: Mapping[str, Any]


def memory_bytes(pieces: Sequence[Piece], settings: Mapping[str, Any], place: Device) -> int:
    """An estimate of what a deployment takes on ``place``: weights, and the key-value memory of all sequences (for
    every layer as for one that attends to all of the context: sliding windows may take less)."""
    need = sum(piece.size_bytes + _kv_bytes(piece.metadata, settings, place.free_bytes) for piece in pieces)
    layers, on_gpu = pieces[0].metadata.get("layers"), settings.get("gpu_layers", -1)
    if place.kind != "cpu" and layers and 0 <= on_gpu <= layers:
        need = need * on_gpu // (layers + 1)  # the output counts as one more
    return need


def _kv_bytes(metadata: Mapping[str, Any], settings: Mapping[str, Any], free_bytes: int | None) -> int:
    keys, values = metadata.get("kv_values_per_token") or (0, 0)
    cell_bytes = keys * _CELL_BYTES[settings.get("cache_type_k", "f16")]
    cell_bytes += values * _CELL_BYTES[settings.get("cache_type_v", "f16")]
    if kv_tokens := settings.get("kv_tokens"):
        return int(kv_tokens * cell_bytes)
    sequence_bytes = settings.get("sequences", SEQUENCES) * cell_bytes
    trained = metadata.get("context_tokens") or CONTEXT_TOKENS
    if context := settings.get("context_tokens"):
        return int(min(context, trained) * sequence_bytes)
    context = CONTEXT_TOKENS
    while free_bytes and context > LEAST_CONTEXT_TOKENS and context * sequence_bytes > free_bytes * KV_SHARE:
        context //= 2
    return int(min(context, trained) * sequence_bytes)


def devices(hardware: Hardware, returned_bytes: Mapping[str, int] = _NOTHING) -> list[Device]:
    """``returned_bytes``, by device, is what will be free besides."""
    places = [
        Device(
            name := f"cuda:{gpu.index}",
            f"GPU {gpu.index} ({gpu.name})",
            None
            if gpu.memory_total_bytes is None or gpu.memory_used_bytes is None
            else gpu.memory_total_bytes - gpu.memory_used_bytes + returned_bytes.get(name, 0),
        )
        for gpu in hardware.gpus
    ]
    free_bytes = hardware.memory_total_bytes - hardware.memory_used_bytes + returned_bytes.get("cpu", 0)
    return [*places, Device("cpu", "the CPU", free_bytes)]


def fit(chosen: Sequence[selection.Candidate], replicas: int, hardware: Hardware) -> bool:
    """Whether ``replicas``, dealt to ``chosen`` in turn, find room in what is free now."""
    free = {place.name: place.free_bytes for place in devices(hardware)}
    need: dict[str, int] = {}
    for n in range(replicas):
        candidate = chosen[n % len(chosen)]
        need[candidate.device] = need.get(candidate.device, 0) + candidate.memory_bytes
    return all((room := free.get(device)) is None or size <= room for device, size in need.items())


def decide_each(
    model_format: str,
    pieces: Sequence[Piece],
    settings: Mapping[str, Any],
    installed: Sequence[Installed],
    hardware: Hardware,
    *,
    engine: str,
    device: str,
    returned_bytes: Mapping[str, int] = _NOTHING,
) -> tuple[Decision, list[selection.Candidate]]:
    """As `decide`, for a ``device`` that may name several with commas: the one decision, and a candidate for each."""
    names = list(dict.fromkeys(name.strip() for name in device.split(",")))
    if len(names) > 1 and "auto" in names:
        raise InvalidInput("auto is one device that is chosen", hint="name each device: cuda:0,cuda:1", field="device")
    made = [
        decide(
            model_format,
            pieces,
            settings,
            installed,
            hardware,
            engine=engine,
            device=name,
            returned_bytes=returned_bytes,
        )
        for name in names
    ]
    if len(made) == 1:
        return made[0][0], [made[0][1]]
    return (
        Decision(
            reason=f"one queue for {len(made)} devices: " + "; ".join(chosen.reason for _, chosen in made),
            candidates=[candidate for decision, _ in made for candidate in decision.candidates],
        ),
        [chosen for _, chosen in made],
    )


def decide(
    model_format: str,
    pieces: Sequence[Piece],
    settings: Mapping[str, Any],
    installed: Sequence[Installed],
    hardware: Hardware,
    *,
    engine: str,
    device: str,
    returned_bytes: Mapping[str, int] = _NOTHING,
) -> tuple[Decision, selection.Candidate]:
    """The decision for a model of ``pieces``, itself the first, and the candidate that was chosen.

    Raises `InvalidInput` for an engine or device that cannot be, `EngineUnavailable` (``details.runtime`` names what
    to install) or `InsufficientMemory`.
    """
    if model_format not in selection.ENGINES:
        raise InvalidInput(f"no engine serves the format {model_format!r}", field="model")
    name, title = selection.ENGINES[model_format]
    places = devices(hardware, returned_bytes)
    if engine not in ("auto", name, *RUNTIMES.get(name, ())):
        raise InvalidInput(
            f"a {model_format} model is served by {name}, not by {engine}",
            hint="leave engine at auto",
            field="engine",
        )
    if device != "auto" and not any(device in (place.name, place.kind) for place in places):
        there = ", ".join(place.name for place in places)
        raise InvalidInput(f"there is no device {device!r}", hint=f"this machine has: {there}", field="device")
    ranked = selection.rank(
        model_format,
        pieces[0].size_bytes,
        installed,
        places,
        engine=engine,
        device=device,
        memory_bytes=lambda place: memory_bytes(pieces, settings, place),
    )
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
        return InsufficientMemory(
            reasons, hint="close other programs, choose a smaller quantisation, or lower context_tokens or sequences"
        )
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
