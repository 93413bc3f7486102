"""Arguments that a model writes as text, as the JSON that the tool's schema asks for."""

import ast
import json
import re
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_PYTHON = re.compile(r"\b(true|false|null)\b")
_NAMES = {"true": "True", "false": "False", "null": "None"}


def types(schema: Any, root: Any = None, depth: int = 0) -> set[str]:
    """The JSON types that ``schema`` allows; empty where it says nothing."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > 16:
        return set()
    if isinstance(reference := schema.get("$ref"), str):
        return types(_resolve(root, reference), root, depth + 1)
    if "type" in schema:
        named = schema["type"]
        return {named} if isinstance(named, str) else set(named)
    if "enum" in schema or "const" in schema:
        return {_type(value) for value in schema.get("enum", [schema.get("const")])}
    for several in ("anyOf", "oneOf"):
        if options := schema.get(several):
            found = [types(option, root, depth + 1) for option in options]
            return set().union(*found) if all(found) else set()
    for part in schema.get("allOf", []):
        if found_types := types(part, root, depth + 1):
            return found_types
    return {"object"} if "properties" in schema else set()


def property_schema(parameters: Any, key: str) -> Any:
    """The schema of an argument, with the definitions that it may refer to."""
    if not isinstance(parameters, dict):
        return None
    schema = parameters.get("properties", {}).get(key)
    if schema is None:
        schema = parameters.get("additionalProperties")
    if isinstance(schema, dict):
        definitions = {name: parameters[name] for name in ("$defs", "definitions") if name in parameters}
        return {**definitions, **schema}
    return None


def to_json(text: str, allowed: set[str]) -> str:
    """``text`` as JSON of one of the types ``allowed``; a string where it is no other."""
    stripped = text.strip()
    try:
        value = json.loads(stripped)
        literal = stripped
    except ValueError:
        try:
            value = ast.literal_eval(_PYTHON.sub(lambda found: _NAMES[found[0]], stripped))
            literal = json.dumps(value, ensure_ascii=False)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return json.dumps(text, ensure_ascii=False)
    if not allowed or _fits(value, allowed) or "string" not in allowed:
        return literal
    return json.dumps(text, ensure_ascii=False)


def _fits(value: Any, allowed: set[str]) -> bool:
    if isinstance(value, str):
        return False  # a quoted text that may be a string is a text with quotes
    if isinstance(value, bool):
        return "boolean" in allowed
    if isinstance(value, float) and value.is_integer() and "integer" in allowed:
        return True
    return any(isinstance(value, _TYPES.get(name, ())) for name in allowed)


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return next((name for name, kinds in _TYPES.items() if isinstance(value, kinds)), "string")


def _resolve(root: Any, reference: str) -> Any:
    schema = root
    for step in reference.removeprefix("#/").split("/"):
        if not isinstance(schema, dict):
            return None
        schema = schema.get(step)
    return schema
