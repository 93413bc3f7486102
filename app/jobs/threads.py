"""Blocking work beside the event loop, that ends when its caller is cancelled."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """Raised inside the thread: whoever wanted the result does so no longer."""


async def in_thread(work: Callable[[Callable[[], None]], T]) -> T:
    """``work(check)`` in a thread; ``check()`` raises `Stopped` in it once the caller was cancelled.

    Returns, also by cancellation, only when the thread is through: nothing writes on afterwards.
    """
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Stopped

    task = asyncio.ensure_future(asyncio.to_thread(work, check))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([task])
        task.exception()  # seen: it is `Stopped`, or no longer of interest
        raise
