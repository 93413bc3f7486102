"""`/manage/v1`: Pilothouse's own resources."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from app.api.http import MOST_DIGITS, Request, Response, Route, Stream, json
from app.deployments.reconciler import Reconciler
from app.errors import Conflict, InvalidInput
from app.events import Bus
from app.jobs.runner import Jobs
from app.monitoring.sampler import Sampler
from app.registry import cards
from app.registry.catalog import Catalog, as_schema
from app.registry.registry import Registry
from app.registry.sources import hub
from app.schema import manage as schema
from app.schema.manage import Change, Deployment, DeploymentSpec, Job, JobRequest, Model, Snapshot, Version
from app.settings import KEYS, Settings, environment_name
from app.workers.probe import Prober
from app.workers.runtimes import Runtimes
from engines.card import Card

_spec = msgspec.json.Decoder(DeploymentSpec)
_job = msgspec.json.Decoder(JobRequest)
_card = msgspec.json.Decoder(Card)
_encoder = msgspec.json.Encoder()
MOST_ITEMS = 1000
#: A comment line keeps idle connections, and whatever sits between, from being taken for dead.
KEEP_ALIVE_S = 15.0


def page(items: Sequence[Any], request: Request, default: int = 100) -> Response:
    """`limit` and `cursor` (the position to go on from) over a list that is in memory."""
    limit = max(1, request.number("limit", default, MOST_ITEMS))
    start = request.number("cursor", 0, 1 << 40)
    stop = start + limit
    return json({"items": items[start:stop], "next_cursor": str(stop) if stop < len(items) else None})


def _reference(request: Request) -> str:
    return f"{request.params['model']}@{request.params['version']}"


@dataclass
class Manage:
    bus: Bus
    registry: Registry
    catalog: Catalog
    jobs: Jobs
    reconciler: Reconciler
    runtimes: Runtimes
    prober: Prober
    sampler: Sampler
    settings: Settings
    setting_sources: dict[str, str]
    stopping: asyncio.Event

    # --- the machine ----------------------------------------------------------------------------------

    async def hardware(self, request: Request) -> Response:
        return json(await self.sampler.machine())

    async def engines(self, request: Request) -> Response:
        return page(await self.prober.engines(), request)

    async def list_runtimes(self, request: Request) -> Response:
        return page(self.runtimes.list(), request)

    async def remove_runtime(self, request: Request) -> Response:
        name = request.params["runtime"]
        if self.reconciler.uses_runtime(name):
            raise Conflict(f"{name} is in use by a deployment", hint="undeploy it first")
        await self.runtimes.remove(name)
        self.prober.forget()
        return json({})

    async def list_settings(self, request: Request) -> Response:
        secret = {"api_key", "management_key", "cache_url"}  # an address may hold a password
        items = [
            schema.Setting(
                key=key,
                value="•••" if key in secret and getattr(self.settings, key) else getattr(self.settings, key),
                source=self.setting_sources[key],  # type: ignore[arg-type]
                environment=environment_name(key),
                meaning=entry.metadata["meaning"],
            )
            for key, entry in KEYS.items()
        ]
        return page(items, request)

    async def timeseries(self, request: Request) -> Response:
        seconds = request.number("seconds", 900, 1 << 31)
        items = self.sampler.history(request.query.get("source", ""), seconds)
        return json({"items": items, "next_cursor": None})

    # --- models and jobs ------------------------------------------------------------------------------

    async def list_catalog(self, request: Request) -> Response:
        hardware = await self.sampler.machine()
        here = {model.name for model in self.registry.models()}
        busy = {job.spec.get("ref"): job.id for job in self.jobs.unfinished().values()}
        total, available = hardware.memory_total_bytes, hardware.memory_total_bytes - hardware.memory_used_bytes
        items = [
            as_schema(entry, total, available, hardware.gpus, here=entry.name in here, job=busy.get(entry.name))
            for entry in self.catalog.entries()
        ]
        return page(items, request)

    async def search_hub(self, request: Request) -> Response:
        query = request.query.get("query", "").strip()
        if not query:
            raise InvalidInput("query is missing", hint="?query=part of a name", field="query")
        found = await hub.search(query, self.settings, max(1, request.number("limit", 20, 100)))
        return json({"items": [entry._asdict() for entry in found], "next_cursor": None})

    async def list_models(self, request: Request) -> Response:
        return page(self.registry.models(), request)

    async def get_model(self, request: Request) -> Response:
        return json(self.registry.get(request.params["model"]))

    async def remove_model(self, request: Request) -> Response:
        name = request.params["model"]
        version = request.number("version", 0, 1 << 31) or None
        if route := self.reconciler.uses_model(name, version):
            raise Conflict(f"{name} is deployed as {route}", hint=f"pilothouse undeploy {route}")
        await self.registry.remove(name, version)
        return json({})

    async def samples(self, request: Request) -> Response:
        model = self.registry.get(request.params["model"])
        version = request.number("version", model.versions[-1].version, 1 << 31)
        offset, limit = request.number("offset", 0, 1 << 31), max(1, request.number("limit", 10, MOST_ITEMS))
        items = self.registry.samples(model.name, version, offset, limit)
        return json({"items": items, "next_cursor": str(offset + limit) if len(items) == limit else None})

    async def get_card(self, request: Request) -> Response:
        _, version = self.registry.resolve(_reference(request))
        return json(cards.whole(cards.of(version)))

    async def put_card(self, request: Request) -> Response:
        return await self._describe(request, card=request.decode(_card), task=request.query.get("task") or None)

    async def put_file(self, request: Request) -> Response:
        """The body is the file. It waits beside the database until the registry has taken it in."""
        path = self.registry.incoming(request.params["file"])
        try:
            await asyncio.to_thread(path.write_bytes, request.body)
            return await self._describe(request, files=[(request.params["file"], path)])
        finally:
            path.unlink(missing_ok=True)

    async def _describe(self, request: Request, **what: Any) -> Response:
        model, version = self.registry.resolve(_reference(request))
        described = await self.registry.describe(model.name, version.version, **what)
        self.reconciler.described(model.name, version.version)
        return json(described)

    async def list_jobs(self, request: Request) -> Response:
        limit = max(1, request.number("limit", 100, MOST_ITEMS))
        return json(self.jobs.list(limit, request.query.get("cursor") or None))

    async def submit_job(self, request: Request) -> Response:
        return json(await self.jobs.submit(request.decode(_job)), 202)

    async def get_job(self, request: Request) -> Response:
        return json(self.jobs.get(request.params["job"]))

    async def job_log(self, request: Request) -> Response:
        return json({"log": self.jobs.log(request.params["job"])})

    async def control_job(self, request: Request) -> Response:
        control = {"pause": self.jobs.pause, "resume": self.jobs.resume, "cancel": self.jobs.cancel}
        action = request.params["action"]
        if action not in control:
            raise InvalidInput(f"a job takes pause, resume or cancel, not {action}", field="action")
        return json(await control[action](request.params["job"]))

    # --- deployments ----------------------------------------------------------------------------------

    async def list_deployments(self, request: Request) -> Response:
        return page(self.reconciler.deployments(), request)

    async def get_deployment(self, request: Request) -> Response:
        return json(self.reconciler.get(request.params["route"]))

    async def put_deployment(self, request: Request) -> Response:
        return json(await self.reconciler.put(request.params["route"], request.decode(_spec)))

    async def delete_deployment(self, request: Request) -> Response:
        force = request.query.get("force", "").lower() in ("1", "true", "yes")
        await self.reconciler.delete(request.params["route"], force=force)
        return json({})

    async def clear_cache(self, request: Request) -> Response:
        await self.reconciler.clear_cache(request.params["route"])
        return json({})

    # --- events ---------------------------------------------------------------------------------------

    async def events(self, request: Request) -> Stream:
        last = (request.header(b"last-event-id") or b"").decode("latin-1")
        return Stream(self._events(int(last) if last.isdecimal() and len(last) <= MOST_DIGITS else None))

    async def _events(self, last_id: int | None) -> AsyncGenerator[bytes, None]:
        changes = self.bus.subscribe(last_id)
        following: asyncio.Task[tuple[int, Snapshot | Change]] | None = None
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            while not self.stopping.is_set():
                following = following or asyncio.ensure_future(anext(changes))
                await asyncio.wait([following, stopping], timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    number, message = following.result()
                    following = None
                    name = b"snapshot" if isinstance(message, Snapshot) else b"change"
                    yield b"id: %d\nevent: %b\ndata: %b\n\n" % (number, name, _encoder.encode(message))
                elif not self.stopping.is_set():
                    yield b": still here\n\n"
        finally:
            stopping.cancel()
            if following is not None:
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                    await following
            await changes.aclose()

    def routes(self) -> list[Route]:
        base = "/manage/v1"

        def route(method: str, path: str, handler: Any, summary: str, tag: str, **more: Any) -> Route:
            return Route(method, base + path, handler, summary, tag, **more)

        listing = schema.Page
        return [
            route(
                "GET",
                "/hardware",
                self.hardware,
                "This machine and its readings",
                "station",
                response=schema.Hardware,
            ),
            route("GET", "/engines", self.engines, "Engines: usable or not, and why", "station", response=listing),
            route(
                "GET",
                "/runtimes",
                self.list_runtimes,
                "Environments in which workers run",
                "station",
                response=listing,
            ),
            route("DELETE", "/runtimes/{runtime}", self.remove_runtime, "Remove a runtime", "station"),
            route(
                "GET",
                "/settings",
                self.list_settings,
                "Every setting and where it comes from",
                "station",
                response=listing,
            ),
            route(
                "GET",
                "/timeseries",
                self.timeseries,
                "The last seconds of hardware or route:NAME",
                "station",
                response=listing,
            ),
            route(
                "GET",
                "/events",
                self.events,
                "Snapshot, then changes, as server-sent events",
                "station",
                stream=True,
            ),
            route(
                "GET",
                "/catalog",
                self.list_catalog,
                "Models that can be pulled, and whether they fit",
                "models",
                response=listing,
            ),
            route("GET", "/hub", self.search_hub, "Models on the hub whose name matches", "models", response=listing),
            route("GET", "/models", self.list_models, "The registry", "models", response=listing),
            route("GET", "/models/{model}", self.get_model, "One model and its versions", "models", response=Model),
            route("DELETE", "/models/{model}", self.remove_model, "Remove a model, or one version of it", "models"),
            route(
                "GET",
                "/models/{model}/samples",
                self.samples,
                "Held-out examples that came with it",
                "models",
                response=listing,
            ),
            route(
                "GET",
                "/models/{model}/versions/{version}/card",
                self.get_card,
                "What is declared about a version, with every default written out",
                "models",
                response=Card,
            ),
            route(
                "PUT",
                "/models/{model}/versions/{version}/card",
                self.put_card,
                "Declare labels, units, and the steps before and after a version",
                "models",
                request=Card,
                response=Version,
                query={"task": "what the model is for, where the card does not tell"},
            ),
            route(
                "PUT",
                "/models/{model}/versions/{version}/files/{file}",
                self.put_file,
                "Lay a file beside a version: a tokenizer, a table of categories; the body is the file",
                "models",
                request=bytes,
                response=Version,
            ),
            route("GET", "/jobs", self.list_jobs, "Jobs, newest first", "jobs", response=listing),
            route(
                "POST",
                "/jobs",
                self.submit_job,
                "Start a job",
                "jobs",
                request=JobRequest,
                response=Job,
                status=202,
            ),
            route("GET", "/jobs/{job}", self.get_job, "One job", "jobs", response=Job),
            route("GET", "/jobs/{job}/log", self.job_log, "Its log", "jobs"),
            route("POST", "/jobs/{job}/{action}", self.control_job, "pause, resume or cancel", "jobs", response=Job),
            route(
                "GET",
                "/deployments",
                self.list_deployments,
                "What should be served, and what is",
                "deployments",
                response=listing,
            ),
            route(
                "GET",
                "/deployments/{route}",
                self.get_deployment,
                "One deployment",
                "deployments",
                response=Deployment,
            ),
            route(
                "PUT",
                "/deployments/{route}",
                self.put_deployment,
                "Declare a deployment",
                "deployments",
                request=DeploymentSpec,
                response=Deployment,
            ),
            route(
                "DELETE",
                "/deployments/{route}/cache",
                self.clear_cache,
                "Forget the answers that its response cache keeps",
                "deployments",
            ),
            route(
                "DELETE",
                "/deployments/{route}",
                self.delete_deployment,
                "Stop and forget a deployment",
                "deployments",
            ),
        ]
