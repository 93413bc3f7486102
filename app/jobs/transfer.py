"""One remote file → one local file: parallel ranges, resumable by another process, wary of a file that changes.

Beside ``0.part`` lies ``0.json``, which says how much of each chunk is on the disk. It is written after the data
was flushed, so that whatever it claims is true, also after a power cut.
"""

import asyncio
import contextlib
import errno
import re
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec

from app import __version__
from app.errors import ArtifactCorrupt, InsufficientDisk, SourceUnreachable
from app.jobs.threads import in_thread
from app.registry.artifacts import flush
from app.registry.sources.plan import Remote

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

#: Data is handed to the disk in pieces of this size, off the event loop.
_WRITE_BYTES = 1 << 20
#: … or at this pace on a slow line.
_WRITE_INTERVAL_S = 0.25
#: Free space that a download leaves on the disk.
_RESERVE_BYTES = 64 << 20


@dataclass(frozen=True)
class Policy:
    """How patiently and how greedily to fetch."""

    connections: int = 4
    chunk_bytes: int = 8 << 20
    attempts: int = 6
    """Tries in a row without one new byte."""
    backoff_s: float = 0.5
    """Doubles with every try, up to 30 s."""
    stall_s: float = 30.0
    """Silence after which a connection is given up."""
    connect_s: float = 10.0
    checkpoint_s: float = 0.5
    """How much work a kill can cost."""


class Remembered(msgspec.Struct, frozen=True):
    """What a server said of a file."""

    size_bytes: int | None
    ranges: bool
    validator: str | None
    """A strong ETag or a date, to notice that the file has changed."""


class _State(msgspec.Struct):
    """The side file."""

    url: str
    remembered: Remembered
    chunk_bytes: int
    done: dict[int, int] = {}
    """Start of chunk → bytes of it on the disk."""


class _Changed(Exception):
    """The file on the server is not the one that was begun."""


class _Transient(Exception):
    """Worth another try, after ``wait_s`` if the server said so."""

    def __init__(self, reason: str, wait_s: float | None = None):
        super().__init__(reason)
        self.wait_s = wait_s


