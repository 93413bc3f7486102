"""The replicas of one language deployment, and which of them takes the next sequence."""

import asyncio
from collections.abc import Sequence
from typing import Protocol, TypeVar

from app.errors import NotReady, PilothouseError, QueueFull
from app.workers.client import WorkerClient
from engines.protocol import SchedulerLoad

#: Of a `SchedulerLoad`.
COUNTERS = ("preempted", "drafted", "accepted", "steps", "step_us", "decode_us")
#: Conversations whose replica is remembered.
PREFIXES = 1024


class Replica(Protocol):
    """What a choice looks at: how many sequences it holds, waiting ones included."""

    @property
    def sequences(self) -> int: ...


R = TypeVar("R", bound=Replica)


def choose(replicas: Sequence[R], owner: R | None, slots: int) -> R:
    """The replica that served the same message prefix while it has a free slot, else the least busy one."""
    if owner is not None and owner in replicas and owner.sequences < slots:
        return owner
    return min(replicas, key=lambda replica: replica.sequences)


class Pool:
    """Single-threaded. While its replicas restart, requests wait here and none is lost."""

    def __init__(self, slots: int, queue_limit: int):
        self._slots, self._queue_limit = slots, queue_limit
        self._replicas: list[WorkerClient] = []
        self._counted: dict[WorkerClient, SchedulerLoad] = {}
        self._owners: dict[int, WorkerClient] = {}
        self._available = asyncio.Event()
        self._closed: PilothouseError | None = None
        self._waiting = 0

    @property
    def depth(self) -> int:
        """Requests that have no replica, or no slot in it."""
        return self._waiting + sum(replica.load.waiting for replica in self._replicas)

    @property
    def running(self) -> int:
        """Sequences that are being decoded."""
        return sum(replica.load.running for replica in self._replicas)

    @property
    def in_flight(self) -> int:
        """Sequences that a replica holds, waiting or running."""
        return sum(replica.sequences for replica in self._replicas)

    @property
    def unanswered(self) -> int:
        """Requests of any kind, with a replica or without one."""
        return self._waiting + sum(replica.unanswered for replica in self._replicas)

    @property
    def kv_used(self) -> float:
        return max((replica.load.kv_used for replica in self._replicas), default=0.0)

    @property
    def cache_bytes(self) -> int:
        """Of computed prefixes that are kept outside the KV cells."""
        return sum(replica.load.cache_bytes for replica in self._replicas)

    def counted(self) -> SchedulerLoad:
        """What all replicas counted since the last call; no gauges."""
        total = SchedulerLoad()
        for replica in self._replicas:
            load, before = replica.load, self._counted.get(replica, SchedulerLoad())
            # A worker counts from its start and never down: a lower number is of one that has just been lost.
            if load.steps < before.steps:
                continue
            for name in COUNTERS:
                setattr(total, name, getattr(total, name) + getattr(load, name) - getattr(before, name))
            self._counted[replica] = load
        return total

    def join(self, client: WorkerClient) -> None:
        self._replicas.append(client)
        self._available.set()

    def leave(self, client: WorkerClient) -> None:
        if client in self._replicas:
            self._replicas.remove(client)
        self._counted.pop(client, None)

    def close(self, error: PilothouseError) -> None:
        """Refuse what has no replica yet, and what comes; what runs is answered."""
        self._closed = error
        self._available.set()

    async def take(self, prefix: int, timeout_s: float) -> WorkerClient:
        """Raises `QueueFull` at once, or `NotReady` when no replica came up in time."""
        waiting = self._waiting + sum(max(0, replica.sequences - self._slots) for replica in self._replicas)
        if waiting >= self._queue_limit:
            raise QueueFull(f"{waiting} requests are waiting already", hint="retry later, or raise queue_limit")
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                # One that has just died is still listed until its keeper takes it out.
                while not (alive := [replica for replica in self._replicas if not replica.lost]) and not self._closed:
                    self._available.clear()
                    await self._available.wait()
        except TimeoutError:
            raise NotReady("no replica of this deployment came up in time") from None
        finally:
            self._waiting -= 1
        if self._closed:
            raise self._closed
        replica = choose(alive, self._owners.pop(prefix, None), self._slots)
        self._owners[prefix] = replica
        if len(self._owners) > PREFIXES:
            del self._owners[next(iter(self._owners))]
        return replica
