"""Regions of POSIX shared memory that clients register and that tensors are read from and written to.

A region is read and written through its file descriptor rather than mapped: a client that shrinks what it shared
then gives us a short read, where a mapping would end the daemon with SIGBUS. Reading is the one copy that is made.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from mmap import mmap

from app.api.kserve.parameters import Place
from app.errors import Conflict, InvalidInput, NotFound, PilothouseError

try:
    import _posixshmem  # type: ignore[import-not-found]
except ImportError:  # Windows
    _posixshmem = None

#: Each region holds a file descriptor.
MOST_REGIONS = 256
MOST_NAME = 250


class SharedMemoryUnavailable(PilothouseError):
    status, code = 400, "shared_memory_unavailable"


@dataclass(frozen=True, slots=True)
class Region:
    name: str
    key: str
    offset: int
    """Where in the shared memory object the region begins."""
    size_bytes: int
    descriptor: int


class Regions:
    """Single-threaded. ``mapped``: go through a mapping, where a descriptor of shared memory cannot be read like a
    file's (macOS)."""

    def __init__(self, mapped: bool = sys.platform != "linux"):
        self._regions: dict[str, Region] = {}
        self._mapped = mapped

    def register(self, name: str, key: str, offset: int, size_bytes: int) -> None:
        """``key`` is what `shm_open` takes. Raises `InvalidInput`, `Conflict` where ``name`` is taken,
        `SharedMemoryUnavailable` on Windows."""
        if _posixshmem is None:
            raise SharedMemoryUnavailable(
                "this machine has no POSIX shared memory", hint="send tensors with the request"
            )
        if not name or len(name) > MOST_NAME:
            raise InvalidInput("a region needs a name of 1 to 250 characters", field="region")
        if name in self._regions:
            raise Conflict(f"shared memory region {name!r} is registered already", hint="unregister it first")
        if len(self._regions) >= MOST_REGIONS:
            raise Conflict(f"{MOST_REGIONS} regions are registered already", hint="unregister one")
        if size_bytes < 1:
            raise InvalidInput("byte_size must be at least 1", field="byte_size")
        if offset < 0:
            raise InvalidInput("offset must not be negative", field="offset")
        descriptor = _open(key)
        try:
            have = os.fstat(descriptor).st_size
            if offset + size_bytes > have:
                raise InvalidInput(
                    f"shared memory {key!r} has {have} bytes, offset {offset} and byte_size {size_bytes} do not fit",
                    field="byte_size",
                )
        except BaseException:
            os.close(descriptor)
            raise
        self._regions[name] = Region(name, key, offset, size_bytes, descriptor)

    def status(self, name: str = "") -> list[Region]:
        """The region, or without ``name`` all. Raises `NotFound`."""
        if name and name not in self._regions:
            raise NotFound(f"there is no shared memory region {name!r}", field="region")
        return [self._regions[name]] if name else list(self._regions.values())

    def unregister(self, name: str = "") -> None:
        """Without ``name`` all; that there is none of that name is fine, as with Triton."""
        names: Iterable[str] = [name] if name else list(self._regions)
        for entry in names:
            if region := self._regions.pop(entry, None):
                os.close(region.descriptor)

    def check(self, place: Place) -> Region:
        """Raises `InvalidInput`."""
        region = self._regions.get(place.region)
        if region is None:
            raise InvalidInput(
                f"there is no shared memory region {place.region!r}",
                hint="register it first",
                field="shared_memory_region",
            )
        if place.offset + place.size_bytes > region.size_bytes:
            raise InvalidInput(
                f"region {place.region!r} has {region.size_bytes} bytes, "
                f"offset {place.offset} and byte_size {place.size_bytes} do not fit",
                field="shared_memory_byte_size",
            )
        return region

    def read(self, place: Place) -> bytes:
        region = self.check(place)
        begin = region.offset + place.offset
        self._check_size(region, begin + place.size_bytes)
        if not place.size_bytes:
            return b""
        if self._mapped:
            with mmap(region.descriptor, begin + place.size_bytes) as memory:
                return memory[begin:]
        data = os.pread(region.descriptor, place.size_bytes, begin)
        if len(data) < place.size_bytes:  # more than the kernel copies in one call, or it shrank just now
            data += self.read(Place(place.region, place.offset + len(data), place.size_bytes - len(data)))
        return data

    def write(self, place: Place, data: bytes | memoryview) -> None:
        """Raises `InvalidInput` where ``data`` is larger than ``place``."""
        region = self.check(place)
        if len(data) > place.size_bytes:
            raise InvalidInput(
                f"the output has {len(data)} bytes, region {place.region!r} was offered for {place.size_bytes}",
                field="shared_memory_byte_size",
            )
        begin = region.offset + place.offset
        self._check_size(region, begin + len(data))
        if not len(data):
            return
        if self._mapped:
            with mmap(region.descriptor, begin + len(data)) as memory:
                memory[begin:] = bytes(data)
            return
        view = memoryview(data)
        while view:
            written = os.pwrite(region.descriptor, view, begin)
            view, begin = view[written:], begin + written

    def _check_size(self, region: Region, end: int) -> None:
        """A client may have shrunk it; writing beyond its end would make it grow again."""
        if end > os.fstat(region.descriptor).st_size:
            raise InvalidInput(
                f"shared memory {region.key!r} is smaller than it was when it was registered",
                field="shared_memory_region",
            )


def _open(key: str) -> int:
    """Raises `InvalidInput` for what `shm_open` does not take, and where there is nothing of that name."""
    name = key.removeprefix("/")
    if not name or "/" in name or "\0" in name or name in (".", "..") or len(name.encode()) > MOST_NAME:
        raise InvalidInput(f"key {key!r} is no name of shared memory", hint="one like /name", field="key")
    try:
        return int(_posixshmem.shm_open(f"/{name}", os.O_RDWR, mode=0o600))
    except OSError as error:
        raise InvalidInput(
            f"shared memory {key!r} cannot be opened: {error.strerror}", hint="create it first", field="key"
        ) from None
