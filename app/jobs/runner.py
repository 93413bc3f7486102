"""Runs jobs: a few at a time, in order, and again after the daemon was killed."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import sqlite_utils

from app.clock import timestamp
from app.db import Store
from app.errors import InvalidInput, JobNotFound, PilothouseError
from app.events import Bus
from app.jobs import job as lifecycle
from app.jobs.log import JobLog
from app.schema.manage import Job, JobRequest, Page, Problem
from app.settings import Settings

#: Finished jobs that are kept to be looked at.
KEPT = 200
#: Shortest time between two messages about the progress of one job.
INTERVAL_S = 0.2

_logger = logging.getLogger(__name__)


class Context:
    """What a handler has to work with: its job, where to say how far it is, and its log."""

    def __init__(self, job: Job, log: Callable[[str], None], changed: Callable[[], None]):
        self._job, self.log, self._changed = job, log, changed

    @property
    def id(self) -> str:
        return self._job.id

    @property
    def spec(self) -> dict[str, Any]:
        return self._job.spec

    def report(
        self,
        progress: float,
        message: str,
        *,
        done_bytes: int | None = None,
        total_bytes: int | None = None,
        rate_bytes_per_s: float | None = None,
        eta_s: float | None = None,
    ) -> None:
        """How far it is (0 to 1) and what it does now. Cheap: published at most five times a second."""
        job = self._job
        job.progress, job.message = min(max(progress, 0.0), 1.0), message
        job.done_bytes, job.total_bytes = done_bytes, total_bytes
        job.rate_bytes_per_s, job.eta_s = rate_bytes_per_s, eta_s
        self._changed()


class Handler(Protocol):
    """The work of one kind of job."""

    def title(self, spec: Mapping[str, Any]) -> str:
        """What the job does, in a few words. Raises `PilothouseError` for a spec that cannot be meant."""

    def already(self, spec: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result, if what the job would make is here already."""

    async def run(self, context: Context) -> dict[str, Any]:
        """Do it, or go on from what an earlier, interrupted run left; returns the result.

        Cancelled for a pause, a cancel and the end of the daemon: leave everything so that it can go on.
        Raises `PilothouseError` for a failure the user can act on.
        """

    async def discard(self, job_id: str) -> None:
        """Remove what unfinished runs left: the job is over."""


@dataclass
class _Entry:
    job: Job
    log: JobLog
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    work: asyncio.Task[dict[str, Any]] | None = None
    #: Why the work is being cancelled.
    intent: lifecycle.Event | None = None
    timer: asyncio.TimerHandle | None = None
    published: float = 0.0


