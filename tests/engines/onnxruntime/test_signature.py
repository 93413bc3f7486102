"""What a file says, and the ways to batch that follow from it."""

from types import SimpleNamespace

import pytest

from engines.engine import EngineError
from engines.onnxruntime import signature
from engines.protocol import TensorSpec


def spec(name, shape, datatype="FP32"):
    free = [-1 if not isinstance(size, int) else size for size in shape]
    names = [size if isinstance(size, str) else "" for size in shape]
    return TensorSpec(name, datatype, free, axes=names if any(names) else [])


def node(name, kind, shape):
    return SimpleNamespace(name=name, type=kind, shape=shape)


def test_free_axes_keep_their_names():
    read = signature.read(node("x", "tensor(float16)", ["batch", 3, None]))
    assert (read.datatype, read.shape, read.axes) == ("FP16", [-1, 3, -1], ["batch", "", ""])
    assert signature.read(node("x", "tensor(float)", ["n", "?", "?"])).axes == ["n", "", ""]
    assert signature.read(node("sr", "tensor(int64)", [])) == TensorSpec("sr", "INT64", [])


@pytest.mark.parametrize(
    ("kind", "datatype"),
    [
        ("tensor(bool)", "BOOL"),
        ("tensor(uint8)", "UINT8"),
        ("tensor(int64)", "INT64"),
        ("tensor(uint64)", "UINT64"),
        ("tensor(double)", "FP64"),
        ("tensor(bfloat16)", "BF16"),
        ("tensor(string)", "BYTES"),
        ("optional(tensor(float))", "FP32"),
        ("seq(map(string,tensor(float)))", "FP32"),
    ],
)
def test_types_have_the_names_of_the_protocol(kind, datatype):
    assert signature.read(node("x", kind, [None])).datatype == datatype


@pytest.mark.parametrize(
    "kind",
    ["seq(tensor(float))", "map(int64,tensor(float))", "tensor(complex64)", "tensor(int4)", "sparse_tensor(float)"],
)
def test_what_is_no_tensor_is_refused_by_name_and_type(kind):
    with pytest.raises(EngineError) as caught:
        signature.read(node("boxes", kind, [None]))
    assert caught.value.code == "bad_model"
    assert "boxes" in caught.value.message and kind in caught.value.message


@pytest.mark.parametrize(
    ("inputs", "first"),
    [
        ([spec("x", ["n", 3])], {"x": 0}),
        ([spec("x", [None, None])], {"x": 0}),
        # silero-vad: nameless, and the state has its layers first
        (
            [spec("input", [None, None]), spec("state", [2, None, 128]), spec("sr", [])],
            {"input": 0, "state": 1, "sr": -1},
        ),
        # the name tells, wherever the axis is
        ([spec("x", ["time", "batch", 4])], {"x": 1}),
        ([spec("x", ["layers", "batch", 4]), spec("y", ["batch"])], {"x": 1, "y": 0}),
        # exporters that name the batch of each tensor differently
        ([spec("ids", ["batch_1", "s"]), spec("mask", ["batch_2", "s"])], {"ids": 0, "mask": 0}),
        ([spec("x", [3, "n"])], {"x": 1}),
    ],
)
def test_the_likeliest_layout_is_first(inputs, first):
    assert signature.layouts(inputs)[0] == first


def test_an_input_with_another_name_first_may_also_be_shared():
    layouts = signature.layouts([spec("x", ["batch", 3]), spec("table", ["entries", 3])])
    assert layouts[:2] == [{"x": 0, "table": 0}, {"x": 0, "table": -1}]


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ([], "no inputs"),
        ([spec("x", [1, 3])], "first axis of input x is fixed at 1"),
        ([spec("x", [1, 3, "h", "w"])], "first axis of input x is fixed at 1"),
        ([spec("x", [3, "h", "w"])], "first axis of input x is fixed at 3"),
        ([spec("s", [])], "single value"),
        ([spec("graph", ["n", "n"])], "the axis n twice"),
    ],
)
def test_why_nothing_can_batch_is_said(inputs, why):
    assert signature.layouts(inputs) == []
    assert why in signature.why_no_layout(inputs)


@pytest.mark.parametrize(
    ("metadata", "labels"),
    [
        ({"labels": '["a", "b"]'}, ["a", "b"]),
        ({"names": "{0: 'cat', 1: 'dog'}"}, ["cat", "dog"]),
        ({"names": "{1: 'cat', 5: 'dog'}"}, []),
        ({"names": "['cat', 'dog']"}, ["cat", "dog"]),
        ({"names": "__import__('os')"}, []),
        ({"names": "{[0]: 'cat'}"}, []),
        ({"names": "-" * 100_000 + "1"}, []),
        ({"labels": "[" * 100_000}, []),
        ({"labels": "{"}, []),
        ({"labels": "3"}, []),
        ({}, []),
    ],
)
def test_labels_are_read_where_exporters_leave_them(metadata, labels):
    assert signature.labels(metadata) == labels


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({}, "x", "missing"),
        ({"x": ("FP64", [1, 3])}, "x", "FP32, not FP64"),
        ({"x": ("FP32", [1, 4])}, "x", r"\[-1, 3\], not \[1, 4\]"),
        ({"x": ("FP32", [3])}, "x", "must have shape"),
        ({"x": ("FP32", [1, 3]), "z": ("FP32", [1])}, "z", "no input z"),
    ],
)
def test_a_request_that_does_not_fit_is_told_which_input(given, field, words):
    with pytest.raises(EngineError, match=words) as caught:
        signature.check([spec("x", ["n", 3])], given)
    assert (caught.value.code, caught.value.field) == ("invalid_input", field)


def test_a_request_that_fits_is_not_at_fault():
    signature.check([spec("x", ["n", 3])], {"x": ("FP32", [7, 3])})
