"""The API over a worker inside the test's own process: the real frames and the real echo engine, but no socket."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2

from app.api.http import Route
from app.api.server import Server
from app.dataplane.dataplane import Dataplane
from app.dataplane.pool import Pool
from app.dataplane.routing import Target
from app.monitoring.metrics import RouteMetrics
from app.settings import Settings
from app.workers.client import WorkerClient
from engines import protocol
from engines.echo.engine import EchoEngine
from engines.engine import EngineError
from engines.protocol import Abort, Embed, Generate, Load, Rank, Rejected, Tokenize


class EchoWorker:
    """Stands where the socket's transport does: what is written reaches the engine, which steps once each turn of the
    event loop while it is busy. ``generated`` keeps what was asked of it, with the images."""

    def __init__(self, path: Path, **behaviour: Any):
        path.write_text(json.dumps({"kind": "language"} | behaviour))
        adapters = {f"adapter:{name}": "" for name in behaviour.get("adapters", ())}
        self.engine: Any = EchoEngine(Load("echo", str(path), files=adapters))
        self.generated: list[tuple[Generate, list[bytes]]] = []
        self.asked: list[Any] = []
        self.aborted: list[int] = []
        self.client = WorkerClient(lambda message: None, lambda: None)
        self.client.connection_made(self)  # type: ignore[arg-type]
        self._stepping = False

    def write(self, data: bytes) -> None:
        header_size, payload_size = protocol.FRAME.unpack_from(data)
        start = protocol.FRAME.size
        message = protocol.to_worker.decode(data[start : start + header_size])
        asyncio.get_running_loop().call_soon(self._handle, message, data[start + header_size :])
        assert len(data) == start + header_size + payload_size

    def _handle(self, message: Any, payload: bytes) -> None:
        try:
            if isinstance(message, Generate):
                media, at = [], 0
                for size in message.media:
                    media.append(payload[at : at + size])
                    at += size
                self.generated.append((message, media))
                self.engine.submit(message, media)
                self._step_soon()
            elif isinstance(message, Abort):
                self.aborted.append(message.id)
                self.engine.abort(message)
            elif isinstance(message, Embed | Rank):
                self.asked.append(message)
                [(answer, values)] = self.engine.embed([message])
                self._answer(answer, values.tobytes())
            elif isinstance(message, Tokenize):
                self.asked.append(message)
                self._answer(self.engine.tokenize(message))
        except EngineError as error:
            self._answer(Rejected(message.id, error.code, error.message, error.field, error.hint))

    def _answer(self, message: Any, payload: bytes = b"") -> None:
        self.client.data_received(protocol.frame(message, len(payload)) + payload)

    def _step_soon(self) -> None:
        if not self._stepping:
            self._stepping = True
            asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        self._stepping = False
        self._answer(self.engine.step())
        if self.engine.busy:
            self._step_soon()


class EchoHouse:
    """Routes of a data plane that serves ``echo`` (and what `serve` adds), spoken to over the ASGI interface."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.dataplane = Dataplane()
        self.workers: dict[str, EchoWorker] = {}

    def serve(self, route: str = "echo", **behaviour: Any) -> EchoWorker:
        worker = EchoWorker(self._folder / f"{route}.json", **behaviour)
        pool = Pool(8, 256)
        pool.join(worker.client)
        target = Target(
            route,
            f"{route}-model",
            1,
            "text-generation",
            1_700_000_000,
            metrics=RouteMetrics(route, route, 1, "language", "echo"),
            timeout_s=30,
            engine="echo",
            language=worker.engine.ready.language,
            pool=pool,
        )
        self.dataplane.publish({**self.dataplane.table, route: target})
        self.workers[route] = worker
        return worker

    def client(self, routes: list[Route], **settings: Any) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=Server(routes, Settings(**settings)))
        return httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8484")
