"""Several sequences for one request, whole or as one stream; and what is told about them at the end."""

import asyncio
import itertools
import time
import zlib
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

import app
from app.api.answer import Answer, Started, collect, start
from app.dataplane.dataplane import Dataplane
from app.dataplane.routing import Target
from app.errors import PilothouseError
from app.schema.openai import CompletionTokensDetails, PromptTokensDetails, Timings, Usage
from engines.protocol import Generate, TokenEvent

T = TypeVar("T")


async def collect_all(
    dataplane: Dataplane, model: str, requests: Sequence[Generate], arrived: float, media: Sequence[bytes] = ()
) -> list[Answer]:
    """All answers, in the order of ``requests``. When one fails the others are given up. Raises `PilothouseError`."""
    return await _together([collect(dataplane, model, request, arrived, media) for request in requests])


async def start_all(
    dataplane: Dataplane, model: str, requests: Sequence[Generate], arrived: float, media: Sequence[bytes] = ()
) -> tuple[list[Started], AsyncExitStack]:
    """All sequences, accepted, and what to close when done with them. When one is refused none goes on. Raises
    `PilothouseError`."""
    async with AsyncExitStack() as stack:

        async def begin(request: Generate) -> Started:
            started = await start(dataplane, model, request, arrived, media)
            stack.push_async_callback(started.resources.aclose)
            return started

        return await _together([begin(request) for request in requests]), stack.pop_all()


async def _together(work: Sequence[Awaitable[T]]) -> list[T]:
    if len(work) == 1:
        return [await work[0]]
    tasks = [asyncio.ensure_future(entry) for entry in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def interleave(sequences: Sequence[Started]) -> AsyncGenerator[tuple[int, TokenEvent], None]:
    """The events of all sequences as they come, each with the number of its sequence. Raises the `PilothouseError` of
    the first that fails."""
    if len(sequences) == 1:
        yield 0, sequences[0].first
        async for event in sequences[0].rest:
            yield 0, event
        return
    # Bounded: a client that reads slowly holds up what it reads, as it does with one sequence.
    queue: asyncio.Queue[tuple[int, TokenEvent | PilothouseError | None]] = asyncio.Queue(2 * len(sequences))

    async def pump(number: int, sequence: Started) -> None:
        try:
            async for event in sequence.events():
                await queue.put((number, event))
            await queue.put((number, None))
        except PilothouseError as error:
            await queue.put((number, error))

    tasks = [asyncio.create_task(pump(*entry)) for entry in enumerate(sequences)]
    try:
        left = len(sequences)
        while left:
            number, said = await queue.get()
            if isinstance(said, PilothouseError):
                raise said
            if said is None:
                left -= 1
            else:
                yield number, said
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def usage(answers: Sequence[Answer], per_prompt: int = 1) -> Usage:
    """Of all ``answers``, of which ``per_prompt`` in a row share a prompt that is counted once."""
    prompts = list(itertools.islice(answers, 0, None, per_prompt))
    prompt_tokens = sum(answer.prompt_tokens for answer in prompts)
    tokens = sum(answer.tokens for answer in answers)
    return Usage(
        prompt_tokens,
        tokens,
        prompt_tokens + tokens,
        PromptTokensDetails(sum(answer.cached_tokens for answer in prompts)),
        CompletionTokensDetails(sum(answer.reasoning_tokens for answer in answers)),
    )


def timings(answer: Answer) -> Timings:
    ended = answer.ended_at or time.perf_counter()
    first = answer.first_token_at or ended
    prompt_s, predicted_s = first - answer.arrived, ended - first
    read = answer.prompt_tokens - answer.cached_tokens
    return Timings(
        cache_n=answer.cached_tokens,
        prompt_n=read,
        prompt_ms=prompt_s * 1e3,
        prompt_per_second=read / prompt_s if prompt_s > 0 else 0.0,
        predicted_n=answer.tokens,
        predicted_ms=predicted_s * 1e3,
        predicted_per_second=answer.tokens / predicted_s if predicted_s > 0 else 0.0,
    )


def fingerprint(target: Target) -> str:
    """Changes with whatever may change an answer to the same seed."""
    configuration = (app.__version__, target.engine, target.model, target.version)
    return f"fp_{zlib.crc32(repr(configuration).encode()):08x}"
