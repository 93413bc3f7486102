"""What a model writes, as the blocks that it consists of: reasoning, text and tool calls, in the order in which they
come. Protocols with named blocks (OpenAI's responses, Anthropic's messages) are coats of this."""

from dataclasses import dataclass, field
from typing import Literal

from engines.protocol import TokenEvent, TokenLogprob

Kind = Literal["reasoning", "text", "call"]
Change = tuple[Literal["open", "grow", "close"], "Block", str]


@dataclass(slots=True)
class Block:
    """``call_id`` and ``name`` are of a call; its text is the JSON of the arguments."""

    kind: Kind
    index: int
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Outline:
    """One block at a time is open, and none is opened again. `see` and `end` say what changed, in order; the text of a
    ``grow`` is what was added."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._open: Block | None = None
        self._call = -1
        self._pending: list[TokenLogprob] = []

    def see(self, event: TokenEvent) -> list[Change]:
        changes: list[Change] = []
        if event.reasoning:
            self._grow("reasoning", event.reasoning, changes)
        if event.text:
            self._grow("text", event.text, changes)
        for delta in event.tool_calls or ():
            if delta.index != self._call:
                self._call = delta.index
                self._begin(Block("call", len(self.blocks), delta.id, delta.name), changes)
            if delta.arguments:
                self._grow("call", delta.arguments, changes)
        if event.logprobs and not event.reasoning and not event.tool_calls:
            self._pending += event.logprobs  # of a token that is no whole character yet, before its text
        if self._pending and self._open is not None and self._open.kind == "text":
            self._open.logprobs += self._pending
            self._pending = []
        return changes

    def end(self) -> list[Change]:
        """Closes what is open; an answer without any block gets an empty text."""
        changes: list[Change] = []
        if not self.blocks:
            self._begin(Block("text", 0), changes)
        self._close(changes)
        return changes

    def _grow(self, kind: Kind, text: str, changes: list[Change]) -> None:
        block = self._open
        if block is None or block.kind != kind:
            block = self._begin(Block(kind, len(self.blocks)), changes)
        block.pieces.append(text)
        changes.append(("grow", block, text))

    def _begin(self, block: Block, changes: list[Change]) -> Block:
        self._close(changes)
        self.blocks.append(block)
        self._open = block
        changes.append(("open", block, ""))
        return block

    def _close(self, changes: list[Change]) -> None:
        if self._open is not None:
            changes.append(("close", self._open, ""))
            self._open = None
