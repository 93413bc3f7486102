"""Tensor models asked by items (texts, images, rows) instead of tensors: what one can do with its declared steps, and
its answers as classes, embeddings and scores."""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from app.dataplane.inference import Ask, Inference
from app.dataplane.routing import Target
from app.dataplane.tensors import Tensor, pack_strings, unpack_strings
from app.errors import EngineFailed, InvalidInput, PilothouseError
from engines.card import Argmax, Card, Labels, Nms, Sigmoid, Softmax, TokenizeText, TopK
from engines.protocol import Embed, Embedded, Rank, Signature

CLASSIFY, EMBEDDING, RERANK = "classify", "embedding", "rerank"
#: Where each is asked for.
PATHS = {CLASSIFY: "/v1/classify", EMBEDDING: "/v1/embeddings", RERANK: "/v1/rerank"}
_FLOATS = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
#: How the worker names what is wrong, and how `embed` does.
_ITEM = re.compile(r"(?:\w+\.)*item\[(\d+)\]")
_INPUT = re.compile(r"input\[(\d+)\]")

Infer = Callable[[str, Ask], Awaitable[Inference]]
Classes = list[tuple[str, float | None]]
"""Label and score (`None`: the steps give none), the best first."""


def capabilities(card: Card, items: Signature | None) -> list[str]:
    """Of `PATHS`, what a model can be asked for by items; ``items`` is what its steps take and give."""
    if items is None:
        return []
    names = {spec.name for spec in items.outputs}
    if EMBEDDING in names:
        return [EMBEDDING, *([RERANK] if card.item == "text" else [])]
    if any(isinstance(step, Nms) for step in card.after):
        return []
    if _label_names(card) & names or (card.after and isinstance(card.after[-1], Softmax)):
        return [CLASSIFY]
    if pairs(card) and len(names - {"tokens"}) == 1:
        return [RERANK]
    return [CLASSIFY] if card.after and isinstance(card.after[-1], Sigmoid) else []


def pairs(card: Card) -> bool:
    """Whether an item is two texts."""
    return any(isinstance(step, TokenizeText) and step.pairs for step in card.before)


def meant(target: Target, ask: Ask) -> bool:
    """Whether ``ask`` brings items, said so or by the name of its one tensor: what steps give beyond classes,
    embeddings and scores (boxes, values, speech over time) is asked for in the protocol of tensors."""
    if ask.items or target.items is None or target.signature is None:
        return ask.items
    name = target.items.inputs[0].name
    return [given.name for given in ask.inputs] == [name] != [spec.name for spec in target.signature.inputs]


def where(target: Target) -> str:
    """Where to ask a tensor model, as a hint."""
    paths = [PATHS[word] for word in capabilities(target.card, target.items)]
    return f"use {' or '.join([*paths, f'/v2/models/{target.route}/infer'])}"


def require(target: Target, wanted: str) -> None:
    """Raises `InvalidInput` unless ``target`` is a tensor model that can do ``wanted`` (a key of `PATHS`)."""
    if target.language is not None:
        raise InvalidInput(
            f"{target.route} is a language model, and {PATHS[wanted]} is for tensor models",
            hint="ask it in words on /v1/chat/completions; classification heads of language models are not served",
            field="model",
        )
    if target.items is None:
        raise InvalidInput(
            f"{target.route} has no declared steps, it takes tensors only",
            hint=f"declare them with `pilothouse describe {target.model} --card card.json` and deploy it again, or "
            f"use /v2/models/{target.route}/infer",
            field="model",
        )
    if wanted not in capabilities(target.card, target.items):
        given = ", ".join(spec.name for spec in target.items.outputs)
        raise InvalidInput(
            f"the steps of {target.route} give {given}, which does not serve {PATHS[wanted]}",
            hint=where(target),
            field="model",
        )


