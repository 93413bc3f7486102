"""llama-server's `/tokenize`, `/detokenize` and `/apply-template`. ``model`` may be left out where one is served."""

from typing import Any

import msgspec


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """``content``: a text, or texts and tokens mixed."""

    content: str | list[str | int] = ""
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False
    model: str | None = None


class Piece(msgspec.Struct):
    """``piece`` is a text, or a list of bytes where it is not UTF-8 by itself."""

    id: int
    piece: str | list[int]


class TokenList(msgspec.Struct):
    tokens: list[int | Piece]


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    tokens: list[int] = []
    model: str | None = None


class Text(msgspec.Struct):
    content: str


class ApplyTemplateRequest(msgspec.Struct, kw_only=True):
    """``messages`` and ``tools`` as in `/v1/chat/completions`."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    model: str | None = None


class Rendered(msgspec.Struct):
    prompt: str
