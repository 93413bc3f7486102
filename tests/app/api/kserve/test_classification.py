"""The best classes of each row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.api.kserve.classification import classify
from app.dataplane.tensors import Tensor, unpack_strings
from app.errors import InvalidInput


def classes(values, k, labels=(), axis=0, datatype="FP32", dtype="<f4"):
    array = np.array(values, dtype)
    found = classify(Tensor("p", datatype, list(array.shape), array.tobytes()), k, labels, axis)
    assert (found.name, found.datatype) == ("p", "BYTES")
    return found.shape, [text.decode() for text in unpack_strings(found.data)]


def test_each_row_has_its_best_first_with_labels():
    shape, texts = classes([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]], 2, ["cat", "dog", "eel"])
    assert shape == [2, 2]
    assert texts == ["0.700000:1:dog", "0.200000:2:eel", "0.500000:0:cat", "0.250000:1:dog"]


def test_labels_that_do_not_fit_are_left_out():
    assert classes([[1, 2]], 1, ["only one"])[1] == ["2.000000:1"]


def test_no_more_classes_than_there_are():
    assert classes([[1, 2]], 9) == ([1, 2], ["2.000000:1", "1.000000:0"])


def test_whole_numbers_stay_whole():
    assert classes([[-5, 300]], 2, datatype="INT32", dtype="<i4")[1] == ["300:1", "-5:0"]


def test_without_a_batch_all_values_are_one_row():
    assert classes([[1, 4], [3, 2]], 2, axis=-1) == ([2], ["4.000000:1", "3.000000:2"])


def test_rows_may_lie_along_another_axis():
    assert classes([[1, 2], [4, 3]], 1, axis=1) == ([2, 1], ["4.000000:1", "3.000000:1"])


def test_brain_floats_are_read_as_what_they_are():
    upper = (np.array([1.5, -2, 3], "<f4").view("<u4") >> 16).astype("<u2")
    found = classify(Tensor("p", "BF16", [1, 3], upper.tobytes()), 2, [], 0)
    assert unpack_strings(found.data) == [b"3.000000:2", b"1.500000:0"]


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL"])
def test_what_has_no_order_is_refused(datatype):
    with pytest.raises(InvalidInput, match="cannot be ranked"):
        classify(Tensor("p", datatype, [1, 0], b""), 1, [], 0)


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(width=32)),
    st.integers(1, 8),
)
def test_scores_fall_equal_ones_keep_their_order_and_nan_is_last(values, k):
    """Against the definition: sort by score, then by index, with NaN below everything."""
    shape, texts = classes(values, k)
    k = min(k, values.shape[1])
    assert shape == [len(values), k]
    got = [int(text.split(":")[1]) for text in texts]
    for row, found in zip(values, np.reshape(got, (len(values), k)).tolist(), strict=True):
        order = sorted(range(row.size), key=lambda i: (bool(np.isnan(row[i])), 0 if np.isnan(row[i]) else -row[i], i))
        assert found == order[:k]
