"""Answers in a real Redis, and a Redis that goes away."""

import asyncio
import logging
import time

import pytest

from app.dataplane.caching import store as cache_store
from app.dataplane.caching.key import Keys
from app.dataplane.caching.response_cache import ResponseCache
from app.dataplane.caching.store import RedisStore
from app.monitoring.metrics import RouteMetrics


def key(n: int) -> bytes:
    return n.to_bytes(32, "big")


@pytest.fixture
async def open_store(redis_server):
    stores = []

    def open_store(digest="sha256:1", limit_bytes=1 << 20, ttl_s=0.0):
        stores.append(cache_store.open_store(redis_server.url, digest, limit_bytes, ttl_s))
        return stores[-1]

    yield open_store
    for store in stores:
        await store.close()


async def test_what_was_put_is_found_also_by_another_installation(open_store):
    store = open_store()
    await store.put({key(1): b"one", key(2): b"\0\xff"})
    other = open_store()
    assert await other.get([key(2), key(3), key(1)]) == [b"\0\xff", None, b"one"]
    assert (await other.get([]), other.errors) == ([], 0)
    assert store.errors == 0


async def test_versions_share_nothing_and_are_forgotten_one_by_one(open_store):
    one, other = open_store("sha256:1"), open_store("sha256:2")
    await one.put({key(n): b"one" for n in range(2500)})
    await other.put({key(1): b"other"})
    assert await other.get([key(1)]) == [b"other"]
    await one.clear()
    assert await one.get([key(n) for n in range(2500)]) == [None] * 2500
    assert await other.get([key(1)]) == [b"other"]


async def test_answers_expire(open_store):
    await open_store(ttl_s=0.05).put({key(1): b"one"})
    lasting = open_store()
    await lasting.put({key(2): b"two"})
    end = time.monotonic() + 5
    while (found := await lasting.get([key(1), key(2)])) != [None, b"two"]:
        assert found == [b"one", b"two"] and time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_an_answer_that_is_too_big_is_not_kept(open_store):
    store = open_store(limit_bytes=400)
    await store.put({key(1): b"x" * 101, key(2): b"x" * 100})
    assert await store.get([key(1), key(2)]) == [None, b"x" * 100]


async def ask(cache, answer=b"A"):
    async def compute(which):
        return [answer]

    [kept] = await cache.answers([cache.keys.embedding("a")], compute, 10)
    await asyncio.gather(*(flight.task for flight in cache._flights.values()))  # it is kept after it was answered
    return bytes(kept.body), kept.hit


@pytest.mark.parametrize("how", ["stop", "hang"])
async def test_a_redis_that_is_away_costs_no_request_and_is_told_once(
    redis_server, open_store, how, caplog, monkeypatch
):
    monkeypatch.setattr(cache_store, "REDIS_PAUSE_S", 0.0)
    caplog.set_level(logging.INFO, "app.dataplane.caching.store")
    cache = ResponseCache(open_store(), Keys(b""), RouteMetrics("r", "m", 1, "tensor", "e"))
    assert await ask(cache) == (b"A", False)
    getattr(redis_server, how)()
    began = time.perf_counter()
    assert [await ask(cache) for _ in range(2)] == [(b"A", False)] * 2
    assert time.perf_counter() - began < 6 * cache_store.REDIS_TIMEOUT_S  # four calls, and a slow machine
    assert cache.store.errors >= 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    redis_server.stop()
    redis_server.start()
    assert await ask(cache) == (b"A", False)
    assert await ask(cache) == (b"A", True)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_while_it_is_away_it_is_not_asked_again_at_once(redis_server, open_store):
    store = open_store()
    redis_server.stop()
    await store.get([key(1)])
    began = time.perf_counter()
    assert [await store.get([key(1)]) for _ in range(1000)] == [[None]] * 1000
    assert time.perf_counter() - began < cache_store.REDIS_TIMEOUT_S
    assert store.errors == 1001


async def test_many_at_once_share_few_commands(open_store):
    store = open_store()
    assert isinstance(store, RedisStore)
    await store.put({key(n): b"%d" % n for n in range(500)})
    found = await asyncio.gather(*(store.get([key(n), key(n + 1)]) for n in range(499)))
    assert found == [[b"%d" % n, b"%d" % (n + 1)] for n in range(499)]
    assert (await store._redis.info("commandstats"))["cmdstat_mget"]["calls"] <= 3
    assert store.errors == 0


async def test_one_who_goes_away_takes_nobody_along(open_store):
    store = open_store()
    await store.put({key(1): b"one"})
    gone, others = asyncio.create_task(store.get([key(1)])), [asyncio.create_task(store.get([key(1)])) for _ in "ab"]
    await asyncio.sleep(0)
    gone.cancel()
    assert await asyncio.gather(*others) == [[b"one"]] * 2
