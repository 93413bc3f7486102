"""One deployment that runs: its keepers, its batcher or pool, and what the hot path may see of it."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from app.dataplane import items
from app.dataplane.batching.batcher import Batch, Batcher, Batching
from app.dataplane.caching.key import Keys, identity
from app.dataplane.caching.response_cache import ResponseCache
from app.dataplane.caching.store import open_store
from app.dataplane.pool import Pool
from app.dataplane.routing import Target
from app.dataplane.sequences import Sequences
from app.errors import NotReady, PilothouseError
from app.monitoring.confidence import top_confidence
from app.monitoring.metrics import Metrics, RouteMetrics
from app.schema.manage import Deployment
from app.settings import Settings
from app.workers.client import WorkerClient
from app.workers.supervisor import Plan, ReplicaKeeper
from engines.protocol import Ready

#: How often it is looked whether what drains is empty.
DRAIN_PERIOD_S = 0.01
#: How sure the model was is read of so many first batches, then of one in this time.
ALL_BATCHES, LOOK_PERIOD_S = 1024, 0.01


class Serving:
    """``plans`` has one entry a replica. ``changed()`` is called when a replica changed state; the reconciler then
    reads `keepers` and `ready`."""

    def __init__(
        self,
        deployment: Deployment,
        plans: Sequence[Plan],
        metrics: Metrics,
        settings: Settings,
        changed: Callable[[], None],
    ):
        self._deployment = deployment
        self._spec = deployment.spec  # as it is now: what is declared later is another generation's
        self._metrics_of_all = metrics
        self._settings = settings
        self.plan = plans[0]
        self.ready: Ready | None = None
        self.batcher: Batcher | None = None
        self.pool: Pool | None = None
        self.sequences: Sequences | None = None
        self.cache: ResponseCache | None = None
        self._metrics: RouteMetrics | None = None
        self._look_again = 0.0
        self._drain_end = math.inf
        self._stopping = asyncio.Lock()
        self._plans = plans
        self.keepers = [
            ReplicaKeeper(f"{deployment.route}-{n}", plan, joined=self._joined, left=self._left, changed=changed)
            for n, plan in enumerate(plans)
        ]

    def _option(self, name: str, default: Any) -> Any:
        return self._spec.settings.get(name, default)

    @property
    def timeout_s(self) -> float:
        return float(self._option("request_timeout_s", self._settings.request_timeout_s))

    def _joined(self, client: WorkerClient, ready: Ready) -> None:
        if self.ready is None:
            self._open(ready)
        if self.pool is not None:
            self.pool.join(client)
        if self.batcher is not None:
            self.batcher.join(client)

    def _left(self, client: WorkerClient) -> None:
        if self.pool is not None:
            self.pool.leave(client)
        if self.batcher is not None:
            self.batcher.leave(client)

    def _open(self, ready: Ready) -> None:
        """The first replica says what the model is: now its queue can be made."""
        d = self._deployment
        self._metrics = self._metrics_of_all.candidate(
            d.route,
            model=d.model,
            version=d.version,
            kind="language" if ready.language is not None else "tensor",
            engine=ready.engine,
        )
        queue_limit = int(self._option("queue_limit", self._settings.queue_limit))
        if ready.language is not None:
            self.pool = Pool(ready.language.sequences, queue_limit)
        elif ready.signature is not None:
            batching = Batching.of(d.spec.settings, queue_limit)
            card = self.plan.load.card
            self.batcher = Batcher(ready.signature, batching, self._observe, items=ready.items, card=card)
            if card.states:
                self.sequences = Sequences(
                    ready.signature,
                    card.states,
                    idle_s=float(self._option("sequence_idle_s", 60)),
                    limit=int(self._option("sequence_limit", 4096)),
                    queue_limit=queue_limit,
                )
        self._metrics.caches = bool(self._option("response_cache", False))
        if self._metrics.caches:
            self.cache = self._open_cache(ready, self._metrics)
        self.ready = ready

    def _open_cache(self, ready: Ready, metrics: RouteMetrics) -> ResponseCache:
        store = open_store(
            self._settings.cache_url,
            self.plan.digest,
            int(self._option("response_cache_mb", 64)) << 20,
            float(self._option("response_cache_ttl_s", 0)),
        )
        keys = Keys(identity(self.plan.digest, self.plan.part_digests, self.plan.load, ready))
        return ResponseCache(store, keys, metrics)

    @property
    def _classifies(self) -> bool:
        labels = bool(self.ready and self.ready.signature and self.ready.signature.labels)
        return labels or bool(self._deployment.labels) or self._deployment.task.endswith("classification")

    def _observe(self, batch: Batch) -> None:
        assert self._metrics is not None
        now = time.time()
        self._metrics.batch(batch.rows, batch.compute_s, int(now * 1000))
        outputs = batch.outputs
        # Of a busy deployment a sample is as good, and costs less than what it watches.
        if outputs and (now >= self._look_again or self._metrics.batches < ALL_BATCHES) and self._classifies:
            self._look_again = now + LOOK_PERIOD_S
            found = items.confidence(self.plan.load.card, outputs)
            found = found or top_confidence(outputs[0].datatype, outputs[0].shape, outputs[0].data)
            if found is not None:
                self._metrics.confidence(*found)

    def refresh(self) -> None:
        """Once a second: gauges, memory of the workers, replicas that hang."""
        for keeper in self.keepers:
            keeper.sample_memory()
        if self.batcher is not None:
            if self.sequences is not None:
                self.sequences.expire()
            for client in self.batcher.stuck():
                for keeper in self.keepers:
                    keeper.end_hung(client)
        if self._metrics is not None:
            queue = self.batcher or self.pool
            assert queue is not None
            self._metrics.queue_depth, self._metrics.in_flight = queue.depth, queue.in_flight
        if self.batcher is not None and self._metrics is not None:
            self._metrics.learned_rows = self.batcher.learned_rows
            self._metrics.learned_delay_us = self.batcher.learned_delay_us
        if self.cache is not None:
            self.cache.refresh()
        if self.pool is not None and self._metrics is not None:
            pool = self.pool
            self._metrics.scheduler(pool.running, pool.depth, pool.kv_used, pool.cache_bytes)
            self._metrics.stepped(pool.counted())

    def adopt(self) -> None:
        """From now on this is what the route's metrics count."""
        if self._metrics is not None:
            self._metrics_of_all.adopt(self._metrics)

    @property
    def held_bytes(self) -> dict[str, int]:
        """What the workers hold, by device; of a GPU as they told it when they had loaded."""
        held: dict[str, int] = {}
        for keeper, plan in zip(self.keepers, self._plans, strict=True):
            held["cpu"] = held.get("cpu", 0) + (keeper.view.memory_bytes or 0)
            if keeper.ready is not None and (device := plan.load.device) != "cpu":
                held[device] = held.get(device, 0) + keeper.ready.device_memory_bytes
        return held

    @property
    def memory_bytes(self) -> int | None:
        sizes = [keeper.view.memory_bytes for keeper in self.keepers if keeper.view.memory_bytes]
        return sum(sizes) if sizes else None

    def target(self, created: int) -> Target | None:
        """`None` until the first replica was ready once; while replicas restart, requests wait in the queue."""
        if self.ready is None or self._metrics is None:
            return None
        d = self._deployment
        return Target(
            route=d.route,
            model=d.model,
            version=d.version,
            task=d.task,
            metrics=self._metrics,
            created=created,
            timeout_s=self.timeout_s,
            engine=self.ready.engine,
            digest=self.plan.digest,
            signature=self.ready.signature,
            items=self.ready.items,
            card=self.plan.load.card,
            language=self.ready.language,
            batcher=self.batcher,
            sequences=self.sequences,
            pool=self.pool,
            cache=self.cache,
            max_batch_size=int(self._option("max_batch_size", 32)),
        )

    def refuse(self, error: PilothouseError) -> None:
        """Answer what waits with ``error``, and all that comes."""
        queue = self.batcher or self.pool
        if queue is not None:
            queue.close(error)

    @property
    def _unanswered(self) -> int:
        held = self.batcher.depth + self.batcher.in_flight if self.batcher is not None else 0
        return held + (self.pool.unanswered if self.pool is not None else 0)

    async def stop(self, drain_s: float) -> None:
        """Let what it holds, queued or running, end within ``drain_s``, then refuse the rest and end the workers. A
        second call may shorten the time. It is up to the caller that nothing new enters."""
        self._drain_end = min(self._drain_end, time.monotonic() + drain_s)
        async with self._stopping:
            while self._unanswered and time.monotonic() < self._drain_end:  # noqa: ASYNC110 - it ends by count
                await asyncio.sleep(DRAIN_PERIOD_S)
            self.refuse(NotReady(f"{self._deployment.route} is being stopped"))
            await asyncio.gather(*(keeper.stop() for keeper in self.keepers))
            self.refuse(NotReady(f"{self._deployment.route} was stopped"))  # what came back from a dead replica
            if self.cache is not None:
                await self.cache.close()
