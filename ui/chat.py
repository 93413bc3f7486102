"""A chat as it is shown and sent: turns, and what streams in for the last of them. Pure."""

import json
from dataclasses import dataclass, field
from typing import Any

from ui import format

FINISH = {
    "stop": "by itself",
    "length": "at the most tokens it may write",
    "tool_calls": "to call its tools",
    "content_filter": "by a filter",
    "stopped": "stopped by you",
}


@dataclass
class Call:
    """A tool that the model wants called; ``arguments`` is JSON, in pieces until the answer has ended."""

    id: str = ""
    name: str = ""
    arguments: str = ""

    def text(self) -> str:
        """``get_weather {"city": "Bonn"}``, one argument a line where they are whole and more than a few."""
        try:
            arguments = json.loads(self.arguments)
        except ValueError:
            return f"{self.name} {self.arguments}".strip()
        short = json.dumps(arguments, ensure_ascii=False)
        return f"{self.name} {short if len(short) <= 60 else json.dumps(arguments, ensure_ascii=False, indent=2)}"


@dataclass
class Turn:
    """What one side said. ``picture`` is a data URL."""

    role: str
    text: str = ""
    picture: str = ""
    reasoning: str = ""
    calls: dict[int, Call] = field(default_factory=dict)

    def is_empty(self) -> bool:
        return not (self.text or self.picture or self.reasoning or self.calls)

    def as_sent(self) -> dict[str, Any]:
        """The message of a request; reasoning stays here, as models expect it."""
        message: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.picture:
            message["content"] = [{"type": "image_url", "image_url": {"url": self.picture}}]
            if self.text:
                message["content"].append({"type": "text", "text": self.text})
        if self.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.calls.values()
            ]
        return message


@dataclass
class Answer:
    """A turn that streams in. Times are milliseconds since it was asked for; counts are the daemon's, and before it
    has told them one token a piece."""

    turn: Turn = field(default_factory=lambda: Turn("assistant"))
    pieces: int = 0
    first_ms: float | None = None
    last_ms: float | None = None
    finish_reason: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    completion_tokens: int | None = None
    reasoning_tokens: int = 0

    def take(self, chunk: dict[str, Any], now_ms: float) -> None:
        """One event of a streamed chat completion."""
        for choice in chunk.get("choices") or []:
            if self._take_delta(choice.get("delta") or {}):
                self.pieces += 1
                self.first_ms = now_ms if self.first_ms is None else self.first_ms
                self.last_ms = now_ms
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if usage := chunk.get("usage"):
            self.prompt_tokens, self.completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
            self.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            self.reasoning_tokens = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0

    def _take_delta(self, delta: dict[str, Any]) -> bool:
        """Whether it said anything."""
        text, reasoning = delta.get("content") or "", delta.get("reasoning_content") or ""
        self.turn.text += text
        self.turn.reasoning += reasoning
        for piece in delta.get("tool_calls") or []:
            call = self.turn.calls.setdefault(piece.get("index", 0), Call())
            function = piece.get("function") or {}
            call.id = piece.get("id") or call.id
            call.name += function.get("name") or ""
            call.arguments += function.get("arguments") or ""
        return bool(text or reasoning or delta.get("tool_calls"))

    @property
    def tokens(self) -> int:
        return self.completion_tokens or self.pieces

    @property
    def tokens_per_s(self) -> float | None:
        """After the first token."""
        if self.first_ms is None or self.last_ms is None or self.last_ms <= self.first_ms or self.tokens < 2:
            return None
        return (self.tokens - 1) / (self.last_ms - self.first_ms) * 1000

    def sentence(self) -> str:
        """``first token 238 ms · 41 tokens/s · 5 tokens``"""
        if self.first_ms is None:
            return ""
        rate = self.tokens_per_s
        return format.joined(
            f"first token {format.milliseconds(self.first_ms)}",
            f"{format.number(rate)} tokens/s" if rate else "",
            format.plural(self.tokens, "token"),
        )

    def facts(self) -> list[tuple[str, str]]:
        """What there is to know of it, once it has ended."""
        prompt = format.plural(self.prompt_tokens, "token") if self.prompt_tokens is not None else ""
        cached = f", {self.cached_tokens:,} of them from the cache" if prompt and self.cached_tokens else ""
        thought = f", {self.reasoning_tokens:,} of them reasoning" if self.reasoning_tokens else ""
        rate = self.tokens_per_s
        return [
            ("Ended", FINISH.get(self.finish_reason, self.finish_reason)),
            ("Prompt", prompt + cached),
            ("Answer", format.plural(self.tokens, "token") + thought if self.tokens else ""),
            ("Speed", f"{format.number(rate)} tokens/s" if rate else ""),
            ("First token", format.milliseconds(self.first_ms) if self.first_ms is not None else ""),
        ]
