"""Messages as OpenAI's clients write them, in the one form that `engines.protocol.Generate` describes."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from app.api.tools import check_depth
from app.errors import InvalidInput

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image that is not in the request; ``field`` names where it was asked for. See `app.api.images`."""

    url: str
    field: str


def canonical(
    messages: Sequence[Any], where: str = "messages"
) -> tuple[list[dict[str, Any]], list[bytes | RemoteImage]]:
    """``messages`` in canonical form, and the images that their parts number: bytes, or where to find them
    (`app.api.images.Images.load` makes bytes of all). Raises `InvalidInput` that names the place:
    ``messages[2].content[0].image_url.url``."""
    if not messages:
        raise InvalidInput(f"{where} is empty", field=where)
    media: list[bytes | RemoteImage] = []
    return [_message(message, f"{where}[{index}]", media) for index, message in enumerate(messages)], media


def _message(given: Any, where: str, media: list[bytes | RemoteImage]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InvalidInput(f"{where}: expected an object with role and content", field=where)
    role = _ROLES.get(given["role"]) if isinstance(given.get("role"), str) else None
    if role is None:
        raise InvalidInput(
            f"{where}.role must be one of {', '.join(_ROLES)}, not {given.get('role')!r}", field=f"{where}.role"
        )
    content = given.get("content")
    message: dict[str, Any] = {"role": role}
    if content is None:
        calls = given.get("tool_calls") or given.get("function_call")
        if role != "assistant" or not (calls or _reasoning(given)):
            raise InvalidInput(f"{where}.content is missing", hint="give a text", field=f"{where}.content")
        message["content"] = ""
    else:
        message["content"] = _content(content, f"{where}.content", media if role in ("user", "tool") else None)
    if role == "assistant":
        if reasoning := _reasoning(given):
            message["reasoning_content"] = reasoning
        if calls := _calls(given, where):
            message["tool_calls"] = calls
    elif role == "tool":
        for name in ("tool_call_id", "name"):
            if isinstance(given.get(name), str):
                message[name] = given[name]
    return message


def _reasoning(given: dict[str, Any]) -> str:
    """``reasoning_content`` as most servers call it, ``reasoning`` as some do."""
    value = given.get("reasoning_content") or given.get("reasoning")
    return value if isinstance(value, str) else ""


def _content(given: Any, where: str, media: list[bytes | RemoteImage] | None) -> str | list[dict[str, Any]]:
    """A text, or parts where an image is among them. ``media`` None: no image may be."""
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise InvalidInput(f"{where}: expected a text or a list of parts", field=where)
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(given):
        place = f"{where}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "input_text", "output_text", "refusal"):
            key = "refusal" if kind == "refusal" else "text"
            if not isinstance(part.get(key), str):
                raise InvalidInput(f"{place}.{key}: expected a text", field=f"{place}.{key}")
            parts.append({"type": "text", "text": part[key]})
        elif kind == "image_url" and media is not None:
            parts.append({"type": "image", "media": len(media)})
            media.append(_image(part.get("image_url"), f"{place}.image_url"))
        else:
            takes = "text" if media is None else "text and image_url"
            told = f"content of type {kind!r} is not supported here" if kind else "a part needs a type"
            raise InvalidInput(f"{place}: {told}", hint=f"send {takes}", field=f"{place}.type")
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)  # as llama.cpp joins them
    return parts


def _image(given: Any, where: str) -> bytes | RemoteImage:
    """``{"url": …}``, or as some clients write it the URL alone."""
    url = given
    if isinstance(given, dict):
        url, where = given.get("url"), f"{where}.url"
    if not isinstance(url, str):
        raise InvalidInput(f"{where}: expected a URL", field=where)
    if url.lower().startswith(("http://", "https://")):
        return RemoteImage(url, where)
    return data_url(url, where)


def data_url(url: str, field: str) -> bytes:
    """The bytes of ``data:image/png;base64,…``. Raises `InvalidInput`."""
    head, comma, data = url.partition(",")
    if not head.lower().startswith("data:") or not comma:
        raise InvalidInput(
            f"{field}: expected a data URL", hint="send data:image/png;base64,… with the image in it", field=field
        )
    if head.lower().endswith(";base64"):
        return base64_bytes(data, field)
    return unquote_to_bytes(data)


def base64_bytes(data: str, field: str) -> bytes:
    """Raises `InvalidInput` for what is not base64, or empty."""
    try:
        # Of URL-safe letters and white space that clients leave in, nothing is lost.
        decoded = base64.b64decode("".join(data.split()).translate(_URL_SAFE), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{field} is not valid base64", field=field) from None
    if not decoded:
        raise InvalidInput(f"{field} holds no image", field=field)
    return decoded


_URL_SAFE = str.maketrans("-_", "+/")


def _calls(given: dict[str, Any], where: str) -> list[dict[str, Any]]:
    calls = given.get("tool_calls")
    if calls is None and given.get("function_call") is not None:  # OpenAI's form before tools
        return [_call({"function": given["function_call"]}, f"{where}.function_call", "")]
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise InvalidInput(f"{where}.tool_calls: expected a list", field=f"{where}.tool_calls")
    places = [f"{where}.tool_calls[{index}]" for index in range(len(calls))]
    return [_call(call, place, ".function") for call, place in zip(calls, places, strict=True)]


def _call(given: Any, where: str, inner: str) -> dict[str, Any]:
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(function, dict):
        raise InvalidInput(f"{where}{inner}: expected a function with name and arguments", field=f"{where}{inner}")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{where}{inner}.name: expected a name", field=f"{where}{inner}.name")
    if arguments is None or arguments == "":
        arguments = "{}"
    elif isinstance(arguments, dict):
        check_depth(arguments, f"{where}{inner}.arguments")
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif not isinstance(arguments, str):
        raise InvalidInput(f"{where}{inner}.arguments: expected JSON text", field=f"{where}{inner}.arguments")
    number = given.get("id")
    return {
        "id": number if isinstance(number, str) else "",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
