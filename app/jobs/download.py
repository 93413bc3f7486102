"""Getting a model: ask a source, fetch, assemble, check, register. Goes on from where any earlier run stopped."""

import asyncio
import contextlib
import shutil
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from app.errors import ArtifactCorrupt, SourceUnreachable
from app.jobs.runner import Context
from app.jobs.threads import in_thread
from app.jobs.transfer import Client, Policy, require_disk
from app.paths import DataDir
from app.registry import cards, formats, sources
from app.registry.artifacts import as_digest, digest_of, flush
from app.registry.catalog import Catalog
from app.registry.registry import Registry
from app.registry.sources import hub, pypi
from app.registry.sources.plan import Output, Part, Plan, Remote, Request, Wanted
from app.schema.manage import Version
from app.settings import Settings

#: The rate is measured over this time, so that it neither jumps nor lags.
_RATE_WINDOW_S = 5.0
_COPY_BYTES = 1 << 20


class Download:
    """The handler of ``download`` jobs."""

    def __init__(
        self, settings: Settings, data: DataDir, registry: Registry, catalog: Catalog, policy: Policy | None = None
    ):
        self._settings, self._data, self._registry, self._catalog = settings, data, registry, catalog
        self._policy = policy or Policy(connections=settings.download_connections)

    def title(self, spec: Mapping[str, Any]) -> str:
        return f"Get {self._request(spec).name}"

    def already(self, spec: Mapping[str, Any]) -> dict[str, Any] | None:
        """A file of this machine may have changed since and is always read again."""
        request = self._request(spec)
        model = next((model for model in self._registry.models() if model.name == request.name), None)
        if model is None or request.ref.startswith("file:"):
            return None
        digests = {as_digest(source.sha256) for source in request.sources if source.sha256}
        for version in reversed(model.versions):
            if version.metadata.get("requested") == request.ref or version.digest in digests:
                return _result(request.name, version)
        return None

    async def run(self, context: Context) -> dict[str, Any]:
        if (result := self.already(context.spec)) is not None:  # killed between registering and saying so
            return result
        request = self._request(context.spec)
        if not request.sources:
            await self._registry.ensure_embedded()
            return _result(request.ref, self._registry.resolve(request.ref)[1])
        folder = self._data.downloads / context.id
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        wanted, plan = await self._fetch(request, folder, context)
        version = await self._register(request, wanted, plan, folder, context)
        context.report(1.0, f"{request.name}@{version.version} is here", done_bytes=version.size_bytes)
        return _result(request.name, version)

    async def discard(self, job_id: str) -> None:
        await asyncio.to_thread(shutil.rmtree, self._data.downloads / job_id, ignore_errors=True)

    def _request(self, spec: Mapping[str, Any]) -> Request:
        return sources.parse(spec["ref"], self._catalog, spec.get("name"))

    async def _fetch(self, request: Request, folder: Path, context: Context) -> tuple[Wanted, Plan]:
        """From the first source that delivers. Raises what the last one raised."""
        last = SourceUnreachable(f"{request.ref} has no source")
        for number, wanted in enumerate(request.sources):
            if number:
                context.log(f"trying the next source: {wanted.ref}")
            part = folder / str(number)
            try:
                context.report(0.0, f"asking {wanted.ref}" if not number else f"{last.message}; asking {wanted.ref}")
                plan = await self._plan(wanted, request, part, context)
                await self._transfer(plan, part, context)
                return wanted, plan
            except SourceUnreachable as error:
                context.log(f"{wanted.ref}: {error.message} {error.hint}".rstrip())
                last = error
        if len(request.sources) > 1:
            last.message = f"no source of {request.name} delivers; the last one: {last.message}"
        raise last

    async def _plan(self, wanted: Wanted, request: Request, folder: Path, context: Context) -> Plan:
        """The plan that an earlier run kept, so that it goes on with the same revision; else a new one."""
        kept = folder / "plan.json"
        try:
            return msgspec.json.decode(await asyncio.to_thread(kept.read_bytes), type=Plan)
        except (FileNotFoundError, msgspec.MsgspecError):
            plan = await sources.resolve(wanted, request, self._settings)
        context.log(f"{plan.source}: {len(plan.remotes)} file(s)")
        await asyncio.to_thread(_save, kept, msgspec.json.encode(plan))
        return plan

    async def _transfer(self, plan: Plan, folder: Path, context: Context) -> None:
        token = await asyncio.to_thread(hub.token) if any(remote.hub for remote in plan.remotes) else None

        def headers(remote: Remote) -> Mapping[str, str]:
            return {"authorization": f"Bearer {token}"} if remote.hub and token else {}

        targets = [folder / f"{index}.part" for index in range(len(plan.remotes))]
        async with Client(self._policy, headers) as client:
            sizes = [await client.size_bytes(*pair) for pair in zip(plan.remotes, targets, strict=True)]
            here = await asyncio.to_thread(_bytes_on_disk, targets)
            known = sum(size for size in sizes if size is not None)
            assembled = sum(output.size_bytes or 0 for output in plan.outputs if _whole(output) is None)
            await asyncio.to_thread(require_disk, folder, max(known - here, 0) + assembled)
            meter = Meter(None if None in sizes else known, context)
            for index, (remote, target) in enumerate(zip(plan.remotes, targets, strict=True)):
                await client.fetch(remote, target, partial(meter.update, index))
        for remote, target in zip(plan.remotes, targets, strict=True):
            if remote.sha256:
                context.report(1.0, f"checking {remote.name}", done_bytes=meter.done_bytes, total_bytes=known)
                await self._check(remote.name, target, remote.sha256, context)

    async def _register(self, request: Request, wanted: Wanted, plan: Plan, folder: Path, context: Context) -> Version:
        part = folder / str(request.sources.index(wanted))
        remotes = [part / f"{index}.part" for index in range(len(plan.remotes))]
        outputs = plan.outputs or await in_thread(lambda _: _search(remotes))
        context.report(1.0, "checking")
        files = [await in_thread(partial(_assemble, output, remotes, part)) for output in outputs]
        expected = {output.path: output.sha256 for output in outputs if output.sha256}
        primary = outputs[0]
        try:
            facts = await asyncio.to_thread(formats.inspect, files[0], primary.path)
        except ArtifactCorrupt:
            # Where the digest is known, damage on the way is the better answer than a bad model.
            if primary.sha256:
                await self._check(primary.path, files[0], primary.sha256, context)
            await self.discard(context.id)
            raise
        if plan.format and facts.format != plan.format:
            raise ArtifactCorrupt(
                f"{primary.path} is {facts.format.upper()}, not {plan.format.upper()}",
                hint="the source offers another file than it says",
                code="bad_model",
            )
        metadata = {**facts.metadata, **plan.metadata, "requested": request.ref}
        if plan.labels:
            labels = next(file for output, file in zip(outputs, files, strict=True) if output.path == plan.labels.path)
            metadata["labels"] = msgspec.json.decode(await asyncio.to_thread(labels.read_bytes))[plan.labels.key]
        if not primary.sha256:
            metadata["pinned_sha256"] = (await in_thread(lambda check: digest_of(files[0], lambda _: check())))[7:]
            context.log(f"no digest was known; pinned to sha256:{metadata['pinned_sha256']}")
        try:
            version = await self._registry.add_version(
                request.name,
                task=_task(request, plan, facts),
                files=[(output.path, file) for output, file in zip(outputs, files, strict=True)],
                format=facts.format,
                precision=plan.precision or facts.precision,
                source=plan.source,
                licence=plan.licence,
                description=plan.description,
                metadata=metadata,
                card=cards.check(plan.card) if plan.card is not None else None,
                expected=expected,
            )
        except ArtifactCorrupt:
            await self.discard(context.id)  # nothing of it is worth going on with
            raise
        context.log(f"registered {request.name}@{version.version} {version.digest}")
        return version

    async def _check(self, name: str, path: Path, sha256: str, context: Context) -> None:
        digest = await in_thread(lambda check: digest_of(path, lambda _: check()))
        if digest != as_digest(sha256):
            await self.discard(context.id)
            raise ArtifactCorrupt(
                f"{name} is damaged: its digest is {digest}, not {as_digest(sha256)}",
                hint="try again; if it stays so, the source offers another file than it says",
            )


