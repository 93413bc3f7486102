"""The queue, by values and by any sequence of what can happen to it."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.dataplane.batching.queue import AGEING_S, Queue

MOST = 4


@dataclass(eq=False)
class Entry:
    key: Any = None
    level: int = 0
    arrived: float = 0.0
    rows: int = 1
    left: int = 0
    most: int = MOST
    bucket: Any = None

    def __post_init__(self):
        self.left = self.rows


def take(queue, most=MOST):
    return queue.take(queue.first(), most)


def fill(queue, *entries):
    for entry in entries:
        queue.push(entry)
    return entries


def test_other_keys_between_them_do_not_break_a_batch():
    queue = Queue()
    a, b, c = fill(queue, Entry("x", arrived=1), Entry("y", arrived=2), Entry("x", arrived=3))
    assert [entry for entry, _, _ in take(queue)] == [a, c]
    assert [entry for entry, _, _ in take(queue)] == [b]


def test_the_more_urgent_go_first_and_the_others_fill_their_batch():
    queue = Queue(levels=2)
    low, high = fill(queue, Entry("x", level=1, arrived=1), Entry("x", arrived=2))
    assert [entry for entry, _, _ in take(queue)] == [high, low]


def test_waiting_outweighs_priority_in_the_end():
    queue = Queue(levels=2)
    old, _ = fill(queue, Entry("x", level=1, arrived=0), Entry("y", arrived=AGEING_S - 0.1))
    assert take(queue)[0][0] is not old
    fill(queue, Entry("y", arrived=AGEING_S + 0.1))
    assert take(queue)[0][0] is old


def test_what_does_not_fit_waits_and_nobody_overtakes_it():
    queue = Queue()
    first, large, _ = fill(queue, Entry(rows=2), Entry(rows=3, arrived=1), Entry(arrived=2))
    assert [entry for entry, _, _ in take(queue)] == [first]
    assert take(queue)[0][0] is large


def test_only_what_is_too_large_for_any_batch_is_cut_and_it_fills_batches():
    queue = Queue()
    first, large, last = fill(queue, Entry(rows=1), Entry(rows=9, arrived=1), Entry(arrived=2))
    assert take(queue) == [(first, 0, 1), (large, 0, 3)]
    assert take(queue) == [(large, 3, 7)]
    assert take(queue) == [(large, 7, 9), (last, 0, 1)]
    assert len(queue) == 0


def test_what_was_dropped_is_not_kept():
    queue = Queue()
    entries = fill(queue, *(Entry(arrived=number) for number in range(1000)))
    for entry in entries[1:]:
        queue.drop(entry)
        queue.drop(entry)
    (bucket,) = queue.buckets.values()
    assert len(queue) == bucket.rows == 1
    assert sum(map(len, bucket.lanes)) < 100


class Machine(RuleBasedStateMachine):
    """Whatever comes in leaves once, whole, and in order within its bucket and level."""

    def __init__(self):
        super().__init__()
        self.queue, self.time = Queue(levels=3), 0.0
        self.waiting = []
        self.taken = defaultdict(int)
        self.last_batch = []

    @rule(key=st.sampled_from("xyz"), level=st.integers(0, 2), rows=st.integers(1, 11))
    def push(self, key, level, rows):
        self.time += 1
        entry = Entry(key, level, self.time, rows)
        self.queue.push(entry)
        self.waiting.append(entry)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def drop(self, data):
        entry = data.draw(st.sampled_from(self.waiting))
        self.queue.drop(entry)
        self.waiting.remove(entry)

    @precondition(lambda self: len(self.queue))
    @rule(most=st.integers(1, MOST))
    def take(self, most):
        batch = take(self.queue, most)
        assert batch
        assert len({entry.key for entry, _, _ in batch}) == 1
        rows = sum(stop - start for _, start, stop in batch)
        assert rows <= most or (len(batch) == 1 and rows <= MOST)
        for entry, start, stop in batch:
            older = [one for one in self.waiting if (one.key, one.level) == (entry.key, entry.level)]
            assert older[0] is entry
            assert start == self.taken[entry]
            assert (start, stop) == (0, entry.rows) or entry.rows > MOST
            self.taken[entry] = stop
            if stop == entry.rows:
                self.waiting.remove(entry)
        self.last_batch = [entry for entry, start, stop in batch if stop - start == entry.rows]

    @precondition(lambda self: self.last_batch)
    @rule()
    def return_it(self):
        """As when a replica is gone: it is first again."""
        batch, self.last_batch = self.last_batch, []
        self.queue.push_back(batch)
        for entry in batch:
            self.taken[entry] = 0
        self.waiting = sorted([*self.waiting, *batch], key=lambda one: one.arrived)

    @invariant()
    def nothing_is_lost(self):
        assert sorted(map(id, self.queue)) == sorted(map(id, self.waiting))
        assert len(self.queue) == len(self.waiting)
        rows = sum(entry.rows - self.taken[entry] for entry in self.waiting)
        assert sum(bucket.rows for bucket in self.queue.buckets.values()) == rows


TestQueue = Machine.TestCase
