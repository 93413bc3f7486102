"""What may enter, by values."""

import numpy as np
import pytest

from app.dataplane import arrays
from app.dataplane.admission import order_inputs
from app.errors import InvalidInput
from engines.protocol import Signature, TensorSpec

TEXT = Signature(
    inputs=[
        TensorSpec("ids", "INT64", [-1, -1], batch_axis=0, axes=["batch", "length"]),
        TensorSpec("mask", "INT64", [-1, -1], batch_axis=0, axes=["batch", "length"]),
        TensorSpec("scale", "INT64", []),
    ],
    outputs=[],
    batched=True,
)


def tensors(ids, mask):
    sizes = {"ids": ids, "mask": mask, "scale": ()}
    return [arrays.tensor(name, "INT64", np.ones(size, np.int64)) for name, size in sizes.items()]


def test_inputs_come_in_the_order_of_the_signature():
    ordered = order_inputs(TEXT, tensors((2, 3), (2, 3))[::-1])
    assert [tensor.name for tensor in ordered] == ["ids", "mask", "scale"]


@pytest.mark.parametrize(
    ("ids", "mask", "words"),
    [
        ((1, 3), (1, 4), "axis length is 3 long in ids and 4 long in mask"),
        ((1, 3), (2, 3), "the same number of rows"),
        ((0, 3), (0, 3), "no rows"),
        ((3,), (1, 3), "must have shape"),
    ],
)
def test_what_does_not_fit_together_is_refused(ids, mask, words):
    with pytest.raises(InvalidInput, match=words):
        order_inputs(TEXT, tensors(ids, mask))
