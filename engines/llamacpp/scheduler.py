"""Which tokens of which sequences the next decode computes. Pure: it calls no engine and knows no time.

Running sequences come first, one token each (and what is guessed after it), so that none of them ever misses a step.
What is left of the step's token budget goes to prompts, in the order of their rank, in pieces: a long prompt delays
the others by a bounded time. A sequence's rank is its priority, improved by one for every `AGEING` sequences that were
admitted while it waited: sequences are admitted by rank into slots of the key-value memory, and when that is full, idle
prefixes are forgotten first, then the sequence of the last rank goes back to the queue.

A step serves one group (LoRA adapter), because llama.cpp applies adapters to a whole decode; groups take turns.
"""

import itertools
from bisect import insort
from dataclasses import dataclass, field

from engines.llamacpp.kv_slots import Copy, Keep, KvSlots, MemoryAction, Prefix, Restore
from engines.llamacpp.prefix_tree import common_prefix

#: So many admitted sequences later, one that waits counts as one priority better.
AGEING = 16
#: Priorities beyond this count as this, so that nobody waits for more than 2 * 100 * `AGEING` others.
EXTREME_PRIORITY = 100
#: A prompt waits for a prefix that is being computed if it saves so many tokens.
AWAIT_TOKENS = 64
#: A gap between running streams costs a pass over the weights each step, a move about one: wait as long as that to
#: see whether a newcomer fills it.
GAP_STEPS = 2


class QueueFull(Exception):
    """As many sequences wait as may wait."""


@dataclass(eq=False, slots=True)
class Sequence:
    """``tokens`` is the prompt, then the answer; the first ``computed`` of them are in the memory of ``slot``."""

    id: int
    tokens: list[int]
    reuse: bool = True
    priority: int = 0
    """Lower is served earlier."""
    group: str = ""
    """Only sequences of one group are computed together, and share prefixes."""
    spans: list[tuple[int, int]] = field(default_factory=list)
    """(start, count) of tokens that are computed together and alone (an image), ascending."""
    draft: list[int] = field(default_factory=list)
    """Guesses of the tokens to come, to be computed after the last of ``tokens``. `Scheduler.schedule` shortens them
    to what there is room for, `Scheduler.accept` takes them away."""
    slot: int = -1
    computed: int = 0
    reused: int = 0
    """Leading tokens that were found computed when the sequence was first admitted."""
    admitted: bool = False
    rank: tuple[int, int] = (0, 0)
    """Written by `Scheduler.submit`."""
    awaits: tuple["Sequence", int] | None = None
    """A running sequence, and how many of its tokens are worth waiting for. Written by the scheduler."""


@dataclass(slots=True)
class Work:
    """``count`` tokens of ``sequence`` from position ``start``: the next ones, and its draft where it is at its end."""

    sequence: Sequence
    start: int
    count: int
    outputs: int
    """Of how many of the last tokens the distribution of the token after them is wanted: 0 before the end of the
    prompt, else 1, and 1 for each token of the draft."""
    span: int = -1
    """The index of the span that this is, and nothing else; -1: text."""

    @property
    def tokens(self) -> list[int]:
        """To be read before `Scheduler.accept`."""
        tokens = self.sequence.tokens[self.start : self.start + self.count]
        return tokens + self.sequence.draft if self.outputs > 1 else tokens


@dataclass(slots=True)
class Plan:
    """One step: change the memory, in this order, then decode ``work`` (of one group, ordered by slot)."""

    actions: list[MemoryAction] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)


