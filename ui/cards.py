"""What is declared about a model, its card, in words; and the files that declare it. Pure."""

import difflib
import json
from collections.abc import Callable, Sequence
from typing import Any

from ui import format

Card = dict[str, Any]
ITEMS = {
    "text": "a text", "image": "a picture", "audio": "a sound", "row": "a row of a table", "file": "any file",
}  # fmt: skip
#: Class names that are shown before the rest are counted.
MOST_LABELS = 6
FIELDS = ("labels", "units", "padding", "states", "item", "before", "after")


def _size(step: Card) -> str:
    width, height = step.get("width") or step.get("size") or 0, step.get("height") or step.get("size") or 0
    return f"{width}×{height}"


def _resize(step: Card) -> str:
    mode = step.get("mode", "stretch")
    if mode == "shorter":
        return f"shorter side to {step.get('size', 0)}"
    return f"{'letterboxed' if mode == 'letterbox' else 'resized'} to {_size(step)}"


def _tokenize(step: Card) -> str:
    most = f", at most {step['max_tokens']:,}" if step.get("max_tokens") else ""
    return f"{'two texts cut' if step.get('pairs') else 'cut'} into tokens{most}"


def _audio(step: Card) -> str:
    rate = step.get("rate", 16000)
    return f"sound at {format.number(rate / 1000)} kHz" if rate else "sound as it comes"


def _columns(step: Card) -> str:
    names = [str(column.get("name", "")) for column in step.get("columns", ())]
    return format.plural(len(names), "column")


def _top_k(step: Card) -> str:
    k = step.get("k", 5)
    return f"best {k} classes" if k else "all classes, best first"


WORDS: dict[str, Callable[[Card], str]] = {
    "decode_image": lambda step: "grey picture" if step.get("mode") == "L" else "colour picture",
    "resize": _resize,
    "crop": lambda step: f"cut to {_size(step)}",
    "layout": lambda step: "channels last" if step.get("to") == "HWC" else "channels first",
    "normalize": lambda step: "scaled",
    "cast": lambda step: str(step.get("datatype", "FP32")),
    "reshape": lambda step: f"shaped [{', '.join(map(str, step.get('shape', (-1,))))}]",
    "length": lambda step: f"{step.get('size', 1):,} long",
    "constant": lambda step: f"{step.get('output', 'constant')} = {step.get('value', 0)}",
    "tokenize": _tokenize,
    "decode_audio": _audio,
    "frame": lambda step: f"frames of {step.get('size', 512):,}",
    "mel_spectrogram": lambda step: f"{step.get('mels', 80)} mel bands",
    "columns": _columns,
    "bytes": lambda step: f"{step.get('begin', 0) + step.get('middle', 0) + step.get('end', 0):,} bytes of it",
    "select": lambda step: f"part of {step['input']}" if step.get("input") else "a part of it",
    "transpose": lambda step: "axes in another order",
    "softmax": lambda step: "shares of the classes",
    "sigmoid": lambda step: "0 to 1",
    "top_k": _top_k,
    "argmax": lambda step: "the largest",
    "threshold": lambda step: f"at least {format.number(step.get('minimum', 0.5))}",
    "labels": lambda step: "its name",
    "mean_pool": lambda step: "mean of the tokens",
    "cls_pool": lambda step: "first token",
    "last_pool": lambda step: "last token",
    "normalize_l2": lambda step: "length 1",
    "regression": lambda step: f"a value{' in ' + step['unit'] if step.get('unit') else ''}",
    "nms": lambda step: "boxes without doubles",
}


def step_words(step: Card) -> str:
    name = str(step.get("step", ""))
    return WORDS[name](step) if name in WORDS else name.replace("_", " ")


def steps_words(steps: Sequence[Card]) -> str:
    """``grey picture → resized to 8×8 → scaled``"""
    return " → ".join(step_words(step) for step in steps)


def labels_words(labels: Sequence[str]) -> str:
    """``10 classes: 0, 1, 2, 3, 4, 5 …``"""
    if not labels:
        return ""
    shown = ", ".join(labels[:MOST_LABELS])
    return f"{format.plural(len(labels), 'class', 'classes')}: {shown}{' …' if len(labels) > MOST_LABELS else ''}"


def facts(card: Card) -> list[tuple[str, str]]:
    """Name and value of all that a card says."""
    return [
        ("Takes", ITEMS.get(str(card.get("item", "")), "")),
        ("Before", steps_words(card.get("before", ()))),
        ("After", steps_words(card.get("after", ()))),
        ("Labels", labels_words([str(name) for name in card.get("labels", ())])),
        ("Units", "\n".join(f"{name}: {unit}" for name, unit in card.get("units", {}).items())),
        ("Remembers", ", ".join(card.get("states", {}))),
        ("Pads", ", ".join(card.get("padding", {}))),
    ]


def text(card: Card) -> str:
    """JSON to read and to edit: a field a line, and of lists of steps a step a line."""
    lines = []
    for key, value in card.items():
        steps = isinstance(value, list) and value and isinstance(value[0], dict)
        entries = ",\n".join(f"    {json.dumps(entry, ensure_ascii=False)}" for entry in value) if steps else ""
        written = f"[\n{entries}\n  ]" if steps else json.dumps(value, ensure_ascii=False)
        lines.append(f"  {json.dumps(key)}: {written}")
    return "{\n" + ",\n".join(lines) + "\n}"


def read_card(text: str) -> tuple[Card, str]:
    """A ``card.json`` as it is sent, and the task that it may name. Raises `ValueError` with what is wrong."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"This is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise ValueError("A card is a JSON object.")
    for key in document.keys() - set(FIELDS):
        # What else lies in such a file, a name, a licence, is no matter of the card. A misspelt field is.
        if near := difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.75):
            raise ValueError(f"{key} is unknown. Is it {near[0]}?")
    return {key: document[key] for key in FIELDS if key in document}, str(document.get("task") or "")


def read_labels(text: str) -> list[str]:
    """Class names: one a line, or JSON: a list, or an object from index to name (also under ``id2label``). Raises
    `ValueError` with what is wrong."""
    if text.lstrip()[:1] not in {"[", "{"}:
        return text.removesuffix("\n").splitlines()
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            found = found.get("id2label", found)
            found = [found[str(index)] for index in range(len(found))]
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("Class names are one a line, or a JSON list of texts.") from None
    return found
