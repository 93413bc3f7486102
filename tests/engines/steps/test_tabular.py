"""Rows, against scikit-learn's scalers and encoders."""

import json

import numpy as np
import pytest
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler

from engines.card import Column, Columns, FileBytes
from engines.steps.tabular import TableRow, file_bytes

NUMBERS = np.random.default_rng(5).normal(50, 20, (30, 3))
COLOURS = [["red"], ["green"], ["blue"]]


def table(*columns, into="matrix"):
    return TableRow(Columns(columns=list(columns), into=into))


def test_a_scaled_row_is_what_standard_scaler_gives():
    scaler = StandardScaler().fit(NUMBERS)
    columns = [Column(name, mean=m, scale=s) for name, m, s in zip("abc", scaler.mean_, scaler.scale_, strict=True)]
    for row, expected in zip(NUMBERS, scaler.transform(NUMBERS), strict=True):
        found = table(*columns).matrix(dict(zip("cba", row[::-1].tolist(), strict=True)))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(table(*columns).matrix(row.tolist()), found)


def test_minimum_and_range_make_min_max_scaler():
    scaler = MinMaxScaler().fit(NUMBERS)
    columns = [
        Column(name, mean=m, scale=s) for name, m, s in zip("abc", scaler.data_min_, scaler.data_range_, strict=True)
    ]
    found = [table(*columns).matrix(row.tolist()) for row in NUMBERS]
    np.testing.assert_allclose(found, scaler.transform(NUMBERS), atol=1e-6)


def test_categories_are_ordinal_encoders():
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1).fit(COLOURS)
    column = Column("colour", "category", categories=encoder.categories_[0].tolist(), unknown=-1)
    for colour in ("red", "green", "blue", "mauve"):
        assert table(column).matrix({"colour": colour}) == encoder.transform([[colour]])[0]


def test_one_hot_categories_are_one_hot_encoders():
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(COLOURS)
    column = Column("colour", "category", categories=encoder.categories_[0].tolist(), one_hot=True)
    for colour in ("red", "green", "blue", "mauve"):
        found = table(Column("n"), column).matrix({"n": 7, "colour": colour})
        np.testing.assert_array_equal(found, [7, *encoder.transform([[colour]])[0]])


def test_columns_may_be_inputs_of_their_own():
    row = table(
        Column("age"),
        Column("city", "text", input="place"),
        Column("colour", "category", categories=["red"], one_hot=True),
        into="inputs",
    ).inputs({"age": 3, "city": "Köln", "colour": "red"})
    assert {name: value.tolist() for name, value in row.items()} == {
        "age": [3],
        "place": ["Köln".encode()],
        "colour": [1],
    }


@pytest.mark.parametrize("cell", [None, float("nan"), ...])
def test_what_is_missing_has_its_stand_in(cell):
    row = {} if cell is ... else {"a": cell}
    assert table(Column("a", missing=4.0, mean=1, scale=2)).matrix(row).tolist() == [1.5]
    assert np.isnan(table(Column("a", missing="nan")).matrix(row)).all()
    assert table(Column("a", "category", categories=["x", "y"], missing="y")).matrix(row).tolist() == [1]
    with pytest.raises(ValueError, match="column a is missing"):
        table(Column("a")).matrix(row)


@pytest.mark.parametrize(
    ("columns", "row", "words"),
    [
        ([Column("a")], [1, 2], "the row has 2 values, the model takes 1"),
        ([Column("a")], {"a": 1, "b": 2}, "there is no column b"),
        ([Column("a")], 7, "a JSON object or a list"),
        ([Column("a")], {"a": "much"}, "column a takes a number, not 'much'"),
        ([Column("a")], {"a": [1]}, "column a takes a number"),
        ([Column("a", "category", categories=["x"])], {"a": "z"}, "column a does not know 'z'; it knows x"),
        ([Column("a", "category", categories=["x"])], {"a": ["x"]}, "column a does not know"),
        ([Column("a", "text")], {"a": 1}, "column a takes a text, not 1"),
    ],
)
def test_what_does_not_fit_names_its_column(columns, row, words):
    with pytest.raises(ValueError, match=words):
        table(*columns).matrix(row)


def test_categories_of_a_json_row_may_be_numbers():
    column = Column("floor", "category", categories=[1, 2, 3.5])
    assert table(column).matrix(json.loads('{"floor": 3.5}')).tolist() == [2]


def test_a_file_is_its_beginning_its_middle_and_its_end():
    step = FileBytes(begin=3, middle=3, end=3)
    assert file_bytes(step, b"abcdefghi").tolist() == list(b"abcdefghi")
    assert file_bytes(step, b"ab").tolist() == [97, 98, 256, 97, 98, 256, 256, 97, 98]
    assert file_bytes(step, b"").tolist() == [256] * 9
    assert file_bytes(FileBytes(begin=2, end=2, pad=0), b"  x \n").tolist() == [32, 32, 32, 10]
    assert file_bytes(FileBytes(begin=2, end=2, pad=0, strip=True), b"  x \n").tolist() == [120, 32, 32, 120]


def test_white_space_is_looked_for_in_a_block_at_each_end():
    data = b" " * 5 + b"begin" + b"-" * 20 + b"end" + b" " * 5
    step = FileBytes(begin=6, end=6, strip=True, block=8)
    # Of the first eight bytes three are left after the white space; of the last eight, three.
    assert file_bytes(step, data).tolist() == [*b"beg", 256, 256, 256, 256, 256, 256, *b"end"]


@pytest.mark.parametrize("cell", ["inf", "-inf", "nan", 10**400, [], {}])
def test_what_is_no_finite_number_is_refused(cell):
    for column in (Column("a"), Column("a", missing="nan")):
        with pytest.raises(ValueError, match="column a takes a number"):
            table(column).matrix([cell])


@pytest.mark.parametrize("cell", [1e300, -1e300])
def test_a_number_that_does_not_fit_is_refused(cell):
    with pytest.raises(ValueError, match="too large for FP32"):
        table(Column("a")).matrix([cell])
