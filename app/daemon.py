"""The composition root: the only module that knows every part."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import uvicorn
from filelock import FileLock, Timeout

import app
from app.api import http
from app.api.anthropic import Anthropic
from app.api.auth import Guard
from app.api.images import Images
from app.api.kserve.rest import Kserve
from app.api.kserve.service import Service
from app.api.manage import Manage
from app.api.ollama import Ollama
from app.api.ollama_models import OllamaModels
from app.api.openai import OpenAI
from app.api.response_store import ResponseStore
from app.api.responses import Responses
from app.api.server import Server
from app.api.station import Station
from app.api.tokens import TokenTools
from app.api.transport import Protocol
from app.clock import timestamp
from app.dataplane.caching.store import check_url
from app.dataplane.dataplane import Dataplane
from app.db import Store
from app.deployments.on_demand import OnDemand
from app.deployments.reconciler import Reconciler
from app.errors import BadSetting, Conflict
from app.events import Bus
from app.jobs.download import Download
from app.jobs.runner import Handler, Jobs
from app.jobs.runtime import InstallRuntime
from app.monitoring import logs
from app.monitoring.metrics import Metrics
from app.monitoring.sampler import Sampler
from app.paths import BACKGROUND, DataDir
from app.registry.catalog import Catalog
from app.registry.registry import Registry
from app.schema.manage import Change, Daemon
from app.settings import Settings
from app.workers.probe import Prober
from app.workers.runtimes import Runtimes

if TYPE_CHECKING:
    from app.api.grpc.server import GrpcServer

log = logging.getLogger(__name__)

#: Connections that the kernel holds for us before they are accepted.
BACKLOG = 1024
SHUTDOWN_S = 3


class House:
    """Everything, wired together. `open` and `close` bracket its life inside a running loop."""

    def __init__(self, settings: Settings, sources: dict[str, str], data: DataDir, store: Store):
        self.settings, self.data, self.store = settings, data, store
        check_url(settings.cache_url)
        self.bus = Bus()
        self.stopping = asyncio.Event()
        self.metrics = Metrics()
        self.dataplane = Dataplane()
        self.registry = Registry(store, data, self.bus)
        self.catalog = Catalog.load()
        self.runtimes = Runtimes(data, self.bus)
        self.prober = Prober(self.runtimes)
        self.sampler = Sampler(
            self.metrics,
            self.bus,
            data.root,
            refresh=self._refresh,
            memory_bytes=lambda route: self.reconciler.memory_bytes(route),  # noqa: PLW0108 - wired below,
        )
        self.reconciler = Reconciler(
            store=store,
            bus=self.bus,
            registry=self.registry,
            runtimes=self.runtimes,
            prober=self.prober,
            sampler=self.sampler,
            metrics=self.metrics,
            dataplane=self.dataplane,
            settings=settings,
        )
        handlers: dict[str, Handler] = {
            "download": Download(settings, data, self.registry, self.catalog),
            "runtime": InstallRuntime(self.runtimes),
        }
        self.jobs = Jobs(store, self.bus, settings, data.logs / "jobs", handlers)
        manage = Manage(
            bus=self.bus,
            registry=self.registry,
            catalog=self.catalog,
            jobs=self.jobs,
            reconciler=self.reconciler,
            runtimes=self.runtimes,
            prober=self.prober,
            sampler=self.sampler,
            settings=settings,
            setting_sources=sources,
            stopping=self.stopping,
        )
        self.on_demand = OnDemand(self.reconciler, self.bus, settings.request_timeout_s)
        ollama_models = OllamaModels(
            self.dataplane, self.registry, self.reconciler, self.on_demand, self.jobs, self.bus, self.stopping
        )
        self.kserve = Service(self.dataplane, self.reconciler, self.registry, self.bus, data.logs)
        station = Station(self.metrics, self.sampler, self.reconciler, self.jobs, lambda: self.routes)
        kept = ResponseStore(store, settings.responses_limit, settings.responses_mb << 20)
        self.routes: list[http.Route] = [
            *OpenAI(self.dataplane, Images(settings.allow_remote_images)).routes(),
            *Anthropic(self.dataplane, Images(settings.allow_remote_images)).routes(),
            *Responses(self.dataplane, kept, Images(settings.allow_remote_images)).routes(),
            *TokenTools(self.dataplane).routes(),
            *Ollama(self.dataplane, self.registry, self.on_demand).routes(),
            *ollama_models.routes(),
            *Kserve(self.kserve).routes(),
            *manage.routes(),
            *station.routes(),
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def _refresh(self) -> None:
        self.reconciler.refresh()

    async def open(self) -> None:
        await self.registry.load()
        await self.registry.ensure_embedded()
        await self.runtimes.start()
        await self.jobs.start()
        await self.reconciler.load()
        self._tasks = [
            asyncio.create_task(self.sampler.run(), name="sampler"),
            asyncio.create_task(self._follow_runtimes(), name="runtimes"),
            asyncio.create_task(self.on_demand.run(), name="on demand"),
        ]

    async def _follow_runtimes(self) -> None:
        """A runtime that has just been installed may be what a deployment waited for."""
        installed: set[str] = set()
        async for _, change in self.bus.subscribe():
            if isinstance(change, Change) and change.kind == "runtime":
                if change.value is not None and change.value.state == "installed":
                    if change.key not in installed:
                        installed.add(change.key)
                        try:
                            await self.reconciler.runtime_installed()
                        except Exception:
                            log.exception("what waited for %s could not be started", change.key)
                else:
                    installed.discard(change.key)
            elif not isinstance(change, Change):
                known = change.state.get("runtime", {})
                installed = {name for name, runtime in known.items() if runtime.state == "installed"}

    async def close(self) -> None:
        self.stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.jobs.stop()
            await self.reconciler.stop()
        finally:
            self.kserve.close()
            self.store.close()


class _Uvicorn(uvicorn.Server):
    """Uvicorn that announces when it serves, whose end also ends the event streams, and that lets ``application``
    (and the gRPC server) answer what has come before it stops listening."""

    def __init__(
        self, config: uvicorn.Config, started: Any, house: House, application: Server, grpc: "GrpcServer | None"
    ):
        super().__init__(config)
        self._announce, self._house, self._application, self._grpc = started, house, application, grpc

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        drain_s = self._house.settings.drain_s
        answered = [self._application.drain(drain_s), *([self._grpc.stop(drain_s)] if self._grpc is not None else [])]
        await asyncio.gather(*answered)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but it does not raise the signal again: our own clean-up comes after `serve`."""
        signals = [signal.SIGINT, signal.SIGTERM, *filter(None, [getattr(signal, "SIGBREAK", None)])]
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self._house.stopping.is_set():  # asked twice: without waiting
            self._application.hurry()
            if self._grpc is not None:
                self._grpc.hurry()
        self._house.stopping.set()
        super().handle_exit(sig, frame)


