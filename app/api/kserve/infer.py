"""Infer requests and answers of REST: JSON, or JSON and then the binary tensors that it lists."""

import contextlib
import json
from typing import Any

import msgspec

from app.api.http import MOST_DIGITS, Request, Response
from app.api.kserve import parameters
from app.api.kserve.parameters import Place
from app.api.kserve.service import Call
from app.api.kserve.shared_memory import Regions
from app.api.kserve.tensors import decode_json, encode_json, pack_numbers
from app.api.kserve.timing import server_timing
from app.dataplane.inference import Inference
from app.dataplane.tensors import SIZES, Tensor, pack_strings
from app.errors import InvalidInput
from app.schema.kserve import InferInput, InferOutput, InferRequest, InferRequestedOutput, InferResponse
from engines.protocol import Signature

HEADER_LENGTH = b"inference-header-content-length"


class _Input(msgspec.Struct):
    """`InferInput` whose data is a flat list of numbers, as nearly always."""

    name: str
    datatype: str
    shape: list[int]
    data: list[int | float] | None = None
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    outputs: list[InferRequestedOutput] = []
    parameters: dict[str, Any] = {}


AnyRequest = InferRequest | _Request
_NOTHING_SAID: tuple[dict[str, Any], Place | None] = {}, None
_numeric = msgspec.json.Decoder(_Request)
_request = msgspec.json.Decoder(InferRequest)
_response = msgspec.json.Encoder()


def decode(request: Request, length: bytes | None, regions: Regions) -> tuple[AnyRequest, Call]:
    """The request as it came, and as what it means; binary tensors are views of the body. ``length`` is the header
    `HEADER_LENGTH`. Raises `InvalidInput`."""
    binary = memoryview(b"")
    if length is not None:
        head = _header_length(length, len(request.body))
        binary = memoryview(request.body)[head:]
        request.body = request.body[:head]
    message = _parse(request)
    tensors, position = [], 0
    for entry in message.inputs:
        data: bytes | memoryview
        if not entry.parameters:
            data = _json(entry)
        elif (size := entry.parameters.get("binary_data_size")) is not None:
            if isinstance(size, bool) or not isinstance(size, int) or size < 0 or position + size > len(binary):
                raise InvalidInput(
                    f"input {entry.name}: binary_data_size is {size}, {len(binary) - position} bytes are left",
                    field=f"inputs.{entry.name}.parameters.binary_data_size",
                )
            if entry.data:
                raise InvalidInput(
                    f"input {entry.name} has both data and binary_data_size", field=f"inputs.{entry.name}.data"
                )
            data = binary[position : position + size]
            position += size
        elif (place := parameters.place(entry.parameters, f"inputs.{entry.name}.")) is not None:
            data = regions.read(place)
        else:
            data = _json(entry)
        tensors.append(Tensor(entry.name, entry.datatype, entry.shape, data))
    if position != len(binary):
        raise InvalidInput(f"{len(binary) - position} bytes follow the last binary input", field="inputs")
    outputs = message.outputs
    wanted = [parameters.wanted(output.name, output.parameters) for output in outputs] if outputs else []
    path = request.params
    return message, Call(
        path["model"], tensors, wanted, message.parameters, message.id, path.get("version", ""), request.arrived
    )


def _header_length(text: bytes, body_bytes: int) -> int:
    """Of the JSON within the (decompressed) body."""
    if not text.isdigit() or len(text) > MOST_DIGITS or int(text) > body_bytes:
        raise InvalidInput(
            f"Inference-Header-Content-Length is {text.decode('latin-1')!r}, the body has {body_bytes} bytes",
            field="Inference-Header-Content-Length",
        )
    return int(text)


def _strict(body: bytes) -> bytes:
    """With Python's bare NaN, Infinity and -Infinity, which are no JSON but which Triton's client writes, as texts."""
    if b"NaN" in body or b"Infinity" in body:
        with contextlib.suppress(ValueError, RecursionError, OverflowError, TypeError):
            return _response.encode(json.loads(body, parse_constant=str))
    return body


