"""One declaration of a route, and what runs for it."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec

from app.dataplane import items
from app.deployments import lifecycle
from app.deployments.pipeline_serving import PipelineServing
from app.deployments.serving import Serving
from app.errors import PilothouseError
from app.schema.manage import Deployment, DeploymentSpec, Pending, Problem, TensorMetadata
from engines.card import Card
from engines.protocol import Signature


def problem_of(error: PilothouseError) -> Problem:
    return Problem(code=error.code, message=error.message, hint=error.hint, details=error.details)


class Generation:
    """``deployment`` is its own view of itself; its route shows that of the generation that serves."""

    def __init__(self, deployment: Deployment):
        self.spec: DeploymentSpec = deployment.spec
        self.deployment = deployment
        self.serving: Serving | PipelineServing | None = None
        self.starting: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self.deployment.state in ("starting", "ready")

    @property
    def serves(self) -> bool:
        """Whether there is something that a change must not interrupt."""
        if not self.alive or self.serving is None:
            return False
        return isinstance(self.serving, PipelineServing) or self.serving.ready is not None

    def tell(self, *, all_replicas: bool) -> lifecycle.Event:
        """What the states of its replicas mean now, and `Deployment.error` with it. ``all_replicas``: it is ready only
        when every replica is, but for those that were given up."""
        deployment = self.deployment
        if isinstance(self.serving, PipelineServing):
            deployment.error = problem_of(self.serving.obstacle) if self.serving.obstacle is not None else None
            if deployment.error is None:
                return "replica_ready"
            return "give_up" if self.serving.lasting else "replicas_lost"
        keepers = self.serving.keepers if self.serving is not None else []
        states = {keeper.view.state for keeper in keepers}
        if "ready" in states and not (all_replicas and states - {"ready", "failed"}):
            deployment.error = None
            return "replica_ready"
        deployment.error = next((keeper.view.error for keeper in keepers if keeper.view.error), None)
        return "give_up" if states == {"failed"} else "replicas_lost"

    @property
    def title(self) -> str:
        return (
            "the pipeline" if self.spec.pipeline is not None else f"{self.deployment.model}@{self.deployment.version}"
        )

    def as_pending(self, current: "Generation") -> Pending:
        """``current`` is what serves meanwhile."""
        deployment = self.deployment
        failed = deployment.state == "failed"
        return Pending(
            model=deployment.model,
            version=deployment.version,
            state="failed" if failed else "starting",
            replicas=[keeper.view for keeper in self.serving.keepers] if self.serving is not None else [],
            decision=deployment.decision,
            error=deployment.error,
            note=f"{current.title} goes on as before; declare that again to drop the change" if failed else "",
            before=current.spec,
            since=deployment.since,
        )

    def look(self) -> None:
        """Refresh what its view says of what runs."""
        deployment, serving = self.deployment, self.serving
        deployment.replicas = [keeper.view for keeper in serving.keepers] if serving else []
        deployment.memory_bytes = serving.memory_bytes if serving else None
        if isinstance(serving, PipelineServing):
            if serving.signature is not None:
                _show_signature(deployment, serving.signature)
            return
        if serving is None or (ready := serving.ready) is None:
            return
        deployment.engine_version = ready.engine_version
        deployment.notes = list(ready.notes)
        deployment.device_memory_bytes = ready.device_memory_bytes or None
        if ready.signature is not None:
            _show_signature(deployment, ready.signature)
            deployment.capabilities = items.capabilities(serving.plan.load.card, ready.items)
            deployment.card = _steps(serving.plan.load.card) if ready.items is not None else {}
        if (language := ready.language) is not None:
            deployment.context_tokens = language.context_tokens
            deployment.sequences = language.sequences
            deployment.trained_context_tokens = language.trained_context or None
            deployment.chat_template = language.chat_template
            deployment.capabilities = language.capabilities
            deployment.adapters = language.adapters
            deployment.pooling = language.pooling or None
            deployment.embedding_length = language.embedding_length or None

    async def end(self, drain_s: float) -> None:
        """Give up a start that is under way, and end what runs."""
        if self.starting is not None and not self.starting.done() and self.starting is not asyncio.current_task():
            self.starting.cancel()
            await asyncio.wait([self.starting])
        if self.serving is not None:
            await self.serving.stop(drain_s)
            self.serving = None


def _steps(card: Card) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(card, labels=[]))
    return shown


def _show_signature(deployment: Deployment, signature: Signature) -> None:
    deployment.inputs = [TensorMetadata(name=s.name, datatype=s.datatype, shape=s.shape) for s in signature.inputs]
    deployment.outputs = [TensorMetadata(name=s.name, datatype=s.datatype, shape=s.shape) for s in signature.outputs]
    deployment.labels = deployment.labels or signature.labels


@dataclass
class Line:
    """What one route has had and will have. ``current`` serves, ``next`` is to take over, ``leaving`` ends."""

    current: Generation
    next: Generation | None = None
    leaving: dict[asyncio.Task[None], Generation] = field(default_factory=dict)

    @property
    def newest(self) -> Generation:
        """What was declared last."""
        return self.next or self.current

    @property
    def generations(self) -> list[Generation]:
        """All that may hold workers, the one that serves last."""
        return [*self.leaving.values(), *([self.next] if self.next is not None else []), self.current]
