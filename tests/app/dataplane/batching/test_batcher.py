"""Dynamic batching, driven by a worker that answers when the test says so."""

import asyncio
import time

import numpy as np
import pytest

from app.dataplane.batching.batcher import Batcher, Batching
from app.dataplane.tensors import Tensor
from app.errors import DeadlineExceeded, InvalidInput, NotReady, QueueFull, ReplicaLost
from engines.protocol import Inferred, Signature, TensorHeader, TensorSpec


class HandWorker:
    """Stands where a `WorkerClient` does; `answer` echoes the oldest batch."""

    def __init__(self, compute_us=7):
        self.lost = False
        self.batches, self.items = [], []
        self.compute_us = compute_us

    def infer(self, inputs, parts, outputs, done, items=False):
        if self.lost:
            raise ReplicaLost("gone")
        self.batches.append((inputs, b"".join(parts), done))
        self.items.append(items)

    @property
    def rows(self):
        return [inputs[0].shape[0] for inputs, _, _ in self.batches]

    async def answer(self, error=None):
        inputs, payload, done = self.batches.pop(0)
        headers = [TensorHeader("y", h.datatype, h.shape, h.size_bytes) for h in inputs]
        done(error or (Inferred(0, headers, self.compute_us), memoryview(payload)))
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
    def make(batched=True, columns=-1, datatype="FP32", items=None, clock=time.perf_counter, **more):
        spec = [TensorSpec(name, datatype, [-1, columns], batch_axis=0) for name in "xy"]
        signature = Signature(inputs=spec[:1], outputs=spec[1:], batched=batched)
        settings = {"max_batch_size": 8, "max_queue_delay_us": 0, "queue_limit": 100} | more
        return Batcher(signature, Batching(**settings), lambda batch: seen.append(batch.rows), items=items, clock=clock)

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


async def drain(worker):
    """Answer all that is sent; the rows of each batch."""
    sizes = []
    while worker.batches:
        sizes += worker.rows[:1]
        await worker.answer()
    return sizes


async def test_a_request_larger_than_any_batch_runs_in_parts_and_is_answered_once(make):
    one, two, batcher = HandWorker(), HandWorker(), make(max_batch_size=4)
    batcher.join(one)
    batcher.join(two)
    large = batcher.submit(request(*range(10)), [], 10)
    small = batcher.submit(request(100), [], 10)
    while one.batches or two.batches:  # the parts come back in another order
        for worker in (two, one):
            if worker.batches:
                await worker.answer()
    assert values(await large.result) == list(range(10))
    assert values(await small.result) == [100]
    assert large.batch_rows == 4


async def test_a_part_that_fails_fails_the_request_once_and_the_rest_is_not_run(make):
    worker, batcher = HandWorker(), make(max_batch_size=2)
    batcher.join(worker)
    large = batcher.submit(request(*range(9)), [], 10)
    await worker.answer(InvalidInput("refused"))
    with pytest.raises(InvalidInput):
        await large.result
    assert worker.batches == []
    assert batcher.depth == batcher.in_flight == 0


async def test_parts_of_strings_are_cut_by_their_own_lengths(make):
    from app.dataplane.tensors import pack_strings, unpack_strings

    worker, batcher = HandWorker(), make(max_batch_size=2, datatype="BYTES")
    batcher.join(worker)
    words = ["a", "bcd", "", "ü", "efghi"]
    large = batcher.submit([Tensor("x", "BYTES", [5, 1], pack_strings(words))], [], 10)
    assert await drain(worker) == [2, 2, 1]
    assert unpack_strings((await large.result)[0].data) == [word.encode() for word in words]


async def test_the_more_urgent_overtake(make):
    worker, batcher = HandWorker(), make(priority_levels=3, max_batch_size=1)
    batcher.join(worker)
    batcher.submit(request(0), [], 10)
    waiting = [batcher.submit(request(priority), [], 10, priority=priority) for priority in (3, 0, 1)]
    order = []
    for number, entry in enumerate(waiting):
        entry.result.add_done_callback(lambda _, number=number: order.append(number))
    await drain(worker)
    await asyncio.sleep(0)
    assert order == [2, 1, 0]