async def ask(
    infer: Infer, target: Target, wanted: str, items: Sequence[bytes], arrived: float, name: Callable[[int], str]
) -> Inference:
    """The answer for ``items`` of a model that can do ``wanted`` (a key of `PATHS`); the first axis of its outputs is
    as long as they are. An item that is refused is named as ``name`` says. Raises `PilothouseError`."""
    require(target, wanted)
    assert target.items is not None
    tensor = Tensor(target.items.inputs[0].name, "BYTES", [len(items)], pack_strings(items))
    with _renamed(_ITEM, name):
        answer = await infer(target.route, Ask([tensor], arrived=arrived, items=True))
    if answer.target is not target:  # a change of version came between
        require(answer.target, wanted)
    return answer


@contextmanager
def _renamed(pattern: re.Pattern[str], name: Callable[[int], str]) -> Iterator[None]:
    """An error's field, where it is an index as ``pattern`` finds it, becomes what ``name`` says."""
    try:
        yield
    except PilothouseError as error:
        if found := pattern.fullmatch(error.field):
            field = name(int(found[1]))
            error.message, error.field = error.message.replace(error.field, field), field
        raise


async def classify(
    infer: Infer, target: Target, items: Sequence[bytes], arrived: float, name: Callable[[int], str]
) -> tuple[list[Classes], list[int]]:
    """For each item its classes, and how many tokens were read of it (0 where it has none)."""
    answer = await ask(infer, target, CLASSIFY, items, arrived, name)
    outputs = {output.name: output for output in answer.outputs}
    return classes(answer.target, outputs, len(items)), _tokens(answer.outputs, len(items))


def classes(target: Target, outputs: dict[str, Tensor], count: int) -> list[Classes]:
    """Read the answer of steps that end in labels, or in a score for each class."""
    top = next((step for step in reversed(target.card.after) if isinstance(step, TopK)), None)
    if top is not None and top.label in outputs:
        names, scores = _texts(outputs[top.label]), _finite(outputs[top.score])
        width = len(names) // count
        return [
            list(zip(names[row * width : (row + 1) * width], scores[row].tolist(), strict=True)) for row in range(count)
        ]
    found = next((outputs[name] for name in _label_names(target.card) if name in outputs), None)
    if found is not None:
        names = _texts(found) if found.datatype == "BYTES" else [str(index) for index in _whole(found)]
        return [[(name, None)] for name in names]
    scores = _finite(next(tensor for tensor in outputs.values() if tensor.datatype in _FLOATS))
    names = labels(target)
    named = [names[index] if index < len(names) else str(index) for index in range(scores.shape[1])]
    order = np.argsort(-scores, axis=1, kind="stable")
    return [[(named[index], float(scores[row, index])) for index in order[row]] for row in range(count)]


def confidence(card: Card, outputs: Sequence[Tensor]) -> tuple[float, int] | None:
    """Of an answer by `TopK`: the sum of the best scores, and how many items there are; `None` for other outputs, and
    for scores that are no probabilities."""
    found = {tensor.name: tensor for tensor in outputs}
    step = next((step for step in reversed(card.after) if isinstance(step, TopK)), None)
    if step is None or not {step.label, step.score} <= found.keys():
        return None
    scores = _floats(found[step.score])
    if not scores.size or not (scores.min() >= 0 and scores.max() <= 1):
        return None
    return float(scores[:, 0].sum()), len(scores)


def labels(target: Target) -> list[str]:
    """Class names in the order of the model's own output."""
    return target.card.labels or (target.signature.labels if target.signature is not None else [])


