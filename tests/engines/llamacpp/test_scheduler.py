"""The scheduler alone, driven by a fake engine that carries out its plans on a list of tokens for each slot."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engines.llamacpp.kv_slots import Copy, Keep, KvSlots, MemoryAction, Move, Restore, Save
from engines.llamacpp.scheduler import AGEING, Plan, QueueFull, Scheduler, Sequence, Work

TOKEN_BYTES = 10


@dataclass
class Request:
    sequence: Sequence
    prompt: list[int]
    answer: int
    """Tokens to be written."""
    draft: int = 0
    """Tokens guessed ahead each step; every third guess is wrong."""
    written: list[int] = field(default_factory=list)

    def next_token(self, ahead: int = 0) -> int:
        """What the model says after what is there and ``ahead`` tokens more: it depends on all of it."""
        return (sum(self.prompt) + len(self.prompt) + len(self.written) + ahead) % 3

    def guess(self) -> list[int]:
        ahead = range(min(self.draft, self.answer - len(self.written) - 1))
        return [self.next_token(i) if (len(self.written) + i) % 3 else 7 for i in ahead]


class Engine:
    """Carries out plans, checks that each is possible and what was asked for, and writes the answers."""

    def __init__(
        self,
        slots: int = 4,
        busy: int = 8,
        idle: int = 16,
        kv: int = 10_000,
        limit: int = 1000,
        save_tokens: int = 64,
        **options: bool | int,
    ):
        self.slots = KvSlots(slots, kv, **options)  # type: ignore[arg-type]
        self.scheduler = Scheduler(self.slots, busy, idle, kv, limit, save_tokens)
        self.busy, self.idle, self.kv = busy, idle, kv
        self.streams, self.can_cut = options.get("streams", False), options.get("can_cut", True)
        self.store_bytes = int(options.get("store_bytes", 0))
        self.memory: list[list[int]] = [[] for _ in range(slots)]
        self.store: dict[int, list[int]] = {}
        self.requests: dict[int, Request] = {}
        self.ended: list[int] = []
        self.computed = 0
        self.lost_keys: set[int] = set()

    def submit(self, id: int, prompt: list[int], answer: int, draft: int = 0, **options: object) -> Sequence:
        sequence = Sequence(id, list(prompt), **options)  # type: ignore[arg-type]
        self.scheduler.submit(sequence)
        self.requests[id] = Request(sequence, list(prompt), answer, draft)
        return sequence

    def abort(self, id: int) -> None:
        if id in self.requests:
            self.scheduler.end(self.requests.pop(id).sequence)
            self.ended.append(id)

    def plan(self) -> Plan | None:
        """The next plan, its actions done; None where a state was lost."""
        for request in self.requests.values():
            request.sequence.draft = request.guess()
        plan = self.scheduler.schedule()
        failed = [action for action in plan.actions if not self.perform(action)]
        assert len(failed) <= 1
        for action in failed:
            assert isinstance(action, Restore)
            del self.store[action.key]
            self.scheduler.not_restored(plan, action)
        self.check(plan)
        return None if failed else plan

    def step(self) -> Plan:
        while (plan := self.plan()) is None:
            pass
        for work in plan.work:
            self.memory[work.sequence.slot] += work.tokens
            # What the model attends to is exactly this sequence's own beginning.
            expected = work.sequence.tokens + work.sequence.draft
            assert self.memory[work.sequence.slot] == expected[: work.start + work.count]
            self.computed += work.count
        if not self.streams:
            assert sum(map(len, self.memory)) <= self.kv
        self.scheduler.commit(plan)
        for work in plan.work:
            if work.outputs:
                self.sample(self.requests[work.sequence.id], work)
        self.check_memory()
        return plan

    def run(self) -> None:
        while self.requests:
            self.step()

    def perform(self, action: MemoryAction) -> bool:
        memory = self.memory
        match action:
            case Keep(slot, count):
                assert count <= len(memory[slot])
                assert self.can_cut or count in (0, len(memory[slot]))
                del memory[slot][count:]
            case Copy(source, target, count):
                assert source != target and count <= len(memory[source])
                assert self.can_cut or count == len(memory[source])
                memory[target] = memory[source][:count]
            case Move(source, target, count):
                assert self.streams and source != target and count == len(memory[source])
                memory[target], memory[source] = memory[source], []
            case Save(slot, key):
                assert memory[slot] and key not in self.store
                self.store[key] = list(memory[slot])
                for dropped in self.scheduler.saved(key, len(memory[slot]) * TOKEN_BYTES):
                    del self.store[dropped]
            case Restore(key, slot, count):
                state = self.store[key]
                others = sum(len(m) for i, m in enumerate(memory) if i != slot)
                assert len(state) + others <= self.kv, "a state is put back whole"
                assert count <= len(state) and (self.can_cut or count == len(state))
                memory[slot] = [] if key in self.lost_keys else state[:count]
                return key not in self.lost_keys
        return True

    def check(self, plan: Plan) -> None:
        slots = [work.sequence.slot for work in plan.work]
        assert slots == sorted(set(slots))
        assert len({work.sequence.group for work in plan.work}) <= 1
        decoding = [w for w in plan.work if len(w.sequence.tokens) - w.start == 1]
        prompts = [w for w in plan.work if w not in decoding]
        assert all(w.outputs == w.count for w in decoding)
        assert all(w.outputs == (w.start + w.count == len(w.sequence.tokens)) for w in prompts)
        spans = {(w.sequence.id, w.start): w for w in plan.work if w.span >= 0}
        for work in plan.work:
            for i, (start, count) in enumerate(work.sequence.spans):
                if work.start < start + count and start < work.start + work.count:
                    assert (work.start, work.count, work.span) == (start, count, i), "a span is computed as a whole"
        if not (spans and len(prompts) == 1):
            assert sum(work.count for work in plan.work) <= (self.busy if decoding else self.idle)

    def check_memory(self) -> None:
        """Between steps: what the books say is what there is (guesses aside, which the next plan cuts)."""
        self.slots.check()
        running = {request.sequence.slot for request in self.requests.values()} - {-1}
        assert self.slots.free == len(self.memory) - len(running)
        for slot, content in enumerate(self.memory):
            length = self.slots.length(slot)
            assert self.slots._trees[self.slots._slots[slot].group].tokens(slot) == content[:length]
            assert slot in running or not self.slots._slots[slot].busy
        for key, group, tokens in self.slots.prefixes():
            assert self.store[key] == tokens, group
        assert len(self.slots.prefixes()) == len(self.store)
        assert self.scheduler.cache_bytes == TOKEN_BYTES * sum(map(len, self.store.values()))

    def sample(self, request: Request, work: Work) -> None:
        draft, new = list(request.sequence.draft) if work.outputs > 1 else [], []
        for guess in [*draft, None]:
            new.append(request.next_token())
            request.written.append(new[-1])
            if guess != new[-1]:
                break
        if len(request.written) >= request.answer:
            self.scheduler.end(request.sequence)
            self.ended.append(request.sequence.id)
            del self.requests[request.sequence.id]
            assert len(request.written) == request.answer
        else:
            self.scheduler.accept(request.sequence, new)
            assert request.sequence.tokens == request.prompt + request.written
            assert len(request.sequence.tokens) - request.sequence.computed == 1


def ids(plan: Plan) -> list[int]:
    return [work.sequence.id for work in plan.work]


# --- the budget of a step -----------------------------------------------------------------------------------


def test_a_long_prompt_never_stops_running_streams() -> None:
    engine = Engine()
    for id in range(3):
        engine.submit(id, [id], 100)
    engine.step()
    engine.submit(9, list(range(100, 150)), 1)
    steps = 0
    while 9 not in engine.ended:
        plan = engine.step()
        assert {0, 1, 2} <= {work.sequence.id for work in plan.work if work.outputs}
        steps += 1
    assert steps == 10  # 8 tokens a step, 3 of them for the streams


def test_prompts_alone_get_the_larger_budget() -> None:
    engine = Engine()
    engine.submit(1, list(range(20)), 1)
    assert [work.count for work in engine.step().work] == [16]


# --- the queue ----------------------------------------------------------------------------------------------


def test_admission_is_first_come_first_served() -> None:
    engine = Engine(slots=2)
    for id in range(6):
        engine.submit(id, [id, id], 3)
    engine.run()
    assert engine.ended == list(range(6))


def test_a_better_priority_is_admitted_first() -> None:
    engine = Engine(slots=1)
    for id, priority in enumerate([0, 5, -1, 0, 2, -1]):
        engine.submit(id, [id, id], 2, priority=priority)
    engine.run()
    assert engine.ended == [2, 5, 0, 3, 4, 1]


def test_a_better_priority_s_prompt_is_read_first() -> None:
    engine = Engine()
    engine.submit(1, list(range(100)), 1)
    engine.step()
    engine.submit(2, list(range(200, 220)), 1, priority=-1)
    assert ids(engine.step()) == [2]
    assert ids(engine.step()) == [1, 2]


def test_a_better_priority_takes_the_slot_of_a_worse_one() -> None:
    engine = Engine(slots=1)
    engine.submit(1, [1, 2], 20, priority=3)
    engine.step()
    engine.submit(2, [3, 4], 2)
    assert ids(engine.step()) == [2]
    assert engine.scheduler.preempted == 1
    engine.run()
    assert engine.ended == [2, 1]


def test_a_worse_priority_is_not_starved() -> None:
    engine = Engine(slots=1)
    engine.submit(0, [1], 1, priority=2)
    for id in range(1, 200):
        engine.submit(id, [id], 1)
        engine.step()
        if 0 in engine.ended:
            break
    assert engine.ended[-1] == 0
    assert len(engine.ended) == 2 * AGEING + 1


def test_the_queue_is_bounded() -> None:
    engine = Engine(limit=1)
    engine.submit(1, [1], 1)
    with pytest.raises(QueueFull):
        engine.submit(2, [2], 1)


def test_an_aborted_sequence_frees_its_slot_at_once() -> None:
    engine = Engine(slots=1)
    engine.submit(1, [1, 2], 100)
    engine.step()
    engine.submit(2, [3, 4], 2)
    engine.abort(1)
    assert ids(engine.step()) == [2]


def test_what_ends_between_plan_and_commit_is_left_out() -> None:
    engine = Engine()
    broken = engine.submit(1, [1, 2], 9)
    engine.submit(2, [3, 4], 9)
    plan = engine.plan()
    assert plan
    engine.memory[0] += [1]  # half of it was decoded when it failed
    engine.memory[1] += [3, 4]
    engine.scheduler.end(broken, keep=False)
    del engine.requests[1]
    engine.scheduler.commit(plan)
    engine.requests[2].sequence.tokens.append(9)
    engine.scheduler.end(broken)  # once more does no harm
    assert engine.plan() and engine.memory[0] == []


# --- the memory ---------------------------------------------------------------------------------------------


def test_under_pressure_the_youngest_waits_and_then_goes_on() -> None:
    engine = Engine(slots=2, kv=20)
    engine.submit(1, [1, 2, 3, 4], 14)
    engine.submit(2, [5, 6, 7, 8], 14)
    waited = False
    while engine.requests:
        engine.step()
        waited = waited or (engine.scheduler.running == 1 and engine.scheduler.waiting == 1)
    assert waited
    assert engine.ended == [1, 2]
    assert engine.scheduler.preempted == 1


def test_under_pressure_the_worst_priority_waits() -> None:
    engine = Engine(slots=2, kv=20)
    engine.submit(1, [1, 2, 3, 4], 14, priority=1)
    engine.submit(2, [5, 6, 7, 8], 14)
    engine.run()
    assert engine.ended == [2, 1]


@pytest.mark.parametrize(("save_tokens", "computed"), [(64, 40 + 60 + 59 + 40), (1000, 40 + 60 + 59 + 40 + 80)])
def test_what_was_preempted_is_restored_or_computed_again(save_tokens: int, computed: int) -> None:
    engine = Engine(slots=2, idle=100, busy=100, kv=200, store_bytes=10_000, save_tokens=save_tokens)
    engine.submit(1, list(range(60)), 60)
    engine.submit(2, list(range(100, 140)), 41)
    long = engine.submit(3, list(range(200, 280)), 1)
    engine.run()
    assert long.tokens
    assert engine.computed >= computed or save_tokens == 64


def test_kv_used_counts_running_sequences() -> None:
    engine = Engine(kv=100, slots=2)
    engine.submit(1, list(range(10)), 3)
    engine.step()
    assert engine.scheduler.kv_used == pytest.approx(0.1)
    engine.abort(1)
    assert engine.scheduler.kv_used == 0


def test_when_the_memory_is_fuller_than_counted_less_is_planned() -> None:
    engine = Engine(slots=3)
    engine.submit(0, [7, 7, 7], 1)
    engine.step()  # leaves an idle prefix
    for id in (1, 2):
        engine.submit(id, [id, id], 4)
    engine.step()
    assert engine.scheduler.make_room()  # forgets the idle prefix
    assert engine.scheduler.make_room()  # sends the youngest back
    assert ids(engine.step()) == [1]
    assert engine.scheduler.waiting == 1
    engine.run()
    assert engine.ended == [0, 1, 2]


def test_a_sequence_that_does_not_fit_alone_cannot_be_helped() -> None:
    engine = Engine()
    engine.submit(1, [1], 5)
    engine.step()
    assert not engine.scheduler.make_room()
