"""May this request enter: the axes along which rows are counted."""

import pytest

from app.dataplane import admission
from app.dataplane.tensors import Tensor
from app.errors import InvalidInput
from engines.protocol import Signature, TensorSpec

VAD = Signature(
    inputs=[
        TensorSpec("input", "FP32", [-1, -1], batch_axis=0),
        TensorSpec("state", "FP32", [2, -1, 4], batch_axis=1),
        TensorSpec("sr", "INT64", []),
    ],
    outputs=[TensorSpec("output", "FP32", [-1, 1], batch_axis=0)],
    batched=True,
)


def request(rows, state_rows):
    sent = [
        Tensor("input", "FP32", [rows, 5], bytes(4 * rows * 5)),
        Tensor("state", "FP32", [2, state_rows, 4], bytes(4 * 2 * state_rows * 4)),
    ]
    return [*sent, Tensor("sr", "INT64", [], bytes(8))]


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_are_counted_along_the_axis_of_each_input_and_not_where_it_has_none(rows):
    ordered = admission.order_inputs(VAD, request(rows, rows)[::-1])
    assert [tensor.name for tensor in ordered] == ["input", "state", "sr"]


def test_inputs_of_different_rows_are_refused_saying_where_they_are_counted():
    with pytest.raises(InvalidInput, match="input along axis 0, state along axis 1"):
        admission.order_inputs(VAD, request(3, 2))


@pytest.mark.parametrize(("rows", "state_rows", "name"), [(0, 0, "input"), (1, 0, "state")])
def test_no_rows_are_refused_on_every_axis(rows, state_rows, name):
    with pytest.raises(InvalidInput, match=f"input {name} has no rows"):
        admission.order_inputs(VAD, request(rows, state_rows))


def test_axes_of_one_name_must_have_one_length():
    specs = [TensorSpec(name, "INT64", [-1, -1], batch_axis=0, axes=["batch", "length"]) for name in ("ids", "mask")]
    signature = Signature(inputs=specs, outputs=[], batched=True)

    def sent(length):
        return [Tensor("ids", "INT64", [1, 3], bytes(24)), Tensor("mask", "INT64", [1, length], bytes(8 * length))]

    assert admission.order_inputs(signature, sent(3))
    with pytest.raises(InvalidInput, match="axis length is 3 long in ids and 4 long in mask"):
        admission.order_inputs(signature, sent(4))
