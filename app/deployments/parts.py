"""The parts of a language model that come from elsewhere in the registry: LoRA adapters, projector, draft model."""

from typing import Any

import msgspec

from app.errors import InvalidInput, NotFound
from app.registry import cards
from app.registry.formats import LORA, PROJECTOR
from app.registry.names import check_name
from app.registry.registry import Registry
from app.schema.manage import DeploymentSpec, Version

_WORDS = {LORA: "a LoRA adapter", PROJECTOR: "a multimodal projector"}
#: ``ROUTE:latest`` is the model itself, as Ollama's clients name it.
_TAKEN = "latest"


def check(registry: Registry, spec: DeploymentSpec, version: Version) -> DeploymentSpec:
    """``spec`` with every reference pinned to a version. ``version`` is the model's own.

    Raises `InvalidInput` or `ModelNotFound` that names the field.
    """
    if part := version.metadata.get("part"):
        option = f"--adapter NAME={spec.model}" if part == LORA else f"--projector {spec.model}"
        raise InvalidInput(
            f"{spec.model} is {_WORDS[part]} and serves nothing alone",
            hint=f"pilothouse deploy MODEL {option}",
            field="model",
        )
    given = {"adapters": spec.adapters, "projector": spec.projector, "draft": spec.draft}
    if not any(given.values()):
        _check_speculative(spec)
        return spec
    if version.format not in ("gguf", "echo"):
        field = next(field for field, value in given.items() if value)
        raise InvalidInput(
            f"a {version.format} model takes no {field}", hint="only language models in GGUF do", field=field
        )
    pinned: dict[str, Any] = {
        "adapters": {
            _adapter_name(name): _pin(registry, reference, version, LORA, f"adapters.{name}")
            for name, reference in spec.adapters.items()
        }
    }
    if spec.projector:
        pinned["projector"] = _pin(registry, spec.projector, version, PROJECTOR, "projector")
    if spec.draft:
        pinned["draft"] = _pin(registry, spec.draft, version, None, "draft")
    _check_speculative(spec)
    return msgspec.structs.replace(spec, **pinned)


def _check_speculative(spec: DeploymentSpec) -> None:
    if spec.settings.get("speculative") == "draft" and not spec.draft:
        raise InvalidInput("there is no draft model", hint="name one: --draft MODEL", field="settings.speculative")


def _adapter_name(name: str) -> str:
    where = f"adapters.{name}"
    try:
        check_name(name)
    except InvalidInput as error:
        raise InvalidInput(f"{name!r} cannot be the name of an adapter", hint=error.hint, field=where) from None
    if name == _TAKEN:
        raise InvalidInput(f"{_TAKEN} means the model without an adapter", hint="choose another name", field=where)
    return name


def _pin(registry: Registry, reference: str, base: Version, part: str | None, field: str) -> str:
    """``NAME@VERSION`` of a reference to a file that is ``part`` (`None`: a whole model)."""
    try:
        model, version = registry.resolve(reference)
    except NotFound as error:
        raise type(error)(error.message, hint=error.hint, field=field) from None
    except InvalidInput as error:
        raise InvalidInput(error.message, hint=error.hint, field=field) from None
    pinned = f"{model.name}@{version.version}"
    if base.format == "echo":  # its files have no kind
        return pinned
    if version.format != base.format:
        raise InvalidInput(
            f"{pinned} is {version.format}, and the model is {base.format}", hint="they must agree", field=field
        )
    found = version.metadata.get("part")
    if found != part:
        wanted, is_ = _WORDS.get(part or "", "a model"), _WORDS.get(found or "", "a model")
        raise InvalidInput(
            f"{pinned} is {is_}, and {wanted} is needed here",
            hint="`pilothouse models` lists what is here",
            field=field,
        )
    made_for, architecture = version.metadata.get("architecture"), base.metadata.get("architecture")
    if part == LORA and made_for and architecture and made_for != architecture:
        raise InvalidInput(
            f"{pinned} is an adapter of a {made_for} model, and this is {architecture}",
            hint="use the adapter with the model that it was trained on",
            field=field,
        )
    return pinned


def references(spec: DeploymentSpec) -> list[str]:
    """``NAME@VERSION`` of everything from the registry that ``spec`` needs beside its model."""
    return [*spec.adapters.values(), *filter(None, (spec.projector, spec.draft))]


def digests(registry: Registry, spec: DeploymentSpec) -> dict[str, str]:
    """What each of `references` is, by its name in `engines.protocol.Load.files`. Raises `ModelNotFound`."""
    named = {f"adapter:{name}": reference for name, reference in spec.adapters.items()}
    named |= {name: reference for name in ("projector", "draft") if (reference := getattr(spec, name))}
    return {name: cards.identity(registry.resolve(reference)[1]) for name, reference in named.items()}


def files(registry: Registry, spec: DeploymentSpec) -> dict[str, str]:
    """The paths for `engines.protocol.Load.files`, of a spec that `check` has returned.

    Raises `ModelNotFound` and `ArtifactCorrupt` where something has gone since.
    """

    def path(reference: str) -> str:
        model, version = registry.resolve(reference)
        return str(registry.path(model.name, version.version))

    found = {f"adapter:{name}": path(reference) for name, reference in spec.adapters.items()}
    if spec.projector:
        found["projector"] = path(spec.projector)
    elif spec.projector is None:
        model, version = registry.resolve(f"{spec.model}@{spec.version}")
        if beside := registry.part(model.name, version.version, "mmproj"):
            found["projector"] = str(beside)
    if spec.draft:
        found["draft"] = path(spec.draft)
    return found
