"""The only writer of deployments: stores what should be, and starts and stops workers until it is so."""

import asyncio
import logging
from datetime import datetime
from typing import Any

import msgspec
import sqlite_utils

from app.clock import timestamp
from app.dataplane import items
from app.dataplane.dataplane import Dataplane
from app.dataplane.routing import Target
from app.db import Store
from app.deployments import lifecycle, options, parts, placement
from app.deployments.serving import Serving
from app.errors import Conflict, EngineUnavailable, InvalidInput, NotFound, NotReady, PilothouseError
from app.events import Bus
from app.monitoring.metrics import Metrics
from app.monitoring.sampler import Sampler
from app.registry import cards
from app.registry.names import check_name, split_reference
from app.registry.registry import Registry
from app.schema.manage import Decision, Deployment, DeploymentSpec, Problem, TensorMetadata, Version
from app.settings import Settings
from app.workers.probe import Prober
from app.workers.runtimes import Interpreter, Runtimes
from app.workers.supervisor import Plan
from engines.protocol import Load
from engines.selection import ENGINES

log = logging.getLogger(__name__)

MOST_REPLICAS = 64
DESCRIBED_ANEW = "The model was described anew since it was started; deploy {} again to take that up."


def problem_of(error: PilothouseError) -> Problem:
    return Problem(code=error.code, message=error.message, hint=error.hint, details=error.details)


