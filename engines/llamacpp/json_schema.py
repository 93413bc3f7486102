"""JSON Schema made ready for llguidance: what it would refuse though it means nothing is taken out, and what it would
accept without enforcing it is refused. Pure."""

from typing import Any

from engines.engine import EngineError

#: Formats that are enforced. Any other is an annotation, as the specification has it.
FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"))
#: What all answers in JSON share. At most one space between tokens, so that a model cannot go on in white space for
#: ever, yet may write ``{"a": 1}`` as it learnt to. No ``\u`` escapes: with them a name that is free could spell one
#: that is not (``"\u0061"`` for ``"a"``), which llguidance 1.9 lets pass.
OPTIONS: dict[str, Any] = {
    "whitespace_flexible": False,
    "whitespace_pattern": " ?",
    "json_allowed_escapes": '"\\bfnrt',
    "coerce_one_of": False,
    "lenient": False,
}
FIELD = "response_format"

_MAX_DEPTH = 100

#: Of the keywords that can be enforced, those whose value is a schema or a list of schemas, and those whose value
#: holds schemas by name.
_SCHEMA = frozenset(("items", "prefixItems", "additionalItems", "additionalProperties", "allOf", "anyOf", "oneOf"))
_NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions"))


def prepare(schema: Any) -> dict[str, Any]:
    """A copy of ``schema`` that llguidance compiles to what it says. Raises `EngineError` (``invalid_input``) that
    names the keyword, for what cannot be enforced; llguidance itself refuses the keywords that it does not know."""
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise unsupported("the JSON schema must be an object")
    ready = _prepared(schema, "#", 0)
    # llguidance's own options, among them one that switches its checks off.
    ready.pop("x-guidance", None)
    return ready


def embedded(schema: Any) -> dict[str, Any]:
    """As `prepare`, for ``%json`` in a Lark grammar: the options travel inside."""
    return {**prepare(schema), "x-guidance": OPTIONS}


def unsupported(message: str) -> EngineError:
    return EngineError("invalid_input", message, field=FIELD)


def _prepared(schema: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise unsupported(f"the JSON schema is nested deeper than {_MAX_DEPTH}")

    def below(value: Any, place: str) -> Any:
        if isinstance(value, list):
            return [below(part, f"{place}/{i}") for i, part in enumerate(value)]
        return _prepared(value, f"{path}/{place}", depth + 1) if isinstance(value, dict) else value

    ready = {}
    for keyword, value in schema.items():
        if (keyword == "format" and value not in FORMATS) or (keyword == "uniqueItems" and value is False):
            continue
        if keyword == "required" and not isinstance(value, list):
            raise unsupported(f"{path}/required of the JSON schema is not a list of names")
        if keyword in _SCHEMA:
            ready[keyword] = below(value, keyword)
        elif keyword in _NAMED and isinstance(value, dict):
            ready[keyword] = {name: below(part, f"{keyword}/{name}") for name, part in value.items()}
        else:
            ready[keyword] = value
    if _counts_names(ready):
        raise unsupported(
            f"minProperties above 1 at {path} of the JSON schema cannot be enforced: a name that is free may come twice"
        )
    return ready


def _counts_names(schema: dict[str, Any]) -> bool:
    minimum = schema.get("minProperties", 0)
    if not isinstance(minimum, int | float) or minimum <= 1:
        return False
    if len(set(schema.get("required", []))) >= minimum:
        return False
    return schema.get("additionalProperties") is not False or bool(schema.get("patternProperties"))
