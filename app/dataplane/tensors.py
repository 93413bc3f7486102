"""Tensors as the hot path holds them: raw bytes with a shape. Joined into batches and split again without numpy."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from engines.protocol import TensorHeader

SIZES = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
    "BF16": 2,
}
_LENGTH = struct.Struct("<I")


@dataclass(slots=True)
class Tensor:
    """``data`` is C order, little-endian; BYTES is a sequence of ``u32 length | bytes``."""

    name: str
    datatype: str
    shape: list[int]
    data: bytes | memoryview


def join(requests: Sequence[Sequence[Tensor]]) -> tuple[list[TensorHeader], list[bytes | memoryview]]:
    """Stack the inputs of several requests along the first axis; they have the same names in the same order."""
    headers: list[TensorHeader] = []
    parts: list[bytes | memoryview] = []
    for index, first in enumerate(requests[0]):
        rows = size = 0
        for request in requests:
            tensor = request[index]
            rows += tensor.shape[0]
            size += len(tensor.data)
            parts.append(tensor.data)
        headers.append(TensorHeader(first.name, first.datatype, [rows, *first.shape[1:]], size))
    return headers, parts


def whole(tensors: Sequence[Tensor]) -> tuple[list[TensorHeader], list[bytes | memoryview]]:
    """The inputs of one request as they are."""
    return [TensorHeader(t.name, t.datatype, t.shape, len(t.data)) for t in tensors], [t.data for t in tensors]


def views(headers: Sequence[TensorHeader], payload: memoryview) -> list[Tensor]:
    """The tensors of a worker's answer, as views of its payload."""
    tensors, position = [], 0
    for header in headers:
        stop = position + header.size_bytes
        tensors.append(Tensor(header.name, header.datatype, header.shape, payload[position:stop]))
        position = stop
    return tensors


def split(outputs: Sequence[Tensor], rows: Sequence[int]) -> list[list[Tensor]]:
    """The outputs of a batch, cut along the first axis into one list a request; ``rows`` counts each one's."""
    answers: list[list[Tensor]] = [[] for _ in rows]
    for output in outputs:
        position = 0
        inner = output.shape[1:]
        row_bytes = prod(inner) * SIZES.get(output.datatype, 0)
        for answer, count in zip(answers, rows, strict=True):
            if output.datatype == "BYTES":
                stop = skip_strings(output.data, position, count * prod(inner))
            else:
                stop = position + count * row_bytes
            answer.append(Tensor(output.name, output.datatype, [count, *inner], output.data[position:stop]))
            position = stop
    return answers


def skip_strings(data: bytes | memoryview, position: int, count: int) -> int:
    """Where the element after the next ``count`` BYTES elements begins. Raises `ValueError` past the end."""
    for _ in range(count):
        if position + 4 > len(data):
            raise ValueError("BYTES data ends early")
        position += 4 + _LENGTH.unpack_from(data, position)[0]
    if position > len(data):
        raise ValueError("a BYTES element is longer than the data")
    return position


def pack_strings(values: Sequence[str | bytes]) -> bytes:
    parts: list[bytes] = []
    for value in values:
        element = value if isinstance(value, bytes) else value.encode()
        parts += (_LENGTH.pack(len(element)), element)
    return b"".join(parts)


def unpack_strings(data: bytes | memoryview) -> list[bytes]:
    """Raises `ValueError` where the data is not whole elements."""
    values, position = [], 0
    while position < len(data):
        stop = skip_strings(data, position, 1)
        values.append(bytes(data[position + 4 : stop]))
        position = stop
    return values
