"""Open Inference Protocol v2 (KServe, Triton) over REST."""

from typing import Any

import msgspec


class InferInput(msgspec.Struct):
    """``data`` is flat or nested, in C order; absent where the tensor follows as binary."""

    name: str
    datatype: str
    shape: list[int]
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)  # a plain default has no JSON Schema
    parameters: dict[str, Any] = {}


class InferRequestedOutput(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    inputs: list[InferInput]
    id: str = ""
    outputs: list[InferRequestedOutput] = []
    parameters: dict[str, Any] = {}


class InferOutput(msgspec.Struct, omit_defaults=True):
    name: str
    datatype: str
    shape: list[int]
    data: Any = None
    parameters: dict[str, Any] = {}


class InferResponse(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[InferOutput]
    id: str = ""
    parameters: dict[str, Any] = {}


class ServerMetadata(msgspec.Struct):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Ready(msgspec.Struct):
    """Triton answers readiness by the status alone; the body is KServe's."""

    ready: bool


class Live(msgspec.Struct):
    live: bool


class Error(msgspec.Struct):
    error: str
