"""Arguments that are not written as JSON, read into the text of one JSON object as they come.

``emit`` gets the pieces of that text; ``parameters`` is the JSON schema of the tool's arguments.
"""

import json
from collections.abc import Callable
from typing import Any

from engines.llamacpp.chat_format.reader import Reader, Reading, Stops, cores
from engines.llamacpp.chat_format.syntax import Elements, Tagged
from engines.llamacpp.chat_format.values import property_schema, to_json, types

Emit = Callable[[str], None]


def tagged(reader: Reader, shape: Tagged, parameters: Any, emit: Emit) -> Reading[None]:
    """``key_start`` key ``key_end`` value ``value_end``, again and again."""
    emit("{")
    some = False
    ends = sorted(set(shape.key_end.values()), key=len, reverse=True)
    while (yield from reader.literal(shape.key_start)):
        yield from reader.space()
        key = yield from reader.word("".join({cores(end)[0][0] for end in ends if cores(end)}))
        matched = ""
        for end in ends:
            if (yield from reader.literal(end)):
                matched = end
                break
        allowed = {name for name, end in shape.key_end.items() if end == matched}
        if len(ends) == 1 or not matched:
            allowed = types(property_schema(parameters, key))
        emit(("," if some else "") + _quoted(key) + ":")
        some = True
        if space := matched[len(matched.rstrip()) :]:
            yield from reader.exact(space)
        if shape.json_strings:
            yield from reader.space()
            yield from reader.json_value(emit)
            yield from reader.literal(shape.value_end)
        elif not (yield from _tagged_value(reader, shape.value_end, allowed, emit)):
            return
    reader.skip_beginning(shape.key_start)
    emit("}")


def _tagged_value(reader: Reader, value_end: str, allowed: set[str], emit: Emit) -> Reading[bool]:
    if (yield from reader.exact("<![CDATA[")):
        value_end = "]]>" + value_end
    core = cores(value_end)[0]
    space = value_end[: len(value_end) - len(value_end.lstrip())]
    stops = Stops([core, space + core])
    if allowed == {"string"}:
        emit('"')
        marker = yield from reader.prose(stops, lambda text: emit(_quoted(text)[1:-1]))
        if not marker:
            return False
        emit('"')
    else:
        text, marker = yield from reader.until(stops)
        if not marker:
            return False
        emit(to_json(text, allowed))
    yield from reader.literal(value_end)
    return True


def elements(reader: Reader, shape: Elements, parameters: Any, emit: Emit) -> Reading[None]:
    """``<key>value</key>`` with elements in elements for objects and lists, each tag after a prefix."""
    emit("{")
    yield from _members(reader, shape, parameters, emit)
    emit("}")


def _members(reader: Reader, shape: Elements, schema: Any, emit: Emit) -> Reading[None]:
    some = False
    while True:
        before = reader.at
        keep, reader.keep = reader.keep, True
        opened = (yield from reader.literal(shape.prefix + "<")) and (yield from reader.peek()) != "/"
        if not opened:
            reader.at, reader.keep = before, keep
            return
        reader.keep = keep
        key = yield from reader.word(">")
        yield from reader.literal(">")
        emit(("," if some else "") + _quoted(key) + ":")
        some = True
        yield from _element(reader, shape, property_schema(schema, key), key, emit)


def _element(reader: Reader, shape: Elements, schema: Any, key: str, emit: Emit) -> Reading[None]:
    allowed = types(schema)
    end = f"{shape.prefix}</{key}>"
    nested = yield from _nested(reader, shape, allowed)
    if nested == "array":
        emit("[")
        some = False
        while (yield from reader.literal(f"{shape.prefix}<{shape.item}>")):
            emit("," if some else "")
            some = True
            items = schema.get("items") if isinstance(schema, dict) else None
            yield from _element(reader, shape, items, shape.item, emit)
        emit("]")
        yield from reader.literal(end)
    elif nested == "object":
        emit("{")
        yield from _members(reader, shape, schema, emit)
        emit("}")
        yield from reader.literal(end)
    else:
        yield from _tagged_value(reader, end, allowed, emit)


