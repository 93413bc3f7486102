"""Sequences: a model that adds its input to its state, run by hand."""

import asyncio

import numpy as np
import pytest

from app.dataplane import arrays
from app.dataplane.inference import SequenceMark
from app.dataplane.sequences import Sequences
from app.dataplane.tensors import Tensor
from app.errors import DeadlineExceeded, InvalidInput, QueueFull
from engines.protocol import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=[
        TensorSpec("x", "FP32", [-1, 2], batch_axis=0, axes=["batch", ""]),
        TensorSpec("state", "FP32", [1, -1, 2], batch_axis=1, axes=["", "batch", ""]),
    ],
    outputs=[
        TensorSpec("y", "FP32", [-1, 2], batch_axis=0),
        TensorSpec("next", "FP32", [1, -1, 2], batch_axis=1),
    ],
    batched=True,
)


@pytest.fixture
def make():
    def make(**more):
        return Sequences(SIGNATURE, {"state": "next"}, **({"idle_s": 60, "limit": 10} | more))

    return make


def x(*rows):
    return arrays.tensor("x", "FP32", np.array(rows, np.float32))


def run(inputs, names):
    given = {tensor.name: arrays.array(tensor) for tensor in inputs}
    total = given["state"][0] + given["x"]
    outputs = [arrays.tensor("y", "FP32", total), arrays.tensor("next", "FP32", total[None])]
    return [tensor for tensor in outputs if not names or tensor.name in names]


async def step(sequences, mark, inputs, outputs=(), timeout_s=10.0):
    async with sequences.turn(mark, timeout_s) as turn:
        return turn.keep(run(turn.fill(inputs), turn.ask(list(outputs))), list(outputs))


def values(answer):
    return arrays.array(answer[0]).tolist()


async def test_each_request_begins_where_the_one_before_ended(make):
    sequences = make()
    assert values(await step(sequences, SequenceMark(7, start=True), [x([1, 2])])) == [[1, 2]]
    assert values(await step(sequences, SequenceMark("other", start=True), [x([5, 5])])) == [[5, 5]]
    assert values(await step(sequences, SequenceMark(7), [x([1, 2])])) == [[2, 4]]
    assert values(await step(sequences, SequenceMark(7), [x([1, 2])])) == [[3, 6]]


async def test_states_are_in_the_answer_only_where_they_are_asked_for(make):
    sequences = make()
    answer = await step(sequences, SequenceMark(7, start=True), [x([1, 2])])
    assert [tensor.name for tensor in answer] == ["y"]
    answer = await step(sequences, SequenceMark(7), [x([1, 2])], ["next"])
    assert [tensor.name for tensor in answer] == ["next"]
    assert values(await step(sequences, SequenceMark(7), [x([1, 2])])) == [[3, 6]]


async def test_the_zeros_have_as_many_rows_as_the_request(make):
    answer = await step(make(), SequenceMark(7, start=True), [x([1, 2], [3, 4])])
    assert values(answer) == [[1, 2], [3, 4]]


async def test_a_state_that_is_given_is_used(make):
    given = Tensor("state", "FP32", [1, 1, 2], np.array([10, 20], np.float32).tobytes())
    assert values(await step(make(), SequenceMark(7, start=True), [x([1, 2]), given])) == [[11, 22]]


async def test_a_start_begins_anew(make):
    sequences = make()
    await step(sequences, SequenceMark(7, start=True), [x([1, 2])])
    assert values(await step(sequences, SequenceMark(7, start=True), [x([1, 2])])) == [[1, 2]]


@pytest.mark.parametrize("ended", [False, True], ids=["unknown", "ended"])
async def test_an_id_that_is_not_active_needs_a_start(make, ended):
    sequences = make()
    if ended:
        await step(sequences, SequenceMark(7, start=True), [x([1, 2])])
        await step(sequences, SequenceMark(7, end=True), [x([1, 2])])
    assert len(sequences) == 0
    with pytest.raises(InvalidInput) as raised:
        await step(sequences, SequenceMark(7), [x([1, 2])])
    assert raised.value.field == "parameters.sequence_id"


async def test_requests_of_one_id_run_one_after_the_other_in_order(make):
    sequences = make()
    events = []
    gate, began = asyncio.Event(), asyncio.Event()

    async def request(number, mark):
        async with sequences.turn(mark, 10) as turn:
            events.append(f"{number} begins")
            began.set()
            if number == 0:
                await gate.wait()
            turn.keep(run(turn.fill([x([1, 1])]), []), [])
            events.append(f"{number} ends")

    marks = [SequenceMark(7, start=True), SequenceMark(7), SequenceMark(7, end=True)]
    tasks = [asyncio.create_task(request(number, mark)) for number, mark in enumerate(marks)]
    await began.wait()
    await step(sequences, SequenceMark(8, start=True, end=True), [x([1, 1])])  # another one is not held up
    assert events == ["0 begins"]
    gate.set()
    await asyncio.gather(*tasks)
    assert events == [f"{number} {what}" for number in range(3) for what in ("begins", "ends")]
    assert len(sequences) == 0


