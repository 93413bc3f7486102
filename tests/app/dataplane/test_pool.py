"""Which replica takes a sequence, and what waits when there is none."""

import asyncio

import pytest

from app.dataplane.pool import Pool, choose
from app.errors import NotReady, QueueFull
from engines.protocol import SchedulerLoad


class Worker:
    def __init__(self, sequences=0):
        self.sequences, self.lost, self.load = sequences, False, SchedulerLoad()


def test_the_owner_of_a_prefix_is_preferred_while_it_has_a_slot():
    owner, idle = Worker(7), Worker(0)
    assert choose([owner, idle], owner, 8) is owner
    owner.sequences = 8
    assert choose([owner, idle], owner, 8) is idle
    assert choose([idle], owner, 8) is idle


async def test_a_conversation_goes_back_to_its_replica():
    pool, one, two = Pool(8, 10), Worker(), Worker()
    pool.join(one)
    pool.join(two)
    first = await pool.take(1, 1)
    first.sequences = 3
    assert await pool.take(1, 1) is first
    assert await pool.take(2, 1) is not first


async def test_a_dead_replica_is_never_chosen_and_requests_wait_for_the_next():
    pool, dead = Pool(8, 10), Worker()
    pool.join(dead)
    dead.lost = True
    waiting = asyncio.ensure_future(pool.take(1, 5))
    await asyncio.sleep(0)
    pool.leave(dead)
    fresh = Worker()
    pool.join(fresh)
    assert await waiting is fresh


async def test_what_waits_is_bounded_and_ends():
    pool = Pool(8, 1)
    waiting = asyncio.ensure_future(pool.take(1, 5))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await pool.take(2, 5)
    pool.close(NotReady("stopped"))
    with pytest.raises(NotReady, match="stopped"):
        await waiting
    with pytest.raises(NotReady):
        await Pool(8, 1).take(1, 0.01)


def test_what_replicas_count_is_summed_and_never_twice():
    pool, one, two = Pool(8, 10), Worker(), Worker()
    pool.join(one)
    pool.join(two)
    one.load = SchedulerLoad(preempted=3, drafted=10, accepted=7, cache_bytes=100, steps=9, step_us=50, decode_us=40)
    two.load = SchedulerLoad(preempted=1, cache_bytes=11, steps=1)
    assert pool.cache_bytes == 111
    assert pool.counted() == SchedulerLoad(
        preempted=4, drafted=10, accepted=7, steps=10, step_us=50, decode_us=40
    )
    assert pool.counted() == SchedulerLoad()
    one.load = SchedulerLoad(preempted=4, drafted=12, accepted=8, steps=10, step_us=50, decode_us=40)
    assert pool.counted() == SchedulerLoad(preempted=1, drafted=2, accepted=1, steps=1)
    two.load = SchedulerLoad()  # it has just died
    assert pool.counted() == SchedulerLoad()
    pool.leave(two)
    fresh = Worker()
    fresh.load = SchedulerLoad(preempted=2, steps=3)
    pool.join(fresh)
    assert pool.counted() == SchedulerLoad(preempted=2, steps=3)
