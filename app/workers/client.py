"""One connection to one worker: frames out, frames in, each answer to whoever waits for it."""

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from app.errors import (
    ContextExceeded,
    EngineFailed,
    InsufficientMemory,
    InvalidInput,
    PayloadTooLarge,
    PilothouseError,
    QueueFull,
    ReplicaLost,
)
from engines import protocol
from engines.protocol import (
    Abort,
    Embed,
    Embedded,
    Generate,
    Infer,
    Inferred,
    Rank,
    Rejected,
    SchedulerLoad,
    Step,
    TensorHeader,
    TokenEvent,
    Tokenize,
    Tokens,
    Unload,
    Unloaded,
)

Answer = tuple[Inferred, memoryview] | PilothouseError
_REJECTIONS: dict[str, type[PilothouseError]] = {
    "invalid_input": InvalidInput,
    "context_exceeded": ContextExceeded,
    "queue_full": QueueFull,
    "out_of_memory": InsufficientMemory,
}


def rejection(code: str, message: str, field: str = "", hint: str = "") -> PilothouseError:
    """The worker's refusal of one request, as the caller's problem."""
    return _REJECTIONS.get(code, EngineFailed)(message, hint=hint, field=field)


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge("the request is too large for one message to a worker", hint="send less at once")


class TokenStream:
    """The events of one sequence, as an async iterator. Ends after the event that has a ``finish_reason``.

    `close` (or leaving the iteration early) aborts the sequence in the worker within one step.
    """

    def __init__(self, client: "WorkerClient", number: int):
        self._client = client
        self.number = number
        self._events: deque[TokenEvent] = deque()
        self._error: PilothouseError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False

    def feed(self, event: TokenEvent) -> None:
        self._events.append(event)
        self._wake()

    def fail(self, error: PilothouseError) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> "TokenStream":
        return self

    async def __anext__(self) -> TokenEvent:
        if self._ended:
            raise StopAsyncIteration
        while not self._events:
            if self._error is not None:
                self._ended = True
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        event = self._events.popleft()
        self._ended = bool(event.finish_reason)
        return event

    def close(self) -> None:
        self._client.forget(self)


