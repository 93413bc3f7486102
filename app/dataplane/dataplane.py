"""The neutral calls that every protocol is a thin coat of: `infer`, `generate`, `tokenize`."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from app.dataplane import admission, routing
from app.dataplane.pool import Pool
from app.dataplane.routing import Table, Target
from app.dataplane.tensors import Tensor
from app.errors import DeadlineExceeded, InvalidInput, NotReady, PilothouseError, QueueFull
from app.workers.client import TokenStream
from engines.protocol import Generate, Sampling, TokenEvent, Tokenize


@dataclass(slots=True)
class Inference:
    """An answer: outputs as raw tensors, and where the time went (seconds)."""

    target: Target
    outputs: list[Tensor]
    queue_s: float
    compute_s: float
    total_s: float
    batch_rows: int


@dataclass(slots=True)
class Generation:
    """A request for text. Exactly one of ``messages``, ``prompt`` and ``prompt_tokens`` is set."""

    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    prompt_tokens: list[int] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = -1
    min_tokens: int = 0
    stop: list[str] = field(default_factory=list)
    ignore_eos: bool = False
    cache_prompt: bool = True

    def message(self) -> Generate:
        """As it goes to a worker; the client numbers it."""
        return Generate(
            0,
            messages=self.messages,
            prompt=self.prompt,
            prompt_tokens=self.prompt_tokens,
            sampling=self.sampling,
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
            stop=self.stop,
            ignore_eos=self.ignore_eos,
            cache_prompt=self.cache_prompt,
        )

    @property
    def prefix(self) -> int:
        """A hash of what the next turn of the same conversation will begin with."""
        if self.messages:
            return hash(str(self.messages[0]))
        return hash((self.prompt or str(self.prompt_tokens))[:256])


def _reason(error: BaseException) -> str:
    """Triton's words for why a request failed."""
    if isinstance(error, QueueFull):
        return "REJECTED"
    if isinstance(error, (DeadlineExceeded, NotReady)):
        return "REJECTED" if isinstance(error, NotReady) else "CANCELED"
    return "BACKEND" if isinstance(error, PilothouseError) and error.status >= 500 else "OTHER"


class Dataplane:
    """Reads `table`, which the control plane replaces as a whole; holds nothing else."""

    def __init__(self) -> None:
        self.table: Table = {}

    def publish(self, table: Table) -> None:
        self.table = table

    def find(self, route: str) -> Target:
        return routing.find(self.table, route)

    async def infer(
        self, route: str, inputs: list[Tensor], outputs: list[str], arrived: float, timeout_s: float | None = None
    ) -> Inference:
        """Run ``inputs`` (in any order) through ``route``; ``outputs`` empty asks for all. ``arrived`` is the
        `time.perf_counter` of the request. Raises `PilothouseError`."""
        target = self.find(route)
        if target.signature is None or target.batcher is None:
            raise InvalidInput(f"{route} is a language model", hint="use /v1/chat/completions", field="model")
        metrics = target.metrics
        try:
            ordered = admission.order_inputs(target.signature, inputs)
            if outputs:
                admission.check_outputs(target.signature, outputs)
            waiting = target.batcher.submit(ordered, outputs, timeout_s or target.timeout_s)
            answer = await waiting.result
        except BaseException as error:
            metrics.failed(_reason(error) if isinstance(error, Exception) else "CANCELED")
            raise
        total_s = time.perf_counter() - arrived
        metrics.answered(total_s, waiting.queue_s, waiting.compute_s, waiting.rows)
        return Inference(target, answer, waiting.queue_s, waiting.compute_s, total_s, waiting.batch_rows)

    @asynccontextmanager
    async def generate(
        self, route: str, request: Generation, arrived: float
    ) -> AsyncIterator[AsyncIterator[TokenEvent]]:
        """A context whose value iterates over the token events; leaving it early frees the slot within one step.

        The first event carries the length of the prompt: when it is here, the request was accepted.
        """
        target = self.find(route)
        if target.pool is None:
            raise InvalidInput(f"{route} is not a language model", hint=f"use /v2/models/{route}/infer", field="model")
        async with aclosing(self._tokens(target, target.pool, request, arrived)) as events:
            yield events

    async def _tokens(
        self, target: Target, pool: Pool, request: Generation, arrived: float
    ) -> AsyncGenerator[TokenEvent, None]:
        metrics = target.metrics
        last = 0.0
        prompt_tokens = cached = 0
        ended = False
        stream: TokenStream | None = None
        try:
            replica = await pool.take(request.prefix, target.timeout_s)
            stream = replica.generate(request.message())
            while not ended:
                async with asyncio.timeout(
                    target.timeout_s
                ):  # of each event: a worker that hangs is told, not waited for
                    event = await anext(stream)
                now = time.perf_counter()
                prompt_tokens = event.prompt_tokens or prompt_tokens
                cached = event.cached_tokens or cached
                if event.tokens:
                    if last:
                        metrics.token(now - last, event.tokens)
                    else:
                        metrics.first_token(now - arrived)
                        metrics.token(0.0, event.tokens)
                    last = now
                if event.finish_reason:
                    ended = True
                    metrics.prompt(prompt_tokens, cached)
                    metrics.finished(now - arrived)
                yield event
        except TimeoutError:
            ended = True
            metrics.failed("BACKEND")
            raise DeadlineExceeded(f"no token came within {target.timeout_s:g} s", hint="retry later") from None
        except PilothouseError as error:
            ended = True
            metrics.failed(_reason(error))
            raise
        finally:
            if not ended:
                metrics.failed("CANCELED")
            if stream is not None:
                stream.close()

    async def tokenize(self, route: str, text: str | None, messages: list[dict[str, Any]] | None = None) -> list[int]:
        """The tokens of ``text``, or of ``messages`` as the chat template renders them."""
        target = self.find(route)
        if target.pool is None:
            raise InvalidInput(f"{route} is not a language model", field="model")
        replica = await target.pool.take(0, target.timeout_s)
        return await replica.tokenize(Tokenize(0, text, messages))
