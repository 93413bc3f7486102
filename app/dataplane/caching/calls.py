"""The neutral calls of tensor models and of embeddings with a response cache before them: what the keys are, and how an
answer is kept."""

import struct
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from msgspec.structs import replace

from app.dataplane.caching.response_cache import Kept, ResponseCache
from app.dataplane.inference import Ask, Inference
from app.dataplane.routing import Target
from app.dataplane.tensors import Tensor, cut, views, whole
from engines.protocol import Embed, Embedded, Rank, Signature, TensorHeader

#: Items of a request that are kept one by one; more than these are one answer.
MOST_APART = 4096
_LENGTH = struct.Struct("<I")
_TOKENS = struct.Struct("<q")
_encode = msgspec.msgpack.Encoder().encode
_headers = msgspec.msgpack.Decoder(list[TensorHeader])

Run = Callable[[Target, Ask, list[Tensor]], Awaitable[Inference]]
RunEmbed = Callable[[Embed | Rank], Awaitable[tuple[Embedded, memoryview]]]


def takes(target: Target, ask: Ask) -> bool:
    """Whether an answer may be kept: not one that depends on what was asked before."""
    return ask.sequence is None and (ask.items or not target.card.states)


async def infer(cache: ResponseCache, target: Target, ask: Ask, inputs: list[Tensor], run: Run) -> Inference:
    """``inputs`` in the order of the signature. Items are kept one by one, so that of a batch only those are computed
    that are not there; a request of tensors as a whole."""
    signature = target.items if ask.items else target.signature
    rows = _rows(inputs) if ask.items and _apart(signature, inputs) else [inputs]
    own: Inference | None = None

    async def compute(which: list[int]) -> list[bytes]:
        nonlocal own
        # It may be for others too: it does not end when the time of this request does.
        hasty = ask.timeout_s is not None and ask.timeout_s < target.timeout_s
        patient = replace(ask, timeout_s=None) if hasty else ask
        own = await run(target, patient, inputs if len(which) == len(rows) else _together([rows[i] for i in which]))
        return [pack(outputs) for outputs in (_rows(own.outputs) if len(rows) > 1 else [own.outputs])]

    keys = [cache.keys.tensors(row, ask.outputs, ask.items) for row in rows]
    found = await cache.answers(keys, compute, ask.timeout_s or target.timeout_s, ask.cache)
    answers = [unpack(kept.body) for kept in found]
    if len(answers) > 1 and len({tuple(tuple(t.shape[1:]) for t in answer) for answer in answers}) > 1:
        return await run(target, ask, inputs)  # each is as long as the longest of its batch was
    outputs = _together(answers)
    if own is None:
        return Inference(target, outputs, cached=True)
    own.outputs = outputs
    return own


def _apart(signature: Signature | None, inputs: Sequence[Tensor]) -> bool:
    """Whether each row of the first axis has an answer of its own."""
    if signature is None or not signature.batched or not 0 < inputs[0].shape[0] <= MOST_APART:
        return False
    return all(spec.batch_axis == 0 for spec in (*signature.inputs, *signature.outputs))


def _rows(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    return [list(row) for row in zip(*(cut(t, [1] * t.shape[0]) for t in tensors), strict=True)]


def _together(rows: Sequence[list[Tensor]]) -> list[Tensor]:
    """The same tensors of several requests, one after another along the first axis."""
    if len(rows) == 1:
        return rows[0]
    return [
        Tensor(
            same[0].name,
            same[0].datatype,
            [sum(t.shape[0] for t in same), *same[0].shape[1:]],
            b"".join(t.data for t in same),
        )
        for same in zip(*rows, strict=True)
    ]


def pack(tensors: Sequence[Tensor]) -> bytes:
    """Tensors as one piece of bytes: ``u32 length | headers | data``."""
    headers, parts = whole(tensors)
    encoded = _encode(headers)
    return b"".join((_LENGTH.pack(len(encoded)), encoded, *parts))


def unpack(body: memoryview) -> list[Tensor]:
    """Views of what `pack` has made."""
    stop = _LENGTH.size + _LENGTH.unpack_from(body)[0]
    return views(_headers.decode(body[_LENGTH.size : stop]), body[stop:])


async def embed(
    cache: ResponseCache, request: Embed | Rank, timeout_s: float, run: RunEmbed
) -> tuple[Embedded, memoryview, int]:
    """As `Dataplane.embed`, and how many tokens needed no computing; each input, or document, is kept by itself."""
    if isinstance(request, Rank):
        keys = [cache.keys.score(request.query, document) for document in request.documents]
    else:
        keys = [cache.keys.embedding(given) for given in request.inputs]

    async def compute(which: list[int]) -> list[bytes]:
        wanted: Embed | Rank
        if isinstance(request, Rank):
            wanted = Rank(0, request.query, [request.documents[i] for i in which])
        else:
            wanted = Embed(0, [request.inputs[i] for i in which])
        answer, values = await run(wanted)
        width = 4 * answer.dimensions
        return [_TOKENS.pack(n) + values[i * width : (i + 1) * width] for i, n in enumerate(answer.tokens)]

    found: list[Kept] = await cache.answers(keys, compute, timeout_s)
    tokens = [_TOKENS.unpack_from(kept.body)[0] for kept in found]
    values = b"".join(kept.body[_TOKENS.size :] for kept in found)
    read = sum(n for n, kept in zip(tokens, found, strict=True) if not kept.hit)
    dimensions = len(values) // 4 // max(1, len(found))
    return Embedded(0, tokens, dimensions), memoryview(values), sum(tokens) - read
