"""The llama.cpp engine of models that only embed or rank."""

from collections.abc import Sequence

import numpy as np

from engines.engine import EngineError
from engines.llamacpp.embedder import Embedder
from engines.llamacpp.prompt import tokenize
from engines.llamacpp.runner import Runner
from engines.protocol import (
    Abort,
    Embed,
    Embedded,
    Generate,
    Rank,
    Ready,
    Rejected,
    SchedulerLoad,
    Step,
    Tokenize,
    Tokens,
    Unloaded,
)


class EmbeddingEngine:
    """Implements `engines.engine.TokenEngine`. It is given everything loaded, and closes it."""

    def __init__(self, ready: Ready, model: Runner, embedder: Embedder):
        self.ready = ready
        self._runner, self._embedder = model, embedder

    @property
    def busy(self) -> bool:
        return False

    def submit(self, request: Generate, media: Sequence[bytes] = ()) -> None:
        raise EngineError(
            "invalid_input",
            "this model writes no text; it embeds or ranks",
            hint="Use /v1/embeddings or /v1/rerank.",
            field="model",
        )

    def abort(self, request: Abort) -> None:
        pass

    def step(self) -> Step:
        return Step([], SchedulerLoad())

    def embed(self, requests: Sequence[Embed | Rank]) -> list[tuple[Embedded | Rejected, np.ndarray]]:
        return self._embedder.answer(requests)

    def tokenize(self, request: Tokenize) -> Tokens:
        if request.messages is not None:
            raise EngineError("invalid_input", "this model has no chat template", field="messages")
        return tokenize(self._runner, request)

    def unload(self) -> Unloaded:
        return Unloaded()

    def close(self) -> None:
        self._embedder.close()
        self._runner.close()
