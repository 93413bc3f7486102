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
        self.store_bytes, self.window = int(options.get("store_bytes", 0)), int(options.get("window", 0))
        self.copied: set[int] = set()
        self.memory: list[list[int]] = [[] for _ in range(slots)]
        self.store: dict[int, list[int]] = {}
        self.requests: dict[int, Request] = {}
        self.ended: list[int] = []
        self.computed = 0
        self.lost_keys: set[int] = set()
        self.unloading = False

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
        self.check(plan)
        self.copied.clear()
        return plan if self.perform_all(plan.actions) else None

    def perform_all(self, actions: list[MemoryAction]) -> bool:
        for i, action in enumerate(actions):
            if not self.perform(action):
                assert isinstance(action, Restore)
                self.store.pop(action.key, None)
                self.perform_all(self.scheduler.not_restored(actions[i:]))
                return False
        return True

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
            assert self.step().work

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
                self.copied.add(source)
            case Move(source, target, count):
                assert self.streams and source != target and count == len(memory[source])
                memory[target], memory[source] = memory[source], []
            case Save(slot, key):
                assert memory[slot] and key not in self.store
                self.store[key] = list(memory[slot])
                if 0 < self.window < len(memory[slot]) and not self.unloading:
                    memory[slot] = [-1] * len(memory[slot])
                for dropped in self.scheduler.saved(key, len(self.store[key]) * TOKEN_BYTES):
                    del self.store[dropped]
            case Restore(key, slot, count):
                if key not in self.store:  # saved by this plan, and found to be too large
                    return False
                state = self.store[key]
                others = sum(len(m) for i, m in enumerate(memory) if i != slot)
                assert len(state) + others <= self.kv, "a state is put back whole"
                assert count <= len(state) and (self.can_cut or count == len(state))
                assert count >= len(state) - 1 or not 0 < self.window < len(state) or count % self.window == 0
                assert not (self.streams and slot in self.copied), "copied at the next decode"
                memory[slot] = [] if key in self.lost_keys else state[:count]
                return key not in self.lost_keys
        return True

    def check(self, plan: Plan) -> None:
        slots = [work.sequence.slot for work in plan.work]
        assert slots == sorted(set(slots))
        assert len({work.sequence.group for work in plan.work}) <= 1
        decoding = [w for w in plan.work if len(w.sequence.tokens) - w.start == 1 and w.span < 0]
        prompts = [w for w in plan.work if w not in decoding]
        assert all(w.outputs == w.count == 1 + len(w.sequence.draft) for w in decoding)
        assert not any(w.sequence.draft for w in prompts)
        assert self.can_cut or not any(w.sequence.draft for w in plan.work)
        assert all(w.outputs == (w.start + w.count == len(w.sequence.tokens)) for w in prompts)
        spans = {(w.sequence.id, w.start): w for w in plan.work if w.span >= 0}
        for work in plan.work:
            for i, (start, count) in enumerate(work.sequence.spans):
                if work.start < start + count and start < work.start + work.count:
                    assert (work.start, work.count, work.span) == (start, count, i), "a span is computed as a whole"
        if not (spans and len(prompts) == 1):
            limit = self.idle
            if decoding:
                waiting = self.scheduler.running - len(decoding)
                limit = max(self.busy, min(self.idle, self.busy * (waiting // len(decoding))))
            assert sum(work.count for work in plan.work) <= limit

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


def test_many_prompts_beside_few_answers_get_more_of_a_step() -> None:
    engine = Engine()
    engine.submit(0, [0], 100)
    engine.step()
    engine.submit(1, list(range(100, 150)), 1)
    assert [work.count for work in engine.step().work] == [1, 7]
    engine.submit(2, list(range(200, 250)), 1)
    assert sum(work.count for work in engine.step().work) == 16


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


@pytest.mark.parametrize(("save_tokens", "again"), [(64, 0), (1000, 65)])
def test_what_was_preempted_is_restored_or_computed_again(save_tokens: int, again: int) -> None:
    engine = Engine(slots=2, idle=100, busy=100, kv=150, store_bytes=10_000, save_tokens=save_tokens)
    engine.submit(1, list(range(60)), 60)
    engine.submit(2, list(range(100, 140)), 41)
    engine.run()
    assert engine.ended == [1, 2]
    assert engine.scheduler.preempted == 1
    assert engine.computed == (60 + 59) + (40 + 40) + again


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


# --- prefixes that are being computed -----------------------------------------------------------------------

SYSTEM = list(range(1000, 1200))


def test_a_burst_with_one_system_prompt_computes_it_once() -> None:
    engine = Engine(slots=4, busy=64, idle=64)
    for id in range(4):
        engine.submit(id, [*SYSTEM, id, id], 1)
    engine.run()
    assert engine.computed == 200 + 2 * 4
    assert engine.ended == [0, 1, 2, 3]


def test_several_choices_of_one_prompt_compute_it_once() -> None:
    engine = Engine(slots=4, busy=64, idle=64)
    for id in range(4):
        engine.submit(id, SYSTEM, 2)
    engine.run()
    assert engine.computed == 200 + 3 + 4  # each its last token


def test_those_behind_may_have_what_a_waiting_one_leaves() -> None:
    engine = Engine(slots=3, busy=64, idle=64)
    engine.submit(1, [*SYSTEM, 1], 1)
    engine.submit(2, [*SYSTEM, 2], 1)
    engine.submit(3, [3, 3], 1)
    engine.submit(4, [4, 4], 1)
    engine.step()
    assert engine.scheduler.running == 2  # 1 and 3; the third slot is 2's
    engine.run()
    assert engine.ended == [1, 3, 2, 4]
    assert engine.computed == 201 + 1 + 2 + 2


def test_nobody_waits_for_a_prefix_that_is_hardly_longer_than_a_cached_one() -> None:
    engine = Engine(slots=4, busy=64, idle=64)
    engine.submit(0, SYSTEM[:150], 1)
    engine.run()
    engine.submit(1, [*SYSTEM, 1], 1)
    engine.submit(2, [*SYSTEM, 2], 1)
    engine.step()
    assert engine.scheduler.waiting == 0


def test_a_prefix_that_is_not_to_come_is_not_waited_for() -> None:
    engine = Engine(slots=4, busy=64, idle=64)
    engine.submit(1, [*SYSTEM, 1], 1)
    engine.submit(2, [*SYSTEM, 2], 1)
    engine.step()
    assert engine.scheduler.waiting == 1
    engine.abort(1)
    assert ids(engine.step()) == [2]
    assert engine.requests[2].sequence.reused == 64


def test_a_more_urgent_prompt_does_not_wait_for_a_less_urgent_one() -> None:
    engine = Engine(slots=4, busy=64, idle=64)
    engine.submit(1, [*SYSTEM, 1], 1, priority=1)
    engine.step()
    engine.submit(2, [*SYSTEM, 2], 1)
    engine.submit(3, [*SYSTEM, 3], 1, group="polite")
    engine.submit(4, [*SYSTEM, 4], 1, reuse=False)
    engine.step()
    assert engine.scheduler.waiting == 0


# --- groups, spans, drafts ----------------------------------------------------------------------------------


def test_groups_take_turns() -> None:
    engine = Engine(slots=6)
    for id, group in enumerate(["", "polite", "rude", "polite", "", "rude"]):
        engine.submit(id, [id, id], 3, group=group)
    steps = [{w.sequence.group for w in engine.step().work} for _ in range(9)]
    assert [next(iter(groups)) for groups in steps] == ["", "polite", "rude"] * 3
    assert not engine.requests


def test_a_group_is_not_starved_by_ever_new_ones() -> None:
    engine = Engine(slots=4)
    engine.submit(0, [0, 0], 4)
    for id in range(1, 20):
        engine.submit(id, [id, id], 1, group=str(id))
        engine.step()
    assert engine.ended.index(0) <= 3 * 3  # three others between two of its four steps


def test_an_image_is_one_work_and_nothing_else() -> None:
    engine = Engine()
    engine.submit(1, [1, 2, 3, *[-5] * 6, 4, *[-6] * 9], 2, spans=[(3, 6), (10, 9)])
    works = [engine.step().work[0] for _ in range(5)]
    assert [(w.start, w.count, w.span, w.outputs) for w in works] == [
        (0, 3, -1, 0),
        (3, 6, 0, 0),
        (9, 1, -1, 0),
        (10, 9, 1, 1),
        (19, 1, -1, 1),
    ]


def test_an_image_larger_than_a_step_is_computed_beside_running_answers() -> None:
    engine = Engine(busy=8)
    engine.submit(1, [1], 9)
    engine.step()
    engine.submit(2, [*[-5] * 50, 3], 1, spans=[(0, 50)])
    engine.submit(3, [*[-6] * 50, 3], 1, spans=[(0, 50)])
    assert [(w.sequence.id, w.count) for w in engine.step().work] == [(1, 1), (2, 50)]
    assert [(w.sequence.id, w.count) for w in engine.step().work] == [(1, 1), (2, 1), (3, 50)]


def test_right_guesses_are_kept_and_wrong_ones_cut() -> None:
    engine = Engine()
    sequence = engine.submit(1, [1, 2, 3], 9, draft=4)
    engine.step()
    assert engine.requests[1].guess() == [1, 2, 7, 1]
    assert [(w.start, w.count, w.outputs) for w in engine.step().work] == [(3, 5, 5)]
    assert (engine.memory[0], sequence.draft) == ([1, 2, 3, 0, 1, 2, 7, 1], [])
    assert (sequence.tokens, sequence.computed) == ([1, 2, 3, 0, 1, 2, 0], 6)
    assert engine.scheduler.schedule().actions == [Keep(0, 6)]
    assert (engine.scheduler.drafted, engine.scheduler.accepted) == (4, 2)


def test_guesses_have_what_the_budget_and_the_memory_leave() -> None:
    engine = Engine(busy=8, slots=2, kv=30)
    engine.submit(1, [1, 2, 3], 20, draft=9)
    engine.step()
    assert [work.count for work in engine.step().work] == [8]
    engine.submit(2, list(range(10)), 1)
    assert [work.count for work in engine.step().work] == [1 + 3, 4]
    engine.run()


# --- the store ----------------------------------------------------------------------------------------------


def test_what_cannot_be_restored_is_computed_again() -> None:
    engine = Engine(slots=1, busy=64, idle=64, store_bytes=10_000)
    engine.submit(1, [*SYSTEM, 1], 1)
    engine.submit(2, [2, 2], 1)
    engine.run()
    assert len(engine.store) == 1
    engine.lost_keys = set(engine.store)
    again = engine.submit(3, [*SYSTEM, 3], 1)
    engine.run()
    assert again.reused == 0
    assert engine.computed == 2 * 201 + 2
    assert not engine.store


def test_a_conversation_survives_others_in_the_store() -> None:
    engine = Engine(slots=1, busy=64, idle=64, store_bytes=10_000)
    for id, prompt in enumerate([[*SYSTEM, 1], [2] * 50, [*SYSTEM, 1, 0, 1]]):
        engine.submit(id, prompt, 1)
        engine.run()
    assert engine.computed == 201 + 50 + 2


def test_what_was_restored_gives_way_to_what_came_of_it() -> None:
    engine = Engine(slots=1, store_bytes=10_000)
    for id, (token, count) in enumerate([(1, 50), (2, 50), (1, 90), (3, 50)]):
        engine.submit(id, [token] * count, 1)
        engine.run()
    assert sorted((state[0], len(state)) for state in engine.store.values()) == [(1, 90), (2, 50)]


def test_what_is_copied_from_a_state_that_is_lost_is_computed_again() -> None:
    engine = Engine(slots=2, busy=512, idle=512, store_bytes=10_000)
    engine.submit(1, [*SYSTEM, 1], 1)
    engine.run()
    for id in (2, 3):
        engine.submit(id, [id] * 50, 1)
    engine.run()
    engine.lost_keys = set(engine.store)
    for id in (4, 5):
        engine.submit(id, [*SYSTEM, id], 1)
    assert engine.plan() is None  # restored into one slot, copied to the other
    engine.run()
    assert sorted(engine.ended) == [1, 2, 3, 4, 5]


def test_unloading_saves_what_the_slots_hold() -> None:
    engine = Engine(slots=2, busy=64, idle=64, store_bytes=10_000)
    engine.submit(1, [*SYSTEM, 1], 9)
    for _ in range(6):
        engine.step()
    for action in engine.scheduler.save_all():
        engine.perform(action)
    (prefix,) = engine.scheduler.prefixes()
    assert prefix.tokens[:201] == [*SYSTEM, 1]
    assert engine.store[prefix.key] == prefix.tokens


# --- streams ------------------------------------------------------------------------------------------------


def test_a_gap_that_nobody_fills_is_closed() -> None:
    engine = Engine(streams=True)
    for id, answer in enumerate([20, 1, 20]):
        engine.submit(id, [id, id], answer)
    slots = []
    while engine.requests:
        slots.append([work.sequence.slot for work in engine.step().work])
    assert slots[:5] == [[0, -1, 2], [0, 2], [0, 2], [0, 1], [0, 1]]
    assert sorted(engine.ended) == [0, 1, 2]


# --- everything at once -------------------------------------------------------------------------------------


class AnyHistory(RuleBasedStateMachine):
    """Any requests in any order, on any kind of memory. `Engine` checks that every plan is possible and within its
    rules, and that the books agree with the memory; at the end everything has ended once, and nothing is lost."""

    @initialize(
        slots=st.integers(1, 4),
        room=st.sampled_from([1, 2, 4]),
        can_cut=st.booleans(),
        streams=st.booleans(),
        store_bytes=st.sampled_from([0, 1500, 100_000]),
        save_tokens=st.sampled_from([0, 64]),
        window=st.sampled_from([0, 0, 40]),
    )
    def start(self, slots: int, room: int, streams: bool, **options: int) -> None:
        kv = CONTEXT * (slots if streams else room)
        self.engine = Engine(
            slots,
            busy=slots + 20,
            idle=60,
            kv=kv,
            limit=12,
            streams=streams,
            **options,
        )
        self.slots = slots
        self.submitted = 0

    @rule(
        begin=st.sampled_from([0, 30, 70, 110, 120]),
        topic=st.sampled_from([5, 5, 6, 8]),
        rest=st.lists(st.integers(0, 2), max_size=40),
        span=st.integers(0, 30),
        answer=st.sampled_from([1, 2, 7, 20]),
        draft=st.integers(0, 3),
        priority=st.sampled_from([0, 0, 0, 1, -1, 10**9]),
        group=st.sampled_from(["", "", "polite"]),
        reuse=st.sampled_from([True, True, False]),
        choices=st.integers(1, 3),
    )
    def submit(
        self,
        begin: int,
        topic: int,
        rest: list[int],
        span: int,
        answer: int,
        draft: int,
        choices: int,
        **options: object,
    ) -> None:
        prompt = ([5, topic] * 60)[:begin] + [-9] * span + rest or [1]
        spans = [(begin, span)] if span else []
        for _ in range(choices):
            try:
                self.engine.submit(self.submitted, prompt, answer, draft, spans=spans, **options)
            except QueueFull:
                assert self.engine.scheduler.waiting >= 12  # the preempted count too
            else:
                self.submitted += 1

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.engine.abort(data.draw(st.integers(0, self.submitted - 1)))

    @rule(steps=st.integers(1, 10))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.engine.step()

    @rule()
    def memory_is_fuller_than_counted(self) -> None:
        if plan := self.engine.plan():
            if not plan.work:
                self.engine.scheduler.commit(plan)
            elif not self.engine.scheduler.make_room():
                for work in plan.work:
                    self.engine.abort(work.sequence.id)

    @rule()
    def states_are_lost(self) -> None:
        self.engine.lost_keys |= set(self.engine.store)

    @rule()
    def save_all(self) -> None:
        self.engine.unloading = True
        for action in self.engine.scheduler.save_all():
            assert self.engine.perform(action)
        self.engine.unloading = False

    @invariant()
    def the_store_is_bounded(self) -> None:
        if hasattr(self, "engine"):
            assert self.engine.scheduler.cache_bytes <= self.engine.store_bytes

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        engine = self.engine
        # Someone always advances, so everything ends within the tokens there are, computed again after each end.
        tokens = sum(len(r.prompt) + r.answer for r in engine.requests.values())
        bound = (tokens + 1) * (len(engine.requests) + 1)
        for _ in range(bound):
            if not engine.requests:
                break
            assert engine.step().work
        assert sorted(engine.ended) == list(range(self.submitted))
        assert engine.scheduler.running == engine.scheduler.waiting == 0
        for slot in range(self.slots):
            engine.submit(self.submitted + slot, [slot], 2)
        assert len(engine.step().work) == self.slots


CONTEXT = 220
AnyHistory.TestCase.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)
TestAnyHistory = AnyHistory.TestCase
