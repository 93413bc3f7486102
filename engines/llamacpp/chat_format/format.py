"""A model's chat format: from messages to a prompt, and from the answer's text to content, reasoning and calls."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import jinja2

from engines.engine import EngineError
from engines.llamacpp.chat_format import harmony, plain_json
from engines.llamacpp.chat_format.analysis import analyse
from engines.llamacpp.chat_format.grammar import GrammarBuilder, embedded
from engines.llamacpp.chat_format.lark import Special
from engines.llamacpp.chat_format.messages import adapt, check, describe_tools
from engines.llamacpp.chat_format.parser import AnswerParser
from engines.llamacpp.chat_format.probe import probe_capabilities
from engines.llamacpp.chat_format.reader import cores
from engines.llamacpp.chat_format.syntax import JsonCall, Syntax
from engines.llamacpp.chat_template import CHATML, RENDER_ERRORS, JinjaTemplate
from engines.protocol import Grammar

_END = "zq end of the last message"


@dataclass
class Prepared:
    """A prompt, and how its answer is to be read."""

    text: str
    add_special: bool
    """Whether the tokenizer must still add the tokens that begin a prompt."""
    stop: list[str] = field(default_factory=list)
    """Strings that end an answer because the model does not know them as tokens."""
    parser: AnswerParser | None = None
    """None: the answer is plain text."""
    grammar: Grammar | None = None
    """What the answer must match from its first token."""
    lazy: list[str] = field(default_factory=list)
    """Until one of these came, the grammar allows anything."""
    show: list[str] = field(default_factory=list)
    """Texts of control tokens that the parser must see."""


class ChatFormat:
    """``template`` is the file's; without one, or with a broken one, ChatML stands in. ``special``: see
    `grammar.Special`. Analysing a template takes some tens of milliseconds.

    ``source`` is ``gguf`` or ``chatml``; ``notes`` are sentences for the user; ``capabilities`` are of ``tools`` and
    ``thinking``; ``template`` is the text that is used; ``syntax`` what was found out.
    """

    def __init__(self, template: str | None, bos: str, eos: str, is_special: Special = lambda text: False):
        self.source, self.notes = "gguf", list[str]()
        self._bos, self._special = bos, cache(is_special)
        self._stop: list[str] = []
        jinja = None
        if template:
            try:
                jinja = JinjaTemplate(template, bos, eos)
            except jinja2.TemplateError as error:
                self.notes.append(f"The chat template in the file is broken ({error}); ChatML stands in for it.")
        else:
            self.notes.append("The file carries no chat template; ChatML stands in for it.")
        if jinja is None:
            self.source, self._stop = "chatml", ["<|im_end|>", "<|im_start|>"]
            jinja = JinjaTemplate(CHATML, bos, eos)
        self._jinja = jinja
        self.template = jinja.text
        self._can = probe_capabilities(jinja)
        self._harmony = harmony.recognised(self.template)
        self.syntax = analyse(jinja, self._can)
        if self.syntax.thinking and self._special(self.syntax.thinking.start):
            # No text can be mistaken for it.
            self.syntax = replace(self.syntax, thinking=replace(self.syntax.thinking, anywhere=True))
        if self.syntax.calls is None and not self._harmony and self.source == "gguf":
            self.notes.append("The chat template knows no tools; they are described to the model in words.")
        self.capabilities = ["tools", *(["thinking"] if self.syntax.thinking or self._harmony else [])]

    def prepare(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] = (),
        tool_choice: str = "auto",
        parallel: bool = True,
        variables: dict[str, Any] | None = None,
        grammar: Grammar | None = None,
        continue_final: bool = False,
        images: bool = False,
        parse: bool = True,
    ) -> Prepared:
        """Render ``messages`` (in the form of `protocol.Generate`) and say how the answer is to be read.

        Raises `EngineError` (``invalid_input``), also when the template itself refuses the messages.
        """
        checked = check(messages, images)
        callable = _callable(tools, tool_choice)
        required = tool_choice == "required" or tool_choice.startswith("function:")
        plain = bool(callable) and self.syntax.calls is None and not self._harmony
        if plain:
            checked = describe_tools(checked, plain_json.instructions(callable, required))
        elif callable and not self._can.tools:
            checked = describe_tools(checked, self._instructions(callable))
        text = self._render(checked, tools, _variables(variables), continue_final)
        thinking = self.syntax.thinking
        prepared = Prepared(text, add_special=not (self._bos and text.startswith(self._bos)), stop=list(self._stop))
        prepared.grammar = grammar
        if not parse:
            return prepared
        reasoning = bool(thinking) and not self._harmony and self._ends_in_reasoning(text, continue_final, checked)
        continued = continue_final and checked[-1]["role"] == "assistant"
        if self._harmony:
            self._read_harmony(prepared, callable, required, parallel, grammar)
            if continued:
                channel = "final" if checked[-1]["content"] else "analysis"
                prepared.parser = harmony.HarmonyParser(callable, f"<|channel|>{channel}<|message|>")
        elif plain:
            prepared.parser = plain_json.PlainJsonParser(callable, thinking, reasoning)
            if grammar is None or required:
                prepared.grammar = self._plain_grammar(callable, parallel, required, reasoning)
        else:
            self._read(prepared, callable, required, parallel, grammar, reasoning)
            if continued and prepared.parser:
                prepared.parser = AnswerParser(self.syntax, callable, reasoning, continued=True)
        prepared.show = [marker for marker in self._markers() if self._special(marker)] if prepared.parser else []
        return prepared

    def _render(
        self, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]], variables: dict[str, Any], final: bool
    ) -> str:
        shown = list(tools)
        more = {"xml_tools": shown} if shown and "xml_tools" in self.template else {}
        adapted = adapt(messages, self._can, self.template)
        if not final or messages[-1]["role"] != "assistant":
            return self._rendered(adapted, shown, {**variables, **more})
        # The last message is cut where a mark in it stands, so that no end of the turn follows it.
        last = adapted[-1]
        key = "content" if messages[-1]["content"] or not last.get("reasoning_content") else "reasoning_content"
        marked = {**last, key: _marked(last.get(key))}
        if key == "reasoning_content":
            marked |= {other: marked[key] for other in ("thinking", "reasoning") if other in last}
        if not self._harmony:
            try:
                text = self._rendered([*adapted[:-1], marked], shown, {**variables, **more}, prompt=False)
            except EngineError:
                text = ""
            before, found, _ = text.rpartition(_END)
            if found:
                return before
        # The template leaves it out, or refuses it: it is written after the prompt for an answer.
        text = self._rendered(adapted[:-1], shown, {**variables, **more})
        return text + self._begun(text, messages[-1], key == "reasoning_content")

    def _begun(self, text: str, message: dict[str, Any], reasoning: bool) -> str:
        """The beginning of an answer, as the model would have written it after ``text``."""
        if self._harmony:
            said = message.get("reasoning_content") if reasoning else message["content"]
            return f"<|channel|>{'analysis' if reasoning else 'final'}<|message|>{said or ''}"
        thinking = self.syntax.thinking
        if thinking is None:
            return str(message["content"])
        opened = bool(thinking.start) and text.rstrip().endswith(thinking.start)
        if reasoning:
            return ("" if opened else thinking.start) + message["reasoning_content"]
        return (thinking.end if opened else "") + str(message["content"])

    def _rendered(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        variables: dict[str, Any],
        prompt: bool = True,
    ) -> str:
        try:
            return self._jinja.render(messages, tools, variables, prompt)
        except RENDER_ERRORS as error:
            raise EngineError(
                "invalid_input", f"the chat template refuses these messages: {error}", field="messages"
            ) from error

    def _ends_in_reasoning(self, text: str, continued: bool, messages: list[dict[str, Any]]) -> bool:
        thinking = self.syntax.thinking
        assert thinking
        if continued and messages[-1]["role"] == "assistant":
            return bool(messages[-1].get("reasoning_content")) and not messages[-1]["content"]
        if not thinking.start:
            return not text.rstrip().endswith(thinking.end)
        return text.rstrip().endswith(thinking.start)

    def _read(
        self,
        prepared: Prepared,
        tools: list[dict[str, Any]],
        required: bool,
        parallel: bool,
        grammar: Grammar | None,
        reasoning: bool,
    ) -> None:
        syntax = self.syntax
        if not tools and syntax.thinking is None and not syntax.dropped:
            return
        prepared.parser = AnswerParser(syntax, tools, reasoning)
        calls = syntax.calls
        if tools and calls and (grammar is None or required):
            builder = GrammarBuilder(syntax, self._special)
            around = [*syntax.dropped, *([syntax.thinking.start] if syntax.thinking else [])]
            if not required and any(calls.opening.strip() in marker for marker in around if calls.opening.strip()):
                return  # what opens a call opens other things too
            text = builder.calls(tools, parallel=parallel and calls.parallel, required=required, reasoning=reasoning)
            prepared.grammar = Grammar("lark", text)
            if not required:
                opening = cores(calls.opening)
                marker = opening[0] if opening and opening[0] not in ("[", "{") else ""
                key = f'"{calls.shape.name}"' if isinstance(calls.shape, JsonCall) else ""
                prepared.lazy = [marker or key] if marker or key else []
        elif grammar is not None and (syntax.thinking or syntax.dropped):
            answer = GrammarBuilder(syntax, self._special).answer(grammar, reasoning=reasoning)
            prepared.grammar = Grammar("lark", answer) if answer else grammar

    def _plain_grammar(self, tools: list[dict[str, Any]], parallel: bool, required: bool, reasoning: bool) -> Grammar:
        schema = plain_json.grammar_schema(tools, parallel=parallel, required=required)
        if self.syntax.thinking is None:
            return Grammar("lark", f"start: %json {json.dumps(schema | {'x-guidance': {'lenient': True}})}\n")
        inner = Grammar("lark", f"start: %json {json.dumps(schema | {'x-guidance': {'lenient': True}})}\n")
        answer = GrammarBuilder(replace(self.syntax, dropped=()), self._special).answer(inner, reasoning=reasoning)
        return Grammar("lark", answer) if answer else inner

    def _read_harmony(
        self,
        prepared: Prepared,
        tools: list[dict[str, Any]],
        required: bool,
        parallel: bool,
        grammar: Grammar | None,
    ) -> None:
        prepared.parser = harmony.HarmonyParser(tools)
        answer = embedded(grammar) if grammar is not None else ""
        if answer is None or not (tools or answer):
            return
        text = harmony.grammar(tools, self._special, parallel=parallel, required=required, answer=answer)
        prepared.grammar = Grammar("lark", text)
        if tools and not required and not answer:
            prepared.lazy = ["to=functions"]

    def _markers(self) -> list[str]:
        """Every marker of the syntax that may be a control token."""
        if self._harmony:
            return [marker for marker in harmony.MARKERS if marker != "<|return|>"]
        found: dict[str, None] = {}
        for text in _texts(self.syntax):
            for piece in re.findall(r"<[^<>\s]+>|\[/?[A-Z_]+\]", text):
                found[piece] = None
            found.update(dict.fromkeys(cores(text)))
        return list(found)

    def _instructions(self, tools: list[dict[str, Any]]) -> str:
        """For templates that write calls but describe no tools."""
        described = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
        text = f"You can call these tools:\n{described}"
        function = {"name": "TOOL_NAME", "arguments": {"ARGUMENT": "VALUE"}}
        call = {"id": "000000000", "type": "function", "function": function}
        conversation: list[dict[str, Any]] = [
            {"role": "user", "content": "_"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        shown = self._rendered(adapt(check(conversation, False), self._can, self.template), [], {}, prompt=False)
        calls = self.syntax.calls
        opening, closing = (cores(calls.opening), cores(calls.end or calls.call_end)) if calls else ((), ())
        begin = shown.rfind(opening[0]) if opening else -1
        if begin < 0:
            return text
        end = shown.rfind(closing[-1]) + len(closing[-1]) if closing else len(shown)
        return f"{text}\n\nTo call one, write:\n{shown[begin : max(begin, end)]}"


def _callable(tools: Sequence[dict[str, Any]], choice: str) -> list[dict[str, Any]]:
    if choice == "none":
        return []
    if choice.startswith("function:"):
        name = choice.partition(":")[2]
        chosen = [tool for tool in tools if tool["function"]["name"] == name]
        if not chosen:
            raise EngineError("invalid_input", f"tool_choice names {name}, which is not in tools", field="tool_choice")
        return chosen
    if choice == "required" and not tools:
        raise EngineError("invalid_input", "tool_choice requires a call, and there are no tools", field="tool_choice")
    return list(tools)


def _variables(given: dict[str, Any] | None) -> dict[str, Any]:
    """llama.cpp's default is to think; templates know the switch by one of two names."""
    variables = dict(given or {})
    thinks = variables.setdefault("enable_thinking", variables.get("reasoning_effort") != "none")
    variables.setdefault("thinking", thinks)
    return variables


def _marked(content: Any) -> Any:
    """``content`` with a mark at its end that no template trims."""
    if isinstance(content, list):
        return [*content[:-1], {**content[-1], "text": content[-1].get("text", "") + _END}] if content else content
    return (content or "") + _END


def _texts(syntax: Syntax) -> list[str]:
    """All literal texts in ``syntax``."""
    found: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict):
            for part in value.values():
                collect(part)
        elif isinstance(value, tuple):
            for part in value:
                collect(part)
        elif hasattr(value, "__dataclass_fields__") and not isinstance(value, JsonCall):
            for name in value.__dataclass_fields__:
                collect(getattr(value, name))

    collect(syntax)
    return found
