"""Dynamic batching, driven by a worker that answers when the test says so."""

import asyncio

import numpy as np
import pytest

from app.dataplane.batcher import Batcher, Batching
from app.dataplane.tensors import Tensor
from app.errors import DeadlineExceeded, InvalidInput, QueueFull, ReplicaLost
from engines.protocol import Inferred, Signature, TensorHeader, TensorSpec


class HandWorker:
    """Stands where a `WorkerClient` does; `answer` echoes the oldest batch."""

    def __init__(self):
        self.lost = False
        self.batches = []

    def infer(self, inputs, parts, outputs, done, items=False):
        if self.lost:
            raise ReplicaLost("gone")
        self.batches.append((inputs, b"".join(parts), done))

    @property
    def rows(self):
        return [inputs[0].shape[0] for inputs, _, _ in self.batches]

    async def answer(self, error=None):
        inputs, payload, done = self.batches.pop(0)
        headers = [TensorHeader("y", h.datatype, h.shape, h.size_bytes) for h in inputs]
        done(error or (Inferred(0, headers, 7), memoryview(payload)))
        await asyncio.sleep(0)


def request(*values, columns=1):
    data = np.array(values, np.float32).reshape(-1, columns)
    return [Tensor("x", "FP32", list(data.shape), data.tobytes())]


def values(outputs):
    return np.frombuffer(outputs[0].data, np.float32).tolist()


@pytest.fixture
def seen():
    return []


@pytest.fixture
def make(seen):
    def make(batched=True, columns=-1, datatype="FP32", **more):
        spec = [TensorSpec(name, datatype, [-1, columns], batch_axis=0) for name in "xy"]
        signature = Signature(inputs=spec[:1], outputs=spec[1:], batched=batched)
        settings = {"max_batch_size": 8, "max_queue_delay_us": 0, "queue_limit": 100} | more
        return Batcher(signature, Batching(**settings), lambda batch: seen.append(batch.rows))

    return make


async def test_an_idle_replica_gets_a_request_at_once(make, seen):
    worker, batcher = HandWorker(), make()
    batcher.join(worker)
    waiting = batcher.submit(request(1, 2), [], 10)
    assert worker.rows == [2]
    await worker.answer()
    assert values(await waiting.result) == [1, 2]
    assert seen == [2]


async def test_what_came_while_it_was_busy_leaves_as_one_batch_and_each_gets_its_own_rows(make, seen):
    worker, batcher = HandWorker(), make()
    batcher.join(worker)
    first = batcher.submit(request(0), [], 10)
    rest = [batcher.submit(request(i, -i), [], 10) for i in range(1, 4)]
    await worker.answer()
    assert worker.rows == [6]
    await worker.answer()
    assert values(await first.result) == [0]
    assert [values(await waiting.result) for waiting in rest] == [[1, -1], [2, -2], [3, -3]]
    assert [waiting.batch_rows for waiting in rest] == [6, 6, 6]
    assert seen == [1, 6]


async def test_a_batch_never_grows_beyond_its_limit_and_order_is_kept(make):
    worker, batcher = HandWorker(), make(max_batch_size=4)
    batcher.join(worker)
    requests = [batcher.submit(request(i, i, i), [], 10) for i in range(4)]
    sizes = []
    while worker.batches:
        sizes += worker.rows
        await worker.answer()
    assert sizes == [3, 3, 3, 3]
    assert [values(await waiting.result)[0] for waiting in requests] == [0, 1, 2, 3]


async def test_requests_of_another_shape_do_not_share_a_batch(make):
    worker, batcher = HandWorker(), make()
    batcher.join(worker)
    batcher.submit(request(0), [], 10)
    for columns in (1, 1, 2, 1):
        batcher.submit(request(1, 2, columns=columns), [], 10)
    shapes = []
    while worker.batches:
        shapes += [inputs[0].shape for inputs, _, _ in worker.batches]
        await worker.answer()
    assert shapes == [[1, 1], [6, 1], [1, 2]]  # what is of another shape between them breaks no batch


async def test_two_replicas_pull_from_one_queue(make):
    one, two, batcher = HandWorker(), HandWorker(), make(batched=False)
    batcher.join(one)
    batcher.join(two)
    for i in range(3):
        batcher.submit(request(i), [], 10)
    assert len(one.batches) == len(two.batches) == 1
    assert batcher.depth == 1
    assert batcher.in_flight == 2


async def test_a_full_queue_refuses_and_loses_nothing(make):
    worker, batcher = HandWorker(), make(queue_limit=2)
    accepted = [batcher.submit(request(i), [], 10) for i in range(2)]
    with pytest.raises(QueueFull):
        batcher.submit(request(9), [], 10)
    batcher.join(worker)
    await worker.answer()
    assert [values(await waiting.result) for waiting in accepted] == [[0], [1]]


async def test_a_dead_replica_fails_only_what_ran_in_it(make):
    dying, batcher = HandWorker(), make(batched=False)
    batcher.join(dying)
    running = batcher.submit(request(1), [], 10)
    queued = batcher.submit(request(2), [], 10)
    dying.lost = True
    await dying.answer(ReplicaLost("died"))
    batcher.leave(dying)
    with pytest.raises(ReplicaLost):
        await running.result
    fresh = HandWorker()
    batcher.join(fresh)
    await fresh.answer()
    assert values(await queued.result) == [2]


async def test_one_bad_request_does_not_fail_the_others_of_its_batch(make):
    worker, batcher = HandWorker(), make()
    batcher.join(worker)
    batcher.submit(request(0), [], 10)
    good, bad = batcher.submit(request(1), [], 10), batcher.submit(request(2), [], 10)
    await worker.answer()
    await worker.answer(InvalidInput("refused"))
    assert worker.rows == [1]
    await worker.answer()
    await worker.answer(InvalidInput("refused"))
    assert values(await good.result) == [1]
    with pytest.raises(InvalidInput):
        await bad.result


async def test_a_delay_gathers_rows_and_a_full_batch_does_not_wait_for_it(make):
    worker, batcher = HandWorker(), make(max_batch_size=2, max_queue_delay_us=60_000_000)
    batcher.join(worker)
    batcher.submit(request(1), [], 10)
    assert worker.batches == []
    batcher.submit(request(2), [], 10)
    assert worker.rows == [2]


async def test_what_waits_too_long_is_answered(make):
    batcher = make()
    waiting = batcher.submit(request(1), [], -1)
    batcher.expire()
    with pytest.raises(DeadlineExceeded):
        await waiting.result
    worker = HandWorker()
    batcher.join(worker)
    assert worker.batches == []


async def test_strings_are_split_by_their_own_lengths(make):
    from app.dataplane.tensors import pack_strings, unpack_strings

    worker, batcher = HandWorker(), make()
    batcher.join(worker)
    batcher.submit(request(0), [], 10)
    words = [["a", "long word"], ["", "ü"]]
    waiting = [batcher.submit([Tensor("x", "BYTES", [2, 1], pack_strings(w))], [], 10) for w in words]
    await worker.answer()
    await worker.answer()
    answers = [unpack_strings((await entry.result)[0].data) for entry in waiting]
    assert answers == [[w.encode() for w in pair] for pair in words]
