"""Answers that must match a grammar: what may come next, by llguidance.

Measured on Gemma's vocabulary of 262,144 (benchmarks/grammar.py): asking about one token takes 2 µs, all of them
20 to 200 µs. So the sampler asks about the token that it would take anyway, and for the rest only when that is refused.
"""

import ctypes
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

import llama_cpp
import msgspec
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from engines.engine import EngineError
from engines.llamacpp import gbnf, json_schema
from engines.protocol import Grammar

#: Compiled grammars that are kept, the last used.
CACHED = 32
#: Of the lexer, which all answers of a grammar share; ordinary schemas meet some hundred. What is made to be expensive
#: ended at some 10 MB a grammar when measured.
_STATES = 50_000
_LIMITS = LLParserLimits(max_lexer_states=_STATES, verbose_errors=False)


class Constraint:
    """What may follow what one sequence has written so far. Belongs to one sequence."""

    def __init__(
        self, matcher: LLMatcher, renew: Callable[[], LLMatcher], tokenizer: LLTokenizer, lazy: Sequence[str] = ()
    ):
        self._matcher = matcher
        self._renew = renew
        self._written: list[int] = []
        self._tokenizer = tokenizer
        self._words = np.empty((tokenizer.vocab_size + 31) // 32, np.uint32)
        self._end_tokens = frozenset(tokenizer.eos_tokens)
        self._triggers = [trigger.encode() for trigger in lazy]
        self._asleep = bool(lazy)
        self._tail = b""

    def allows(self, token: int) -> bool:
        """Whether ``token`` may come next. Tokens that end the answer may where the grammar is complete."""
        if token in self._end_tokens:
            allowed = self.may_end
        else:
            allowed = self._ask(lambda matcher: matcher.validate_tokens([token])) == 1
        self._asleep = self._asleep and allowed
        return allowed

    def mask(self) -> np.ndarray | None:
        """uint32 [vocabulary / 32, rounded up], good until the next call: bit ``i % 32`` of word ``i // 32`` is set
        where token ``i`` may come. None where every token may: the grammar sleeps until the text holds one of the
        ``lazy`` strings, or `allows` has refused a token.

        Raises `EngineError` (``engine_failed``) when the grammar is too complex to go on.
        """
        if self._asleep:
            return None
        self._ask(lambda matcher: matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes))
        return self._words

    def accept(self, token: int) -> None:
        """Go on by ``token``. Raises `EngineError` (``engine_failed``) when it may not come."""
        if self._asleep:
            self._wake(token)
        if token in self._end_tokens and self._matcher.is_stopped():
            return
        self._ask(lambda matcher: matcher.consume_token(token))
        self._written.append(token)

    @property
    def may_end(self) -> bool:
        """Whether the answer may end here."""
        return self._matcher.is_accepting()

    @property
    def ended(self) -> bool:
        """Whether nothing may follow: the answer is complete."""
        return self._matcher.is_stopped()

    def _wake(self, token: int) -> None:
        text = self._tail + self._tokenizer.decode_bytes([token])
        self._asleep = not any(trigger in text for trigger in self._triggers)
        longest = max(map(len, self._triggers))
        self._tail = text[-(longest - 1) :] if longest > 1 else b""

    def _ask(self, question: Callable[[LLMatcher], Any]) -> Any:
        answer = question(self._matcher)
        if self._matcher.is_error() and "lexer error: too many" in self._matcher.get_error():
            # Answers of one grammar share the states they have met: begin anew with those of this one.
            self._matcher = self._renew()
            self._matcher.consume_tokens(self._written)
            answer = question(self._matcher)
        if self._matcher.is_error():
            raise EngineError("engine_failed", f"the answer cannot follow its grammar: {_first_line(self._matcher)}")
        return answer


