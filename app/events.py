"""The bus: the latest state of everything that is shown, and the changes to it, with ids to resume from."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from app.schema.manage import Change, Kind, Snapshot

#: Changes kept for a client that comes back with `Last-Event-ID`; an older one gets a fresh snapshot.
HISTORY = 2048
#: Changes a slow client may be behind before it is sent a fresh snapshot instead.
BACKLOG = 1024


class Bus:
    """Single-threaded: used from the event loop only. `publish` never blocks and never waits for a reader."""

    def __init__(self) -> None:
        self.state: dict[str, dict[str, Any]] = {}
        # Milliseconds, so that the ids of an earlier daemon are never among ours.
        self.last_id = time.time_ns() // 1_000_000
        self._history: deque[tuple[int, Change]] = deque(maxlen=HISTORY)
        self._wakers: set[asyncio.Event] = set()

    def publish(self, kind: Kind, key: str, value: Any) -> None:
        """``value`` (a schema struct, or `None` to remove) becomes the state of ``kind``/``key``."""
        group = self.state.setdefault(kind, {})
        if value is None:
            if group.pop(key, None) is None:
                return
        else:
            group[key] = value
        self.last_id += 1
        self._history.append((self.last_id, Change(kind=kind, key=key, value=value)))
        for waker in self._wakers:
            waker.set()

    async def subscribe(self, last_id: int | None = None) -> AsyncGenerator[tuple[int, Snapshot | Change], None]:
        """A snapshot, then changes for ever; or only the changes after ``last_id`` if they are still known."""
        waker = asyncio.Event()
        self._wakers.add(waker)
        try:
            position = last_id if last_id is not None and self._knows(last_id) else None
            while True:
                waker.clear()
                if position is None or not self._knows(position) or self.last_id - position > BACKLOG:
                    position = self.last_id
                    yield position, Snapshot(state={kind: dict(group) for kind, group in self.state.items()})
                for number, change in [entry for entry in self._history if entry[0] > position]:
                    yield number, change
                    position = number
                if position == self.last_id:
                    await waker.wait()
        finally:
            self._wakers.discard(waker)

    async def watch(self, kind: Kind, key: str) -> AsyncGenerator[Any, None]:
        """The state of one thing now (`None`: there is none), then each new one, for ever. A slow reader may miss
        some, never the last."""
        async with aclosing(self.subscribe()) as changes:
            async for _, change in changes:
                if isinstance(change, Snapshot):
                    yield change.state.get(kind, {}).get(key)
                elif (change.kind, change.key) == (kind, key):
                    yield change.value

    def _knows(self, number: int) -> bool:
        """Whether every change after ``number`` is still in the history."""
        if number > self.last_id:
            return False  # of an earlier daemon
        return number == self.last_id or (bool(self._history) and self._history[0][0] <= number + 1)
