"""Tensors put together and cut along any axis, by numpy: the slow brother of the byte slices in `tensors`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.dataplane.tensors import Tensor, pack_strings, unpack_strings

DTYPES: dict[str, np.dtype[Any]] = {
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
    "BF16": np.dtype("<u2"),  # as its 16 bits
}


def array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """A view of the tensor's bytes; BYTES become an array of objects."""
    if tensor.datatype == "BYTES":
        values = np.empty(math.prod(tensor.shape), dtype=object)
        values[:] = unpack_strings(tensor.data)
        return values.reshape(tensor.shape)
    return np.frombuffer(tensor.data, DTYPES[tensor.datatype]).reshape(tensor.shape)


def tensor(name: str, datatype: str, values: np.ndarray[Any, Any]) -> Tensor:
    data = pack_strings(values.reshape(-1).tolist()) if datatype == "BYTES" else values.tobytes()
    return Tensor(name, datatype, list(values.shape), data)


def concatenate(tensors: Sequence[Tensor], axis: int, fill: Mapping[int, float] | None = None) -> Tensor:
    """Along ``axis``. ``fill``: axis -> the value behind tensors that are shorter than the longest there."""
    first = tensors[0]
    parts = [array(one) for one in tensors]
    if not fill or all(part.shape[at] == parts[0].shape[at] for part in parts for at in fill):
        return tensor(first.name, first.datatype, np.concatenate(parts, axis))
    shape = list(parts[0].shape)
    for at in fill:
        shape[at] = max(part.shape[at] for part in parts)
    shape[axis] = sum(part.shape[axis] for part in parts)
    joined = np.full(shape, _element(first.datatype, next(iter(fill.values()))), parts[0].dtype)
    start = 0
    for part in parts:
        place = [slice(size) for size in part.shape]
        place[axis] = slice(start, start + part.shape[axis])
        joined[tuple(place)] = part
        start += part.shape[axis]
    return tensor(first.name, first.datatype, joined)


def _element(datatype: str, value: float) -> Any:
    if datatype == "BYTES":
        return b""
    if datatype == "BF16":
        return np.float32(value).view(np.uint32) >> 16
    return value


def take(whole: Tensor, axis: int, start: int, stop: int, lengths: Mapping[int, int] | None = None) -> Tensor:
    """``start`` to ``stop`` along ``axis``, and the first ``lengths[i]`` along each axis i of ``lengths``."""
    place = [slice(None)] * len(whole.shape)
    for at, length in (lengths or {}).items():
        place[at] = slice(length)
    place[axis] = slice(start, stop)
    return tensor(whole.name, whole.datatype, array(whole)[tuple(place)])


def zeros(name: str, datatype: str, shape: list[int]) -> Tensor:
    """Empty texts, for BYTES."""
    return Tensor(name, datatype, shape, bytes(size_bytes(datatype, shape)))


def size_bytes(datatype: str, shape: Sequence[int]) -> int:
    """Of `zeros`."""
    return math.prod(shape) * (4 if datatype == "BYTES" else DTYPES[datatype].itemsize)
