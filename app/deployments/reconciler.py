"""The only writer of deployments: stores what should be, and starts and stops workers until it is so.

A change of a route that serves starts beside it: the new generation takes over when it is ready, and the one before
ends when it has answered what it holds. So no request sees the change.
"""

import asyncio
import contextlib
import graphlib
import logging
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
import sqlite_utils

from app.clock import timestamp
from app.dataplane.dataplane import Dataplane
from app.dataplane.routing import Table, Target
from app.db import Store
from app.deployments import declaration, lifecycle, parts, pipelines
from app.deployments.generation import Generation, Line, problem_of
from app.deployments.pipeline_serving import PipelineServing
from app.deployments.planner import Planner
from app.deployments.serving import Serving
from app.errors import Conflict, EngineUnavailable, NotFound, NotReady, PilothouseError
from app.events import Bus
from app.monitoring.metrics import Metrics
from app.monitoring.sampler import Sampler
from app.registry.names import split_reference
from app.registry.registry import Registry
from app.schema.manage import Decision, Deployment, DeploymentSpec
from app.settings import Settings
from app.workers.probe import Prober
from app.workers.runtimes import Runtimes

log = logging.getLogger(__name__)

DESCRIBED_ANEW = "The model was described anew since it was started; deploy {} again to take that up."
_SETTLED = ("ready", "failed", "stopped", "idle")


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
        self._store, self._bus, self._registry, self._prober = store, bus, registry, prober
        self._metrics, self._dataplane, self._settings = metrics, dataplane, settings
        self._planner = Planner(registry, runtimes, prober, sampler, settings)
        self._lines: dict[str, Line] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._pipelining = asyncio.Lock()
        self._forgetting: set[asyncio.Task[Any]] = set()

    # --- reading --------------------------------------------------------------------------------------

    def deployments(self) -> list[Deployment]:
        return [self._lines[route].current.deployment for route in sorted(self._lines)]

    def get(self, route: str) -> Deployment:
        """Raises `NotFound`."""
        return self._line(route).current.deployment

    def _line(self, route: str) -> Line:
        try:
            return self._lines[route]
        except KeyError:
            there = ", ".join(sorted(self._lines)) or "nothing"
            raise NotFound(
                f"there is no deployment {route!r}", hint=f"deployed: {there}", code="deployment_not_found"
            ) from None

    def _generations(self) -> Iterator[Generation]:
        for line in self._lines.values():
            yield from line.generations

    def memory_bytes(self, route: str) -> int | None:
        serving = self._lines[route].current.serving if route in self._lines else None
        return serving.memory_bytes if serving else None

    def uses_runtime(self, runtime: str) -> bool:
        return any(
            isinstance(generation.serving, Serving) and generation.serving.plan.interpreter.runtime == runtime
            for generation in self._generations()
        )

    def uses_model(self, name: str, version: int | None = None) -> str | None:
        """A route that is declared on this model, or on it as an adapter, projector or draft, or still has workers of
        it; or `None`."""
        for generation in self._generations():
            spec = generation.spec
            if spec.pipeline is not None:
                continue
            for reference in (f"{spec.model}@{spec.version}", *parts.references(spec)):
                used, number = split_reference(reference)
                if used == name and version in (None, number):
                    return generation.deployment.route
        return None

    def used_by(self, route: str) -> list[str]:
        """The routes whose pipelines call ``route``."""
        return sorted(name for name, called in self._uses().items() if route in called)

    def _uses(self) -> dict[str, frozenset[str]]:
        """The routes that each route calls, as it is and as it will be."""
        return {route: frozenset[str]().union(*map(_called, line.generations)) for route, line in self._lines.items()}

    async def settled(self, route: str) -> Deployment:
        """Its deployment, once it neither starts, drains nor changes. Raises `NotFound` where it is gone."""
        async with contextlib.aclosing(self._bus.watch("deployment", route)) as states:
            async for state in states:
                changes = state is not None and state.pending is not None and state.pending.state == "starting"
                if state is None or (state.state in _SETTLED and not changes):
                    break
        return self.get(route)

    # --- changing -------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Bring back what was declared when the daemon last ran."""
        rows = await self._store.run(lambda db: list(db["deployments"].rows))
        for row in rows:
            route, spec = row["route"], msgspec.json.decode(row["spec"], type=DeploymentSpec)
            decision = msgspec.json.decode(row["decision"], type=Decision) if row["decision"] else None
            generation = self._declared(route, spec, row["created"])
            generation.deployment.decision = decision
            self._lines[route] = line = Line(generation)
            if row["before"]:  # the change had not taken over: it is tried again, beside what served
                before = msgspec.json.decode(row["before"], type=DeploymentSpec)
                line.current, line.next = (
                    self._declared(route, before, row["created"]),
                    generation,
                )
        for route, line in list(self._lines.items()):
            self._show(route)
            for generation in filter(None, (line.current, line.next)):
                if not generation.spec.stopped:
                    self._begin(route, generation)

    async def put(self, route: str, spec: DeploymentSpec, *, temporary: bool = False) -> Deployment:
        """Declare ``route``; answers when that is stored, while the workers still start. What serves now goes on until
        the new one is ready (`Deployment.pending`); if that fails, it stays. The same declaration again changes
        nothing, but tries again what had failed. A ``temporary`` one is not stored: it ends with the daemon, or becomes
        a lasting one when it is declared again without. Raises `PilothouseError` for a spec that cannot be, `Conflict`
        for a temporary one where there is a lasting one."""
        # Two pipelines that are declared at once must not make a circle.
        one_pipeline = self._pipelining if spec.pipeline is not None else contextlib.nullcontext()
        async with one_pipeline, self._locks.setdefault(route, asyncio.Lock()):
            uses = self._uses() | {route: frozenset[str]()}
            line = self._lines.get(route)
            known = line.newest.spec.pipeline if line is not None else None
            spec = declaration.check(self._registry, route, spec, self._dataplane.table, uses, known)
            before = line.current.deployment if line is not None else None
            if before is not None and temporary and not before.temporary:
                raise Conflict(f"{route} is deployed already", hint="use it as it is, or undeploy it first")
            same = line is not None and self._is(line.newest, spec)
            if before is not None and same and before.temporary == temporary:
                return before
            back = line is not None and not same and self._is(line.current, spec)
            created = before.created if before is not None else timestamp()
            beside = line is not None and line.current.serves and not (same or back or temporary or spec.stopped)
            if not temporary:
                decision = line.current.deployment.decision if line is not None and (same or back) else None
                row = {
                    "route": route,
                    "spec": msgspec.json.encode(spec).decode(),
                    "decision": msgspec.json.encode(decision).decode() if decision is not None else None,
                    "created": created,
                    "before": msgspec.json.encode(line.current.spec).decode() if line is not None and beside else None,
                }
                await self._store.run(lambda db: _upsert(db, row))
            if before is not None and same:
                before.temporary = False
                self._show(route)
                return before
            if line is not None and line.next is not None:  # superseded: it has never served
                self._leave(route, line.next, drain_s=0)
                line.next = None
            if back:
                self._show(route)
                return self.get(route)
            generation = self._declared(route, spec, created)
            generation.deployment.temporary = temporary
            if line is None:
                self._lines[route] = Line(generation)
            elif beside:
                line.current.deployment.temporary = False
                line.next = generation
            else:
                await self._end(route)
                line.current = generation
            self._show(route)
            if not spec.stopped:
                self._begin(route, generation)
            return self.get(route)

    async def delete(self, route: str, *, force: bool = False) -> None:
        """Answers when it has answered what it holds and its workers have ended. Raises `NotFound`, and `Conflict`
        where a pipeline calls it, unless ``force``."""
        self._line(route)
        async with self._locks.setdefault(route, asyncio.Lock()):
            line = self._line(route)
            if not force and (users := [user for user in self.used_by(route) if user != route]):
                raise Conflict(
                    f"{route} is used by the pipeline {users[0]}",
                    hint=f"undeploy {users[0]} first, or undeploy {route} with force",
                    details={"pipelines": users},
                )
            if not line.current.deployment.temporary:
                await self._store.run(lambda db: db["deployments"].delete(route))  # type: ignore[union-attr]
            await self._end(route)
            del self._lines[route]
            self._metrics.forget(route)
            self._bus.publish("deployment", route, None)
            self._publish()

    def described(self, name: str, version: int) -> None:
        """``name@version`` was described anew: routes that run it go on as they are, and say so. Declaring one again
        takes the description up."""
        for route, line in self._lines.items():
            deployment = line.current.deployment
            if (deployment.model, deployment.version) == (name, version) and line.current.spec.pipeline is None:
                if deployment.state == "stopped":
                    fresh = declaration.view(self._registry, route, line.current.spec, deployment.created)
                    deployment.task, deployment.labels = fresh.task, fresh.labels
                self._show(route)

    async def clear_cache(self, route: str) -> None:
        """Forget the answers that are kept for ``route``. Raises `NotFound`, and `Conflict` where none are."""
        line = self._line(route)
        if not line.newest.spec.settings.get("response_cache"):
            raise Conflict(f"{route} keeps no answers", hint="deploy it with response_cache=true")
        for generation in line.generations:
            if isinstance(generation.serving, Serving) and generation.serving.cache is not None:
                await generation.serving.cache.clear()

    async def runtime_installed(self) -> None:
        """What failed for want of an engine is tried again."""
        self._prober.forget()
        for route, line in list(self._lines.items()):
            waiting = line.newest
            if waiting.deployment.error is None or waiting.deployment.error.code not in (
                EngineUnavailable.code,
                "missing_library",
            ):
                continue
            async with self._locks.setdefault(route, asyncio.Lock()):
                if self._lines.get(route) is not line or line.newest is not waiting:
                    continue  # it was deleted or declared anew meanwhile
                if waiting is line.current:
                    await self._end(route)
                waiting.deployment.error = waiting.deployment.decision = None
                self._begin(route, waiting)

    async def stop(self) -> None:
        """End all workers at once, with what they hold; what is declared stays declared."""
        ends = (self._end(route, drain_s=0) for route in list(self._lines))
        for error in filter(None, await asyncio.gather(*ends, *self._forgetting, return_exceptions=True)):
            log.error("a deployment did not end cleanly", exc_info=error)

    def refresh(self) -> None:
        """Once a second, by the sampler."""
        for route, line in list(self._lines.items()):
            for generation in line.generations:
                if generation.serving is not None:
                    generation.serving.refresh()
            deployment, serving = line.current.deployment, line.current.serving
            if serving is not None and deployment.memory_bytes != serving.memory_bytes and deployment.state == "ready":
                self._show(route)

    # --- doing ----------------------------------------------------------------------------------------

    def _declared(self, route: str, spec: DeploymentSpec, created: str) -> Generation:
        return Generation(declaration.view(self._registry, route, spec, created))

    def _is(self, generation: Generation, spec: DeploymentSpec) -> bool:
        """Whether it is what ``spec`` asks for, or is on its way there."""
        return (
            generation.spec == spec
            and generation.deployment.state in ("starting", "ready", "stopped")
            and not self._described_anew(generation)
        )

    def _described_anew(self, generation: Generation) -> bool:
        """Whether the card, or a file beside the model, has changed since its workers were started."""
        if not isinstance(generation.serving, Serving):
            return False
        identity = declaration.identity(self._registry, generation.spec)
        return identity is not None and generation.serving.plan.digest != identity

    def _begin(self, route: str, generation: Generation) -> None:
        self._step(generation, "start")
        self._show(route)
        if generation.spec.pipeline is not None:
            generation.serving = PipelineServing(generation.deployment, self._metrics, self._settings)
            generation.serving.look(self._dataplane.table, self._uses())
            self._changed(route, generation)
        else:
            generation.starting = asyncio.create_task(self._start(route, generation), name=f"start {route}")

    async def _start(self, route: str, generation: Generation) -> None:
        deployment, line = generation.deployment, self._lines[route]
        try:
            present = line.current.serving if line.next is generation else None
            remembered = deployment.decision if deployment.error is None else None
            planned = await self._planner.plan(generation.spec, remembered, present.held_bytes if present else {})
        except Exception as error:
            if not isinstance(error, PilothouseError):
                log.exception("deployment %s could not be planned", route)
                error = PilothouseError(f"it could not be started: {error!r}", hint="the log has the details")
            deployment.error = problem_of(error)
            self._step(generation, "give_up")
            if line.current is generation and line.next is not None and line.next.alive:
                self._promote(route)
            self._show(route)
            return
        if planned.decision != deployment.decision:
            deployment.decision = planned.decision
            encoded = msgspec.json.encode(planned.decision).decode()
            if not deployment.temporary:
                await self._store.run(lambda db: db["deployments"].update(route, {"decision": encoded}))  # type: ignore[union-attr]
        plan = planned.plans[0]
        deployment.runtime, deployment.engine = plan.interpreter.runtime, plan.load.engine
        deployment.device = ",".join(dict.fromkeys(entry.load.device for entry in planned.plans))
        if line.next is generation and not planned.beside:
            log.info("deployment %s: what serves is stopped first, there is no memory for both", route)
            await asyncio.wait([self._promote(route)])
        generation.serving = Serving(
            deployment, planned.plans, self._metrics, self._settings, lambda: self._changed(route, generation)
        )
        self._changed(route, generation)

    def _changed(self, route: str, generation: Generation) -> None:
        """Something of ``generation`` is ready, or is no longer."""
        line = self._lines.get(route)
        if line is None or generation.serving is None or generation not in (line.current, line.next):
            return
        comes = generation is line.next
        event = generation.tell(all_replicas=comes)
        if generation.deployment.state == "failed":
            if not isinstance(generation.serving, PipelineServing):
                return  # given up: its replicas only end now
            if event != "give_up":  # a pipeline comes back by itself
                self._step(generation, "start")
        self._step(generation, event)
        if event == "give_up":
            generation.serving.refuse(NotReady(f"{route} failed"))
            if comes:
                log.error("deployment %s: the change failed, what served before goes on", route)
                generation.look()
                self._leave(route, generation, drain_s=0)
            elif line.next is not None and line.next.alive:
                self._promote(route)
        elif comes and event == "replica_ready":
            self._promote(route)
        self._show(route)

    def _promote(self, route: str) -> "asyncio.Task[None]":
        """What is to come takes over; the task ends what was before, when that has answered what it holds."""
        line = self._lines[route]
        assert line.next is not None
        before, line.current, line.next = line.current, line.next, None
        after = line.current.deployment
        log.info("deployment %s: %s@%s takes over", route, after.model, after.version)
        self._show(route)  # first: from now on nothing enters what was before
        if not after.temporary:
            forget = self._store.run(
                lambda db: db.execute("UPDATE deployments SET before = NULL WHERE route = ?", [route])
            )
            task = asyncio.create_task(forget, name=f"forget {route}")
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)
        return self._leave(route, before)

    def _leave(self, route: str, generation: Generation, drain_s: float | None = None) -> "asyncio.Task[None]":
        line = self._lines[route]
        began = time.monotonic()

        async def end() -> None:
            try:
                await generation.end(self._settings.drain_s if drain_s is None else drain_s)
                log.info("deployment %s: what was before ended after %.2f s", route, time.monotonic() - began)
            except Exception:
                log.exception("deployment %s: what was before did not end cleanly", route)
            finally:
                line.leaving.pop(task, None)

        task = asyncio.create_task(end(), name=f"leave {route}")
        line.leaving[task] = generation
        return task

    async def _end(self, route: str, drain_s: float | None = None) -> None:
        """End all that runs for ``route``, when it has answered what it holds or ``drain_s`` is over."""
        line = self._lines.get(route)
        if line is None:
            return
        drain_s = self._settings.drain_s if drain_s is None else drain_s
        if line.next is not None:
            self._leave(route, line.next, drain_s=0)
            line.next = None
        generation = line.current
        if generation.deployment.state != "stopped":
            if generation.starting is not None and not generation.starting.done():
                generation.starting.cancel()
                await asyncio.wait([generation.starting])
            self._step(generation, "stop")
            self._show(route)
            await generation.end(drain_s)
            if generation.deployment.state == "draining":
                self._step(generation, "drained")
            self._show(route)
        for other in list(line.leaving.values()):
            if other.serving is not None and drain_s == 0:
                await other.serving.stop(0)
        if line.leaving:
            await asyncio.wait(list(line.leaving))

    def _step(self, generation: Generation, event: lifecycle.Event) -> None:
        deployment = generation.deployment
        state = lifecycle.after(deployment.state, event)
        if state != deployment.state:
            log.info(
                "deployment %s (%s@%s): %s, now %s",
                deployment.route, deployment.model, deployment.version, event, state,
            )  # fmt: skip
            deployment.state = state
            deployment.since = timestamp()

    def _show(self, route: str) -> None:
        """Refresh what is seen of ``route`` and publish it, to readers and to the hot path."""
        line = self._lines[route]
        deployment = line.current.deployment
        line.current.look()
        if self._described_anew(line.current):
            deployment.notes = [*deployment.notes, DESCRIBED_ANEW.format(route)]
        deployment.spec = line.newest.spec
        deployment.pending = line.next.as_pending(line.current) if line.next is not None else None
        if line.current.serving is not None:
            line.current.serving.adopt()
        self._bus.publish("deployment", route, msgspec.structs.replace(deployment))
        self._publish()

    def _publish(self) -> None:
        table: dict[str, Target] = {}
        uses = self._uses()
        for route in _in_order({route: _called(line.current) for route, line in self._lines.items()}):
            if route in self._lines:
                table[route] = self._target(route, table, uses)
        self._dataplane.publish(table)
        for route, line in self._lines.items():
            if line.next is not None and isinstance(line.next.serving, PipelineServing):
                self._look(route, line.next, line.next.serving, table, uses)

    def _target(self, route: str, table: Table, uses: pipelines.Uses) -> Target:
        """``table`` has the routes that a pipeline at ``route`` calls."""
        current = self._lines[route].current
        deployment, serving = current.deployment, current.serving
        created = int(datetime.fromisoformat(deployment.created).timestamp())
        if isinstance(serving, PipelineServing):
            self._look(route, current, serving, table, uses)
        if serving is not None and current.alive:
            target = serving.target(created)
            if target is not None:
                return target
        why_not: str = deployment.state
        if isinstance(serving, PipelineServing) and serving.obstacle is not None:
            why_not = f"not ready: {serving.obstacle.message}"
        elif deployment.state == "failed" and deployment.error is not None:
            why_not = f"failed: {deployment.error.message}"
        return Target(
            route=route,
            model=deployment.model,
            version=deployment.version,
            task=deployment.task,
            created=created,
            why_not=why_not,
        )

    def _look(
        self, route: str, generation: Generation, serving: PipelineServing, table: Table, uses: pipelines.Uses
    ) -> None:
        """A pipeline follows the routes that it calls."""
        before = serving.obstacle.message if serving.obstacle is not None else None, serving.signature
        serving.look(table, uses)
        after = serving.obstacle.message if serving.obstacle is not None else None, serving.signature
        if before != after and generation.deployment.state != "draining":
            asyncio.get_running_loop().call_soon(self._changed, route, generation)


def _called(generation: Generation) -> frozenset[str]:
    pipeline = generation.spec.pipeline
    return pipelines.routes(pipeline) if pipeline is not None else frozenset()


def _in_order(uses: pipelines.Uses) -> list[str]:
    """Every route after those that its pipeline calls."""
    return list(graphlib.TopologicalSorter(uses).static_order())


def _upsert(db: sqlite_utils.Database, row: dict[str, Any]) -> None:
    db["deployments"].upsert(row, pk="route")  # type: ignore[union-attr]
