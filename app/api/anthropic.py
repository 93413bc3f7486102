"""`/v1/messages`: Anthropic's protocol over `dataplane.generate` and `dataplane.tokenize`."""

import hashlib
import secrets
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from app.api import errors
from app.api.answer import Answer, Started, start
from app.api.anthropic_input import counting, generation, worker_field
from app.api.fields import said_as
from app.api.http import Request, Response, Route, Stream, json
from app.api.images import Images
from app.api.outline import Block, Change, Outline
from app.dataplane.dataplane import Dataplane
from app.schema.anthropic import (
    AnswerBlock,
    CountRequest,
    Message,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    TokenCount,
    ToolUseBlock,
    Usage,
)

_messages = msgspec.json.Decoder(MessagesRequest)
_count = msgspec.json.Decoder(CountRequest)
_encode = msgspec.json.Encoder().encode
_object = msgspec.json.Decoder(dict[str, Any])


class Anthropic:
    def __init__(self, dataplane: Dataplane, images: Images):
        self._dataplane, self._images = dataplane, images

    async def create(self, request: Request) -> Response | Stream:
        body = request.decode(_messages)
        wanted, media = generation(body)
        images = await self._images.load(media)
        told = said_as(worker_field)
        show = body.thinking is None or body.thinking.display != "omitted"
        message = Message(
            id=f"msg_{secrets.token_hex(12)}",
            model=body.model,
            content=[],
            usage=Usage(input_tokens=0, output_tokens=0),
        )
        if body.stream:
            with told:
                started = await start(self._dataplane, body.model, wanted, request.arrived, images)
            chunks = _stream(started, message, wanted.max_tokens, show, request)
            return Stream(chunks, resources=started.resources)
        outline = Outline()
        answer = Answer(request.arrived)
        with told:
            async with self._dataplane.generate(body.model, wanted, request.arrived, images) as events:
                async for token in events:
                    outline.see(answer.see(token))
        outline.end()
        message.content = [content(block, show) for block in outline.blocks]
        message.stop_reason, message.stop_sequence = stop_reason(answer, wanted.max_tokens)
        message.usage = usage(answer)
        return json(message)

    async def count(self, request: Request) -> Response:
        body = request.decode(_count)
        counted = await self._dataplane.tokenize(body.model, counting(body))
        return json(TokenCount(len(counted.tokens)))

    def routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                "/v1/messages",
                self.create,
                "Chat with a language model",
                "anthropic",
                request=MessagesRequest,
                response=Message,
                stream=True,
                scope="inference",
                query={"beta": "Tolerated, and without effect"},
            ),
            Route(
                "POST",
                "/v1/messages/count_tokens",
                self.count,
                "Count the tokens of a prompt",
                "anthropic",
                request=CountRequest,
                response=TokenCount,
                scope="inference",
                query={"beta": "Tolerated, and without effect"},
            ),
        ]


def usage(answer: Answer) -> Usage:
    return _usage(answer.prompt_tokens, answer.cached_tokens, answer.tokens)


def _usage(prompt: int, cached: int, written: int) -> Usage:
    return Usage(input_tokens=max(0, prompt - cached), output_tokens=written, cache_read_input_tokens=cached)


def stop_reason(answer: Answer, max_tokens: int) -> tuple[str, str | None]:
    """Anthropic's word for why it ended, and the stop sequence that did it."""
    if answer.finish_reason == "tool_calls":
        return "tool_use", None
    if answer.finish_reason == "length":
        return "max_tokens" if answer.tokens >= max_tokens else "model_context_window_exceeded", None
    return ("stop_sequence", answer.stop) if answer.stop else ("end_turn", None)


def signature(thinking: str) -> str:
    """Clients keep it and send it back; it proves nothing, and is not checked."""
    return hashlib.sha256(thinking.encode()).hexdigest()


def content(block: Block, show_thinking: bool = True) -> AnswerBlock:
    """``show_thinking`` false leaves the block and takes its text."""
    if block.kind == "text":
        return TextBlock(block.text)
    if block.kind == "reasoning":
        return ThinkingBlock(block.text if show_thinking else "", signature(block.text))
    try:
        arguments = _object.decode(block.text)
    except msgspec.MsgspecError:
        arguments = {}  # cut off by max_tokens, which is the stop reason then
    return ToolUseBlock(block.call_id, block.name, arguments)


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **fields}))


def block_event(change: Change, show_thinking: bool = True) -> bytes:
    """What ``change`` is in Anthropic's stream."""
    what, block, text = change
    hidden = block.kind == "reasoning" and not show_thinking
    if what == "open":
        empty: AnswerBlock = TextBlock("")
        if block.kind == "reasoning":
            empty = ThinkingBlock("")
        elif block.kind == "call":
            empty = ToolUseBlock(block.call_id, block.name, {})
        return event("content_block_start", index=block.index, content_block=empty)
    if what == "grow":
        if hidden:
            return b""
        delta = {
            "text": {"type": "text_delta", "text": text},
            "reasoning": {"type": "thinking_delta", "thinking": text},
            "call": {"type": "input_json_delta", "partial_json": text},
        }[block.kind]
        return event("content_block_delta", index=block.index, delta=delta)
    closing = event("content_block_stop", index=block.index)
    if block.kind == "reasoning":
        sign = {"type": "signature_delta", "signature": signature(block.text)}
        return event("content_block_delta", index=block.index, delta=sign) + closing
    return closing


async def _stream(
    started: Started, message: Message, max_tokens: int, show_thinking: bool, request: Request
) -> AsyncGenerator[bytes, None]:
    """The named events; an error that comes after the headers is told as ``event: error``."""
    outline, answer = Outline(), Answer(request.arrived)
    message.usage = _usage(started.first.prompt_tokens, started.first.cached_tokens, 0)
    yield event("message_start", message=message) + event("ping")
    try:
        async for token in started.events():
            changes = outline.see(answer.see(token))
            if token.finish_reason:
                changes += outline.end()
            if changes:
                yield b"".join(block_event(change, show_thinking) for change in changes)
    except Exception as error:
        yield b"event: error\ndata: " + errors.render(error, request.path).body + b"\n\n"
        return
    reason, sequence = stop_reason(answer, max_tokens)
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    yield event("message_delta", delta=delta, usage=usage(answer)) + event("message_stop")
