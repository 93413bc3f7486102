"""How sure a classifier was of a batch: the mean probability of its top class (maximum softmax probability,
Hendrycks & Gimpel, ICLR 2017)."""

import numpy as np

_FLOATS = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}


def top_confidence(datatype: str, shape: list[int], data: bytes | memoryview) -> tuple[float, int] | None:
    """Sum of the top classes' confidences, and the number of rows; `None` where there are no class scores.

    ``data`` is [rows, classes] of floats: probabilities (each row sums to 1), or logits, which softmax turns into them.
    """
    if datatype not in _FLOATS or len(shape) != 2 or shape[1] < 2:
        return None
    scores = np.frombuffer(data, _FLOATS[datatype]).reshape(shape)
    top = scores.max(axis=1)
    if scores.min() < 0 or abs(float(scores[0].sum()) - 1) > 1e-2:
        top = 1 / np.exp(scores.astype(np.float32) - top[:, None]).sum(axis=1)
    total = float(top.sum())
    return (total, shape[0]) if np.isfinite(total) else None
