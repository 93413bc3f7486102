"""The neutral calls that every protocol is a thin coat of: `infer`, `generate`, `embed`, `tokenize`."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from msgspec.structs import replace

from app.dataplane import admission, ensemble, items, routing
from app.dataplane.caching import calls as cached_calls
from app.dataplane.caching import control as cache_control
from app.dataplane.caching import text as cached_text
from app.dataplane.inference import Ask, Inference
from app.dataplane.routing import Table, Target
from app.dataplane.tensors import Tensor
from app.errors import DeadlineExceeded, InvalidInput, NotReady, PilothouseError, RouteNotFound
from app.monitoring.metrics import reason_of
from app.workers.client import TokenStream, WorkerClient
from engines.protocol import Embed, Embedded, Generate, Rank, Signature, TokenEvent, Tokenize, Tokens


def prefix(request: Generate) -> int:
    """A hash of what the next turn of the same conversation will begin with."""
    if request.messages:
        return hash((request.adapter, str(request.messages[0])))
    return hash((request.adapter, (request.prompt or str(request.prompt_tokens))[:256]))


def _signature(target: Target, ask: Ask) -> Signature:
    """What ``ask`` must match. Raises `InvalidInput` where its kind is not served here."""
    if target.pool is not None:
        raise InvalidInput(f"{target.route} is a language model", hint="use /v1/chat/completions", field="model")
    signature = target.items if ask.items else target.signature
    if signature is None:
        raise InvalidInput(
            f"{target.route} has no declared steps, it takes tensors only",
            hint=f"use /v2/models/{target.route}/infer, or declare its steps with `pilothouse describe`",
            field="model",
        )
    return signature


def _admit(signature: Signature, ask: Ask) -> list[Tensor]:
    """The inputs in the order of the signature. Raises `InvalidInput`."""
    inputs = admission.order_inputs(signature, ask.inputs)
    if ask.outputs:
        admission.check_outputs(signature, ask.outputs)
    return inputs


class Dataplane:
    """Reads `table`, which the control plane replaces as a whole; holds nothing else."""

    def __init__(self) -> None:
        self.table: Table = {}

    def publish(self, table: Table) -> None:
        self.table = table

    def find(self, route: str) -> Target:
        return routing.find(self.table, route)

    def admit(self, route: str, arrived: float) -> None:
        """Refuse what would be refused whatever it asks, before it is even read: under overload that is what most of
        the time would go to. Raises `QueueFull`."""
        target = self.table.get(route)
        if target is None or target.batcher is None or not target.batcher.full or target.cache is not None:
            return
        error = target.batcher.queue_full()
        target.metrics.failed(reason_of(error), time.perf_counter() - arrived)
        raise error

    async def infer(self, route: str, ask: Ask) -> Inference:
        """Raises `PilothouseError`."""
        while True:
            target = self.find(route)
            ask.items = items.meant(target, ask)
            signature = _signature(target, ask)
            try:
                if ask.sequence is not None and target.sequences is not None and not ask.items:
                    return await self._take_turn(target, signature, ask)
                return await self._infer(target, ask, _admit(signature, ask))
            except BaseException as error:
                if isinstance(error, NotReady) and self._replaced(target):
                    continue  # it came in the instant of a change, and nothing has begun
                target.metrics.failed(reason_of(error), time.perf_counter() - ask.arrived)
                raise

    async def _infer(self, target: Target, ask: Ask, inputs: list[Tensor]) -> Inference:
        if target.ensemble is not None:
            answer = await target.ensemble.run(self.infer, target, ask, inputs, ask.timeout_s or target.timeout_s)
            if not answer.cached:
                cache_control.computed()
                rows = ensemble.rows(target.signature, inputs) if target.signature is not None else 1
                target.metrics.batch(rows, answer.compute_s, int(time.time() * 1000))
        elif target.cache is not None and cached_calls.takes(target, ask):
            answer = await cached_calls.infer(target.cache, target, ask, inputs, self._run)
        else:
            answer = await self._run(target, ask, inputs)
        answer.total_s = time.perf_counter() - ask.arrived
        target.metrics.answered(
            answer.total_s,
            answer.queue_s,
            answer.compute_s,
            answer.batch_rows,
            input_s=answer.input_s,
            output_s=answer.output_s,
        )
        return answer

    async def _take_turn(self, target: Target, signature: Signature, ask: Ask) -> Inference:
        """One request of a sequence, with the states of the one before."""
        assert target.sequences is not None and ask.sequence is not None
        timeout_s = ask.timeout_s or target.timeout_s
        end = time.perf_counter() + timeout_s
        async with target.sequences.turn(ask.sequence, timeout_s) as turn:
            left_s = max(end - time.perf_counter(), 1e-3)
            part = replace(ask, inputs=turn.fill(ask.inputs), outputs=turn.ask(ask.outputs), timeout_s=left_s)
            answer = await self._infer(target, part, _admit(signature, part))
            answer.outputs = turn.keep(answer.outputs, ask.outputs)
            return answer

    @staticmethod
    async def _run(target: Target, ask: Ask, inputs: list[Tensor]) -> Inference:
        assert target.batcher is not None
        batcher = target.batcher
        timeout_s = ask.timeout_s or target.timeout_s
        waiting = batcher.submit(inputs, ask.outputs, timeout_s, priority=ask.priority, items=ask.items)
        try:
            outputs = await waiting.result
        except asyncio.CancelledError:
            batcher.abandon(waiting)
            raise
        return Inference(
            target,
            outputs,
            queue_s=waiting.queue_s,
            input_s=waiting.input_s,
            compute_s=waiting.compute_s,
            output_s=waiting.output_s,
            batch_rows=waiting.batch_rows,
        )

    async def _replica(self, target: Target, key: int = 0) -> WorkerClient:
        """One that takes the next sequence, also of what has replaced ``target`` meanwhile."""
        assert target.pool is not None
        try:
            return await target.pool.take(key, target.timeout_s)
        except NotReady:
            now = self.table.get(target.route)
            if now is None or now.pool is None or now.pool is target.pool:
                raise
            return await self._replica(now, key)

    def _replaced(self, target: Target) -> bool:
        """Whether something else serves its route by now."""
        now = self.table.get(target.route)
        if now is None or now.why_not:
            return False
        return (now.batcher, now.pool, now.ensemble) != (target.batcher, target.pool, target.ensemble)

    def language(self, name: str) -> tuple[Target, str]:
        """The language model that ``name`` means, and the LoRA adapter (empty: none). ``name`` is a route,
        ``ROUTE:ADAPTER``, or ``ROUTE:latest`` as Ollama's clients say it. Raises `RouteNotFound`, `InvalidInput`."""
        route, colon, tag = name.partition(":")
        if colon and name not in self.table and route in self.table:
            target = self.find(route)
            adapters = target.language.adapters if target.language is not None else []
            if tag not in ("latest", *adapters):
                there = ", ".join(f"{route}:{adapter}" for adapter in adapters) or "none"
                raise RouteNotFound(f"{route} has no adapter {tag!r}", hint=f"adapters: {there}", field="model")
            adapter = "" if tag == "latest" else tag
        else:
            target, adapter = self.find(name), ""
        if target.pool is None:
            raise InvalidInput(f"{target.route} is not a language model", hint=items.where(target), field="model")
        return target, adapter

    @asynccontextmanager
    async def generate(
        self, name: str, request: Generate, arrived: float, media: Sequence[bytes] = ()
    ) -> AsyncIterator[AsyncIterator[TokenEvent]]:
        """A context whose value iterates over the token events; leaving it early frees the slot within one step.

        The first event carries the length of the prompt: when it is here, the request was accepted.
        """
        target, adapter = self.language(name)
        request.adapter = adapter

        def write() -> AsyncGenerator[TokenEvent, None]:
            return self._tokens(target, request, arrived, media)

        cache = target.cache
        text = write() if cache is None else cached_text.generate(cache, request, arrived, media, write)
        async with aclosing(text) as events:
            yield events

    async def _tokens(
        self, target: Target, request: Generate, arrived: float, media: Sequence[bytes]
    ) -> AsyncGenerator[TokenEvent, None]:
        assert target.pool is not None
        metrics = target.metrics
        last = 0.0
        prompt_tokens = cached = 0
        ended = False
        stream: TokenStream | None = None
        try:
            replica = await self._replica(target, prefix(request))
            stream = replica.generate(request, media)
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
                    metrics.finished(now - arrived, event.finish_reason)
                yield event
        except TimeoutError:
            ended = True
            metrics.failed("BACKEND")
            raise DeadlineExceeded(f"no token came within {target.timeout_s:g} s", hint="retry later") from None
        except PilothouseError as error:
            ended = True
            metrics.failed(reason_of(error))
            raise
        finally:
            if not ended:
                metrics.failed("CANCELED")
            if stream is not None:
                stream.close()

    async def tokenize(self, name: str, request: Tokenize) -> Tokens:
        target, _ = self.language(name)
        replica = await self._replica(target)
        return await replica.tokenize(request)

    async def embed(self, name: str, request: Embed | Rank, arrived: float) -> tuple[Embedded, memoryview]:
        """The answer, and FP32 [inputs, `Embedded.dimensions`] (for `Rank` scores, [documents, 1]) as bytes."""
        tensor = self.table.get(name)
        if tensor is not None and tensor.batcher is not None:
            return await items.embed(self.infer, tensor, request, arrived)
        target, _ = self.language(name)
        if isinstance(request, Rank) and target.language is not None and target.language.capabilities == ["embedding"]:
            return await items.by_cosine(lambda texts: self.embed(name, texts, arrived), request)
        metrics, cached = target.metrics, 0

        async def run(wanted: Embed | Rank) -> tuple[Embedded, memoryview]:
            replica = await self._replica(target)
            async with asyncio.timeout(target.timeout_s):
                return await replica.embed(wanted)

        try:
            if target.cache is None:
                answer, values = await run(request)
            else:
                answer, values, cached = await cached_calls.embed(target.cache, request, target.timeout_s, run)
        except TimeoutError:
            metrics.failed("BACKEND")
            raise DeadlineExceeded(f"no answer came within {target.timeout_s:g} s", hint="retry later") from None
        except BaseException as error:
            metrics.failed(reason_of(error))
            raise
        metrics.prompt(sum(answer.tokens), cached)
        metrics.finished(time.perf_counter() - arrived)
        return answer, values
