"""Which slot of the key-value memory a request gets, and what of it can be reused. Pure: values in, values out.

A slot is one llama.cpp sequence id. Its content outlives the request, so that a later one with the same beginning
(the next turn of a chat, the same system prompt) starts where they differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Keep:
    """Forget everything in ``slot`` from position ``count`` on."""

    slot: int
    count: int


@dataclass(frozen=True)
class Copy:
    """Let ``target`` share the first ``count`` cells of ``source`` instead of what it held."""

    source: int
    target: int
    count: int


MemoryAction = Keep | Copy


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens ``a`` and ``b`` share."""
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return length
    return next(i for i in range(length) if a[i] != b[i])


@dataclass
class _Slot:
    tokens: list[int] = field(default_factory=list)
    """What the memory holds, by position."""
    busy: bool = False
    used_at: int = 0


class KvSlots:
    """``count`` slots. ``reuse`` False for models whose state cannot be cut back to a prefix."""

    def __init__(self, count: int, reuse: bool = True):
        self._slots = [_Slot() for _ in range(count)]
        self._reuse = reuse
        self._clock = 0

    @property
    def has_free(self) -> bool:
        return any(not slot.busy for slot in self._slots)

    @property
    def idle_tokens(self) -> int:
        """Cells held by slots that serve nobody (a shared cell counts in each: an upper bound)."""
        return sum(len(slot.tokens) for slot in self._slots if not slot.busy)

    def take(self, tokens: list[int], reuse: bool = True) -> tuple[int, int, MemoryAction]:
        """Choose a free slot for ``tokens``: (slot, leading tokens that need no computing, what to do first).

        The slot whose content this request continues, else an empty one, else the least recently used; the lowest
        number wins a tie. A longer prefix found in any other slot, busy ones included, is shared from there. The
        last token is never reused: its logits are what the request is for.
        """
        shared = [0] * len(self._slots)
        if reuse and self._reuse:
            shared = [min(common_prefix(slot.tokens, tokens), len(tokens) - 1) for slot in self._slots]
        free = [i for i, slot in enumerate(self._slots) if not slot.busy]
        best = max(range(len(self._slots)), key=lambda i: (shared[i], i in free, -i))
        # Cutting a slot back by more than it keeps would throw away another conversation.
        continued = [i for i in free if shared[i] == shared[best] and 0 < self._size(i) <= 2 * shared[i]]
        target = continued[0] if continued else min(free, key=lambda i: (self._age(i), i))
        count = shared[best]
        slot = self._slots[target]
        slot.busy, slot.tokens = True, tokens[:count]
        return target, count, Keep(target, count) if target == best or not count else Copy(best, target, count)

    def _size(self, index: int) -> int:
        return len(self._slots[index].tokens)

    def _age(self, index: int) -> int:
        slot = self._slots[index]
        return slot.used_at if slot.tokens else -1

    def grow(self, slot: int, tokens: Sequence[int]) -> None:
        """``tokens`` were computed into ``slot``."""
        self._slots[slot].tokens.extend(tokens)

    def release(self, slot: int, keep: bool = True) -> MemoryAction | None:
        """The request in ``slot`` is over; ``keep`` False forgets what it left."""
        self._clock += 1
        entry = self._slots[slot]
        entry.busy, entry.used_at = False, self._clock
        return None if keep else self._clear(slot)

    def evict(self) -> MemoryAction | None:
        """Forget the least recently used idle content; None where there is none."""
        held = [i for i, slot in enumerate(self._slots) if not slot.busy and slot.tokens]
        return self._clear(min(held, key=lambda i: self._slots[i].used_at)) if held else None

    def _clear(self, slot: int) -> MemoryAction:
        self._slots[slot].tokens = []
        return Keep(slot, 0)
