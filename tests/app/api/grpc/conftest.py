import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
import pytest

from app.api.auth import Guard
from app.api.grpc import inference_pb2 as pb
from app.api.grpc.rpc import Rpc
from app.api.grpc.server import SERVICE, GrpcServer, Method
from app.settings import Settings

LIMIT = 1 << 20


class Peer:
    """A real server on a free port with two operations, and a client of it. ``answer`` does what a request needs."""

    def __init__(self) -> None:
        self.answer: Callable[[Any, Rpc], Awaitable[Any]] = self.echo
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()

    async def open(self, **settings: Any) -> None:
        methods = [
            Method("ServerLive", self._live, "open"),
            Method("ModelInfer", self._infer, "inference"),
            Method("ModelStreamInfer", self._stream, "inference", failed=_failed),
            Method("LogSettings", self._settings, "management"),
        ]
        self.server = GrpcServer(methods, Guard(Settings(**settings)), LIMIT)
        self.port = await self.server.start("127.0.0.1", 0)
        self.channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{self.port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )

    async def close(self) -> None:
        await self.channel.close()
        await self.server.stop(0)

    def call(self, name: str) -> Any:
        method = SERVICE.methods_by_name[name]
        kind = self.channel.stream_stream if method.client_streaming else self.channel.unary_unary
        encode = getattr(pb, method.input_type.name).SerializeToString
        return kind(f"/{SERVICE.full_name}/{name}", encode, getattr(pb, method.output_type.name).FromString)

    async def infer(self, request: Any, **options: Any) -> Any:
        return await self.call("ModelInfer")(request, **options)

    def stream(self, **options: Any) -> Any:
        return self.call("ModelStreamInfer")(**options)

    @staticmethod
    async def echo(request: Any, rpc: Rpc) -> Any:
        return pb.ModelInferResponse(id=request.id)

    async def _infer(self, request: Any, rpc: Rpc) -> Any:
        try:
            return await self.answer(request, rpc)
        except asyncio.CancelledError:
            self.cancelled.put_nowait(request.id)
            raise

    async def _stream(self, request: Any, rpc: Rpc) -> Any:
        return pb.ModelStreamInferResponse(infer_response=await self._infer(request, rpc))

    async def _live(self, request: Any, rpc: Rpc) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def _settings(self, request: Any, rpc: Rpc) -> Any:
        return pb.LogSettingsResponse()


def _failed(request: Any, text: str) -> Any:
    return pb.ModelStreamInferResponse(error_message=text, infer_response=pb.ModelInferResponse(id=request.id))


@pytest.fixture
async def peer():
    made = Peer()
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def guarded():
    made = Peer()
    await made.open(api_key="infer-key", management_key="manage-key")
    yield made
    await made.close()
