"""From what a model gives to an answer. Values are [batch, …], by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engines.card import (
    AfterStep,
    Argmax,
    ClsPool,
    Labels,
    LastPool,
    MeanPool,
    Nms,
    NormalizeL2,
    Regression,
    Select,
    Sigmoid,
    Softmax,
    Threshold,
    TopK,
    Transpose,
)
from engines.protocol import TensorSpec
from engines.steps import detection
from engines.steps.geometry import GEOMETRY

Values = dict[str, np.ndarray]
#: Changes the values; the second is what was kept of each item before the model.
Apply = Callable[[Values, Sequence[dict[str, Any]]], None]


@dataclass
class Known:
    """What is known before anything runs: of each value its type and shape (-1 where it is not known)."""

    specs: dict[str, TensorSpec]
    labels: list[str] = field(default_factory=list)

    def give(self, name: str, datatype: str, shape: list[int]) -> None:
        self.specs[name] = TensorSpec(name, datatype, shape, batch_axis=0)


def build(step: AfterStep, source: str, known: Known) -> tuple[Apply, str]:
    """What ``step`` does to ``source``, and the name of what it gives first. Tells ``known`` of it. Raises
    `ValueError` where the step does not fit."""
    target = step.output or source
    shape = known.specs[source].shape
    match step:
        case Select():
            known.give(target, known.specs[source].datatype, _selected(step, shape))
            return _map(source, target, lambda x: _select(step, x)), target
        case Transpose():
            if sorted(step.axes) != list(range(len(shape))) or step.axes[0] != 0:
                raise ValueError(f"axes: {source} has {len(shape)} axes, the first is the batch")
            known.give(target, known.specs[source].datatype, [shape[axis] for axis in step.axes])
            return _map(source, target, lambda x: x.transpose(step.axes)), target
        case Softmax():
            _axis(step.axis, shape)
            known.give(target, "FP32", shape)
            return _map(source, target, lambda x: softmax(x / step.temperature, step.axis)), target
        case Sigmoid():
            known.give(target, "FP32", shape)
            return _map(source, target, sigmoid), target
        case Threshold():
            known.give(target, "BOOL", shape)
            return _map(source, target, lambda x: x >= step.minimum), target
        case Argmax():
            axis = _axis(step.axis, shape)
            known.give(target, "INT64", shape[:axis] + shape[axis + 1 :])
            return _map(source, target, lambda x: x.argmax(axis=step.axis).astype(np.int64)), target
        case TopK():
            return _top_k(step, source, known), step.label
        case Labels():
            if not known.labels:
                raise ValueError("neither the card nor the file has labels")
            known.give(target, "BYTES", shape)
            names = label_names(known.labels)
            return _map(source, target, lambda x: named(x, names, step.other)), target
        case MeanPool() | ClsPool() | LastPool():
            if len(shape) != 3:
                raise ValueError(f"{source} is {shape}, not [batch, tokens, n]")
            known.give(target, "FP32", [shape[0], shape[2]])
            return _pool(step, source, target), target
        case NormalizeL2():
            known.give(target, "FP32", shape)
            return _map(source, target, normalize_l2), target
        case Regression():
            known.give(target, "FP32", shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape)
            return _map(source, target, lambda x: regression(step, x)), target
        case Nms():
            return _nms(step, source, known), step.output


def _map(source: str, target: str, function: Callable[[np.ndarray], np.ndarray]) -> Apply:
    def apply(values: Values, _: Sequence[dict[str, Any]]) -> None:
        values[target] = function(values[source])

    return apply


def _axis(axis: int, shape: list[int]) -> int:
    """Counted from the front. Raises `ValueError`: there is none, or it is the batch."""
    if not -len(shape) < axis < len(shape) or axis == 0:
        raise ValueError(f"axis: the value is {shape}, there is no axis {axis} beside that of the batch")
    return axis % len(shape)


def _selected(step: Select, shape: list[int]) -> list[int]:
    if step.index is None and step.start == 0 and step.end is None:
        return shape
    axis = _axis(step.axis, shape)
    if step.index is not None:
        if shape[axis] != -1 and not -shape[axis] <= step.index < shape[axis]:
            raise ValueError(f"index: the axis has {shape[axis]} places")
        return shape[:axis] + shape[axis + 1 :]
    length = -1 if shape[axis] == -1 else len(range(shape[axis])[step.start : step.end])
    return [*shape[:axis], length, *shape[axis + 1 :]]


def _select(step: Select, values: np.ndarray) -> np.ndarray:
    if step.index is not None:
        return values.take(step.index, axis=step.axis)
    if step.start == 0 and step.end is None:
        return values
    places: list[slice] = [slice(None)] * values.ndim
    places[step.axis] = slice(step.start, step.end)
    return values[tuple(places)]


def softmax(values: np.ndarray, axis: int = -1) -> np.ndarray:
    values = values.astype(np.float32, copy=False)
    powers = np.exp(values - values.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Without overflow on either side."""
    values = values.astype(np.float32, copy=False)
    power = np.exp(-np.abs(values))
    return np.where(values >= 0, 1 / (1 + power), power / (1 + power)).astype(np.float32)


