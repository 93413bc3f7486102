"""The output of one of OpenAI's responses: its items, and the named events that tell how they grow. Values only."""

import time
from typing import Any

import msgspec

from app.api.answer import Answer
from app.api.openai.logprobs import of_chat
from app.api.outline import Block, Change, Kind
from app.schema.responses import (
    FunctionCall,
    IncompleteDetails,
    InputTokensDetails,
    OutputItem,
    OutputMessage,
    OutputText,
    OutputTokensDetails,
    ReasoningItem,
    ReasoningText,
    ResponseError,
    ResponseObject,
    ResponseUsage,
)

_encode = msgspec.json.Encoder().encode
_PREFIXES: dict[Kind, str] = {"text": "msg", "reasoning": "rs", "call": "fc"}


class Writer:
    """Writes into ``response``, whose id is ``resp_`` and ``number``; the id of an item tells its response."""

    def __init__(self, response: ResponseObject, number: str):
        self.response, self._number = response, number
        self._sequence = 0
        self._told: dict[int, int] = {}
        """Log-probabilities of each block that were sent."""

    def begin(self) -> bytes:
        return self._event("response.created", response=self.response) + self._event(
            "response.in_progress", response=self.response
        )

    def change(self, change: Change, closed: str = "completed") -> bytes:
        """``closed`` is the status of an item that ends here."""
        what, block, text = change
        if what == "open":
            return self._opened(block)
        return self._grown(block, text) if what == "grow" else self._closed(block, closed)

    def finish(self, answer: Answer, blocks: list[Block]) -> bytes:
        """Completes the response; the last event of its stream."""
        status = closing(answer)
        self.response.status = status
        if status == "incomplete":
            self.response.incomplete_details = IncompleteDetails("max_output_tokens")
        self._fill(answer, blocks, status)
        return self._event(f"response.{status}", response=self.response)

    def fail(self, answer: Answer, blocks: list[Block], status: int, problem: dict[str, Any]) -> bytes:
        """``problem`` is the inside of OpenAI's envelope, ``status`` the HTTP status it would have had."""
        code = "server_error" if status >= 500 else "rate_limit_exceeded" if status == 429 else "invalid_prompt"
        self.response.status = "failed"
        self.response.error = ResponseError(code, problem["message"])
        self._fill(answer, blocks, "incomplete")
        told = self._event("error", code=problem["code"], message=problem["message"], param=problem["param"])
        return told + self._event("response.failed", response=self.response)

    def _fill(self, answer: Answer, blocks: list[Block], last: str) -> None:
        self.response.completed_at = int(time.time())
        self.response.usage = usage(answer)
        self.response.output = [self._item(block, last if block is blocks[-1] else "completed") for block in blocks]

    def _item(self, block: Block, status: str, begun: bool = True) -> OutputItem:
        """``begun`` false leaves out what the item will contain."""
        number = self._id(block)
        if block.kind == "text":
            return OutputMessage(id=number, status=status, content=[_text(block)] if begun else [])
        if block.kind == "reasoning":
            return ReasoningItem(id=number, status=status, content=[ReasoningText(block.text)] if begun else [])
        arguments = block.text if begun else ""
        return FunctionCall(id=number, status=status, call_id=block.call_id, name=block.name, arguments=arguments)

    def _id(self, block: Block) -> str:
        return f"{_PREFIXES[block.kind]}_{self._number}o{block.index}"

    def _opened(self, block: Block) -> bytes:
        item = self._item(block, "in_progress", begun=False)
        opened = self._event("response.output_item.added", output_index=block.index, item=item)
        if block.kind == "call":
            return opened
        part = OutputText("") if block.kind == "text" else ReasoningText("")
        return opened + self._part_event("response.content_part.added", block, part=part)

    def _grown(self, block: Block, text: str) -> bytes:
        if block.kind == "text":
            told = self._told.get(block.index, 0)
            self._told[block.index] = len(block.logprobs)
            fresh = of_chat(block.logprobs[told:]).content
            return self._part_event("response.output_text.delta", block, delta=text, logprobs=fresh)
        if block.kind == "reasoning":
            return self._part_event("response.reasoning_text.delta", block, delta=text)
        return self._item_event("response.function_call_arguments.delta", block, delta=text)

    def _closed(self, block: Block, status: str) -> bytes:
        item = self._item(block, status)
        if isinstance(item, FunctionCall):
            done = self._item_event(
                "response.function_call_arguments.done", block, name=item.name, arguments=item.arguments
            )
        elif isinstance(item, OutputMessage):
            part = item.content[0]
            done = self._part_event("response.output_text.done", block, text=part.text, logprobs=part.logprobs)
            done += self._part_event("response.content_part.done", block, part=part)
        else:
            done = self._part_event("response.reasoning_text.done", block, text=block.text)
            done += self._part_event("response.content_part.done", block, part=item.content[0])
        return done + self._event("response.output_item.done", output_index=block.index, item=item)

    def _part_event(self, kind: str, block: Block, **fields: Any) -> bytes:
        return self._item_event(kind, block, content_index=0, **fields)

    def _item_event(self, kind: str, block: Block, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._id(block), output_index=block.index, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        body = _encode({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), body)


def closing(answer: Answer) -> str:
    """The status of what ``answer`` ends."""
    return "incomplete" if answer.finish_reason == "length" else "completed"


def usage(answer: Answer) -> ResponseUsage:
    return ResponseUsage(
        answer.prompt_tokens,
        InputTokensDetails(answer.cached_tokens),
        answer.tokens,
        OutputTokensDetails(answer.reasoning_tokens),
        answer.prompt_tokens + answer.tokens,
    )


def _text(block: Block) -> OutputText:
    return OutputText(block.text, logprobs=of_chat(block.logprobs).content)
