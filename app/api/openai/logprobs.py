"""Log-probabilities, in the form of chat and in that of completions."""

import codecs
from collections.abc import Sequence

from app.schema.openai import ChatLogprob, ChatLogprobs, CompletionLogprobs, TopLogprob
from engines.protocol import TokenLogprob

#: JSON has no infinity; OpenAI says this.
_LEAST = -9999.0


def of_chat(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    return ChatLogprobs(
        [
            ChatLogprob(
                entry.text.decode(errors="replace"),
                max(entry.logprob, _LEAST),
                list(entry.text),
                [
                    TopLogprob(text.decode(errors="replace"), max(logprob, _LEAST), list(text))
                    for _, text, logprob in entry.top
                ],
            )
            for entry in tokens
        ]
    )


class CompletionForm:
    """Makes the parallel lists of completions, piece by piece: offsets go on from one piece to the next."""

    def __init__(self, offset: int = 0):
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, tokens: Sequence[TokenLogprob]) -> CompletionLogprobs:
        made = CompletionLogprobs([], [], [], [])
        for entry in tokens:
            made.tokens.append(_name(entry.text))
            made.token_logprobs.append(max(entry.logprob, _LEAST))
            # OpenAI's has the chosen token in it, likely or not.
            top = {_name(text): max(logprob, _LEAST) for _, text, logprob in entry.top}
            made.top_logprobs.append(top | {_name(entry.text): max(entry.logprob, _LEAST)})
            made.text_offset.append(self._offset)
            self._offset += len(self._decoder.decode(entry.text))
        return made


def _name(token: bytes) -> str:
    """The token as text; where it is part of a character, its bytes as OpenAI writes them: ``bytes:\\xe2\\x80``."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def mean(tokens: Sequence[TokenLogprob]) -> float:
    """What `best_of` goes by."""
    return sum(max(entry.logprob, _LEAST) for entry in tokens) / len(tokens) if tokens else _LEAST
