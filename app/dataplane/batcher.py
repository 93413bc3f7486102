"""Dynamic batching of one tensor deployment: all its replicas pull from one queue.

A batch leaves as soon as a replica is free (``max_queue_delay_us`` 0), so an idle server adds no wait and a busy
one fills its batches by itself; a delay makes a free replica wait for more rows, up to ``max_batch_size``.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from app.dataplane.tensors import Tensor, join, split, views, whole
from app.errors import DeadlineExceeded, InvalidInput, NotReady, PilothouseError, QueueFull, ReplicaLost
from app.workers.client import Answer, WorkerClient

#: How long after their timeout a replica may go on with requests before it is taken for hung.
STUCK_S = 30.0


class Waiting:
    """One request in the queue. ``result`` gives its outputs; the times are seconds."""

    __slots__ = (
        "arrived",
        "batch_rows",
        "compute_s",
        "deadline",
        "inputs",
        "key",
        "outputs",
        "queue_s",
        "result",
        "rows",
    )

    def __init__(
        self, inputs: list[Tensor], outputs: list[str], deadline: float, result: "asyncio.Future[list[Tensor]]"
    ):
        self.inputs, self.outputs = inputs, outputs
        self.rows = inputs[0].shape[0] if inputs and inputs[0].shape else 1
        #: Requests with equal keys can share a batch.
        self.key = ([(t.name, t.datatype, t.shape[1:]) for t in inputs], outputs)
        self.arrived = time.perf_counter()
        self.deadline = deadline
        self.result = result
        self.queue_s = self.compute_s = 0.0
        self.batch_rows = 0


class Batcher:
    """Single-threaded. ``observe(rows, compute_s, outputs)`` is called once a batch."""

    def __init__(
        self,
        *,
        batched: bool,
        max_batch_size: int,
        max_queue_delay_us: int,
        queue_limit: int,
        observe: Callable[[int, float, list[Tensor]], None],
    ):
        self._limit_rows = max_batch_size if batched else 1
        self._batched = batched and max_batch_size > 1
        self._delay_s = max_queue_delay_us / 1e6
        self._queue_limit = queue_limit
        self._observe = observe
        self._queue: deque[Waiting] = deque()
        self._idle: list[WorkerClient] = []
        self._clients: set[WorkerClient] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._running: dict[WorkerClient, list[Waiting]] = {}
        self.closed = False

    @property
    def depth(self) -> int:
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        return sum(map(len, self._running.values()))

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
        while self._queue:
            self._fail(self._queue.popleft(), error)

    # --- requests -------------------------------------------------------------------------------------

    def submit(self, inputs: list[Tensor], outputs: list[str], timeout_s: float) -> Waiting:
        """Queue one request. Raises `QueueFull` at once; ``Waiting.result`` may raise `DeadlineExceeded`,
        `ReplicaLost` or what the engine refused it for."""
        if self.closed:
            raise NotReady("this deployment is stopping")
        if len(self._queue) >= self._queue_limit:
            raise QueueFull(
                f"{self._queue_limit} requests are waiting already",
                hint="retry later, or raise queue_limit",
                field="queue_limit",
            )
        future: asyncio.Future[list[Tensor]] = asyncio.get_running_loop().create_future()
        waiting = Waiting(inputs, outputs, time.perf_counter() + timeout_s, future)
        self._queue.append(waiting)
        self._pump()
        return waiting

    def expire(self) -> None:
        """Answer what has taken too long, waiting or running; called once a second."""
        now = time.perf_counter()
        for waiting in [entry for batch in (self._queue, *self._running.values()) for entry in batch]:
            if waiting.deadline < now:
                self._fail(waiting, DeadlineExceeded("the request took longer than its timeout", hint="retry later"))

    def stuck(self) -> list[WorkerClient]:
        """Replicas that work on nothing but requests which were answered as too late `STUCK_S` ago."""
        limit = time.perf_counter() - STUCK_S
        return [c for c, batch in self._running.items() if all(entry.deadline < limit for entry in batch)]

    @staticmethod
    def _fail(waiting: Waiting, error: PilothouseError) -> None:
        if not waiting.result.done():
            waiting.result.set_exception(error)

    def _pump(self) -> None:
        while self._queue and self._idle:
            if self._delay_s and not self._due():
                return
            batch = self._take()
            if batch:
                self._send(self._idle.pop(), batch)

    def _due(self) -> bool:
        """Whether the head of the queue must leave now; otherwise a timer will pump again."""
        wait_s = self._queue[0].arrived + self._delay_s - time.perf_counter()
        if wait_s <= 0 or not self._batched or sum(entry.rows for entry in self._queue) >= self._limit_rows:
            return True
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_timer)
        return False

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    def _take(self) -> list[Waiting]:
        """The head of the queue and what may join it, in order; those given up meanwhile are dropped."""
        queue = self._queue
        while queue and queue[0].result.done():
            queue.popleft()
        if not queue:
            return []
        head = queue.popleft()
        batch, rows = [head], head.rows
        while self._batched and queue and queue[0].key == head.key and rows + queue[0].rows <= self._limit_rows:
            entry = queue.popleft()
            if not entry.result.done():
                batch.append(entry)
                rows += entry.rows
        return batch

    def _send(self, client: WorkerClient, batch: list[Waiting]) -> None:
        now = time.perf_counter()
        for waiting in batch:
            waiting.queue_s += now - waiting.arrived
        headers, parts = join([entry.inputs for entry in batch]) if len(batch) > 1 else whole(batch[0].inputs)
        try:
            client.infer(headers, parts, batch[0].outputs, lambda answer: self._answered(client, batch, answer))
        except ReplicaLost:  # it died a moment ago; its keeper will take it out
            self._queue.extendleft(reversed(batch))
            return
        except PilothouseError as error:  # too large for one message: the replica is as good as before
            self._idle.append(client)
            for waiting in batch:
                self._fail(waiting, error)
            return
        self._running[client] = batch

    def _answered(self, client: WorkerClient, batch: list[Waiting], answer: Answer) -> None:
        del self._running[client]
        if client in self._clients and not client.lost:
            self._idle.append(client)
        if isinstance(answer, tuple):
            message, payload = answer
            self._deliver(batch, views(message.outputs, payload), message.compute_us / 1e6)
        elif isinstance(answer, InvalidInput) and len(batch) > 1:
            # One bad request must not fail the others: each runs again by itself.
            for waiting in batch:
                waiting.key = (waiting.key, id(waiting))  # type: ignore[assignment]
            self._queue.extendleft(reversed(batch))
        else:
            for waiting in batch:
                self._fail(waiting, answer)
        self._pump()

    def _deliver(self, batch: Sequence[Waiting], outputs: list[Tensor], compute_s: float) -> None:
        rows = [waiting.rows for waiting in batch]
        answers = split(outputs, rows) if len(batch) > 1 else [outputs]
        total = sum(rows)
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.compute_s, waiting.batch_rows = compute_s, total
            if not waiting.result.done():
                waiting.result.set_result(answer)
        # After the answers are on their way: what is only counted must not delay them.
        asyncio.get_running_loop().call_soon(self._observe, total, compute_s, outputs)