def require_disk(folder: Path, needed_bytes: int) -> None:
    """Raises `InsufficientDisk` naming what is needed and what is free."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + _RESERVE_BYTES:
        raise InsufficientDisk(
            f"the download needs {needed_bytes:,} bytes and {free_bytes:,} are free",
            hint="make room, or move the data directory with PILOTHOUSE_DATA_DIR",
            details={"needed_bytes": needed_bytes, "free_bytes": free_bytes},
        )


class Client:
    """The HTTP client of one download. ``headers`` are asked for each remote (the hub's token is never stored)."""

    def __init__(self, policy: Policy, headers: Callable[[Remote], Mapping[str, str]] = lambda remote: {}):
        self.policy, self._headers = policy, headers

    async def __aenter__(self) -> "Client":
        import httpx2

        self._http = httpx2.AsyncClient(
            follow_redirects=True,
            timeout=httpx2.Timeout(self.policy.stall_s, connect=self.policy.connect_s),
            limits=httpx2.Limits(max_connections=self.policy.connections + 1),
            # A compressed range is a range of something else.
            headers={"accept-encoding": "identity", "user-agent": f"pilothouse/{__version__}"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def probe(self, remote: Remote) -> Remembered:
        """Ask for the first byte: size, whether ranges work, and the validator.

        Raises `SourceUnreachable`.
        """
        if remote.url.startswith("file:"):
            return Remembered(local_path(remote).stat().st_size, ranges=False, validator=None)

        async def ask() -> Remembered:
            async with self._get(remote, {"range": "bytes=0-0"}) as response:
                if response.status_code == 206:
                    return Remembered(_total(response), True, _validator(response))
                if response.status_code == 416:  # there is no first byte
                    return Remembered(0, False, None)
                length = response.headers.get("content-length")
                return Remembered(int(length) if length else None, False, _validator(response))

        return await self._patiently(remote, ask, attempts=2)

    async def size_bytes(self, remote: Remote, target: Path) -> int | None:
        """How large the file is: as was said, as an earlier try learned, or else as the server answers now."""
        if remote.size_bytes is not None:
            return remote.size_bytes
        state = await asyncio.to_thread(_read, target, remote)
        return state.remembered.size_bytes if state else (await self.probe(remote)).size_bytes

    async def fetch(self, remote: Remote, target: Path, on_bytes: Callable[[int], None]) -> None:
        """Make ``target`` the whole file, going on from what an earlier try left there.

        ``on_bytes`` hears how many bytes are here in total, also those that were here before.
        Raises `SourceUnreachable`, `InsufficientDisk`, `ArtifactCorrupt` (another size than was said).
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if remote.url.startswith("file:"):
                await _copy(local_path(remote), target, on_bytes)
                return
            for _ in range(3):
                with contextlib.suppress(_Changed):
                    await self._fetch(remote, target, on_bytes)
                    return
                _forget(target)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            require_disk(target.parent, remote.size_bytes or 0)
            raise InsufficientDisk("the disk is full", hint="make room and resume") from None
        raise SourceUnreachable(f"{remote.name} changes on the server faster than it can be fetched")

    async def _fetch(self, remote: Remote, target: Path, on_bytes: Callable[[int], None]) -> None:
        state = _read(target, remote)
        if state is None:
            state = _State(remote.url, await self.probe(remote), self.policy.chunk_bytes)
        said, size_bytes = remote.size_bytes, state.remembered.size_bytes
        if said is not None and size_bytes is not None and said != size_bytes:
            raise ArtifactCorrupt(
                f"{remote.name} has {size_bytes:,} bytes on the server and should have {said:,}",
                hint="the file was replaced at its source",
            )
        progress = _Progress(target, state, on_bytes)
        if state.remembered.ranges and size_bytes is not None:
            await self._ranges(remote, progress, size_bytes)
        elif not size_bytes or progress.total_bytes != size_bytes:
            await self._stream(remote, progress)

    async def _ranges(self, remote: Remote, progress: "_Progress", size_bytes: int) -> None:
        state = progress.state
        starts = range(0, size_bytes, state.chunk_bytes)
        todo = deque(s for s in starts if state.done.get(s, 0) < min(state.chunk_bytes, size_bytes - s))

        async def worker() -> None:
            with progress.target.open("r+b") as file:
                while todo:
                    start = todo.popleft()
                    end = min(start + state.chunk_bytes, size_bytes)
                    chunk = partial(self._chunk, remote, progress, file, start, end)
                    await self._patiently(remote, chunk, partial(progress.of, start))

        progress.allocate(size_bytes)
        count = min(self.policy.connections, len(todo))
        await progress.keep([worker() for _ in range(count)], self.policy.checkpoint_s)

    async def _chunk(self, remote: Remote, progress: "_Progress", file: BinaryIO, start: int, end: int) -> None:
        """The rest of one chunk, from where it stopped."""
        remembered = progress.state.remembered
        position = start + progress.of(start)
        if position == end:
            return
        headers = {"range": f"bytes={position}-{end - 1}"}
        if remembered.validator:
            headers["if-range"] = remembered.validator
        async with self._get(remote, headers) as response:
            if response.status_code != 206 or _total(response) != remembered.size_bytes:
                raise _Changed
            if remembered.validator and _validator(response) != remembered.validator:
                raise _Changed  # a server that does not know If-Range
            if not response.headers["content-range"].startswith(f"bytes {position}-"):
                raise _Transient("the server answered another range than was asked for")
            async for block in _blocks(response):
                data = block[: end - position]
                await in_thread(partial(_write, file, position, data))
                position += len(data)
                progress.wrote(start, len(data))
        if position < end:
            raise _Transient("the connection was closed early")

    async def _stream(self, remote: Remote, progress: "_Progress") -> None:
        """All of it from the beginning: the server cannot do ranges."""
        expected = progress.state.remembered.size_bytes

        async def attempt() -> None:
            progress.restart()
            async with self._get(remote, {}) as response:
                with progress.target.open("wb") as file:
                    async for block in _blocks(response):
                        if expected is None:
                            await asyncio.to_thread(require_disk, progress.target.parent, len(block))
                        await in_thread(partial(_write, file, progress.total_bytes, block))
                        progress.wrote(0, len(block))
            if expected is not None and progress.total_bytes != expected:
                raise _Transient("the connection was closed early")

        await self._patiently(remote, attempt)
        progress.state.remembered = msgspec.structs.replace(progress.state.remembered, size_bytes=progress.total_bytes)
        await progress.checkpoint()

    @contextlib.asynccontextmanager
    async def _get(self, remote: Remote, headers: Mapping[str, str]) -> "AsyncIterator[httpx2.Response]":
        """An answer of success; what is worth another try is `_Transient`, what is not `SourceUnreachable`."""
        import httpx2

        try:
            sent = {**self._headers(remote), **headers}
            async with self._http.stream("GET", remote.url, headers=sent) as response:
                status = response.status_code
                if status in (408, 425, 429) or status >= 500:
                    after = response.headers.get("retry-after", "")
                    raise _Transient(f"it answered {status}", float(after) if after.isdecimal() else None)
                if status in (401, 403):
                    hint = "accept the model's terms on the hub and set HF_TOKEN" if remote.hub else ""
                    raise SourceUnreachable(f"{_host(remote)} refused {remote.name}: {status}", hint=hint)
                if not response.is_success and status != 416:
                    raise SourceUnreachable(f"{_host(remote)} has no {remote.name}: {status}")
                yield response
        except (httpx2.InvalidURL, httpx2.TooManyRedirects, httpx2.UnsupportedProtocol) as error:
            raise SourceUnreachable(f"{remote.url} cannot be fetched: {error}") from None
        except httpx2.TransportError as error:
            raise _Transient(f"{error or type(error).__name__}") from None

    async def _patiently(
        self,
        remote: Remote,
        attempt: Callable[[], Awaitable[T]],
        progress: Callable[[], int] = lambda: 0,
        attempts: int | None = None,
    ) -> T:
        """Try until it works, or until nothing new came for ``attempts`` tries in a row."""
        failures, before = 0, progress()
        while True:
            try:
                return await attempt()
            except _Transient as error:
                now = progress()
                failures, before = (failures + 1 if now == before else 1), now
                if failures >= (attempts or self.policy.attempts):
                    raise SourceUnreachable(
                        f"{_host(remote)} does not deliver {remote.name}: {error}",
                        hint="resume the job later: what is here stays",
                    ) from None
                wait_s = self.policy.backoff_s * 2 ** (failures - 1)
                await asyncio.sleep(min(error.wait_s if error.wait_s is not None else wait_s, 30.0))


class _Progress:
    """What is written, what of it is surely on the disk, and the side file that says so."""

    def __init__(self, target: Path, state: _State, on_bytes: Callable[[int], None]):
        self.target, self.state, self._on_bytes = target, state, on_bytes
        self.written = dict(state.done)
        on_bytes(self.total_bytes)

    @property
    def total_bytes(self) -> int:
        return sum(self.written.values())

    def of(self, start: int) -> int:
        return self.written.get(start, 0)

    def allocate(self, size_bytes: int) -> None:
        with self.target.open("ab") as file:
            file.truncate(size_bytes)

    def wrote(self, start: int, count: int) -> None:
        self.written[start] = self.of(start) + count
        self._on_bytes(self.total_bytes)

    def restart(self) -> None:
        self.written = {}

    async def checkpoint(self) -> None:
        """Data first, then the claim."""
        written = dict(self.written)
        if written != self.state.done:
            self.state.done = written
            await in_thread(lambda _: self._save())

    def _save(self) -> None:
        flush(self.target)
        unfinished = side_file(self.target).with_suffix(".tmp")
        unfinished.write_bytes(msgspec.json.encode(self.state))
        flush(unfinished)
        unfinished.replace(side_file(self.target))

    async def keep(self, workers: Sequence[Coroutine[Any, Any, None]], every_s: float) -> None:
        """Run the workers, with a checkpoint now and then and at the end, however they end."""

        async def checkpoints() -> None:
            while True:
                await asyncio.sleep(every_s)
                await self.checkpoint()

        tasks = [asyncio.create_task(worker) for worker in workers]
        saver = asyncio.create_task(checkpoints())
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in (*tasks, saver):
                task.cancel()
            await asyncio.gather(*tasks, saver, return_exceptions=True)
            await self.checkpoint()


def side_file(target: Path) -> Path:
    return target.with_suffix(".json")


def local_path(remote: Remote) -> Path:
    return Path(url2pathname(urlsplit(remote.url).path))


def _read(target: Path, remote: Remote) -> _State | None:
    """What an earlier try left, if it can be gone on with."""
    try:
        state = msgspec.json.decode(side_file(target).read_bytes(), type=_State)
        size_bytes = target.stat().st_size
    except (OSError, msgspec.MsgspecError):
        return None
    return state if state.url == remote.url and size_bytes == state.remembered.size_bytes else None


def _forget(target: Path) -> None:
    side_file(target).unlink(missing_ok=True)
    target.unlink(missing_ok=True)


async def _copy(source: Path, target: Path, on_bytes: Callable[[int], None]) -> None:
    loop = asyncio.get_running_loop()

    def work(check: Callable[[], None]) -> None:
        done_bytes = 0
        with source.open("rb") as origin, target.open("wb") as copy:
            while block := origin.read(_WRITE_BYTES):
                check()
                copy.write(block)
                done_bytes += len(block)
                loop.call_soon_threadsafe(on_bytes, done_bytes)
        flush(target)

    await in_thread(work)


def _write(file: BinaryIO, position: int, data: bytes, _check: Callable[[], None]) -> None:
    file.seek(position)
    file.write(data)
    file.flush()


async def _blocks(response: "httpx2.Response") -> AsyncIterator[bytes]:
    """The body in pieces worth a write; what came before a failure is not lost."""
    buffer, since = bytearray(), time.monotonic()
    try:
        async for piece in response.aiter_raw():
            buffer += piece
            if len(buffer) >= _WRITE_BYTES or time.monotonic() - since > _WRITE_INTERVAL_S:
                yield bytes(buffer)
                buffer.clear()
                since = time.monotonic()
    except Exception:
        if buffer:
            yield bytes(buffer)
        raise
    if buffer:
        yield bytes(buffer)


def _total(response: "httpx2.Response") -> int | None:
    match = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+)", response.headers.get("content-range", ""))
    return int(match[1]) if match else None


def _validator(response: "httpx2.Response") -> str | None:
    etag = response.headers.get("etag", "")
    return etag if etag.startswith('"') else response.headers.get("last-modified")


def _host(remote: Remote) -> str:
    return urlsplit(remote.url).hostname or "the server"
