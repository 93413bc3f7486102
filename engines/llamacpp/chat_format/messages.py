"""Messages in the one form that requests have, as a certain template wants them. Pure: copies are given."""

import json
from collections.abc import Sequence
from typing import Any

from engines.engine import EngineError
from engines.llamacpp.chat_format.probe import Capabilities

MEDIA_MARKER = "<__media__>"


def check(messages: Sequence[dict[str, Any]], images: bool) -> list[dict[str, Any]]:
    """``messages`` with every content as text, images as `MEDIA_MARKER`. Raises `EngineError` (``invalid_input``)
    that names the message."""
    if not messages:
        raise _invalid("messages is empty")
    checked = []
    for index, given in enumerate(messages):
        if not isinstance(given, dict) or not isinstance(given.get("role"), str):
            raise _invalid(f"messages[{index}] has no role")
        content = given.get("content")
        if isinstance(content, list):
            content = "".join(_part(part, index, images) for part in content)
        if not isinstance(content, str | None):
            raise _invalid(f"messages[{index}].content is neither text nor a list of parts")
        message = {**given, "content": content or ""}
        if calls := message.get("tool_calls"):
            message["tool_calls"] = [_call(call, index) for call in calls]
        elif "tool_calls" in message:
            del message["tool_calls"]
        checked.append(message)
    return checked


def _part(part: Any, index: int, images: bool) -> str:
    if isinstance(part, dict):
        if isinstance(part.get("text"), str):
            return part["text"]
        if part.get("type") == "image" and images:
            return MEDIA_MARKER
    wanted = "text or an image" if images else "text, and this model reads only text"
    raise _invalid(f"messages[{index}] has a part that is not {wanted}")


def _call(call: Any, index: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _invalid(f"messages[{index}].tool_calls has a call without a name")
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            raise _invalid(f"messages[{index}].tool_calls has arguments that are not JSON") from None
    if not isinstance(arguments, dict):
        raise _invalid(f"messages[{index}].tool_calls has arguments that are no object")
    return {**call, "type": "function", "function": {**function, "arguments": arguments}}


def adapt(messages: list[dict[str, Any]], can: Capabilities, source: str) -> list[dict[str, Any]]:
    """Checked ``messages`` for a template that ``can`` do so much; ``source`` is its text."""
    if "developer" not in source:
        messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
    if not can.system:
        messages = _system_into_user(messages)
    if not can.parallel:
        messages = _one_call_each(messages)
    return [_adapted(dict(message), can, source) for message in messages]


def _adapted(message: dict[str, Any], can: Capabilities, source: str) -> dict[str, Any]:
    if calls := message.get("tool_calls"):
        message = _with_calls(message, calls, can)
    elif message["role"] == "tool" and not can.tool_role:
        message = {"role": "user", "content": json.dumps({"tool_response": message["content"]}, ensure_ascii=False)}
    if reasoning := message.get("reasoning_content"):
        message.setdefault("reasoning", reasoning)
        if "thinking" in source and not (message.get("tool_calls") and message.get("content")):
            message.setdefault("thinking", reasoning)
    if can.typed_content and isinstance(message.get("content"), str):
        message["content"] = [{"type": "text", "text": message["content"]}]
    return message


def _with_calls(message: dict[str, Any], calls: list[dict[str, Any]], can: Capabilities) -> dict[str, Any]:
    if not can.calls:
        written = [call["function"] for call in calls]
        text = json.dumps({"tool_calls": written}, ensure_ascii=False)
        rest = {key: value for key, value in message.items() if key != "tool_calls"}
        return {**rest, "content": "\n".join(filter(None, [message["content"], text]))}
    if can.null_content and not message["content"]:
        message["content"] = None
    if can.text_arguments:
        message["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _text(call["function"]["arguments"])}}
            for call in calls
        ]
    return message


def _system_into_user(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Templates without a system role: its text begins the user's first."""
    system = "\n".join(message["content"] for message in messages if message["role"] == "system")
    rest = [dict(message) for message in messages if message["role"] != "system"]
    if not system:
        return rest
    for message in rest:
        if message["role"] == "user":
            message["content"] = f"{system}\n{message['content']}"
            return rest
    return [{"role": "user", "content": system}, *rest]


def _one_call_each(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Templates that refuse several calls at once: one after the other, each with its result."""
    single: list[dict[str, Any]] = []
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            single.append(message)
            continue
        results = []
        while at < len(messages) and messages[at]["role"] == "tool":
            results.append(messages[at])
            at += 1
        for index, call in enumerate(calls):
            single.append({**message, "tool_calls": [call], **({"content": ""} if index else {})})
            mine = next((r for r in results if r.get("tool_call_id") == call.get("id")), None)
            if mine is None and index < len(results):
                mine = results[index]
            if mine is not None:
                single.append(mine)
    return single


def describe_tools(messages: list[dict[str, Any]], instructions: str) -> list[dict[str, Any]]:
    """``instructions`` in the system message, for templates that describe no tools themselves."""
    if messages[0]["role"] in ("system", "developer"):
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{instructions}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]


def _text(arguments: Any) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def _invalid(message: str) -> EngineError:
    return EngineError("invalid_input", message, field="messages")
