"""What an answer must match, in the words of OpenAI, vLLM and llama-server."""

import json
from collections.abc import Mapping
from typing import Any

from app.api.tools import check_schema
from app.errors import InvalidInput
from engines.protocol import Grammar


def grammar(given: Mapping[str, Any]) -> Grammar | None:
    """From ``response_format``, vLLM's ``guided_…`` and ``structured_outputs``, llama-server's ``grammar`` and
    ``json_schema`` in ``given``. Raises `InvalidInput` that names the field; also where two of them are given."""
    found: list[tuple[str, Grammar]] = []

    def add(field: str, value: Grammar | None) -> None:
        if value is not None:
            found.append((field, value))

    if (value := given.get("response_format")) is not None:
        add("response_format", response_format(value))
    for kind in ("json", "regex", "choice", "grammar"):
        if (value := given.get(f"guided_{kind}")) is not None:
            add(f"guided_{kind}", _guided(kind, value, f"guided_{kind}"))
    for kind, value in (given.get("structured_outputs") or {}).items():
        if value is not None and value is not False:
            add("structured_outputs", _guided(kind, value, f"structured_outputs.{kind}"))
    if value := given.get("grammar"):
        add("grammar", Grammar("gbnf", value))
    if (value := given.get("json_schema")) is not None:
        add("json_schema", schema(value, "json_schema"))
    if len(found) > 1:
        fields = " and ".join(dict.fromkeys(field for field, _ in found))
        raise InvalidInput(f"{fields}: an answer can match one of them only", hint="keep one", field=found[1][0])
    return found[0][1] if found else None


def named(given: Mapping[str, Any]) -> str:
    """Which field of ``given`` says what the answer must match; empty: none does."""
    names = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "grammar")
    for name in (*names, "json_schema", "response_format"):
        if given.get(name):
            return name
    return ""


def response_format(given: Any, where: str = "response_format") -> Grammar | None:
    """OpenAI's ``{"type": …}``; None for text. A ``json_object`` may carry a ``schema``, as for llama-server."""
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        inner = given.get("schema")
        return Grammar("json_object") if not inner else schema(inner, f"{where}.schema")
    if kind == "json_schema":
        wrapper = given.get("json_schema", given)
        if not isinstance(wrapper, dict):
            raise InvalidInput(f"{where}.json_schema: expected an object", field=f"{where}.json_schema")
        place = f"{where}.json_schema.schema" if "json_schema" in given else f"{where}.schema"
        name = wrapper.get("name")
        if name is not None and not isinstance(name, str):
            raise InvalidInput(f"{where}.json_schema.name: expected a text", field=f"{where}.json_schema.name")
        return schema(wrapper.get("schema") or {}, place)
    raise InvalidInput(f"{where}.type must be text, json_object or json_schema, not {kind!r}", field=f"{where}.type")


def schema(given: Any, field: str) -> Grammar:
    """A JSON schema, checked for being one; an empty one means any object."""
    if not isinstance(given, dict):
        raise InvalidInput(f"{field} must be a JSON schema", field=field)
    if not given:
        return Grammar("json_object")
    check_schema(given, field)
    return Grammar("json_schema", given)


def _guided(kind: str, value: Any, field: str) -> Grammar:
    if kind == "json":
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise InvalidInput(f"{field} is not valid JSON", field=field) from None
        return schema(value, field)
    if kind == "json_object" and value is True:
        return Grammar("json_object")
    if kind == "choice":
        if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
            raise InvalidInput(f"{field} must be a list of texts", field=field)
        return Grammar("choice", value)
    if kind in ("regex", "grammar"):
        if not isinstance(value, str) or not value:
            raise InvalidInput(f"{field} must be a text", field=field)
        if kind == "regex":
            return Grammar("regex", value)
        # vLLM takes both; rules are written "::=" in GBNF, ":" in Lark's language.
        return Grammar("gbnf" if "::=" in value else "lark", value)
    raise InvalidInput(f"{field} is not supported", hint="use json, json_object, regex, choice or grammar", field=field)
