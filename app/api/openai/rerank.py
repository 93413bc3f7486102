"""`/v1/rerank`, as Jina's and Cohere's clients and llama-server speak it."""

import secrets
from typing import Any

import msgspec
import numpy as np

from app.api.fields import from_index, said_as
from app.api.http import Request, Response, json
from app.api.openai.generation import within
from app.dataplane.dataplane import Dataplane
from app.errors import InvalidInput
from app.schema.openai import Document, InputUsage, Ranked, Ranking, RerankRequest
from engines.protocol import Rank

_decoder = msgspec.json.Decoder(RerankRequest)
_MOST_DOCUMENTS = 4096
#: Documents that the worker gets at once: what others ask of it meanwhile gets its turn between them.
_BATCH = 64


class Rerank:
    def __init__(self, dataplane: Dataplane):
        self._dataplane = dataplane

    async def __call__(self, request: Request) -> Response:
        body = request.decode(_decoder)
        documents = texts(body)
        top = within(body.top_n, "top_n", 1, 1 << 31, len(documents))
        scores, tokens = await self._scores(body.model, body.query, documents, request.arrived)
        # Stable: of equal scores the earlier document comes first.
        order = np.argsort(-scores, kind="stable")[:top].tolist()
        results = [Ranked(index, float(scores[index])) for index in order]
        if body.return_documents:
            for ranked in results:
                ranked.document = Document(documents[ranked.index])
        return json(
            Ranking(
                id=f"rerank-{secrets.token_hex(12)}",
                model=body.model,
                results=results,
                usage=InputUsage(tokens, tokens),
            )
        )

    async def _scores(self, model: str, query: str, documents: list[str], arrived: float) -> tuple[np.ndarray, int]:
        parts, tokens = [], 0
        for first in range(0, len(documents), _BATCH):
            rank = Rank(0, query, documents[first : first + _BATCH])
            with said_as(from_index(first, "documents")):
                answer, payload = await self._dataplane.embed(model, rank, arrived)
            parts.append(np.frombuffer(payload, np.float32))
            tokens += sum(answer.tokens)
        return np.concatenate(parts), tokens


def texts(body: RerankRequest) -> list[str]:
    """The documents. Raises `InvalidInput`."""
    given: list[Any] = body.documents or list(body.texts or [])
    if not given:
        raise InvalidInput("documents is missing or empty", hint="send a list of texts", field="documents")
    if len(given) > _MOST_DOCUMENTS:
        raise InvalidInput(f"documents has {len(given)} entries, more than {_MOST_DOCUMENTS}", field="documents")
    documents = []
    for index, document in enumerate(given):
        text = document.get("text") if isinstance(document, dict) else document
        if not isinstance(text, str):
            field = f"documents[{index}].text"
            raise InvalidInput(f"{field}: expected a text", field=field)
        documents.append(text)
    return documents
