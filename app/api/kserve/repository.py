"""Triton's model repository extension: what there is, and loading and unloading it. A model that is loaded is a
deployment; one that is unloaded stays declared, as stopped."""

import math
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from app.deployments.reconciler import Reconciler
from app.errors import InvalidInput, NotFound
from app.events import Bus
from app.registry.registry import Registry
from app.schema.kserve import IndexEntry
from app.schema.manage import Deployment, DeploymentSpec

_STATES = {
    "ready": ("READY", ""),
    "idle": ("READY", ""),
    "starting": ("LOADING", ""),
    "draining": ("UNLOADING", ""),
    "stopped": ("UNAVAILABLE", "unloaded"),
    "failed": ("UNAVAILABLE", "failed"),
}
#: Of ModelConfiguration: what the file and the daemon decide. A client may send back what it was told.
_TOLD = (
    "name", "platform", "backend", "runtime", "version_policy", "input", "output", "default_model_filename",
    "parameters", "optimization", "cc_model_filenames", "metric_tags", "model_warmup", "model_operations",
    "model_transaction_policy", "batch_input", "batch_output", "model_repository_agents", "sequence_batching",
    "ensemble_scheduling",
)  # fmt: skip
_SETTLED = ("ready", "failed", "stopped", "idle")


class Repository:
    def __init__(self, reconciler: Reconciler, registry: Registry, bus: Bus):
        self._reconciler, self._registry, self._bus = reconciler, registry, bus

    def deployment(self, route: str) -> Deployment:
        """Raises `NotFound`."""
        return self._reconciler.get(route)

    def index(self, ready: bool = False) -> list[IndexEntry]:
        """Deployments, and models of the registry that were never loaded; with ``ready`` only what serves."""
        deployments = self._reconciler.deployments()
        entries = [_entry(deployment) for deployment in deployments]
        if ready:
            return [entry for entry in entries if entry.state == "READY"]
        known = {deployment.route for deployment in deployments}
        return entries + [IndexEntry(model.name) for model in self._registry.models() if model.name not in known]

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Declare ``name`` (the model of that name, where no such route was declared) and wait until it serves.
        Raises `InvalidInput` with the reason where it does not."""
        for key in parameters:
            if key.startswith("file:"):
                raise InvalidInput(
                    "model files are not taken from a load request",
                    hint="`pilothouse pull` adds them to the registry as a new version",
                    field=f"parameters.{key}",
                )
        spec = self._declared(name) or DeploymentSpec(model=self._registry.get(name).name)
        changes = override(parameters.get("config"), name)
        replicas = changes.pop("replicas", spec.replicas)
        spec = msgspec.structs.replace(spec, stopped=False, replicas=replicas, settings={**spec.settings, **changes})
        await self._reconciler.put(name, spec)
        deployment = await self._settled(name)
        if deployment is None or deployment.state not in ("ready", "idle"):
            raise _not_loaded(name, deployment)
        if deployment.pending is not None and deployment.pending.error is not None:
            raise _not_loaded(name, deployment)

    async def unload(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Stop ``name`` once what it holds is answered. Raises `NotFound`."""
        dependents = parameters.get("unload_dependents", False)
        if not isinstance(dependents, bool):
            raise InvalidInput("unload_dependents must be true or false", field="parameters.unload_dependents")
        spec = self._reconciler.get(name).spec
        await self._reconciler.put(name, msgspec.structs.replace(spec, stopped=True))
        if dependents and spec.pipeline is not None:
            for route in dict.fromkeys(step.route for step in spec.pipeline.steps):
                await self.unload(route, parameters)

    def _declared(self, name: str) -> DeploymentSpec | None:
        try:
            return self._reconciler.get(name).spec
        except NotFound:
            return None

    async def _settled(self, route: str) -> Deployment | None:
        """The deployment when nothing is under way any more."""
        async with aclosing(self._bus.watch("deployment", route)) as states:
            async for state in states:
                if state is None or (state.state in _SETTLED and not _pending(state)):
                    return state
        return None


