"""The scheduler alone, driven by a fake engine that only counts tokens and keeps a model of the memory."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.llamacpp.kv_slots import Copy, KvSlots
from engines.llamacpp.scheduler import Plan, QueueFull, Scheduler, Sequence


class Engine:
    """Carries out plans on a list per slot, checks that they are possible, and writes ``answer`` tokens each."""

    def __init__(self, slots: int = 4, busy: int = 8, idle: int = 16, kv: int = 10_000, limit: int = 1000):
        self.scheduler = Scheduler(KvSlots(slots), busy, idle, kv, limit)
        self.busy, self.idle, self.kv = busy, idle, kv
        self.memory: list[list[int]] = [[] for _ in range(slots)]
        self.left: dict[int, int] = {}
        self.sequences: dict[int, Sequence] = {}
        self.ended: list[int] = []

    def submit(self, id: int, prompt: list[int], answer: int) -> Sequence:
        sequence = Sequence(id, list(prompt))
        self.scheduler.submit(sequence)
        self.sequences[id], self.left[id] = sequence, answer
        return sequence

    def abort(self, id: int) -> None:
        if id in self.sequences:
            self.scheduler.end(self.sequences.pop(id))
            self.ended.append(id)

    def step(self) -> Plan:
        plan = self.scheduler.schedule()
        for action in plan.actions:
            if isinstance(action, Copy):
                assert len(self.memory[action.source]) >= action.count
                self.memory[action.target] = self.memory[action.source][: action.count]
            else:
                assert len(self.memory[action.slot]) >= action.count
                del self.memory[action.slot][action.count :]
        self.check(plan)
        for work in plan.work:
            self.memory[work.sequence.slot] += work.tokens
            # What the model attends to is exactly this sequence's own beginning.
            assert self.memory[work.sequence.slot] == work.sequence.tokens[: work.start + work.count]
        assert sum(map(len, self.memory)) <= self.kv
        self.scheduler.commit(plan)
        for work in plan.work:
            if work.samples:
                self.sample(work.sequence)
        return plan

    def check(self, plan: Plan) -> None:
        slots = [work.sequence.slot for work in plan.work]
        assert slots == sorted(set(slots))
        decoding = any(work.count == 1 and work.samples for work in plan.work)
        assert sum(work.count for work in plan.work) <= (self.busy if decoding else self.idle)

    def sample(self, sequence: Sequence) -> None:
        self.left[sequence.id] -= 1
        if self.left[sequence.id] == 0:
            self.scheduler.end(self.sequences.pop(sequence.id))
            self.ended.append(sequence.id)
        else:
            sequence.tokens.append(1000 + len(sequence.tokens))


def test_a_long_prompt_never_stops_running_streams() -> None:
    engine = Engine()
    for id in range(3):
        engine.submit(id, [id], 100)
    engine.step()
    engine.submit(9, list(range(100, 150)), 1)
    steps = 0
    while 9 not in engine.ended:
        plan = engine.step()
        assert {0, 1, 2} <= {work.sequence.id for work in plan.work if work.samples}
        steps += 1
    assert steps == 10  # 8 tokens a step, 3 of them for the streams


def test_prompts_alone_get_the_larger_budget() -> None:
    engine = Engine()
    engine.submit(1, list(range(20)), 1)
    assert [work.count for work in engine.step().work] == [16]


def test_admission_is_first_come_first_served() -> None:
    engine = Engine(slots=2)
    for id in range(6):
        engine.submit(id, [id, id], 3)
    while engine.sequences:
        engine.step()
    assert engine.ended == list(range(6))


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
    assert [work.sequence.id for work in engine.step().work] == [2]


def test_under_pressure_the_youngest_waits_and_then_goes_on() -> None:
    engine = Engine(slots=2, kv=20)
    engine.submit(1, [1, 2, 3, 4], 14)
    engine.submit(2, [5, 6, 7, 8], 14)
    waited = False
    while engine.sequences:
        engine.step()
        waited = waited or (engine.scheduler.running == 1 and engine.scheduler.waiting == 1)
    assert waited
    assert engine.ended == [1, 2]


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
    assert [work.sequence.id for work in engine.step().work] == [1]
    assert engine.scheduler.waiting == 1
    while engine.sequences:
        engine.step()
    assert engine.ended == [0, 1, 2]


def test_a_sequence_that_does_not_fit_alone_cannot_be_helped() -> None:
    engine = Engine()
    engine.submit(1, [1], 5)
    engine.step()
    assert not engine.scheduler.make_room()


KV = 40
requests = st.tuples(st.just("submit"), st.lists(st.integers(0, 2), min_size=1, max_size=25), st.integers(1, 15))
events = st.lists(st.one_of(requests, st.tuples(st.just("abort"), st.integers(0, 20)), st.just(("step",))), max_size=60)


@settings(max_examples=200, deadline=None)
@given(events, st.integers(1, 4), st.sampled_from([KV, 60, 1000]))
def test_any_history_ends_every_sequence_once(history: list[tuple], slots: int, kv: int) -> None:
    """Every plan is possible and within its budget (`Engine.step`), nobody starves, no slot is lost."""
    engine = Engine(slots=slots, busy=slots + 3, idle=12, kv=kv)
    submitted = 0
    for event in history:
        if event[0] == "submit":
            engine.submit(submitted, event[1], event[2])
            submitted += 1
        elif event[0] == "abort":
            engine.abort(event[1])
        else:
            engine.step()
    # The oldest always advances, so everything ends within the tokens there are, computed again after each end.
    bound = sum(len(s.tokens) + engine.left[s.id] for s in engine.sequences.values()) * (len(engine.sequences) + 1)
    for _ in range(bound):
        if not engine.sequences:
            break
        assert engine.step().work
    assert sorted(engine.ended) == list(range(submitted))
    assert engine.scheduler.running == engine.scheduler.waiting == 0
    for slot in range(slots):
        engine.submit(100 + slot, [slot], 2)
    assert len(engine.step().work) == slots
