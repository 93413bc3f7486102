"""`/api`: the models, as Ollama's clients list, describe, pull and delete them."""

import asyncio
import hashlib
import math
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

import app
from app.api import errors, http, ollama_names
from app.api.http import Request, Response, Route, Stream
from app.api.ollama_answers import NDJSON, line
from app.dataplane.dataplane import Dataplane
from app.dataplane.routing import Table
from app.deployments.on_demand import OnDemand, error_of
from app.deployments.reconciler import Reconciler
from app.errors import Conflict, InvalidInput, ModelNotFound, NotFound, PilothouseError
from app.events import Bus
from app.jobs.runner import Jobs
from app.registry import formats
from app.registry.registry import Registry
from app.schema import ollama as schema
from app.schema.manage import DownloadRequest, Job, Model, Version
from app.schema.ollama import Details, ListedModel, ModelList, Progress, RunningList, RunningModel, ShowResponse
from engines.protocol import LanguageModel

#: The release of Ollama whose API this is. Clients refuse to talk to what is older than what they use.
API_VERSION = "0.13.0"
#: For what does not expire: far, but not so far that a time zone carries it beyond what clients can hold.
NEVER = "2300-01-01T00:00:00Z"
_UNSUPPORTED = {
    "copy": ("a model has one name here", "deploy it under another route: `pilothouse deploy NAME --route ROUTE`"),
    "create": (
        "models are not made from a Modelfile",
        "pull the model, and send system and options with each request; adapters belong to a deployment",
    ),
    "push": ("models are not pushed to a registry", "`pilothouse export NAME --to bundle DIR`"),
    "blobs": ("files are not uploaded", "pull file:PATH or https://…"),
}
_show = msgspec.json.Decoder(schema.ShowRequest)
_named = msgspec.json.Decoder(schema.Named)
_pull = msgspec.json.Decoder(schema.PullRequest)


@dataclass(frozen=True)
class _Known:
    """A language model of the registry, and what it says of itself where it is deployed as ``route``."""

    route: str
    model: Model
    version: Version
    language: LanguageModel | None = None

    @property
    def details(self) -> Details:
        family, parameters, level = "", 0, ""
        if self.language is not None:
            family, level = self.language.architecture, self.language.quantization
            parameters = self.language.parameters
        family = family or str(self.version.metadata.get("architecture") or "")
        precision = (self.version.precision or "").upper().replace("FP", "F")
        return Details(
            format=self.version.format,
            family=family,
            families=[family] if family else [],
            parameter_size=human(parameters or self.version.metadata.get("parameters") or 0),
            quantization_level=level or precision,
        )

    @property
    def digest(self) -> str:
        return self.version.digest.removeprefix("sha256:")

    def capabilities(self, template: str = "") -> list[str]:
        """What it says once it is loaded; before, what its files say."""
        if self.language is not None:
            return self.language.capabilities
        if self.model.task in ("embedding", "rerank"):
            return [self.model.task]
        found = {
            "tools": "tools" in template,
            "thinking": "enable_thinking" in template or "</think>" in template,
            "vision": any("mmproj" in file.path.lower() for file in self.version.files[1:]),
        }
        return ["completion", *(name for name, there in found.items() if there)]