class Meter:
    """Turns counts of bytes into a report: share, rate, time left, in words."""

    def __init__(self, total_bytes: int | None, context: Context, clock: Callable[[], float] = monotonic):
        self._total_bytes, self._context, self._clock = total_bytes, context, clock
        self._counts: dict[int, int] = {}
        self._window: deque[tuple[float, int]] = deque()

    @property
    def done_bytes(self) -> int:
        return sum(self._counts.values())

    def update(self, index: int, count: int) -> None:
        """File ``index`` has ``count`` bytes here now."""
        resumed = index not in self._counts  # what was here before was not fetched now
        self._counts[index] = count
        now, done, total = self._clock(), self.done_bytes, self._total_bytes
        if resumed:
            self._window.clear()
        self._window.append((now, done))
        while now - self._window[0][0] > _RATE_WINDOW_S:
            self._window.popleft()
        since, before = self._window[0]
        rate = (done - before) / (now - since) if now > since and done > before else None
        eta_s = (total - done) / rate if rate and total is not None else None
        self._context.report(
            done / total if total else 0.0,
            in_words(done, total, rate, eta_s),
            done_bytes=done,
            total_bytes=total,
            rate_bytes_per_s=rate,
            eta_s=eta_s,
        )


def in_words(done: int, total: int | None, rate: float | None, eta_s: float | None) -> str:
    """``3.1 of 5.0 GB · 41 MB/s · 46 s left``"""
    unit, size = _unit(total if total is not None else done)
    words = [f"{done / size:.1f} of {total / size:.1f} {unit}" if total is not None else f"{done / size:.1f} {unit}"]
    if rate is not None:
        unit, size = _unit(rate)
        words.append(f"{rate / size:.0f} {unit}/s")
    if eta_s is not None:
        minutes, seconds = divmod(round(eta_s), 60)
        hours, minutes = divmod(minutes, 60)
        left = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        words.append(f"{left} left")
    return " · ".join(words)