async def test_a_request_that_fails_changes_nothing(make):
    sequences = make()
    await step(sequences, SequenceMark(7, start=True), [x([1, 2])])
    with pytest.raises(ZeroDivisionError):
        async with sequences.turn(SequenceMark(7, end=True), 10):
            raise ZeroDivisionError
    assert values(await step(sequences, SequenceMark(7), [x([1, 2])])) == [[2, 4]]


async def test_a_sequence_whose_first_request_failed_was_not_begun(make):
    sequences = make()
    with pytest.raises(ZeroDivisionError):
        async with sequences.turn(SequenceMark(7, start=True), 10):
            raise ZeroDivisionError
    with pytest.raises(InvalidInput):
        await step(sequences, SequenceMark(7), [x([1, 2])])
    assert len(sequences) == 0


async def test_waiting_for_its_turn_counts_to_the_timeout(make):
    sequences = make()
    async with sequences.turn(SequenceMark(7, start=True), 10):
        with pytest.raises(DeadlineExceeded):
            await step(sequences, SequenceMark(7), [x([1, 2])], timeout_s=0.001)


async def test_idle_ones_are_forgotten_and_those_in_use_are_not(make):
    now = 0.0
    sequences = make(clock=lambda: now)
    await step(sequences, SequenceMark(1, start=True), [x([1, 2])])
    await step(sequences, SequenceMark(2, start=True), [x([1, 2])])
    async with sequences.turn(SequenceMark(3, start=True), 10):
        now = 50.0
        await step(sequences, SequenceMark(1), [x([1, 2])])
        now = 70.0
        sequences.expire()
        assert len(sequences) == 2
    assert values(await step(sequences, SequenceMark(1), [x([1, 2])])) == [[3, 6]]
    with pytest.raises(InvalidInput):
        await step(sequences, SequenceMark(2), [x([1, 2])])


async def test_their_number_is_bounded(make):
    sequences = make(limit=1)
    await step(sequences, SequenceMark(1, start=True), [x([1, 2])])
    with pytest.raises(QueueFull):
        await step(sequences, SequenceMark(2, start=True), [x([1, 2])])
    await step(sequences, SequenceMark(1, end=True), [x([1, 2])])
    await step(sequences, SequenceMark(2, start=True), [x([1, 2])])


@pytest.mark.parametrize(
    "given",
    [
        Tensor("x", "FP32", [1 << 38, 2], b""),
        Tensor("x", "FP32", [-4, 2], b""),
        Tensor("x", "FP16", [1, 2], bytes(4)),
    ],
    ids=["rows without data", "fewer than no rows", "another type"],
)
async def test_a_request_that_is_not_what_it_claims_begins_no_state(make, given):
    sequences = make()
    with pytest.raises(InvalidInput, match="input x") as caught:
        await step(sequences, SequenceMark(1, start=True), [given])
    assert caught.value.field == "inputs.x"
    assert len(sequences) == 0


async def test_a_state_may_not_be_much_larger_than_what_asks_for_it():
    rows = [TensorSpec("x", "FP32", [-1, -1], batch_axis=0), TensorSpec("state", "FP32", [-1, 1024], batch_axis=0)]
    sequences = Sequences(Signature(rows, rows, batched=True), {"state": "next"}, idle_s=60, limit=10)
    with pytest.raises(InvalidInput, match="state state would begin as"):
        await step(sequences, SequenceMark(1, start=True), [Tensor("x", "FP32", [1 << 38, 0], b"")])


async def test_those_that_wait_for_their_turn_are_bounded(make):
    sequences = make(queue_limit=2)
    await step(sequences, SequenceMark(1, start=True), [x([1, 2])])
    async with sequences.turn(SequenceMark(1), 10):
        waiting = [asyncio.create_task(step(sequences, SequenceMark(1), [x([1, 2])])) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="2 requests are waiting for their turn"):
            await step(sequences, SequenceMark(1), [x([1, 2])])
        other = await step(sequences, SequenceMark(2, start=True), [x([1, 2])])  # it need not wait
        assert values(other) == [[1, 2]]
    assert [values(await one) for one in waiting] == [[[2, 4]], [[3, 6]]]
