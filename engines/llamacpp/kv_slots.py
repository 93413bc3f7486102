"""Which slot of the key-value memory a request gets, and what of it need not be computed. Pure: values in, values out.

A slot is one llama.cpp sequence id. Its content outlives the request, so that a later one with the same beginning
(the next turn of a chat, the same system prompt) starts where they differ. Content that nobody else holds is saved to
host memory before its slot is given away, and restored when it is asked for again. One tree a group says who holds
what; this is its only writer, and the one that decides what the store of saved states forgets.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from engines.llamacpp.prefix_tree import PrefixTree

#: Fewer tokens than this are computed sooner than a saved state is moved.
WORTH_TOKENS = 32


@dataclass(frozen=True)
class Keep:
    """Forget everything in ``slot`` from position ``count`` on."""

    slot: int
    count: int


@dataclass(frozen=True)
class Copy:
    """Let ``target`` hold the first ``count`` tokens of ``source`` instead of what it held."""

    source: int
    target: int
    count: int


@dataclass(frozen=True)
class Move:
    """The ``count`` tokens of ``source`` are from now on in ``target``, instead of what it held."""

    source: int
    target: int
    count: int


@dataclass(frozen=True)
class Save:
    """Put the state of ``slot`` into the store as ``key``, and tell `KvSlots.saved` its size. With a ``window`` that it
    is longer than, ``slot`` may hold anything afterwards: checkpoints are made by cutting it back."""

    slot: int
    key: int


@dataclass(frozen=True)
class Restore:
    """Put the state ``key`` of the store into ``slot``, instead of what it held, and cut it to ``count`` tokens."""

    key: int
    slot: int
    count: int


MemoryAction = Keep | Copy | Move | Save | Restore
Spans = Iterable[tuple[int, int]]


@dataclass(frozen=True)
class Taken:
    slot: int
    count: int
    """Leading tokens that need no computing."""
    actions: list[MemoryAction]
    """What to do first, in this order."""


class Prefix(NamedTuple):
    """What a saved state holds."""

    key: int
    group: str
    tokens: list[int]


@dataclass(slots=True)
class _Entry:
    """A slot, or a saved state."""

    group: str = ""
    used_at: int = 0
    busy: bool = False
    size_bytes: int = 0


class KvSlots:
    """``count`` slots that share ``cells`` cells of memory; with ``streams`` each has its own part of them.

    ``can_cut`` False: the model's state cannot be cut back to a prefix (recurrent models). ``store_bytes`` bounds the
    saved states; 0: nothing is saved. ``window``: of layers with sliding-window attention llama.cpp saves so many
    tokens only, so a saved state that is longer can be cut by one token, or to a multiple of ``window``, where `Save`
    adds a checkpoint; 0: no such layers.
    """

    def __init__(
        self,
        count: int,
        cells: int = 1 << 40,
        *,
        can_cut: bool = True,
        streams: bool = False,
        store_bytes: int = 0,
        window: int = 0,
    ):
        self.can_cut = can_cut
        self._cells = cells
        self._streams = streams
        self._store_bytes = store_bytes
        self._slots = [_Entry() for _ in range(count)]
        self._saved: dict[int, _Entry] = {}
        self._free = count
        self._next_key = count  # Slots and saved states are holders of one tree: their numbers must differ.
        self._trees = {"": PrefixTree()}
        self._window = window
        self._restoring: set[int] = set()
        self._copied: set[int] = set()
        self._clock = 0
        self.cache_bytes = 0
        """Of the saved states."""
        # Unified cells are shared by a mark on each; streams are copied, which a few tokens are not worth.
        self._copy_tokens = WORTH_TOKENS if streams else 1
        for slot in range(count):
            self._trees[""].insert(slot, [])

    # --- slots --------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Slots that serve nobody."""
        return self._free

    @property
    def idle_tokens(self) -> int:
        """Cells held by slots that serve nobody (a shared cell counts in each: an upper bound)."""
        return sum(self.length(i) for i, slot in enumerate(self._slots) if not slot.busy)

    def length(self, slot: int) -> int:
        """Tokens that ``slot`` holds."""
        return self._trees[self._slots[slot].group].length(slot)

    def reusable(self, tokens: list[int], group: str = "", spans: Spans = ()) -> int:
        """How many leading ``tokens`` `take` would find computed."""
        tree = self._trees.get(group)
        return max((shared for _, shared in self._matches(tree, tokens, spans)), default=0) if tree else 0

    def take(self, tokens: list[int], reuse: bool = True, group: str = "", spans: Spans = ()) -> Taken:
        """Give a free slot to a request; ``spans`` (start, count) are reused whole or not at all.

        What the request continues in its place is worth most, then what is copied from any slot, busy ones included,
        then what is restored. The last token is never reused: its logits are what the request is for.
        """
        tree = self._tree(group)
        shared: dict[int, int] = {}
        saved, saved_count = -1, 0
        for holder, count in self._matches(tree, tokens, spans) if reuse else ():
            if holder < len(self._slots):
                shared[holder] = count
            elif count > saved_count and self._fits(tree.length(holder)):
                saved, saved_count = holder, count
        source = max(shared, key=lambda i: (shared[i], not self._slots[i].busy, -i), default=-1)
        best = shared.get(source, 0)
        free = [i for i, slot in enumerate(self._slots) if not slot.busy]
        # llama.cpp copies between streams at the next decode, so what is yet to be copied must not be restored over.
        untouched = [i for i in free if i not in self._copied]
        restoring = saved_count >= best + WORTH_TOKENS and bool(untouched)
        kept, enough = ({}, -1) if restoring else (shared, best - self._copy_tokens)
        target = min(
            untouched if restoring else free,
            key=lambda i: (self._gaps_made(i), *self._cost(i, kept.get(i, 0), enough)),
        )
        actions: list[MemoryAction] = []
        count = kept.get(target, 0)
        if restoring:
            actions += self._make_cells(tree.length(saved), target)
            actions += self._save_before(target, 0)
            actions.append(self._restore(saved, target, saved_count))
            count = saved_count
        elif best > count and best - count >= self._copy_tokens:
            actions += self._save_before(target, 0)
            actions.append(Copy(source, target, best))
            if self._streams:
                self._copied.add(source)
            count = best
        else:
            actions += self._save_before(target, count)
            match actions:
                case [Save(_, key)] if count and 0 < self._window < tree.length(key):
                    count = 0 if target in self._copied else self._cut_point(key, count)
                    actions.append(self._restore(key, target, count) if count else Keep(target, 0))
                case _:
                    actions.append(Keep(target, count))
        self._fill(target, group, tokens[:count])
        self._slots[target].busy = True
        self._free -= 1
        return Taken(target, count, actions)

    def grow(self, slot: int, tokens: list[int]) -> None:
        """``tokens`` were computed into ``slot``."""
        self._trees[self._slots[slot].group].extend(slot, tokens)

    def release(self, slot: int, keep: bool = True) -> Keep:
        """The request in ``slot`` is over; ``keep`` False forgets what it left."""
        entry = self._slots[slot]
        entry.busy = False
        self._free += 1
        self._touch(entry)
        return Keep(slot, self.length(slot)) if keep else self.clear(slot)

    def clear(self, slot: int) -> Keep:
        """Forget what ``slot`` holds."""
        self._fill(slot, self._slots[slot].group, [])
        return Keep(slot, 0)

    def evict(self) -> list[MemoryAction]:
        """Forget the least recently used idle content, saving it first if that is worth it; empty: there is none."""
        return self._evict(-1)

    @property
    def has_gap(self) -> bool:
        """Whether the busy slots are not neighbours: with streams, llama.cpp makes one pass over the weights for every
        run of neighbours."""
        if not self._streams or not self._free:
            return False
        busy = [i for i, slot in enumerate(self._slots) if slot.busy]
        return bool(busy) and busy[-1] - busy[0] >= len(busy)

    def close_gap(self) -> tuple[list[MemoryAction], Move]:
        """Give the first gap to what is in the last busy slot: what to do before, and the move."""
        busy = [i for i, slot in enumerate(self._slots) if slot.busy]
        source, target = busy[-1], next(i for i in range(busy[0], busy[-1]) if not self._slots[i].busy)
        actions, move = self._save_before(target, 0), Move(source, target, self.length(source))
        old, new = self._slots[source], self._slots[target]
        self._trees[new.group].remove(target)
        self._trees[old.group].rename(source, target)
        self._trees[old.group].insert(source, [])
        self._slots[source], self._slots[target] = _Entry(old.group), old
        return actions, move

    # --- saved states -------------------------------------------------------------------------------------

    def saved(self, key: int, size_bytes: int) -> list[int]:
        """The state ``key`` is in the store; 0 bytes: it could not be saved. The keys that the store shall drop:
        this one if it is too large, what it contains, and the least recently used beyond the bound."""
        entry = self._saved.get(key)
        if not entry or not 0 < size_bytes <= self._store_bytes:
            self.forget(key)
            return [key]
        self.cache_bytes += size_bytes - entry.size_bytes
        entry.size_bytes = size_bytes
        dropped: list[int] = []
        if self.can_cut:
            held = self._trees[entry.group].prefixes_of(key)
            dropped += (k for k in held if k in self._saved and k not in self._restoring)
        beyond = self.cache_bytes - sum(self._saved[k].size_bytes for k in dropped) - self._store_bytes
        for k in sorted(self._saved, key=lambda k: self._saved[k].used_at) if beyond > 0 else ():
            if beyond > 0 and k not in dropped:
                dropped.append(k)
                beyond -= self._saved[k].size_bytes
        for k in dropped:
            self.forget(k)
        return dropped

    def restored(self) -> None:
        """The actions that were given out so far are done: what they restore may give way to what contains it."""
        self._restoring.clear()

    def decoded(self) -> None:
        """llama.cpp has made the copies that it was asked for."""
        self._copied.clear()

    def forget(self, key: int) -> None:
        """The state ``key`` is not in the store any more."""
        if entry := self._saved.pop(key, None):
            self.cache_bytes -= entry.size_bytes
            self._trees[entry.group].remove(key)
            self._restoring.discard(key)

    def adopt(self, group: str, tokens: list[int], size_bytes: int) -> int | None:
        """The key for a state that an earlier load has saved, given the most recently used first; None where it is of
        no use here."""
        largest = self._cells // len(self._slots) if self._streams else self._cells
        if not tokens or len(tokens) > largest or self.cache_bytes + size_bytes > self._store_bytes:
            return None
        key = self._new_key(group, tokens)
        entry = self._saved[key]
        entry.size_bytes, entry.used_at = size_bytes, -key
        self.cache_bytes += size_bytes
        return key

    def save_all(self) -> list[MemoryAction]:
        """Save what the slots hold and nobody else does, the most recently used last."""
        order = sorted(range(len(self._slots)), key=lambda i: (self._slots[i].busy, self._slots[i].used_at))
        return [action for slot in order for action in self._save_before(slot, 0)]

    def prefixes(self) -> list[Prefix]:
        """All saved states, the least recently used first."""
        order = sorted(self._saved, key=lambda key: self._saved[key].used_at)
        return [Prefix(k, (group := self._saved[k].group), self._trees[group].tokens(k)) for k in order]

    def check(self) -> None:
        """Raise `AssertionError` where the parts disagree: for tests."""
        held = {(slot.group, i) for i, slot in enumerate(self._slots)}
        held |= {(entry.group, key) for key, entry in self._saved.items()}
        for group, tree in self._trees.items():
            tree.check()
            assert len(tree) == sum(g == group for g, _ in held)
        assert all(holder in self._trees[group] for group, holder in held)
        assert self._free == sum(not slot.busy for slot in self._slots)
        assert self.cache_bytes == sum(entry.size_bytes for entry in self._saved.values())

    # --- inside -------------------------------------------------------------------------------------------

    def _tree(self, group: str) -> PrefixTree:
        return self._trees.setdefault(group, PrefixTree())

    def _matches(self, tree: PrefixTree, tokens: list[int], spans: Spans) -> list[tuple[int, int]]:
        """As `PrefixTree.matches`, but never ending inside a span, and never taking the last token."""
        limit = len(tokens) - 1
        whole = not self.can_cut
        matches = list(tree.matches(tokens, limit, whole))
        if self._window:
            matches = [(h, n if h < len(self._slots) else self._cut_point(h, n)) for h, n in matches]
        for start, count in spans:
            if whole:
                matches = [(h, n) for h, n in matches if not start < n < start + count]
            else:
                matches = [(h, start if start < n < start + count else n) for h, n in matches]
                if self._window:
                    matches = [(h, n) for h, n in matches if h < len(self._slots) or self._cut_point(h, n) == n]
        return [(holder, shared) for holder, shared in matches if shared]

    def _cut_point(self, key: int, count: int) -> int:
        """To how many tokens the saved state ``key`` can be cut that are at most ``count``."""
        length = self._trees[self._saved[key].group].length(key)
        if not self._window or length <= self._window or count >= length - 1:
            return count
        return count // self._window * self._window

    def _restore(self, key: int, slot: int, count: int) -> Restore:
        self._restoring.add(key)
        self._touch(self._saved[key])
        return Restore(key, slot, count)

    def _gaps_made(self, slot: int) -> int:
        """By how many the runs of neighbouring busy slots grow when ``slot`` is taken too."""
        if not self._streams:
            return 0
        neighbours = [i for i in (slot - 1, slot + 1) if 0 <= i < len(self._slots)]
        return 1 - sum(self._slots[i].busy for i in neighbours)

    def _cost(self, slot: int, kept: int, enough: int) -> tuple[bool, bool, int, int, int]:
        """What speaks against taking ``slot``, of which ``kept`` tokens stay: that it must be filled from elsewhere,
        that something goes which nobody else holds, that little stays, that it was used lately."""
        loses = self._loss(slot, kept) >= WORTH_TOKENS
        used_at = self._slots[slot].used_at if self.length(slot) else 0
        return loses or kept <= enough, loses, -(kept // WORTH_TOKENS), used_at, slot

    def _loss(self, slot: int, kept: int) -> int:
        """Tokens that nobody holds any more once ``slot`` is cut to ``kept``."""
        tree = self._trees[self._slots[slot].group]
        if self.can_cut:
            return tree.length(slot) - max(kept, tree.unique_from(slot))
        alone = not any(tree.length(other) == tree.length(slot) for other in tree.prefixes_of(slot))
        return tree.length(slot) if alone and kept < tree.length(slot) else 0

    def _save_before(self, slot: int, kept: int) -> list[MemoryAction]:
        """``slot`` is about to be cut to ``kept`` tokens."""
        group = self._slots[slot].group
        tree = self._trees[group]
        if self._loss(slot, kept) < WORTH_TOKENS or not self._room_for(tree.length(slot)):
            return []
        return [Save(slot, self._new_key(group, tree.tokens(slot)))]

    def _room_for(self, tokens: int) -> bool:
        """Whether the store could take a state of so many tokens, judged by the last one."""
        last = next(reversed(self._saved), None)
        if last is None or not self._saved[last].size_bytes:
            return self._store_bytes > 0
        entry = self._saved[last]
        return entry.size_bytes * tokens <= self._store_bytes * self._trees[entry.group].length(last)

    def _new_key(self, group: str, tokens: list[int]) -> int:
        key = self._next_key
        self._next_key += 1
        self._saved[key] = _Entry(group)
        self._touch(self._saved[key])
        self._tree(group).insert(key, tokens)
        return key

    def _fits(self, tokens: int) -> bool:
        """Whether a state of ``tokens`` can be put beside what running requests hold."""
        if self._streams:
            return True
        return tokens + sum(self.length(i) for i, slot in enumerate(self._slots) if slot.busy) <= self._cells

    def _make_cells(self, tokens: int, target: int) -> list[MemoryAction]:
        """A state is put back whole and cut then, so the memory must have room for all of it."""
        actions: list[MemoryAction] = []
        if self._streams:
            return actions
        while tokens + sum(map(self.length, range(len(self._slots)))) - self.length(target) > self._cells:
            actions += self._evict(target)
        return actions

    def _evict(self, spared: int) -> list[MemoryAction]:
        idle = [i for i, slot in enumerate(self._slots) if not slot.busy and i != spared and self.length(i)]
        if not idle:
            return []
        slot = min(idle, key=lambda i: self._slots[i].used_at)
        return [*self._save_before(slot, 0), self.clear(slot)]

    def _fill(self, slot: int, group: str, tokens: list[int]) -> None:
        self._trees[self._slots[slot].group].remove(slot)
        self._slots[slot].group = group
        self._tree(group).insert(slot, tokens)

    def _touch(self, entry: _Entry) -> None:
        self._clock += 1
        entry.used_at = self._clock
