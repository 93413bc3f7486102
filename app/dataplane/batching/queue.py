"""Who waits: requests that can share a batch in one bucket, in order of arrival within each priority level. Pure."""

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar

#: Seconds of waiting that outweigh one priority level, so that the lower levels are not starved.
AGEING_S = 5.0
#: Entries that were dropped stay in their lane until it is their turn, or there are more of them than this.
_LOOSE = 64


class Entry(Protocol):
    """What a queue needs to know of a request."""

    key: Hashable
    level: int
    """0 is the most urgent."""
    arrived: float
    rows: int
    left: int
    """Rows that have not been taken."""
    most: int
    """Rows of a batch at most; equal where the keys are."""
    bucket: "Bucket | None"
    """Where it waits; written by the queue only."""


E = TypeVar("E", bound=Entry)


class Bucket(Generic[E]):
    """Requests with equal keys. ``rows`` counts those that wait."""

    __slots__ = ("full", "key", "lanes", "most", "rows")

    def __init__(self, key: Hashable, most: int, levels: int):
        self.key, self.most = key, most
        self.lanes: list[deque[E]] = [deque() for _ in range(levels)]
        self.rows = self.full = 0
        """``full`` is a note of whoever takes batches: how many rows are one; 0 until it is set."""

    def head(self) -> E:
        """The next one. There is one while `rows` is not 0."""
        best: E | None = None
        for lane in self.lanes:
            while lane and lane[0].bucket is not self:
                lane.popleft()
            if lane and (best is None or rank(lane[0]) < rank(best)):
                best = lane[0]
        assert best is not None
        return best

    def __iter__(self) -> Iterator[E]:
        return (entry for lane in self.lanes for entry in lane if entry.bucket is self)


def rank(entry: Entry) -> float:
    """The smaller, the sooner."""
    return entry.arrived + entry.level * AGEING_S


class Queue(Generic[E]):
    """``len()`` counts requests. An entry is at most in one queue, and once."""

    def __init__(self, levels: int = 1):
        self._levels = levels
        self.size = self._dropped = 0
        """Requests that wait; a plain attribute because it is asked several times for each."""
        self.buckets: dict[Hashable, Bucket[E]] = {}

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[E]:
        return (entry for bucket in self.buckets.values() for entry in bucket)

    def _bucket(self, entry: E) -> Bucket[E]:
        bucket = self.buckets.get(entry.key)
        if bucket is None:
            bucket = self.buckets[entry.key] = Bucket(entry.key, entry.most, self._levels)
        bucket.rows += entry.left
        self.size += 1
        entry.bucket = bucket
        return bucket

    def push(self, entry: E) -> Bucket[E]:
        bucket = self._bucket(entry)
        bucket.lanes[entry.level].append(entry)
        return bucket

    def push_back(self, entries: list[E]) -> None:
        """Return what was taken, before all that waits."""
        for entry in reversed(entries):
            self._bucket(entry).lanes[entry.level].appendleft(entry)

    def drop(self, entry: E) -> None:
        """Forget ``entry``; nothing happens where it does not wait."""
        bucket = entry.bucket
        if bucket is None:
            return
        entry.bucket = None
        self.size -= 1
        bucket.rows -= entry.left
        if not bucket.rows:
            del self.buckets[bucket.key]
        self._dropped += 1
        if bucket.rows and self._dropped > _LOOSE + self.size:
            for other in self.buckets.values():
                other.lanes = [deque(one for one in lane if one.bucket is other) for lane in other.lanes]
            self._dropped = 0

    def first(self) -> Bucket[E]:
        """The bucket whose head has waited longest, a level being worth `AGEING_S`. Raises `ValueError` if empty."""
        if len(self.buckets) == 1:
            return next(iter(self.buckets.values()))
        return min(self.buckets.values(), key=lambda bucket: rank(bucket.head()))

    def take(self, bucket: Bucket[E], most: int) -> list[tuple[E, int, int]]:
        """A batch of at most ``most`` rows: (entry, first row, row after the last). Only an entry that is too large for
        any batch is cut, and stays until all of it was taken; another one that alone exceeds ``most`` makes a batch."""
        batch: list[tuple[E, int, int]] = []
        room, lanes = most, bucket.lanes
        waiting = bucket.rows
        while waiting and room > 0:
            if len(lanes) == 1:  # as nearly always: what `head` does, without a call for each
                lane = lanes[0]
                while lane[0].bucket is not bucket:
                    lane.popleft()
                entry = lane[0]
            else:
                entry = bucket.head()
                lane = lanes[entry.level]
            rows, start = entry.left, entry.rows - entry.left
            if rows > room:
                if entry.rows > bucket.most:
                    entry.left -= room
                    waiting -= room
                    batch.append((entry, start, start + room))
                    break
                if batch:
                    break
            room -= rows
            waiting -= rows
            batch.append((entry, start, start + rows))
            lane.popleft()
            entry.bucket = None
            self.size -= 1
        bucket.rows = waiting
        if not waiting:
            del self.buckets[bucket.key]
        return batch
