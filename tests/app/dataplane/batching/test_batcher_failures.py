"""What goes wrong in the middle of a batch reaches whom it concerns, and nobody else, and is never lost."""

import asyncio

import numpy as np
import pytest

from app.dataplane.batching.batcher import Batcher, Batching
from app.dataplane.batching.layout import Layout
from app.dataplane.tensors import Tensor, pack_strings
from app.errors import InvalidInput, NotReady, PayloadTooLarge, ReplicaLost
from engines.protocol import Inferred, Signature, TensorHeader, TensorSpec

ITEMS = Signature(
    inputs=[TensorSpec("item", "BYTES", [-1], batch_axis=0)],
    outputs=[TensorSpec("y", "FP32", [-1, -1], batch_axis=0)],
    batched=True,
)


class Worker:
    """Keeps what it is sent until the test answers it."""

    def __init__(self, refuse_above=1 << 30):
        self.lost = False
        self.batches = []
        self._refuse_above = refuse_above

    def infer(self, inputs, parts, outputs, done, items=False):
        if self.lost:
            raise ReplicaLost("gone")
        if sum(map(len, parts)) > self._refuse_above:
            raise PayloadTooLarge("too large for one message")
        self.batches.append((inputs[0].shape[0], done))

    @property
    def rows(self):
        return [rows for rows, _ in self.batches]

    def answer(self, width=1, error=None):
        rows, done = self.batches.pop(0)
        data = np.zeros((rows, width), np.float32).tobytes()
        done(error or (Inferred(0, [TensorHeader("y", "FP32", [rows, width], len(data))], 7), memoryview(data)))


@pytest.fixture
def make():
    def make(*workers, most=2, **more):
        spec = [TensorSpec(name, "FP32", [-1, -1], batch_axis=0) for name in "xy"]
        signature = Signature(inputs=spec[:1], outputs=spec[1:], batched=True)
        batching = Batching(max_batch_size=most, max_queue_delay_us=0, **more)
        batcher = Batcher(signature, batching, lambda batch: None, items=ITEMS)
        for worker in workers:
            batcher.join(worker)
        return batcher

    return make


def rows(count):
    return [Tensor("x", "FP32", [count, 1], bytes(4 * count))]


def texts(count):
    return [Tensor("item", "BYTES", [count], pack_strings(["a"] * count))]


async def test_parts_whose_answers_do_not_fit_together_are_an_error_at_once(make):
    worker = Worker()
    batcher = make(worker)
    waiting = batcher.submit(rows(3), [], 60)
    worker.answer(width=4)
    worker.answer(width=5)
    with pytest.raises(InvalidInput, match=r"\[2, 4\] for some rows, \[1, 5\] for others") as caught:
        await asyncio.wait_for(waiting.result, 1)
    assert "at most 2 rows" in caught.value.hint
    assert batcher.depth == batcher.in_flight == 0


async def test_a_request_that_meets_a_dead_replica_is_taken_by_another_that_is_free(make):
    alive, dead = Worker(), Worker()
    batcher = make(alive, dead)
    dead.lost = True
    waiting = batcher.submit(rows(1), [], 60)
    assert alive.rows == [1]
    alive.answer()
    assert (await waiting.result)[0].shape == [1, 1]


@pytest.mark.parametrize("part", [0, 1])
async def test_an_item_at_fault_has_its_number_in_the_whole_request(make, part):
    worker = Worker()
    batcher = make(worker)
    waiting = batcher.submit(texts(4), [], 60, items=True)
    for _ in range(part):
        worker.answer()
    worker.answer(error=InvalidInput("item[1]: the text is not UTF-8", field="item[1]"))
    number = 2 * part + 1
    with pytest.raises(InvalidInput, match=rf"item\[{number}\]: the text") as caught:
        await waiting.result
    assert caught.value.field == f"item[{number}]"


async def test_requests_that_are_too_large_together_run_alone(make):
    worker = Worker(refuse_above=12)
    batcher = make(worker, most=8)
    busy = batcher.submit(rows(1), [], 60)
    waiting = [batcher.submit(rows(count), [], 60) for count in (2, 3)]
    too_large = batcher.submit(rows(4), [], 60)
    for expected in ([1], [2], [3]):
        assert worker.rows[:1] == expected
        worker.answer()
    await busy.result
    assert [(await one.result)[0].shape[0] for one in waiting] == [2, 3]
    with pytest.raises(PayloadTooLarge):
        await too_large.result


async def test_a_part_that_came_back_leaves_with_its_request(make):
    worker = Worker()
    batcher = make(worker)
    batcher._times[None] = batcher._times[(False, (1,), ())] = _Fast()
    waiting = batcher.submit(rows(6), [], 60)
    assert worker.rows == [2, 2]  # one ahead of the other
    worker.answer(error=ReplicaLost("gone"))
    with pytest.raises(ReplicaLost):
        await waiting.result
    batcher.leave(worker)
    worker.lost = True
    worker.answer(error=ReplicaLost("gone"))
    batcher.close(NotReady("stopped"))
    assert batcher.depth == batcher.in_flight == 0


class _Fast:
    """Of what is known of a kind of batch: short enough to be sent ahead."""

    target_rows = best_rows = 2

    def predict(self, rows):
        return 1e-3

    def observe(self, rows, seconds):
        pass


def test_what_a_key_remembers_of_a_shared_input_is_small():
    specs = [TensorSpec("x", "FP32", [-1, 1], batch_axis=0), TensorSpec("table", "UINT8", [-1])]
    layout = Layout(Signature(specs, [TensorSpec("y", "FP32", [-1, 1], batch_axis=0)], batched=True), 8)

    def key(table):
        return layout.key([*rows(1), Tensor("table", "UINT8", [len(table)], table)], [])

    large = bytes(1 << 20)
    assert len(repr(key(large))) < 1000
    assert key(large) == key(bytes(1 << 20)) != key(large[:-1] + b"\1")
    assert key(b"ab") == key(b"ab") != key(b"ac")


def test_a_part_begins_where_the_one_before_ended_without_a_look_at_what_lies_before():
    layout, positions = Layout(ITEMS, 2, items=True), [5]
    given = Tensor("item", "BYTES", [4], b"\xff\xff\xff\xff?" + pack_strings([b"a", b"bc", b"d"]))
    parts = [layout.part([given], 1, 3, positions), layout.part([given], 3, 4, positions)]
    assert [bytes(part[0].data) for part in parts] == [pack_strings([b"a", b"bc"]), pack_strings([b"d"])]
    assert positions == [len(given.data)]
