"""The gRPC server: who may call what, errors as statuses, limits. It runs in the loop of the daemon."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from app.api.auth import Guard
from app.api.grpc import inference_pb2, status
from app.api.grpc.rpc import Rpc
from app.api.grpc.stream import Stream
from app.api.http import Scope
from app.dataplane.caching.control import CALLER
from app.errors import BadSetting, InvalidInput, NotReady

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_METADATA_BYTES = 16 << 10


Decode = Callable[[bytes], Any]


@dataclass(frozen=True)
class Method:
    """One operation. ``failed`` is given for a stream: it makes the message that tells of an error of one request,
    after which the stream goes on."""

    name: str
    answer: Callable[[Any, Rpc], Awaitable[Any]]
    scope: Scope
    failed: Callable[[Any, str], Any] | None = None


class GrpcServer:
    """`start` and `stop` bracket its life inside a running loop."""

    def __init__(self, methods: list[Method], guard: Guard, max_message_bytes: int):
        self._guard = guard
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._streams: set[Stream] = set()
        self._stopping = False
        self._hurried = asyncio.Event()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", _METADATA_BYTES),
                ("grpc.so_reuseport", 0),  # otherwise two daemons would share a port without a word
            ]
        )
        handlers = {method.name: self._handler(method) for method in methods}
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)])

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
        have read is answered. May be called again."""
        self._stopping = True
        for stream in self._streams:
            stream.finish()
        stopped = asyncio.ensure_future(self._server.stop(grace_s))
        hurried = asyncio.ensure_future(self._hurried.wait())
        await asyncio.wait((stopped, hurried), return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not stopped.done():
            await self._server.stop(None)
        await stopped

    def hurry(self) -> None:
        """Do not wait any longer in `stop`."""
        self._hurried.set()

    def _handler(self, method: Method) -> grpc.RpcMethodHandler:
        kind = SERVICE.methods_by_name[method.name]
        decode = _decoder(getattr(inference_pb2, kind.input_type.name))
        encode = getattr(inference_pb2, kind.output_type.name).SerializeToString
        if method.failed is not None:
            stream = self._stream(method, method.failed, decode)
            return grpc.stream_stream_rpc_method_handler(stream, response_serializer=encode)
        return grpc.unary_unary_rpc_method_handler(self._unary(method, decode), response_serializer=encode)

    def _rpc(self, context: grpc.aio.ServicerContext) -> Rpc:
        rpc = Rpc(context, f"{self._prefix}-{next(self._numbers)}")
        CALLER.set(rpc.caller)  # of this call's own task
        return rpc

    def _unary(self, method: Method, decode: Decode) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[Any]]:
        async def serve(data: bytes, context: grpc.aio.ServicerContext) -> Any:
            rpc = self._rpc(context)
            try:
                self._guard.check_key(rpc, method.scope)
                answer = await method.answer(decode(data), rpc)
            except Exception as error:
                await rpc.abort(error, method.name)
            else:
                rpc.end()
                return answer

        return serve

    def _stream(
        self, method: Method, failed: Callable[[Any, str], Any], decode: Decode
    ) -> Callable[[AsyncIterator[bytes], grpc.aio.ServicerContext], Awaitable[None]]:
        async def serve(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            async def answer(data: bytes) -> Any:
                request = decode(b"")
                try:
                    request = decode(data)
                    return await method.answer(request, rpc)
                except Exception as error:
                    known = status.known(error, method.name)
                    return known if strict else failed(request, status.text(known))

            rpc = self._rpc(context)
            strict = rpc.metadata("triton_grpc_error") == "true"  # Triton's word for: the first error ends the stream
            stream = Stream(requests, context, answer)
            self._streams.add(stream)
            try:
                self._guard.check_key(rpc, method.scope)
                await stream.run()
                if self._stopping:
                    raise NotReady("the server is stopping", hint="connect again")
                rpc.end()
            except Exception as error:
                await rpc.abort(error, method.name)
            finally:
                self._streams.discard(stream)

        return serve


def _decoder(message: Any) -> Decode:
    """Left to gRPC, what cannot be read would be an error of the server's; in a stream, its end without a word."""

    def decode(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError:
            raise InvalidInput(f"the message is no {message.DESCRIPTOR.name}") from None

    return decode
