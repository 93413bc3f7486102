"""What a model with declared steps is asked with, a text, a picture, a row, and what its answer says. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import Any

from ui.tensors import FLOATS, read_answer

#: The tensor of `/v2` that carries items.
ITEM = "item"
#: How the ways to ask are called.
KINDS = {"text": "Text", "image": "Picture", "audio": "Sound", "row": "Row", "file": "File"}
MOST_CLASSES = 5
NUMBERS = FLOATS | {"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"}

Card = dict[str, Any]


def kind(card: Card) -> str:
    """``text``, ``image``, ``audio``, ``row`` or ``file``; empty where there are only tensors."""
    found = str(card.get("item", ""))
    return found if found in KINDS else ""


def pairs(card: Card) -> bool:
    """Whether one item is two texts."""
    return any(step.get("step") == "tokenize" and step.get("pairs") for step in card.get("before", ()))


def columns(card: Card) -> list[dict[str, Any]]:
    """Of a row: ``name``, ``type``, ``categories``, ``missing`` and more of each."""
    for step in card.get("before", ()):
        if step.get("step") == "columns":
            return list(step.get("columns", ()))
    return []


def unit(card: Card) -> str:
    """Of the number that a regression answers with."""
    units = [str(step.get("unit", "")) for step in card.get("after", ()) if step.get("step") == "regression"]
    return next((found for found in units if found), "")


def infer_body(item: bytes) -> tuple[bytes, int]:
    """One item as `/v2/…/infer` takes it in binary, and the length of the JSON before it."""
    size = len(item) + 4
    tensor = {"name": ITEM, "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}}
    header = json.dumps({"inputs": [tensor]}).encode()
    return header + len(item).to_bytes(4, "little") + item, len(header)


@dataclass(frozen=True)
class Box:
    """In pixels of the picture that was sent."""

    label: str
    score: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class ItemAnswer:
    """For one item; what its answer does not have is empty."""

    classes: list[tuple[str, float | None]] = field(default_factory=list)
    """Best first; `None`: a label without a score."""
    class_count: int = 0
    embedding: list[float] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    has_boxes: bool = False
    values: list[tuple[str, float]] = field(default_factory=list)
    """Single numbers."""
    series: list[tuple[str, list[float]]] = field(default_factory=list)
    """Rows of numbers: a value for each moment."""
    tokens: int | None = None
    summary: str = ""
    """The outputs that are none of these, in words."""


def read_items(outputs: Sequence[dict[str, Any]], labels: Sequence[str]) -> ItemAnswer:
    """``outputs`` as `/v2/…/infer` answers one item with them; ``labels`` are the deployment's."""
    found = {str(output.get("name")): output for output in outputs}
    tokens = _data(found.pop("tokens", {}))
    boxes, has_boxes = _boxes(found)
    classes, class_count = ([], 0) if has_boxes else _classes(found, labels)
    embedding = [float(value) for value in _data(found.pop("embedding", {}))]
    values: list[tuple[str, float]] = []
    series: list[tuple[str, list[float]]] = []
    rest: list[dict[str, Any]] = []
    for name, output in found.items():
        data = _data(output)
        numbers = output.get("datatype") in NUMBERS and all(isinstance(value, int | float) for value in data)
        if numbers and len(data) == 1:
            values.append((name, float(data[0])))
        elif numbers and len(data) > 1:
            series.append((name, [float(value) for value in data]))
        else:
            rest.append(output)
    return ItemAnswer(
        classes, class_count, embedding, boxes, has_boxes, values, series, int(tokens[0]) if tokens else None,
        read_answer(rest, ()).summary if rest else "",
    )  # fmt: skip


def _data(output: dict[str, Any]) -> list[Any]:
    return list(output.get("data") or ())


def _classes(found: dict[str, dict[str, Any]], labels: Sequence[str]) -> tuple[list[tuple[str, float | None]], int]:
    if "label" in found:
        names = [str(name) for name in _data(found.pop("label"))]
        scores = _data(found["score"]) if "score" in found else []
        if len(scores) == len(names):
            found.pop("score", None)
            scored: list[tuple[str, float | None]] = [
                (name, float(score)) for name, score in zip(names, scores, strict=True)
            ]
            return scored[:MOST_CLASSES], len(names)
        return [(name, None) for name in names[:MOST_CLASSES]], len(names)
    for name, output in found.items():
        read = read_answer([output], labels, MOST_CLASSES) if labels and name != "embedding" else None
        if read is not None and read.classes and len(_data(output)) == len(labels):
            del found[name]
            return list(read.classes), len(labels)
    return [], 0


def _boxes(found: dict[str, dict[str, Any]]) -> tuple[list[Box], bool]:
    if "boxes" not in found:
        return [], False
    corners = _data(found.pop("boxes"))
    labels, scores, count = (_data(found.pop(name, {})) for name in ("label", "score", "count"))
    number = int(count[0]) if count else len(corners) // 4
    return [
        Box(
            str(labels[at]) if at < len(labels) else "", float(scores[at]) if at < len(scores) else 1.0,
            *map(float, corners[4 * at : 4 * at + 4]),
        )
        for at in range(min(number, len(corners) // 4))
    ], True  # fmt: skip


def norm(vector: Sequence[float]) -> float:
    return sqrt(sum(value * value for value in vector))


def cosine(first: Sequence[float], second: Sequence[float]) -> float | None:
    """-1 to 1; `None` where it is not defined."""
    lengths = norm(first) * norm(second)
    if len(first) != len(second) or not lengths or not isfinite(lengths):
        return None
    return sum(a * b for a, b in zip(first, second, strict=True)) / lengths
