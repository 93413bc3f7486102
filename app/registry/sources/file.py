"""``file:PATH``: a model of this machine with what lies beside it, copied; the originals stay as they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import msgspec

from app.errors import InvalidInput
from app.registry import cards, external_data
from app.registry.names import check_path
from app.registry.sources.plan import Output, Part, Plan, Remote, Wanted
from engines.card import Card

#: Where ONNX keeps weights beyond 2 GB, whether or not the file still knows it.
_WEIGHTS = ("{name}_data", "{name}.data")
_TOKENIZER = "tokenizer.json"
#: Files with class names, for a card that has none.
_LABELS = ("labels.txt", "labels.json")
_MOST_CARD_BYTES = 16 << 20


def parse(ref: str) -> Path:
    """The path of ``file:PATH`` or ``file:///PATH``. Raises `InvalidInput` unless it is absolute."""
    text = ref.removeprefix("file:")
    path = Path(url2pathname(text.removeprefix("//")) if text.startswith("///") else text).expanduser()
    if not path.is_absolute():
        raise InvalidInput(
            f"{text!r} is not a whole path",
            hint="give it from the root or from ~; the daemon has another folder",
            field="ref",
        )
    return path


def plan(wanted: Wanted) -> Plan:
    """An ONNX model brings its external weights, its ``card.json``, tokenizer and class names along. Raises
    `InvalidInput` if there is no such file, or for a card that cannot be."""
    path = _model(parse(wanted.ref))
    card, more = _card(path) if path.suffix.lower() == ".onnx" else (None, {})
    files = {path.name: path} | {name: path.parent / name for name in _beside(path, card)}
    return Plan(
        source=wanted.ref,
        remotes=[Remote(file.as_uri(), file.name, file.stat().st_size) for file in files.values()],
        outputs=[
            Output(name, [Part(index)], sha256=wanted.sha256 if index == 0 else None)
            for index, name in enumerate(files)
        ],
        task=more.pop("task", None) or (cards.task(card) if card is not None else None) or None,
        precision=more.pop("precision", None),
        licence=more.pop("licence", ""),
        description=more.pop("description", ""),
        metadata=more,
        card=msgspec.to_builtins(card) if card is not None else None,
    )


def _model(path: Path) -> Path:
    """``path``, or the one model of the folder that it is."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise InvalidInput(f"{path} does not exist", hint="name a .gguf or .onnx file, or its folder", field="ref")
    found = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in (".onnx", ".gguf") and entry.is_file())
    chosen = [entry for entry in found if entry.name == "model.onnx"] or found
    if len(chosen) != 1:
        names = ", ".join(entry.name for entry in chosen) or "none"
        raise InvalidInput(f"{path} is a folder with several models or none", hint=f"name one: {names}", field="ref")
    return chosen[0]


def _card(model: Path) -> tuple[Card | None, dict[str, Any]]:
    """What ``STEM.card.json`` or ``card.json`` says, with the class names of a file of their own; `None`: neither is
    there."""
    found = [model.with_name(name) for name in (f"{model.stem}.card.json", "card.json")]
    path = next((file for file in found if file.is_file()), None)
    labels = next((model.with_name(name) for name in _LABELS if model.with_name(name).is_file()), None)
    if path is None and labels is None:
        return None, {}
    card = Card()
    more: dict[str, Any] = {}
    if path is not None:
        try:
            card, more = cards.split(msgspec.json.decode(_small(path)), path.name)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(f"{path} is not JSON: {error}", field="ref") from None
    if labels is not None and not card.labels:
        card = msgspec.structs.replace(card, labels=cards.labels(_small(labels), labels.name))
    return card, more


def _small(path: Path) -> bytes:
    if path.stat().st_size > _MOST_CARD_BYTES:
        raise InvalidInput(f"{path} is too large to be what its name says", field="ref")
    return path.read_bytes()


def _beside(model: Path, card: Card | None) -> Iterator[str]:
    """Names of the other files that belong to ``model``, in its folder or below."""
    if model.suffix.lower() != ".onnx":
        return
    for name in (*external_data.locations(model), *(name for _, name in cards.files(card or Card()))):
        if not (model.parent / check_path(name)).is_file():
            raise InvalidInput(f"{model} needs {name}, which is not beside it", field="ref")
        yield name
    perhaps = (*(pattern.format(name=model.name) for pattern in _WEIGHTS), _TOKENIZER)
    yield from (name for name in perhaps if model.with_name(name).is_file())
