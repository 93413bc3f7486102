"""A pipeline that is served: no worker of its own, ready while every route that it calls is."""

import asyncio
import time

from app.dataplane.ensemble import Ensemble
from app.dataplane.routing import Table, Target
from app.deployments import pipelines
from app.errors import InvalidInput, PilothouseError
from app.monitoring.metrics import Metrics
from app.schema.manage import Deployment
from app.settings import Settings
from app.workers.supervisor import ReplicaKeeper
from engines.protocol import Signature

DRAIN_PERIOD_S = 0.01
ENGINE = "ensemble"


class PipelineServing:
    """``obstacle`` is why it cannot serve now; `look` finds out."""

    def __init__(self, deployment: Deployment, metrics: Metrics, settings: Settings):
        assert deployment.spec.pipeline is not None
        self._deployment = deployment
        self._metrics_of_all = metrics
        self._timeout_s = float(deployment.spec.settings.get("request_timeout_s", settings.request_timeout_s))
        self._metrics = metrics.candidate(
            deployment.route, model=deployment.model, version=deployment.version, kind="tensor", engine=ENGINE
        )
        self._ensemble = Ensemble(deployment.spec.pipeline)
        self.keepers: list[ReplicaKeeper] = []
        self.held_bytes: dict[str, int] = {}
        self.memory_bytes: int | None = None
        self.signature: Signature | None = None
        self.obstacle: PilothouseError | None = None

    @property
    def lasting(self) -> bool:
        """Whether only another declaration can take the obstacle away."""
        return isinstance(self.obstacle, InvalidInput)

    def look(self, table: Table, uses: pipelines.Uses) -> None:
        found = pipelines.obstacle(self._deployment.route, self._ensemble.pipeline, table, uses)
        self.obstacle = found if isinstance(found, PilothouseError) else None
        if isinstance(found, Signature):
            self.signature = found

    def adopt(self) -> None:
        self._metrics_of_all.adopt(self._metrics)

    def refresh(self) -> None:
        self._metrics.in_flight = self._ensemble.in_flight

    def target(self, created: int) -> Target | None:
        if self.obstacle is not None or self.signature is None:
            return None
        return Target(
            route=self._deployment.route,
            model=self._deployment.model,
            version=self._deployment.version,
            task=self._deployment.task,
            created=created,
            metrics=self._metrics,
            timeout_s=self._timeout_s,
            engine=ENGINE,
            signature=self.signature,
            ensemble=self._ensemble,
        )

    def refuse(self, error: PilothouseError) -> None:
        """It has no queue."""

    async def stop(self, drain_s: float) -> None:
        """Wait until no request is in it, at most ``drain_s``."""
        end = time.monotonic() + drain_s
        while self._ensemble.in_flight and time.monotonic() < end:  # noqa: ASYNC110 - it ends by count
            await asyncio.sleep(DRAIN_PERIOD_S)