@pytest.mark.parametrize("priority", [2, -1])
async def test_a_priority_that_there_is_not_is_refused(make, priority):
    with pytest.raises(InvalidInput) as raised:
        make().submit(request(1), [], 10, priority=priority)
    assert raised.value.field == "parameters.priority"


async def test_preferred_sizes_leave_at_once_and_others_wait(make):
    worker, batcher = HandWorker(), make(preferred_batch_sizes=(2, 4), max_queue_delay_us=60_000_000)
    batcher.join(worker)
    batcher.submit(request(1), [], 10)
    assert worker.batches == []
    batcher.submit(request(2), [], 10)
    assert worker.rows == [2]
    for number in range(5):
        batcher.submit(request(number), [], 10)
    await worker.answer()
    assert worker.rows == [4]
    await worker.answer()
    assert worker.batches == []
    assert batcher.depth == 1


def test_a_delay_ends_at_its_time(make, virtual_time):
    async def main():
        loop = asyncio.get_running_loop()
        worker, batcher = HandWorker(), make(max_queue_delay_us=5000, clock=loop.time)
        batcher.join(worker)
        batcher.submit(request(1), [], 10)
        await asyncio.sleep(0.0049)
        assert worker.batches == []
        await asyncio.sleep(0.0002)
        assert worker.rows == [1]

    virtual_time.run(main())


def test_a_timeout_is_answered_at_its_time_waiting_or_running(make, virtual_time):
    async def main():
        loop = asyncio.get_running_loop()
        worker, batcher = HandWorker(), make(clock=loop.time)
        batcher.join(worker)
        running = batcher.submit(request(1), [], 3)
        patient = batcher.submit(request(2), [], 100)
        hasty = batcher.submit(request(3), [], 0.5)
        with pytest.raises(DeadlineExceeded):
            await hasty.result
        assert loop.time() == pytest.approx(0.5, abs=0.005)
        with pytest.raises(DeadlineExceeded):
            await running.result
        assert loop.time() == pytest.approx(3, abs=0.005)
        await worker.answer()
        assert worker.rows == [1]  # not the one that was given up
        await worker.answer()
        assert values(await patient.result) == [2]

    virtual_time.run(main())


async def test_what_nobody_waits_for_is_not_run_and_leaves_room(make):
    worker, batcher = HandWorker(), make(queue_limit=2)
    batcher.join(worker)
    batcher.submit(request(0), [], 10)
    gone, kept = batcher.submit(request(1), [], 10), batcher.submit(request(2), [], 10)
    batcher.abandon(gone)
    later = batcher.submit(request(3), [], 10)
    assert await drain(worker) == [1, 2]
    assert [values(await waiting.result) for waiting in (kept, later)] == [[2], [3]]


async def test_a_full_batch_is_sent_ahead_and_only_one(make):
    worker, batcher = HandWorker(), make(max_batch_size=2)
    batcher.join(worker)
    batcher.submit(request(0), [], 10)
    await worker.answer()  # now it is known that a batch is short
    await asyncio.sleep(0)
    waiting = [batcher.submit(request(number), [], 10) for number in range(6)]
    assert worker.rows == [1, 2]
    assert batcher.depth == 3
    assert batcher.in_flight == 3
    assert await drain(worker) == [1, 2, 2, 1]
    assert [values(await entry.result) for entry in waiting] == [[number] for number in range(6)]


async def test_nothing_is_sent_ahead_to_a_slow_model(make):
    worker, batcher = HandWorker(compute_us=200_000), make(max_batch_size=2)
    batcher.join(worker)
    batcher.submit(request(0), [], 10)
    await worker.answer()
    await asyncio.sleep(0)
    for number in range(6):
        batcher.submit(request(number), [], 10)
    assert worker.rows == [1]


