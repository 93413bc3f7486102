"""`/v1/models`: routes, and the LoRA adapters that a request may choose with ``ROUTE:ADAPTER``."""

from app.api.http import Request, Response, json
from app.dataplane import items
from app.dataplane.dataplane import Dataplane
from app.dataplane.routing import Target
from app.schema.openai import ModelCard, ModelList


class Models:
    def __init__(self, dataplane: Dataplane):
        self._dataplane = dataplane

    async def list(self, request: Request) -> Response:
        return json(ModelList(data=[card for target in self._dataplane.table.values() for card in _cards(target)]))

    async def one(self, request: Request) -> Response:
        name = request.params["model"]
        target = self._dataplane.table.get(name)
        adapter = ""
        if target is None:
            target, adapter = self._dataplane.language(name)
        return json(_card(target, adapter))


def _cards(target: Target) -> list[ModelCard]:
    adapters = target.language.adapters if target.language is not None else []
    return [_card(target), *(_card(target, adapter) for adapter in adapters)]


def _card(target: Target, adapter: str = "") -> ModelCard:
    card = ModelCard(id=target.route, created=target.created, root=target.model)
    if adapter:
        card.id, card.parent = f"{target.route}:{adapter}", target.route
    if target.language is not None:
        card.context_length = card.max_model_len = target.language.context_tokens
        card.capabilities = target.language.capabilities
    elif can := items.capabilities(target.card, target.items):
        card.capabilities = can
    return card
