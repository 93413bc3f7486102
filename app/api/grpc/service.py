"""The operations of the inference service: messages to values, one neutral call, values to messages."""

import time
from typing import Any

import msgspec
from google.protobuf import json_format

from app.api.grpc import inference_pb2 as pb
from app.api.grpc import tensors
from app.api.grpc.rpc import Rpc
from app.api.grpc.server import Method
from app.api.kserve import parameters
from app.api.kserve.service import Call, Service, check_cuda
from app.api.kserve.timing import server_timing
from app.dataplane.inference import Inference
from app.errors import NotFound, NotReady

#: Trace settings of more than one value; the others are texts.
_LISTS = ("trace_level",)


def fill(message: Any, value: Any) -> Any:
    """``message`` with the fields of ``value``, a struct or a dict under the protocol's names."""
    return json_format.ParseDict(msgspec.to_builtins(value), message, ignore_unknown_fields=True)


class InferenceService:
    """A thin coat of `app.api.kserve.service`. Raises `PilothouseError` everywhere."""

    def __init__(self, service: Service):
        self._service = service

    def methods(self) -> list[Method]:
        return [
            Method("ServerLive", self.server_live, "open"),
            Method("ServerReady", self.server_ready, "open"),
            Method("ServerMetadata", self.server_metadata, "open"),
            Method("ModelReady", self.model_ready, "inference"),
            Method("ModelMetadata", self.model_metadata, "inference"),
            Method("ModelConfig", self.model_config, "inference"),
            Method("ModelStatistics", self.model_statistics, "inference"),
            Method("ModelInfer", self.infer, "inference"),
            Method("ModelStreamInfer", self.stream_infer, "inference", failed=_failed),
            Method("RepositoryIndex", self.index, "inference"),
            Method("RepositoryModelLoad", self.load, "management"),
            Method("RepositoryModelUnload", self.unload, "management"),
            Method("SystemSharedMemoryStatus", self.regions, "management"),
            Method("SystemSharedMemoryRegister", self.register, "management"),
            Method("SystemSharedMemoryUnregister", self.unregister, "management"),
            Method("CudaSharedMemoryStatus", self.cuda_regions, "management"),
            Method("CudaSharedMemoryRegister", self.register_cuda, "management"),
            Method("CudaSharedMemoryUnregister", self.unregister_cuda, "management"),
            Method("TraceSetting", self.trace_setting, "management"),
            Method("LogSettings", self.log_settings, "management"),
        ]

    # --- what there is --------------------------------------------------------------------------------

    async def server_live(self, request: pb.ServerLiveRequest, rpc: Rpc) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest, rpc: Rpc) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=True)

    async def server_metadata(self, request: pb.ServerMetadataRequest, rpc: Rpc) -> pb.ServerMetadataResponse:
        return fill(pb.ServerMetadataResponse(), self._service.server_metadata())

    async def model_ready(self, request: pb.ModelReadyRequest, rpc: Rpc) -> pb.ModelReadyResponse:
        """False also for what is not there: as Triton's, this call does not fail."""
        try:
            self._service.target(request.name, request.version)
        except (NotFound, NotReady):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def model_metadata(self, request: pb.ModelMetadataRequest, rpc: Rpc) -> pb.ModelMetadataResponse:
        return fill(pb.ModelMetadataResponse(), self._service.model_metadata(request.name, request.version))

    async def model_config(self, request: pb.ModelConfigRequest, rpc: Rpc) -> pb.ModelConfigResponse:
        config = self._service.model_config(request.name, request.version)
        return pb.ModelConfigResponse(config=fill(pb.ModelConfig(), config))

    async def model_statistics(self, request: pb.ModelStatisticsRequest, rpc: Rpc) -> pb.ModelStatisticsResponse:
        found = self._service.statistics(request.name, request.version)
        return fill(pb.ModelStatisticsResponse(), {"model_stats": found})

    # --- inference ------------------------------------------------------------------------------------

    async def infer(self, request: pb.ModelInferRequest, rpc: Rpc) -> pb.ModelInferResponse:
        message, answer = await self._infer(request, rpc)
        rpc.tell("server-timing", server_timing(answer).decode())
        return message

    async def stream_infer(self, request: pb.ModelInferRequest, rpc: Rpc) -> pb.ModelStreamInferResponse:
        """Every request has one answer here, which is therefore its final one."""
        message, _ = await self._infer(request, rpc)
        message.parameters["triton_final_response"].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=message)

    async def _infer(self, request: pb.ModelInferRequest, rpc: Rpc) -> tuple[pb.ModelInferResponse, Inference]:
        arrived = time.perf_counter()
        try:
            call = self._decode(request, arrived, rpc.remaining_s)
        except Exception:
            self._service.refused(request.model_name, time.perf_counter() - arrived)
            raise
        answer = await self._service.infer(call)
        return tensors.response(call, answer), answer

    def _decode(self, request: pb.ModelInferRequest, arrived: float, remaining_s: float | None) -> Call:
        return Call(
            request.model_name,
            tensors.inputs(request, self._service.regions.read),
            [parameters.wanted(output.name, tensors.parameters(output.parameters)) for output in request.outputs],
            tensors.parameters(request.parameters),
            request.id,
            request.model_version,
            arrived,
            remaining_s,
        )

    # --- the repository -------------------------------------------------------------------------------

    async def index(self, request: pb.RepositoryIndexRequest, rpc: Rpc) -> pb.RepositoryIndexResponse:
        return fill(pb.RepositoryIndexResponse(), {"models": self._service.repository.index(request.ready)})

    async def load(self, request: pb.RepositoryModelLoadRequest, rpc: Rpc) -> pb.RepositoryModelLoadResponse:
        await self._service.repository.load(request.model_name, tensors.parameters(request.parameters))
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: pb.RepositoryModelUnloadRequest, rpc: Rpc) -> pb.RepositoryModelUnloadResponse:
        await self._service.repository.unload(request.model_name, tensors.parameters(request.parameters))
        return pb.RepositoryModelUnloadResponse()

    # --- shared memory --------------------------------------------------------------------------------

    async def regions(
        self, request: pb.SystemSharedMemoryStatusRequest, rpc: Rpc
    ) -> pb.SystemSharedMemoryStatusResponse:
        answer = pb.SystemSharedMemoryStatusResponse()
        for region in self._service.regions.status(request.name):
            entry = answer.regions[region.name]
            entry.name, entry.key = region.name, region.key
            entry.offset, entry.byte_size = region.offset, region.size_bytes
        return answer

    async def register(
        self, request: pb.SystemSharedMemoryRegisterRequest, rpc: Rpc
    ) -> pb.SystemSharedMemoryRegisterResponse:
        self._service.regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, rpc: Rpc
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._service.regions.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def cuda_regions(
        self, request: pb.CudaSharedMemoryStatusRequest, rpc: Rpc
    ) -> pb.CudaSharedMemoryStatusResponse:
        """There are none."""
        if request.name:
            check_cuda()
        return pb.CudaSharedMemoryStatusResponse()

    async def register_cuda(
        self, request: pb.CudaSharedMemoryRegisterRequest, rpc: Rpc
    ) -> pb.CudaSharedMemoryRegisterResponse:
        check_cuda()
        return pb.CudaSharedMemoryRegisterResponse()

    async def unregister_cuda(
        self, request: pb.CudaSharedMemoryUnregisterRequest, rpc: Rpc
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """There is nothing to forget."""
        return pb.CudaSharedMemoryUnregisterResponse()

    # --- settings -------------------------------------------------------------------------------------

    async def trace_setting(self, request: pb.TraceSettingRequest, rpc: Rpc) -> pb.TraceSettingResponse:
        model = request.model_name
        self._service.check_model(model)
        changes = {key: _trace_value(key, list(setting.value)) for key, setting in request.settings.items()}
        found = self._service.trace.update(changes, model) if changes else self._service.trace.settings(model)
        answer = pb.TraceSettingResponse()
        for key, value in msgspec.to_builtins(found).items():
            answer.settings[key].value.extend(value if isinstance(value, list) else [value])
        return answer

    async def log_settings(self, request: pb.LogSettingsRequest, rpc: Rpc) -> pb.LogSettingsResponse:
        changes = tensors.parameters(request.settings)
        found = self._service.log.update(changes) if changes else self._service.log.settings()
        answer = pb.LogSettingsResponse()
        for key, value in msgspec.to_builtins(found).items():
            kind = (
                "bool_param"
                if isinstance(value, bool)
                else "uint32_param"
                if isinstance(value, int)
                else "string_param"
            )
            setattr(answer.settings[key], kind, value)
        return answer


def _trace_value(key: str, values: list[str]) -> list[str] | str | None:
    """Without values a setting is taken back."""
    if not values:
        return None
    return values[0] if len(values) == 1 and key not in _LISTS else values


def _failed(request: pb.ModelInferRequest, text: str) -> pb.ModelStreamInferResponse:
    return pb.ModelStreamInferResponse(error_message=text, infer_response=pb.ModelInferResponse(id=request.id))