async def test_what_was_sent_ahead_survives_the_replica(make):
    dying, batcher = HandWorker(), make(max_batch_size=1)
    batcher.join(dying)
    batcher.submit(request(0), [], 10)
    await dying.answer()
    await asyncio.sleep(0)
    running, ahead = batcher.submit(request(1), [], 10), batcher.submit(request(2), [], 10)
    dying.lost = True
    await dying.answer(ReplicaLost("died"))
    await dying.answer(ReplicaLost("died"))
    batcher.leave(dying)
    with pytest.raises(ReplicaLost):
        await running.result
    fresh = HandWorker()
    batcher.join(fresh)
    await fresh.answer()
    assert values(await ahead.result) == [2]


async def test_the_order_of_arrival_is_kept_with_several_replicas(make):
    one, two, batcher = HandWorker(), HandWorker(), make(preserve_order=True, max_batch_size=1)
    batcher.join(one)
    batcher.join(two)
    first, second = batcher.submit(request(1), [], 10), batcher.submit(request(2), [], 10)
    slow, quick = (one, two) if np.frombuffer(one.batches[0][1], np.float32)[0] == 1 else (two, one)
    await quick.answer()
    assert not second.result.done()
    await slow.answer()
    assert [values(await waiting.result) for waiting in (first, second)] == [[1], [2]]
    third, fourth = batcher.submit(request(3), [], 10), batcher.submit(request(4), [], 10)
    slow, quick = (one, two) if np.frombuffer(one.batches[0][1], np.float32)[0] == 3 else (two, one)
    await quick.answer()
    batcher.abandon(third)
    assert values(await fourth.result) == [4]  # it waits for nobody who is gone


async def test_outputs_that_do_not_follow_the_rows_make_each_run_alone(make):
    worker, batcher = HandWorker(), make()
    batcher.join(worker)
    batcher.submit(request(0), [], 10)
    waiting = [batcher.submit(request(number), [], 10) for number in (1, 2)]
    await worker.answer()
    _, _, done = worker.batches.pop()
    done((Inferred(0, [TensorHeader("y", "FP32", [1, 1], 4)], 7), memoryview(bytes(4))))
    assert await drain(worker) == [1, 1]
    assert [values(await entry.result) for entry in waiting] == [[1], [2]]


async def test_items_and_tensors_do_not_share_a_batch(make):
    texts = Signature(
        inputs=[TensorSpec("x", "FP32", [-1, 1], batch_axis=0)],
        outputs=[TensorSpec("y", "FP32", [-1, 1], batch_axis=0)],
        batched=True,
    )
    worker, batcher = HandWorker(), make(items=texts)
    batcher.join(worker)
    batcher.submit(request(0), [], 10)
    for number in range(4):
        batcher.submit(request(number), [], 10, items=number % 2 == 1)
    assert await drain(worker) == [1, 2, 2]
    assert worker.items == [False, False, True]


async def test_a_closed_batcher_refuses_what_waits_and_what_comes(make):
    worker, batcher = HandWorker(), make()
    batcher.join(worker)
    running, queued = batcher.submit(request(1), [], 10), batcher.submit(request(2), [], 10)
    batcher.close(NotReady("stopping"))
    with pytest.raises(NotReady):
        await queued.result
    with pytest.raises(NotReady):
        batcher.submit(request(3), [], 10)
    await worker.answer()
    assert values(await running.result) == [1]


def test_a_replica_that_hangs_is_told(make, virtual_time):
    async def main():
        loop = asyncio.get_running_loop()
        worker, batcher = HandWorker(), make(clock=loop.time)
        batcher.join(worker)
        waiting = batcher.submit(request(1), [], 1)
        with pytest.raises(DeadlineExceeded):
            await waiting.result
        await asyncio.sleep(29)
        assert batcher.stuck() == []
        await asyncio.sleep(2)
        assert batcher.stuck() == [worker]

    virtual_time.run(main())


async def test_a_full_queue_says_so_before_a_request_is_read(make):
    batcher = make(queue_limit=2)
    assert not batcher.full
    waiting = [batcher.submit(request(1), [], 60) for _ in range(2)]  # no replica: they wait
    assert batcher.full and batcher.queue_full().retry_after_s
    batcher.abandon(waiting[0])
    assert not batcher.full
