"""gpt-oss's own form (harmony): a turn is a row of messages, each with a header that says its channel and whom it is
for. No comparison of renderings shows that, since the template writes headers otherwise than the model."""

import re
from collections.abc import Sequence
from typing import Any

from engines.llamacpp.chat_format.lark import Special, json_value, parameters, quoted
from engines.llamacpp.chat_format.parser import AnswerParser
from engines.llamacpp.chat_format.reader import Reading, Stops
from engines.llamacpp.chat_format.syntax import Syntax

_HEADER = Stops(["<|message|>"])
_ENDS = Stops(["<|end|>", "<|start|>", "<|channel|>", "<|call|>", "<|return|>"])
_RECIPIENT = re.compile(r"\bto=functions\.([\w.-]+)")
MARKERS = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>")


def recognised(template: str) -> bool:
    return "<|channel|>" in template and "<|message|>" in template


class HarmonyParser(AnswerParser):
    """The channels ``analysis`` is reasoning; ``final``, and ``commentary`` for nobody, are content."""

    def __init__(self, tools: Sequence[dict[str, Any]] = (), header: str = ""):
        super().__init__(Syntax(prefix=header), tools)
        if header:
            self._begun = True

    def _answer(self) -> Reading[None]:
        reader = self._reader
        while True:
            yield from reader.space()
            if not (yield from reader.peek()):
                return
            header: list[str] = []
            begin = self._mark()
            plain = yield from self._is_plain()
            if plain:
                reader.keep = False
                marker = yield from reader.prose(_ENDS, self._say)
                if not marker:
                    self._flush(False)
                    return
                continue
            self._back(begin)
            marker = yield from reader.prose(_HEADER, header.append)
            text = "".join(header)
            if not marker:
                self._say(text)
                self._flush(False)
                return
            reader.at += len(marker)
            yield from self._message(text)

    def _is_plain(self) -> Reading[bool]:
        """Whether no header follows."""
        for marker in ("<|start|>", "<|channel|>", "assistant", "to=functions", "<|end|>", "<|call|>", "<|return|>"):
            if (yield from self._reader.exact(marker)):
                return False
        return True

    def _message(self, header: str) -> Reading[None]:
        reader = self._reader
        self._space, self._begun = "", False
        self._marked = True
        found = _RECIPIENT.search(header)
        if found and found[1] in self._parameters:
            yield from reader.space()
            self._open(found[1], "")
            if (yield from reader.peek()) == "{":
                yield from reader.json_value(self._emit)
            else:
                self._emit("{}")
        elif found:
            # A tool that is not there: what was said to it is content.
            self._say(header + "<|message|>")
        sink = self._reason if "analysis" in header and not found else self._say
        marker = yield from reader.prose(_ENDS, sink)
        if marker in ("<|end|>", "<|call|>", "<|return|>"):
            reader.at += len(marker)
        self._space = ""


def grammar(
    tools: Sequence[dict[str, Any]], special: Special, *, parallel: bool, required: bool, answer: str = ""
) -> str:
    """Lark for the whole answer: reasoning, then a call of each kind of header, or the final text. ``answer``: what a
    final text must match, and the rules that it uses on further lines."""

    def token(text: str) -> str:
        id = special(text)
        if id is None or id is False:
            return f'"{text}"'
        return text if id is True else f"<[{id}]>"

    end, message, channel, begin = (token(t) for t in ("<|end|>", "<|message|>", "<|channel|>", "<|start|>"))
    constrain, call_end = token("<|constrain|>"), token("<|call|>")
    ended = f"TEXT? {end}" if special("<|end|>") else "up_to_end"
    rules = [
        'talk: "commentary" | "analysis"',
        f'again: ({begin} "assistant")?',
        "TEXT: /(?s:.+)/",
        r"WS: /[ \n]{0,4}/",
    ]
    if not special("<|end|>"):
        rules.append(r"up_to_end[lazy]: /(?s:.*?)<\|end\|>/")
    names = []
    for at, tool in enumerate(tools):
        function = tool["function"]
        rules.append(f"to_{at}: {quoted(' to=functions.' + function['name'])}")
        rules.append(
            f"call_{at}: (to_{at} {channel} talk | {channel} talk to_{at})"
            f' WS ({constrain})? ("json")? {message} WS {json_value(parameters(function))} WS ({call_end})?'
        )
        names.append(f"call_{at}")
    rules.append(f'thought: again {channel} "analysis" {message} {ended}')
    rules.append(f'preamble: again {channel} "commentary" {message} {ended}')
    wanted, _, more = answer.partition("\n")
    text = f"WS ({wanted})" if wanted else "TEXT?"
    final = f'again {channel} "final" (" "? {constrain} "json")? {message} {text} ({end})?'
    calls = f"again ({' | '.join(names)})" if names else ""
    calls = f"({calls} ({calls})*)" if names and parallel else calls
    ending = " | ".join(filter(None, [calls, "" if required else final]))
    return "\n".join([f"start: (thought | preamble)* ({ending})", *rules, more]) + "\n"
