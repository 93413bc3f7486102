"""What the caller of a request says about kept answers, and whether one served it.

Every protocol has this in the headers of HTTP, so it is not in the neutral calls but beside them: the server sets
`CALLER` for a request, and tells what became of it. Read only where a cache is on.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Literal


class Caller:
    """``header(name)`` gives a header of the request, or `None`."""

    __slots__ = ("_header", "outcome")

    def __init__(self, header: Callable[[bytes], bytes | None]):
        self._header = header
        self.outcome: Literal["", "hit", "miss"] = ""
        """``hit``: a kept answer served all of the request; empty: no cache took part."""

    def wishes(self) -> tuple[bool, bool]:
        """Whether a kept answer may do (``no-cache``: no), and whether the answer may be kept (``no-store``:
        neither)."""
        given = self._header(b"cache-control")
        if given is None:
            return True, True
        words = {word.strip() for word in given.lower().split(b",")}
        keep = b"no-store" not in words
        return keep and b"no-cache" not in words, keep

    def served(self, hit: bool) -> None:
        """A request may make several calls: it was served from the cache when all of them were."""
        self.outcome = "hit" if hit and self.outcome != "miss" else "miss"

    def computed(self) -> None:
        """A part that has no cache was computed."""
        if self.outcome:
            self.outcome = "miss"


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)


def wishes() -> tuple[bool, bool]:
    """See `Caller.wishes`; of the request that is being answered."""
    caller = CALLER.get()
    return (True, True) if caller is None else caller.wishes()


def served(hit: bool) -> None:
    if (caller := CALLER.get()) is not None:
        caller.served(hit)


def computed() -> None:
    if (caller := CALLER.get()) is not None:
        caller.computed()
