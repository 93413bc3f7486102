"""`/v2`: the Open Inference Protocol as KServe and Triton speak it over REST, JSON and binary tensors."""

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

import app
from app.api.http import MOST_DIGITS, Request, Response, Route, json
from app.dataplane.dataplane import Dataplane
from app.dataplane.inference import Ask, Inference
from app.dataplane.tensors import Tensor, pack_strings, unpack_strings
from app.errors import InvalidInput, NotFound
from app.schema.kserve import (
    InferInput,
    InferOutput,
    InferRequest,
    InferRequestedOutput,
    InferResponse,
    Live,
    ModelMetadata,
    Ready,
    ServerMetadata,
    TensorMetadata,
)

_HEADER_LENGTH = b"inference-header-content-length"
_request = msgspec.json.Decoder(InferRequest)
_response = msgspec.json.Encoder()
_any = msgspec.json.Decoder()

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}


def _decode_json(tensor: InferInput) -> bytes:
    """The JSON ``data`` of one input, flat or nested, as raw bytes. Raises `InvalidInput` naming the input."""
    where = f"inputs.{tensor.name}.data"
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None and tensor.datatype != "BYTES":
        raise InvalidInput(
            f"{tensor.name}: {tensor.datatype} cannot be sent as JSON", hint="send it as binary", field=where
        )
    kind = "s" if dtype is None else dtype.kind
    try:
        try:
            values = _FLAT.get(kind, _FLAT["i"]).decode(tensor.data)
        except msgspec.ValidationError:
            values = msgspec.convert(list(_leaves(_any.decode(tensor.data))), _TYPES.get(kind, list[int]))
        return pack_strings(values) if dtype is None else np.array(values, dtype).tobytes()
    except (msgspec.DecodeError, OverflowError, RecursionError):
        raise InvalidInput(f"{where}: expected a list of {tensor.datatype} values", field=where) from None


_TYPES: dict[str, Any] = {"f": list[float], "b": list[bool], "s": list[str], "i": list[int]}
_FLAT: dict[str, msgspec.json.Decoder[Any]] = {kind: msgspec.json.Decoder(type_) for kind, type_ in _TYPES.items()}


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _encode_json(tensor: Tensor) -> list[Any]:
    """Flat, in C order; what JSON cannot hold (NaN, infinity) is null."""
    if tensor.datatype == "BYTES":
        return [value.decode(errors="replace") for value in unpack_strings(tensor.data)]
    values: list[Any] = np.frombuffer(tensor.data, DTYPES[tensor.datatype]).tolist()
    return values


def decode(request: Request) -> tuple[InferRequest, list[Tensor]]:
    """The typed request and its tensors; binary ones are views of the body. Raises `InvalidInput`."""
    length = request.header(_HEADER_LENGTH)
    body, binary = request.body, memoryview(b"")
    if length is not None:
        if not length.isdigit() or len(length) > MOST_DIGITS or int(length) > len(body):
            raise InvalidInput(
                f"Inference-Header-Content-Length is {length.decode('latin-1')!r}, the body has {len(body)} bytes",
                field="Inference-Header-Content-Length",
            )
        binary = memoryview(body)[int(length) :]
        request.body = body[: int(length)]
    message = request.decode(_request)
    tensors, position = [], 0
    for tensor in message.inputs:
        data: bytes | memoryview
        size = tensor.parameters.get("binary_data_size") if tensor.parameters else None
        if size is None:
            if not tensor.data:
                raise InvalidInput(f"input {tensor.name} has no data", field=f"inputs.{tensor.name}.data")
            data = _decode_json(tensor)
        else:
            if not isinstance(size, int) or size < 0 or position + size > len(binary):
                raise InvalidInput(
                    f"input {tensor.name}: binary_data_size is {size}, {len(binary) - position} bytes are left",
                    field=f"inputs.{tensor.name}.parameters.binary_data_size",
                )
            data = binary[position : position + size]
            position += size
        tensors.append(Tensor(tensor.name, tensor.datatype, tensor.shape, data))
    if position != len(binary):
        raise InvalidInput(f"{len(binary) - position} bytes follow the last binary input", field="inputs")
    return message, tensors