class Scheduler:
    """``idle_budget`` tokens a step while no answer is being written, ``busy_budget`` beside at least as many answers
    as prompts, up to ``idle_budget`` beside fewer; ``kv_tokens`` cells in all. A sequence must fit alone: at most
    ``kv_tokens`` tokens, which its submitter has checked. A sequence that is sent back and has computed less than
    ``save_tokens`` is computed again rather than kept."""

    def __init__(
        self,
        slots: KvSlots,
        busy_budget: int,
        idle_budget: int,
        kv_tokens: int,
        queue_limit: int,
        save_tokens: int = 64,
    ):
        self._slots = slots
        self._busy_budget, self._idle_budget = busy_budget, idle_budget
        self._kv_tokens = kv_tokens
        self._room = kv_tokens
        """What may be planned with: less than there is after `make_room`, until nothing runs."""
        self._queue_limit = queue_limit
        self._save_tokens = save_tokens
        self._waiting: list[Sequence] = []  # by rank
        self._running: list[Sequence] = []  # by rank
        self._turns: list[str] = []  # groups, the one that was served last at the end
        self._actions: list[MemoryAction] = []
        self._arrivals = itertools.count()
        self._admissions = 0
        self._gap_steps = 0
        self.preempted = 0
        """Sequences that were sent back to the queue, since the start."""
        self.drafted = 0
        """Tokens of drafts that were computed, since the start."""
        self.accepted = 0
        """Of them, those that became part of an answer."""

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

    @property
    def cache_bytes(self) -> int:
        """Of the saved states."""
        return self._slots.cache_bytes

    def submit(self, sequence: Sequence) -> None:
        """Raises `QueueFull`."""
        if len(self._waiting) >= self._queue_limit:
            raise QueueFull
        priority = max(-EXTREME_PRIORITY, min(EXTREME_PRIORITY, sequence.priority))
        # All that wait age alike, so their order never changes: who comes later begins that much further behind.
        sequence.rank = (priority * AGEING + self._admissions, next(self._arrivals))
        insort(self._waiting, sequence, key=_rank)

    def end(self, sequence: Sequence, keep: bool = True) -> None:
        """Finished, aborted or failed, in whatever state: its slot is free. ``keep`` False forgets what it computed.
        A sequence that has ended already is ignored."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._release(sequence, keep and sequence.reuse)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def schedule(self) -> Plan:
        """The next step; no work when there is nothing to do. Its actions count as done; `commit` it after decoding,
        or do not where decoding failed."""
        self._slots.restored()
        while self._needed() > self._room and len(self._running) > 1:
            self._preempt(self._running[-1])
        admissions = self._admissions
        if self._waiting:
            self._admit()
        if self._admissions == admissions:
            self._close_gap()
        self._fit_drafts()
        work = self._share_budget()
        actions, self._actions = self._actions, []
        return Plan(actions, work)

    def commit(self, plan: Plan) -> None:
        """``plan`` was decoded. What ended meanwhile is left out."""
        self._slots.decoded()
        for work in plan.work:
            sequence = work.sequence
            if sequence.slot >= 0:
                drafted = max(0, work.outputs - 1)
                self.drafted += drafted
                self._slots.grow(sequence.slot, sequence.tokens[work.start : work.start + work.count - drafted])
                sequence.computed += work.count - drafted

    def accept(self, sequence: Sequence, tokens: list[int]) -> None:
        """``tokens`` come next, after a step that wanted ``sequence``'s outputs: those of its draft that the model
        would have chosen, and the one drawn after them. What else was computed of the draft is cut away."""
        draft, sequence.draft = sequence.draft, []
        sequence.tokens += tokens
        if draft:
            right = min(common_prefix(draft, tokens), len(tokens) - 1)
            self.accepted += right
            sequence.computed += right
            self._slots.grow(sequence.slot, tokens[:right])
            if right < len(draft):
                self._actions.append(Keep(sequence.slot, sequence.computed))

    def make_room(self) -> bool:
        """The memory could not take the last plan after all: plan with less. False where a single sequence does
        not fit, which waiting would not change."""
        if actions := self._slots.evict():
            self._actions += actions
            return True
        self._room = self._needed() - 1
        return len(self._running) > 1

    # --- saved states -------------------------------------------------------------------------------------

    def saved(self, key: int, size_bytes: int) -> list[int]:
        """As `KvSlots.saved`."""
        return self._slots.saved(key, size_bytes)

    def not_restored(self, actions: list[MemoryAction]) -> list[MemoryAction]:
        """The first of ``actions``, a `Restore`, failed, so the store shall drop its key: what to do of the others,
        which come after it in the plan. Do not decode then, but schedule anew: what the slot should have held, and
        what would have been copied from there, is computed."""
        failed, *others = actions
        assert isinstance(failed, Restore)
        self._slots.forget(failed.key)
        empty = {failed.slot}
        possible: list[MemoryAction] = []
        for action in others:
            if isinstance(action, Copy) and action.source in empty:
                empty.add(action.target)
            else:
                possible.append(action)
        self._actions += (self._slots.clear(slot) for slot in sorted(empty))
        for sequence in self._running:
            if sequence.slot in empty:
                sequence.computed = sequence.reused = 0
        return possible

    def adopt(self, group: str, tokens: list[int], size_bytes: int) -> int | None:
        """As `KvSlots.adopt`."""
        return self._slots.adopt(group, tokens, size_bytes)

    def save_all(self) -> list[MemoryAction]:
        """What to do before unloading: everything worth keeping gets into the store."""
        actions = self._actions + self._slots.save_all()
        self._actions = []
        return actions

    def prefixes(self) -> list[Prefix]:
        """As `KvSlots.prefixes`."""
        return self._slots.prefixes()

    # --- admission ----------------------------------------------------------------------------------------

    def _release(self, sequence: Sequence, keep: bool) -> None:
        self._actions.append(self._slots.release(sequence.slot, keep))
        sequence.slot, sequence.computed = -1, 0

    def _needed(self) -> int:
        return sum(len(s.tokens) for s in self._running)

    def _preempt(self, sequence: Sequence) -> None:
        """Send ``sequence`` back to the queue. What it computed stays as an idle prefix, which is saved if its cells
        are needed before it comes again."""
        self.preempted += 1
        self._running.remove(sequence)
        self._release(sequence, keep=sequence.reuse and sequence.computed >= self._save_tokens)
        sequence.draft = []
        insort(self._waiting, sequence, key=_rank)

    def _admit(self) -> None:
        if not self._running:
            self._room = self._kv_tokens
        index = reserved_slots = reserved_tokens = 0
        while index < len(self._waiting):
            sequence = self._waiting[index]
            # One cell of headroom each, so that a newcomer is not sent back by the very next token.
            needed = self._needed() + len(self._running) + reserved_tokens + len(sequence.tokens)
            if self._running and needed > self._room:
                break
            if self._slots.free <= reserved_slots and not self._make_way(sequence, reserved_slots):
                break
            if self._awaits_prefix(sequence):
                # It keeps its place: those behind it may have only what it leaves.
                index, reserved_slots = index + 1, reserved_slots + 1
                reserved_tokens += len(sequence.tokens)
                continue
            del self._waiting[index]
            self._start(sequence)

    def _start(self, sequence: Sequence) -> None:
        taken = self._slots.take(sequence.tokens, sequence.reuse, sequence.group, sequence.spans)
        sequence.slot, sequence.computed = taken.slot, taken.count
        if not sequence.admitted:
            sequence.admitted, sequence.reused = True, taken.count
            self._admissions += 1
        self._actions += taken.actions
        insort(self._running, sequence, key=_rank)
        if sequence.group not in self._turns:
            self._turns.append(sequence.group)

    def _make_way(self, sequence: Sequence, reserved_slots: int) -> bool:
        """Whether a running sequence of worse priority gave up its slot for ``sequence``."""
        last = self._running[-1] if self._running else None
        if reserved_slots or not last or last.priority <= sequence.priority or last.rank <= sequence.rank:
            return False
        self._preempt(last)
        return True

    def _awaits_prefix(self, sequence: Sequence) -> bool:
        """Whether a running sequence is computing a prefix that ``sequence`` had better share than compute too.

        Prompts are computed by rank, so behind one that is no less urgent nothing is lost by waiting for it.
        """
        if not sequence.reuse or not self._slots.can_cut:
            return False
        if sequence.awaits:
            other, count = sequence.awaits
            if other.slot >= 0 and other.computed < count:
                return True
            sequence.awaits = None
        candidates = [
            s
            for s in self._running
            if s.group == sequence.group and s.rank < sequence.rank and not _is_at_end(s)
        ]
        if not candidates:
            return False
        limit = len(sequence.tokens) - 1
        shared = {s: min(common_prefix(s.tokens, sequence.tokens), limit) for s in candidates}
        best = max(candidates, key=lambda s: shared[s])
        if shared[best] <= best.computed:
            return False
        if shared[best] < self._slots.reusable(sequence.tokens, sequence.group, sequence.spans) + AWAIT_TOKENS:
            return False
        sequence.awaits = best, shared[best]
        return True

    def _close_gap(self) -> None:
        """Move a sequence into a gap that nobody came to fill."""
        self._gap_steps = self._gap_steps + 1 if self._slots.has_gap and not self._waiting else 0
        if self._gap_steps > GAP_STEPS:
            actions, move = self._slots.close_gap()
            self._actions += [*actions, move]
            next(s for s in self._running if s.slot == move.source).slot = move.target

    # --- the step -----------------------------------------------------------------------------------------

    def _fit_drafts(self) -> None:
        """Forget idle prefixes that are in the way, and shorten drafts to the cells that are left."""
        needed = self._needed()
        drafted = sum(len(s.draft) for s in self._running)
        idle = self._slots.idle_tokens
        while needed + drafted + idle > self._room and (actions := self._slots.evict()):
            self._actions += actions
            idle = self._slots.idle_tokens
        if drafted:
            spare = max(0, self._room - needed - idle)
            for sequence in self._running:
                if sequence.draft:
                    drafting = self._slots.can_cut and _is_at_end(sequence)
                    del sequence.draft[spare if drafting else 0 :]
                    spare -= len(sequence.draft)

    def _share_budget(self) -> list[Work]:
        group = self._next_group()
        decoding: list[Sequence] = []
        prompts: list[Sequence] = []
        for sequence in self._running:
            if sequence.group == group:
                (decoding if _is_at_end(sequence) else prompts).append(sequence)
        left = self._budget(len(decoding), len(prompts)) - len(decoding)
        guesses = left // 2 if prompts else left
        work = []
        for sequence in decoding:
            if sequence.draft:
                del sequence.draft[max(0, guesses) :]
                guesses -= len(sequence.draft)
                left -= len(sequence.draft)
            outputs = 1 + len(sequence.draft)
            work.append(Work(sequence, sequence.computed, outputs, outputs))
        begun = False
        for sequence in prompts:
            if left <= 0:
                break
            count, span = _next_piece(sequence, left)
            # A span that is larger than any step goes alone, one a step.
            if count > left and begun:
                break
            missing = len(sequence.tokens) - sequence.computed
            work.append(Work(sequence, sequence.computed, count, int(count == missing), span))
            left -= count
            begun = True
        work.sort(key=_slot)
        return work

    def _budget(self, decoding: int, prompts: int) -> int:
        """Few answers are being written while many prompts wait: those few are slowed down for the many, since a
        decode of few answers costs almost as much as one of all."""
        if not decoding:
            return self._idle_budget
        return min(self._busy_budget * max(1, prompts // decoding), max(self._busy_budget, self._idle_budget))

    def _next_group(self) -> str:
        if len(self._turns) == 1:
            return self._turns[0]
        present = {s.group for s in self._running}
        self._turns = [group for group in self._turns if group in present]
        if not self._turns:
            return ""
        self._turns.append(self._turns.pop(0))
        return self._turns[-1]


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank


def _slot(work: Work) -> int:
    return work.sequence.slot


def _is_at_end(sequence: Sequence) -> bool:
    """Whether only the last token is to be computed, and is no image."""
    computed = sequence.computed
    return len(sequence.tokens) - computed == 1 and not (sequence.spans and sequence.spans[-1][0] == computed)


def _next_piece(sequence: Sequence, most: int) -> tuple[int, int]:
    """(tokens, index of the span or -1) of what is computed next of a prompt: one whole span, or at most ``most``
    tokens of text up to the next one."""
    end = len(sequence.tokens)
    for index, (start, count) in enumerate(sequence.spans):
        if start == sequence.computed:
            return count, index
        if start > sequence.computed:
            end = start
            break
    return min(most, end - sequence.computed), -1
