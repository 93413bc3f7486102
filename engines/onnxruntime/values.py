"""How values go into a run and come out of it: numpy on our side, what ONNX Runtime takes on the other."""

import ctypes
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from engines.engine import EngineError
from engines.tensors import BF16

_ONNX_BF16 = 16  # TensorProto.BFLOAT16
DATATYPES = {
    "bool": "BOOL",
    **{f"{sign.lower()}int{bits}": f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    "bfloat16": "BF16",
    "string": "BYTES",
}
_TENSOR = re.compile(r"(optional\()?tensor\((\w+)\)\)?$")
#: As scikit-learn's converters end a classifier: for each row a map from class to probability.
_ZIP_MAP = re.compile(r"seq\(map\((string|int64),tensor\((\w+)\)\)\)$")


def datatype_of(name: str, kind: str) -> str:
    """The protocol's name of ONNX Runtime's type ``kind``. Raises `EngineError` (``bad_model``)."""
    found = _TENSOR.match(kind) or _ZIP_MAP.match(kind)
    if found is None or found[2] not in DATATYPES:
        raise EngineError(
            "bad_model",
            f"{name} has type {kind}, which cannot be served as a tensor",
            hint="export the model with tensors only: numbers, booleans or strings (ZipMap outputs work, too)",
        )
    return DATATYPES[found[2]]


def is_zip_map(kind: str) -> bool:
    return _ZIP_MAP.match(kind) is not None


def to_text(name: str, array: np.ndarray) -> np.ndarray:
    """BYTES elements as ONNX Runtime takes strings: `str` objects. Raises `EngineError` (``invalid_input``)."""
    texts = np.empty(array.size, dtype=object)
    try:
        for index, item in enumerate(array.reshape(-1)):
            texts[index] = item.decode() if isinstance(item, bytes) else item
    except UnicodeDecodeError as error:
        raise EngineError("invalid_input", f"input {name}: a BYTES element is not UTF-8: {error}", field=name) from None
    return texts.reshape(array.shape)


class ZipMap:
    """Rows of ``{class: probability}`` -> FP32 [rows, classes]. The classes are those of the first run, in its order:
    the model always writes all of them."""

    def __init__(self) -> None:
        self._classes: list[int | str] = []

    @property
    def labels(self) -> list[str]:
        return [str(name) for name in self._classes]

    def __call__(self, rows: Sequence[Mapping[Any, float]]) -> np.ndarray:
        if not self._classes and rows:
            self._classes = list(rows[0])
        return np.array([[row[name] for name in self._classes] for row in rows], np.float32)


def run_with_bf16(
    session: ort.InferenceSession, names: Sequence[str], feeds: Mapping[str, np.ndarray], options: ort.RunOptions
) -> list[np.ndarray | None]:
    """A run of a model that takes or gives BF16, which `InferenceSession.run` cannot."""
    values = {
        name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array).view(np.uint16), _ONNX_BF16)
        if array.dtype == BF16
        else ort.OrtValue.ortvalue_from_numpy(array)
        for name, array in feeds.items()
    }
    return [_to_numpy(value) for value in session.run_with_ort_values(list(names), values, options)]


def _to_numpy(value: ort.OrtValue) -> np.ndarray | None:
    if not value.has_value():
        return None
    if value.element_type() != _ONNX_BF16:
        return value.numpy()
    size_bytes = value.tensor_size_in_bytes()
    data = ctypes.string_at(value.data_ptr(), size_bytes) if size_bytes else b""
    return np.frombuffer(data, BF16).reshape(value.shape())


def with_bf16(kinds: Iterable[str]) -> bool:
    return any("bfloat16" in kind for kind in kinds)
