"""How requests share a batch, by values: any axis, shared inputs, padding."""

import numpy as np
import pytest

from app.dataplane import arrays
from app.dataplane.batching.layout import BatchMismatch, Layout
from app.dataplane.tensors import Tensor, pack_strings
from engines.protocol import Signature, TensorSpec

#: silero-vad: the batch is another axis of the state, and the rate is shared.
VOICE = Signature(
    inputs=[
        TensorSpec("input", "FP32", [-1, -1], batch_axis=0),
        TensorSpec("state", "FP32", [2, -1, 3], batch_axis=1),
        TensorSpec("sr", "INT64", []),
    ],
    outputs=[
        TensorSpec("output", "FP32", [-1, 1], batch_axis=0),
        TensorSpec("stateN", "FP32", [2, -1, 3], batch_axis=1),
    ],
    batched=True,
)
TEXT = Signature(
    inputs=[
        TensorSpec(name, "INT64", [-1, -1], batch_axis=0, axes=["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ],
    outputs=[
        TensorSpec("hidden", "FP32", [-1, -1, 2], batch_axis=0, axes=["batch", "length", ""]),
        TensorSpec("pooled", "FP32", [-1, 2], batch_axis=0, axes=["batch", ""]),
    ],
    batched=True,
)
PADDING = {"length": {"input_ids": 7, "attention_mask": 0}}


def tensor(name, values, datatype):
    return arrays.tensor(name, datatype, np.asarray(values, arrays.DTYPES[datatype]))


def voice(rows, rate=16000, start=0.0, samples=4):
    values = np.arange(rows * samples, dtype=np.float32).reshape(rows, samples) + start
    state = np.arange(6 * rows, dtype=np.float32).reshape(2, rows, 3) + start
    return [tensor("input", values, "FP32"), tensor("state", state, "FP32"), tensor("sr", rate, "INT64")]


def ids(*rows):
    return [tensor("input_ids", rows, "INT64"), tensor("attention_mask", np.ones_like(rows), "INT64")]


def joined(layout, requests):
    headers, parts = layout.join(requests)
    data, position, found = b"".join(parts), 0, {}
    for header in headers:
        stop = position + header.size_bytes
        found[header.name] = arrays.array(Tensor(header.name, header.datatype, header.shape, data[position:stop]))
        position = stop
    assert position == len(data)
    return found


def test_each_input_is_joined_along_its_own_axis_and_shared_ones_are_sent_once():
    layout = Layout(VOICE, 8)
    one, two = voice(1), voice(2, start=100)
    assert layout.key(one, []) == layout.key(two, [])
    batch = joined(layout, [one, two])
    assert batch["input"].shape == (3, 4)
    assert batch["sr"] == 16000
    np.testing.assert_array_equal(batch["state"][:, :1], arrays.array(one[1]))
    np.testing.assert_array_equal(batch["state"][:, 1:], arrays.array(two[1]))


def test_outputs_are_split_along_their_own_axis():
    layout = Layout(VOICE, 8)
    requests = [voice(1), voice(2)]
    state = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    outputs = [tensor("output", [[1], [2], [3]], "FP32"), tensor("stateN", state, "FP32")]
    first, second = layout.split(outputs, requests, [1, 2])
    np.testing.assert_array_equal(arrays.array(first[1]), state[:, :1])
    np.testing.assert_array_equal(arrays.array(second[0]), [[2], [3]])
    np.testing.assert_array_equal(arrays.array(second[1]), state[:, 1:])


def test_what_must_be_equal_in_a_batch_is_part_of_the_key():
    layout = Layout(VOICE, 8)
    key = layout.key(voice(1), [])
    assert layout.key(voice(1, rate=8000), []) != key
    assert layout.key(voice(1, samples=5), []) != key
    assert layout.key(voice(1), ["output"]) != key
    assert Layout(VOICE, 8, items=True).key(voice(1), []) != key


def test_lengths_share_a_batch_where_the_card_says_what_fills_them():
    layout = Layout(TEXT, 8, padding=PADDING)
    short, long = ids([1, 2]), ids([3, 4, 5])
    assert layout.key(short, []) == layout.key(long, [])
    batch = joined(layout, [short, long])
    assert batch["input_ids"].tolist() == [[1, 2, 7], [3, 4, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_outputs_that_have_the_padded_axis_are_cut_back():
    layout = Layout(TEXT, 8, padding=PADDING)
    requests = [ids([1, 2]), ids([3, 4, 5])]
    hidden = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    outputs = [tensor("hidden", hidden, "FP32"), tensor("pooled", [[1, 2], [3, 4]], "FP32")]
    first, second = layout.split(outputs, requests, [1, 1])
    np.testing.assert_array_equal(arrays.array(first[0]), hidden[:1, :2])
    np.testing.assert_array_equal(arrays.array(second[0]), hidden[1:])
    np.testing.assert_array_equal(arrays.array(first[1]), [[1, 2]])


def test_padding_never_doubles_what_is_computed():
    layout = Layout(TEXT, 8, padding=PADDING)

    def key(length):
        return layout.key(ids([1] * length), [])

    assert key(1) == key(8)
    assert key(9) == key(16)
    assert len({key(8), key(9), key(17)}) == 3


@pytest.mark.parametrize("padding", [None, {"length": {"input_ids": 0}}, {"other": {"input_ids": 0}}])
def test_lengths_do_not_share_a_batch_unless_every_input_has_a_value(padding):
    layout = Layout(TEXT, 8, padding=padding)
    assert layout.key(ids([1, 2]), []) != layout.key(ids([1, 2, 3]), [])


def test_half_precision_and_texts_are_padded_in_their_own_way():
    names = [TensorSpec("x", "BF16", [-1, -1], batch_axis=0, axes=["", "n"])]
    layout = Layout(Signature(inputs=names, outputs=[], batched=True), 8, padding={"n": {"x": 1.0}})
    batch = joined(layout, [[Tensor("x", "BF16", [1, 1], b"\0\0")], [Tensor("x", "BF16", [1, 2], bytes(4))]])
    assert batch["x"].tolist() == [[0, 0x3F80], [0, 0]]
    words = [TensorSpec("x", "BYTES", [-1, -1], batch_axis=0, axes=["", "n"])]
    layout = Layout(Signature(inputs=words, outputs=[], batched=True), 8, padding={"n": {"x": 0}})
    one, two = pack_strings(["a"]), pack_strings(["bc", "ü"])
    batch = joined(layout, [[Tensor("x", "BYTES", [1, 1], one)], [Tensor("x", "BYTES", [1, 2], two)]])
    assert batch["x"].tolist() == [[b"a", b""], [b"bc", "ü".encode()]]


def test_outputs_that_do_not_follow_the_rows_are_told():
    with pytest.raises(BatchMismatch, match="hidden"):
        Layout(TEXT, 8).split([tensor("hidden", [[[1, 2]]], "FP32")], [ids([1]), ids([2])], [1, 1])


def test_a_request_can_be_cut_into_parts_and_its_answers_merged():
    layout = Layout(VOICE, 8)
    request = voice(5)
    positions = [0] * len(request)
    parts = [layout.part(request, 0, 2, positions), layout.part(request, 2, 5, positions)]
    assert [layout.rows(part) for part in parts] == [2, 3]
    for index, axis in ((0, 0), (1, 1)):
        whole = np.concatenate([arrays.array(part[index]) for part in parts], axis)
        np.testing.assert_array_equal(whole, arrays.array(request[index]))
    states = [tensor("stateN", np.full((2, rows, 3), rows), "FP32") for rows in (2, 3)]
    (merged,) = layout.merge([[state] for state in states])
    assert merged.shape == [2, 5, 3]


def test_a_model_that_does_not_batch_runs_each_request_alone():
    unbatched = Layout(Signature(inputs=TEXT.inputs, outputs=TEXT.outputs, batched=False), 8)
    assert unbatched.most == 1
    assert unbatched.rows(ids([1], [2])) == 1
