"""`/v1/embeddings`."""

import base64
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import numpy as np

from app.api.fields import from_index, said_as
from app.api.http import Request, Response, json
from app.api.items import parse
from app.api.openai.generation import is_token, within
from app.dataplane import items
from app.dataplane.dataplane import Dataplane
from app.errors import InvalidInput
from app.schema.openai import Embedding, EmbeddingList, EmbeddingRequest, InputUsage
from engines.protocol import Embed, Embedded

T = TypeVar("T")

_decoder = msgspec.json.Decoder(EmbeddingRequest)
_MOST_INPUTS = 2048
#: Inputs that the worker gets at once: what others ask of it meanwhile gets its turn between them.
_BATCH = 64


class Embeddings:
    def __init__(self, dataplane: Dataplane):
        self._dataplane = dataplane

    async def __call__(self, request: Request) -> Response:
        body = request.decode(_decoder)
        if body.encoding_format not in (None, "float", "base64"):
            raise InvalidInput(
                f"encoding_format must be float or base64, not {body.encoding_format!r}", field="encoding_format"
            )
        values, tokens = await self._embed(body, request.arrived)
        values = shortened(values, body.dimensions)
        encoded: list[Any]
        if body.encoding_format == "base64":
            encoded = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in values]
        else:
            encoded = values.tolist()
        return json(
            EmbeddingList(
                data=[Embedding(index, embedding) for index, embedding in enumerate(encoded)],
                model=body.model,
                usage=InputUsage(tokens, tokens),
            )
        )

    async def _embed(self, body: EmbeddingRequest, arrived: float) -> tuple[np.ndarray, int]:
        target = self._dataplane.table.get(body.model)
        if target is not None and target.items is not None and target.card.item != "text":
            items.require(target, items.EMBEDDING)
            found = parse(target, body.input)
            return await in_batches(found, lambda part: items.embed_items(self._dataplane.infer, target, part, arrived))
        return await in_batches(
            inputs(body.input), lambda part: self._dataplane.embed(body.model, Embed(0, part), arrived)
        )


async def in_batches(
    given: list[T], embed: Callable[[list[T]], Awaitable[tuple[Embedded, memoryview]]]
) -> tuple[np.ndarray, int]:
    """FP32 [inputs, width], each of Euclidean length 1, and how many tokens were read. Raises `PilothouseError`."""
    parts, tokens = [], 0
    for first in range(0, len(given), _BATCH):
        with said_as(from_index(first, "input")):
            answer, payload = await embed(given[first : first + _BATCH])
        parts.append(np.frombuffer(payload, np.float32).reshape(-1, answer.dimensions))
        tokens += sum(answer.tokens)
    return np.concatenate(parts), tokens


def inputs(given: str | list[Any], field: str = "input") -> list[str | list[int]]:
    """The inputs in any of OpenAI's four forms. Raises `InvalidInput`."""
    if isinstance(given, str) or (given and all(map(is_token, given))):
        given = [given]
    if not given:
        raise InvalidInput(f"{field} is empty", field=field)
    if len(given) > _MOST_INPUTS:
        raise InvalidInput(
            f"{field} has {len(given)} entries, more than {_MOST_INPUTS}", hint="send several requests", field=field
        )
    for index, entry in enumerate(given):
        if not entry or not (isinstance(entry, str) or (isinstance(entry, list) and all(map(is_token, entry)))):
            place = field if len(given) == 1 else f"{field}[{index}]"
            raise InvalidInput(f"{place}: expected a text or a list of tokens, and not an empty one", field=place)
    return given


def shortened(values: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first ``dimensions`` of each row of ``values`` [inputs, width], again of length 1: what Matryoshka
    representation learning (Kusupati et al., 2022) trains for. Raises `InvalidInput` beyond the width."""
    width = values.shape[1]
    kept = within(dimensions, "dimensions", 1, width, width)
    if kept == width:
        return values
    cut = values[:, :kept]
    length = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.divide(cut, length, out=np.zeros_like(cut), where=length > 0)