class Reconciler:
    """Used from the event loop only. Changes to one route are made one after another."""

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        registry: Registry,
        runtimes: Runtimes,
        prober: Prober,
        sampler: Sampler,
        metrics: Metrics,
        dataplane: Dataplane,
        settings: Settings,
    ):
        self._store, self._bus, self._registry = store, bus, registry
        self._runtimes, self._prober, self._sampler = runtimes, prober, sampler
        self._metrics, self._dataplane, self._settings = metrics, dataplane, settings
        self._deployments: dict[str, Deployment] = {}
        self._serving: dict[str, Serving] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}

    # --- reading --------------------------------------------------------------------------------------

    def deployments(self) -> list[Deployment]:
        return [self._deployments[route] for route in sorted(self._deployments)]

    def get(self, route: str) -> Deployment:
        """Raises `NotFound`."""
        try:
            return self._deployments[route]
        except KeyError:
            there = ", ".join(sorted(self._deployments)) or "nothing"
            raise NotFound(
                f"there is no deployment {route!r}", hint=f"deployed: {there}", code="deployment_not_found"
            ) from None

    def memory_bytes(self, route: str) -> int | None:
        serving = self._serving.get(route)
        return serving.memory_bytes if serving else None

    def uses_runtime(self, runtime: str) -> bool:
        return any(serving.plan.interpreter.runtime == runtime for serving in self._serving.values())

    def uses_model(self, name: str, version: int | None = None) -> str | None:
        """A route that is declared on this model, or on it as an adapter, projector or draft; or `None`."""
        for deployment in self._deployments.values():
            for reference in (f"{deployment.model}@{deployment.version}", *parts.references(deployment.spec)):
                used, number = split_reference(reference)
                if used == name and version in (None, number):
                    return deployment.route
        return None

    # --- changing -------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Bring back what was declared when the daemon last ran."""
        rows = await self._store.run(lambda db: list(db["deployments"].rows))
        for row in rows:
            spec = msgspec.json.decode(row["spec"], type=DeploymentSpec)
            decision = msgspec.json.decode(row["decision"], type=Decision) if row["decision"] else None
            deployment = self._declared(row["route"], spec, row["created"])
            deployment.decision = decision
            self._deployments[row["route"]] = deployment
            self._show(row["route"])
            if not spec.stopped:
                self._begin(row["route"])

    async def put(self, route: str, spec: DeploymentSpec, *, temporary: bool = False) -> Deployment:
        """Declare ``route``; answers when that is stored, while the workers still start. The same declaration again
        changes nothing, but tries again what had failed. A ``temporary`` one is not stored: it ends with the daemon,
        or becomes a lasting one when it is declared again without. Raises `PilothouseError` for a spec that cannot
        be, `Conflict` for a temporary one where there is a lasting one."""
        check_name(route)
        model, version = self._registry.resolve(spec.model if spec.version is None else f"{spec.model}@{spec.version}")
        engine = ENGINES.get(version.format, (spec.engine, ""))[0]
        if not 1 <= spec.replicas <= MOST_REPLICAS:
            raise InvalidInput(f"replicas must be from 1 to {MOST_REPLICAS}, not {spec.replicas}", field="replicas")
        spec = msgspec.structs.replace(
            spec, model=model.name, version=version.version, settings=options.check(spec.settings, engine)
        )
        spec = parts.check(self._registry, spec, version)
        async with self._locks.setdefault(route, asyncio.Lock()):
            before = self._deployments.get(route)
            if before is not None and temporary and not before.temporary:
                raise Conflict(f"{route} is deployed already", hint="use it as it is, or undeploy it first")
            same = before is not None and before.spec == spec and before.state in ("starting", "ready", "stopped")
            same = same and not self._described_anew(route)
            if before is not None and same and before.temporary == temporary:
                return before
            created = before.created if before is not None else timestamp()
            if not temporary:
                row = {"route": route, "spec": msgspec.json.encode(spec).decode(), "decision": None, "created": created}
                await self._store.run(lambda db: _upsert(db, row))
            if before is not None and same:
                before.temporary = False
                self._show(route)
                return before
            await self._end(route)
            self._deployments[route] = self._declared(route, spec, created)
            self._deployments[route].temporary = temporary
            self._show(route)
            if not spec.stopped:
                self._begin(route)
            return self._deployments[route]

    async def delete(self, route: str) -> None:
        self.get(route)
        async with self._locks.setdefault(route, asyncio.Lock()):
            if not self.get(route).temporary:
                await self._store.run(lambda db: db["deployments"].delete(route))  # type: ignore[union-attr]
            await self._end(route)
            del self._deployments[route]
            self._metrics.forget(route)
            self._bus.publish("deployment", route, None)
            self._publish()

    def described(self, name: str, version: int) -> None:
        """``name@version`` was described anew: routes that run it go on as they are, and say so. Declaring one again
        takes the description up."""
        for route, deployment in self._deployments.items():
            if (deployment.model, deployment.version) == (name, version):
                if deployment.state == "stopped":
                    fresh = self._declared(route, deployment.spec, deployment.created)
                    deployment.task, deployment.labels = fresh.task, fresh.labels
                self._show(route)

    def _described_anew(self, route: str) -> bool:
        """Whether the card, or a file beside the model, has changed since the workers of ``route`` were started."""
        serving, deployment = self._serving.get(route), self._deployments[route]
        if serving is None:
            return False
        try:
            _, version = self._registry.resolve(f"{deployment.model}@{deployment.version}")
        except NotFound:
            return False
        return serving.plan.digest != cards.identity(version)

    async def runtime_installed(self) -> None:
        """What failed for want of an engine is tried again."""
        self._prober.forget()
        for route, deployment in list(self._deployments.items()):
            if deployment.error is not None and deployment.error.code in (
                EngineUnavailable.code,
                "missing_library",
            ):
                async with self._locks.setdefault(route, asyncio.Lock()):
                    if self._deployments.get(route) is not deployment:
                        continue  # it was deleted or declared anew meanwhile
                    await self._end(route)
                    deployment.error = deployment.decision = None
                    self._begin(route)

    async def stop(self) -> None:
        """End all workers; what is declared stays declared."""
        ends = await asyncio.gather(*(self._end(route) for route in list(self._deployments)), return_exceptions=True)
        for error in filter(None, ends):
            log.error("a deployment did not end cleanly", exc_info=error)

    def refresh(self) -> None:
        """Once a second, by the sampler."""
        for route, serving in self._serving.items():
            serving.refresh()
            deployment = self._deployments[route]
            if deployment.memory_bytes != serving.memory_bytes and deployment.state == "ready":
                self._show(route)

    # --- doing ----------------------------------------------------------------------------------------

    def _declared(self, route: str, spec: DeploymentSpec, created: str) -> Deployment:
        try:
            model, version = self._registry.resolve(f"{spec.model}@{spec.version}")
            task, precision, labels = model.task, version.precision, cards.labels_of(version)
        except NotFound:  # removed behind our back; the start will say so
            task, precision, labels = "", None, []
        return Deployment(
            route=route,
            model=spec.model,
            version=spec.version or 0,
            task=task,
            spec=spec,
            state="stopped",
            precision=precision,
            labels=labels,
            created=created,
            since=timestamp(),
        )

    def _begin(self, route: str) -> None:
        self._step(route, "start")
        self._show(route)
        self._starting[route] = asyncio.create_task(self._start(route), name=f"start {route}")

    async def _start(self, route: str) -> None:
        deployment = self._deployments[route]
        try:
            plan, decision = await self._plan(deployment)
        except Exception as error:
            if not isinstance(error, PilothouseError):
                log.exception("deployment %s could not be planned", route)
                error = PilothouseError(f"it could not be started: {error!r}", hint="the log has the details")
            deployment.error = problem_of(error)
            self._step(route, "give_up")
            self._show(route)
            return
        if decision != deployment.decision:
            deployment.decision = decision
            encoded = msgspec.json.encode(decision).decode()
            if not deployment.temporary:
                await self._store.run(lambda db: db["deployments"].update(route, {"decision": encoded}))  # type: ignore[union-attr]
        deployment.runtime = plan.interpreter.runtime
        deployment.device = plan.load.device
        deployment.engine = plan.load.engine
        self._serving[route] = Serving(
            deployment, plan, self._metrics, self._settings, lambda: self._replicas_changed(route)
        )
        self._replicas_changed(route)

    async def _plan(self, deployment: Deployment) -> tuple[Plan, Decision]:
        spec = deployment.spec
        _, version = self._registry.resolve(f"{spec.model}@{spec.version}")
        path = self._registry.path(spec.model, spec.version or version.version)
        found = self._remembered(deployment)
        if found is None:
            engine = ENGINES.get(version.format, ("", ""))[0]
            decision, candidate = placement.decide(
                version.format,
                self._pieces(spec, version),
                spec.settings,
                await self._prober.installed(engine),
                await self._sampler.machine(),
                engine=spec.engine,
                device=spec.device,
            )
            interpreter = next(
                entry for entry in self._runtimes.interpreters(candidate.engine) if entry.runtime == candidate.runtime
            )
            found = interpreter, candidate.engine, candidate.device, decision
        interpreter, engine, device, decision = found
        settings = {key: value for key, value in spec.settings.items() if key != "threads"}
        if spec.draft:
            settings.setdefault("speculative", "draft")
        load = Load(
            engine=engine,
            path=str(path),
            device=device,
            threads=int(spec.settings.get("threads", 0)),
            settings=settings,
            files=parts.files(self._registry, spec),
            card=cards.of(version),
            cache_folder=await self._cache_folder(spec, version),
        )
        digest = cards.identity(version)
        plan = Plan(interpreter, load, self._settings.start_timeout_s, self._settings.max_restarts, digest)
        return plan, decision

    def _pieces(self, spec: DeploymentSpec, version: Version) -> list[placement.Piece]:
        found = [version, *(self._registry.resolve(reference)[1] for reference in parts.references(spec))]
        return [placement.Piece(entry.size_bytes, entry.metadata) for entry in found]

    async def _cache_folder(self, spec: DeploymentSpec, version: Version) -> str:
        """Where a language model's workers may leave computed prefixes; empty: nowhere."""
        if version.format == "onnx" or spec.settings.get("prefix_disk_mb") == 0:
            return ""
        folder = self._registry.prefixes(version)
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        return str(folder)

    def _remembered(self, deployment: Deployment) -> tuple[Interpreter, str, str, Decision] | None:
        """The stored decision, as long as its runtime is still here: a restart needs no new probe."""
        if deployment.decision is None or deployment.error is not None:
            return None
        for candidate in deployment.decision.candidates:
            if not candidate.chosen:
                continue
            for entry in self._runtimes.interpreters(candidate.engine):
                if entry.runtime == candidate.runtime:
                    return entry, candidate.engine, candidate.device, deployment.decision
        return None

    def _replicas_changed(self, route: str) -> None:
        serving = self._serving.get(route)
        if serving is None:
            return
        deployment = self._deployments[route]
        states = [keeper.view.state for keeper in serving.keepers]
        if "ready" in states:
            deployment.error = None
            event: lifecycle.Event = "replica_ready"
        elif all(state == "failed" for state in states):
            event = "give_up"
            deployment.error = next(keeper.view.error for keeper in serving.keepers)
            serving.refuse(NotReady(f"{route} failed"))
        else:
            event = "replicas_lost"
            deployment.error = next((keeper.view.error for keeper in serving.keepers if keeper.view.error), None)
        self._step(route, event)
        self._show(route)

    async def _end(self, route: str) -> None:
        starting = self._starting.pop(route, None)
        if starting is not None and not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
        deployment = self._deployments.get(route)
        serving = self._serving.get(route)
        if deployment is None or deployment.state == "stopped":
            return
        self._step(route, "stop")
        self._show(route)
        if serving is not None:
            await serving.stop()
            self._serving.pop(route, None)
        if deployment.state == "draining":
            self._step(route, "drained")
        self._show(route)

    def _step(self, route: str, event: lifecycle.Event) -> None:
        deployment = self._deployments[route]
        state = lifecycle.after(deployment.state, event)
        if state != deployment.state:
            log.info("deployment %s: %s, now %s", route, event, state)
            deployment.state = state
            deployment.since = timestamp()

    def _show(self, route: str) -> None:
        """Refresh what is seen of ``route`` and publish it, to readers and to the hot path."""
        deployment = self._deployments[route]
        serving = self._serving.get(route)
        deployment.replicas = [keeper.view for keeper in serving.keepers] if serving else []
        deployment.memory_bytes = serving.memory_bytes if serving else None
        if serving is not None and (ready := serving.ready) is not None:
            deployment.engine_version = ready.engine_version
            deployment.notes = [*ready.notes, *([DESCRIBED_ANEW.format(route)] if self._described_anew(route) else [])]
            deployment.device_memory_bytes = ready.device_memory_bytes or None
            if ready.signature is not None:
                deployment.inputs = [
                    TensorMetadata(name=s.name, datatype=s.datatype, shape=s.shape) for s in ready.signature.inputs
                ]
                deployment.outputs = [
                    TensorMetadata(name=s.name, datatype=s.datatype, shape=s.shape) for s in ready.signature.outputs
                ]
                deployment.labels = deployment.labels or ready.signature.labels
                deployment.capabilities = items.capabilities(serving.plan.load.card, ready.items)
            if ready.language is not None:
                deployment.context_tokens = ready.language.context_tokens
                deployment.sequences = ready.language.sequences
                deployment.trained_context_tokens = ready.language.trained_context or None
                deployment.chat_template = ready.language.chat_template
                deployment.capabilities = ready.language.capabilities
                deployment.adapters = ready.language.adapters
                deployment.pooling = ready.language.pooling or None
                deployment.embedding_length = ready.language.embedding_length or None
        self._bus.publish("deployment", route, msgspec.structs.replace(deployment))
        self._publish()

    def _publish(self) -> None:
        self._dataplane.publish({route: self._target(route) for route in self._deployments})

    def _target(self, route: str) -> Target:
        deployment = self._deployments[route]
        serving = self._serving.get(route)
        created = int(datetime.fromisoformat(deployment.created).timestamp())
        if serving is not None and deployment.state in ("ready", "starting"):
            target = serving.target(created)
            if target is not None:
                return target
        why_not: str = deployment.state
        if deployment.state == "failed" and deployment.error is not None:
            why_not = f"failed: {deployment.error.message}"
        return Target(
            route=route,
            model=deployment.model,
            version=deployment.version,
            task=deployment.task,
            created=created,
            why_not=why_not,
        )


def _upsert(db: sqlite_utils.Database, row: dict[str, Any]) -> None:
    db["deployments"].upsert(row, pk="route")  # type: ignore[union-attr]