class Grammars:
    """The grammars of one model. ``vocab``: llama.cpp's handle; ``end_tokens``: those that end an answer.

    The vocabulary is read at the first `compile`, or by `prepare`: about 2 s for 262,144 tokens.
    """

    def __init__(self, vocab: Any, end_tokens: Sequence[int]):
        self._vocab = vocab
        self._end_tokens = [int(token) for token in end_tokens]
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[bytes, LLMatcher] = OrderedDict()

    def prepare(self) -> LLTokenizer:
        if self._tokenizer is None:
            self._tokenizer = read_vocabulary(self._vocab, self._end_tokens)
        return self._tokenizer

    def compile(self, grammar: Grammar, lazy: Sequence[str] = ()) -> Constraint:
        """What ``grammar`` lets come first. ``lazy``: see `Constraint.mask`.

        Raises `EngineError` (``invalid_input``), which names the keyword of a JSON schema that cannot be enforced, or
        the place where another grammar is wrong.
        """
        key = msgspec.msgpack.encode(grammar)

        def renew() -> LLMatcher:
            return self._compile(key, grammar)

        matcher = self._compiled[key].deep_copy() if key in self._compiled else renew()
        self._compiled.move_to_end(key)
        return Constraint(matcher, renew, self.prepare(), lazy)

    def _compile(self, key: bytes, grammar: Grammar) -> LLMatcher:
        matcher = LLMatcher(self.prepare(), to_llguidance(grammar), log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise _refusal(grammar.kind, matcher.get_error())
        self._compiled[key] = matcher
        if len(self._compiled) > CACHED:
            self._compiled.popitem(last=False)
        return matcher.deep_copy()


def read_vocabulary(vocab: Any, end_tokens: Sequence[int]) -> LLTokenizer:
    """llguidance's form of the vocabulary of llama.cpp's handle ``vocab``."""
    buffer = ctypes.create_string_buffer(1 << 14)
    special = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
    pieces = []
    for token in range(llama_cpp.llama_vocab_n_tokens(vocab)):
        size = llama_cpp.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, True)
        piece = ctypes.string_at(buffer, max(size, 0))
        attributes = llama_cpp.llama_vocab_get_attr(vocab, token)
        looks_special = attributes & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED and re.fullmatch(
            rb"<.*>", piece, re.DOTALL
        )
        # llguidance marks what is no text in this way: grammars name it as <piece>, and text never matches it.
        pieces.append(b"\xff" + piece if attributes & special or looks_special else piece)
    tokenize = ctypes.cast(llama_cpp.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
    return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
        tokens=pieces,
        vocab_ptr=vocab,
        tokenize_fptr=tokenize,
        eos_token=list(end_tokens) or llama_cpp.llama_vocab_eos(vocab),
        slices=None,
    )


def to_llguidance(grammar: Grammar) -> str:
    """llguidance's text for ``grammar``. Raises `EngineError` (``invalid_input``)."""
    kind, value = grammar.kind, grammar.value
    if kind == "json_schema":
        return _from_schema(json_schema.prepare(value))
    if kind == "json_object":
        return _from_schema({"type": "object"})
    if kind == "choice":
        if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
            raise _invalid(kind, "a list of texts that are not empty is wanted")
        # Not as ASCII: Lark has no pairs of surrogates.
        lark = "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in value)
    elif not isinstance(value, str):
        raise _invalid(kind, "a text is wanted")
    elif kind == "regex":
        lark = f"start: /{regex_to_lark(value, 'd')}/"
    elif kind == "gbnf":
        try:
            lark = gbnf.to_lark(value)
        except gbnf.GbnfError as error:
            raise _invalid(kind, str(error)) from None
    elif kind == "lark":
        lark = value
    else:
        raise _invalid(kind, "json_schema, json_object, regex, choice, gbnf and lark are known")
    return LLMatcher.grammar_from_lark(lark)


def _from_schema(schema: dict[str, Any]) -> str:
    return LLMatcher.grammar_from_json_schema(schema, overrides=cast(Any, json_schema.OPTIONS))


def _refusal(kind: str, error: str) -> EngineError:
    if kind.startswith("json"):
        if found := re.search(r"Unimplemented keys: (\[.*\])", error):
            keywords = ", ".join(json.loads(found[1]))
            return json_schema.unsupported(f"the JSON schema has a keyword that cannot be enforced: {keywords}")
        if error.startswith("oneOf"):
            return json_schema.unsupported(
                "oneOf of the JSON schema cannot be enforced where more than one of its schemas may match: use anyOf"
            )
        return json_schema.unsupported(f"the JSON schema cannot be enforced: {error}")
    return _invalid(kind, error)


def _invalid(kind: str, message: str) -> EngineError:
    return EngineError("invalid_input", f"the grammar ({kind}) is wrong: {message.strip()}", field="grammar")


def _first_line(matcher: LLMatcher) -> str:
    return matcher.get_error().strip().partition("\n")[0]
