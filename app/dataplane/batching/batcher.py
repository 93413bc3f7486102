"""Dynamic batching of one tensor deployment: all its replicas pull from one queue.

A batch leaves as soon as a replica is free, so an idle server adds no wait and a busy one fills its batches by itself.
A free replica waits only where that was asked for (`Batching.max_queue_delay_us`) or, by default, where what was
learned says that those who were just answered will be back before it pays to go without them. While a replica computes,
one full batch may be sent ahead to it, so that it never waits for the hop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from app.dataplane.batching.layout import BatchMismatch, Layout
from app.dataplane.batching.learning import LEAST_SAVING_S, Durations, Returns, sampled, worth_waiting
from app.dataplane.batching.queue import Bucket, Queue
from app.dataplane.batching.waiting import Waiting
from app.dataplane.tensors import Tensor, views, whole
from app.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidInput,
    NotReady,
    PilothouseError,
    QueueFull,
    ReplicaLost,
)
from app.workers.client import Answer, WorkerClient
from engines.card import Card
from engines.protocol import Inferred, Signature

#: How long after their timeout a replica may go on with requests before it is taken for hung.
STUCK_S = 30.0
#: So many kinds of requests (shapes, mostly) are learned apart; one more takes the place of the oldest.
_MOST_LEARNED = 64
#: So many batches after requests came together the next ones are expected to.
_CROWD = 16
#: A batch that runs longer than this is not sent ahead: the hop is nothing beside it, and another replica may be free
#: before it.
_AHEAD_S = 0.1


@dataclass(frozen=True)
class Batching:
    """The settings of `app.deployments.options` that are about batches."""

    max_batch_size: int = 32
    max_queue_delay_us: int | None = None
    """`None`: learned."""
    preferred_batch_sizes: tuple[int, ...] = ()
    priority_levels: int = 1
    default_priority_level: int | None = None
    preserve_order: bool = False
    queue_limit: int = 256

    @classmethod
    def of(cls, settings: Mapping[str, Any], queue_limit: int) -> "Batching":
        """From the settings of a deployment."""
        given = {name: settings[name] for name in cls.__dataclass_fields__ if settings.get(name) is not None}
        given["preferred_batch_sizes"] = tuple(given.get("preferred_batch_sizes", ()))
        return cls(**(given | {"queue_limit": queue_limit}))


class Batch:
    """What runs together. ``ahead``: the replica still computes another one. The rest is known once it has run; times
    are seconds."""

    __slots__ = ("ahead", "compute_s", "entries", "input_s", "output_s", "outputs", "rows")

    def __init__(self, entries: list[Waiting], ahead: bool):
        self.entries, self.ahead = entries, ahead
        self.rows = entries[0].rows if len(entries) == 1 else sum([entry.rows for entry in entries])
        self.input_s = self.compute_s = self.output_s = 0.0
        self.outputs: list[Tensor] = []


class Batcher:
    """Single-threaded. ``observe`` is called once a batch. ``clock`` gives seconds and is the loop's in tests."""

    def __init__(
        self,
        signature: Signature,
        batching: Batching,
        observe: Callable[[Batch], None],
        *,
        items: Signature | None = None,
        card: Card | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        limit = batching.max_batch_size
        self._layout = Layout(signature, limit, padding=card.padding if card else None)
        self._items = Layout(items, limit, items=True) if items is not None else self._layout
        self._queue_limit, self._observe, self._clock = batching.queue_limit, observe, clock
        self._preferred = sorted(size for size in batching.preferred_batch_sizes if size <= limit)
        self._levels = batching.priority_levels
        self._level = (batching.default_priority_level or (self._levels + 1) // 2) - 1
        delay_us = batching.max_queue_delay_us
        self._delay_s = None if delay_us is None else delay_us / 1e6
        self._holds = bool(self._preferred or self._delay_s)
        self._queue: Queue[Waiting] = Queue(self._levels)
        self._order: deque[Waiting] | None = deque() if batching.preserve_order else None
        self._idle: list[WorkerClient] = []
        self._clients: set[WorkerClient] = set()
        self._running: dict[WorkerClient, list[Batch]] = {}
        self._times: dict[Hashable, Durations] = {}
        self._returns = Returns()
        self._crowd = self._batches = 0
        self._turn_due = False
        self._delay_timer: asyncio.TimerHandle | None = None
        self._wake_at = 0.0
        self._wait_until = 0.0
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._next_deadline = float("inf")
        self._learned_delay_s = 0.0
        self.learned_rows = 0
        """Rows of the last kind of batch at which it leaves at once."""
        self.closed = False

    @property
    def depth(self) -> int:
        return len(self._queue)

    @property
    def learned_delay_us(self) -> int:
        """How long a free replica has waited for more rows of late."""
        return round(self._learned_delay_s * 1e6)

    @property
    def in_flight(self) -> int:
        return sum(len(batch.entries) for batches in self._running.values() for batch in batches)

    # --- replicas -------------------------------------------------------------------------------------

    def join(self, client: WorkerClient) -> None:
        self._clients.add(client)
        self._idle.append(client)
        self._pump()

    def leave(self, client: WorkerClient) -> None:
        self._clients.discard(client)
        if client in self._idle:
            self._idle.remove(client)

    def close(self, error: PilothouseError) -> None:
        """Refuse what waits; what runs is answered."""
        self.closed = True
        for waiting in list(self._queue):
            self._fail(waiting, error)

    # --- requests -------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        return self._queue.size >= self._queue_limit

    def queue_full(self) -> QueueFull:
        return QueueFull(
            f"{self._queue_limit} requests are waiting already",
            hint="retry later, or raise queue_limit",
            field="queue_limit",
        )

    def submit(
        self, inputs: list[Tensor], outputs: list[str], timeout_s: float, *, priority: int = 0, items: bool = False
    ) -> Waiting:
        """Queue one request. Raises `QueueFull`, `InvalidInput` (a priority that there is not) at once;
        ``Waiting.result`` may raise `DeadlineExceeded`, `ReplicaLost` or what the engine refused it for. Whoever no
        longer wants the answer calls `abandon`."""
        if self.closed:
            raise NotReady("this deployment is stopping")
        if self._queue.size >= self._queue_limit:
            raise self.queue_full()
        level = self._level
        if priority:
            if not 0 < priority <= self._levels:
                raise InvalidInput(
                    f"priority must be from 1 to {self._levels}, not {priority}",
                    hint="raise priority_levels of the deployment, or leave priority out",
                    field="parameters.priority",
                )
            level = priority - 1
        now = self._clock()
        loop = asyncio.get_running_loop()
        layout = self._items if items else self._layout
        deadline = now + timeout_s
        waiting = Waiting(inputs, outputs, layout, level, now, deadline, loop.create_future())
        self._returns.arrived(now)
        if self._order is not None:
            self._order.append(waiting)
        if deadline < self._next_deadline:
            self._set_deadline(deadline, now)
        if self._idle and not (self._crowd or self._queue.size or self._holds) and waiting.rows <= waiting.most:
            self._send(self._idle.pop(), [waiting], ahead=False)  # most requests of a calm server
            if self._queue.size:  # that replica has just died
                self._pump()
            return waiting
        bucket = self._queue.push(waiting)
        if self._idle:
            if not self._crowd:
                self._pump()
            elif not self._turn_due:  # those that the loop read together leave together
                self._turn_due = True
                loop.call_soon(self._turn)
        elif bucket.rows >= (bucket.full or self._target(bucket)) and self._ahead_of(bucket) is not None:
            self._pump()
        return waiting

    def abandon(self, waiting: Waiting) -> None:
        """Nobody waits for the answer any more: it is not run, if it is not running yet."""
        self._queue.drop(waiting)
        waiting.result.cancel()
        self._release()

    def expire(self) -> None:
        """Answer what has taken too long, waiting or running. Called when the next deadline has come."""
        now = self._clock()
        nearest = float("inf")
        for waiting in [*self._queue, *self._all_running()]:
            if waiting.result.done():
                continue
            if waiting.deadline <= now:
                self._fail(waiting, DeadlineExceeded("the request took longer than its timeout", hint="retry later"))
            else:
                nearest = min(nearest, waiting.deadline)
        self._set_deadline(nearest, now)

    def stuck(self) -> list[WorkerClient]:
        """Replicas that work on nothing but requests which were answered as too late `STUCK_S` ago."""
        limit = self._clock() - STUCK_S
        return [
            client
            for client, batches in self._running.items()
            if all(entry.deadline < limit for entry in batches[0].entries)
        ]

    def _all_running(self) -> Iterable[Waiting]:
        return (entry for batches in self._running.values() for batch in batches for entry in batch.entries)

    def _set_deadline(self, deadline: float, now: float) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None
        self._next_deadline = deadline
        if deadline < float("inf"):
            # A millisecond late rather than early: timers tick so, and an early one would find nothing.
            delay = max(deadline - now, 0.0) + 0.001
            self._deadline_timer = asyncio.get_running_loop().call_later(delay, self.expire)

    def _fail(self, waiting: Waiting, error: PilothouseError) -> None:
        self._queue.drop(waiting)
        if waiting.parent is not None:
            self._queue.drop(waiting.parent)
        if not waiting.result.done():
            waiting.result.set_exception(error)
        self._release()

    # --- when a batch leaves, and which ---------------------------------------------------------------

    def _turn(self) -> None:
        self._turn_due = False
        self._pump()

    def _pump(self) -> None:
        while self._queue.size:
            ahead = not self._idle
            bucket = self._next(ahead)
            if bucket is None:
                return
            client = self._ahead_of(bucket) if ahead else self._idle[-1]
            if client is None:
                return
            batch = self._take(bucket)
            if not batch:
                continue
            if not ahead:
                self._idle.pop()
            self._send(client, batch, ahead)

    def _next(self, ahead: bool) -> Bucket[Waiting] | None:
        """The bucket that a batch should leave from now; `None` is to wait, and a timer is set."""
        bucket = self._queue.first()
        if bucket.rows >= self._target(bucket):
            return bucket
        wait_s = float("inf") if ahead else self._wait_s(bucket)
        if wait_s <= 0:
            return bucket
        if not ahead:
            self._wake_in(wait_s)
        return next((other for other in self._queue.buckets.values() if other.rows >= self._target(other)), None)

    def _wait_s(self, bucket: Bucket[Waiting]) -> float:
        """How long the bucket's head should still wait for others, with a replica free for it."""
        if bucket.most == 1 or (self._preferred and bucket.rows >= self._preferred[0]):
            return 0.0
        if self._delay_s is not None:
            return bucket.head().arrived + self._delay_s - self._clock() if self._delay_s else 0.0
        times = self._times.get(bucket.key)
        if times is None or times.most_s < LEAST_SAVING_S or len(self._idle) > 1:
            return 0.0
        now = self._clock()
        if self._wait_until and now >= self._wait_until:
            self._returns.missed(now)
            return 0.0
        expected, most = worth_waiting(bucket.rows, bucket.most, self._returns, times.predict, now)
        if not self._wait_until:
            self._learned_delay_s += (expected - self._learned_delay_s) / 16
            self._wait_until = now + most if expected > 0 else 0.0
        return self._wait_until - now if expected > 0 else 0.0

    def _wake_in(self, seconds: float) -> None:
        at = self._clock() + seconds
        if self._delay_timer is not None:
            if self._wake_at <= at:
                return
            self._delay_timer.cancel()
        self._wake_at = at
        self._delay_timer = asyncio.get_running_loop().call_later(seconds, self._on_delay)

    def _on_delay(self) -> None:
        self._delay_timer = None
        self._pump()

    def _ahead_of(self, bucket: Bucket[Waiting]) -> WorkerClient | None:
        """A replica with one batch and room for the next, if that is worth it; only asked when none is idle."""
        times = self._times.get(bucket.key)
        if times is None or times.predict(min(bucket.rows, bucket.most)) > _AHEAD_S:
            return None
        for client, batches in self._running.items():
            if len(batches) == 1 and not client.lost and client in self._clients:
                return client
        return None

    def _target(self, bucket: Bucket[Waiting]) -> int:
        """Rows that make a full batch; the same for as long as the bucket is not empty."""
        if bucket.full:
            return bucket.full
        times = self._times.get(bucket.key)
        if bucket.most == 1:
            bucket.full = 1
        elif self._preferred:
            bucket.full = self._preferred[-1]
        elif times is None or self._delay_s is not None:
            bucket.full = bucket.most
        else:
            bucket.full = times.target_rows
        return bucket.full

    def _take(self, bucket: Bucket[Waiting]) -> list[Waiting]:
        """The next batch; those given up meanwhile are left out."""
        most = self._target(bucket)
        if self._preferred:
            most = max((size for size in self._preferred if size <= bucket.rows), default=most)
        batch = []
        for entry, start, stop in self._queue.take(bucket, most):
            if entry.result.done():
                self._queue.drop(entry)
            else:
                batch.append(entry if stop - start == entry.rows else entry.part(start, stop))
        return batch

    # --- batches --------------------------------------------------------------------------------------

    def _send(self, client: WorkerClient, entries: list[Waiting], ahead: bool) -> None:
        batch = Batch(entries, ahead)
        now = self._clock()
        for waiting in entries:
            request = waiting.parent or waiting
            if request.queue_s < 0:
                request.queue_s = now - request.arrived
        layout, inputs = entries[0].layout, entries[0].inputs
        headers, parts = layout.join([entry.inputs for entry in entries]) if len(entries) > 1 else whole(inputs)
        try:
            client.infer(
                headers,
                parts,
                entries[0].outputs,
                lambda answer: self._answered(client, batch, answer),
                items=layout.items,
            )
        except ReplicaLost:  # it died a moment ago; its keeper will take it out
            self._queue.push_back(entries)
            return
        except PilothouseError as error:  # too large for one message: the replica is as good as before
            if not ahead:
                self._idle.append(client)
            if len(entries) > 1:
                self._run_alone(entries)
                return
            self._fail(entries[0], error)
            return
        if ahead:
            self._running[client].append(batch)
            return
        self._running[client] = [batch]
        self._wait_until = 0.0
        if len(entries) > 1 or self._queue.size:
            self._crowd = _CROWD
        elif self._crowd:
            self._crowd -= 1

    def _answered(self, client: WorkerClient, batch: Batch, answer: Answer) -> None:
        batches = self._running[client]
        batches.remove(batch)
        entries = batch.entries
        lost = isinstance(answer, ReplicaLost)
        if batches:
            batches[0].ahead = lost and batches[0].ahead  # it computes now, or never will
        else:
            del self._running[client]
            if client in self._clients and not client.lost:
                self._idle.append(client)
        self._returns.delivered(len(entries), self._clock())
        if isinstance(answer, tuple):
            self._pump()  # first, so that the replica is not idle while the answers are cut
            self._deliver(batch, answer[0], views(answer[0].outputs, answer[1]))
            return
        if lost and batch.ahead:  # it was never begun
            self._queue.push_back(entries)
        elif isinstance(answer, InvalidInput) and len(entries) > 1:
            self._run_alone(entries)
        else:
            for waiting in entries:
                self._fail(waiting, waiting.told(answer))
        self._pump()

    def _run_alone(self, entries: list[Waiting]) -> None:
        """One bad request must not fail the others of its batch: each runs again by itself."""
        for waiting in entries:
            waiting.key, waiting.alone = (waiting.key, id(waiting)), True
        self._queue.push_back(entries)

    def _deliver(self, batch: Batch, message: Inferred, outputs: list[Tensor]) -> None:
        entries = batch.entries
        input_s = batch.input_s = message.input_us / 1e6
        compute_s = batch.compute_s = message.compute_us / 1e6
        output_s = batch.output_s = message.output_us / 1e6
        batch.outputs = outputs
        answers = [outputs]
        if len(entries) > 1 or entries[0].parent is not None:
            try:
                answers = entries[0].layout.split(
                    outputs, [entry.inputs for entry in entries], [entry.rows for entry in entries]
                )
            except BatchMismatch as error:
                if len(entries) > 1:
                    self._run_alone(entries)
                    self._pump()
                else:
                    hint = "raise max_batch_size, so that the request runs whole"
                    self._fail(entries[0], EngineFailed(f"part of the request went wrong: {error}", hint=hint))
                return
        for waiting, answer in zip(entries, answers, strict=True):
            request = waiting.parent or waiting
            request.batch_rows = max(batch.rows, request.batch_rows)
            request.input_s += input_s
            request.compute_s += compute_s
            request.output_s += output_s
            try:
                complete = answer if request is waiting else waiting.completed(answer)
            except BatchMismatch as error:
                hint = f"send at most {waiting.most} rows at once, or raise max_batch_size"
                self._fail(waiting, InvalidInput(f"the request is too large for one batch: {error}", hint=hint))
                continue
            if complete is None or waiting.result.done():
                continue
            if self._order is None:
                waiting.result.set_result(complete)
            else:
                request.held = complete
                self._release()
        # After the answers are on their way: what is only counted must not delay them.
        asyncio.get_running_loop().call_soon(self._count, batch)

    def _release(self) -> None:
        """Answer those whose turn it is, where the order of arrival is kept."""
        order = self._order
        while order and (order[0].held is not None or order[0].result.done()):
            waiting = order.popleft()
            if waiting.held is not None and not waiting.result.done():
                waiting.result.set_result(waiting.held)

    def _count(self, batch: Batch) -> None:
        first = batch.entries[0]
        self._batches += 1
        if not first.alone and sampled(self._batches):
            times = self._times.get(first.key)
            if times is None:
                if len(self._times) >= _MOST_LEARNED:
                    del self._times[next(iter(self._times))]
                times = self._times[first.key] = Durations(first.most)
            times.observe(batch.rows, batch.input_s + batch.compute_s + batch.output_s)
            self.learned_rows = times.best_rows
        self._observe(batch)