def _pending(deployment: Deployment) -> bool:
    return deployment.pending is not None and deployment.pending.error is None


def _entry(deployment: Deployment) -> IndexEntry:
    state, reason = _STATES[deployment.state]
    if deployment.state == "failed" and deployment.error is not None:
        reason = deployment.error.message
    return IndexEntry(deployment.route, str(deployment.version), state, reason)


def _not_loaded(name: str, deployment: Deployment | None) -> InvalidInput:
    problem = None
    if deployment is not None:
        problem = deployment.pending.error if deployment.pending is not None else deployment.error
    if problem is None:
        return InvalidInput(f"failed to load {name!r}: it was stopped meanwhile", code="load_failed")
    return InvalidInput(f"failed to load {name!r}: {problem.message}", hint=problem.hint, code="load_failed")


def override(config: Any, name: str = "") -> dict[str, Any]:
    """Settings of a deployment, and ``replicas``, out of a ModelConfiguration (a JSON text or an object). Raises
    `InvalidInput` for what cannot be changed so."""
    if config is None:
        return {}
    if isinstance(config, str):
        try:
            config = msgspec.json.decode(config)
        except msgspec.DecodeError as error:
            raise InvalidInput(f"parameters.config is not JSON: {error}", field="parameters.config") from None
    if not isinstance(config, dict):
        raise InvalidInput("parameters.config must be an object, or one as text", field="parameters.config")
    found: dict[str, Any] = {}
    for key, value in config.items():
        where = f"parameters.config.{key}"
        if key == "name" and name and value not in ("", name):
            raise InvalidInput(f"{where} is {value!r}, the request is for {name!r}", field=where)
        if key == "max_batch_size":
            found["max_batch_size"] = max(1, _whole(value, where))
        elif key == "dynamic_batching":
            found |= _batching(_object(value, where), where)
        elif key == "instance_group":
            found["replicas"] = _replicas(value, where)
        elif key == "response_cache":
            found["response_cache"] = bool(_object(value, where).get("enable", False))
        elif key not in _TOLD:
            raise InvalidInput(f"{where} cannot be changed by a load request", hint="leave it out", field=where)
    return found


def _batching(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """0 is ModelConfiguration's word for not set: what is not set here is learned, or the installation's."""
    found: dict[str, Any] = {}
    for key, entry in value.items():
        at = f"{where}.{key}"
        if key == "max_queue_delay_microseconds":
            found["max_queue_delay_us"] = _whole(entry, at)
        elif key == "preferred_batch_size":
            if not isinstance(entry, list):
                raise InvalidInput(f"{at} must be a list of numbers, not {entry!r}", field=at)
            if entry:
                found["preferred_batch_sizes"] = [_whole(size, at) for size in entry]
        elif key == "preserve_ordering":
            found["preserve_order"] = bool(entry)
        elif key in ("priority_levels", "default_priority_level"):
            if level := _whole(entry, at):
                found[key] = level
        elif key == "default_queue_policy":
            found |= _policy(_object(entry, at), at)
        elif key != "priority_queue_policy" or entry:
            raise InvalidInput(f"{at} cannot be changed by a load request", hint="leave it out", field=at)
    return found


def _policy(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if size := _whole(value.get("max_queue_size", 0), f"{where}.max_queue_size"):
        found["queue_limit"] = size
    if timeout_us := _whole(value.get("default_timeout_microseconds", 0), f"{where}.default_timeout_microseconds"):
        found["request_timeout_s"] = timeout_us / 1e6
    return found


def _replicas(value: Any, where: str) -> int:
    if not isinstance(value, list):
        raise InvalidInput(f"{where} must be a list of groups, not {value!r}", field=where)
    return sum(_whole(_object(group, where).get("count", 1), f"{where}.count") for group in value) or 1


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where} must be an object, not {value!r}", field=where)
    return value


def _whole(value: Any, where: str) -> int:
    """A number, or one as text: protobuf's JSON writes 64 bits so."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 18:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise InvalidInput(f"{where} must be a whole number, not {value!r}", field=where)
    return int(value)