def normalize_l2(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32, copy=False)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)


def regression(step: Regression, values: np.ndarray) -> np.ndarray:
    if values.ndim > 1 and values.shape[-1] == 1:
        values = values[..., 0]
    values = values.astype(np.float32, copy=False) * np.float32(step.scale) + np.float32(step.offset)
    if step.minimum is None and step.maximum is None:
        return values
    return np.clip(values, step.minimum, step.maximum).astype(np.float32, copy=False)


def top(values: np.ndarray, k: int) -> np.ndarray:
    """Indices of the ``k`` largest of the last axis, largest first, the lower index first where they are equal; 0:
    all."""
    count = values.shape[-1]
    k = min(k or count, count)
    # NaN sorts last, so it is never among the best.
    return np.argsort(-values, axis=-1, kind="stable")[..., :k]


def label_names(labels: Sequence[str]) -> np.ndarray:
    names = np.empty(len(labels), dtype=object)
    names[:] = [label.encode() for label in labels]
    return names


def named(indices: np.ndarray, names: np.ndarray, other: str = "") -> np.ndarray:
    """BYTES of the shape of ``indices``; ``other`` where there is no such name."""
    indices = indices.astype(np.int64, copy=False)
    found = (indices >= 0) & (indices < len(names))
    result = np.full(indices.shape, other.encode(), dtype=object)
    result[found] = names[indices[found]]
    return result


def _top_k(step: TopK, source: str, known: Known) -> Apply:
    shape = known.specs[source].shape
    if len(shape) < 2:
        raise ValueError(f"{source} is {shape}, not [batch, classes]")
    classes = shape[-1]
    if known.labels and classes not in (-1, len(known.labels)):
        raise ValueError(f"there are {len(known.labels)} labels for {classes} classes of {source}")
    k = -1 if classes == -1 else min(step.k or classes, classes)
    known.give(step.label, "BYTES", [*shape[:-1], k])
    known.give(step.score, "FP32", [*shape[:-1], k])
    names = label_names(known.labels)
    other = step.other.encode()

    def apply(values: Values, _: Sequence[dict[str, Any]]) -> None:
        scores = values[source].astype(np.float32, copy=False)
        best = top(scores, step.k)
        best_scores = np.take_along_axis(scores, best, axis=-1)
        labels = named(best, names if len(names) else label_names([str(i) for i in range(scores.shape[-1])]))
        if step.minimum is not None or step.minimums:
            lowest = -np.inf if step.minimum is None else step.minimum
            minimums = [step.minimums.get(label.decode(), lowest) for label in labels.reshape(-1)]
            labels[best_scores < np.reshape(minimums, labels.shape)] = other
        values[step.label], values[step.score] = labels, best_scores

    return apply


def _pool(step: MeanPool | ClsPool | LastPool, source: str, target: str) -> Apply:
    def apply(values: Values, kept: Sequence[dict[str, Any]]) -> None:
        tokens = values[source].astype(np.float32, copy=False)
        if isinstance(step, ClsPool):
            values[target] = tokens[:, 0]
            return
        if step.mask in kept[0]:
            mask = np.stack([item[step.mask] for item in kept]) != 0
        else:
            mask = np.ones(tokens.shape[:2], np.bool_)
        values[target] = mean_pool(tokens, mask) if isinstance(step, MeanPool) else last_pool(tokens, mask)

    return apply


def mean_pool(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """FP32 [batch, tokens, n], BOOL [batch, tokens] -> FP32 [batch, n]."""
    weights = mask.astype(np.float32)
    return np.einsum("btn,bt->bn", tokens, weights) / np.maximum(weights.sum(axis=1, keepdims=True), 1)


def last_pool(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
    return tokens[np.arange(len(tokens)), last]


def _nms(step: Nms, source: str, known: Known) -> Apply:
    for name in filter(None, (step.scores, step.classes)):
        if name not in known.specs:
            raise ValueError(f"there is no value {name}; there are {', '.join(known.specs)}")
    known.give(step.output, "FP32", [-1, step.max_boxes, 4])
    known.give(step.label, "BYTES", [-1, step.max_boxes])
    known.give(step.score, "FP32", [-1, step.max_boxes])
    known.give(step.count, "INT64", [-1])
    names = label_names(known.labels)

    def apply(values: Values, kept: Sequence[dict[str, Any]]) -> None:
        classes = values[step.classes] if step.classes else None
        scores, boxes = values[step.scores], values[source]
        found = [
            detection.detect(step, boxes[i], scores[i], None if classes is None else classes[i], item.get(GEOMETRY))
            for i, item in enumerate(kept)
        ]
        values[step.output], values[step.score], kinds, values[step.count] = detection.padded(found, step.max_boxes)
        if len(names):
            values[step.label] = named(kinds, names)
        else:
            values[step.label] = label_names([str(kind) if kind >= 0 else "" for kind in kinds.flat]).reshape(
                kinds.shape
            )

    return apply
