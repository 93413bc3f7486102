"""Frames <-> arrays: the raw tensors of a payload as numpy sees them, without a copy where none is needed."""

import struct
from collections.abc import Sequence

import numpy as np

from engines.engine import EngineError
from engines.protocol import TensorHeader

#: numpy has no such number: its 16 bits, of which nothing is computed.
BF16 = np.dtype("V2")
#: Open Inference Protocol datatype -> numpy.
DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": BF16,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH = struct.Struct("<I")


def datatype(array: np.ndarray) -> str:
    """The protocol's name of what ``array`` holds; numpy's own where it has none."""
    return "BYTES" if array.dtype.kind in "OSU" else _NAMES.get(array.dtype, str(array.dtype))


def unpack_strings(data: memoryview, count: int) -> np.ndarray:
    """``u32 length | bytes`` elements -> object array of `bytes`, shape [count]. Raises `ValueError`."""
    values = np.empty(count, dtype=object)
    position = 0
    for index in range(count):
        if position + 4 > len(data):
            raise ValueError(f"BYTES data ends after {index} of {count} elements")
        (length,) = _LENGTH.unpack_from(data, position)
        position += 4
        if position + length > len(data):
            raise ValueError(f"BYTES element {index} claims {length} bytes, {len(data) - position} are left")
        values[index] = bytes(data[position : position + length])
        position += length
    if position != len(data):
        raise ValueError(f"{len(data) - position} bytes are left after {count} BYTES elements")
    return values


def pack_strings(values: np.ndarray) -> bytes:
    """An array of `str` or `bytes` -> ``u32 length | bytes`` elements in C order."""
    parts: list[bytes] = []
    for value in values.reshape(-1):
        element = value if isinstance(value, bytes) else str(value).encode()
        parts += (_LENGTH.pack(len(element)), element)
    return b"".join(parts)


def unpack(headers: Sequence[TensorHeader], payload: memoryview) -> dict[str, np.ndarray]:
    """The arrays of ``payload``; numeric ones are views of it. Raises `EngineError` (``invalid_input``)."""
    arrays: dict[str, np.ndarray] = {}
    position = 0
    for header in headers:
        data = payload[position : position + header.size_bytes]
        position += header.size_bytes
        try:
            if header.datatype == "BYTES":
                count = int(np.prod(header.shape, dtype=np.int64))
                arrays[header.name] = unpack_strings(data, count).reshape(header.shape)
            else:
                arrays[header.name] = np.frombuffer(data, DTYPES[header.datatype]).reshape(header.shape)
        except KeyError:
            raise EngineError(
                "invalid_input", f"input {header.name}: unknown datatype {header.datatype}", field=header.name
            ) from None
        except ValueError as error:
            raise EngineError("invalid_input", f"input {header.name}: {error}", field=header.name) from None
    return arrays


def pack(arrays: dict[str, np.ndarray]) -> tuple[list[TensorHeader], list[bytes | memoryview]]:
    """Headers and payload parts, in the order of ``arrays``."""
    headers: list[TensorHeader] = []
    parts: list[bytes | memoryview] = []
    for name, array in arrays.items():
        part: bytes | memoryview
        if array.dtype.kind in "OSU":
            datatype, part = "BYTES", pack_strings(array)
        else:
            datatype = _NAMES[array.dtype]
            part = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        headers.append(TensorHeader(name, datatype, list(array.shape), len(part)))
        parts.append(part)
    return headers, parts


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """The upper halves of FP32 numbers -> FP32."""
    return (np.ascontiguousarray(bits).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """FP32 -> its upper halves, rounded to the nearest, half to even."""
    bits = np.asarray(values, np.float32, order="C").view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16).view(BF16)
