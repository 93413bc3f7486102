"""What decoding must match so that a call is one of the tools', with arguments that fit its schema: one grammar in
llguidance's Lark, for the whole answer from its first token.

A lexeme goes on for as long as any that may stand there can: so where text of different meaning begins alike, each is
made to end where the others begin.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from engines.llamacpp import gbnf, json_schema
from engines.llamacpp.chat_format.argument_rules import ArgumentRules, properties
from engines.llamacpp.chat_format.lark import COMMA, json_value, parameters, quoted, regex
from engines.llamacpp.chat_format.reader import cores
from engines.llamacpp.chat_format.syntax import Calls, Elements, Hole, JsonCall, PythonCall, TagCall, Tagged, Thinking
from engines.llamacpp.chat_format.values import property_schema
from engines.protocol import Grammar


class GrammarBuilder(ArgumentRules):
    """Use each for one grammar."""

    def calls(self, tools: Sequence[dict[str, Any]], *, parallel: bool, required: bool, reasoning: bool) -> str:
        """``reasoning``: the prompt ends inside the thinking block. ``required``: nothing but reasoning comes before
        the calls, and there is one."""
        calls, thinking = self._syntax.calls, self._syntax.thinking
        assert calls
        section = self._section(calls, tools, parallel)
        if required:
            return self.text(f"{self._reason(reasoning)} {self._dropped()} WS {self._opening(calls)} {section}")
        opening = cores(calls.opening)
        if not opening or opening[0] in ("[", "{"):
            return self._unmarked(calls, tools, reasoning)
        rest = " ".join(f"WS {self._exact(core)}" for core in opening[1:])
        if self._is_special(opening[0]):
            self._rules["TEXT"] = "/(?s:.+)/"
            trigger, found = "", f"{self._running('TEXT')} {self._exact(opening[0])} {rest} {section}"
        else:
            trigger, tail = self._plain_part(opening[0])
            self._rules["TEXT"] = f"/(?s:.+)/ & ~/(?s:.*){regex(trigger)}(?s:.*)/"
            found = f"{self._running('TEXT')} {self._lazily(trigger)} {tail} {rest} {section}"
        answer = f"{found} | {self._running('TEXT')}"
        if thinking is None or thinking.ended_by_call or not (reasoning or thinking.start):
            return self.text(answer)
        self._rules["answer"] = answer
        return self.text(self._after_thinking(thinking, trigger, f"{rest} {section}", reasoning))

    def _unmarked(self, calls: Calls, tools: Sequence[dict[str, Any]], reasoning: bool) -> str:
        """Without a marker a call can only begin the answer, and what begins like one is one."""
        shape = calls.shape
        lead = f"{self._reason(reasoning)} {self._dropped()}"
        if calls.array or not isinstance(shape, JsonCall) or not shape.name or shape.wrapper or shape.id:
            return self.text(f"{lead} {self._running('ANY')}")
        begin = rf'\s*\{{\s*("type"\s*:\s*"function"\s*,\s*)?"{regex(shape.name)}"\s*:'
        self._rules["TEXT"] = rf"/(?s:.+)/ & ~/{begin}(?s:.*)/"
        self._lazy["begun"] = f"/{begin}/"
        options = [
            f'({quoted(quoted(tool["function"]["name"]))} WS "," WS {quoted(quoted(shape.arguments))} WS ":" WS '
            f'{json_value(parameters(tool["function"]))} WS "}}")'
            for tool in tools
        ]
        return self.text(f"{lead} (begun WS ({' | '.join(options)}) WS | {self._running('TEXT')})")

    def _after_thinking(self, thinking: Thinking, trigger: str, section: str, reasoning: bool) -> str:
        """What begins like a call in the thinking block is none. The rule ``answer`` is what comes after it."""
        controls = self._controls()
        end, closes = regex(thinking.end), self._is_special(cores(thinking.end)[0])
        unclosed = "ANY" if closes else "THOUGHT"
        if reasoning:
            self._rules["THOUGHT"] = f"/(?s:.+)/ & ~/(?s:.*){end}(?s:.*)/"
            return f"{self._until(thinking.end)} answer | {unclosed}?"
        if self._is_special(cores(thinking.start)[0]):
            self._rules["THOUGHT"] = f"/(?s:.+)/ & ~/(?s:.*){end}(?s:.*)/"
            start = f"WS {self.literal(thinking.start)}"
            return f"({start} {self._until(thinking.end)})? answer | {start} {unclosed}?"
        start = rf"\s*{regex(thinking.start)}"
        if closes or not trigger:
            return f"answer | {self._running('ANY')}" if closes else "answer"
        self._lazy["thinking"] = f"/{start}(?s:.*?){end}/"
        self._rules["OPEN"] = f"/{start}(?s:.*)/ & ~/(?s:.*){end}(?s:.*)/"
        self._rules["FIRST"] = f"/(?s:.+)/ & ~/(?s:.*){regex(trigger)}(?s:.*)/ & ~/{start}(?s:.*)/"
        self._rules["UP_FIRST"] = f"/(?s:.*){regex(trigger)}/ & ~/{start}(?s:.*)/"
        self._lazy["up_first"] = "UP_FIRST"
        first = f"(FIRST {f'(TEXT | {controls})*' if controls else ''})?"
        return f"thinking answer | up_first {section} | {first} | OPEN"

    def answer(self, grammar: Grammar, *, reasoning: bool) -> str | None:
        """The caller's own grammar, after reasoning and between the markers of content. None for a kind that cannot
        stand inside another."""
        inner = embedded(grammar)
        if inner is None:
            return None
        self._rules["wanted"], _, rules = inner.partition("\n")
        return self.text(f"{self._reason(reasoning)} {self._dropped()} WS wanted WS {self._dropped()}", rules)

    # Around the calls

    def _controls(self) -> str:
        """The control tokens that may stand in running text."""
        thinking = self._syntax.thinking
        markers = [*((thinking.start, thinking.end) if thinking else ()), *self._syntax.dropped]
        pieces = [piece for marker in markers for piece in self._marker.split(marker) if piece]
        return " | ".join(dict.fromkeys(self._exact(piece) for piece in pieces if self._is_special(piece)))

    def _running(self, terminal: str) -> str:
        controls = self._controls()
        return f"({terminal} | {controls})*" if controls else f"{terminal}?"

    def _dropped(self) -> str:
        markers = [self.literal(marker) for marker in self._syntax.dropped]
        return f"(WS ({' | '.join(markers)}))*" if markers else ""

    def _opening(self, calls: Calls) -> str:
        opening = calls.opening.removeprefix(self._syntax.prefix)
        return self.literal(opening) if opening.strip() else ""

    def _reason(self, reasoning: bool) -> str:
        """The thinking block, before what must come."""
        thinking = self._syntax.thinking
        if reasoning and thinking:
            return self._until(thinking.end)
        if thinking is None or not thinking.start:
            return ""
        return f"(WS {self.literal(thinking.start)} {self._until(thinking.end)})?"

    # The calls

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
            last = [piece for piece in self._marker.split(calls.end.strip()) if piece]
            # Where a control token closes the calls it may be the one that ends the answer.
            end += f" (WS {closing})?" if self._is_special(last[-1]) else f" WS {closing}"
        return f"{bracket} WS call{more}{end} {self._dropped()} WS"

    def _after(self, literal: str) -> str:
        return f" WS {self.literal(literal)}" if literal.strip() else ""

    def _call(self, calls: Calls, function: dict[str, Any], prefix: str) -> str:
        shape = calls.shape
        if isinstance(shape, JsonCall):
            return self._json_call(shape, function)
        if isinstance(shape, PythonCall):
            pairs = [f'{quoted(key)} WS "=" WS {self.python(schema)}' for key, schema in properties(function).items()]
            return f'{quoted(function["name"] + "(")} WS {self.order(pairs, function, prefix, COMMA)} WS ")"'
        return self._tag_call(shape, function, prefix)

    def _json_call(self, shape: JsonCall, function: dict[str, Any]) -> str:
        arguments = json_value(parameters(function))
        name = quoted(function["name"])
        if not shape.name:
            return f'"{{" WS {quoted(name)} WS ":" WS {arguments} WS "}}"'
        pairs = [(shape.name, quoted(name)), (shape.arguments, arguments)]
        if shape.wrapper:
            inner = _members(pairs)
            pairs = [(shape.wrapper, f'"{{" WS {inner} WS "}}"')]
        body = _members(pairs)
        if shape.id:
            id = f'{quoted(quoted(shape.id))} WS ":" WS /"[A-Za-z0-9_.:-]{{1,64}}"/'
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
            parts.append("WS " + json_value(parameters(function)))
        elif isinstance(arguments, Tagged):
            pairs = [
                self.tagged(arguments, key, property_schema(parameters(function), key), f"{prefix}_{at}")
                for at, key in enumerate(properties(function))
            ]
            parts.append("WS " + self.order(pairs, function, prefix, "WS"))
        elif isinstance(arguments, Elements):
            parts.append("WS " + self.elements(arguments, parameters(function), prefix))
        else:
            parts.append("WS " + self.loose(arguments, parameters(function), prefix))
        return " ".join(parts) + self._after(shape.tail)

    def _hole(self, hole: Hole, name: str) -> str:
        if hole.kind == "name":
            return quoted(name)
        if hole.kind == "number":
            return "/[0-9]{1,4}/"
        before, after = hole.around
        return f"{quoted(before + name + after)} /[0-9]{{1,4}}/" if after else "/[A-Za-z0-9_.:-]{1,64}/"


def _members(pairs: list[tuple[str, str]]) -> str:
    return ' WS "," WS '.join(f'{quoted(quoted(key))} WS ":" WS {value}' for key, value in pairs)


def _embedded(grammar: Grammar) -> tuple[str, str] | None:
    """(expression, more rules) of a caller's grammar inside another."""
    kind, value = grammar.kind, grammar.value
    if kind == "json_schema":
        return "%json " + json.dumps(json_schema.embedded(value), ensure_ascii=False), ""
    if kind == "json_object":
        return "%json " + json.dumps(json_schema.embedded({"type": "object"}), ensure_ascii=False), ""
    if kind == "choice" and isinstance(value, list) and value and all(isinstance(v, str) and v for v in value):
        return " | ".join(quoted(text) for text in value), ""
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
        lambda found: (
            ("wanted_" if found[1] != "WS" and found[1] != "ANY" else "WANTED_") + found[1] if found[1] else found[0]
        ),
        value,
    )
    return "wanted_start", re.sub(r"^%llguidance.*$", "", renamed, flags=re.MULTILINE) + "\n"


def embedded(grammar: Grammar) -> str | None:
    """A caller's grammar as an expression and, on further lines, its rules; None where it cannot stand inside
    another."""
    inner = _embedded(grammar)
    return "\n".join(inner) if inner else None
