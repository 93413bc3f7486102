"""What a source answers: which bytes to fetch and how they become files. Values only; the transfer is the job's."""

from typing import Any

import msgspec

from app.registry.catalog import Entry, Labels, PackagedFile


class Wanted(msgspec.Struct, frozen=True):
    """One source to try for a reference, before anything was asked of it."""

    ref: str
    sha256: str | None = None
    files: list[PackagedFile] = []


class Request(msgspec.Struct, frozen=True):
    """A parsed reference: what it will be called here and where to look, in order of preference."""

    ref: str
    name: str
    sources: list[Wanted]
    """Empty: it came with the program."""
    entry: Entry | None = None


class Remote(msgspec.Struct, frozen=True):
    """A file to fetch; ``url`` may also be a ``file:`` address."""

    url: str
    name: str
    """For messages."""
    size_bytes: int | None = None
    sha256: str | None = None
    hub: bool = False
    """Send the hub's token, which is never written down."""


class Part(msgspec.Struct, frozen=True):
    remote: int
    """Index into `Plan.remotes`."""
    member: str | None = None
    """A member of the zip archive; `None` is the whole file."""


class Output(msgspec.Struct, frozen=True):
    """A file of the model: its parts, joined."""

    path: str
    parts: list[Part]
    size_bytes: int | None = None
    sha256: str | None = None


class Plan(msgspec.Struct, frozen=True):
    """All that is needed to make a version, pinned to one revision. Can be kept and resumed from."""

    source: str
    """The pinned reference, kept with the version."""
    remotes: list[Remote]
    outputs: list[Output]
    """The first is the model."""
    task: str | None = None
    format: str | None = None
    """`None`: told from the file."""
    precision: str | None = None
    licence: str = ""
    description: str = ""
    labels: Labels | None = None
    metadata: dict[str, Any] = {}
    card: dict[str, Any] | None = None
    """What lay beside the model about it: see `engines.card`."""
