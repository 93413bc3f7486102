"""Which tokens of which sequences the next decode computes. Pure: it calls no engine and knows no time.

Running sequences come first, one token each, so that none of them ever misses a step. What is left of the step's
token budget goes to prompts, in the order in which they were admitted, in pieces: a long prompt delays the others
by a bounded time. Sequences are admitted first come, first served, into slots of the key-value memory; when it is
full, idle prefixes are forgotten first, then the youngest sequence goes back to the head of the queue.
"""

from collections import deque
from dataclasses import dataclass, field

from engines.llamacpp.kv_slots import KvSlots, MemoryAction


class QueueFull(Exception):
    """As many sequences wait as may wait."""


@dataclass(eq=False)
class Sequence:
    """``tokens`` is the prompt, then the answer; the first ``computed`` of them are in the memory of ``slot``."""

    id: int
    tokens: list[int]
    reuse: bool = True
    slot: int = -1
    computed: int = 0
    reused: int = 0
    """Leading tokens that were found computed when the sequence was first admitted."""
    admitted: bool = False


@dataclass(frozen=True)
class Work:
    """The next ``count`` tokens of ``sequence``, from position ``start``."""

    sequence: Sequence
    start: int
    count: int
    samples: bool
    """Whether this reaches the end of the sequence, so that a new token can be drawn."""

    @property
    def tokens(self) -> list[int]:
        return self.sequence.tokens[self.start : self.start + self.count]


@dataclass
class Plan:
    """One step: change the memory, in this order, then decode ``work`` (ordered by slot)."""

    actions: list[MemoryAction] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)


class Scheduler:
    """``idle_budget`` tokens a step while no answer is being written, ``busy_budget`` while one is; ``kv_tokens``
    cells in all. A sequence must fit alone: at most ``kv_tokens`` tokens, which its submitter has checked."""

    def __init__(self, slots: KvSlots, busy_budget: int, idle_budget: int, kv_tokens: int, queue_limit: int):
        self._slots = slots
        self._busy_budget, self._idle_budget = busy_budget, idle_budget
        self._kv_tokens = kv_tokens
        self._room = kv_tokens
        """What may be planned with: less than there is after `make_room`, until nothing runs."""
        self._queue_limit = queue_limit
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # in order of arrival
        self._actions: list[MemoryAction] = []

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def kv_used(self) -> float:
        """Share of the cells that running sequences fill, 0 to 1."""
        return min(1.0, sum(s.computed for s in self._running) / self._kv_tokens)

    def submit(self, sequence: Sequence) -> None:
        """Raises `QueueFull`."""
        if len(self._waiting) >= self._queue_limit:
            raise QueueFull
        self._waiting.append(sequence)

    def end(self, sequence: Sequence, keep: bool = True) -> None:
        """Finished, aborted or failed: its slot is free. ``keep`` False forgets what it computed."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._release(sequence, keep and sequence.reuse)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def schedule(self) -> Plan:
        """The next step; no work when there is nothing to do. `commit` it after decoding."""
        while self._needed() > self._room and len(self._running) > 1:
            self._preempt()
        self._admit()
        work = self._share_budget()
        actions, self._actions = self._actions, []
        return Plan(actions, sorted(work, key=lambda w: w.sequence.slot))

    def commit(self, plan: Plan) -> None:
        """``plan`` was decoded."""
        for work in plan.work:
            self._slots.grow(work.sequence.slot, work.tokens)
            work.sequence.computed += work.count

    def make_room(self) -> bool:
        """The memory could not take the last plan after all: plan with less. False where a single sequence does
        not fit, which waiting would not change."""
        if forget := self._slots.evict():
            self._actions.append(forget)
            return True
        self._room = self._needed() - 1
        return len(self._running) > 1

    def _release(self, sequence: Sequence, keep: bool) -> None:
        if action := self._slots.release(sequence.slot, keep):
            self._actions.append(action)
        sequence.slot, sequence.computed = -1, 0

    def _needed(self) -> int:
        return sum(len(s.tokens) for s in self._running)

    def _preempt(self) -> None:
        """Send the youngest back to the head of the queue, to be computed again later."""
        youngest = self._running.pop()
        self._release(youngest, keep=False)
        self._waiting.appendleft(youngest)

    def _admit(self) -> None:
        if not self._running:
            self._room = self._kv_tokens
        while self._waiting and self._slots.has_free:
            # One cell of headroom each, so that a newcomer is not sent back by the very next token.
            needed = self._needed() + len(self._running) + len(self._waiting[0].tokens)
            if self._running and needed > self._room:
                break
            sequence = self._waiting.popleft()
            sequence.slot, sequence.computed, action = self._slots.take(sequence.tokens, sequence.reuse)
            if not sequence.admitted:
                sequence.admitted, sequence.reused = True, sequence.computed
            self._actions.append(action)
            self._running.append(sequence)
        while self._needed() + self._slots.idle_tokens > self._room and (forget := self._slots.evict()):
            self._actions.append(forget)

    def _share_budget(self) -> list[Work]:
        decoding = [s for s in self._running if len(s.tokens) - s.computed == 1]
        prompts = [s for s in self._running if len(s.tokens) - s.computed > 1]
        work = [Work(s, s.computed, 1, True) for s in decoding]
        left = (self._busy_budget if decoding else self._idle_budget) - len(work)
        for sequence in prompts:
            if left <= 0:
                break
            missing = len(sequence.tokens) - sequence.computed
            count = min(left, missing)
            work.append(Work(sequence, sequence.computed, count, samples=count == missing))
            left -= count
        return work
