"""Messages of an inference to tensors and back: bytes as they came wherever they are raw."""

from collections.abc import Callable
from typing import Any

import numpy as np

from app.api.grpc import inference_pb2 as pb
from app.api.kserve import parameters as parameters_of
from app.api.kserve.parameters import Place
from app.api.kserve.service import Call
from app.dataplane.inference import Inference
from app.dataplane.tensors import Tensor, pack_strings
from app.errors import InvalidInput

#: Datatype → field of `InferTensorContents` that holds it, and the element type in which the model wants it.
_TYPED = {
    "BOOL": ("bool_contents", "?"),
    "INT8": ("int_contents", "i1"),
    "INT16": ("int_contents", "<i2"),
    "INT32": ("int_contents", "<i4"),
    "INT64": ("int64_contents", "<i8"),
    "UINT8": ("uint_contents", "u1"),
    "UINT16": ("uint_contents", "<u2"),
    "UINT32": ("uint_contents", "<u4"),
    "UINT64": ("uint64_contents", "<u8"),
    "FP32": ("fp32_contents", "<f4"),
    "FP64": ("fp64_contents", "<f8"),
    "BYTES": ("bytes_contents", ""),
}


def parameters(given: Any) -> dict[str, Any]:
    """A map of `InferParameter` (or of the repository's) as plain values; those without a value are left out."""
    return {
        key: getattr(value, kind)
        for key, value in given.items()
        if (kind := value.WhichOneof("parameter_choice")) is not None
    }


def typed(tensor: Any) -> bytes:
    """The ``contents`` of one input as raw bytes. Raises `InvalidInput` naming the input."""
    where = f"inputs.{tensor.name}.contents"
    if tensor.datatype not in _TYPED:
        raise InvalidInput(
            f"input {tensor.name}: {tensor.datatype} has no field in contents", hint="send it raw", field=where
        )
    name, dtype = _TYPED[tensor.datatype]
    for field, _ in tensor.contents.ListFields():
        if field.name != name:
            raise InvalidInput(
                f"input {tensor.name}: {tensor.datatype} belongs in {name}, not in {field.name}", field=where
            )
    values = getattr(tensor.contents, name)[:]
    if not dtype:
        return pack_strings(values)
    try:
        return np.array(values, dtype).tobytes()
    except OverflowError:
        raise InvalidInput(f"input {tensor.name} has values beyond {tensor.datatype}", field=where) from None


def inputs(request: pb.ModelInferRequest, read: Callable[[Place], bytes]) -> list[Tensor]:
    """The inputs of a request; ``read`` gives those that lie in shared memory. Raises `InvalidInput`."""
    raw = request.raw_input_contents
    tensors, position = [], 0
    for tensor in request.inputs:
        place = parameters_of.place(parameters(tensor.parameters), f"inputs.{tensor.name}.")
        if place is not None:
            data = read(place)
        elif not raw:
            data = typed(tensor)
        elif tensor.HasField("contents"):
            raise InvalidInput(
                f"input {tensor.name} has contents, and the request raw_input_contents",
                hint="use one of them for all inputs",
                field=f"inputs.{tensor.name}.contents",
            )
        elif position == len(raw):
            raise InvalidInput(f"raw_input_contents has nothing for input {tensor.name}", field="raw_input_contents")
        else:
            data = raw[position]
            position += 1
        tensors.append(Tensor(tensor.name, tensor.datatype, list(tensor.shape), data))
    if position != len(raw):
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} entries, {position} inputs take theirs from it",
            field="raw_input_contents",
        )
    return tensors


def response(call: Call, answer: Inference) -> pb.ModelInferResponse:
    """Raw outputs. Clients count on one entry each, so one that was written to shared memory has an empty one."""
    message = pb.ModelInferResponse(
        model_name=answer.target.route, model_version=str(answer.target.version), id=call.id
    )
    places = {output.name: output.place for output in call.wanted if output.place is not None}
    for tensor in answer.outputs:
        entry = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if place := places.get(tensor.name):
            entry.parameters["shared_memory_region"].string_param = place.region
            entry.parameters["shared_memory_byte_size"].int64_param = place.size_bytes
            if place.offset:
                entry.parameters["shared_memory_offset"].int64_param = place.offset
        message.raw_output_contents.append(bytes(tensor.data))
    return message