def encode(message: InferRequest, answer: Inference) -> Response:
    """JSON, or JSON followed by the binary outputs that were asked for."""
    default = bool(message.parameters.get("binary_data_output", False))
    asked: dict[str, InferRequestedOutput] = {output.name: output for output in message.outputs}
    outputs, parts = [], []
    for tensor in answer.outputs:
        wanted = asked.get(tensor.name)
        binary = wanted.parameters.get("binary_data", default) if wanted is not None else default
        if binary or tensor.datatype == "BF16":
            parts.append(tensor.data)
            outputs.append(
                InferOutput(
                    tensor.name, tensor.datatype, tensor.shape, parameters={"binary_data_size": len(tensor.data)}
                )
            )
        else:
            outputs.append(InferOutput(tensor.name, tensor.datatype, tensor.shape, _encode_json(tensor)))
    target = answer.target
    header = _response.encode(InferResponse(target.model, str(target.version), outputs, message.id))
    if not parts:
        return Response(header)
    return Response(
        b"".join((header, *parts)),
        content_type=b"application/octet-stream",
        headers=[(_HEADER_LENGTH, b"%d" % len(header))],
    )


class Kserve:
    def __init__(self, dataplane: Dataplane):
        self._dataplane = dataplane

    async def infer(self, request: Request) -> Response:
        message, tensors = decode(request)
        route = request.params["model"]
        if version := request.params.get("version"):
            self._check_version(route, version)
        outputs = [output.name for output in message.outputs]
        answer = await self._dataplane.infer(route, Ask(tensors, outputs, request.arrived, _timeout(message)))
        response = encode(message, answer)
        response.headers.append(
            (b"server-timing", b"queue;dur=%.3f, compute;dur=%.3f" % (answer.queue_s * 1e3, answer.compute_s * 1e3))
        )
        return response

    async def live(self, request: Request) -> Response:
        return json(Live(True))

    async def ready(self, request: Request) -> Response:
        return json(Ready(True))

    async def server(self, request: Request) -> Response:
        return json(ServerMetadata("pilothouse", app.__version__, ["binary_tensor_data"]))

    async def model_ready(self, request: Request) -> Response:
        target = self._dataplane.find(request.params["model"])
        if version := request.params.get("version"):
            self._check_version(target.route, version)
        return json(Ready(True))

    async def model(self, request: Request) -> Response:
        target = self._dataplane.find(request.params["model"])
        if version := request.params.get("version"):
            self._check_version(target.route, version)
        if target.signature is None:
            raise NotFound(f"{target.route} is a language model", hint="it answers on /v1/chat/completions")
        inputs = [TensorMetadata(spec.name, spec.datatype, spec.shape) for spec in target.signature.inputs]
        outputs = [TensorMetadata(spec.name, spec.datatype, spec.shape) for spec in target.signature.outputs]
        return json(ModelMetadata(target.route, [str(target.version)], target.engine, inputs, outputs))

    def _check_version(self, route: str, version: str) -> None:
        target = self._dataplane.find(route)
        if version != str(target.version):
            raise NotFound(f"{route} serves version {target.version}, not {version}", field="version")

    def routes(self) -> list[Route]:
        routes = [
            Route("GET", "/v2", self.server, "Server metadata", "kserve", response=ServerMetadata, scope="open"),
            Route("GET", "/v2/health/live", self.live, "Is the server alive", "kserve", response=Live, scope="open"),
            Route("GET", "/v2/health/ready", self.ready, "Is the server ready", "kserve", response=Ready, scope="open"),
        ]
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route("GET", path, self.model, "Model metadata", "kserve", response=ModelMetadata, scope="inference"),
                Route(
                    "GET",
                    path + "/ready",
                    self.model_ready,
                    "Is the model ready",
                    "kserve",
                    response=Ready,
                    scope="inference",
                ),
                Route(
                    "POST",
                    path + "/infer",
                    self.infer,
                    "Run a tensor model, with JSON or binary tensors",
                    "kserve",
                    request=InferRequest,
                    response=InferResponse,
                    scope="inference",
                ),
            ]
        return routes


def _timeout(message: InferRequest) -> float | None:
    """Triton's ``timeout`` parameter is in microseconds."""
    value = message.parameters.get("timeout")
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise InvalidInput(f"timeout must be a number of microseconds, not {value!r}", field="parameters.timeout")
    return value / 1e6 if value else None
