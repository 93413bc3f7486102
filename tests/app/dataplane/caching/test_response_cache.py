"""Equal requests are computed once: kept answers, those that are being computed, and what goes wrong with them."""

import asyncio

import pytest

from app.dataplane.caching import control as cache_control
from app.dataplane.caching.control import CALLER, Caller
from app.dataplane.caching.key import Keys
from app.dataplane.caching.response_cache import ResponseCache
from app.dataplane.caching.store import MemoryStore
from app.errors import DeadlineExceeded, InvalidInput, NotReady
from app.monitoring.metrics import RouteMetrics


class Model:
    """Answers when the test says so; ``calls`` are the entries that it was asked for."""

    def __init__(self):
        self.calls = []
        self._waiting = []

    def compute(self, entries):
        async def compute(which):
            asked = [entries[i] for i in which]
            self.calls.append(asked)
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((asked, future))
            try:
                return await future
            except asyncio.CancelledError:
                self.calls.append("given up")
                raise

        return compute

    async def answer(self, error=None):
        asked, future = self._waiting.pop(0)
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result([entry.upper() for entry in asked])
        await settled()


class House:
    def __init__(self, **store):
        self.metrics = RouteMetrics("r", "m", 1, "tensor", "e")
        self.cache = ResponseCache(MemoryStore(1 << 20, **store), Keys(b""), self.metrics)
        self.model = Model()

    async def ask(self, *entries, timeout_s=10, **more):
        """(answers, which of them were computed for somebody else)"""
        keys = [self.cache.keys.embedding(entry.decode()) for entry in entries]
        kept = await self.cache.answers(keys, self.model.compute(entries), timeout_s, **more)
        return [bytes(one.body) for one in kept], [one.hit for one in kept]

    async def begin(self, *entries, **more):
        task = asyncio.create_task(self.ask(*entries, **more))
        await settled()
        return task


async def settled():
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def house():
    house = House()
    yield house
    await settled()
    assert house.cache._flights == {}, "something is still being computed"


async def test_the_second_time_it_is_not_computed(house):
    first = await house.begin(b"a")
    await house.model.answer()
    assert await first == ([b"A"], [False])
    assert await house.ask(b"a") == ([b"A"], [True])
    assert house.model.calls == [[b"a"]]
    assert (house.metrics.cache_hits, house.metrics.cache_misses) == (1, 1)
    assert house.metrics.cache_saved_s > 0


async def test_of_several_only_those_are_computed_that_are_not_there_and_the_order_stays(house):
    first = await house.begin(b"b", b"d")
    await house.model.answer()
    await first
    task = await house.begin(b"a", b"b", b"c", b"a", b"d")
    await house.model.answer()
    assert await task == ([b"A", b"B", b"C", b"A", b"D"], [False, True, False, False, True])
    assert house.model.calls == [[b"b", b"d"], [b"a", b"c"]]
    assert (house.metrics.cache_hits, house.metrics.cache_misses) == (0, 2)
    assert (house.metrics.cache_found, house.metrics.cache_computed) == (2, 4)


async def test_what_is_asked_for_by_many_at_once_is_computed_once(house):
    tasks = [await house.begin(b"a") for _ in range(5)]
    await house.model.answer()
    answers = [await task for task in tasks]
    assert [answer for answer, _ in answers] == [[b"A"]] * 5
    assert [hits for _, hits in answers] == [[False]] + [[True]] * 4
    assert house.model.calls == [[b"a"]]
    assert (house.metrics.cache_hits, house.metrics.cache_misses) == (4, 1)


async def test_entries_that_another_request_computes_are_waited_for(house):
    one, other = await house.begin(b"a", b"b"), await house.begin(b"b", b"c")
    assert house.model.calls == [[b"a", b"b"], [b"c"]]
    await house.model.answer()
    assert not other.done()
    await house.model.answer()
    assert await one == ([b"A", b"B"], [False, False])
    assert await other == ([b"B", b"C"], [True, False])


async def test_when_the_one_who_began_goes_away_the_others_get_their_answer(house):
    one, other = await house.begin(b"a"), await house.begin(b"a")
    one.cancel()
    await settled()
    await house.model.answer()
    assert await other == ([b"A"], [True])
    assert house.model.calls == [[b"a"]]


async def test_when_all_have_gone_it_is_given_up_and_the_next_begins_anew(house):
    tasks = [await house.begin(b"a") for _ in range(2)]
    for task in tasks:
        task.cancel()
    last = await house.begin(b"a")
    assert house.model.calls == [[b"a"], "given up", [b"a"]]
    house.model._waiting.pop(0)
    await house.model.answer()
    assert (await last)[0] == [b"A"]


async def test_an_error_is_told_to_all_who_wait_and_is_not_kept(house):
    tasks = [await house.begin(b"a") for _ in range(3)]
    await house.model.answer(NotReady("not now"))
    errors = [task.exception() for task in tasks]
    assert [str(error) for error in errors] == ["not now"] * 3
    assert len(set(map(id, errors))) == 3  # each is changed on its way to its client
    again = await house.begin(b"a")
    await house.model.answer()
    assert await again == ([b"A"], [False])


