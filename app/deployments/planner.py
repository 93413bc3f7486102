"""From a declaration to how each of its replicas is started: the file, the place, the interpreter."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.deployments import parts, placement
from app.monitoring.sampler import Sampler
from app.registry import cards
from app.registry.registry import Registry
from app.schema.manage import Decision, DeploymentSpec, Version
from app.settings import Settings
from app.workers.probe import Prober
from app.workers.runtimes import Interpreter, Runtimes
from app.workers.supervisor import Plan
from engines.protocol import Load
from engines.selection import ENGINES

#: Settings of a deployment that no engine is told of, or not as a setting.
_NOT_THE_ENGINES = {"threads", "request_timeout_s", "response_cache", "response_cache_mb", "response_cache_ttl_s"}
BOTH_DO_NOT_FIT = "what served before is stopped first: there is no memory for both"


@dataclass(frozen=True)
class Planned:
    """``plans`` has one entry a replica."""

    plans: Sequence[Plan]
    decision: Decision
    beside: bool
    """Whether it fits beside what the route serves now."""


@dataclass(frozen=True)
class _Place:
    interpreter: Interpreter
    engine: str
    device: str


class Planner:
    def __init__(self, registry: Registry, runtimes: Runtimes, prober: Prober, sampler: Sampler, settings: Settings):
        self._registry, self._runtimes, self._prober = registry, runtimes, prober
        self._sampler, self._settings = sampler, settings

    async def plan(
        self, spec: DeploymentSpec, remembered: Decision | None, returned_bytes: Mapping[str, int]
    ) -> Planned:
        """``remembered`` is a decision that holds as long as its runtime is still here: a restart needs no new probe.
        ``returned_bytes``, by device, is what the route's present workers hold. Raises `PilothouseError`."""
        _, version = self._registry.resolve(f"{spec.model}@{spec.version}")
        path = self._registry.path(spec.model, spec.version or version.version)
        places = self._remembered(remembered)
        beside = True
        if places:
            assert remembered is not None
            decision = remembered
        else:
            hardware = await self._sampler.machine()
            decision, chosen = placement.decide_each(
                version.format,
                self._pieces(spec, version),
                spec.settings,
                await self._prober.installed(ENGINES.get(version.format, ("", ""))[0]),
                hardware,
                engine=spec.engine,
                device=spec.device,
                returned_bytes=returned_bytes,
            )
            if not placement.fit(chosen, spec.replicas, hardware) and returned_bytes:
                beside = False
                decision.reason += f"; {BOTH_DO_NOT_FIT}"
            places = [
                _Place(self._interpreter(entry.engine, entry.runtime), entry.engine, entry.device) for entry in chosen
            ]
        settings = {key: value for key, value in spec.settings.items() if key not in _NOT_THE_ENGINES}
        if spec.draft:
            settings.setdefault("speculative", "draft")
        cache_folder = await self._cache_folder(spec, version)
        files = parts.files(self._registry, spec)
        digests = parts.digests(self._registry, spec)
        plans = [
            Plan(
                place.interpreter,
                Load(
                    engine=place.engine,
                    path=str(path),
                    device=place.device,
                    threads=int(spec.settings.get("threads", 0)),
                    settings=settings,
                    files=files,
                    card=cards.of(version),
                    cache_folder=cache_folder,
                ),
                self._settings.start_timeout_s,
                self._settings.max_restarts,
                cards.identity(version),
                digests,
            )
            for place in (places[n % len(places)] for n in range(spec.replicas))
        ]
        return Planned(plans, decision, beside)

    def _interpreter(self, engine: str, runtime: str | None) -> Interpreter:
        return next(entry for entry in self._runtimes.interpreters(engine) if entry.runtime == runtime)

    def _remembered(self, decision: Decision | None) -> list[_Place]:
        """Empty where nothing was decided, or one of the runtimes is not here any more."""
        places = []
        for candidate in decision.candidates if decision is not None else ():
            if not candidate.chosen:
                continue
            try:
                interpreter = self._interpreter(candidate.engine, candidate.runtime)
            except StopIteration:
                return []
            places.append(_Place(interpreter, candidate.engine, candidate.device))
        return places

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
