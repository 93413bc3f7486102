"""How the values of items become a model's inputs, and its outputs rows of items."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines import tensors
from engines.engine import EngineError
from engines.protocol import TensorSpec


def fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether ``shape`` is ``wanted``, where -1 may be any."""
    return len(shape) == len(wanted) and all(want in (-1, size) for size, want in zip(shape, wanted, strict=True))


@dataclass(frozen=True)
class Feed:
    """One input of the model. ``axis``: where the values of items are put together; `None`: a value is the whole input.
    ``shape``: of one value. ``framed``: a value is several, [frames, *shape]."""

    spec: TensorSpec
    value: str
    """The name of the value that it takes."""
    axis: int | None
    shape: list[int]
    framed: bool = False

    def take(self, value: Any) -> np.ndarray:
        """``value`` as this input has it. Raises `ValueError`."""
        array = as_datatype(value, self.spec)
        wanted = [-1, *self.shape] if self.framed else self.shape
        if array.ndim != len(wanted) and not self.framed and -1 not in wanted and array.size == math.prod(wanted):
            array = array.reshape(wanted)
        if not fits(array.shape, wanted):
            raise ValueError(f"the input {self.spec.name} takes {wanted} of an item, the steps give {[*array.shape]}")
        return array

    def join(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """The values of several items, or frames, in one array."""
        if self.axis is None:
            return values[0]
        if len(values) == 1:
            return np.expand_dims(values[0], self.axis)
        return np.stack(values, axis=self.axis)


def feed(spec: TensorSpec, value: str, batched: bool, rank: int | None, frames: bool) -> Feed:
    """The layout of an input, given the ``rank`` that an example's value has (`None`: there is no example);
    ``frames``: whether the steps cut an item in frames."""
    if batched:
        if spec.batch_axis < 0:
            return Feed(spec, value, None, spec.shape)
        shape = [size for axis, size in enumerate(spec.shape) if axis != spec.batch_axis]
        return Feed(spec, value, spec.batch_axis, shape, framed=frames and rank == len(spec.shape))
    if not spec.shape or spec.shape[0] not in (1, -1):
        return Feed(spec, value, None, spec.shape)
    if rank == len(spec.shape):
        if frames and spec.shape[0] == 1:
            return Feed(spec, value, 0, spec.shape[1:], framed=True)
        return Feed(spec, value, None, spec.shape)
    return Feed(spec, value, 0, spec.shape[1:])


def numbers(value: Any) -> np.ndarray:
    """Raises `ValueError` where ``value`` is something else."""
    if isinstance(value, str | bytes | dict):
        kind = {str: "a text", bytes: "a file", dict: "a JSON object"}[type(value)]
        raise ValueError(f"numbers are needed, not {kind}: declare a step that makes them")
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError("the rows of the array have different lengths") from None
    if array.dtype.kind not in "biuf":
        raise ValueError("numbers are needed")
    return array


def to_float32(values: np.ndarray) -> np.ndarray:
    """Raises `ValueError` where one is too large for it."""
    try:
        with np.errstate(over="raise"):
            return values.astype(np.float32, copy=False)
    except FloatingPointError:
        raise ValueError("a number is too large for FP32") from None


def limits(dtype: np.dtype) -> tuple[int, int]:
    """The least and the greatest value of an integer type, or of BOOL."""
    return (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


def within(values: np.ndarray, low: int, high: int) -> bool:
    """Whether all are, cut off towards zero: as Python's numbers, because 2**63 - 1 is 2**63 for numpy's floats."""
    return bool(np.isfinite(values).all()) and int(values.min()) >= low and int(values.max()) <= high


def as_datatype(value: Any, spec: TensorSpec) -> np.ndarray:
    """Raises `ValueError` where that would lose something other than digits."""
    if spec.datatype == "BYTES":
        return _strings(value, spec.name)
    try:
        array = numbers(value)
    except ValueError as error:
        raise ValueError(f"the input {spec.name}: {error}") from None
    if spec.datatype == "BF16":
        return tensors.to_bf16(array.astype(np.float32))
    wanted = tensors.DTYPES[spec.datatype]
    if array.dtype == wanted:
        return array
    if wanted.kind in "biu":
        if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
            raise ValueError(f"the input {spec.name} is {spec.datatype}, and not every value is whole")
        low, high = limits(wanted)
        if array.size and not within(array, low, high):
            raise ValueError(f"the input {spec.name} is {spec.datatype}, and a value is beyond {low} to {high}")
        return array.astype(wanted)
    try:
        with np.errstate(over="raise"):
            return array.astype(wanted)
    except FloatingPointError:
        raise ValueError(f"the input {spec.name} is {spec.datatype}, and a value is too large for it") from None


def _strings(value: Any, name: str) -> np.ndarray:
    if isinstance(value, str | bytes):
        single = np.empty((), dtype=object)
        single[()] = value.encode() if isinstance(value, str) else value
        return single
    array = np.asarray(value, dtype=object)
    if not all(isinstance(cell, str | bytes) for cell in array.flat):
        raise ValueError(f"the input {name} takes texts")
    result = np.empty(array.shape, dtype=object)
    result.reshape(-1)[:] = [cell.encode() if isinstance(cell, str) else cell for cell in array.flat]
    return result


@dataclass(frozen=True)
class Rows:
    """One output of the model; ``axis``: that of the items, `None`: the whole is one item's."""

    spec: TensorSpec
    axis: int | None

    @property
    def shape(self) -> list[int]:
        """With the items first."""
        return [-1, *(size for axis, size in enumerate(self.spec.shape) if axis != self.axis)]

    @property
    def datatype(self) -> str:
        return "FP32" if self.spec.datatype == "BF16" else self.spec.datatype

    def take(self, array: np.ndarray, count: int) -> np.ndarray:
        """[items, …]. Raises `EngineError` where the model gave something else."""
        if self.spec.datatype == "BF16":
            array = tensors.from_bf16(array)
        if self.axis is None:
            return array[None]
        if array.shape[self.axis] != count:
            raise EngineError(
                "engine_failed", f"output {self.spec.name} is {[*array.shape]} for {count} items", field=self.spec.name
            )
        return np.moveaxis(array, self.axis, 0) if self.axis else array


def rows(spec: TensorSpec, batched: bool, feeds: Sequence[Feed]) -> Rows:
    if batched:
        return Rows(spec, max(0, spec.batch_axis))
    first = spec.axes[:1]
    alike = any(
        feed.axis == 0 and feed.spec.shape[0] == -1 and (not first or not first[0] or feed.spec.axes[:1] == first)
        for feed in feeds
    )
    leading = spec.shape[:1] == [1] or (spec.shape[:1] == [-1] and alike)
    return Rows(spec, 0 if leading else None)
