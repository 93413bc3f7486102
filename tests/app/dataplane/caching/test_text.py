"""Texts that are told again, and told to many while they are written: the echo engine behind a data plane."""

import asyncio
import dataclasses
import time

import pytest

from app.dataplane.caching.control import CALLER, Caller
from app.dataplane.caching.key import Keys
from app.dataplane.caching.response_cache import ResponseCache
from app.dataplane.caching.store import MemoryStore
from app.errors import EngineFailed
from engines.protocol import Generate, Sampling
from tests.support.echo_worker import EchoHouse

GREEDY = Sampling(temperature=0)


class Cached:
    def __init__(self, folder, **behaviour):
        house = EchoHouse(folder)
        self.worker = house.serve("cached", **behaviour)
        self.dataplane = house.dataplane
        target = house.dataplane.table["cached"]
        self.metrics = target.metrics
        self.cache = ResponseCache(MemoryStore(1 << 20), Keys(b""), target.metrics)
        house.dataplane.publish({"cached": dataclasses.replace(target, cache=self.cache)})

    def request(self, prompt="one two three", media=(), sampling=GREEDY, **more):
        request = Generate(0, prompt=prompt, sampling=sampling, **more)
        return self.dataplane.generate("cached", request, time.perf_counter(), media)

    async def ask(self, *args, **more):
        async with self.request(*args, **more) as events:
            return [event async for event in events]

    @property
    def written(self):
        return len(self.worker.generated)


@pytest.fixture
async def cached(tmp_path):
    cached = Cached(tmp_path)
    yield cached
    await asyncio.sleep(0)
    assert cached.cache.writings == {}


def plain(events):
    return [(e.text, e.tokens, e.finish_reason, e.prompt_tokens, e.reasoning) for e in events]


async def test_a_text_is_told_again_event_by_event(cached):
    first, second = await cached.ask(), await cached.ask()
    assert plain(first) == plain(second)
    assert len(first) == 5
    assert (first[0].cached_tokens, second[0].cached_tokens) == (0, 3)
    assert cached.written == 1
    assert (cached.metrics.cache_hits, cached.metrics.cache_misses) == (1, 1)
    assert cached.metrics.succeeded == 2
    assert cached.metrics.generated_tokens == 3  # those of the engine


async def test_calls_and_thoughts_are_told_again(cached):
    tools = [{"type": "function", "function": {"name": "say"}}]
    asked = {"tools": tools, "variables": {"enable_thinking": True}}
    first, second = await cached.ask("call this that", **asked), await cached.ask("call this that", **asked)
    assert [e.tool_calls for e in first] == [e.tool_calls for e in second]
    assert first[-1].finish_reason == second[-1].finish_reason == "tool_calls"
    assert [e.reasoning for e in second if e.reasoning] == ["I ", "repeat."]


async def test_probabilities_are_told_again(cached):
    first, second = await cached.ask(logprobs=1), await cached.ask(logprobs=1)
    assert [event.logprobs for event in first] == [event.logprobs for event in second]
    assert first[1].logprobs[0].top == [(1, b"one ", -0.5)]
    await cached.ask()
    assert cached.written == 2


async def test_sampled_text_is_written_every_time_unless_it_has_a_seed(cached):
    for sampling in (Sampling(), Sampling(), Sampling(seed=3), Sampling(seed=3)):
        await cached.ask(sampling=sampling)
    assert cached.written == 3


async def test_another_image_is_another_answer(cached):
    for media in ([b"one"], [b"two"], [b"one"]):
        answer = await cached.ask(media=media)
        assert answer[-2].text == "image:3 "
    assert cached.written == 2


async def test_the_same_text_at_the_same_time_is_written_once(cached):
    answers = await asyncio.gather(*(cached.ask() for _ in range(4)))
    assert [plain(answer) for answer in answers] == [plain(answers[0])] * 4
    assert [answer[0].cached_tokens for answer in answers] == [0, 3, 3, 3]
    assert cached.written == 1
    assert (cached.metrics.succeeded, cached.metrics.cache_hits) == (4, 3)


async def test_who_comes_later_hears_it_from_the_beginning(cached):
    async with cached.request() as events:
        heard = [await anext(events), await anext(events)]
        late = asyncio.create_task(cached.ask())
        heard += [event async for event in events]
    assert plain(await late) == plain(heard)
    assert cached.written == 1


async def test_it_is_written_to_the_end_as_long_as_somebody_listens(cached):
    async with cached.request() as events:
        await anext(events)
        other = asyncio.create_task(cached.ask())
        await asyncio.sleep(0)
    assert (await other)[-1].finish_reason == "stop"
    assert cached.worker.aborted == []
    assert (cached.metrics.succeeded, cached.metrics.failures["CANCELED"]) == (1, 1)
    assert plain(await cached.ask()) == plain(await other)
    assert cached.written == 1


async def test_when_nobody_listens_any_more_the_sequence_is_aborted_and_nothing_is_kept(cached):
    async with cached.request("a b c d e f g h") as events:
        await anext(events)
    for _ in range(3):  # the writing is cancelled, and lets go of its sequence
        await asyncio.sleep(0)
    assert len(cached.worker.aborted) == 1
    assert (cached.metrics.succeeded, cached.metrics.failures["CANCELED"]) == (0, 1)
    await cached.ask("a b c d e f g h")
    assert cached.written == 2


async def test_a_failure_is_told_to_all_and_not_kept(tmp_path):
    cached = Cached(tmp_path, error_after=2)
    answers = await asyncio.gather(*(cached.ask() for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [EngineFailed] * 3
    assert cached.metrics.failures["BACKEND"] == 3
    with pytest.raises(EngineFailed):
        await cached.ask()
    assert cached.written == 2


async def test_a_text_that_is_too_long_for_the_cache_is_told_and_not_kept(cached):
    cached.cache.store.most_bytes = 10
    first, second = await cached.ask(), await cached.ask()
    assert plain(first) == plain(second)
    assert cached.written == 2


async def test_forgotten_while_it_is_written_it_is_not_kept(cached):
    async with cached.request() as events:
        await anext(events)
        await cached.cache.clear()
        rest = [event async for event in events]
    assert rest[-1].finish_reason == "stop"
    await cached.ask()
    assert cached.written == 2


@pytest.mark.parametrize(("header", "written"), [(b"no-cache", 2), (b"no-store", 2), (b"max-age=1", 1)])
async def test_the_caller_may_want_it_written_anew(cached, header, written):
    await cached.ask()
    CALLER.set(Caller(lambda name: header))
    await cached.ask()
    assert cached.written == written