class WorkerClient(asyncio.Protocol):
    """Asyncio protocol of the stream socket to a worker. Single-threaded; nothing here blocks."""

    def __init__(self, on_control: Callable[[Any], None], on_lost: Callable[[], None]):
        self._on_control = on_control
        self._on_lost = on_lost
        self._buffer = bytearray()
        self._number = 0
        self._batches: dict[int, Callable[[Answer], None]] = {}
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._unloaded: asyncio.Future[Unloaded] | None = None
        self._streams: dict[int, TokenStream] = {}
        self._transport: asyncio.Transport | None = None
        self.load = SchedulerLoad()
        self.lost = False

    # --- asking ---------------------------------------------------------------------------------------

    def send(self, message: msgspec.Struct, parts: Sequence[bytes | memoryview] = ()) -> None:
        if self._transport is None or self.lost:
            raise ReplicaLost("the worker of this model is gone", hint="retry; it is being restarted")
        size = sum(map(len, parts))
        if size > protocol.MAX_PAYLOAD_BYTES:
            raise _too_large()
        try:
            head = protocol.frame(message, size)
        except (OverflowError, struct.error) as error:
            raise InvalidInput(f"the request holds a number that is too large: {error}") from None
        if len(head) > protocol.MAX_HEADER_BYTES:
            raise _too_large()
        self._transport.write(b"".join((head, *parts)))

    def infer(
        self,
        inputs: list[TensorHeader],
        parts: Sequence[bytes | memoryview],
        outputs: list[str],
        done: Callable[[Answer], None],
        items: bool = False,
    ) -> None:
        """Send one batch; ``done`` is called with the answer and its payload, or with why there is none. A plain call
        rather than a future, which would cost another turn of the event loop. Raises `ReplicaLost`."""
        self._number += 1
        self.send(Infer(self._number, inputs, outputs, items), parts)
        self._batches[self._number] = done

    def generate(self, request: Generate, media: Sequence[bytes] = ()) -> TokenStream:
        """Queue one sequence; ``request.id`` and ``request.media`` are set here."""
        self._number += 1
        request.id, request.media = self._number, [len(image) for image in media]
        self.send(request, media)
        stream = self._streams[self._number] = TokenStream(self, self._number)
        return stream

    async def tokenize(self, request: Tokenize) -> Tokens:
        answer: Tokens = await self._ask(request)
        return answer

    async def embed(self, request: Embed | Rank) -> tuple[Embedded, memoryview]:
        """The answer, and FP32 [inputs, `Embedded.dimensions`] as bytes."""
        answer: tuple[Embedded, memoryview] = await self._ask(request)
        return answer

    async def _ask(self, request: Tokenize | Embed | Rank) -> Any:
        self._number += 1
        request.id = number = self._number
        self.send(request)
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            return await future
        finally:
            self._asked.pop(number, None)

    async def unload(self) -> Unloaded:
        """Let the worker save what the next load would compute again. Raises `ReplicaLost`, `EngineFailed`."""
        self.send(Unload())
        self._unloaded = asyncio.get_running_loop().create_future()
        return await self._unloaded

    def forget(self, stream: TokenStream) -> None:
        if self._streams.pop(stream.number, None) is not None and not self.lost:
            self.send(Abort(stream.number))

    @property
    def sequences(self) -> int:
        return len(self._streams)

    @property
    def unanswered(self) -> int:
        """Requests of any kind."""
        return len(self._batches) + len(self._asked) + len(self._streams)

    # --- hearing --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        position, end = 0, len(buffer)
        frames = []
        with memoryview(buffer) as view:
            while end - position >= protocol.FRAME.size:
                header_size, payload_size = protocol.FRAME.unpack_from(view, position)
                start = position + protocol.FRAME.size
                stop = start + header_size + payload_size
                if stop > end:
                    break
                message = protocol.to_daemon.decode(view[start : start + header_size])
                frames.append((message, bytes(view[start + header_size : stop])))
                position = stop
        if position:
            del buffer[:position]
        for message, payload in frames:
            self._dispatch(message, payload)

    def _dispatch(self, message: Any, payload: bytes) -> None:
        if isinstance(message, Inferred):
            if (done := self._batches.pop(message.id, None)) is not None:
                done((message, memoryview(payload)))
        elif isinstance(message, Step):
            self.load = message.load
            for event in message.events:
                stream = self._streams.get(event.id)
                if stream is None:
                    continue
                if event.error_code:
                    self._reject(event.id, rejection(event.error_code, event.error_message))
                    continue
                stream.feed(event)
                if event.finish_reason:
                    del self._streams[event.id]
        elif isinstance(message, Rejected):
            self._reject(message.id, rejection(message.code, message.message, message.field, message.hint))
        elif isinstance(message, Tokens | Embedded):
            asked = self._asked.get(message.id)
            if asked is not None and not asked.done():
                asked.set_result((message, memoryview(payload)) if isinstance(message, Embedded) else message)
        elif isinstance(message, Unloaded):
            if self._unloaded is not None and not self._unloaded.done():
                self._unloaded.set_result(message)
        else:
            self._on_control(message)

    def _reject(self, number: int, error: PilothouseError) -> None:
        if number == 0 and self._unloaded is not None and not self._unloaded.done():  # no request has this number
            self._unloaded.set_exception(error)
        if (done := self._batches.pop(number, None)) is not None:
            done(error)
        asked = self._asked.get(number)
        if asked is not None and not asked.done():
            asked.set_exception(error)
        if (stream := self._streams.pop(number, None)) is not None:
            stream.fail(error)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.load = SchedulerLoad()
        gone = ReplicaLost("the worker died while it worked on this request", hint="retry; it is being restarted")
        for number in [*self._batches, *self._asked, *self._streams]:
            self._reject(number, gone)
        if self._unloaded is not None and not self._unloaded.done():
            self._unloaded.set_exception(gone)
        self._on_lost()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
