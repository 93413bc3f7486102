"""`/v1/classify`, in vLLM's form, for tensor models whose steps end in classes."""

import secrets
import time

import msgspec

from app.api import items as parsing
from app.api.http import Request, Response, json
from app.api.openai.generation import within
from app.dataplane import items
from app.dataplane.dataplane import Dataplane
from app.schema.openai import Classification, ClassificationList, ClassifyRequest, ClassScore, InputUsage

_decoder = msgspec.json.Decoder(ClassifyRequest)
_TOP_K = 5


class Classify:
    def __init__(self, dataplane: Dataplane):
        self._dataplane = dataplane

    async def __call__(self, request: Request) -> Response:
        body = request.decode(_decoder)
        target = self._dataplane.find(body.model)
        items.require(target, items.CLASSIFY)
        top = within(body.top_k, "top_k", 1, 1 << 31, _TOP_K)
        given = parsing.parse(target, body.input)
        found, tokens = await items.classify(
            self._dataplane.infer, target, given, request.arrived, lambda index: f"input[{index}]"
        )
        names = items.labels(target)
        return json(
            ClassificationList(
                id=f"classify-{secrets.token_hex(12)}",
                created=int(time.time()),
                model=body.model,
                data=[classification(index, classes, names, top) for index, classes in enumerate(found)],
                usage=InputUsage(sum(tokens), sum(tokens)),
            )
        )


def classification(index: int, classes: items.Classes, names: list[str], top: int) -> Classification:
    """``names`` are all class names in the model's order: so are ``probs``, where each class has a score; else they are
    those of the best, as in ``scores``."""
    scored = [(label, score) for label, score in classes if score is not None]
    by_label = dict(scored)
    whole = len(by_label) == len(scored) == len(names) and all(name in by_label for name in names)
    return Classification(
        index=index,
        label=classes[0][0],
        probs=[by_label[name] for name in names] if whole else [score for _, score in scored],
        num_classes=max(len(names), len(scored)),
        scores=[ClassScore(label, score) for label, score in scored[:top]],
    )
