"""llama-server's small endpoints: `/tokenize`, `/detokenize` and `/apply-template`."""

from typing import Any

import msgspec

from app.api import tools
from app.api.http import Request, Response, Route, json
from app.api.messages import canonical
from app.dataplane.dataplane import Dataplane
from app.errors import InvalidInput, RouteNotFound
from app.schema.tokens import (
    ApplyTemplateRequest,
    DetokenizeRequest,
    Piece,
    Rendered,
    Text,
    TokenizeRequest,
    TokenList,
)
from engines.protocol import Tokenize

_tokenize = msgspec.json.Decoder(TokenizeRequest)
_detokenize = msgspec.json.Decoder(DetokenizeRequest)
_apply = msgspec.json.Decoder(ApplyTemplateRequest)


class TokenTools:
    def __init__(self, dataplane: Dataplane):
        self._dataplane = dataplane

    def _model(self, given: str | None) -> str:
        """``given``, or the one language model that there is: llama-server's clients know no model."""
        if given:
            return given
        names = [name for name, target in self._dataplane.table.items() if target.pool is not None]
        if not names:
            raise RouteNotFound("no language model is served", hint="deploy one", field="model")
        if len(names) > 1:
            raise InvalidInput(
                "model is needed where several are served", hint=f"there are {', '.join(sorted(names))}", field="model"
            )
        return names[0]

    async def tokenize(self, request: Request) -> Response:
        body = request.decode(_tokenize)
        model = self._model(body.model)
        parts = [body.content] if isinstance(body.content, str) else body.content
        tokens: list[int] = []
        pieces: list[bytes] = []
        for index, part in enumerate(parts):
            if isinstance(part, str):
                # Only the beginning of the whole is one.
                wanted = Tokenize(0, text=part, add_special=body.add_special and index == 0)
                wanted.parse_special = body.parse_special
            else:
                wanted = Tokenize(0, tokens=[_token(part, f"content[{index}]")])
            wanted.pieces = body.with_pieces
            found = await self._dataplane.tokenize(model, wanted)
            tokens += found.tokens
            pieces += found.pieces or ([found.text.encode()] if isinstance(part, int) else [])
        if not body.with_pieces:
            return json(TokenList([*tokens]))
        return json(TokenList([Piece(token, _piece(piece)) for token, piece in zip(tokens, pieces, strict=True)]))

    async def detokenize(self, request: Request) -> Response:
        body = request.decode(_detokenize)
        model = self._model(body.model)
        tokens = [_token(token, f"tokens[{index}]") for index, token in enumerate(body.tokens)]
        if not tokens:
            return json(Text(""))
        return json(Text((await self._dataplane.tokenize(model, Tokenize(0, tokens=tokens))).text))

    async def apply_template(self, request: Request) -> Response:
        body = request.decode(_apply)
        messages, _ = canonical(body.messages)
        variables: dict[str, Any] = dict(body.chat_template_kwargs or {})
        tools.check_depth(variables, "chat_template_kwargs")
        wanted = Tokenize(0, messages=messages, tools=tools.tools(body.tools), variables=variables)
        return json(Rendered((await self._dataplane.tokenize(self._model(body.model), wanted)).text))

    def routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                "/tokenize",
                self.tokenize,
                "The tokens of a text",
                "tokens",
                request=TokenizeRequest,
                response=TokenList,
                scope="inference",
            ),
            Route(
                "POST",
                "/detokenize",
                self.detokenize,
                "The text of tokens",
                "tokens",
                request=DetokenizeRequest,
                response=Text,
                scope="inference",
            ),
            Route(
                "POST",
                "/apply-template",
                self.apply_template,
                "The prompt that a chat becomes",
                "tokens",
                request=ApplyTemplateRequest,
                response=Rendered,
                scope="inference",
            ),
        ]


def _token(value: int, field: str) -> int:
    if not 0 <= value < 1 << 31:
        raise InvalidInput(f"{field}: expected the number of a token, not {value}", field=field)
    return value


def _piece(piece: bytes) -> str | list[int]:
    """As text where it is UTF-8, else its bytes."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
