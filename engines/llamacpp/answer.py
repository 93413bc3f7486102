"""One request on its way to an answer: from the logits of a step to the event that tells of it."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from engines.llamacpp.detokenizer import Detokenizer
from engines.llamacpp.drafter import Drafter, Pace
from engines.llamacpp.grammar import Constraint
from engines.llamacpp.prompt import Prompt
from engines.llamacpp.sampler import Sampler, logprobs
from engines.llamacpp.scheduler import Sequence
from engines.protocol import Generate, TokenEvent, TokenLogprob


class Vocabulary(Protocol):
    @property
    def end_tokens(self) -> np.ndarray: ...

    def is_end(self, token: int) -> bool: ...

    def piece(self, token: int, special: bool = False) -> bytes: ...


@dataclass(eq=False)
class Answer:
    request: Generate
    sequence: Sequence
    sampler: Sampler
    text: Detokenizer
    prompt: Prompt
    max_tokens: int
    constraint: Constraint | None = None
    drafter: Drafter | None = None
    pace: Pace = field(default_factory=lambda: Pace(0))
    written: int = 0
    """Tokens of the answer so far."""
    ended: bool = False
    called: bool = False
    """Whether a tool call was begun."""
    tokens: list[int] = field(default_factory=list)
    """Chosen in this step and to be computed in the next."""

    def guess(self) -> None:
        """Let the next step check guesses of the tokens to come."""
        if self.drafter is None or not self.written:
            return
        limit = min(self.pace.limit(), self.max_tokens - self.written - 1)
        self.sequence.draft = self.drafter.draft(self.sequence.tokens, limit) if limit > 0 else []

    def close(self) -> None:
        self.sampler.close()
        if self.drafter is not None:
            self.drafter.close()

    def advance(self, rows: np.ndarray, draft: list[int], vocabulary: Vocabulary) -> TokenEvent:
        """Choose the next token from each of ``rows`` (float32 [1 + drafted, vocabulary], written to) for as long as
        the choice is what ``draft`` guessed. Sets `tokens`, and `ended` with the last event.

        Raises `EngineError` (``engine_failed``) when the logits are not numbers.
        """
        event = TokenEvent(self.request.id, cached_tokens=self.sequence.reused if not self.written else 0)
        self.tokens = []
        if self.max_tokens == 0:
            return self._finish(event, "length")
        for row, guess in zip(rows, [*draft, -1], strict=True):
            token = self._choose(row, event, vocabulary)
            self.tokens.append(token)
            if self.ended or token != guess:
                break
        self.pace.observe(len(draft), len(self.tokens) - 1)
        return event

    def _choose(self, row: np.ndarray, event: TokenEvent, vocabulary: Vocabulary) -> int:
        request = self.request
        free_to_end = self.written >= request.min_tokens and not request.ignore_eos
        raw = row.copy() if request.logprobs >= 0 else None
        token = self.sampler.sample(row, None if free_to_end else vocabulary.end_tokens, self.constraint)
        self.written += 1
        event.tokens += 1
        if raw is not None:
            self._tell_logprobs(event, raw, token, vocabulary)
        if vocabulary.is_end(token):
            self._finish(event, "stop")
            return token
        piece = vocabulary.piece(token, special=token in self.prompt.show)
        text = self.text.feed(piece, may_stop=self.written > request.min_tokens)
        self._tell(event, text)
        if self.constraint is not None:
            self.constraint.accept(token)
        if self.text.stopped:
            event.stop = self.text.stopped
            self._finish(event, "stop")
        elif self.constraint is not None and self.constraint.ended:
            self._finish(event, "stop")
        elif self.written == self.max_tokens:
            self._finish(event, "length")
        return token

    def _tell(self, event: TokenEvent, text: str, last: bool = False) -> None:
        parser = self.prompt.parser
        if parser is None:
            event.text += text
            return
        pieces = parser.feed(text) if text else []
        if last:
            pieces = [*pieces, *parser.finish()]
        for piece in pieces:
            event.text += piece.content
            event.reasoning += piece.reasoning
            if piece.call is not None:
                self.called = True
                event.tool_calls = [*(event.tool_calls or ()), piece.call]

    def _tell_logprobs(self, event: TokenEvent, raw: np.ndarray, token: int, vocabulary: Vocabulary) -> None:
        logprob, top = logprobs(raw, token, self.request.logprobs)
        likeliest = [(other, vocabulary.piece(other, special=True), value) for other, value in top]
        entry = TokenLogprob(token, vocabulary.piece(token, special=True), logprob, likeliest)
        event.logprobs = [*(event.logprobs or ()), entry]

    def _finish(self, event: TokenEvent, reason: str) -> TokenEvent:
        self.ended = True
        self._tell(event, "" if self.text.stopped else self.text.flush(), last=True)
        event.finish_reason = "tool_calls" if self.called and reason == "stop" else reason
        event.prompt_tokens, event.cached_tokens = len(self.prompt.tokens), self.sequence.reused
        return event
