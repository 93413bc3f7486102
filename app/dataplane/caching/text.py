"""Text that is written once and told again: a kept answer as the token events that it came in, and one that is being
written to all that asked for the same."""

import asyncio
import copy
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import msgspec

from app.dataplane.caching import control
from app.dataplane.caching.response_cache import ResponseCache
from app.monitoring.metrics import reason_of
from engines.protocol import Generate, TokenEvent

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[TokenEvent]).decode

Write = Callable[[], AsyncGenerator[TokenEvent, None]]


class Writing:
    """An answer that is being written. Every reader gets all events; when the last one has gone before the end, so
    has the writing.

    The writer counts one request in the metrics: that of the first reader who is still there at the end.
    """

    def __init__(self, cache: ResponseCache, key: bytes, write: Write):
        self._cache, self._key = cache, key
        self._events: list[TokenEvent] = []
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._readers: list[object] = []
        self._counted: object = None
        self._over = False
        cache.writings[key] = self
        self._task = asyncio.create_task(self._run(write))

    async def _run(self, write: Write) -> None:
        began = time.perf_counter()
        try:
            async with aclosing(write()) as events:
                async for event in events:
                    self._events.append(event)
                    if event.finish_reason:
                        self._end()
                    self._tell()
        except Exception as error:
            self._error = error
        finally:
            self._end()
            self._tell()
            if self._error is None and self._events and self._events[-1].finish_reason:
                await self._cache.keep(self._key, self, _encode(self._events), time.perf_counter() - began)
            self._leave_cache()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._counted = next(iter(self._readers), None)

    def _tell(self) -> None:
        self._news.set()
        self._news.clear()

    def _leave_cache(self) -> None:
        if self._cache.writings.get(self._key) is self:
            del self._cache.writings[self._key]

    async def read(self, reader: object) -> AsyncGenerator[TokenEvent, None]:
        """All events, as they come. Raises what the writer raised."""
        self._readers.append(reader)
        position = 0
        while True:
            while position < len(self._events):
                yield self._events[position]
                position += 1
            if self._error is not None:
                raise copy.copy(self._error)  # each request changes its own on its way
            if self._over:
                return
            await self._news.wait()

    def leave(self, reader: object) -> bool:
        """Whether the request of ``reader`` is still to be counted."""
        if self._over:
            return reader is not self._counted
        self._readers.remove(reader)
        if self._readers:
            return True
        self._leave_cache()  # nobody may join what is being given up
        self._task.cancel()
        return False


async def _kept(body: memoryview) -> AsyncGenerator[TokenEvent, None]:
    for event in _decode(body):
        yield event


async def generate(
    cache: ResponseCache, request: Generate, arrived: float, media: Sequence[bytes], write: Write
) -> AsyncGenerator[TokenEvent, None]:
    """The events of the answer to ``request``: those that were kept, or those that ``write`` gives, which counts the
    request in the metrics. Raises `PilothouseError`."""
    look, keep = control.wishes()
    key = cache.keys.text(request, media) if keep else None
    if key is None:
        async with aclosing(write()) as events:
            async for event in events:
                yield event
        return
    metrics, reader = cache.metrics, object()
    writing: Writing | None = None
    body = await cache.find(key) if look else None
    if body is not None:
        hit, source = True, _kept(body)
    else:
        hit = look and key in cache.writings
        writing = cache.writings[key] if hit else Writing(cache, key, write)
        source = writing.read(reader)
    control.served(hit)
    ended, reason = "", "CANCELED"
    try:
        async with aclosing(source) as events:
            async for event in events:
                ended = event.finish_reason
                # What was found needed no computing: that is what the caller's usage says.
                whole = hit and event.prompt_tokens
                yield msgspec.structs.replace(event, cached_tokens=event.prompt_tokens) if whole else event
    except Exception as error:
        reason = reason_of(error)
        raise
    finally:
        if ended and look:
            metrics.cache_hits += hit
            metrics.cache_misses += not hit
        if writing is None or writing.leave(reader):
            total_s = time.perf_counter() - arrived
            if ended:
                metrics.finished(total_s, ended)
            else:
                metrics.failed(reason, total_s)
