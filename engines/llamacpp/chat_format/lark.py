"""Texts and terminals of llguidance's Lark, and what all rules of a grammar share.

Texts of control tokens never match text there, only the token itself: ``special`` gives its id (or True, where it is
known by its name), or None where a text is only text.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from engines.llamacpp import json_schema
from engines.llamacpp.chat_format.reader import cores
from engines.llamacpp.chat_format.syntax import Elements, Syntax, TagCall

#: The id of the control token with this text; True where only its name is known; None or False where there is none.
Special = Callable[[str], int | bool | None]

COMMA = 'WS "," WS'
SCALARS = ("integer", "number", "boolean", "null")
#: Schemas of tools are written for models, not for validators: what cannot be enforced is left out. Arguments may be
#: indented, as some models learnt it.
_OPTIONS = {**json_schema.OPTIONS, "lenient": True, "whitespace_pattern": r"[ \n]{0,40}"}
_MARKER = r"<[^<>\s]+>|\[/?[A-Z_]+\]"


class Lark:
    """Collects rules."""

    def __init__(self, syntax: Syntax, special: Special):
        self._syntax, self._special = syntax, special
        self._rules: dict[str, str] = {}
        self._lazy: dict[str, str] = {}
        shape = syntax.calls.shape if syntax.calls else None
        prefix = ""
        if isinstance(shape, TagCall) and isinstance(shape.arguments, Elements):
            prefix = re.escape(shape.arguments.prefix) + "|"
        self._marker = re.compile(f"({prefix}{_MARKER})")

    def text(self, start: str, more: str = "") -> str:
        """The grammar."""
        names = "".join(f"{name}: {body}\n" for name, body in self._rules.items())
        lazy = "".join(f"{name}[lazy]: {body}\n" for name, body in self._lazy.items())
        return f"start: {start}\n{names}{lazy}{more}WS: /[ \\t\\r\\n]{{0,20}}/\nANY: /(?s:.+)/\n"

    def literal(self, text: str) -> str:
        """``text``, with any white space where it has line breaks."""
        return " WS ".join(self._exact(core) for core in cores(text)) or '""'

    def _exact(self, text: str) -> str:
        parts = []
        plain = ""
        for piece in self._marker.split(text):
            token = self._special(piece) if self._marker.fullmatch(piece) else None
            if token is None or token is False or (token is True and not piece.startswith("<")):
                plain += piece
                continue
            if plain:
                parts.append(quoted(plain))
                plain = ""
            parts.append(piece if token is True else f"<[{token}]>")
        if plain:
            parts.append(quoted(plain))
        return " ".join(parts)

    def _is_special(self, text: str) -> bool:
        return not self._exact(text).startswith('"')

    def _until(self, end: str) -> str:
        """Any text, then ``end``."""
        first, *rest = cores(end)
        if self._is_special(first):
            return " ".join(["ANY?", self._exact(first), *(f"WS {self._exact(core)}" for core in rest)])
        plain, tail = self._plain_part(first)
        name = self._lazily(plain)
        return " ".join([name, *([tail] if tail else []), *(f"WS {self._exact(core)}" for core in rest)])

    def _plain_part(self, core: str) -> tuple[str, str]:
        """(the text that ``core`` begins with, the expression of what follows)."""
        plain = ""
        pieces = self._marker.split(core)
        for at, piece in enumerate(pieces):
            if piece and self._is_special(piece):
                return plain, self._exact("".join(pieces[at:]))
            plain += piece
        return plain, ""

    def _lazily(self, end: str) -> str:
        body = f"/(?s:.*?){regex(end)}/"
        for name, known in self._lazy.items():
            if known == body:
                return name
        name = f"up_to_{len(self._lazy)}"
        self._lazy[name] = body
        return name


def parameters(function: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a tool's arguments."""
    given = function.get("parameters")
    return given if isinstance(given, dict) and given else {"type": "object", "properties": {}}


def json_value(schema: Any) -> str:
    """JSON that fits ``schema``, as far as it can be enforced."""
    ready = dict(schema) if isinstance(schema, dict) else {}
    ready.pop("$schema", None)
    return "%json " + json.dumps({**ready, "x-guidance": _OPTIONS}, ensure_ascii=False)


def quoted(text: str) -> str:
    """``text`` as it is, for Lark; and as JSON."""
    return json.dumps(text, ensure_ascii=False)


def regex(text: str) -> str:
    """The regular expression of ``text``."""
    return re.sub(r"([\\^$.|?*+()\[\]{}/])", r"\\\1", text).replace("\n", r"\n")
