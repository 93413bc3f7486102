"""Deployments without workers: what is declared becomes ready, or fails, when a test says so."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from app.errors import Conflict, NotFound
from app.events import Bus
from app.schema.manage import Deployment, DeploymentSpec, Problem


class ScriptedReconciler:
    """What `OnDemand` and the Ollama endpoints use of a reconciler.

    ``problem(route)`` is why a route does not load (`None`: it does). ``slow``: deployments stay ``starting`` until
    `settle`. While ``ending`` is clear, `delete` waits. ``loaded`` and ``gone`` hear of what is served.
    """

    def __init__(self, bus: Bus, context_tokens: int = 512):
        self.bus, self.context_tokens = bus, context_tokens
        self.now: dict[str, Deployment] = {}
        self.puts: list[tuple[str, dict[str, Any]]] = []
        self.problem: Callable[[str], Problem | None] = lambda route: None
        self.slow = False
        self.ending = asyncio.Event()
        self.ending.set()
        self.loaded: Callable[[str, DeploymentSpec], None] = lambda route, spec: None
        self.gone: Callable[[str], None] = lambda route: None

    def deployments(self) -> list[Deployment]:
        return list(self.now.values())

    def get(self, route: str) -> Deployment:
        if route not in self.now:
            raise NotFound(f"there is no deployment {route!r}")
        return self.now[route]

    def uses_model(self, name: str, version: int | None = None) -> str | None:
        return next((entry.route for entry in self.now.values() if entry.model == name), None)

    async def put(self, route: str, spec: DeploymentSpec, *, temporary: bool = False) -> Deployment:
        before = self.now.get(route)
        if before is not None and temporary and not before.temporary:
            raise Conflict(f"{route} is deployed already")
        self.puts.append((route, dict(spec.settings)))
        self.now[route] = Deployment(
            route=route, model=spec.model, version=1, task="", spec=spec, state="starting", temporary=temporary
        )
        self._show(route)
        if not self.slow:
            asyncio.get_running_loop().call_soon(self.settle, route)
        return self.now[route]

    def settle(self, route: str) -> None:
        entry = self.now.get(route)
        if entry is None or entry.state != "starting":
            return  # it was undeployed meanwhile
        entry.error = self.problem(route)
        entry.state = "failed" if entry.error else "ready"
        entry.context_tokens = entry.spec.settings.get("context_tokens", self.context_tokens)
        if not entry.error:
            self.loaded(route, entry.spec)
        self._show(route)

    async def delete(self, route: str) -> None:
        self.get(route)
        self.now[route].state = "draining"
        self._show(route)
        await self.ending.wait()
        del self.now[route]
        self.gone(route)
        self.bus.publish("deployment", route, None)

    def _show(self, route: str) -> None:
        self.bus.publish("deployment", route, msgspec.structs.replace(self.now[route]))