class OllamaModels:
    def __init__(
        self,
        dataplane: Dataplane,
        registry: Registry,
        reconciler: Reconciler,
        on_demand: OnDemand,
        jobs: Jobs,
        bus: Bus,
        stopping: asyncio.Event,
    ):
        self._dataplane, self._registry, self._reconciler = dataplane, registry, reconciler
        self._on_demand, self._jobs, self._bus, self._stopping = on_demand, jobs, bus, stopping

    # --- the server -----------------------------------------------------------------------------------

    async def root(self, request: Request) -> Response:
        """Clients look for the words; a person with a browser finds the way."""
        if b"text/html" in (request.header(b"accept") or b""):
            page = b'<!doctype html><title>Pilothouse</title><p>Pilothouse is running. <a href="/docs">The API</a>'
            return Response(page, content_type=b"text/html; charset=utf-8")
        return Response(b"Ollama is running", content_type=b"text/plain; charset=utf-8")

    async def version(self, request: Request) -> Response:
        return http.json(schema.Version(version=API_VERSION, pilothouse=app.__version__))

    # --- what is there --------------------------------------------------------------------------------

    async def tags(self, request: Request) -> Response:
        listed = []
        for known in self._known():
            adapters = known.language.adapters if known.language is not None else []
            for tag in ("latest", *adapters):
                name = f"{known.route}:{tag}"
                listed.append(
                    ListedModel(
                        name=name,
                        model=name,
                        modified_at=known.version.created,
                        size=known.version.size_bytes,
                        digest=known.digest,
                        details=known.details,
                        capabilities=known.capabilities(),
                    )
                )
        return http.json(ModelList(sorted(listed, key=lambda entry: entry.modified_at, reverse=True)))

    async def running(self, request: Request) -> Response:
        models = []
        for known in self._known():
            if known.language is None:
                continue
            deployment = self._reconciler.get(known.route)
            vram = deployment.device_memory_bytes or 0
            name = f"{known.route}:latest"
            models.append(
                RunningModel(
                    name=name,
                    model=name,
                    size=(deployment.memory_bytes or 0) + vram,
                    digest=known.digest,
                    details=known.details,
                    expires_at=_moment(self._on_demand.expires_at(known.route)),
                    size_vram=vram,
                    context_length=known.language.context_tokens,
                )
            )
        return http.json(RunningList(models))

    async def show(self, request: Request) -> Response:
        body = request.decode(_show)
        known = self._find(body.model or body.name)
        info, template = await self._header(known, bool(body.verbose))
        if known.language is not None:
            template = known.language.template or template
        served = known.language.context_tokens if known.language is not None else None
        answer = ShowResponse(
            license=known.model.licence,
            modelfile=f"# Of Pilothouse; it is not built from this.\nFROM {known.model.name}\n",
            parameters=f"{'num_ctx':<30} {served}" if served else "",
            template=template,
            details=known.details,
            model_info=info,
            capabilities=known.capabilities(template),
            modified_at=known.version.created,
        )
        return http.json(answer)

    def _known(self) -> Iterator[_Known]:
        """The deployed ones, then those that a request for them would deploy."""
        table = self._dataplane.table
        for route in sorted(table):
            if (known := self._deployed(route, table)) is not None:
                yield known
        for model in self._registry.models():
            if model.name not in table and ollama_names.speaks(model, model.versions[-1]):
                yield _Known(model.name, model, model.versions[-1])

    def _deployed(self, route: str, table: Table) -> _Known | None:
        target = table[route]
        try:
            model, version = self._registry.resolve(f"{target.model}@{target.version}")
        except NotFound:  # removed behind our back
            return None
        if target.signature is not None or not ollama_names.speaks(model, version):
            return None
        return _Known(route, model, version, target.language)

    def _find(self, name: str) -> _Known:
        """Raises `RouteNotFound`, `InvalidInput`."""
        table = self._dataplane.table
        found = ollama_names.resolve(name, table, self._registry)
        known = self._deployed(found.route, table) if found.route in table else None
        if known is None:
            model, version = self._registry.resolve(found.model)
            if not ollama_names.speaks(model, version):
                raise InvalidInput(f'"{name}" is not a language model', hint="see /v2/models", field="model")
            known = _Known(found.route, model, version)
        return known

    async def _header(self, known: _Known, arrays: bool) -> tuple[dict[str, Any], str]:
        """``model_info``, and the template that the file carries."""
        if known.version.format != "gguf":
            return _described(known.language), ""
        path = self._registry.path(known.model.name, known.version.version)
        head = await asyncio.to_thread(_cached_header if not arrays else _whole_header, path, known.version.digest)
        info = dict(head.values)
        info.pop("general.name", None)
        template = info.pop("tokenizer.chat_template", None)
        return info | {"general.parameter_count": head.parameters}, template if isinstance(template, str) else ""

    # --- coming and going -----------------------------------------------------------------------------

    async def pull(self, request: Request) -> Response | Stream:
        body = request.decode(_pull)
        name = body.model or body.name
        ref = ollama_names.reference(name)
        try:
            job = await self._jobs.submit(DownloadRequest(ref=ref))
        except ModelNotFound:
            if ref not in {model.name for model in self._registry.models()}:
                raise
            job = Job(id="", kind="download", title="", state="succeeded")  # it came by another way
        if body.stream is False:
            job = await self._jobs.wait(job.id) if job.id else job
            if job.state != "succeeded":
                raise _failure(job)
            return http.json(Progress(status="success"))
        return Stream(self._progress(job, _key(ref, job), request.path), NDJSON)

    async def _progress(self, job: Job, digest: str, path: str) -> AsyncGenerator[bytes, None]:
        """The states of a download as lines. A client that leaves does not end it: asking again goes on."""
        yield line(Progress(status="pulling manifest"))
        total = 0
        if job.id:
            states = self._bus.watch("job", job.id)
            stopping = asyncio.create_task(self._stopping.wait())
            following: asyncio.Task[Job | None] | None = None
            try:
                while job.state not in ("succeeded", "failed", "cancelled"):
                    following = asyncio.ensure_future(anext(states))
                    await asyncio.wait([following, stopping], return_when=asyncio.FIRST_COMPLETED)
                    if not following.done():
                        yield line({"error": "Pilothouse is being stopped; the download goes on when it is started"})
                        return
                    job = following.result() or self._jobs.get(job.id)
                    if job.total_bytes:
                        total = job.total_bytes
                        status = f"pulling {digest.removeprefix('sha256:')[:12]}"
                        yield line(Progress(status=status, digest=digest, total=total, completed=job.done_bytes or 0))
                    elif job.message:
                        yield line(Progress(status=job.message))
            finally:
                stopping.cancel()
                if following is not None:
                    following.cancel()
                    await asyncio.wait([following])
                await states.aclose()
        if job.state != "succeeded":
            yield errors.render(_failure(job), path).body + b"\n"
            return
        for status in ("verifying sha256 digest", "writing manifest", "success"):
            yield line(Progress(status=status))

    async def delete(self, request: Request) -> Response:
        body = request.decode(_named)
        found = self._find(body.model or body.name).model.name
        for deployment in self._reconciler.deployments():
            if deployment.model == found and deployment.temporary:
                await self._on_demand.release(deployment.route)
        if route := self._reconciler.uses_model(found):
            raise Conflict(f"{found} is deployed as {route}", hint=f"pilothouse undeploy {route}")
        await self._registry.remove(found)
        return Response()

    async def unsupported(self, request: Request) -> Response:
        what, instead = _UNSUPPORTED[request.path.split("/")[2]]
        raise InvalidInput(what, hint=instead)

    async def no_blob(self, request: Request) -> Response:
        raise NotFound(f"there is no blob {request.params['digest']}")

    def routes(self) -> list[Route]:
        def route(method: str, path: str, handler: Any, summary: str, scope: http.Scope, **more: Any) -> Route:
            return Route(method, path, handler, summary, "ollama", scope=scope, **more)

        both = [
            ("/", self.root, "Whether it runs", "open", None),
            ("/api/version", self.version, "The version of Ollama's API", "open", schema.Version),
            ("/api/tags", self.tags, "Language models, deployed or not", "inference", ModelList),
        ]
        return [
            *(
                route(method, path, handler, summary, scope, response=response)  # type: ignore[arg-type]
                for path, handler, summary, scope, response in both
                for method in ("GET", "HEAD")
            ),
            route("GET", "/api/ps", self.running, "Language models that are loaded", "inference", response=RunningList),
            route(
                "POST",
                "/api/show",
                self.show,
                "One language model",
                "inference",
                request=schema.ShowRequest,
                response=ShowResponse,
            ),
            route(
                "POST",
                "/api/pull",
                self.pull,
                "Get a model",
                "management",
                request=schema.PullRequest,
                response=Progress,
                stream=True,
            ),
            route("DELETE", "/api/delete", self.delete, "Remove a model", "management", request=schema.Named),
            *(
                route("POST", f"/api/{path}", self.unsupported, "Not supported: says what to do instead", "management")
                for path in ("copy", "create", "push", "blobs/{digest}")
            ),
            route("HEAD", "/api/blobs/{digest}", self.no_blob, "Always 404", "management"),
        ]


