"""Boxes in images."""

from collections.abc import Sequence

import numpy as np

from engines.card import Nms
from engines.steps.geometry import Geometry


def corners(boxes: np.ndarray, form: str) -> np.ndarray:
    """[…, 4] in ``form`` -> left, top, right, bottom."""
    if form == "xyxy":
        return boxes
    first, size = boxes[..., :2], boxes[..., 2:]
    start = first - size / 2 if form == "cxcywh" else first
    return np.concatenate([start, start + size], axis=-1)


def suppress(boxes: np.ndarray, scores: np.ndarray, iou: float, limit: int) -> np.ndarray:
    """Greedy non-maximum suppression: indices of the boxes that stay, best first, at most ``limit``. ``boxes`` [n, 4]
    are corners."""
    order = np.argsort(-scores, kind="stable")
    areas = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    kept: list[int] = []
    while len(order) and len(kept) < limit:
        best, order = order[0], order[1:]
        kept.append(int(best))
        start = np.maximum(boxes[best, :2], boxes[order, :2])
        end = np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = np.prod(np.clip(end - start, 0, None), axis=1)
        union = areas[best] + areas[order] - shared
        order = order[shared <= iou * np.maximum(union, 1e-12)]
    return np.array(kept, np.int64)


def detect(
    step: Nms, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray | None, geometry: Geometry | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one image: boxes [k, 4] (corners, in pixels of the image that came), scores [k], classes [k]; best first."""
    boxes = corners(boxes.reshape(-1, 4).astype(np.float32), step.form)
    if classes is not None or scores.ndim == 1:
        best = scores.reshape(-1).astype(np.float32)
        kind = np.zeros(len(best), np.int64) if classes is None else classes.reshape(-1).astype(np.int64)
        which = np.flatnonzero(best >= step.minimum)
        best, kind = best[which], kind[which]
    else:
        which, kind = np.nonzero(scores >= step.minimum)
        best = scores[which, kind].astype(np.float32)
    boxes = boxes[which]
    # Boxes of different classes are moved apart, so that one pass suppresses each class by itself.
    apart = (boxes.max(initial=0) - boxes.min(initial=0) + 1) * kind[:, None] if step.per_class else 0
    kept = suppress(boxes + apart, best, step.iou, step.max_boxes)
    boxes = boxes[kept]
    if geometry is not None:
        if step.relative:
            boxes = boxes * np.tile(np.array(geometry.size, np.float32), 2)
        if step.restore:
            boxes = restore(boxes, geometry)
    return boxes, best[kept], kind[kept]


def restore(boxes: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Corners in the model's picture -> in the image that came, not beyond its edges."""
    offset = np.tile(np.array([geometry.offset_x, geometry.offset_y], np.float32), 2)
    scale = np.tile(np.array([geometry.scale_x, geometry.scale_y], np.float32), 2)
    return np.clip((boxes - offset) / scale, 0, np.tile(np.array(geometry.original, np.float32), 2))


def padded(found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], limit: int) -> tuple[np.ndarray, ...]:
    """Of each image -> boxes [images, limit, 4], scores and classes [images, limit] (-1: none), counts [images]."""
    boxes = np.zeros((len(found), limit, 4), np.float32)
    scores = np.zeros((len(found), limit), np.float32)
    classes = np.full((len(found), limit), -1, np.int64)
    for row, (box, score, kind) in enumerate(found):
        boxes[row, : len(box)], scores[row, : len(box)], classes[row, : len(box)] = box, score, kind
    return boxes, scores, classes, np.array([len(box) for box, _, _ in found], np.int64)
