"""Frames <-> arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engines.engine import EngineError
from engines.protocol import TensorHeader
from engines.tensors import BF16, DTYPES, pack, unpack

numbers = st.sampled_from(sorted(set(DTYPES) - {"BF16"})).flatmap(
    lambda name: hnp.arrays(DTYPES[name], hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))
)


def joined(parts):
    return memoryview(b"".join(bytes(part) for part in parts))


@given(st.lists(numbers, max_size=3))
def test_numbers_survive_the_journey(arrays):
    given_ = {f"t{index}": array for index, array in enumerate(arrays)}
    headers, parts = pack(given_)
    back = unpack(headers, joined(parts))
    assert list(back) == list(given_)
    for name, array in given_.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_bf16_survives_the_journey_as_its_bits():
    headers, parts = pack({"b": np.array([[1, 2]], np.uint16).view(BF16)})
    assert (headers[0].datatype, headers[0].shape, headers[0].size_bytes) == ("BF16", [1, 2], 4)
    back = unpack(headers, joined(parts))["b"]
    assert (back.dtype, back.view(np.uint16).tolist()) == (BF16, [[1, 2]])


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_strings_survive_the_journey(values):
    headers, parts = pack({"s": np.array(values, dtype=object)})
    assert unpack(headers, joined(parts))["s"].tolist() == values


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        (TensorHeader("x", "FP99", [1], 4), b"1234"),
        (TensorHeader("x", "FP32", [2], 4), b"1234"),
        (TensorHeader("x", "FP32", [1], 3), b"123"),
        (TensorHeader("x", "BYTES", [1], 4), b"\x09\0\0\0"),
        (TensorHeader("x", "BYTES", [2], 5), b"\1\0\0\0a"),
        (TensorHeader("x", "BYTES", [1], 6), b"\1\0\0\0ab"),
    ],
)
def test_bytes_that_do_not_fit_their_header_are_refused_by_name(header, payload):
    with pytest.raises(EngineError, match="input x"):
        unpack([header], memoryview(payload))