def human(count: int) -> str:
    """As Ollama writes it: ``268.10M``, ``7.2B``."""
    for size, letter, digits in ((1e9, "B", 1), (1e6, "M", 2), (1e3, "K", 0)):
        if count >= size:
            number = count / size
            return f"{number:.0f}{letter}" if number.is_integer() else f"{number:.{digits}f}{letter}"
    return str(count) if count else ""


@lru_cache(maxsize=32)
def _cached_header(path: Path, digest: str) -> formats.Header:
    return formats.header(path)


def _whole_header(path: Path, digest: str) -> formats.Header:
    return formats.header(path, arrays=True)


def _described(language: LanguageModel | None) -> dict[str, Any]:
    """``model_info`` of a file that has no header, from what the loaded model says."""
    if language is None:
        return {}
    family = language.architecture
    return {
        "general.architecture": family,
        "general.parameter_count": language.parameters,
        f"{family}.context_length": language.trained_context,
        f"{family}.embedding_length": language.embedding_length,
    }


def _moment(unix_s: float) -> str:
    if math.isinf(unix_s):
        return NEVER
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _key(ref: str, job: Job) -> str:
    """Clients tell the bars of a download apart by digests, and a file's own is not known before it is here."""
    known = (job.result or {}).get("digest")
    return str(known) if known else f"sha256:{hashlib.sha256(ref.encode()).hexdigest()}"


def _failure(job: Job) -> PilothouseError:
    if job.state == "cancelled":
        return Conflict(f"the download was cancelled: {job.title}", hint="ask again to start it anew")
    return error_of(job.error, "the download failed")
