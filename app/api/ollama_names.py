"""What Ollama's users call a model, and what it is here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import InvalidInput, RouteNotFound
from app.registry.formats import LORA, PROJECTOR
from app.registry.registry import Registry
from app.schema.manage import Model, Version

#: Formats of language models. A file of the echo engine says only once it is loaded what it is.
FORMATS = ("gguf", "echo")
_LATEST = ":latest"
_SCHEMES = ("hf", "pypi", "http", "https", "file", "ollama")
#: First labels of the hosts under which Ollama's users name models of the hub.
_HUBS = ("hf", "huggingface")


@dataclass(frozen=True)
class Name:
    """``spoken`` is what the data plane knows: the route, or ``ROUTE:ADAPTER``. ``model`` is what to deploy as
    ``route`` where nothing is."""

    route: str
    spoken: str
    model: str


def reference(name: str) -> str:
    """What `pull` takes for ``name``: a reference as it is, a model of the hub as Ollama names it
    (``HOST/ORG/REPO:Q4_K_M``), or a name of the catalogue with or without ``:latest``. Raises `InvalidInput`."""
    if not name:
        raise InvalidInput("model is required", field="model")
    if name.partition(":")[0] in _SCHEMES:
        return name
    host, _, path = name.removesuffix(_LATEST).partition("/")
    if path.count("/") == 1 and host.partition(".")[0].lower() in _HUBS:
        return f"hf:{path}"
    return name.removesuffix(_LATEST)


def speaks(model: Model, version: Version) -> bool:
    """Whether this may be a language model."""
    return version.format in FORMATS and model.task not in (LORA, PROJECTOR)


def resolve(name: str, routes: Mapping[str, Any], registry: Registry) -> Name:
    """The deployment that ``name`` means, else the language model of the registry. Raises `InvalidInput`,
    `RouteNotFound`."""
    wanted = reference(name)
    for route in (name, name.partition(":")[0]):
        if route in routes:
            return Name(route, name, routes[route].model)
    models = {model.name: model for model in registry.models()}
    found = models.get(wanted)
    if found is None:
        pulled = (m for m in models.values() if m.versions[-1].metadata.get("requested") == wanted)
        found = next(pulled, None)
    if found is None:
        raise RouteNotFound(f'model "{name}" not found', hint="try pulling it first", field="model")
    if not speaks(found, found.versions[-1]):
        raise InvalidInput(f'"{name}" is not a language model', hint="see /v2/models", field="model")
    return Name(found.name, found.name, found.name)
