"""An answer, token by token, into content, reasoning and calls.

Nothing that was written is lost: what begins like a call and is none is content. White space around markers is no
part of what they separate.
"""

import json
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engines.llamacpp.chat_format.arguments import elements, loose_value, python_arguments, tagged
from engines.llamacpp.chat_format.reader import Reader, Reading, Stops, cores
from engines.llamacpp.chat_format.syntax import Elements, JsonCall, LooseDict, Syntax, TagCall, Tagged
from engines.protocol import ToolCallDelta

_ALPHABET = string.ascii_letters + string.digits


@dataclass(slots=True)
class Piece:
    """What became certain: text of the answer, text of the reasoning, or a piece of a call."""

    content: str = ""
    reasoning: str = ""
    call: ToolCallDelta | None = None


class AnswerParser:
    """``tools`` are those that may be called (none: nothing is a call). ``reasoning``: the prompt ends inside the
    thinking block. ``continued``: it ends inside the answer, whose white space goes on."""

    def __init__(
        self, syntax: Syntax, tools: Sequence[dict[str, Any]] = (), reasoning: bool = False, continued: bool = False
    ):
        self._syntax = syntax
        self._thinking = syntax.thinking
        self._calls = syntax.calls if tools else None
        self._parameters = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
        self._begins_in_reasoning = reasoning
        self._reader = Reader()
        self._out: list[Piece] = []
        self._index = -1
        self._space = ""
        self._begun = continued
        """Whether anything but white space came since the last marker."""
        self._said = False
        """Whether there is content since the beginning or the last call."""
        self._marked = False
        self._reader.text = "" if continued else syntax.prefix
        self._reading = self._answer()
        next(self._reading, None)

    def feed(self, text: str) -> list[Piece]:
        """The pieces that ``text`` makes certain."""
        self._reader.text += text
        try:
            next(self._reading, None)
        except RecursionError:
            self._reading = self._rest()
            next(self._reading, None)
        out, self._out = self._out, []
        return out

    def finish(self) -> list[Piece]:
        """What was held back, when no more text comes."""
        self._reader.closed = True
        for _ in self._reading:
            pass
        out, self._out = self._out, []
        return out

    def _rest(self) -> Reading[None]:
        """Arguments nested too deep to be read: what follows is content."""
        self._reader.keep = False
        yield from self._reader.prose(Stops(()), self._say)
        self._flush(False)

    def _answer(self) -> Reading[None]:
        thinking, calls = self._thinking, self._calls
        trigger = _trigger(calls.opening) if calls else ""
        triggers = [trigger, _trigger(calls.skippable) if calls else ""]
        dropped = self._syntax.dropped
        inside = [marker for marker in dropped if "|>" in marker]
        if thinking and thinking.ended_by_call:
            inside += triggers
        content_stops = Stops([*triggers, *([thinking.start, thinking.end] if thinking else []), *dropped])
        reasoning_stops = Stops([thinking.end if thinking else "", *inside])
        in_reasoning = self._begins_in_reasoning
        if in_reasoning and thinking and thinking.start:
            yield from self._reader.literal(thinking.start)
        while True:
            if not in_reasoning and calls and not trigger and not self._said:
                yield from self._try_calls()
            marker = yield from self._reader.prose(
                reasoning_stops if in_reasoning else content_stops, self._reason if in_reasoning else self._say
            )
            if not marker:
                self._flush(in_reasoning)
                return
            if marker in triggers:
                if (yield from self._try_calls()):
                    in_reasoning = False
                else:
                    self._literally(marker, in_reasoning)
            elif thinking and marker == thinking.end and (in_reasoning or thinking.anywhere or not self._said):
                self._skip(marker)
                in_reasoning = False
            elif thinking and marker == thinking.start and (thinking.anywhere or not self._said):
                self._skip(marker)
                in_reasoning = True
            elif marker in dropped:
                # Content that is opened ends the thinking that was not closed.
                self._skip(marker)
                in_reasoning = False
            else:
                self._literally(marker, in_reasoning)

    def _skip(self, marker: str) -> None:
        self._reader.at += len(marker)
        self._space = ""
        self._begun = False
        self._marked = True

    def _literally(self, marker: str, in_reasoning: bool) -> None:
        """What looks like a marker and is none."""
        first = self._reader.text[self._reader.at : self._reader.at + len(marker)]
        self._reader.at += len(first)
        (self._reason if in_reasoning else self._say)(first)

    def _say(self, text: str) -> None:
        if text := self._trim(text, keep_first=not self._marked):
            self._said = True
            if self._out and self._out[-1].content:
                self._out[-1].content += text
            else:
                self._out.append(Piece(content=text))

    def _reason(self, text: str) -> None:
        if text := self._trim(text, keep_first=False):
            if self._out and self._out[-1].reasoning:
                self._out[-1].reasoning += text
            else:
                self._out.append(Piece(reasoning=text))

    def _trim(self, text: str, keep_first: bool) -> str:
        """``text`` without the white space at its end, which comes once something follows it."""
        solid = text.rstrip()
        if not solid:
            self._space += text
            return ""
        before, self._space = self._space, text[len(solid) :]
        solid = before + solid if self._begun or keep_first else solid.lstrip()
        self._begun = True
        return solid

    def _flush(self, in_reasoning: bool) -> None:
        if self._space and (self._begun or not self._marked) and not in_reasoning:
            self._out.append(Piece(content=self._space))
        self._space = ""

    # Calls

    def _try_calls(self) -> Reading[bool]:
        """Read the calls that begin here; where there is none nothing is read."""
        calls, reader = self._calls, self._reader
        assert calls
        begin = self._mark()
        array = calls.array
        opened = yield from reader.literal(calls.start)
        if opened and array:
            array = yield from reader.literal("[")
        opened = opened or bool(calls.skippable)
        if not opened or not (yield from self._call()):
            self._back(begin)
            return False
        while True:
            after = self._mark()
            if array:
                if (yield from reader.literal(",")):
                    if (yield from self._call()):
                        continue
                    self._back(after)
                    break
                yield from reader.literal("]")
                yield from self._closing(calls.end)
                break
            if calls.end and (yield from self._closing(calls.end)):
                break
            if not calls.start and not calls.separator.strip():
                break
            if reader.closed and reader.at == len(reader.text):
                break
            yield from reader.literal(calls.separator)
            if not (yield from self._call()):
                self._back(after)
                break
        reader.keep = False
        self._space = ""
        self._begun = self._said = False
        self._marked = True
        return True

    def _mark(self) -> int:
        self._reader.compact()
        self._reader.keep = True
        return self._reader.at

    def _back(self, at: int) -> None:
        self._reader.at = at
        self._reader.keep = False

    def _call(self) -> Reading[bool]:
        """Whether a call begins here: its name is one of the tools'. Then it is read as far as it can be."""
        assert self._calls
        if not (yield from self._reader.literal(self._calls.call_start)):
            return False
        shape = self._calls.shape
        if isinstance(shape, JsonCall):
            read = yield from self._json_call(shape)
        elif isinstance(shape, TagCall):
            read = yield from self._tag_call(shape)
        else:
            read = yield from self._python_call()
        if read:
            yield from self._closing(self._calls.call_end)
        return read

    def _closing(self, literal: str) -> Reading[bool]:
        """Read as much of ``literal`` as there is. Whether there is any."""
        some = False
        for part in cores(literal):
            if not (yield from self._reader.literal(part)):
                self._reader.skip_beginning(part)
                break
            some = True
        return some

    def _open(self, name: str, id: str) -> None:
        """From here on it is a call, whatever comes."""
        self._reader.keep = False
        self._space = ""
        self._index += 1
        id = id or "".join(secrets.choice(_ALPHABET) for _ in range(9))
        self._out.append(Piece(call=ToolCallDelta(self._index, id, name)))

    def _emit(self, arguments: str) -> None:
        last = self._out[-1].call if self._out else None
        if last and last.index == self._index:
            last.arguments += arguments
        elif arguments:
            self._out.append(Piece(call=ToolCallDelta(self._index, arguments=arguments)))

    def _json_call(self, shape: JsonCall) -> Reading[bool]:
        draft = _Draft()
        yield from self._json_members(shape, draft)
        if draft.opened and self._reader.closed:
            self._reader.at = len(self._reader.text)  # cut off between the arguments and the end
        if not draft.opened and draft.name in self._parameters:
            draft.opened = True
            self._open(draft.name, draft.id)
            self._emit("".join(draft.arguments) or "{}")
        return draft.opened

    def _json_members(self, shape: JsonCall, draft: "_Draft") -> Reading[bool]:
        reader = self._reader
        if not (yield from reader.literal("{")):
            return False
        while not (yield from reader.literal("}")):
            yield from reader.space()
            key = yield from reader.json_string()
            if key is None or not (yield from reader.literal(":")):
                return False
            yield from reader.space()
            following = yield from reader.peek()
            if not shape.name and not draft.name:
                draft.name = key
                read = yield from self._json_arguments(shape, draft)
            elif key == shape.name and following == '"':
                draft.name = (yield from reader.json_string()) or ""
                read = draft.name in self._parameters
            elif key in (shape.arguments, "arguments", "parameters"):
                read = yield from self._json_arguments(shape, draft)
            elif key == shape.id:
                written: list[str] = []
                read = yield from reader.json_value(written.append)
                draft.id = "".join(written).strip('"')
            elif key in (shape.wrapper, "function") and following == "{":
                read = yield from self._json_members(shape, draft)
            else:
                read = yield from reader.json_value(lambda _: None)
            if not read:
                return False
            yield from reader.literal(",")
        return True

    def _json_arguments(self, shape: JsonCall, draft: "_Draft") -> Reading[bool]:
        reader = self._reader
        if not shape.name and draft.name not in self._parameters:
            return False
        if draft.name and not shape.id_last:
            draft.opened = True
            self._open(draft.name, draft.id)
        following = yield from reader.peek()
        if following == "{":
            return (yield from reader.json_value(self._emit if draft.opened else draft.arguments.append))
        # Some models write the arguments as a text of JSON, or null for none.
        written: list[str] = []
        read = yield from reader.json_value(written.append)
        arguments = _as_object("".join(written))
        (self._emit if draft.opened else draft.arguments.append)(arguments)
        return read

    def _tag_call(self, shape: TagCall) -> Reading[bool]:
        reader = self._reader
        name = id = ""
        literals = [part for part in (*shape.head, shape.head_end, shape.tail) if isinstance(part, str)]
        for at, part in enumerate(shape.head):
            if isinstance(part, str):
                if not (yield from reader.literal(part)):
                    skippable = self._calls.skippable if self._calls and at == 0 else ""
                    if not skippable or not (yield from reader.literal(skippable)):
                        return False
                continue
            yield from reader.space()
            following = [p for p in shape.head[at + 1 : at + 2] if isinstance(p, str)] or literals[-2:]
            ends = {cores(literal)[0][0] for literal in following if cores(literal)}
            word = yield from reader.word("".join({*'<[{("', *ends}))
            if part.kind in ("name", "id"):
                if part.kind == "name":
                    name = word
                else:
                    id = word
                    name = _name_in(id, part.around) or name
                if (part.kind == "name" or any(part.around)) and name not in self._parameters:
                    return False
        self._open(name, id)
        headed = yield from reader.literal(shape.head_end)
        if not headed:
            reader.skip_beginning(shape.head_end)
        yield from reader.space()
        parameters = self._parameters[name]
        if isinstance(shape.arguments, Tagged):
            yield from tagged(reader, shape.arguments, parameters, self._emit)
        elif isinstance(shape.arguments, Elements):
            yield from elements(reader, shape.arguments, parameters, self._emit)
        elif headed and (yield from reader.peek()) == "{":
            if isinstance(shape.arguments, LooseDict):
                yield from loose_value(reader, shape.arguments.quote, self._emit)
            else:
                yield from reader.json_value(self._emit)
        else:
            self._emit("{}")
        yield from reader.literal(shape.tail)
        return True

    def _python_call(self) -> Reading[bool]:
        reader = self._reader
        yield from reader.space()
        name = yield from reader.word("(")
        if name not in self._parameters or not (yield from reader.literal("(")):
            return False
        self._open(name, "")
        yield from python_arguments(reader, self._parameters[name], self._emit)
        return True


@dataclass(slots=True)
class _Draft:
    """What is known of a call that is one JSON object."""

    name: str = ""
    id: str = ""
    opened: bool = False
    arguments: list[str] = field(default_factory=list)


def _trigger(opening: str) -> str:
    """The marker by which calls are found in running text; empty where a call can only begin the answer."""
    first = cores(opening)[0] if cores(opening) else ""
    return "" if first in ("[", "{") else first


def _name_in(id: str, around: tuple[str, str]) -> str:
    """The name in an id such as ``functions.NAME:0``."""
    before, after = around
    return id.removeprefix(before).rpartition(after)[0] if after else ""


def _as_object(written: str) -> str:
    try:
        value = json.loads(written)
        inner = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return "{}"
    if not isinstance(inner, dict):
        return "{}"
    return value if isinstance(value, str) else written
