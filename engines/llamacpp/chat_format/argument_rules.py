"""Rules for the arguments of a call that are not one JSON object."""

from typing import Any

from engines.llamacpp.chat_format.lark import COMMA, SCALARS, Lark, json_value, parameters, quoted
from engines.llamacpp.chat_format.reader import cores
from engines.llamacpp.chat_format.syntax import Elements, LooseDict, Tagged
from engines.llamacpp.chat_format.values import property_schema, types

#: More required arguments than this come in the order of the schema.
_FREE_ORDER = 4


class ArgumentRules(Lark):
    """Each method gives the expression of one form of arguments; ``name`` is the beginning of its rules' names."""

    def order(self, pairs: list[str], function: dict[str, Any], name: str, separator: str) -> str:
        """The arguments in any order: each required one once, the others as they come."""
        required = parameters(function).get("required") or []
        needed = [at for at, key in enumerate(properties(function)) if key in required]
        for at, pair in enumerate(pairs):
            self._rules[f"{name}_arg{at}"] = pair
        free = [f"{name}_arg{at}" for at in range(len(pairs)) if at not in needed]
        if len(needed) > _FREE_ORDER:
            # So many orders would make a large grammar: theirs is that of the schema.
            self._rules[f"{name}_all"] = f" {separator} ".join(f"{name}_arg{at}" for at in needed)
            return self._remaining(frozenset(("all",)), free, name, separator, first=True)
        left = frozenset(f"arg{at}" for at in needed)
        return self._remaining(left, free, name, separator, first=True)

    def _remaining(self, left: frozenset[str], free: list[str], name: str, separator: str, first: bool = False) -> str:
        """The rule of what may follow while ``left`` must still come."""
        rule = f"{name}_{'first' if first else 'left'}_{'_'.join(sorted(left))}"
        if rule in self._rules:
            return rule
        self._rules[rule] = ""
        lead = "" if first else f"{separator} "
        options = [f"{lead}{name}_{key} {self._remaining(left - {key}, free, name, separator)}" for key in sorted(left)]
        if free:
            options.append(f"{lead}({' | '.join(free)}) {self._remaining(left, free, name, separator)}")
        if not left:
            options.append('""')
        self._rules[rule] = " | ".join(options)
        return rule

    def tagged(self, shape: Tagged, key: str, schema: Any, name: str) -> str:
        allowed = types(schema)
        start = f"{self.literal(shape.key_start)} {quoted(key)}"
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
                value = json_value(_without_strings(schema) if textual else schema)
                options.append(f"{self.literal(end)} WS {value} WS {self.literal(shape.value_end)}")
        elif shape.json_strings:
            end = shape.key_end["string"]
            options.append(f"{self.literal(end)} WS {json_value(schema or {})} WS {self.literal(shape.value_end)}")
        self._rules[name] = " | ".join(options)
        return f"{start} {name}"

    def _tagged_text(self, key_end: str, value_end: str, values: list[Any] | None) -> str:
        space = key_end[len(key_end.rstrip()) :]
        lead = self.literal(key_end) + (f" {quoted(space)}" if space else "")
        if values and all(isinstance(value, str) for value in values):
            return f"{lead} ({' | '.join(quoted(value) for value in values if value)}) WS {self.literal(value_end)}"
        first, *rest = cores(value_end)
        before = value_end[: len(value_end) - len(value_end.lstrip())]
        after = "".join(f" WS {self._exact(core)}" for core in rest)
        if self._is_special(first):
            return f"{lead} ANY? {self._exact(first)}{after}"
        plain, tail = self._plain_part(first)
        return f"{lead} {self._lazily(before + plain)} {tail}{after}"

    def python(self, schema: Any) -> str:
        allowed = types(schema)
        options = [json_value(schema)]
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

    def loose(self, shape: LooseDict, schema: Any, name: str) -> str:
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
        if kind in SCALARS:
            return json_value(schema)
        if kind == "string":
            values = schema.get("enum")
            quote = self._exact(shape.quote)
            if values and all(isinstance(value, str) and value for value in values):
                return f"({' | '.join(f'{quote} {quoted(value)} {quote}' for value in values)})"
            return f"({text})"
        if kind == "array":
            item = self._loose_value(shape, schema.get("items"), text, f"{name}_i", depth + 1)
            return f'("[" WS ({item} (WS "," WS {item})*)? WS "]")'
        properties = schema.get("properties") or {}
        if not properties:
            return '("{" WS (loose_key ":" loose ("," loose_key ":" loose)*)? WS "}")' if depth else '("{" WS "}")'
        pairs = [
            f'{quoted(key)} ":" WS '
            + self._loose_value(shape, property_schema(schema, key), text, f"{name}_{at}", depth + 1)
            for at, key in enumerate(properties)
        ]
        body = self.order(pairs, {"parameters": schema}, f"{name}_o", COMMA)
        return f'("{{" WS {body} WS "}}")'

    def elements(self, shape: Elements, schema: Any, name: str, depth: int = 0) -> str:
        pairs = []
        for at, key in enumerate(schema.get("properties") or {}):
            value = self._element(shape, property_schema(schema, key), key, f"{name}_{at}", depth)
            pairs.append(f"{self._exact(shape.prefix + '<' + key + '>')} {value}")
        return self.order(pairs, {"parameters": schema}, f"{name}_e", "WS") if pairs else '""'

    def _element(self, shape: Elements, schema: Any, key: str, name: str, depth: int) -> str:
        allowed = types(schema)
        end = f"{shape.prefix}</{key}>"
        if allowed == {"array"} and depth < 4:
            item = self._element(shape, schema.get("items") or {}, shape.item, f"{name}_i", depth + 1)
            self._rules[f"{name}_items"] = item
            opening = self._exact(f"{shape.prefix}<{shape.item}>")
            return f"(WS {opening} {name}_items)* WS {self._exact(end)}"
        if allowed == {"object"} and depth < 4 and schema.get("properties"):
            return f"WS {self.elements(shape, schema, f'{name}_m', depth + 1)} WS {self._exact(end)}"
        if allowed and allowed <= set(SCALARS):
            return f"WS {json_value(schema)} WS {self._exact(end)}"
        plain, tail = self._plain_part(end)
        return f"{self._lazily(plain)} {tail}" if plain else f"ANY? {tail}"


def properties(function: dict[str, Any]) -> dict[str, Any]:
    """The schema of each argument of a tool."""
    schema = parameters(function)
    return {key: property_schema(schema, key) for key in schema.get("properties") or {}}


def _without_strings(schema: Any) -> dict[str, Any]:
    allowed = types(schema) - {"string"}
    if not isinstance(schema, dict) or not allowed:
        return {"anyOf": [{"type": kind} for kind in (*SCALARS, "array", "object")]}
    return {**schema, "type": sorted(allowed)} if "type" in schema else {"type": sorted(allowed)}
