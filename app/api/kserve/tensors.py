"""The values of tensors, between JSON and raw bytes. The lists of small numbers that most requests carry take the
short way: one typed parse and one copy."""

import sys
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from app.dataplane.tensors import Tensor, pack_strings, unpack_strings
from app.errors import InvalidInput
from app.schema.kserve import InferInput

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
#: How `array` and `memoryview` name a type whose bytes in memory are those on the wire.
_CODES = {"UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i"}
_CODES |= {"INT64": "q", "FP32": "f", "FP64": "d"}
_NATIVE = _CODES if sys.byteorder == "little" else {}

_any = msgspec.json.Decoder()
_TYPES: dict[str, Any] = {
    "f": list[float],
    "n": list[float | None],
    "b": list[bool],
    "s": list[str],
    "i": list[int],
}
_FLAT: dict[str, msgspec.json.Decoder[Any]] = {kind: msgspec.json.Decoder(type_) for kind, type_ in _TYPES.items()}


def _packer(datatype: str) -> Callable[[Any], bytes]:
    if code := _NATIVE.get(datatype):
        return lambda values: array(code, values).tobytes()
    if datatype == "BOOL":
        return bytes
    return lambda values: np.array(values, DTYPES[datatype]).tobytes()


_PACK: dict[str, tuple[str, Callable[[Any], bytes]]] = {
    name: ("i" if dtype.kind == "u" else dtype.kind, _packer(name)) for name, dtype in DTYPES.items()
}
_PACK["BYTES"] = "s", pack_strings


def decode_json(tensor: InferInput) -> bytes:
    """The JSON ``data`` of one input, flat or nested, in C order, as raw bytes. For floats ``null`` is NaN, as
    `encode_json` writes it. Raises `InvalidInput` naming the input."""
    try:
        kind, pack = _PACK[tensor.datatype]
    except KeyError:
        raise InvalidInput(
            f"{tensor.name}: {tensor.datatype} cannot be sent as JSON",
            hint="send it as binary",
            field=f"inputs.{tensor.name}.data",
        ) from None
    try:
        try:
            return pack(_FLAT[kind].decode(tensor.data))
        except msgspec.ValidationError:
            return pack(_convert(list(_leaves(_any.decode(tensor.data))), kind))
    except (msgspec.DecodeError, OverflowError, RecursionError):
        where = f"inputs.{tensor.name}.data"
        raise InvalidInput(f"{where}: expected a list of {tensor.datatype} values", field=where) from None


def _convert(values: list[Any], kind: str) -> Any:
    if kind == "f":
        found = msgspec.convert(values, _TYPES["n"])
        return [float("nan") if value is None else value for value in found]
    return msgspec.convert(values, _TYPES[kind])


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def encode_json(tensor: Tensor) -> list[Any]:
    """Flat, in C order; what JSON cannot hold (NaN, infinity) becomes null. Raises `InvalidInput` for what has no
    form in JSON: BF16, and bytes that are no UTF-8."""
    if code := _NATIVE.get(tensor.datatype):
        values: list[Any] = memoryview(tensor.data).cast("B").cast(code).tolist()  # type: ignore[call-overload]
        return values
    where = f"outputs.{tensor.name}.parameters.binary_data"
    if tensor.datatype == "BYTES":
        try:
            return [value.decode() for value in unpack_strings(tensor.data)]
        except UnicodeDecodeError:
            raise InvalidInput(
                f"output {tensor.name} holds bytes that are no UTF-8 text", hint="ask for it as binary", field=where
            ) from None
    if tensor.datatype not in DTYPES:
        raise InvalidInput(
            f"output {tensor.name}: {tensor.datatype} has no form in JSON", hint="ask for it as binary", field=where
        )
    values = np.frombuffer(tensor.data, DTYPES[tensor.datatype]).tolist()
    return values


def numbers(tensor: Tensor) -> np.ndarray:
    """Flat, as numpy holds them; BF16 as the FP32 that it is the upper half of. Raises `KeyError` for BYTES."""
    if tensor.datatype == "BF16":
        return (np.frombuffer(tensor.data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(tensor.data, DTYPES[tensor.datatype])
