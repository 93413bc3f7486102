"""Keeps the replicas of one deployment alive: starts them, hears them die, starts them again with backoff."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from app.errors import PilothouseError
from app.schema.manage import Problem, Replica
from app.workers.client import WorkerClient
from app.workers.process import WorkerProcess
from app.workers.runtimes import Interpreter
from engines.hardware import process_memory_bytes
from engines.protocol import Load, Ready

log = logging.getLogger(__name__)

#: A load that failed for one of these reasons fails the same way again: no restart.
PERMANENT = {"bad_model", "missing_library", "device_unavailable", "bad_setting"}
RESTART_WINDOW_S = 600.0
FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 30.0


def backoff_s(failures: int) -> float:
    """Wait before the next start after ``failures`` ends in a row: at once, then doubling to 30 s."""
    return 0.0 if failures <= 1 else min(FIRST_BACKOFF_S * 2 ** (failures - 1), LONGEST_BACKOFF_S)


@dataclass(frozen=True)
class Plan:
    """How to start one replica; the outcome of a placement."""

    interpreter: Interpreter
    load: Load
    timeout_s: float
    max_restarts: int
    digest: str = ""
    """Of all that decides what the model answers: see `app.registry.cards.identity`."""
    part_digests: Mapping[str, str] = field(default_factory=dict)
    """The same of what is loaded beside the model."""


class ReplicaKeeper:
    """One replica. Its task is the only writer of `view`; ``changed`` is called after each change of it.

    ``joined(client, ready)`` is called when the replica can serve, ``left(client)`` when it no longer can.
    """

    def __init__(
        self,
        replica_id: str,
        plan: Plan,
        *,
        joined: Callable[[WorkerClient, Ready], None],
        left: Callable[[WorkerClient], None],
        changed: Callable[[], None],
    ):
        self.view = Replica(id=replica_id, state="starting", device=plan.load.device)
        self.ready: Ready | None = None
        self._plan = plan
        self._joined, self._left, self._changed = joined, left, changed
        self._ends: deque[float] = deque()
        self._process: WorkerProcess | None = None
        self._task = asyncio.create_task(self._run(), name=f"replica {replica_id}")

    def _set(self, **changes: object) -> None:
        self.view = msgspec.structs.replace(self.view, **changes)
        self._changed()

    async def _run(self) -> None:
        while True:
            problem = await self._live_once()
            now = time.monotonic()
            self._ends.append(now)
            while self._ends[0] < now - RESTART_WINDOW_S:
                self._ends.popleft()
            if problem.code in PERMANENT or len(self._ends) > self._plan.max_restarts:
                log.error("replica %s failed: %s", self.view.id, problem.message)
                self._set(state="failed", pid=None, memory_bytes=None, error=problem)
                return
            wait_s = backoff_s(len(self._ends))
            log.warning("replica %s ended (%s); next start in %.1f s", self.view.id, problem.message, wait_s)
            self._set(
                state="backoff",
                pid=None,
                memory_bytes=None,
                error=problem,
                restarts=self.view.restarts + 1,
                retry_in_s=wait_s,
            )
            await asyncio.sleep(wait_s)
            self._set(state="starting", retry_in_s=None)

    async def _live_once(self) -> Problem:
        """Start, serve until the end; returns why it ended."""
        process = self._process = WorkerProcess()
        try:
            ready = await process.start(self._plan.interpreter, self._plan.load, self._plan.timeout_s)
        except PilothouseError as error:
            return Problem(code=error.code, message=error.message, hint=error.hint, details=error.details)
        except (FileNotFoundError, PermissionError) as error:
            return Problem(
                code="missing_library",
                message=f"the runtime {self._plan.interpreter.runtime} cannot be started: {error}",
                hint=f"pilothouse runtime install {self._plan.interpreter.runtime}",
            )
        except Exception as error:
            log.exception("replica %s could not be started", self.view.id)
            return Problem(
                code="internal", message=f"it could not be started: {error!r}", hint="the log has the details"
            )
        self.ready = ready
        client = process.client
        assert client is not None
        self._joined(client, ready)  # first: whoever hears that it is ready wants to know what it is
        self._set(state="ready", pid=process.pid, memory_bytes=ready.memory_bytes, error=None)
        try:
            await process.ended.wait()
        finally:
            self._left(client)
        return process.problem()

    def sample_memory(self) -> None:
        """Refresh `Replica.memory_bytes` (resident bytes of the worker)."""
        if self.view.state == "ready" and self.view.pid is not None:
            self.view = msgspec.structs.replace(self.view, memory_bytes=process_memory_bytes(self.view.pid))

    def end_hung(self, client: WorkerClient) -> None:
        """Kill the worker behind ``client``, if it is this one's: it is started again as after a crash."""
        if self._process is not None and self._process.client is client:
            log.error("replica %s hangs and is ended", self.view.id)
            self._process.kill()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._process is not None:
            await self._process.stop()
        self._set(state="stopping", pid=None, memory_bytes=None)
