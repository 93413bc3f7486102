"""How one choice of a stream is said: server-sent events, all that does not change encoded beforehand."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

import msgspec

from app.api import errors
from app.api.answer import Answer, Started
from app.api.http import Request
from app.api.openai import logprobs
from app.api.openai.answers import interleave, timings, usage
from app.errors import PilothouseError
from app.schema.openai import (
    ChunkChoice,
    CompletionChoice,
    Delta,
    DeltaCall,
    DeltaFunction,
)
from engines.protocol import TokenEvent, ToolCallDelta

_encoder = msgspec.json.Encoder()
encode = _encoder.encode
_DONE = b"data: [DONE]\n\n"


class Voice(Protocol):
    def say(self, event: TokenEvent) -> bytes:
        """Server-sent events; empty where there is nothing to say."""


class Frame:
    """What surrounds the choices in every event of one stream. ``with_usage``: every event but the last has a null
    ``usage``, as OpenAI's."""

    def __init__(self, kind: str, number: str, created: int, model: str, fingerprint: str, with_usage: bool):
        self._start = b"data: " + encode(
            {"id": number, "object": kind, "created": created, "model": model, "system_fingerprint": fingerprint}
        ).removesuffix(b"}")
        self.head = self._start + b',"choices":['
        self.tail = b'],"usage":null}\n\n' if with_usage else b"]}\n\n"

    def choice(self, choice: ChunkChoice | CompletionChoice) -> bytes:
        return self.head + encode(choice) + self.tail

    def last(self, **fields: Any) -> bytes:
        """No choices, but ``usage`` or ``timings``."""
        return self._start + b',"choices":[],' + encode(fields).removeprefix(b"{") + b"\n\n"


class ChatVoice:
    """``legacy``: calls are said as ``function_call``, which came before tools."""

    def __init__(self, frame: Frame, index: int, legacy: bool = False):
        self._frame, self._index, self._legacy = frame, index, legacy
        self._before = frame.head + b'{"index":%d,"delta":{"content":' % index
        self._after = b'},"logprobs":null,"finish_reason":null}' + frame.tail
        self.opening = frame.choice(ChunkChoice(index, Delta(role="assistant", content="")))

    def say(self, event: TokenEvent) -> bytes:
        if event.reasoning or event.tool_calls or event.logprobs or event.finish_reason:
            return self._say_more(event)
        return self._before + encode(event.text) + self._after if event.text else b""

    def _say_more(self, event: TokenEvent) -> bytes:
        choice, index = self._frame.choice, self._index
        chunks = []
        if event.reasoning:
            chunks.append(ChunkChoice(index, Delta(reasoning_content=event.reasoning)))
        if event.text:
            chunks.append(ChunkChoice(index, Delta(content=event.text)))
        if event.tool_calls:
            chunks += [ChunkChoice(index, delta) for delta in self._calls(event.tool_calls)]
        if event.logprobs:
            if not chunks:
                chunks.append(ChunkChoice(index, Delta(content="")))
            chunks[0].logprobs = logprobs.of_chat(event.logprobs)
        if event.finish_reason:
            chunks.append(ChunkChoice(index, Delta(), finish_reason=finish_reason(event.finish_reason, self._legacy)))
        return b"".join(map(choice, chunks))

    def _calls(self, deltas: list[ToolCallDelta]) -> list[Delta]:
        if self._legacy:
            said = [DeltaFunction(delta.name or None, delta.arguments) for delta in deltas if delta.index == 0]
            return [Delta(function_call=function) for function in said]
        calls = []
        for delta in deltas:
            first = bool(delta.id or delta.name)
            calls.append(
                DeltaCall(
                    delta.index,
                    delta.id or None,
                    "function" if first else None,
                    DeltaFunction(delta.name or None, delta.arguments),
                )
            )
        return [Delta(tool_calls=calls)]


class CompletionVoice:
    def __init__(self, frame: Frame, index: int, offset: int = 0):
        self._frame, self._index = frame, index
        self._before = frame.head + b'{"index":%d,"text":' % index
        self._after = b',"logprobs":null,"finish_reason":null}' + frame.tail
        self._logprobs = logprobs.CompletionForm(offset)

    def say(self, event: TokenEvent) -> bytes:
        if event.logprobs or event.finish_reason:
            likely = self._logprobs.of(event.logprobs) if event.logprobs else None
            return self._frame.choice(CompletionChoice(self._index, event.text, likely, event.finish_reason or None))
        return self.text(event.text) if event.text else b""

    def text(self, text: str) -> bytes:
        return self._before + encode(text) + self._after


def finish_reason(reason: str, legacy: bool = False) -> str | None:
    return "function_call" if legacy and reason == "tool_calls" else reason or None


class Last:
    """What comes after the last choice of a stream, in which ``per_prompt`` answers in a row share a prompt."""

    def __init__(self, frame: Frame, with_usage: bool, with_timings: bool, per_prompt: int):
        self._frame, self._usage, self._timings, self._per_prompt = frame, with_usage, with_timings, per_prompt

    def say(self, answers: Sequence[Answer]) -> bytes:
        fields: dict[str, Any] = {"usage": usage(answers, self._per_prompt)} if self._usage else {}
        if self._timings:
            fields["timings"] = timings(answers[0])
        return (self._frame.last(**fields) if fields else b"") + _DONE


async def events(
    started: Sequence[Started], voices: Sequence[Voice], opening: bytes, last: Last, request: Request
) -> AsyncGenerator[bytes, None]:
    """The whole stream. An error that comes after the headers is told inside the stream, which then ends."""
    answers = [Answer(request.arrived) for _ in started]
    if opening:
        yield opening
    try:
        async for number, event in interleave(started):
            if chunk := voices[number].say(answers[number].see(event)):
                yield chunk
    except PilothouseError as error:
        yield b"data: " + errors.render(error, request.path).body + b"\n\n"
        return
    yield last.say(answers)
