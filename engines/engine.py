"""What an engine is. A worker holds exactly one of these; which one, `engines.worker` decides by name."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from engines.protocol import Abort, Embed, Embedded, Generate, Rank, Ready, Rejected, Step, Tokenize, Tokens, Unloaded


class EngineError(Exception):
    """A load or a request that failed for a reason the caller can act on.

    ``code`` is one of those listed at `protocol.Failed` (while loading) or `protocol.Rejected` (for a request).
    """

    def __init__(self, code: str, message: str, hint: str = "", field: str = ""):
        super().__init__(message)
        self.code, self.message, self.hint, self.field = code, message, hint, field


class TensorEngine(Protocol):
    """Blocks while it computes. Constructed loaded and warmed: the constructor raises `EngineError`."""

    ready: Ready

    def infer(self, inputs: dict[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Run one batch. ``outputs`` empty means all. Raises `EngineError`."""

    def close(self) -> None: ...


class TokenEngine(Protocol):
    """Decodes many sequences together, one step at a time. Constructed loaded and warmed."""

    ready: Ready

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""

    def submit(self, request: Generate, media: Sequence[bytes] = ()) -> None:
        """Queue a sequence. Raises `EngineError` (``invalid_input``, ``context_exceeded``, ``queue_full``)."""

    def abort(self, request: Abort) -> None:
        """Forget a sequence; unknown ids are ignored (it may have just ended)."""

    def step(self) -> Step:
        """Schedule, decode, sample, emit: one `llama_decode` for all running sequences."""

    def embed(self, requests: Sequence[Embed | Rank]) -> list[tuple[Embedded | Rejected, np.ndarray]]:
        """All that came since the last step, computed together: for each its answer and its payload, FP32
        [inputs, dimensions], or why there is none (and an empty payload)."""

    def tokenize(self, request: Tokenize) -> Tokens: ...

    def unload(self) -> Unloaded:
        """Save what the next load would have to compute again."""

    def close(self) -> None: ...
