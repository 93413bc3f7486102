"""Reading an answer with a chat format's parser, and holding it against a grammar."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from engines.llamacpp.chat_format import AnswerParser
from engines.llamacpp.grammar import to_llguidance
from engines.protocol import Grammar

BYTES = LLTokenizer("byte")


@dataclass
class Answer:
    content: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    """[name, arguments, id] of each."""

    @property
    def decoded(self) -> list[tuple[str, Any]]:
        return [(name, json.loads(arguments)) for name, arguments, _ in self.calls]


def read(parser: AnswerParser | None, pieces: Iterable[str]) -> Answer:
    """The whole of what ``parser`` makes of the answer that comes in ``pieces``."""
    answer = Answer()
    if parser is None:
        return Answer("".join(pieces))
    out = [piece for text in pieces for piece in parser.feed(text)]
    for piece in [*out, *parser.finish()]:
        answer.content += piece.content
        answer.reasoning += piece.reasoning
        if piece.call is None:
            continue
        if piece.call.index == len(answer.calls):
            assert piece.call.name
            assert piece.call.id
            answer.calls.append([piece.call.name, "", piece.call.id])
        else:
            assert piece.call.index == len(answer.calls) - 1
            assert not piece.call.name
        answer.calls[-1][1] += piece.call.arguments
    return answer


def refusal(grammar: Grammar | None, text: str) -> str:
    """Why ``grammar`` does not let ``text`` be the whole answer; empty if it does. Marks control tokens as text."""
    assert grammar is not None
    text_of_it = to_llguidance(grammar)
    if error := LLMatcher.validate_grammar(text_of_it, BYTES):
        return str(error)
    matcher = LLMatcher(BYTES, text_of_it)
    tokens = BYTES.tokenize_str(text)
    taken = matcher.try_consume_tokens(tokens)
    if taken < len(tokens):
        return f"refused after {BYTES.decode_str(tokens[:taken])!r}"
    return "" if matcher.is_accepting() else "not complete"
