"""What a person has at hand as a request, and what comes back as classes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.commands import oip
from app.errors import InvalidInput

IMAGE = [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 2, 2]}]
PAIR = [{"name": "a", "datatype": "INT64", "shape": [-1, 1]}, {"name": "b", "datatype": "BYTES", "shape": [1]}]


@pytest.mark.parametrize(
    ("have", "want", "shape"),
    [
        ([3, 1, 2, 2], [-1, 1, 2, 2], [3, 1, 2, 2]),  # as it is
        ([4], [-1, 1, 2, 2], [1, 1, 2, 2]),  # one row, flat
        ([2, 2], [-1, 1, 2, 2], [1, 1, 2, 2]),  # one row without its axes of 1
        ([3, 4], [-1, 1, 2, 2], [3, 1, 2, 2]),  # rows, flat
        ([0, 1, 2, 2], [-1, 1, 2, 2], [0, 1, 2, 2]),
        ([0], [-1, 1, 2, 2], None),
        ([5], [-1, 1, 2, 2], None),
        ([3], [-1, -1], None),  # two free axes: no guess
        ([2, 3], [-1, -1], [2, 3]),
        ([], [1], [1]),
    ],
)
def test_shapes_fit_or_are_refused(have: list[int], want: list[int], shape: list[int] | None):
    assert oip.fit(have, want) == shape


@given(st.lists(st.integers(0, 6), max_size=4), st.lists(st.sampled_from([-1, 1, 2, 3, 4]), max_size=4))
def test_a_fitted_shape_holds_the_same_values_and_is_wanted(have: list[int], want: list[int]):
    shape = oip.fit(have, want)
    if shape is not None:
        assert math.prod(shape) == math.prod(have)
        assert len(shape) == len(want) and all(need in (-1, got) for got, need in zip(shape, want, strict=True))


def test_one_array_is_the_one_input():
    assert oip.request(IMAGE, [1, 2, 3, 4]) == {
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [1.0, 2.0, 3.0, 4.0]}]
    }


def test_several_inputs_are_given_by_name():
    body = oip.request(PAIR, {"b": ["red"], "a": [[7]]})
    assert [(entry["name"], entry["shape"], entry["data"]) for entry in body["inputs"]] == [
        ("a", [1, 1], [7]),
        ("b", [1], ["red"]),
    ]
    with pytest.raises(InvalidInput, match="takes 2 inputs"):
        oip.request(PAIR, [1])


def test_a_whole_request_is_passed_on():
    body = {"inputs": [{"name": "image", "shape": [1], "datatype": "FP32", "data": [1]}], "id": "mine"}
    assert oip.request(IMAGE, body) is body


@pytest.mark.parametrize("value", [["a", "b", "c", "d"], [[1, 2], [3]], {"image": None}, [1, 2, 3]])
def test_a_wrong_value_names_the_input(value: object):
    with pytest.raises(InvalidInput) as caught:
        oip.request(IMAGE, value)
    assert caught.value.field == "image" and "FP32" in caught.value.message


def test_pickled_arrays_are_refused(tmp_path):
    path = tmp_path / "evil.npy"
    np.save(path, np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInput, match="neither JSON nor an array"):
        oip.read(str(path))


def answer(data: list[float], shape: list[int], datatype: str = "FP32") -> dict:
    return {"outputs": [{"name": "p", "datatype": datatype, "shape": shape, "data": data}]}


def test_classes_are_the_most_likely_first_with_their_names():
    rows = oip.classes(answer([0.1, 0.7, 0.2, 0.5, 0.5, 0.0], [2, 3]), ["a", "b", "c"], top=2)
    assert rows == [[("b", 0.7), ("c", 0.2)], [("a", 0.5), ("b", 0.5)]]
    assert oip.classes(answer([0.1, 0.9], [1, 2]), [])[0][0] == ("1", 0.9)


@pytest.mark.parametrize(
    "other",
    [
        answer([3.0, -1.0], [1, 2]),  # logits
        answer([0.5, 0.9], [1, 2]),  # independent scores
        answer([0.5, 0.5], [2]),
        answer([1.0], [1, 1]),
        answer([0, 1], [1, 2], "INT64"),
    ],
)
def test_what_is_no_distribution_has_no_classes(other: dict):
    assert oip.classes(other, []) is None