def _parse(request: Request) -> AnyRequest:
    """Raises `InvalidInput`."""
    try:
        return _numeric.decode(request.body)
    except msgspec.ValidationError:
        return request.decode(_request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        request.body = _strict(request.body)
        return request.decode(_request)


def _json(entry: InferInput | _Input) -> bytes:
    if isinstance(entry.data, list):
        return pack_numbers(entry.name, entry.datatype, entry.data)
    if not entry.data:
        raise InvalidInput(f"input {entry.name} has no data", field=f"inputs.{entry.name}.data")
    return decode_json(entry.name, entry.datatype, entry.data)


def decode_raw(request: Request, signature: Signature) -> tuple[AnyRequest, Call]:
    """Triton's raw binary request, whose JSON has length 0: the body as the one input of a model that says all about it
    but one dimension at most. Raises `InvalidInput`."""
    if len(signature.inputs) != 1:
        raise InvalidInput(
            f"the model has {len(signature.inputs)} inputs: a body without a header is for one",
            field="Inference-Header-Content-Length",
        )
    spec = signature.inputs[0]
    shape = list(spec.shape)
    if signature.batched and spec.batch_axis >= 0:
        shape[spec.batch_axis] = 1
    data: bytes = request.body
    free = [axis for axis, size in enumerate(shape) if size == -1]
    if spec.datatype == "BYTES":
        shape, data = [1 if size == -1 else size for size in shape], pack_strings([data])
    elif len(free) == 1:
        shape[free[0]] = 1
        row_bytes = SIZES[spec.datatype] * _product(shape)
        if not row_bytes or len(data) % row_bytes:
            raise InvalidInput(f"{len(data)} bytes are no whole number of {row_bytes}", field=f"inputs.{spec.name}")
        shape[free[0]] = len(data) // row_bytes
    elif free:
        raise InvalidInput(
            f"input {spec.name} has {len(free)} dimensions that the body's size does not tell",
            hint="send a header with its shape",
            field=f"inputs.{spec.name}",
        )
    message = InferRequest([], parameters={"binary_data_output": True})
    tensor = Tensor(spec.name, spec.datatype, shape, data)
    return message, Call(
        request.params["model"], [tensor], version=request.params.get("version", ""), arrived=request.arrived
    )


def _product(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def encode(message: AnyRequest, call: Call, answer: Inference) -> Response:
    """JSON, or JSON followed by the binary outputs that were asked for. Raises `InvalidInput` for an output that has
    no form in JSON."""
    default = parameters.flag(message.parameters, "binary_data_output") if message.parameters else False
    asked: dict[str, tuple[dict[str, Any], Place | None]] = {}
    if message.outputs:
        pairs = zip(message.outputs, call.wanted, strict=True)
        asked = {output.name: (output.parameters, wanted.place) for output, wanted in pairs}
    outputs, parts = [], []
    for tensor in answer.outputs:
        own, place = asked.get(tensor.name, _NOTHING_SAID)
        if place is not None:
            where = {"shared_memory_region": place.region, "shared_memory_byte_size": place.size_bytes}
            if place.offset:
                where["shared_memory_offset"] = place.offset
            outputs.append(InferOutput(tensor.name, tensor.datatype, tensor.shape, parameters=where))
        elif parameters.flag(own, "binary_data", of=f"outputs.{tensor.name}.", default=default) if own else default:
            parts.append(tensor.data)
            size = {"binary_data_size": len(tensor.data)}
            outputs.append(InferOutput(tensor.name, tensor.datatype, tensor.shape, parameters=size))
        else:
            outputs.append(InferOutput(tensor.name, tensor.datatype, tensor.shape, encode_json(tensor)))
    target = answer.target
    header = _response.encode(InferResponse(target.route, str(target.version), outputs, message.id))
    timing = server_timing(answer)
    if not parts:
        return Response(header, headers=[(b"server-timing", timing)])
    return Response(
        b"".join((header, *parts)),
        content_type=b"application/octet-stream",
        headers=[(HEADER_LENGTH, b"%d" % len(header)), (b"server-timing", timing)],
    )