async def test_an_error_of_another_entry_does_not_reach_those_who_did_not_ask_for_it(house):
    bad, good = await house.begin(b"bad", b"a"), await house.begin(b"a")
    await house.model.answer(InvalidInput("input[0] is bad", field="input[0]"))
    assert isinstance(bad.exception(), InvalidInput)
    assert house.model.calls == [[b"bad", b"a"], [b"a"]]
    await house.model.answer()
    assert await good == ([b"A"], [False])


async def test_an_error_names_the_entry_by_its_place_in_the_whole_request(house):
    first = await house.begin(b"a", b"b")
    await house.model.answer()
    await first
    asked = await house.begin(b"a", b"c", b"b", b"bad")
    joined = await house.begin(b"bad")
    assert house.model.calls[1] == [b"c", b"bad"]
    await house.model.answer(InvalidInput("input[1] is bad", field="input[1]"))
    assert (asked.exception().field, asked.exception().message) == ("input[3]", "input[3] is bad")
    await house.model.answer(InvalidInput("input[0] is bad", field="input[0]"))
    assert joined.exception().field == "input[0]"


async def test_one_who_cannot_wait_does_not_hurt_the_others(house):
    patient, hasty = await house.begin(b"a"), await house.begin(b"a", timeout_s=0.01)
    await asyncio.wait([hasty])
    assert isinstance(hasty.exception(), DeadlineExceeded)
    await house.model.answer()
    assert await patient == ([b"A"], [False])


async def test_one_who_cannot_wait_may_have_been_the_first(house):
    hasty, patient = await house.begin(b"a", timeout_s=0.01), await house.begin(b"a")
    await asyncio.wait([hasty])
    assert isinstance(hasty.exception(), DeadlineExceeded)
    await house.model.answer()
    assert await patient == ([b"A"], [True])


async def test_who_has_more_time_than_what_was_computed_for_another_tries_again(house):
    hasty, patient = await house.begin(b"a"), await house.begin(b"a", timeout_s=100)
    await house.model.answer(DeadlineExceeded("too late"))
    assert isinstance(hasty.exception(), DeadlineExceeded)
    await house.model.answer()
    assert await patient == ([b"A"], [False])


async def test_forgotten_while_it_is_computed_it_is_answered_and_not_kept(house):
    task = await house.begin(b"a")
    await house.cache.clear()
    await house.model.answer()
    assert await task == ([b"A"], [False])
    again = await house.begin(b"a")
    assert house.model.calls == [[b"a"], [b"a"]]
    await house.model.answer()
    await again


async def test_a_model_that_answers_too_little_is_an_error_of_all_who_wait(house):
    tasks = [await house.begin(b"a", b"b") for _ in range(2)]
    _, future = house.model._waiting.pop(0)
    future.set_result([b"A"])
    await settled()
    assert isinstance(tasks[0].exception(), ValueError)
    await house.model.answer()
    assert (await tasks[1])[0] == [b"A", b"B"]


# --- what the caller wants -------------------------------------------------------------------------------


def caller(cache_control: bytes) -> Caller:
    said = Caller(lambda name: cache_control if name == b"cache-control" else None)
    CALLER.set(said)
    return said


@pytest.mark.parametrize(
    ("header", "outcome", "again"),
    [(b"no-cache", "miss", [True]), (b"No-Store", "", [False]), (b"max-age=5, no-cache", "miss", [True])],
)
async def test_recomputed_and_kept_or_not_even_that(house, header, outcome, again):
    said = caller(header)
    task = await house.begin(b"a")
    await house.model.answer()
    assert await task == ([b"A"], [False])
    assert said.outcome == outcome
    caller(b"max-age=5")
    task = await house.begin(b"a")
    if not task.done():
        await house.model.answer()
    assert (await task)[1] == again


async def test_no_cache_does_not_join_what_was_begun_before(house):
    old = await house.begin(b"a")
    caller(b"no-cache")
    new = await house.begin(b"a")
    assert house.model.calls == [[b"a"], [b"a"]]
    await house.model.answer()
    await house.model.answer()
    assert (await old)[1] == (await new)[1] == [False]
    assert house.metrics.cache_misses == 1  # it was not looked for


async def test_a_call_of_the_program_itself_may_want_it_anew(house):
    for _ in range(2):
        task = await house.begin(b"a", look=False)
        await house.model.answer()
        assert (await task)[1] == [False]


async def test_the_outcome_is_a_hit_where_all_calls_of_a_request_were(house):
    first = await house.begin(b"a")
    await house.model.answer()
    await first
    said = caller(b"")
    await house.ask(b"a")
    assert said.outcome == "hit"
    task = await house.begin(b"b")
    await house.model.answer()
    await task
    assert said.outcome == "miss"
    await house.ask(b"a")
    assert said.outcome == "miss"


async def test_a_part_without_a_cache_makes_it_a_miss_but_says_nothing_by_itself(house):
    said = caller(b"")
    cache_control.computed()
    assert said.outcome == ""
    said.served(True)
    cache_control.computed()
    assert said.outcome == "miss"


async def test_the_gauges_follow_the_store(house):
    task = await house.begin(b"a")
    await house.model.answer()
    await task
    house.cache.refresh()
    metrics = house.metrics
    assert (metrics.cache_items, metrics.cache_bytes) == (1, house.cache.store.size_bytes)
    house.cache.store.evictions = 3
    house.cache.refresh()
    house.cache.refresh()
    assert metrics.cache_evictions == 3
