"""Calls for models whose template knows none: tools are described in words, and the answer is one JSON object,
``{"tool_calls": […]}`` or ``{"response": …}``."""

import json
import re
from collections.abc import Sequence
from typing import Any

from engines.llamacpp.chat_format.parser import AnswerParser
from engines.llamacpp.chat_format.reader import Reading
from engines.llamacpp.chat_format.syntax import Calls, JsonCall, Syntax, Thinking

_HIGH_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}")
_SHAPE = JsonCall("name", "arguments")


def instructions(tools: Sequence[dict[str, Any]], required: bool) -> str:
    """What the model is told."""
    described = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
    call = '{"tool_calls": [{"name": tool name, "arguments": {argument name: value}}]}'
    text = f"You can call tools. They are, with JSON schemas of their arguments:\n{described}\n\n"
    if required:
        return f"{text}Respond in JSON: {call}"
    return f'{text}Respond in JSON, either {call} to call tools, or {{"response": your answer to the user}}.'


class PlainJsonParser(AnswerParser):
    """Text that is no such object is content."""

    def __init__(self, tools: Sequence[dict[str, Any]], thinking: Thinking | None = None, reasoning: bool = False):
        super().__init__(Syntax(thinking, Calls(_SHAPE)), tools, reasoning)

    def _try_calls(self) -> Reading[bool]:
        reader = self._reader
        begin = self._mark()
        if (yield from reader.literal("{")):
            yield from reader.space()
            key = yield from reader.json_string()
            if key in ("tool_calls", "response") and (yield from reader.literal(":")):
                yield from reader.space()
                if key == "response" and (yield from reader.peek()) == '"':
                    reader.keep = False
                    yield from self._response()
                    return True
                if key == "tool_calls" and (yield from reader.literal("[")) and (yield from self._call()):
                    while (yield from reader.literal(",")) and (yield from self._call()):
                        pass
                    yield from reader.literal("]")
                    yield from reader.literal("}")
                    return True
        self._back(begin)
        return False

    def _response(self) -> Reading[None]:
        """A JSON text, decoded as it comes."""
        decoder = _StringDecoder()
        yield from self._reader.json_value(lambda text: self._say(decoder.feed(text)))
        yield from self._reader.literal("}")


class _StringDecoder:
    """The text of a JSON string that comes in pieces, none of which ends between a backslash and the next character."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        if text == '"':
            return ""
        text = self._held + text
        cut = text.rfind("\\u")
        whole = cut < 0 or len(text) - cut >= 6
        if whole and cut >= 0 and _HIGH_SURROGATE.fullmatch(text[cut:]):
            whole = False
        if not whole and _HIGH_SURROGATE.fullmatch(text[max(0, cut - 6) : cut]):
            cut -= 6
        self._held = "" if whole else text[cut:]
        text = text if whole else text[:cut]
        try:
            decoded: str = json.loads(f'"{text}"', strict=False)
        except ValueError:
            return text
        return decoded


def grammar_schema(tools: Sequence[dict[str, Any]], *, parallel: bool, required: bool) -> dict[str, Any]:
    """The JSON schema of such an answer."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": tool["function"].get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    items: dict[str, Any] = {"type": "array", "items": {"anyOf": calls}, "minItems": 1}
    if not parallel:
        items["maxItems"] = 1
    options = [{"tool_calls": items}] + ([] if required else [{"response": {"type": "string"}}])
    return {
        "anyOf": [
            {"type": "object", "properties": option, "required": list(option), "additionalProperties": False}
            for option in options
        ]
    }
