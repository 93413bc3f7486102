"""Answers that are given again to equal requests; equal requests at the same time are computed once."""

import asyncio
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.dataplane.caching import control
from app.dataplane.caching.key import Keys
from app.dataplane.caching.store import Store
from app.dataplane.indices import renumbered
from app.errors import DeadlineExceeded
from app.monitoring.metrics import RouteMetrics

if TYPE_CHECKING:
    from app.dataplane.caching.text import Writing

_TOOK = struct.Struct("<d")

Compute = Callable[[list[int]], Awaitable[list[bytes]]]


@dataclass(slots=True)
class Kept:
    """One answer, encoded. ``hit``: it was not computed for this caller."""

    body: memoryview
    hit: bool


class _Flight:
    """Answers that are being computed, for as long as somebody waits for them."""

    __slots__ = ("keys", "result", "task", "waiters")

    def __init__(self, keys: list[bytes]):
        self.keys = keys
        self.result: asyncio.Future[dict[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self.result.add_done_callback(_look_at)
        self.waiters = 0
        self.task: asyncio.Task[None] | None = None


def _look_at(result: "asyncio.Future[Any]") -> None:
    """Nobody may be left to be told of an error."""
    if not result.cancelled():
        result.exception()


class ResponseCache:
    """Of one deployment. ``keys`` gives the keys of its requests."""

    def __init__(self, store: Store, keys: Keys, metrics: RouteMetrics):
        self.keys = keys
        self.store = store
        self.metrics = metrics
        self._flights: dict[bytes, _Flight] = {}
        self.writings: dict[bytes, Writing] = {}
        """Texts that are being written now."""
        self._evictions = self._errors = 0

    async def answers(self, keys: Sequence[bytes], compute: Compute, timeout_s: float, look: bool = True) -> list[Kept]:
        """What is kept under each of ``keys``, in order; the rest is computed, once for all that ask for it.

        ``compute(which)`` gives the encoded answers of the keys at these positions. It goes on when this caller goes
        away, as long as another one waits. An error that names an entry by its position among ``which`` is told by its
        position among ``keys``; errors are not kept. ``look`` false: nothing that is kept may do. Raises
        `PilothouseError`, `DeadlineExceeded` after ``timeout_s``.
        """
        began = time.perf_counter()
        may_do, keep = control.wishes()
        look = look and may_do
        if not keep:
            return [Kept(memoryview(body), False) for body in await compute(list(range(len(keys))))]
        found = await self.store.get(keys) if look else [None] * len(keys)
        looked_s = time.perf_counter() - began
        answers = {key: Kept(self._hit(entry), True) for key, entry in zip(keys, found, strict=True) if entry}
        hits = len(answers)
        if hits < len(keys):
            await self._complete(keys, answers, compute, began + timeout_s, look)
        self._count([kept.hit for kept in answers.values()], looked_s, look)
        return [answers[key] for key in keys]

    def _hit(self, entry: bytes) -> memoryview:
        self.metrics.cache_saved_s += _TOOK.unpack_from(entry)[0]
        return memoryview(entry)[_TOOK.size :]

    def _count(self, hits: Sequence[bool], looked_s: float, look: bool) -> None:
        metrics, found, hit = self.metrics, sum(hits), all(hits)
        metrics.cache_found += found
        metrics.cache_computed += len(hits) - found
        if look:
            metrics.cache_hits += hit
            metrics.cache_misses += not hit
            if hit:
                metrics.cache_hit_s += looked_s
            else:
                metrics.cache_miss_s += looked_s
        control.served(hit)

    async def _complete(
        self, keys: Sequence[bytes], answers: dict[bytes, Kept], compute: Compute, deadline: float, look: bool
    ) -> None:
        """Fill ``answers`` with what is not there: from those who compute it already, and by computing the rest."""
        positions: dict[bytes, int] = {}
        for position, key in enumerate(keys):
            positions.setdefault(key, position)
        join = look
        while wanted := [key for key in positions if key not in answers]:
            shared = {key: self._flights[key] for key in wanted if key in self._flights} if join else {}
            own = [key for key in wanted if key not in shared]
            flights = set(shared.values())
            ours = None
            if own:
                ours = self._start(own, compute, [positions[key] for key in own])
                flights.add(ours)
            await self._wait(flights, deadline)
            for flight in flights:
                error = flight.result.exception()
                if error is None:
                    entries = flight.result.result()
                    for key in own if flight is ours else [key for key, which in shared.items() if which is flight]:
                        body = memoryview(entries[key])[_TOOK.size :] if flight is ours else self._hit(entries[key])
                        answers[key] = Kept(body, flight is not ours)
                elif flight is ours or (len(flight.keys) == 1 and not isinstance(error, DeadlineExceeded)):
                    raise renumbered(error, [positions[key] for key in flight.keys])
            # What is left failed with others: by an entry that is not ours, or a shorter time than ours.
            join = False

    def _start(self, keys: list[bytes], compute: Compute, which: list[int]) -> _Flight:
        flight = _Flight(keys)
        self._flights.update(dict.fromkeys(keys, flight))
        flight.task = asyncio.create_task(self._fly(flight, compute, which))
        return flight

    async def _fly(self, flight: _Flight, compute: Compute, which: list[int]) -> None:
        began = time.perf_counter()
        try:
            bodies = await compute(which)
            done = time.perf_counter()
            took = _TOOK.pack((done - began) / len(bodies))
            entries = {key: took + body for key, body in zip(flight.keys, bodies, strict=True)}
        except asyncio.CancelledError:
            flight.result.cancel()
        except Exception as error:
            flight.result.set_exception(error)
        else:
            flight.result.set_result(entries)
            await self.store.put({key: entry for key, entry in entries.items() if self._flights.get(key) is flight})
            self.metrics.cache_miss_s += time.perf_counter() - done
        finally:
            self._land(flight)

    def _land(self, flight: _Flight) -> None:
        for key in flight.keys:
            if self._flights.get(key) is flight:
                del self._flights[key]

    async def _wait(self, flights: set[_Flight], deadline: float) -> None:
        for flight in flights:
            flight.waiters += 1
        try:
            left_s = max(0.0, deadline - time.perf_counter())
            _, late = await asyncio.wait({flight.result for flight in flights}, timeout=left_s)
            if late:
                raise DeadlineExceeded("the request took longer than its timeout", hint="retry later")
        finally:
            for flight in flights:
                flight.waiters -= 1
                if not flight.waiters and not flight.result.done() and flight.task is not None:
                    self._land(flight)  # nobody may join what is being given up
                    flight.task.cancel()

    # --- texts ----------------------------------------------------------------------------------------

    async def find(self, key: bytes) -> memoryview | None:
        """The text that is kept under ``key``."""
        began = time.perf_counter()
        [entry] = await self.store.get([key])
        if entry is None:
            self.metrics.cache_miss_s += time.perf_counter() - began
            return None
        self.metrics.cache_hit_s += time.perf_counter() - began
        return self._hit(entry)

    async def keep(self, key: bytes, writing: "Writing", body: bytes, took_s: float) -> None:
        """Unless it was forgotten meanwhile, or a newer one is being written."""
        if self.writings.get(key) is writing:
            await self.store.put({key: _TOOK.pack(took_s) + body})

    # --- all of it ------------------------------------------------------------------------------------

    async def clear(self) -> None:
        """Forget every answer, also those that are being computed now."""
        self._flights.clear()
        self.writings.clear()
        await self.store.clear()

    async def close(self) -> None:
        await self.store.close()

    def refresh(self) -> None:
        """Once a second: the gauges."""
        metrics, store = self.metrics, self.store
        metrics.cache_bytes, metrics.cache_items = store.size_bytes, len(store)
        metrics.cache_evictions += store.evictions - self._evictions
        metrics.cache_errors += store.errors - self._errors
        self._evictions, self._errors = store.evictions, store.errors
