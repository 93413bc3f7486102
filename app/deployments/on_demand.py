"""Models that the first request for them deploys, and that are undeployed when nobody has asked for a while."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from app.deployments.reconciler import Reconciler
from app.errors import DeadlineExceeded, EngineFailed, InvalidInput, NotFound, PilothouseError
from app.events import Bus
from app.schema.manage import Deployment, DeploymentSpec, Problem

log = logging.getLogger(__name__)

#: How long a route is kept after its last request, where none has said otherwise.
KEEP_ALIVE_S = 300.0
_SETTLED = ("ready", "failed", "stopped", "idle")
#: Why something does not load that would, were something else not loaded.
_NO_ROOM = ("insufficient_memory", "out_of_memory")


@dataclass(slots=True, eq=False)
class _Guest:
    """A route that a request had deployed. ``expires`` is of the loop's clock, and counts while nobody holds it."""

    keep_alive_s: float = KEEP_ALIVE_S
    holders: int = 0
    """Requests that need it, those included that wait for it."""
    active: int = 0
    """Of them, those that it answers."""
    expires: float = math.inf
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    left: asyncio.Event = field(default_factory=asyncio.Event)


class OnDemand:
    """The keeper of temporary deployments; what a user has declared it only waits for. Used from the event loop only;
    a request takes part by `hold`, and one task, `run`, ends what is idle."""

    def __init__(self, reconciler: Reconciler, bus: Bus, timeout_s: float):
        self._reconciler, self._bus, self._timeout_s = reconciler, bus, timeout_s
        self._guests: dict[str, _Guest] = {}
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def hold(
        self, route: str, model: str, keep_alive_s: float | None = None, context_tokens: int | None = None
    ) -> AsyncIterator[None]:
        """While inside, ``route`` is ready: it is waited for, and where nobody declared it, ``model`` is deployed.

        ``keep_alive_s`` is how long it stays after the last request (infinite: for ever), `None` what the request
        before said. ``context_tokens`` is the context that is needed: a temporary deployment with less is replaced
        once it is free. Raises `InvalidInput` where a lasting one has less, `DeadlineExceeded`, and what kept it from
        loading.
        """
        deployment = self._find(route)
        if deployment is not None and not deployment.temporary:
            if deployment.state == "starting":
                async with self._deadline(route):
                    deployment = await self._settled(route)
            _check_context(deployment, context_tokens)
            yield
            return
        guest = self._guests.setdefault(route, _Guest())
        guest.holders += 1
        guest.keep_alive_s = guest.keep_alive_s if keep_alive_s is None else keep_alive_s
        try:
            async with self._deadline(route), guest.changing:
                await self._load(route, model, guest, context_tokens)
                guest.active += 1
            try:
                yield
            finally:
                guest.active -= 1
                guest.left.set()
        finally:
            guest.holders -= 1
            if not guest.holders:
                self._rest(route, guest)

    def expires_at(self, route: str) -> float:
        """Unix seconds; infinite for what stays. Of one that answers now: as if it ended now."""
        guest = self._guests.get(route)
        if guest is None or not self._is_temporary(route):
            return math.inf
        if guest.holders:
            return time.time() + guest.keep_alive_s
        return time.time() + guest.expires - asyncio.get_running_loop().time()

    async def release(self, route: str) -> bool:
        """Undeploy ``route`` now, or when its last request has ended; whether it is one that may be."""
        guest = self._guests.get(route)
        if guest is None or not self._is_temporary(route):
            return False
        guest.keep_alive_s = 0
        await self._end(route, guest)
        return True

    async def run(self) -> None:
        """Until cancelled: undeploy what has expired."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            due = min((guest.expires for guest in self._guests.values() if not guest.holders), default=math.inf)
            try:
                async with asyncio.timeout_at(None if due == math.inf else due):
                    await self._changed.wait()
            except TimeoutError:
                for route, guest in list(self._guests.items()):
                    if not guest.holders and guest.expires <= loop.time():
                        await self._end(route, guest)

    # --- inside -------------------------------------------------------------------------------------------

    def _find(self, route: str) -> Deployment | None:
        try:
            return self._reconciler.get(route)
        except NotFound:
            return None

    def _is_temporary(self, route: str) -> bool:
        deployment = self._find(route)
        return deployment is not None and deployment.temporary

    async def _settled(self, route: str) -> Deployment | None:
        """The deployment, once it is neither starting nor draining."""
        now = self._find(route)
        if now is None or now.state in _SETTLED:
            return now
        async with aclosing(self._bus.watch("deployment", route)) as states:
            async for state in states:
                if state is None or state.state in _SETTLED:
                    break
        return self._find(route)

    async def _load(self, route: str, model: str, guest: _Guest, context_tokens: int | None) -> None:
        """The only place that deploys; `guest.changing` is held."""
        deployment = await self._settled(route)
        if deployment is not None and not deployment.temporary:
            return _check_context(deployment, context_tokens)
        wanted = context_tokens or 0
        if deployment is not None and deployment.state == "ready" and wanted <= (deployment.context_tokens or 0):
            return None
        while guest.active:
            guest.left.clear()
            await guest.left.wait()
        spec = DeploymentSpec(model=model, settings={"context_tokens": wanted} if wanted else {})
        while True:
            await self._reconciler.put(route, spec, temporary=True)
            log.info("%s is deployed on demand", route)
            deployment = await self._settled(route)
            if deployment is not None and deployment.state == "ready":
                return None
            problem = deployment.error if deployment is not None else None
            if deployment is not None and deployment.temporary:
                await self._reconciler.delete(route)
            if problem is None or problem.code not in _NO_ROOM or not await self._make_room():
                raise error_of(problem, f"{route} could not be loaded")

    async def _make_room(self) -> bool:
        """Undeploy the idle route that would expire next, if there is one."""
        idle = [(guest.expires, route) for route, guest in self._guests.items() if not guest.holders]
        if not idle:
            return False
        _, route = min(idle)
        await self._end(route, self._guests[route])
        return True

    def _rest(self, route: str, guest: _Guest) -> None:
        """Nobody holds it any more."""
        if not self._is_temporary(route):
            self._guests.pop(route, None)
        else:
            guest.expires = asyncio.get_running_loop().time() + guest.keep_alive_s
            self._changed.set()

    async def _end(self, route: str, guest: _Guest) -> None:
        async with guest.changing:
            if not guest.holders and self._is_temporary(route):
                log.info("%s is undeployed: nobody uses it", route)
                try:
                    await self._reconciler.delete(route)
                except Exception:  # one that does not end cleanly must not keep the others loaded for ever
                    log.exception("%s could not be undeployed", route)
        # A request that came meanwhile waits for the lock, and goes on with this very guest.
        if not guest.holders and self._guests.get(route) is guest:
            del self._guests[route]

    @asynccontextmanager
    async def _deadline(self, route: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError:
            raise DeadlineExceeded(
                f"{route} was not ready within {self._timeout_s:g} s", hint="retry later, or see `pilothouse status`"
            ) from None


def _check_context(deployment: Deployment | None, context_tokens: int | None) -> None:
    served = deployment.context_tokens if deployment is not None else None
    if deployment is not None and served is not None and (context_tokens or 0) > served:
        raise InvalidInput(
            f"options.num_ctx is {context_tokens}, but {deployment.route} is deployed with a context of {served}",
            hint=f"leave num_ctx out, or `pilothouse deploy {deployment.model} --route {deployment.route} "
            f"--set context_tokens={context_tokens}`",
            field="options.num_ctx",
        )


def _kinds(of: type[PilothouseError] = PilothouseError) -> Iterator[type[PilothouseError]]:
    for kind in of.__subclasses__():
        yield kind
        yield from _kinds(kind)


def error_of(problem: Problem | None, otherwise: str) -> PilothouseError:
    """A stored problem as the error that it was; without one, `EngineFailed` that says ``otherwise``."""
    if problem is None:
        return EngineFailed(otherwise)
    kind = next((kind for kind in _kinds() if kind.code == problem.code), EngineFailed)
    return kind(problem.message, hint=problem.hint, details=problem.details, code=problem.code)