class Jobs:
    """All jobs, in memory; every change of state is committed before it is answered.

    Every job is published as event kind ``job``. Used from the event loop only.
    """

    def __init__(self, store: Store, bus: Bus, settings: Settings, logs: Path, handlers: Mapping[str, Handler]):
        """``logs`` is the folder for the jobs' logs; ``handlers`` has one for each kind."""
        self._store, self._bus, self._settings = store, bus, settings
        self._logs, self._handlers = logs, handlers
        self._entries: dict[str, _Entry] = {}
        self._stopping = False

    async def start(self) -> None:
        """Read all jobs; those that were running when the daemon ended are queued again. Then run."""
        rows = await self._store.run(lambda db: list(db.query("select job from jobs order by created, id")))
        for row in rows:
            entry = self._admit(msgspec.json.decode(row["job"], type=Job))
            if entry.job.state == "running":
                await self._advance(entry, "requeue")
                entry.log.write("the daemon ended while this ran; it goes on from what it has")
            self._publish(entry)
        self._fill()

    async def stop(self) -> None:
        """Interrupt what runs; the next `start` goes on with it."""
        self._stopping = True
        running = [entry for entry in self._entries.values() if entry.task]
        for entry in running:
            self._interrupt(entry, "requeue")
        await asyncio.gather(*(entry.task for entry in running if entry.task))

    async def submit(self, request: JobRequest) -> Job:
        """Queue a job. The same request again is the same job while it is unfinished, a failed one goes on
        from what it has, and what is here already succeeds at once.

        Raises `InvalidInput`, `ModelNotFound`, … for a request that cannot be meant.
        """
        spec = msgspec.to_builtins(request)
        kind = spec.pop("kind")
        if (handler := self._handlers.get(kind)) is None:
            raise InvalidInput(f"jobs of kind {kind!r} cannot be run yet", field="kind")
        title = handler.title(spec)
        for entry in reversed(self._entries.values()):
            if entry.job.kind == kind and entry.job.spec == spec:
                if entry.job.state not in lifecycle.FINISHED:
                    return self._copy(entry)
                if entry.job.state == "failed":
                    return await self.resume(entry.job.id)
                break
        now = timestamp()
        job = Job(
            id=f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(3)}",
            kind=kind, title=title, state="queued", spec=spec, created=now, updated=now,
        )  # fmt: skip
        if (result := handler.already(spec)) is not None:
            job.state, job.progress, job.message, job.result = "succeeded", 1.0, "here already", result
        entry = self._admit(job)
        await self._commit(entry)
        self._fill()
        return self._copy(entry)

    def get(self, job_id: str) -> Job:
        """Raises `JobNotFound`."""
        return self._copy(self._entry(job_id))

    def list(self, limit: int = 50, cursor: str | None = None) -> Page:
        """Newest first; ``cursor`` is `Page.next_cursor` of the page before."""
        ids = sorted(self._entries, reverse=True)
        rest = [job_id for job_id in ids if cursor is None or job_id < cursor]
        page = rest[: max(limit, 0)]
        return Page(
            items=[self._copy(self._entries[job_id]) for job_id in page],
            next_cursor=page[-1] if page and len(rest) > len(page) else None,
        )

    def unfinished(self) -> "dict[str, Job]":
        """Jobs that are not over, by id."""
        return {
            job_id: self._copy(entry)
            for job_id, entry in self._entries.items()
            if entry.job.state not in lifecycle.FINISHED
        }

    async def pause(self, job_id: str) -> Job:
        """Raises `JobNotFound`, `Conflict`. Answers once the work has stopped."""
        return await self._interrupt_and_wait(job_id, "pause")

    async def cancel(self, job_id: str) -> Job:
        """As `pause`, for good: what was fetched is removed."""
        return await self._interrupt_and_wait(job_id, "cancel")

    async def resume(self, job_id: str) -> Job:
        """Queue a paused or a failed job again. Raises `JobNotFound`, `Conflict`."""
        entry = self._entry(job_id)
        lifecycle.advance(entry.job.state, "resume")
        entry.job.error, entry.job.message = None, ""
        entry.finished.clear()
        await self._advance(entry, "resume")
        self._fill()
        return self._copy(entry)

    async def wait(self, job_id: str) -> Job:
        """The job once it is over, however long it takes, pauses included. Raises `JobNotFound`."""
        entry = self._entry(job_id)
        await entry.finished.wait()
        return self._copy(entry)

    def log(self, job_id: str) -> str:
        """Raises `JobNotFound`."""
        return self._entry(job_id).log.read()

    # --- inside ------------------------------------------------------------------------------------------

    def _entry(self, job_id: str) -> _Entry:
        if (entry := self._entries.get(job_id)) is None:
            raise JobNotFound(f"there is no job {job_id!r}", hint="finished jobs are forgotten after a while")
        return entry

    def _admit(self, job: Job) -> _Entry:
        entry = self._entries[job.id] = _Entry(job, JobLog(self._logs / f"{job.id}.log"))
        if job.state in lifecycle.FINISHED:
            entry.finished.set()
        return entry

    def _copy(self, entry: _Entry) -> Job:
        return msgspec.structs.replace(entry.job)

    def _fill(self) -> None:
        """Start queued jobs, oldest first, while there is room."""
        running = sum(entry.task is not None for entry in self._entries.values())
        for entry in list(self._entries.values()):
            if running >= self._settings.parallel_jobs or self._stopping:
                return
            if entry.job.state == "queued" and entry.task is None:
                entry.intent = None
                entry.task = asyncio.create_task(self._run(entry), name=f"job {entry.job.id}")
                running += 1

    async def _run(self, entry: _Entry) -> None:
        """One run of one job: the only writer of its state meanwhile. Never cancelled itself, only its work."""
        await self._advance(entry, "start")
        event = await self._work(entry)
        entry.job.eta_s = entry.job.rate_bytes_per_s = None
        if event in ("cancel", "succeed"):
            await self._discard(entry)
        entry.task = entry.work = None
        await self._advance(entry, event)
        self._fill()

    async def _work(self, entry: _Entry) -> lifecycle.Event:
        """The handler's part, and how it ended."""
        job = entry.job
        if entry.intent is not None:  # interrupted while the start was being committed
            return entry.intent
        context = Context(job, entry.log.write, lambda: self._progressed(entry))
        entry.work = asyncio.create_task(self._handlers[job.kind].run(context))
        try:
            job.result = await entry.work
            job.progress = 1.0
            return "succeed"
        except asyncio.CancelledError:
            return entry.intent or "requeue"
        except PilothouseError as error:
            job.error = Problem(code=error.code, message=error.message, hint=error.hint, details=error.details)
        except Exception as error:
            _logger.exception("job %s failed", job.id)
            job.error = Problem(code="internal", message=f"{type(error).__name__}: {error}", hint="see the job's log")
        job.message = job.error.message
        entry.log.write(f"failed: {job.error.message} {job.error.hint}")
        return "fail"

    async def _interrupt_and_wait(self, job_id: str, event: lifecycle.Event) -> Job:
        entry = self._entry(job_id)
        lifecycle.advance(entry.job.state, event)
        if entry.task is not None:
            task = entry.task
            self._interrupt(entry, event)
            await asyncio.wait([task])
        else:
            if event == "cancel":
                await self._discard(entry)
            await self._advance(entry, event)
        return self._copy(entry)

    def _interrupt(self, entry: _Entry, event: lifecycle.Event) -> None:
        if entry.intent is None or event == "cancel":
            entry.intent = event
        if entry.work is not None:
            entry.work.cancel()

    async def _discard(self, entry: _Entry) -> None:
        if (handler := self._handlers.get(entry.job.kind)) is not None:
            await handler.discard(entry.job.id)

    async def _advance(self, entry: _Entry, event: lifecycle.Event) -> None:
        entry.job.state = lifecycle.advance(entry.job.state, event)
        if event in ("pause", "cancel", "requeue"):
            entry.job.message = {"pause": "paused", "cancel": "cancelled", "requeue": "waiting to go on"}[event]
        await self._commit(entry)

    async def _commit(self, entry: _Entry) -> None:
        entry.job.updated = timestamp()
        row = {
            "id": entry.job.id,
            "kind": entry.job.kind,
            "state": entry.job.state,
            "job": msgspec.json.encode(entry.job).decode(),
            "created": entry.job.created,
            "updated": entry.job.updated,
        }
        await self._store.run(lambda db: db.table("jobs").upsert(row, pk="id"))
        self._publish(entry)
        if entry.job.state in lifecycle.FINISHED:
            entry.finished.set()
            await self._forget_old()

    async def _forget_old(self) -> None:
        finished = sorted(job_id for job_id, entry in self._entries.items() if entry.finished.is_set())
        old = finished[:-KEPT]
        if not old:
            return

        def delete(db: sqlite_utils.Database) -> None:
            for job_id in old:
                db.table("jobs").delete(job_id)

        await self._store.run(delete)
        for job_id in old:
            if (entry := self._entries.pop(job_id, None)) is not None:
                entry.log.path.unlink(missing_ok=True)
                self._bus.publish("job", job_id, None)
                await self._discard(entry)  # what a failed one kept to go on with

    def _progressed(self, entry: _Entry) -> None:
        if entry.timer is None:
            wait_s = entry.published + INTERVAL_S - time.monotonic()
            if wait_s <= 0:
                self._publish(entry)
            else:
                entry.timer = asyncio.get_running_loop().call_later(wait_s, self._publish, entry)

    def _publish(self, entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        entry.published = time.monotonic()
        self._bus.publish("job", entry.job.id, self._copy(entry))
