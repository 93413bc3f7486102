"""The operations of the inference service: messages to values, one neutral call, values to messages."""

import time
from typing import Any

import msgspec
from google.protobuf import json_format

from app.api.grpc import tensors
from app.api.grpc.inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
    ModelReadyResponse,
    ModelStreamInferResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)
from app.api.grpc.server import Call, Method
from app.api.kserve import metadata, parameters
from app.dataplane.dataplane import Dataplane
from app.errors import NotFound


def fill(message: Any, value: Any) -> Any:
    """``message`` with the fields of ``value``, a struct or a dict whose names are the protocol's."""
    return json_format.ParseDict(msgspec.to_builtins(value), message, ignore_unknown_fields=True)


class Service:
    def __init__(self, dataplane: Dataplane):
        self._dataplane = dataplane

    def methods(self) -> list[Method]:
        return [
            Method("ServerLive", self.server_live, "open"),
            Method("ServerReady", self.server_ready, "open"),
            Method("ServerMetadata", self.server_metadata, "open"),
            Method("ModelReady", self.model_ready),
            Method("ModelMetadata", self.model_metadata),
            Method("ModelInfer", self.infer),
            Method("ModelStreamInfer", self.stream_infer, failed=_failed),
        ]

    async def server_live(self, request: Any, call: Call) -> Any:
        return ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, call: Call) -> Any:
        return ServerReadyResponse(ready=True)

    async def server_metadata(self, request: Any, call: Call) -> Any:
        return fill(ServerMetadataResponse(), metadata.server())

    async def model_ready(self, request: Any, call: Call) -> Any:
        self._dataplane.find(request.name)
        return ModelReadyResponse(ready=True)

    async def model_metadata(self, request: Any, call: Call) -> Any:
        return fill(ModelMetadataResponse(), metadata.model(self._dataplane.find(request.name)))

    # --- inference ------------------------------------------------------------------------------------

    async def infer(self, request: ModelInferRequest, call: Call) -> ModelInferResponse:
        arrived = time.perf_counter()
        if request.model_version:
            self._check_version(request.model_name, request.model_version)
        inputs = tensors.inputs(request, {})
        wanted = [parameters.wanted(output.name, tensors.parameters(output.parameters)) for output in request.outputs]
        ask = parameters.ask(inputs, wanted, tensors.parameters(request.parameters), arrived, call.remaining_s)
        answer = await self._dataplane.infer(request.model_name, ask)
        return ModelInferResponse(
            model_name=answer.target.model,
            model_version=str(answer.target.version),
            id=request.id,
            outputs=[
                ModelInferResponse.InferOutputTensor(name=t.name, datatype=t.datatype, shape=t.shape)
                for t in answer.outputs
            ],
            raw_output_contents=[bytes(t.data) for t in answer.outputs],
        )

    async def stream_infer(self, request: ModelInferRequest, call: Call) -> ModelStreamInferResponse:
        """Every request has one answer here, which is therefore its final one."""
        answer = await self.infer(request, call)
        answer.parameters["triton_final_response"].bool_param = True
        return ModelStreamInferResponse(infer_response=answer)

    def _check_version(self, route: str, version: str) -> None:
        target = self._dataplane.find(route)
        if version != str(target.version):
            raise NotFound(f"{route} serves version {target.version}, not {version}", field="version")


def _failed(request: ModelInferRequest, text: str) -> ModelStreamInferResponse:
    return ModelStreamInferResponse(error_message=text, infer_response=ModelInferResponse(id=request.id))
