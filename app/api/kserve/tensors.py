"""The values of tensors, between JSON and raw bytes. Flat lists of numbers, which nearly every request carries, take
the short way: they are parsed together with the request, and packed in one call."""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from app.dataplane import arrays
from app.dataplane.tensors import SIZES, Tensor, pack_strings, unpack_strings
from app.errors import InvalidInput

#: As `struct` calls them.
_CODES = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
_FLOATS = list[float | Literal["NaN", "Infinity", "-Infinity"] | None]
_TYPES: dict[str, Any] = {"FP16": _FLOATS, "FP32": _FLOATS, "FP64": _FLOATS, "BOOL": list[bool], "BYTES": list[str]}
_any = msgspec.json.Decoder()


def pack_numbers(name: str, datatype: str, values: Sequence[int | float]) -> bytes:
    """Raises `InvalidInput` naming the input; `BOOL` and `BYTES` have no numbers."""
    if datatype in _CODES and datatype != "BOOL":
        try:
            return struct.pack(f"<{len(values)}{_CODES[datatype]}", *values)
        except (struct.error, OverflowError):
            raise _not_of(name, datatype) from None
    if not values and datatype in ("BOOL", "BYTES"):
        return b""
    raise _not_of(name, datatype)


def decode_json(name: str, datatype: str, data: bytes | msgspec.Raw) -> bytes:
    """The JSON ``data`` of one input, flat or nested, in C order, as raw bytes. For floats ``null`` is NaN, as
    `encode_json` writes it, and "NaN", "Infinity" and "-Infinity" are what they say. Raises `InvalidInput` naming the
    input."""
    try:
        values = msgspec.convert(list(_leaves(_any.decode(data))), _TYPES.get(datatype, list[int]))
    except (msgspec.DecodeError, RecursionError):
        raise _not_of(name, datatype) from None
    if datatype == "BYTES":
        return pack_strings(values)
    if datatype == "BOOL":
        return bytes(values)
    if datatype in _TYPES:
        values = [float("nan" if value is None else value) for value in values]
    return pack_numbers(name, datatype, values)


def _not_of(name: str, datatype: str) -> InvalidInput:
    where = f"inputs.{name}.data"
    if datatype not in _CODES and datatype != "BYTES":
        return InvalidInput(f"{name}: {datatype} cannot be sent as JSON", hint="send it as binary", field=where)
    return InvalidInput(f"{where}: expected a list of {datatype} values", field=where)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def encode_json(tensor: Tensor) -> Sequence[Any]:
    """Flat, in C order; what JSON cannot hold (NaN, infinity) becomes null. Raises `InvalidInput` for what has no
    form in JSON: BF16, and bytes that are no UTF-8."""
    if code := _CODES.get(tensor.datatype):
        return struct.unpack(f"<{len(tensor.data) // SIZES[tensor.datatype]}{code}", tensor.data)
    where = f"outputs.{tensor.name}.parameters.binary_data"
    if tensor.datatype != "BYTES":
        raise InvalidInput(
            f"output {tensor.name}: {tensor.datatype} has no form in JSON", hint="ask for it as binary", field=where
        )
    try:
        return [value.decode() for value in unpack_strings(tensor.data)]
    except UnicodeDecodeError:
        raise InvalidInput(
            f"output {tensor.name} holds bytes that are no UTF-8 text", hint="ask for it as binary", field=where
        ) from None


def numbers(tensor: Tensor) -> np.ndarray:
    """Flat, as numpy holds them; BF16 as the FP32 that it is the upper half of. Raises `KeyError` for BYTES."""
    values = np.frombuffer(tensor.data, arrays.DTYPES[tensor.datatype])
    return (values.astype("<u4") << 16).view("<f4") if tensor.datatype == "BF16" else values
