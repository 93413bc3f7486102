"""Regions of shared memory, against real ones."""

import os
import sys
import uuid
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest

from app.api.kserve import shared_memory
from app.api.kserve.parameters import Place
from app.api.kserve.shared_memory import MOST_REGIONS, Region, Regions, SharedMemoryUnavailable
from app.errors import Conflict, InvalidInput, NotFound


def descriptors():
    return psutil.Process().num_fds()


posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX shared memory")


@pytest.fixture
def memory():
    shared = SharedMemory(f"pilothouse-test-{uuid.uuid4().hex}", create=True, size=64)
    shared.buf[:64] = bytes(range(64))
    yield shared
    shared.close()
    shared.unlink()


@pytest.fixture(params=["file", "mapped"] if sys.platform == "linux" else ["mapped"])
def regions(request):
    made = Regions(mapped=request.param == "mapped")
    yield made
    made.unregister()


@posix
def test_a_region_is_read_and_written_within_its_bounds(regions, memory):
    regions.register("r", memory.name, 8, 32)
    assert regions.read(Place("r", 0, 4)) == bytes([8, 9, 10, 11])
    assert regions.read(Place("r", 30, 2)) == bytes([38, 39])
    regions.write(Place("r", 2, 8), b"abc")
    assert bytes(memory.buf[8:16]) == bytes([8, 9]) + b"abc" + bytes([13, 14, 15])
    assert regions.read(Place("r", 32, 0)) == b""
    regions.write(Place("r", 32, 0), b"")


@posix
@pytest.mark.parametrize(("offset", "size"), [(0, 33), (32, 1), (33, 0), (1 << 52, 1)])
def test_nothing_beyond_a_region_is_touched(regions, memory, offset, size):
    regions.register("r", memory.name, 8, 32)
    with pytest.raises(InvalidInput, match="do not fit"):
        regions.read(Place("r", offset, size))
    with pytest.raises(InvalidInput, match="do not fit"):
        regions.write(Place("r", offset, size), b"x" * min(size, 8))
    assert bytes(memory.buf[:64]) == bytes(range(64))


@posix
def test_an_output_larger_than_its_place_is_refused(regions, memory):
    regions.register("r", memory.name, 0, 64)
    with pytest.raises(InvalidInput, match="has 5 bytes"):
        regions.write(Place("r", 0, 4), b"12345")


@posix
def test_memory_that_shrank_is_an_error_and_does_not_end_us_or_grow_again(regions, memory):
    regions.register("r", memory.name, 0, 64)
    os.truncate(f"/dev/shm/{memory.name}", 16)
    with pytest.raises(InvalidInput, match="smaller than it was"):
        regions.read(Place("r", 0, 64))
    with pytest.raises(InvalidInput, match="smaller than it was"):
        regions.write(Place("r", 0, 64), bytes(64))
    assert Path(f"/dev/shm/{memory.name}").stat().st_size == 16
    assert regions.read(Place("r", 0, 16)) == bytes(range(16))


@posix
@pytest.mark.parametrize("slash", ["", "/"])
def test_the_key_may_begin_with_a_slash(regions, memory, slash):
    key = slash + memory.name.removeprefix("/")
    regions.register("r", key, 0, 64)
    (region,) = regions.status("r")
    assert isinstance(region, Region)
    assert (region.name, region.key, region.offset, region.size_bytes) == ("r", key, 0, 64)


@posix
@pytest.mark.parametrize(
    "key", ["", "/", "..", "/..", "/.", "a/b", "/a/b", "../../etc/passwd", "//x", "a\0b", "/" + "x" * 300, "ü" * 200]
)
def test_only_names_of_shared_memory_are_keys(regions, key):
    with pytest.raises(InvalidInput, match="no name of shared memory"):
        regions.register("r", key, 0, 1)
    assert regions.status() == []


@posix
def test_memory_that_is_not_there_or_too_small_is_refused_and_leaves_no_descriptor(regions, memory):
    before = descriptors()
    with pytest.raises(InvalidInput, match="cannot be opened"):
        regions.register("r", f"missing-{uuid.uuid4().hex}", 0, 1)
    with pytest.raises(InvalidInput, match="has 64 bytes"):
        regions.register("r", memory.name, 60, 5)
    with pytest.raises(InvalidInput, match="at least 1"):
        regions.register("r", memory.name, 0, 0)
    with pytest.raises(InvalidInput, match="negative"):
        regions.register("r", memory.name, -1, 1)
    assert descriptors() == before


@posix
def test_a_name_is_registered_once_until_it_is_given_up(regions, memory):
    before = descriptors()
    regions.register("r", memory.name, 0, 8)
    with pytest.raises(Conflict, match="registered already"):
        regions.register("r", memory.name, 0, 8)
    regions.unregister("r")
    regions.unregister("r")  # Triton does not mind either
    regions.register("r", memory.name, 0, 8)
    regions.register("s", memory.name, 8, 8)
    assert [region.name for region in regions.status()] == ["r", "s"]
    regions.unregister()
    assert regions.status() == []
    assert descriptors() == before


@posix
def test_regions_are_bounded_in_number(regions, memory):
    for n in range(MOST_REGIONS):
        regions.register(str(n), memory.name, 0, 8)
    with pytest.raises(Conflict, match=str(MOST_REGIONS)):
        regions.register("one more", memory.name, 0, 8)


def test_a_region_that_is_not_there(regions):
    with pytest.raises(NotFound):
        regions.status("nobody")
    with pytest.raises(InvalidInput, match="no shared memory region"):
        regions.read(Place("nobody", 0, 0))


def test_where_there_is_no_posix_shared_memory_that_is_said(regions, monkeypatch):
    monkeypatch.setattr(shared_memory, "_posixshmem", None)
    with pytest.raises(SharedMemoryUnavailable) as caught:
        regions.register("r", "key", 0, 1)
    assert caught.value.status == 400
