"""What Ollama's clients read of an answer: one JSON object, or one a line."""

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import msgspec

from app.api import errors
from app.api.answer import Answer, Call, Started
from app.errors import PilothouseError
from app.schema.ollama import ChatResponse, Function, GenerateResponse, Logprob, Said, ToolCall, TopLogprob
from engines.protocol import TokenLogprob

NDJSON = b"application/x-ndjson"
_encoder = msgspec.json.Encoder()


def now() -> str:
    """RFC 3339, UTC, to the nanosecond."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


def ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


def line(value: Any) -> bytes:
    return _encoder.encode(value) + b"\n"


class Writer:
    """The objects of one answer, in one of the two shapes. ``loaded`` is when the model was ready
    (`time.perf_counter`), ``context`` the tokens of prompt and answer."""

    def __init__(self, model: str):
        self._model = model

    def object(
        self, text: str = "", thinking: str = "", calls: list[ToolCall] | None = None
    ) -> ChatResponse | GenerateResponse:
        raise NotImplementedError

    def piece(
        self, text: str, thinking: str, calls: list[ToolCall], logprobs: list[TokenLogprob] | None
    ) -> ChatResponse | GenerateResponse:
        """One of a stream."""
        written = self.object(text, thinking, calls)
        written.logprobs = _logprobs(logprobs)
        return written

    def nothing(self, reason: str) -> ChatResponse | GenerateResponse:
        """The answer where nothing was asked; ``reason`` says what was done instead."""
        written = self.object()
        written.done, written.done_reason = True, reason
        return written

    def last(self, answer: Answer, loaded: float, context: list[int]) -> ChatResponse | GenerateResponse:
        """Of a stream."""
        return _ended(self.object(), answer, loaded, context)

    def whole(self, answer: Answer, loaded: float, context: list[int]) -> ChatResponse | GenerateResponse:
        written = self.object(answer.text, answer.reasoning, calls_of(answer.calls))
        written.logprobs = _logprobs(answer.logprobs)
        return _ended(written, answer, loaded, context)


class ChatWriter(Writer):
    def object(self, text: str = "", thinking: str = "", calls: list[ToolCall] | None = None) -> ChatResponse:
        said = Said(content=text, thinking=thinking or msgspec.UNSET, tool_calls=calls or msgspec.UNSET)
        return ChatResponse(model=self._model, created_at=now(), message=said)


class GenerationWriter(Writer):
    def object(self, text: str = "", thinking: str = "", calls: list[ToolCall] | None = None) -> GenerateResponse:
        return GenerateResponse(model=self._model, created_at=now(), response=text, thinking=thinking or msgspec.UNSET)


async def lines(
    started: Started,
    answer: Answer,
    loaded: float,
    writer: Writer,
    context: Callable[[Answer], Awaitable[list[int]]],
    path: str,
) -> AsyncGenerator[bytes, None]:
    """The events as lines; a call is sent once it is whole. An error that comes after the headers is a line, too."""
    sent = 0
    try:
        async for event in started.events():
            answer.see(event)
            whole = len(answer.calls) if event.finish_reason else max(sent, len(answer.calls) - 1)
            calls, sent = calls_of(answer.calls[sent:whole], sent), whole
            if event.text or event.reasoning or calls or event.logprobs:
                yield line(writer.piece(event.text, event.reasoning, calls, event.logprobs))
        yield line(writer.last(answer, loaded, await context(answer)))
    except PilothouseError as error:
        yield errors.render(error, path).body + b"\n"


def calls_of(calls: list[Call], first: int = 0) -> list[ToolCall]:
    """Arguments as objects. One that was cut off is no call: ``done_reason`` says ``length`` then."""
    whole = []
    for index, call in enumerate(calls, first):
        try:
            arguments = json.loads(call.arguments or "{}")
        except ValueError:
            continue
        if isinstance(arguments, dict):
            whole.append(ToolCall(id=call.id, function=Function(name=call.name, arguments=arguments, index=index)))
    return whole


def _ended(
    written: ChatResponse | GenerateResponse, answer: Answer, loaded: float, context: list[int]
) -> ChatResponse | GenerateResponse:
    written.done = True
    # Ollama has no word of its own for an answer that ends in calls.
    written.done_reason = "length" if answer.finish_reason == "length" else "stop"
    for name, value in _numbers(answer, loaded).items():
        setattr(written, name, value)
    if context and isinstance(written, GenerateResponse):
        written.context = context
    return written


def _numbers(answer: Answer, loaded: float) -> Mapping[str, int]:
    """How many tokens, and where the time went."""
    ended = answer.ended_at or time.perf_counter()
    first = answer.first_token_at or ended
    return {
        "total_duration": ns(time.perf_counter() - answer.arrived),
        "load_duration": ns(loaded - answer.arrived),
        "prompt_eval_count": answer.prompt_tokens,
        "prompt_eval_duration": ns(first - loaded),
        "eval_count": answer.tokens,
        "eval_duration": ns(ended - first),
    }


def _logprobs(given: list[TokenLogprob] | None) -> list[Logprob] | msgspec.UnsetType:
    if not given:
        return msgspec.UNSET
    return [
        Logprob(
            *_token(entry.text, entry.logprob),
            [TopLogprob(*_token(text, logprob)) for _, text, logprob in entry.top] or None,
        )
        for entry in given
    ]


def _token(text: bytes, logprob: float) -> tuple[str, float, list[int]]:
    return text.decode("utf-8", "replace"), logprob, list(text)
