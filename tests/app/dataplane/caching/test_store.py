"""Where answers lie: bounded in memory; Redis in test_redis_store.py."""

import tracemalloc

import pytest

from app.dataplane.caching.store import ENTRY_BYTES, MemoryStore, check_url
from app.errors import BadSetting


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def key(n: int) -> bytes:
    return n.to_bytes(32, "big")


def room_for(count: int, value_bytes: int) -> int:
    return count * (ENTRY_BYTES + value_bytes)


async def test_what_was_put_is_found_in_the_order_asked_for():
    store = MemoryStore(1 << 20)
    await store.put({key(1): b"one", key(2): b"two"})
    assert await store.get([key(2), key(3), key(1)]) == [b"two", None, b"one"]
    assert len(store) == 2


async def test_the_least_recently_used_goes_first():
    store = MemoryStore(room_for(4, 100))
    for n in range(4):
        await store.put({key(n): b"x" * 100})
    await store.get([key(0)])
    await store.put({key(4): b"x" * 100})
    assert [value is not None for value in await store.get([key(n) for n in range(5)])] == [
        True,
        False,
        True,
        True,
        True,
    ]
    assert store.evictions == 1
    assert store.size_bytes == room_for(4, 100)


async def test_an_answer_that_would_push_out_too_many_others_is_not_kept():
    store = MemoryStore(room_for(4, 100))
    await store.put({key(n): b"x" * 100 for n in range(4)})
    await store.put({key(9): b"x" * (store.most_bytes + 1)})
    assert await store.get([key(9)]) == [None]
    assert (len(store), store.evictions) == (4, 0)
    await store.put({key(9): b"x" * store.most_bytes})
    assert await store.get([key(9)]) != [None]


async def test_the_same_key_again_takes_the_place_of_the_first():
    store = MemoryStore(1 << 20)
    await store.put({key(1): b"one"})
    await store.put({key(1): b"another"})
    assert await store.get([key(1)]) == [b"another"]
    assert store.size_bytes == ENTRY_BYTES + len(b"another")


async def test_answers_expire():
    clock = Clock()
    store = MemoryStore(1 << 20, 10, clock)
    await store.put({key(1): b"one"})
    clock.now += 9.9
    assert await store.get([key(1)]) == [b"one"]
    clock.now += 0.2
    assert await store.get([key(1)]) == [None]
    assert (len(store), store.size_bytes) == (0, 0)


async def test_cleared_it_is_empty():
    store = MemoryStore(1 << 20)
    await store.put({key(1): b"one"})
    await store.clear()
    assert (len(store), store.size_bytes, await store.get([key(1)])) == (0, 0, [None])


async def test_entries_take_no_more_memory_than_is_counted():
    store = MemoryStore(64 << 20)
    tracemalloc.start()
    try:
        for n in range(20_000):
            await store.put({key(n): bytes(10)})
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.5 * store.size_bytes < taken <= store.size_bytes


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "127.0.0.1:6379", "redis://127.0.0.1:port"])
def test_a_wrong_address_is_told_at_the_start(url):
    with pytest.raises(BadSetting) as error:
        check_url(url)
    assert error.value.field == "cache_url"


def test_no_address_is_memory():
    check_url("")