def bind(settings: Settings, key: str = "port") -> socket.socket:
    """A listening socket on the port that the setting ``key`` names. Raises `BadSetting` where it cannot be had."""
    port: int = getattr(settings, key)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        raise BadSetting(
            f"cannot listen on {settings.host}:{port}: {getattr(error, 'strerror', None) or error}",
            field=key,
            hint="another program uses it; choose another --port, or 0 for a free one",
        ) from None
    sock.listen(BACKLOG)
    sock.set_inheritable(False)
    return sock


def _bind_ollama(settings: Settings) -> tuple[socket.socket | None, list[str]]:
    """The second listener, or a note that says why there is none: that Ollama itself holds its port must not keep us
    from serving."""
    if not settings.ollama_port:
        return None, []
    try:
        return bind(settings, "ollama_port"), []
    except BadSetting as error:
        note = f"{error.message}; Ollama's clients must be given the address, or ollama_port another value"
        log.warning(note)
        return None, [note]


@contextlib.asynccontextmanager
async def _grpc(settings: Settings, house: House) -> "AsyncIterator[tuple[GrpcServer | None, str | None, list[str]]]":
    """The gRPC server and its address, or a note that says why there is none."""
    if not settings.grpc_port:
        yield None, None, []
        return
    try:
        # Here, because the library takes a tenth of a second to import and is an extra.
        from app.api.grpc.server import GrpcServer
        from app.api.grpc.service import InferenceService

        server = GrpcServer(InferenceService(house.kserve).methods(), Guard(settings), settings.max_body_mb << 20)
        port = await server.start(settings.host, settings.grpc_port)
    except (ImportError, BadSetting) as error:
        note = (
            f"{error.message}; another program uses the port: choose another grpc_port"
            if isinstance(error, BadSetting)
            else f"/v2 is not served over gRPC: {error}; pip install 'pilothouse[grpc]' brings what it needs"
        )
        log.warning(note)
        yield None, None, [note]
        return
    try:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        yield server, f"{host}:{port}", []
    finally:
        await server.stop(0)


async def _serve(settings: Settings, sources: dict[str, str], data: DataDir) -> None:
    house = House(settings, sources, data, Store(data.database))
    server = Server(house.routes, settings)  # raises before anything runs
    sock = bind(settings)
    port = sock.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{port}"
    ollama, notes = _bind_ollama(settings)
    ollama_url = f"http://{host}:{settings.ollama_port}" if ollama is not None else None

    grpc_address: str | None = None

    def announce() -> None:
        info = Daemon(
            version=app.__version__,
            pid=os.getpid(),
            url=url,
            started=timestamp(),
            data_dir=str(data.root),
            ollama_url=ollama_url,
            grpc_address=grpc_address,
            notes=notes,
        )
        house.bus.publish("daemon", "info", info)
        _write_daemon_file(data, info)
        print(f"pilothouse ready on {url}", flush=True)

    config = uvicorn.Config(
        server,
        http=Protocol,
        loop="none",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        backlog=BACKLOG,
    )
    try:
        await house.open()
        async with _grpc(settings, house) as (grpc, grpc_address, more):
            notes += more
            uvicorn_server = _Uvicorn(config, announce, house, server, grpc)
            await uvicorn_server.serve(sockets=[sock, *([ollama] if ollama is not None else [])])
    finally:
        try:
            await house.close()
        finally:
            data.daemon_file.unlink(missing_ok=True)


def _write_daemon_file(data: DataDir, info: Daemon) -> None:
    """By rename: a reader sees the whole file or none."""
    temporary = data.daemon_file.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(info))
    temporary.replace(data.daemon_file)


def run(settings: Settings, sources: dict[str, str], data: DataDir) -> int:
    """Serve until told to stop. Raises `Conflict` when another daemon owns the data directory, `BadSetting`."""
    data.create()
    logs.setup(data.logs, settings.log_level, settings.log_mb, to_stderr=BACKGROUND not in os.environ)
    lock = FileLock(data.root / "daemon.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Conflict(
            f"another Pilothouse daemon serves {data.root}",
            hint="stop it, or use another --data-dir",
            code="already_running",
        ) from None
    if os.name == "posix":
        # Child processes of jobs must not keep us alive, nor a closed terminal kill us half-way.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        # What is here now stays; of what comes, requests are freed by their counts, and cycles are few.
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings, sources, data))
    finally:
        lock.release()
    return 0


def _loop_factory() -> Any:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