async def embed(infer: Infer, target: Target, request: Embed | Rank, arrived: float) -> tuple[Embedded, memoryview]:
    """As `Dataplane.embed`, for a tensor model: embeddings of length 1; the scores of a cross-encoder, or the cosine of
    the embeddings. What is refused is named ``input[i]``, ``query`` or ``documents[i]``."""
    if isinstance(request, Embed):
        require(target, EMBEDDING)
        for index, given in enumerate(request.inputs):
            if not isinstance(given, str):
                field = f"input[{index}]"
                raise InvalidInput(f"{field}: {target.route} takes texts, not tokens", field=field)
        texts = [given.encode() for given in request.inputs if isinstance(given, str)]
        return await embed_items(infer, target, texts, arrived)
    require(target, RERANK)
    if not pairs(target.card):
        return await by_cosine(lambda texts: embed(infer, target, texts, arrived), request)
    asked = [json.dumps([request.query, text]).encode() for text in request.documents]
    outputs = (await ask(infer, target, RERANK, asked, arrived, lambda index: f"documents[{index}]")).outputs
    scores = _finite(next(tensor for tensor in outputs if tensor.name != "tokens"))
    if scores.shape[1] != 1:
        raise InvalidInput(
            f"the steps of {target.route} give {scores.shape[1]} scores for a pair, ranking needs one",
            hint='go on with one of them: {"step": "select", "index": 1} after the model',
            field="model",
        )
    return Embedded(0, _tokens(outputs, len(asked)), 1), memoryview(scores.tobytes())


async def embed_items(
    infer: Infer, target: Target, items: Sequence[bytes], arrived: float
) -> tuple[Embedded, memoryview]:
    """FP32 [items, width], each of length 1 (or all zeros). What is refused is named ``input[i]``."""
    outputs = (await ask(infer, target, EMBEDDING, items, arrived, lambda index: f"input[{index}]")).outputs
    values = _finite(next(tensor for tensor in outputs if tensor.name == EMBEDDING))
    length = np.linalg.norm(values, axis=1, keepdims=True)
    values = np.divide(values, length, out=np.zeros_like(values), where=length > 0)
    return Embedded(0, _tokens(outputs, len(items)), values.shape[1]), memoryview(values.tobytes())


async def by_cosine(
    embedded: Callable[[Embed], Awaitable[tuple[Embedded, memoryview]]], request: Rank
) -> tuple[Embedded, memoryview]:
    """The answer to ``request`` from a model that only embeds: how near each document is to the query."""
    with _renamed(_INPUT, lambda index: f"documents[{index - 1}]" if index else "query"):
        answer, payload = await embedded(Embed(0, [request.query, *request.documents]))
    values = np.frombuffer(payload, np.float32).reshape(-1, answer.dimensions)
    scores = values[1:] @ values[0]
    tokens = [answer.tokens[0] + answer.tokens[1], *answer.tokens[2:]]
    return Embedded(0, tokens, 1), memoryview(scores.tobytes())


def _label_names(card: Card) -> set[str]:
    """What the outputs with class names, or with indices of classes, may be called."""
    names = {step.output for step in card.after if isinstance(step, (Argmax, Labels))}
    return names | {step.label for step in card.after if isinstance(step, TopK)}


def _floats(tensor: Tensor) -> np.ndarray:
    """FP32 [first axis, all others]."""
    values = np.frombuffer(tensor.data, _FLOATS[tensor.datatype]).astype(np.float32, copy=False)
    return values.reshape(tensor.shape[0], -1)


def _finite(tensor: Tensor) -> np.ndarray:
    """As `_floats`. Raises `EngineFailed` where JSON has no such numbers."""
    values = _floats(tensor)
    if not np.isfinite(values).all():
        raise EngineFailed(
            f"the model answered with {tensor.name} that are no numbers (NaN or infinite)",
            hint="look at its tensors on /v2; a model in FP16 may overflow",
        )
    return values


def _whole(tensor: Tensor) -> list[int]:
    return np.frombuffer(tensor.data, f"<i{4 if tensor.datatype == 'INT32' else 8}").tolist()


def _texts(tensor: Tensor) -> list[str]:
    return [value.decode(errors="replace") for value in unpack_strings(tensor.data)]


def _tokens(outputs: Iterable[Tensor], count: int) -> list[int]:
    return next((_whole(tensor) for tensor in outputs if tensor.name == "tokens"), [0] * count)
