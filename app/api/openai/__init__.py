"""`/v1` in OpenAI's protocol, and the rerank protocol that its clients use beside it."""

from typing import Any

from app.api.http import Route
from app.api.images import Images
from app.api.openai.chat import Chat
from app.api.openai.classify import Classify
from app.api.openai.completions import Completions
from app.api.openai.embeddings import Embeddings
from app.api.openai.models import Models
from app.api.openai.rerank import Rerank
from app.dataplane.dataplane import Dataplane
from app.schema import openai as schema

__all__ = ["OpenAI"]

_RERANK = ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking")


class OpenAI:
    def __init__(self, dataplane: Dataplane, images: Images):
        self._chat = Chat(dataplane, images)
        self._completions = Completions(dataplane)
        self._embeddings = Embeddings(dataplane)
        self._rerank = Rerank(dataplane)
        self._classify = Classify(dataplane)
        self._models = Models(dataplane)

    def routes(self) -> list[Route]:
        def route(method: str, path: str, handler: Any, summary: str, **more: Any) -> Route:
            return Route(method, path, handler, summary, "openai", scope="inference", **more)

        return [
            route("GET", "/v1/models", self._models.list, "The routes that are served", response=schema.ModelList),
            route("GET", "/v1/models/{model}", self._models.one, "One route", response=schema.ModelCard),
            route(
                "POST",
                "/v1/chat/completions",
                self._chat,
                "Chat with a language model",
                request=schema.ChatRequest,
                response=schema.ChatCompletion,
                stream=True,
            ),
            route(
                "POST",
                "/v1/completions",
                self._completions,
                "Continue a text",
                request=schema.CompletionRequest,
                response=schema.Completion,
                stream=True,
            ),
            route(
                "POST",
                "/v1/embeddings",
                self._embeddings,
                "Embed texts",
                request=schema.EmbeddingRequest,
                response=schema.EmbeddingList,
                cancellable=True,
            ),
            route(
                "POST",
                "/v1/classify",
                self._classify,
                "Classes of texts, images, sounds or rows",
                request=schema.ClassifyRequest,
                response=schema.ClassificationList,
                cancellable=True,
            ),
            *(
                route(
                    "POST",
                    path,
                    self._rerank,
                    "Sort documents by how well they answer a query",
                    request=schema.RerankRequest,
                    response=schema.Ranking,
                    cancellable=True,
                )
                for path in _RERANK
            ),
        ]
