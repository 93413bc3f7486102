"""Tools and the choice among them, as OpenAI's clients write them, checked."""

import re
from typing import Any

from app.errors import InvalidInput

#: OpenAI allows letters, digits, _ and - up to 64; tools of other origins have dots and longer names.
_NAME = re.compile(r"[\w.:/-]{1,128}", re.ASCII)
_MOST_TOOLS = 1024
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_MODES = ("none", "auto", "required")
MOST_DEPTH = 64
#: Keywords whose values are schemas: by name, in a list, or one.
_OF_NAMES = {"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"}
_OF_LISTS = {"anyOf", "oneOf", "allOf", "prefixItems"}
_OF_ONE = {"items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else"}


def tools(given: Any, where: str = "tools") -> list[dict[str, Any]]:
    """``[{"type": "function", "function": {"name", "description", "parameters"}}]``, with parameters in each. Raises
    `InvalidInput` that names the place: ``tools[1].function.parameters``."""
    if given is None:
        return []
    if not isinstance(given, list) or len(given) > _MOST_TOOLS:
        raise InvalidInput(f"{where} must be a list of at most {_MOST_TOOLS} tools", field=where)
    checked: list[dict[str, Any]] = []
    names: set[str] = set()
    for index, tool in enumerate(given):
        place = f"{where}[{index}]"
        kind = tool.get("type", "function") if isinstance(tool, dict) else None
        if kind != "function":
            raise InvalidInput(f"{place}: tools of type {kind!r} are not supported", hint="send functions", field=place)
        checked.append({"type": "function", "function": function(tool.get("function"), f"{place}.function", names)})
    return checked


def function(given: Any, where: str, taken: set[str]) -> dict[str, Any]:
    """One function; its name goes to ``taken``, and must not be there yet. Raises `InvalidInput`."""
    if not isinstance(given, dict):
        raise InvalidInput(f"{where}: expected an object with name and parameters", field=where)
    name = given.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{where}.name must be 1 to 128 letters, digits or _ - . : /, not {name!r}", field=f"{where}.name"
        )
    if name in taken:
        raise InvalidInput(f"{where}.name: there are two tools called {name}", field=f"{where}.name")
    taken.add(name)
    described = given.get("description")
    if described is not None and not isinstance(described, str):
        raise InvalidInput(f"{where}.description: expected a text", field=f"{where}.description")
    parameters = given.get("parameters")
    if parameters is None or parameters == {}:
        parameters = {"type": "object", "properties": {}}
    place = f"{where}.parameters"
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise InvalidInput(f'{place} must be a JSON schema of type "object"', field=place)
    check_schema(parameters, place)
    return {"name": name, "description": described or "", "parameters": parameters}


def choice(given: Any, offered: list[dict[str, Any]], where: str = "tool_choice") -> tuple[str, list[dict[str, Any]]]:
    """The choice in the words of `engines.protocol.Generate`, and the tools that it leaves. Raises `InvalidInput` for
    a tool that is not offered."""
    names = [tool["function"]["name"] for tool in offered]
    if given is None:
        return "auto", offered
    if isinstance(given, dict) and given.get("type") == "allowed_tools":
        inner = given.get("allowed_tools")
        allowed = inner if isinstance(inner, dict) else given
        listed = allowed.get("tools", [])
        if not isinstance(listed, list):
            raise InvalidInput(f"{where}.tools: expected a list", field=f"{where}.tools")
        wanted = [_named(tool, f"{where}.tools[{index}]", names) for index, tool in enumerate(listed)]
        mode, _ = choice(allowed.get("mode", "auto"), offered, f"{where}.mode")
        return mode, [tool for tool in offered if tool["function"]["name"] in wanted]
    if isinstance(given, dict):
        return f"function:{_named(given, where, names)}", offered
    if given == "any":  # as some servers say it
        given = "required"
    if given not in _MODES:
        raise InvalidInput(f"{where} must be {', '.join(_MODES)}, or name a function, not {given!r}", field=where)
    if given == "required" and not offered:
        raise InvalidInput(f"{where} is required, but there are no tools", hint="send tools", field=where)
    return given, offered


def _named(given: Any, where: str, names: list[str]) -> str:
    """The name in ``{"type": "function", "function": {"name"}}``, or ``{"type": "function", "name"}``."""
    given = given if isinstance(given, dict) else {}
    inner = given.get("function")
    name = inner.get("name") if isinstance(inner, dict) else given.get("name")
    if given.get("type", "function") != "function" or not isinstance(name, str):
        raise InvalidInput(f'{where}: expected {{"type": "function", "function": {{"name": …}}}}', field=where)
    if name not in names:
        raise InvalidInput(
            f"{where}: there is no tool {name!r}", hint=f"tools: {', '.join(names) or 'none'}", field=where
        )
    return name


def check_depth(value: Any, field: str) -> None:
    """Raises `InvalidInput` where ``value`` is nested deeper than anything that means something: what walks through
    it later, in the worker too, must not exhaust its stack."""
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for entry in level
            if isinstance(entry, (dict, list))
            for inner in (entry.values() if isinstance(entry, dict) else entry)
        ]
        if not level:
            return
    raise InvalidInput(f"{field} is nested deeper than {MOST_DEPTH} levels", field=field)


def check_schema(schema: Any, field: str) -> None:
    """Raises `InvalidInput` where ``schema`` is no JSON schema: it says where inside, and names ``field``. Which
    keywords can be enforced is another question, which the engine answers."""
    check_depth(schema, field)
    _check_schema(schema, field, "")


def _check_schema(schema: Any, field: str, path: str) -> None:
    def wrong(at: str, expected: str) -> InvalidInput:
        return InvalidInput(f"{field}{path}{at} must be {expected}", field=field)

    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise wrong("", "a JSON schema")
    kinds = schema.get("type")
    if kinds is not None and not (kinds in _TYPES if isinstance(kinds, str) else _some(kinds, lambda k: k in _TYPES)):
        raise wrong(".type", f"one of {', '.join(_TYPES)}, or a list of them, not {kinds!r}")
    if "required" in schema and not _every(schema["required"], lambda name: isinstance(name, str)):
        raise wrong(".required", "a list of names")
    if "enum" in schema and not _some(schema["enum"], lambda _: True):
        raise wrong(".enum", "a list of values")
    for key in _OF_NAMES & schema.keys():
        if not isinstance(schema[key], dict):
            raise wrong(f".{key}", "an object")
        for name, value in schema[key].items():
            _check_schema(value, field, f"{path}.{key}.{name}")
    for key in _OF_LISTS & schema.keys():
        if not _some(schema[key], lambda _: True):
            raise wrong(f".{key}", "a list of schemas")
        for index, value in enumerate(schema[key]):
            _check_schema(value, field, f"{path}.{key}[{index}]")
    for key in _OF_ONE & schema.keys():
        if not (key == "items" and isinstance(schema[key], list)):  # as it was before `prefixItems`
            _check_schema(schema[key], field, f"{path}.{key}")


def _every(values: Any, right: Any) -> bool:
    return isinstance(values, list) and all(map(right, values))


def _some(values: Any, right: Any) -> bool:
    return bool(values) and _every(values, right)
