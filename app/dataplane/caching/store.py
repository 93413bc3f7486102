"""Where kept answers lie: in memory, or in Redis."""

import asyncio
import importlib.util
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from app.errors import BadSetting

log = logging.getLogger(__name__)

#: What an entry in memory takes beside its bytes: the key, the objects that hold both, their place in the table.
ENTRY_BYTES = 400
#: An answer beyond this share of the cache is not kept: it would push out too many others.
LARGEST_SHARE = 0.25
#: A Redis that does not answer in this time is taken for away, and asked again after a while.
REDIS_TIMEOUT_S = 0.5
REDIS_PAUSE_S = 5.0
_REDIS_CONNECTIONS = 16
#: Lookups that share one command at most.
_LOOKUPS = 256


class Store(Protocol):
    """Bytes by key. Nothing here raises: what cannot be had is not there."""

    size_bytes: int
    evictions: int
    errors: int
    """Calls that a store elsewhere did not answer."""
    most_bytes: int
    """Of one entry."""

    def __len__(self) -> int: ...

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The entry of each key, or `None`."""

    async def put(self, entries: Mapping[bytes, bytes]) -> None: ...

    async def clear(self) -> None: ...

    async def close(self) -> None: ...


class MemoryStore:
    """At most ``limit_bytes``; the least recently used goes first. ``ttl_s`` 0: until it has to go."""

    errors = 0

    def __init__(self, limit_bytes: int, ttl_s: float = 0, now: Callable[[], float] = time.monotonic):
        self._limit_bytes, self._ttl_s, self._now = limit_bytes, ttl_s or float("inf"), now
        self._entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self.size_bytes = self.evictions = 0
        self.most_bytes = int(limit_bytes * LARGEST_SHARE)

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._get(key) for key in keys]

    def _get(self, key: bytes) -> bytes | None:
        found = self._entries.get(key)
        if found is None:
            return None
        value, expires = found
        if expires <= self._now():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def put(self, entries: Mapping[bytes, bytes]) -> None:
        expires = self._now() + self._ttl_s
        for key, value in entries.items():
            if len(value) > self.most_bytes:
                continue
            if key in self._entries:
                self._drop(key)
            self._entries[key] = value, expires
            self.size_bytes += len(value) + ENTRY_BYTES
            while self.size_bytes > self._limit_bytes:
                self._drop(next(iter(self._entries)))
                self.evictions += 1

    def _drop(self, key: bytes) -> None:
        value, _ = self._entries.pop(key)
        self.size_bytes -= len(value) + ENTRY_BYTES

    async def clear(self) -> None:
        self._entries.clear()
        self.size_bytes = 0

    async def close(self) -> None:
        await self.clear()


class RedisStore:
    """Keys are ``pilothouse:DIGEST:KEY``, ``digest`` that of the version. How much is kept in all, and what goes first,
    is Redis's own business (``maxmemory``, ``maxmemory-policy``); an entry is at most a quarter of ``limit_bytes``.

    A Redis that is away costs `REDIS_TIMEOUT_S` at most once in `REDIS_PAUSE_S`; then nothing is found or kept. One
    command looks for what all requests want at the time: a command costs more than what it brings.
    """

    evictions = size_bytes = 0

    def __init__(self, url: str, digest: str, limit_bytes: int, ttl_s: float = 0):
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_REDIS_CONNECTIONS,
            timeout=REDIS_TIMEOUT_S,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            retry=Retry(NoBackoff(), 1),  # Redis may have closed it meanwhile
        )
        self._redis: Any = Redis.from_pool(pool)
        self._failures = (RedisError, OSError, TimeoutError)
        self._prefix = f"pilothouse:{digest}:"
        self._ttl_ms = int(ttl_s * 1000) or None
        self._lookups: list[tuple[Sequence[bytes], asyncio.Future[list[bytes | None]]]] = []
        self._looking: asyncio.Task[None] | None = None
        self._asked_again_at = 0.0
        self._away = False
        self.errors = 0
        self.most_bytes = int(limit_bytes * LARGEST_SHARE)

    def __len__(self) -> int:
        return 0

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        if self._paused:
            self.errors += 1
            return [None] * len(keys)
        future: asyncio.Future[list[bytes | None]] = asyncio.get_running_loop().create_future()
        self._lookups.append((keys, future))
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        return await future

    async def _look(self) -> None:
        lookups: list[tuple[Sequence[bytes], asyncio.Future[list[bytes | None]]]] = []
        try:
            while self._lookups:
                lookups, self._lookups = self._lookups[:_LOOKUPS], self._lookups[_LOOKUPS:]
                names = [self._name(key) for keys, _ in lookups for key in keys]
                found = iter(await self._ask(partial(self._redis.mget, names)) or [None] * len(names))
                for keys, future in lookups:
                    entries = list(itertools.islice(found, len(keys)))
                    if not future.done():  # its client may have gone
                        future.set_result(entries)
        finally:
            self._looking = None
            for keys, future in (*lookups, *self._lookups):  # none, but when the program ends
                if not future.done():
                    future.set_result([None] * len(keys))
            self._lookups.clear()

    async def put(self, entries: Mapping[bytes, bytes]) -> None:
        async def send() -> None:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key, value in entries.items():
                    if len(value) <= self.most_bytes:
                        pipeline.set(self._name(key), value, px=self._ttl_ms)
                await pipeline.execute()

        await self._ask(send)

    async def clear(self) -> None:
        async def remove() -> None:
            batch = []
            async for name in self._redis.scan_iter(match=f"{self._prefix}*", count=1000):
                batch.append(name)
                if len(batch) == 1000:
                    await self._redis.unlink(*batch)
                    batch.clear()
            if batch:
                await self._redis.unlink(*batch)

        await self._ask(remove, None)

    async def close(self) -> None:
        await self._redis.aclose()

    def _name(self, key: bytes) -> str:
        return self._prefix + key.hex()

    @property
    def _paused(self) -> bool:
        return time.monotonic() < self._asked_again_at

    async def _ask(self, call: Callable[[], Any], timeout_s: float | None = REDIS_TIMEOUT_S) -> Any:
        if self._paused:
            self.errors += 1
            return None
        try:
            async with asyncio.timeout(timeout_s):
                answer = await call()
        except self._failures as error:
            self.errors += 1
            self._asked_again_at = time.monotonic() + REDIS_PAUSE_S
            if not self._away:
                self._away = True
                log.warning("the Redis of the response cache does not answer, requests are served without: %s", error)
            return None
        if self._away:
            self._away = False
            log.info("the Redis of the response cache answers again")
        return answer


def check_url(url: str) -> None:
    """Raises `BadSetting` for what cannot be a ``cache_url`` here."""
    if not url:
        return
    if url.partition("://")[0] not in ("redis", "rediss", "unix"):
        raise BadSetting(
            "cache_url must begin with redis://, rediss:// or unix://",
            hint="redis://HOST:PORT/DATABASE, or leave it empty to keep answers in memory",
            field="cache_url",
        )
    if importlib.util.find_spec("redis") is None:
        raise BadSetting(
            "cache_url needs the package redis", hint="install pilothouse with the extra redis", field="cache_url"
        )
    try:
        RedisStore(url, "", 0)
    except ValueError as error:
        raise BadSetting(f"cache_url is wrong: {error}", hint="redis://HOST:PORT/DATABASE", field="cache_url") from None


def open_store(url: str, digest: str, limit_bytes: int, ttl_s: float) -> Store:
    """In memory where ``url`` is empty."""
    return RedisStore(url, digest, limit_bytes, ttl_s) if url else MemoryStore(limit_bytes, ttl_s)
