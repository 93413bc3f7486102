"""The inputs of a request as items of a tensor model: bytes, each as `engines.card.Card.item` says."""

from typing import Any

import msgspec

from app.api.messages import base64_bytes, data_url
from app.dataplane import items
from app.dataplane.routing import Target
from app.errors import InvalidInput

MOST_ITEMS = 2048
_WORDS = {
    "text": "a text",
    "image": '{"image": a data URL or base64}',
    "audio": '{"audio": base64 of a sound file}',
    "file": '{"file": base64}',
    "row": 'a list of numbers or {"row": {column: value}}',
}
_PAIR = '{"text": …, "text_pair": …}'
_encode = msgspec.json.Encoder().encode


def parse(target: Target, given: Any, field: str = "input") -> list[bytes]:
    """All items of ``given``: one, or a list of them. Raises `InvalidInput` that names the place, as ``input[3]``."""
    several = _listed(target, given)
    if not several:
        raise InvalidInput(f"{field} is empty", field=field)
    if len(several) > MOST_ITEMS:
        raise InvalidInput(
            f"{field} has {len(several)} entries, more than {MOST_ITEMS}", hint="send several requests", field=field
        )
    return [_item(target, entry, f"{field}[{index}]") for index, entry in enumerate(several)]


def _listed(target: Target, given: Any) -> list[Any]:
    """A list of plain values is one row, not many items."""
    if not isinstance(given, list):
        return [given]
    nested = any(isinstance(entry, list | dict) for entry in given)
    return [given] if target.card.item == "row" and given and not nested else given


def _item(target: Target, given: Any, field: str) -> bytes:
    kind = target.card.item
    wanted = _PAIR if items.pairs(target.card) else _WORDS.get(kind, "an item")
    value = given.get(kind) if isinstance(given, dict) and kind in given else given
    if kind == "text":
        if items.pairs(target.card):
            if isinstance(given, dict) and all(isinstance(given.get(key), str) for key in ("text", "text_pair")):
                return _encode([given["text"], given["text_pair"]])
        elif isinstance(value, str) and value:
            return value.encode()
    elif kind == "row":
        if isinstance(value, list | dict) and value:
            return _encode(value)
    elif isinstance(value, str):
        return data_url(value, field) if value[:5].lower() == "data:" else base64_bytes(value, field)
    came = f"an object with {', '.join(given) or 'nothing'}" if isinstance(given, dict) else _came(given)
    raise InvalidInput(f"{field}: {target.route} takes {wanted}, not {came}", field=field)


def _came(given: Any) -> str:
    if given == "":
        return "an empty text"
    names = {str: "a text", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(given), "null")
