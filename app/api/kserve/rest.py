"""`/v2` over REST: the Open Inference Protocol as KServe and Triton speak it."""

import time
from typing import Any

import msgspec

from app.api.http import Request, Response, Route, json
from app.api.kserve import infer
from app.api.kserve.metadata import signature
from app.api.kserve.service import Service, check_cuda
from app.schema.kserve import (
    IndexEntry,
    IndexRequest,
    InferRequest,
    InferResponse,
    Live,
    LoadRequest,
    LogSettings,
    ModelMetadata,
    Ready,
    RegionStatus,
    RegisterRegion,
    ServerMetadata,
    Statistics,
    TraceSettings,
    UnloadRequest,
)

_index = msgspec.json.Decoder(IndexRequest)
_load = msgspec.json.Decoder(LoadRequest)
_unload = msgspec.json.Decoder(UnloadRequest)
_register = msgspec.json.Decoder(RegisterRegion)
_changes: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
_MODEL = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")


def _named(request: Request) -> tuple[str, str]:
    return request.params.get("model", ""), request.params.get("version", "")


class Kserve:
    def __init__(self, service: Service):
        self._service = service

    # --- inference ------------------------------------------------------------------------------------

    async def infer(self, request: Request) -> Response:
        service = self._service
        service.admit(request.params["model"], request.arrived)
        try:
            length = request.header(infer.HEADER_LENGTH)
            if length == b"0" and request.body:
                message, call = infer.decode_raw(request, signature(service.target(*_named(request))))
            else:
                message, call = infer.decode(request, length, service.regions)
        except Exception:
            service.refused(request.params["model"], time.perf_counter() - request.arrived)
            raise
        return infer.encode(message, call, await service.infer(call))

    # --- what there is --------------------------------------------------------------------------------

    async def live(self, request: Request) -> Response:
        return json(Live(True))

    async def ready(self, request: Request) -> Response:
        return json(Ready(True))

    async def server(self, request: Request) -> Response:
        return json(self._service.server_metadata())

    async def model_ready(self, request: Request) -> Response:
        self._service.target(*_named(request))
        return json(Ready(True))

    async def model(self, request: Request) -> Response:
        return json(self._service.model_metadata(*_named(request)))

    async def config(self, request: Request) -> Response:
        return json(self._service.model_config(*_named(request)))

    async def statistics(self, request: Request) -> Response:
        return json(Statistics(self._service.statistics(*_named(request))))

    # --- the repository -------------------------------------------------------------------------------

    async def index(self, request: Request) -> Response:
        """`tritonclient` sends no body at all."""
        asked = request.decode(_index) if request.body else IndexRequest()
        return json(self._service.repository.index(asked.ready))

    async def load(self, request: Request) -> Response:
        asked = request.decode(_load) if request.body else LoadRequest()
        await self._service.repository.load(request.params["model"], asked.parameters)
        return Response()

    async def unload(self, request: Request) -> Response:
        asked = request.decode(_unload) if request.body else UnloadRequest()
        await self._service.repository.unload(request.params["model"], asked.parameters)
        return Response()

    # --- shared memory --------------------------------------------------------------------------------

    async def regions(self, request: Request) -> Response:
        regions = self._service.regions.status(request.params.get("region", ""))
        return json([RegionStatus(region.name, region.key, region.offset, region.size_bytes) for region in regions])

    async def register(self, request: Request) -> Response:
        asked = request.decode(_register)
        self._service.regions.register(request.params["region"], asked.key, asked.offset, asked.byte_size)
        return Response()

    async def unregister(self, request: Request) -> Response:
        self._service.regions.unregister(request.params.get("region", ""))
        return Response()

    async def cuda_regions(self, request: Request) -> Response:
        """There are none, and nothing to forget."""
        return json([]) if request.method == "GET" else Response()

    async def cuda(self, request: Request) -> Response:
        check_cuda()
        return Response()

    # --- settings -------------------------------------------------------------------------------------

    async def log_settings(self, request: Request) -> Response:
        if request.method == "GET":
            return json(self._service.log.settings())
        return json(self._service.log.update(request.decode(_changes)))

    async def trace_settings(self, request: Request) -> Response:
        model = request.params.get("model", "")
        self._service.check_model(model)
        if request.method == "GET":
            return json(self._service.trace.settings(model))
        return json(self._service.trace.update(request.decode(_changes), model))

    # --- routes ---------------------------------------------------------------------------------------

    def routes(self) -> list[Route]:
        return [*self._health(), *self._models(), *self._repository(), *self._regions(), *self._settings()]

    def _health(self) -> list[Route]:
        return [
            Route("GET", "/v2", self.server, "Server metadata", "kserve", response=ServerMetadata, scope="open"),
            Route("GET", "/v2/health/live", self.live, "Is the server alive", "kserve", response=Live, scope="open"),
            Route("GET", "/v2/health/ready", self.ready, "Is the server ready", "kserve", response=Ready, scope="open"),
        ]

    def _models(self) -> list[Route]:
        routes = [_inference("GET", "/v2/models/stats", self.statistics, "Statistics of all models", Statistics)]
        for path in _MODEL:
            routes += [
                _inference("GET", path, self.model, "Model metadata", ModelMetadata),
                _inference("GET", path + "/ready", self.model_ready, "Is the model ready", Ready),
                _inference("GET", path + "/config", self.config, "Model configuration", dict[str, Any]),
                _inference("GET", path + "/stats", self.statistics, "Statistics of one model", Statistics),
                Route(
                    "POST",
                    path + "/infer",
                    self.infer,
                    "Run a tensor model, with JSON or binary tensors",
                    "kserve",
                    request=InferRequest,
                    response=InferResponse,
                    cancellable=True,
                    scope="inference",
                ),
            ]
        return routes

    def _repository(self) -> list[Route]:
        path = "/v2/repository/models/{model}"
        return [
            Route(
                "POST",
                "/v2/repository/index",
                self.index,
                "Models, and which of them serve",
                "kserve",
                request=IndexRequest,
                response=list[IndexEntry],
                scope="inference",
            ),
            _management("POST", f"{path}/load", self.load, "Load a model, and wait until it serves", LoadRequest),
            _management("POST", f"{path}/unload", self.unload, "Unload a model", UnloadRequest),
        ]

    def _regions(self) -> list[Route]:
        system, cuda = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
        one, status = "/region/{region}", "Registered regions of shared memory"
        shared = [
            _management("GET", system + "/status", self.regions, status, answer=list[RegionStatus]),
            _management("GET", f"{system}{one}/status", self.regions, "One region", answer=list[RegionStatus]),
            _management("POST", f"{system}{one}/register", self.register, "Register a region", RegisterRegion),
            _management("POST", f"{system}{one}/unregister", self.unregister, "Forget a region"),
            _management("POST", system + "/unregister", self.unregister, "Forget all regions"),
        ]
        no = "CUDA shared memory, which is not served"
        return [
            *shared,
            _management("GET", cuda + "/status", self.cuda_regions, no, answer=list[RegionStatus]),
            _management("GET", f"{cuda}{one}/status", self.cuda, no),
            _management("POST", f"{cuda}{one}/register", self.cuda, no),
            _management("POST", f"{cuda}{one}/unregister", self.cuda_regions, no),
            _management("POST", cuda + "/unregister", self.cuda_regions, no),
        ]

    def _settings(self) -> list[Route]:
        routes = []
        for path, handler, what, answer in (
            ("/v2/logging", self.log_settings, "What is logged", LogSettings),
            ("/v2/trace/setting", self.trace_settings, "What is traced", TraceSettings),
            ("/v2/models/{model}/trace/setting", self.trace_settings, "What is traced of one model", TraceSettings),
        ):
            routes.append(_management("GET", path, handler, what, answer=answer))
            routes.append(_management("POST", path, handler, f"{what}: change it", dict[str, Any], answer))
        return routes


def _inference(method: str, path: str, handler: Any, summary: str, answer: Any) -> Route:
    return Route(method, path, handler, summary, "kserve", response=answer, scope="inference")


def _management(method: str, path: str, handler: Any, summary: str, request: Any = None, answer: Any = None) -> Route:
    return Route(method, path, handler, summary, "kserve", request=request, response=answer)
