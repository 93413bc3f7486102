"""One deployment that runs: its keepers, its batcher or pool, and what the hot path may see of it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from app.dataplane.batcher import Batcher
from app.dataplane.pool import Pool
from app.dataplane.routing import Target
from app.dataplane.tensors import Tensor
from app.errors import NotReady, PilothouseError
from app.monitoring.confidence import top_confidence
from app.monitoring.metrics import Metrics, RouteMetrics
from app.schema.manage import Deployment
from app.settings import Settings
from app.workers.client import WorkerClient
from app.workers.supervisor import Plan, ReplicaKeeper
from engines.protocol import Ready

DRAIN_S = 5.0


class Serving:
    """``changed()`` is called when a replica changed state; the reconciler then reads `keepers` and `ready`."""

    def __init__(
        self, deployment: Deployment, plan: Plan, metrics: Metrics, settings: Settings, changed: Callable[[], None]
    ):
        self._deployment = deployment
        self._metrics_of_all = metrics
        self._settings = settings
        self.plan = plan
        self.ready: Ready | None = None
        self.batcher: Batcher | None = None
        self.pool: Pool | None = None
        self._metrics: RouteMetrics | None = None
        self.keepers = [
            ReplicaKeeper(f"{deployment.route}-{n}", plan, joined=self._joined, left=self._left, changed=changed)
            for n in range(deployment.spec.replicas)
        ]

    def _option(self, name: str, default: Any) -> Any:
        return self._deployment.spec.settings.get(name, default)

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
        self._metrics = self._metrics_of_all.route(
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
            self.batcher = Batcher(
                batched=ready.signature.batched,
                max_batch_size=int(self._option("max_batch_size", 32)),
                max_queue_delay_us=int(self._option("max_queue_delay_us", 0) or 0),
                queue_limit=queue_limit,
                observe=self._observe,
            )
        self.ready = ready

    @property
    def _classifies(self) -> bool:
        labels = bool(self.ready and self.ready.signature and self.ready.signature.labels)
        return labels or bool(self._deployment.labels) or self._deployment.task.endswith("classification")

    def _observe(self, rows: int, compute_s: float, outputs: list[Tensor]) -> None:
        assert self._metrics is not None
        self._metrics.batch(rows, compute_s)
        if outputs and self._classifies:
            found = top_confidence(outputs[0].datatype, outputs[0].shape, outputs[0].data)
            if found is not None:
                self._metrics.confidence(*found)

    def refresh(self) -> None:
        """Once a second: gauges, memory of the workers, requests that took too long."""
        for keeper in self.keepers:
            keeper.sample_memory()
        if self.batcher is not None:
            self.batcher.expire()
            for client in self.batcher.stuck():
                for keeper in self.keepers:
                    keeper.end_hung(client)
        if self._metrics is not None:
            queue = self.batcher or self.pool
            assert queue is not None
            self._metrics.queue_depth, self._metrics.in_flight = queue.depth, queue.in_flight
        if self.pool is not None and self._metrics is not None:
            pool = self.pool
            self._metrics.scheduler(pool.running, pool.depth, pool.kv_used, pool.cache_bytes)
            self._metrics.stepped(pool.counted())

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
            pool=self.pool,
            max_batch_size=int(self._option("max_batch_size", 32)),
        )

    def refuse(self, error: PilothouseError) -> None:
        """Answer what waits with ``error``, and all that comes."""
        queue = self.batcher or self.pool
        if queue is not None:
            queue.close(error)

    async def stop(self) -> None:
        """Refuse what waits, let what runs end within `DRAIN_S`, then end the workers."""
        queue = self.batcher or self.pool
        self.refuse(NotReady(f"{self._deployment.route} is being stopped"))
        end = time.monotonic() + DRAIN_S
        while queue is not None and queue.in_flight and time.monotonic() < end:  # noqa: ASYNC110 - it ends by count
            await asyncio.sleep(0.02)
        await asyncio.gather(*(keeper.stop() for keeper in self.keepers))
        self.refuse(NotReady(f"{self._deployment.route} was stopped"))  # what came back from a dead replica meanwhile
