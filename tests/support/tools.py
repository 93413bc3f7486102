"""Tools of every kind of argument, and calls of them."""

from typing import Any


def tool(name: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": f"Do {name}.", "parameters": parameters}}


TOOLS = [
    tool(
        "get_time",
        {"city": {"type": "string", "description": "Where."}, "days": {"type": "integer", "description": "Ahead."}},
        ["city"],
    ),
    tool(
        "edit_file",
        {
            "path": {"type": "string", "description": "Which."},
            "text": {"type": "string", "description": "What."},
            "tags": {"type": "array", "items": {"type": "string"}, "description": "Labels."},
            "options": {
                "type": "object",
                "properties": {"deep": {"type": "boolean"}, "share": {"type": "number"}},
                "description": "How.",
            },
        },
        ["path", "text"],
    ),
    tool("ping", {}, []),
]
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("get_time", {"city": "São Paulo", "days": 3}),
    (
        "edit_file",
        {
            "path": "a/b.py",
            "text": "def f(x):\n    return \"<b>\" + 'q'",
            "tags": ["a", "b"],
            "options": {"deep": True, "share": 1.5},
        },
    ),
    ("ping", {}),
]
