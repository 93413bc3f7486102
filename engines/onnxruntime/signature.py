"""What an ONNX file says about its tensors, and how its requests might be put together. Pure: `probe` finds out."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from engines.engine import EngineError
from engines.onnxruntime.values import datatype_of, is_zip_map
from engines.protocol import TensorSpec

#: Input -> the axis along which requests are put together, -1 where it is shared by all of a batch.
Layout = Mapping[str, int]

#: How exporters call the axis of a batch.
_BATCH_NAME = re.compile(r"batch|^(n|b|bs|num_?samples)$", re.IGNORECASE)
#: What Paddle's and others write where they mean no name: two such axes need not be equal.
_NAMELESS = ("?", "None", "-1")


class Node(Protocol):
    """An input or output as ONNX Runtime describes it; a free axis is a name or `None`."""

    name: str
    type: str
    shape: list[int | str | None]


def read(node: Node) -> TensorSpec:
    """Raises `EngineError` (``bad_model``) for what is no tensor."""
    datatype = datatype_of(node.name, node.type)
    if is_zip_map(node.type):
        return TensorSpec(node.name, "FP32", [-1, -1])
    shape = [size if isinstance(size, int) and size >= 0 else -1 for size in node.shape]
    axes = [size if isinstance(size, str) and size not in _NAMELESS else "" for size in node.shape]
    return TensorSpec(node.name, datatype, shape, axes=axes if any(axes) else [])


def axis_name(spec: TensorSpec, axis: int) -> str:
    """Empty where it is fixed or nameless."""
    return spec.axes[axis] if axis < len(spec.axes) else ""


def may_be_empty(spec: TensorSpec) -> bool:
    """Whether an axis of length 0 is meant: what a decoder remembers before its first token."""
    return spec.name.startswith("past") or any(name.startswith("past") for name in spec.axes)


def labels(metadata: Mapping[str, str]) -> list[str]:
    """Class names that the file carries: ``labels``, a JSON list, or ``names``, a Python dict as Ultralytics writes."""
    try:
        if "labels" in metadata:
            found = json.loads(metadata["labels"])
        else:
            found = ast.literal_eval(metadata.get("names", "[]"))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that `literal_eval` raises
        return []
    if isinstance(found, dict):
        if sorted(found, key=str) != sorted(range(len(found)), key=str):
            return []
        found = [found[index] for index in range(len(found))]
    return [str(label) for label in found] if isinstance(found, list) else []


def layouts(inputs: Sequence[TensorSpec]) -> list[Layout]:
    """The ways in which requests may go together, the likeliest first: by the names of the axes where they tell, by
    position where they do not. Empty where no axis can be one of a batch."""
    names = list(dict.fromkeys(name for spec in inputs for name in spec.axes if name))
    likely = [name for name in names if _BATCH_NAME.search(name)]
    leading = [axis_name(spec, 0) for spec in inputs if spec.shape[:1] == [-1] and axis_name(spec, 0)]
    found: list[Layout] = []
    for name in likely:
        found += [_by_position(inputs, name), _by_name(inputs, name)]
    found.append(_by_position(inputs, ""))
    for name in leading:
        found += [_by_position(inputs, name), _by_name(inputs, name)]
    unique: list[Layout] = []
    for layout in found:
        if layout not in unique and any(axis >= 0 for axis in layout.values()) and _apart(inputs, layout):
            unique.append(layout)
    return unique


def why_no_layout(inputs: Sequence[TensorSpec]) -> str:
    """In words, naming an input."""
    if not inputs:
        return "the model has no inputs"
    spec = next((spec for spec in inputs if spec.shape and spec.shape[0] != -1), inputs[0])
    if not spec.shape:
        return f"input {spec.name} is a single value"
    if spec.shape[0] != -1:
        return f"the first axis of input {spec.name} is fixed at {spec.shape[0]}"
    return f"input {spec.name} has the axis {axis_name(spec, 0)} twice"


def _by_name(inputs: Sequence[TensorSpec], name: str) -> Layout:
    return {spec.name: spec.axes.index(name) if name in spec.axes else -1 for spec in inputs}


def _by_position(inputs: Sequence[TensorSpec], name: str) -> Layout:
    """The axis of that name; else the first one if it is free; else, with care, a later one that is."""
    anchored = any(spec.shape[:1] == [-1] for spec in inputs)
    layout = {}
    for spec in inputs:
        axis = spec.shape.index(-1) if -1 in spec.shape else -1
        # A leading 1 is a batch that is fixed; several free axes without a leading one are those of an image.
        if axis > 0 and (1 in spec.shape[:axis] or not (anchored or spec.shape.count(-1) == 1)):
            axis = -1
        layout[spec.name] = spec.axes.index(name) if name and name in spec.axes else axis
    return layout


def _apart(inputs: Sequence[TensorSpec], layout: Layout) -> bool:
    """Whether no tensor has the axis of the batch a second time, which would mix the requests."""
    names = {axis_name(spec, layout[spec.name]) for spec in inputs if layout[spec.name] >= 0} - {""}
    others = (axis_name(spec, axis) for spec in inputs for axis in range(len(spec.shape)) if axis != layout[spec.name])
    return names.isdisjoint(others)


def check(inputs: Sequence[TensorSpec], given: Mapping[str, tuple[str, Sequence[int]]]) -> None:
    """Say what is wrong with a request that failed: ``given`` is each input's datatype and shape. Raises `EngineError`
    (``invalid_input``) naming the input; returns where nothing is."""
    for spec in inputs:
        if spec.name not in given:
            raise EngineError("invalid_input", f"input {spec.name} is missing", field=spec.name)
        datatype, shape = given[spec.name]
        if datatype != spec.datatype:
            message = f"input {spec.name} must be {spec.datatype}, not {datatype}"
            raise EngineError("invalid_input", message, field=spec.name)
        fits = len(shape) == len(spec.shape) and all(
            want in (-1, have) for want, have in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            message = f"input {spec.name} must have shape {spec.shape}, not {list(shape)}"
            raise EngineError("invalid_input", message, field=spec.name)
    if extra := [name for name in given if name not in {spec.name for spec in inputs}]:
        raise EngineError("invalid_input", f"the model has no input {extra[0]}", field=extra[0])
