"""Triton's classification extension: the best classes of each row of an output, as texts."""

from collections.abc import Sequence

import numpy as np

from app.api.kserve.tensors import numbers
from app.dataplane.tensors import Tensor, pack_strings
from app.errors import InvalidInput


def classify(tensor: Tensor, classes: int, labels: Sequence[str], batch_axis: int) -> Tensor:
    """BYTES [rows, k] of ``score:index`` or ``score:index:label``, best first; [k] for an output without a batch axis
    (-1). ``k`` is ``classes`` or the number of values of a row, whichever is less; equal scores are in the order of
    their classes, NaN comes last. ``labels`` serve where there are as many as values. Raises `InvalidInput`."""
    if tensor.datatype in ("BYTES", "BOOL"):
        raise InvalidInput(
            f"output {tensor.name} is {tensor.datatype}: its values cannot be ranked",
            field=f"outputs.{tensor.name}.parameters.classification",
        )
    values = numbers(tensor).reshape(tensor.shape)
    batched = 0 <= batch_axis < values.ndim
    count = values.shape[batch_axis] if batched else 1
    width = values.size // count if count else 0
    rows = np.moveaxis(values, batch_axis, 0).reshape(count, width) if batched else values.reshape(1, width)
    k = min(classes, width)
    exact = values.dtype.kind != "f"
    named = len(labels) == width
    found: list[str] = []
    for row in rows:
        for index in _best(row, k):
            score = str(row[index]) if exact else f"{row[index]:f}"
            found.append(f"{score}:{index}:{labels[index]}" if named else f"{score}:{index}")
    return Tensor(tensor.name, "BYTES", [count, k] if batched else [k], pack_strings(found))


def _best(row: np.ndarray, k: int) -> list[int]:
    """Indices of the ``k`` greatest values, greatest first. Sorting the reversed row keeps equal ones in order."""
    order = row[::-1].argsort(kind="stable")
    if row.dtype.kind == "f":  # NaN sorts as the greatest of all
        order = np.roll(order, np.count_nonzero(np.isnan(row)))
    return [int(index) for index in (row.size - 1 - order[::-1])[:k]]