def _nested(reader: Reader, shape: Elements, allowed: set[str]) -> Reading[str]:
    """Whether elements follow: ``array`` or ``object``; what the schema says, and what is there where it says
    nothing."""
    if allowed and allowed <= {"string"}:
        return ""
    before = reader.at
    keep, reader.keep = reader.keep, True
    item = yield from reader.literal(f"{shape.prefix}<{shape.item}>")
    reader.at = before
    opened = (yield from reader.literal(shape.prefix + "<")) and (yield from reader.peek()) != "/"
    reader.at, reader.keep = before, keep
    if item and (not allowed or "array" in allowed):
        return "array"
    if opened and (not allowed or "object" in allowed):
        return "object"
    if not opened and allowed == {"array"}:
        return "array"
    return "object" if not opened and allowed == {"object"} else ""


def loose_value(reader: Reader, quote: str, emit: Emit) -> Reading[bool]:
    """``{key:value,…}``, ``[…]``, a text between ``quote`` or a JSON literal. Whether it is complete."""
    yield from reader.space()
    if (yield from reader.exact(quote)):
        emit('"')
        marker = yield from reader.prose(Stops([quote]), lambda text: emit(_quoted(text)[1:-1]))
        if not marker:
            return False
        reader.at += len(marker)
        emit('"')
        return True
    first = yield from reader.peek()
    if first == '"':
        return (yield from reader.json_value(emit))
    if first not in ("{", "["):
        text = yield from reader.word(",}]")
        emit(to_json(text, set()) if text else "null")
        return bool(text)
    closing = "}" if first == "{" else "]"
    reader.at += 1
    emit(first)
    some = False
    while True:
        yield from reader.space()
        following = yield from reader.peek()
        if following == "":
            return False
        if following == closing:
            reader.at += 1
            emit(closing)
            return True
        if following == ",":
            reader.at += 1
            continue
        emit("," if some else "")
        some = True
        if first == "{":
            emit((yield from _loose_key(reader, quote)) + ":")
        if not (yield from loose_value(reader, quote, emit)):
            return False


def _loose_key(reader: Reader, quote: str) -> Reading[str]:
    if (yield from reader.exact(quote)):
        key, marker = yield from reader.until(Stops([quote]))
        reader.at += len(marker)
    elif (yield from reader.peek()) == '"':
        key = (yield from reader.json_string()) or ""
    else:
        key, _ = yield from reader.until(Stops([":", "}", ","]))
    yield from reader.literal(":")
    return _quoted(key.strip())


def python_arguments(reader: Reader, parameters: Any, emit: Emit) -> Reading[bool]:
    """``key=value, …)`` with Python's or JSON's literals. Whether it is complete."""
    emit("{")
    some = False
    while True:
        yield from reader.space()
        following = yield from reader.peek()
        if following == "":
            return False
        if following == ")":
            reader.at += 1
            emit("}")
            return True
        if following == ",":
            reader.at += 1
            continue
        key = yield from reader.word("=,)")
        emit(("," if some else "") + _quoted(key) + ":")
        some = True
        if not (yield from reader.literal("=")):
            return False
        text = yield from _python_literal(reader)
        if text is None:
            return False
        emit(to_json(text, types(property_schema(parameters, key)) - {"string"}))


def _python_literal(reader: Reader) -> Reading[str | None]:
    """The text up to the comma or bracket that ends an argument; None where the text ends first."""
    yield from reader.space()
    parts: list[str] = []
    depth, quote = 0, ""
    while True:
        character = yield from reader.peek()
        if character == "":
            return None
        if quote:
            if character == "\\":
                parts.append(character)
                reader.at += 1
                character = yield from reader.peek()
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}" and depth:
            depth -= 1
        elif character in ",)" and not depth:
            return "".join(parts).strip()
        parts.append(character)
        reader.at += 1


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
