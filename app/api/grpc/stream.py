"""Any number of requests on one call: they run side by side, and their answers leave in the order they came."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio

#: Requests of one stream that are taken before their answers are read: beyond it the client is made to wait.
IN_FLIGHT = 128


class Stream:
    """``answer`` never raises: what it returns is a message, or the error that ends the stream."""

    def __init__(
        self,
        requests: AsyncIterator[Any],
        context: grpc.aio.ServicerContext,
        answer: Callable[[Any], Awaitable[Any]],
    ):
        self._requests, self._context, self._answer = requests, context, answer
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._answers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        self._running: set[asyncio.Task[Any]] = set()
        self._reader: asyncio.Task[None] | None = None

    def finish(self) -> None:
        """Read no more; what was read is still answered."""
        if self._reader is not None:
            self._reader.cancel()

    async def run(self) -> None:
        """Ends when the client has sent all and has been answered, or after `finish`. Cancelled, it cancels what
        runs."""
        self._reader = asyncio.create_task(self._read())
        try:
            while (answer := await self._answers.get()) is not None:
                message = await answer
                if isinstance(message, Exception):
                    raise message
                await self._context.write(message)
                self._slots.release()
            if self._reader.done() and not self._reader.cancelled():
                self._reader.result()
        finally:
            self._reader.cancel()
            for task in self._running:
                task.cancel()

    async def _read(self) -> None:
        try:
            async for request in self._requests:
                await self._slots.acquire()
                task = asyncio.ensure_future(self._answer(request))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
                self._answers.put_nowait(task)
        finally:
            self._answers.put_nowait(None)
