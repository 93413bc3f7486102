"""Tensors as the hot path holds them: raw bytes with a shape. Along the first axis they are cut and put together as
bytes; `arrays` does it for any axis."""

import struct
from collections.abc import Sequence
from math import prod

import msgspec

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


class Tensor(msgspec.Struct):
    """``data`` is C order, little-endian; BYTES is a sequence of ``u32 length | bytes``."""

    name: str
    datatype: str
    shape: list[int]
    data: bytes | memoryview


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


def cut(tensor: Tensor, rows: Sequence[int], position: int = 0) -> list[Tensor]:
    """Consecutive pieces along the first axis; ``rows`` counts each one's. ``position``: where the first one begins in
    the data."""
    pieces = []
    name, datatype, data, inner = tensor.name, tensor.datatype, tensor.data, tensor.shape[1:]
    inner_elements = prod(inner)
    row_bytes = inner_elements * SIZES.get(datatype, 0)
    for count in rows:
        if datatype == "BYTES":
            stop = skip_strings(data, position, count * inner_elements)
        else:
            stop = position + count * row_bytes
        pieces.append(Tensor(name, datatype, [count, *inner], data[position:stop]))
        position = stop
    return pieces


def skip_strings(data: bytes | memoryview, position: int, count: int) -> int:
    """Where the element after the next ``count`` BYTES elements begins. Raises `ValueError` past the end."""
    length_at = _LENGTH.unpack_from
    try:
        for _ in range(count):
            position += 4 + length_at(data, position)[0]
    except struct.error:
        raise ValueError("BYTES data ends early") from None
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