def _unit(value: float) -> tuple[str, float]:
    return next(
        (unit, size) for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1)) if value >= size or size == 1
    )


def _assemble(output: Output, remotes: Sequence[Path], folder: Path, check: Callable[[], None]) -> Path:
    """One output of fetched files: the file itself, or members of archives, joined. Blocks."""
    if (index := _whole(output)) is not None:
        return remotes[index]
    target = folder / "assembled" / output.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file, _reading_archives():
        for part in output.parts:
            with zipfile.ZipFile(remotes[part.remote]) as archive:
                require_disk(folder, archive.getinfo(part.member or "").file_size)
                with archive.open(part.member or "") as member:
                    while block := member.read(_COPY_BYTES):
                        check()
                        file.write(block)
    flush(target)
    return target


@contextlib.contextmanager
def _reading_archives() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise ArtifactCorrupt(
            f"the package does not hold the model: {error}",
            hint="the source offers another file than it says",
            code="bad_model",
        ) from None


def _whole(output: Output) -> int | None:
    """The remote that is this output as it is."""
    match output.parts:
        case [Part(remote=index, member=None)]:
            return index
    return None


def _search(wheels: Sequence[Path]) -> list[Output]:
    members = []
    with _reading_archives():
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                members.append(archive.namelist())
    return pypi.find_models(members)


def _bytes_on_disk(files: Sequence[Path]) -> int:
    """What unfinished files really take: they are allocated whole and filled in any order."""
    total_bytes = 0
    for file in files:
        if file.exists():
            status = file.stat()
            total_bytes += getattr(status, "st_blocks", 0) * 512 or status.st_size
    return total_bytes


def _save(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_bytes(content)
    flush(unfinished)
    unfinished.replace(path)


def _task(request: Request, plan: Plan, facts: formats.Facts) -> str:
    """The catalogue knows best; then a header that is sure; then the source."""
    told = facts.task if facts.task in formats.TOLD_BY_HEADER and request.entry is None else None
    return told or plan.task or facts.task or "tensor"


def _result(name: str, version: Version) -> dict[str, Any]:
    return {"model": name, "version": version.version, "digest": version.digest, "source": version.source}
