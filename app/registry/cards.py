"""Cards: what is declared about a version. Checked, completed and told apart from the rest of a file. Pure."""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from app.errors import InvalidInput
from app.schema.manage import Version
from engines.card import (
    Argmax,
    Card,
    ClsPool,
    Labels,
    LastPool,
    MeanPool,
    Nms,
    NormalizeL2,
    Regression,
    Softmax,
    TokenizeText,
    TopK,
    answer_names,
)

#: What a ``card.json`` beside a model may say that has a column of its own in the registry.
COLUMNS = frozenset({"task", "licence", "description", "precision"})
#: What it may say that the file itself knows better.
TOLD_BY_FILE = frozenset({"name", "format", "digest", "size_bytes"})
FIELDS = frozenset(Card.__struct_fields__)
_ENCODER = msgspec.json.Encoder(order="deterministic")


def check(given: Any, where: str = "card") -> Card:
    """The card that ``given`` (plain values of JSON) is. Raises `InvalidInput` that names the field."""
    try:
        return msgspec.convert(given, Card)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        field = where + path.rstrip("`")
        raise InvalidInput(f"{field}: {reason}", hint="docs/cards.md lists what a card may say", field=field) from None


def of(version: Version) -> Card:
    """The card of ``version``; class names that came with its source stand in for those that no card gives.

    Raises `InvalidInput` for one that an earlier program has written and this one cannot read.
    """
    card = check(version.card)
    return card if card.labels else msgspec.structs.replace(card, labels=labels_of(version))


def labels_of(version: Version) -> list[str]:
    """Class names: the card's, or those that came with its source."""
    return [str(name) for name in version.card.get("labels") or version.metadata.get("labels") or ()]


def identity(version: Version) -> str:
    """``sha256:…`` of all that decides what ``version`` answers: its files and its card."""
    if not version.card and len(version.files) == 1:
        return version.digest
    told = _ENCODER.encode([sorted((file.path, file.digest) for file in version.files), version.card])
    return f"sha256:{hashlib.sha256(told).hexdigest()}"


def whole(value: Any) -> Any:
    """``value`` (a card, or a part of one) as plain values, with every default written out."""
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        tag = {config.tag_field: config.tag} if config.tag_field else {}
        return tag | {name: whole(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {key: whole(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [whole(entry) for entry in value]
    return msgspec.to_builtins(value)


def split(document: Any, where: str) -> tuple[Card, dict[str, Any]]:
    """A ``card.json`` apart: the card, and what else it says about the model. Raises `InvalidInput`."""
    if not isinstance(document, dict):
        raise InvalidInput(f"{where}: expected an object", field=where)
    said = {key: value for key, value in document.items() if key in FIELDS}
    more = {key: value for key, value in document.items() if key not in FIELDS and key not in TOLD_BY_FILE}
    for key in more.keys() - COLUMNS:
        if near := difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.75):
            raise InvalidInput(f"{where}: {key} is unknown", hint=f"did you mean {near[0]}?", field=where)
    for key in more.keys() & COLUMNS:
        if not isinstance(more[key], str):
            raise InvalidInput(f"{where}.{key}: expected a text", field=f"{where}.{key}")
    return check(said, where), more


def labels(content: bytes, where: str) -> list[str]:
    """Class names of a file: one a line; or JSON, a list or an object from index to name (also under ``id2label``, as
    a model's ``config.json`` has it). Raises `InvalidInput`."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput(f"{where} is not text in UTF-8", field="labels") from None
    if text.lstrip()[:1] not in ("[", "{"):
        return text.removesuffix("\n").splitlines()
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            found = found.get("id2label", found)
            found = [found[str(index)] for index in range(len(found))]
        if not all(isinstance(name, str) for name in found):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidInput(
            f"{where} holds no class names",
            hint="one a line; or JSON: a list of texts, or an object from index to name",
            field="labels",
        ) from None
    return list(found)


def files(card: Card) -> Iterator[tuple[str, str]]:
    """(field of the card, file beside the model) of every step that reads one."""
    for index, step in enumerate(card.before):
        if isinstance(step, TokenizeText):
            yield f"card.before[{index}].file", step.file


def task(card: Card) -> str:
    """What a model with these steps is for; empty where they do not tell."""
    kinds = {type(step) for step in card.after}
    if kinds & {MeanPool, ClsPool, LastPool, NormalizeL2} or "embedding" in answer_names(card):
        return "embedding"
    if Nms in kinds:
        return "object-detection"
    item = {"row": "tabular", "file": "file", "": ""}.get(card.item, card.item)
    if Regression in kinds:
        return f"{item}-regression" if item else "regression"
    if kinds & {TopK, Softmax, Argmax, Labels}:
        return f"{item}-classification" if item else "classification"
    pairs = any(isinstance(step, TokenizeText) and step.pairs for step in card.before)
    return "rerank" if pairs else ""
