"""Whatever an item holds, a step takes it or says what is wrong: an answer that says `engine_failed` is a defect."""

import numpy as np
import pytest

from engines.card import (
    Cast,
    Column,
    Columns,
    Crop,
    FileBytes,
    Frame,
    Layout,
    Length,
    MelSpectrogram,
    Normalize,
    Reshape,
    Resize,
)
from engines.engine import EngineError
from engines.steps import inputs

STEPS = [
    Columns(columns=[Column("a")]),
    Columns(columns=[Column("a", type="category", categories=["x", 1])]),
    Columns(columns=[Column("a", type="category", categories=["x"], one_hot=True)]),
    Columns(columns=[Column("a", type="text")], into="inputs"),
    Normalize(),
    Normalize(mean=[1, 2], std=[1, 2]),
    Normalize(mean=[1, 2], std=[1, 2], channel_axis=2),
    Cast(datatype="INT64"),
    Cast(datatype="UINT8"),
    Cast(datatype="FP16"),
    Reshape(shape=(2, 2)),
    Length(size=4),
    Length(size=1, axis=1),
    Layout(),
    Frame(size=4),
    MelSpectrogram(),
    Resize(size=4),
    Crop(size=4),
    FileBytes(begin=4),
]
LEAVES = [None, True, 0, -1, 3.5, 300, 2**70, 1e300, "", "x", "nan", "inf", "\ud7ff"]
VALUES = [
    *LEAVES,
    *([leaf] for leaf in LEAVES),
    *({"a": leaf} for leaf in LEAVES),
    [],
    {},
    [[]],
    [[[]]],
    [[[1]]],
    [[1], [2, 3]],
    [1, [2]],
    [[1, 2], [3, 4]],
    {"a": [1]},
    {"a": {}},
    {"b": 1},
    {"a": 1, "b": 2},
]


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_any_value(step, tmp_path):
    run, _ = inputs.build(step, "item", tmp_path, [], False)
    taken = 0
    for value in VALUES:
        item = {"item": value}
        try:
            inputs.each([item], run)
        except EngineError as error:
            assert (error.code, error.field) == ("invalid_input", "item[0]")
        else:
            taken += 1
            assert all(
                isinstance(given, np.ndarray) for name, given in item.items() if name != "item" and name[0] > " "
            )
    assert taken < len(VALUES)


@pytest.mark.parametrize("datatype", ["INT8", "UINT8", "INT64"])
@pytest.mark.parametrize("value", [np.inf, np.nan, -1e30, 2.0**63])
def test_a_cast_does_not_wrap_around(datatype, value):
    with pytest.raises(ValueError, match="beyond"):
        inputs.cast(Cast(datatype=datatype), np.array([0, value]))


def test_a_cast_cuts_off_towards_zero():
    np.testing.assert_array_equal(inputs.cast(Cast(datatype="UINT8"), np.array([-0.5, 1.9, 255.9])), [0, 1, 255])
    np.testing.assert_array_equal(inputs.cast(Cast(datatype="INT8"), np.array([-128.9, 127.9])), [-128, 127])
