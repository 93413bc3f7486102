"""What decoding must match so that a call is one of the tools', with arguments that fit its schema: one grammar in
llguidance's Lark, for the whole answer from its first token.

Texts of control tokens never match text there, only the token itself: ``special`` gives its id (or True, where it is
known by its name), or None where a text is only text.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from engines.llamacpp import gbnf, json_schema
from engines.llamacpp.chat_format.reader import cores
from engines.llamacpp.chat_format.syntax import (
    Calls,
    Elements,
    Hole,
    JsonCall,
    LooseDict,
    PythonCall,
    Syntax,
    TagCall,
    Tagged,
)
from engines.llamacpp.chat_format.values import property_schema, types
from engines.protocol import Grammar

#: The id of the control token with this text; True where only its name is known; None or False where there is none.
Special = Callable[[str], int | bool | None]

#: Beyond this many arguments the required ones come in the order of the schema, and the others in any.
_FREE_ORDER = 5
_OPTIONS = {**json_schema.OPTIONS, "lenient": True}
_MARKER = re.compile(r"(<[^<>\s]+>|\[/?[A-Z_]+\])")
_SCALARS = ("integer", "number", "boolean", "null")


class GrammarBuilder:
    """Collects rules; `text` is the grammar."""

    def __init__(self, syntax: Syntax, special: Special):
        self._syntax, self._special = syntax, special
        self._rules: dict[str, str] = {}
        self._control: list[str] = []
        self._lazy: dict[str, str] = {}

    def calls(self, tools: Sequence[dict[str, Any]], *, parallel: bool, required: bool, reasoning: bool) -> str:
        """``reasoning``: the prompt ends inside the thinking block. ``required``: nothing but reasoning comes before
        the calls, and there is one."""
        calls = self._syntax.calls
        assert calls
        section = self._section(calls, tools, parallel)
        if required:
            first = self._opening(calls)
            start = f"{self._reason(reasoning)} {self._dropped()} WS {first} {section}"
        elif not (opening := cores(calls.opening)) or opening[0] in ("[", "{"):
            # Without a marker a call can only begin the answer, and what begins like one is one.
            key = _json_quoted(calls.shape.name) if isinstance(calls.shape, JsonCall) else ""
            begin = (r"\[\s*" if calls.array else "") + r"\{\s*" + _regex(key)
            self._rules["TEXT"] = f"/(?s:.+)/ & ~/\\s*{begin}(?s:.*)/"
            lead = self._dropped()
            start = f"{self._reason(reasoning)} {lead} WS {self._opening(calls)} {section} | {self._free('')}"
        else:
            opened = self._found(calls)
            text = f"{self._free(opened[1])} {opened[0]} {section}"
            thinking = self._syntax.thinking
            if reasoning and thinking and not thinking.ended_by_call:
                start = f"{self._until(thinking.end)} after | {self._any()}"
                self._rules["after"] = f"{text} | {self._free(opened[1])}"
            elif thinking and thinking.start and not thinking.ended_by_call:
                reason = f"WS {self.literal(thinking.start)} {self._until(thinking.end)}"
                start = f"({reason})? after | {self._any_after(thinking.start)}"
                self._rules["after"] = f"{text} | {self._free(opened[1])}"
            else:
                start = f"{text} | {self._free(opened[1])}"
        return self._text(start)

    def answer(self, grammar: Grammar, *, reasoning: bool) -> str | None:
        """The caller's own grammar, after reasoning and between the markers of content. None for a kind that cannot
        stand inside another."""
        inner = _embedded(grammar)
        if inner is None:
            return None
        expression, rules = inner
        self._rules["wanted"] = expression
        return self._text(f"{self._reason(reasoning)} {self._dropped()} WS wanted WS {self._dropped()}", rules)

    def literal(self, text: str) -> str:
        """``text``, with any white space where it has line breaks."""
        return " WS ".join(self._exact(core) for core in cores(text)) or '""'

    def _exact(self, text: str) -> str:
        parts = []
        plain = ""
        for piece in _MARKER.split(text):
            token = self._special(piece) if _MARKER.fullmatch(piece) else None
            if token is None or token is False or (token is True and not piece.startswith("<")):
                plain += piece
                continue
            if plain:
                parts.append(_quoted(plain))
                plain = ""
            parts.append(piece if token is True else f"<[{token}]>")
        if plain:
            parts.append(_quoted(plain))
        return " ".join(parts)

    def _is_special(self, text: str) -> bool:
        return not self._exact(text).startswith('"')

    def _text(self, start: str, more: str = "") -> str:
        names = "".join(f"{name}: {body}\n" for name, body in self._rules.items())
        lazy = "".join(f"{name}[lazy]: {body}\n" for name, body in self._lazy.items())
        return f"start: {start}\n{names}{lazy}{more}WS: /[ \\t\\r\\n]{{0,20}}/\nANY: /(?s:.+)/\n"

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
        pieces = _MARKER.split(core)
        for at, piece in enumerate(pieces):
            if piece and self._is_special(piece):
                return plain, self._exact("".join(pieces[at:]))
            plain += piece
        return plain, ""

    def _lazily(self, end: str) -> str:
        body = f"/(?s:.*?){_regex(end)}/"
        for name, known in self._lazy.items():
            if known == body:
                return name
        name = f"up_to_{len(self._lazy)}"
        self._lazy[name] = body
        return name

    # Around the calls

    def _markers(self) -> Iterable[str]:
        thinking = self._syntax.thinking
        return [*((thinking.start, thinking.end) if thinking else ()), *self._syntax.dropped]

    def _controls(self) -> str:
        """The control tokens that may stand in running text."""
        found = {
            self._exact(piece): None
            for marker in self._markers()
            for piece in _MARKER.split(marker)
            if piece and self._is_special(piece)
        }
        return " | ".join(found)

    def _dropped(self) -> str:
        markers = [self.literal(marker) for marker in self._syntax.dropped]
        return f"(WS ({' | '.join(markers)}))*" if markers else ""

    def _any(self) -> str:
        controls = self._controls()
        return f"(ANY{' | ' + controls if controls else ''})*"

    def _any_after(self, start: str) -> str:
        return f"WS {self.literal(start)} {self._any()}"

    def _free(self, trigger: str) -> str:
        """Text in which no call begins."""
        if "TEXT" not in self._rules:
            self._rules["TEXT"] = (
                f"/(?s:.+)/ & ~/(?s:.*){_regex(trigger)}(?s:.*)/" if trigger else "/(?s:.+)/"
            )
        controls = self._controls()
        return f"(TEXT{' | ' + controls if controls else ''})*"

    def _found(self, calls: Calls) -> tuple[str, str]:
        """(what leads to the first call, after any text; the text that may not stand before it)."""
        opening = cores(calls.opening)
        rest = " ".join(f"WS {self._exact(core)}" for core in opening[1:])
        if self._is_special(opening[0]):
            return f"{self._exact(opening[0])} {rest}", ""
        plain, tail = self._plain_part(opening[0])
        return f"{self._lazily(plain)} {tail} {rest}", plain

    def _opening(self, calls: Calls) -> str:
        opening = calls.opening.removeprefix(self._syntax.prefix)
        return self.literal(opening) if opening.strip() else ""

    def _reason(self, reasoning: bool) -> str:
        thinking = self._syntax.thinking
        if thinking is None:
            return ""
        if reasoning or not thinking.start:
            return f"({self._until(thinking.end)})?"
        return f"(WS {self.literal(thinking.start)} {self._until(thinking.end)})?"

    # Calls

    def _section(self, calls: Calls, tools: Sequence[dict[str, Any]], parallel: bool) -> str:
        """The calls after `Calls.opening`, and what closes them."""
        names = []
        for index, tool in enumerate(tools):
            self._rules[f"call_{index}"] = self._call(calls, tool["function"], f"t{index}")
            names.append(f"call_{index}")
        self._rules["call"] = f"({' | '.join(names)}){self._after(calls.call_end)}"
        more = ""
        if parallel:
            opening = calls.opening if not calls.start and not calls.array else calls.opening.removeprefix(calls.start)
            if calls.array:
                opening = opening.removeprefix("[")
            between = [self.literal(text) for text in (calls.separator, opening) if text.strip()]
            more = f" ({' '.join(f'WS {part}' for part in between)} WS call)*"
        bracket = ' WS "["' if calls.array and calls.start else ""
        end = ' WS "]"' if calls.array else ""
        if calls.end:
            closing = self.literal(calls.end)
            last = _MARKER.findall(calls.end)
            # Where a control token closes the calls it may be the one that ends the answer.
            end += f" (WS {closing})?" if last and self._is_special(last[-1]) else f" WS {closing}"
        return f"{bracket} WS call{more}{end} WS"

    def _after(self, literal: str) -> str:
        return f" WS {self.literal(literal)}" if literal.strip() else ""

    def _call(self, calls: Calls, function: dict[str, Any], prefix: str) -> str:
        shape = calls.shape
        if isinstance(shape, JsonCall):
            return self._json_call(shape, function)
        if isinstance(shape, PythonCall):
            pairs = [
                f"{_quoted(key)} WS \"=\" WS {self._python(schema)}" for key, schema in _properties(function).items()
            ]
            return f'{_quoted(function["name"] + "(")} WS {self._order(pairs, function, prefix, COMMA)} WS ")"'
        return self._tag_call(shape, function, prefix)

    def _json_call(self, shape: JsonCall, function: dict[str, Any]) -> str:
        arguments = _json(_parameters(function))
        name = _json_quoted(function["name"])
        if not shape.name:
            return f'"{{" WS {_quoted(name)} WS ":" WS {arguments} WS "}}"'
        pairs = [(shape.name, _quoted(name)), (shape.arguments, arguments)]
        if shape.wrapper:
            inner = _members(pairs)
            pairs = [(shape.wrapper, f'"{{" WS {inner} WS "}}"')]
        body = _members(pairs)
        if shape.id:
            id = f'{_quoted(_json_quoted(shape.id))} WS ":" WS /"[A-Za-z0-9_.:-]{{1,64}}"/'
            body = f'{body} (WS "," WS {id})?' if shape.id_last else f'({id} WS "," WS)? {body}'
        return f'"{{" WS ("\\"type\\"" WS ":" WS "\\"function\\"" WS "," WS)? {body} WS "}}"'

    def _tag_call(self, shape: TagCall, function: dict[str, Any], prefix: str) -> str:
        parts = []
        for part in shape.head[1:] if isinstance(shape.head[0], str) else shape.head:
            if isinstance(part, str):
                parts.append(self.literal(part))
            else:
                parts.append(self._hole(part, function["name"]))
        arguments = shape.arguments
        if shape.head_end.strip():
            parts.append("WS " + self.literal(shape.head_end))
        if arguments is None:
            parts.append("WS " + _json(_parameters(function)))
        elif isinstance(arguments, Tagged):
            pairs = [
                self._tagged(arguments, key, property_schema(_parameters(function), key), f"{prefix}_{at}")
                for at, key in enumerate(_properties(function))
            ]
            parts.append("WS " + self._order(pairs, function, prefix, "WS"))
        elif isinstance(arguments, Elements):
            parts.append("WS " + self._elements(arguments, _parameters(function), prefix))
        else:
            parts.append("WS " + self._loose(arguments, _parameters(function), prefix))
        return " ".join(parts) + self._after(shape.tail)

    def _hole(self, hole: Hole, name: str) -> str:
        if hole.kind == "name":
            return _quoted(name)
        if hole.kind == "number":
            return "/[0-9]{1,4}/"
        before, after = hole.around
        return f"{_quoted(before + name + after)} /[0-9]{{1,4}}/" if after else "/[A-Za-z0-9_.:-]{1,64}/"

    # Arguments

    def _order(self, pairs: list[str], function: dict[str, Any], prefix: str, separator: str) -> str:
        """The arguments in any order, the required ones all of them, none twice."""
        required = _parameters(function).get("required") or []
        keys = list(_properties(function))
        needed = frozenset(at for at, key in enumerate(keys) if key in required)
        if not pairs:
            return '""'
        if len(pairs) > _FREE_ORDER:
            fixed = [pairs[at] for at in sorted(needed)]
            rest = " | ".join(pairs[at] for at in range(len(pairs)) if at not in needed)
            joined = f" {separator} ".join(fixed)
            if not rest:
                return f"({joined})"
            if not fixed:
                return f"(({rest}) ({separator} ({rest}))*)?"
            return f"({joined} ({separator} ({rest}))*)"
        for at, pair in enumerate(pairs):
            self._rules[f"{prefix}_arg{at}"] = pair
        return self._remaining(frozenset(range(len(pairs))), needed, prefix, separator, first=True)

    def _remaining(
        self, left: frozenset[int], needed: frozenset[int], prefix: str, separator: str, first: bool = False
    ) -> str:
        name = f"{prefix}_left_{'_'.join(map(str, sorted(left)))}" + ("_first" if first else "")
        if name in self._rules:
            return name
        self._rules[name] = ""
        options = []
        for at in sorted(left):
            lead = "" if first else f"{separator} "
            rest = left - {at}
            options.append(
                f"{lead}{prefix}_arg{at}" + (f" {self._remaining(rest, needed, prefix, separator)}" if rest else "")
            )
        if not left & needed:
            options.append('""')
        self._rules[name] = " | ".join(options)
        return name

    def _tagged(self, shape: Tagged, key: str, schema: Any, name: str) -> str:
        allowed = types(schema)
        start = f"{self.literal(shape.key_start)} {_quoted(key)}"
        distinct = len(set(shape.key_end.values())) > 1
        textual = not allowed or "string" in allowed
        options = []
        if textual and not shape.json_strings:
            end = shape.key_end.get("string", "")
            values = schema.get("enum") if isinstance(schema, dict) and allowed == {"string"} else None
            options.append(self._tagged_text(end, shape.value_end, values))
        others = {shape.key_end.get(kind, "") for kind in (allowed or shape.key_end) if kind != "string"} - {""}
        if (distinct and others) or not textual:
            for end in sorted(others) or [next(iter(shape.key_end.values()))]:
                json_value = _json(_without_strings(schema) if textual else (schema or {}))
                options.append(f"{self.literal(end)} WS {json_value} WS {self.literal(shape.value_end)}")
        elif shape.json_strings:
            end = shape.key_end["string"]
            options.append(f"{self.literal(end)} WS {_json(schema or {})} WS {self.literal(shape.value_end)}")
        self._rules[name] = " | ".join(options)
        return f"{start} {name}"

    def _tagged_text(self, key_end: str, value_end: str, values: list[Any] | None) -> str:
        space = key_end[len(key_end.rstrip()) :]
        lead = self.literal(key_end) + (f" {_quoted(space)}" if space else "")
        if values and all(isinstance(value, str) for value in values):
            return f"{lead} ({' | '.join(_quoted(value) for value in values if value)}) WS {self.literal(value_end)}"
        first, *rest = cores(value_end)
        before = value_end[: len(value_end) - len(value_end.lstrip())]
        after = "".join(f" WS {self._exact(core)}" for core in rest)
        if self._is_special(first):
            return f"{lead} ANY? {self._exact(first)}{after}"
        plain, tail = self._plain_part(first)
        return f"{lead} {self._lazily(before + plain)} {tail}{after}"

    def _python(self, schema: Any) -> str:
        allowed = types(schema)
        options = [_json(schema)]
        if not allowed or "boolean" in allowed:
            options.append('"True" | "False"')
        if not allowed or "null" in allowed:
            options.append('"None"')
        if not allowed or "string" in allowed:
            options.append(r"/'([^'\\\n]|\\.)*'/")
        if allowed & {"object", "array"} or not allowed:
            self._rules["python"] = (
                r'/"([^"\\\n]|\\.)*"/ | /' + r"'([^'\\\n]|\\.)*'/"
                r' | /-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?/ | "True" | "False" | "None" | "true" | "false" | "null"'
                r' | "[" WS (python (WS "," WS python)*)? WS "]"'
                r' | "{" WS (python WS ":" WS python (WS "," WS python WS ":" WS python)*)? WS "}"'
            )
            options = ["python"]
        return f"({' | '.join(options)})"

    def _loose(self, shape: LooseDict, schema: Any, name: str) -> str:
        quote = self._exact(shape.quote)
        text = f"{quote} ANY? {quote}" if self._is_special(shape.quote) else f"{quote} {self._lazily(shape.quote)}"
        self._rules["loose"] = (
            f'{text} | /-?[0-9]+(\\.[0-9]+)?([eE][+-]?[0-9]+)?/ | "true" | "false" | "null"'
            ' | "[" (loose ("," loose)*)? "]" | "{" (loose_key ":" loose ("," loose_key ":" loose)*)? "}"'
        )
        self._rules["loose_key"] = r"/[^\s:,{}\[\]<>|]+/"
        return self._loose_value(shape, schema, text, name, 0)

    def _loose_value(self, shape: LooseDict, schema: Any, text: str, name: str, depth: int) -> str:
        allowed = types(schema)
        if len(allowed) != 1 or depth > 4:
            return "loose"
        (kind,) = allowed
        if kind in _SCALARS:
            return _json(schema)
        if kind == "string":
            values = schema.get("enum")
            quote = self._exact(shape.quote)
            if values and all(isinstance(value, str) and value for value in values):
                return f"({' | '.join(f'{quote} {_quoted(value)} {quote}' for value in values)})"
            return f"({text})"
        if kind == "array":
            item = self._loose_value(shape, schema.get("items"), text, f"{name}_i", depth + 1)
            return f'("[" WS ({item} (WS "," WS {item})*)? WS "]")'
        properties = schema.get("properties") or {}
        if not properties:
            return '("{" WS (loose_key ":" loose ("," loose_key ":" loose)*)? WS "}")' if depth else '("{" WS "}")'
        pairs = [
            f'{_quoted(key)} ":" WS '
            + self._loose_value(shape, property_schema(schema, key), text, f"{name}_{at}", depth + 1)
            for at, key in enumerate(properties)
        ]
        body = self._order(pairs, {"parameters": schema}, f"{name}_o", COMMA)
        return f'("{{" WS {body} WS "}}")'

    def _elements(self, shape: Elements, schema: Any, name: str, depth: int = 0) -> str:
        pairs = []
        for at, key in enumerate(schema.get("properties") or {}):
            value = self._element(shape, property_schema(schema, key), key, f"{name}_{at}", depth)
            pairs.append(f"{self._exact(shape.prefix + '<' + key + '>')} {value}")
        return self._order(pairs, {"parameters": schema}, f"{name}_e", "WS") if pairs else '""'

    def _element(self, shape: Elements, schema: Any, key: str, name: str, depth: int) -> str:
        allowed = types(schema)
        end = f"{shape.prefix}</{key}>"
        if allowed == {"array"} and depth < 4:
            item = self._element(shape, schema.get("items") or {}, shape.item, f"{name}_i", depth + 1)
            self._rules[f"{name}_items"] = item
            opening = self._exact(f"{shape.prefix}<{shape.item}>")
            return f"(WS {opening} {name}_items)* WS {self._exact(end)}"
        if allowed == {"object"} and depth < 4 and schema.get("properties"):
            return f"WS {self._elements(shape, schema, f'{name}_m', depth + 1)} WS {self._exact(end)}"
        if allowed and allowed <= set(_SCALARS):
            return f"WS {_json(schema)} WS {self._exact(end)}"
        plain, tail = self._plain_part(end)
        return f"{self._lazily(plain)} {tail}" if plain else f"ANY? {tail}"


COMMA = 'WS "," WS'


def _members(pairs: list[tuple[str, str]]) -> str:
    return ' WS "," WS '.join(f'{_quoted(_json_quoted(key))} WS ":" WS {value}' for key, value in pairs)


def _parameters(function: dict[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters")
    return parameters if isinstance(parameters, dict) and parameters else {"type": "object", "properties": {}}


def _properties(function: dict[str, Any]) -> dict[str, Any]:
    parameters = _parameters(function)
    return {key: property_schema(parameters, key) for key in parameters.get("properties") or {}}


def _without_strings(schema: Any) -> dict[str, Any]:
    allowed = types(schema) - {"string"}
    if not isinstance(schema, dict) or not allowed:
        return {"anyOf": [{"type": kind} for kind in (*_SCALARS, "array", "object")]}
    return {**schema, "type": sorted(allowed)} if "type" in schema else {"type": sorted(allowed)}


def _json(schema: Any) -> str:
    ready = dict(schema) if isinstance(schema, dict) else {}
    ready.pop("$schema", None)
    return "%json " + json.dumps({**ready, "x-guidance": _OPTIONS}, ensure_ascii=False)


def _json_quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _regex(text: str) -> str:
    return re.sub(r"([\\^$.|?*+()\[\]{}/])", r"\\\1", text).replace("\n", r"\n")


def _embedded(grammar: Grammar) -> tuple[str, str] | None:
    """(expression, more rules) of a caller's grammar inside another."""
    kind, value = grammar.kind, grammar.value
    if kind == "json_schema":
        return "%json " + json.dumps(json_schema.embedded(value), ensure_ascii=False), ""
    if kind == "json_object":
        return "%json " + json.dumps(json_schema.embedded({"type": "object"}), ensure_ascii=False), ""
    if kind == "choice" and isinstance(value, list) and value and all(isinstance(v, str) and v for v in value):
        return " | ".join(_quoted(text) for text in value), ""
    if kind == "regex" and isinstance(value, str):
        from llguidance import regex_to_lark

        return f"/{regex_to_lark(value, 'd')}/", ""
    if kind == "gbnf" and isinstance(value, str):
        try:
            value = gbnf.to_lark(value)
        except gbnf.GbnfError:
            return None
    elif kind != "lark" or not isinstance(value, str):
        return None
    # Its rules become rules of this one; only its start, and names that are ours, are given others.
    renamed = re.sub(
        r'"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\\n])+/|\b(start|WS|ANY|wanted)\b',
        lambda found: ("wanted_" if found[1] != "WS" and found[1] != "ANY" else "WANTED_") + found[1]
        if found[1]
        else found[0],
        value,
    )
    return "wanted_start", re.sub(r"^%llguidance.*$", "", renamed, flags=re.MULTILINE) + "\n"


def parameters_json(function: dict[str, Any]) -> str:
    """The arguments of a tool as one JSON object."""
    return _json(_parameters(function))


def embedded(grammar: Grammar) -> str | None:
    """A caller's grammar as an expression and, on further lines, its rules; None where it cannot stand inside
    another."""
    inner = _embedded(grammar)
    return "\n".join(inner) if inner else None
