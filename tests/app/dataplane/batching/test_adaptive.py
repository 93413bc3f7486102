"""The real batcher in virtual time, against models of cost and of clients: what it learns must come close to the best
fixed delay, and an idle server must not wait."""

import asyncio
import math
import random
import statistics
from dataclasses import dataclass

import pytest

from app.dataplane.batching.batcher import Batcher, Batching
from app.dataplane.tensors import Tensor
from engines.protocol import Inferred, Signature, TensorHeader, TensorSpec

#: Seconds of a batch of so many rows.
COSTS = {
    "flat": lambda rows: 4e-3,
    "linear": lambda rows: 0.5e-3 * rows,
    "affine": lambda rows: 4e-3 + 0.45e-3 * rows,  # as 8 layers of 2048 x 2048 on two cores
    "steps": lambda rows: 2e-3 * math.ceil(rows / 8),
}
HOP_S = 1e-4
#: The server reads and answers one request after the other.
SERVER_S = 1e-4
SPEC = [TensorSpec(name, "FP32", [-1, 1], batch_axis=0) for name in "xy"]


class Worker:
    """Computes one batch after the other."""

    lost = False

    def __init__(self, cost):
        self._cost, self._free_at, self.rows = cost, 0.0, []

    def infer(self, inputs, parts, outputs, done, items=False):
        loop = asyncio.get_running_loop()
        rows = inputs[0].shape[0]
        self.rows.append(rows)
        seconds = self._cost(rows)
        self._free_at = max(self._free_at, loop.time() + HOP_S) + seconds
        message = Inferred(0, [TensorHeader("y", "FP32", [rows, 1], 4 * rows)], int(seconds * 1e6))
        loop.call_at(self._free_at + HOP_S, done, (message, memoryview(b"".join(parts))))


@dataclass
class Run:
    per_s: float
    mean_ms: float
    batcher: Batcher
    rows: list


async def serve(cost, delay_us, drive, seconds):
    """``drive(ask, rng)`` starts clients, which await ``ask()``."""
    loop = asyncio.get_running_loop()
    worker = Worker(COSTS[cost])
    batcher = Batcher(
        Signature(inputs=SPEC[:1], outputs=SPEC[1:], batched=True),
        Batching(max_queue_delay_us=delay_us, queue_limit=10_000),
        lambda batch: None,
        clock=loop.time,
    )
    batcher.join(worker)
    latencies, server_free = [], 0.0

    async def ask():
        nonlocal server_free
        began = loop.time()
        server_free = max(server_free, began) + SERVER_S
        await asyncio.sleep(server_free - began)
        await batcher.submit([Tensor("x", "FP32", [1, 1], b"abcd")], [], 60).result
        if loop.time() > seconds / 4:  # what is learned in the first quarter is not judged
            latencies.append(loop.time() - began)

    tasks = drive(ask, random.Random(7), loop)
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return Run(len(latencies) / (seconds * 0.75), statistics.mean(latencies) * 1e3, batcher, worker.rows)


def closed(clients, think_s=2e-4):
    """Each asks again a while after it is answered."""

    def drive(ask, rng, loop):
        async def client():
            while True:
                await ask()
                await asyncio.sleep(rng.uniform(0.5, 1.5) * think_s)

        return [loop.create_task(client()) for _ in range(clients)]

    return drive


def poisson(per_s):
    def drive(ask, rng, loop):
        tasks = []

        async def arrivals():
            while True:
                await asyncio.sleep(rng.expovariate(per_s))
                tasks.append(loop.create_task(ask()))

        tasks.append(loop.create_task(arrivals()))
        return tasks

    return drive


@pytest.fixture
def run(virtual_time):
    return lambda cost, drive, delay_us=None, seconds=3: virtual_time.run(serve(cost, delay_us, drive, seconds))


def best_of_fixed(run, cost, drive, seconds):
    return max((run(cost, drive, delay_us, seconds) for delay_us in (0, 1000, 4000)), key=lambda result: result.per_s)


@pytest.mark.parametrize("clients", [1, 2, 8, 32, 64])
def test_closed_loops_reach_the_throughput_of_the_best_fixed_delay(run, clients):
    best = best_of_fixed(run, "affine", closed(clients), 1.5)
    learned = run("affine", closed(clients), seconds=1.5)
    assert learned.per_s >= 0.97 * best.per_s
    assert learned.mean_ms <= 1.03 * best.mean_ms


@pytest.mark.slow
@pytest.mark.parametrize("clients", [1, 2, 8, 32, 48, 64])
@pytest.mark.parametrize("cost", ["flat", "linear", "steps"])
def test_whatever_a_batch_costs(run, cost, clients):
    best = best_of_fixed(run, cost, closed(clients), 2)
    assert run(cost, closed(clients), seconds=2).per_s >= 0.9 * best.per_s


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("drive", [closed(1), poisson(20), closed(8, think_s=0.05)], ids=["one", "rare", "slow"])
def test_an_idle_server_does_not_wait(run, cost, drive):
    at_once = run(cost, drive, delay_us=0)
    assert run(cost, drive).mean_ms <= 1.02 * at_once.mean_ms


@pytest.mark.parametrize("per_s", [200, 800, 1200])
def test_nobody_waits_for_those_who_come_by_chance(run, per_s):
    at_once = run("affine", poisson(per_s), delay_us=0, seconds=2)
    assert run("affine", poisson(per_s), seconds=2).mean_ms <= 1.05 * at_once.mean_ms


def test_what_was_learned_is_shown(run):
    lockstep = run("flat", closed(8), seconds=1)
    assert 500 < lockstep.batcher.learned_delay_us < 1500
    assert lockstep.batcher.learned_rows == 32
    assert run("flat", closed(1), seconds=1).batcher.learned_delay_us == 0


def test_a_batch_is_not_larger_than_pays(run):
    linear = run("linear", closed(64), seconds=2)
    assert linear.batcher.learned_rows <= 8
    assert statistics.median(linear.rows[-100:]) == linear.batcher.learned_rows


def test_clients_that_do_not_come_back_are_waited_for_once(run):
    """Eight clients in lockstep, seven of which leave."""

    def drive(ask, rng, loop):
        async def client(number):
            while number == 0 or loop.time() < 1:
                await ask()
                await asyncio.sleep(2e-4)

        return [loop.create_task(client(number)) for number in range(8)]

    result = run("flat", drive, seconds=4)
    assert set(result.rows[-500:]) == {1}
    assert result.mean_ms < 5
