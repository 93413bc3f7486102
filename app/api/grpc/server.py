"""The gRPC server: who may call what, errors as statuses, limits. It runs in the loop of the daemon."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from app.api.auth import Guard
from app.api.grpc import inference_pb2, status
from app.api.http import Scope
from app.errors import BadSetting, NotReady

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
#: Requests of one stream that are taken before their answers are read: beyond it the client is made to wait.
STREAM_IN_FLIGHT = 128
_METADATA_BYTES = 16 << 10
_REQUEST_ID = "x-request-id"
_TOO_LONG = 128


class Rpc:
    """One call as a handler sees it."""

    __slots__ = ("_context", "id")

    def __init__(self, context: grpc.aio.ServicerContext, new_id: Callable[[], str]):
        self._context = context
        self.id: str = self.metadata(_REQUEST_ID)[:_TOO_LONG] or new_id()

    def metadata(self, name: str) -> str:
        """The first text under ``name``, or an empty one."""
        for key, value in self._context.invocation_metadata() or ():
            if key == name and isinstance(value, str):
                return value
        return ""

    def header(self, name: bytes) -> bytes | None:
        """As of an HTTP request."""
        return self.metadata(name.decode()).encode() or None

    @property
    def remaining_s(self) -> float | None:
        """Until the client's deadline; `None`: it has none."""
        left: float | None = self._context.time_remaining()
        return left


Answer = Callable[[Any, Rpc], Awaitable[Any]]


@dataclass(frozen=True)
class Method:
    """One operation. ``failed`` is given for a stream: it makes the message that tells of an error of one request,
    after which the stream goes on."""

    name: str
    answer: Answer
    scope: Scope
    failed: Callable[[Any, str], Any] | None = None


class GrpcServer:
    """`start` and `stop` bracket its life inside a running loop."""

    def __init__(self, methods: list[Method], guard: Guard, max_message_bytes: int):
        self._guard = guard
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._readers: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", _METADATA_BYTES),
                ("grpc.so_reuseport", 0),  # otherwise two daemons would share a port without a word
            ]
        )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(SERVICE.full_name, {m.name: self._handler(m) for m in methods})]
        )

    async def start(self, host: str, port: int) -> int:
        """The port that it listens on. Raises `BadSetting` where that cannot be had."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound: int = self._server.add_insecure_port(address)
        except RuntimeError:
            raise BadSetting(f"cannot listen on {address} for gRPC", field="grpc_port") from None
        await self._server.start()
        return bound

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let the running ones end for ``grace_s``, then cancel them. Streams end once what they
        have read is answered."""
        self._stopping = True
        for reader in self._readers:
            reader.cancel()
        await self._server.stop(grace_s)

    def _handler(self, method: Method) -> grpc.RpcMethodHandler:
        kind = SERVICE.methods_by_name[method.name]
        decode = getattr(inference_pb2, kind.input_type.name).FromString
        encode = getattr(inference_pb2, kind.output_type.name).SerializeToString
        if method.failed is not None:
            return grpc.stream_stream_rpc_method_handler(self._stream(method, method.failed), decode, encode)
        return grpc.unary_unary_rpc_method_handler(self._unary(method), decode, encode)

    def _new_id(self) -> str:
        return f"{self._prefix}-{next(self._numbers)}"

    def _enter(self, method: Method, context: grpc.aio.ServicerContext) -> Rpc:
        """Raises `Unauthorized` or `Forbidden`."""
        rpc = Rpc(context, self._new_id)
        context.set_trailing_metadata(((_REQUEST_ID, rpc.id),))
        self._guard.check_key(rpc, method.scope)
        return rpc

    def _unary(self, method: Method) -> Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]:
        async def serve(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                return await method.answer(request, self._enter(method, context))
            except Exception as error:
                await self._abort(context, error, method.name)

        return serve

    async def _abort(self, context: grpc.aio.ServicerContext, error: Exception, name: str) -> None:
        known = status.known(error, name)
        metadata = (*context.trailing_metadata(), *status.retry(known))
        await context.abort(status.code(known), status.text(known), metadata)

    def _stream(
        self, method: Method, failed: Callable[[Any, str], Any]
    ) -> Callable[[AsyncIterator[Any], grpc.aio.ServicerContext], Awaitable[None]]:
        """Requests run side by side; their answers leave in the order in which they came."""

        async def one(request: Any, rpc: Rpc) -> Any:
            try:
                return await method.answer(request, rpc)
            except Exception as error:
                return failed(request, status.text(status.known(error, method.name)))

        async def read(
            requests: AsyncIterator[Any], rpc: Rpc, group: asyncio.TaskGroup, answers: asyncio.Queue[Any]
        ) -> None:
            try:
                async for request in requests:
                    await answers.put(group.create_task(one(request, rpc)))
            finally:
                await answers.put(None)

        async def serve(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> None:
            try:
                rpc = self._enter(method, context)
            except Exception as error:
                await self._abort(context, error, method.name)
                return
            answers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(STREAM_IN_FLIGHT)
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(read(requests, rpc, group, answers))
                self._readers.add(reader)
                reader.add_done_callback(self._readers.discard)
                while (answer := await answers.get()) is not None:
                    await context.write(await answer)
            if self._stopping:
                await self._abort(context, NotReady("the server is stopping", hint="connect again"), method.name)

        return serve
