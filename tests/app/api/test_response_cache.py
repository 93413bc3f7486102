"""What a client sees of a response cache: the header, the usage, the same answer."""

import asyncio
import dataclasses
import json

import pytest

from app.api.anthropic import Anthropic
from app.api.images import Images
from app.api.openai import OpenAI
from app.dataplane.caching.key import Keys
from app.dataplane.caching.response_cache import ResponseCache
from app.dataplane.caching.store import MemoryStore

CHAT = {"model": "echo", "temperature": 0, "messages": [{"role": "user", "content": "one two"}]}


@pytest.fixture
def worker(echo_house):
    """Of the route ``echo``, which has a cache; ``plain`` has none."""
    echo_house.serve("plain")
    table = dict(echo_house.dataplane.table)
    cache = ResponseCache(MemoryStore(1 << 20), Keys(b""), table["echo"].metrics)
    table["echo"] = dataclasses.replace(table["echo"], cache=cache)
    echo_house.dataplane.publish(table)
    return echo_house.workers["echo"]


@pytest.fixture
async def http(echo_house, worker):
    images = Images()
    routes = [*OpenAI(echo_house.dataplane, images).routes(), *Anthropic(echo_house.dataplane, images).routes()]
    async with echo_house.client(routes) as client:
        yield client


async def post(http, path, body, **headers):
    answer = await http.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def frames(answer):
    """The events of a stream without what is each answer's own."""
    told = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    return [{key: value for key, value in frame.items() if key not in ("id", "created", "usage")} for frame in told]


async def test_a_chat_is_answered_again_without_the_model(http, worker):
    first, second = await post(http, "/v1/chat/completions", CHAT), await post(http, "/v1/chat/completions", CHAT)
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
    assert first.json()["choices"] == second.json()["choices"]
    assert first.json()["id"] != second.json()["id"]
    usage = second.json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] == 2
    assert len(worker.generated) == 1


async def test_a_stream_is_told_again_in_the_same_pieces_also_to_who_wanted_it_whole(http, worker):
    stream = CHAT | {"stream": True}
    first, second = await post(http, "/v1/chat/completions", stream), await post(http, "/v1/chat/completions", stream)
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
    assert frames(first) == frames(second)
    assert len(frames(first)) > 3
    whole = await post(http, "/v1/chat/completions", CHAT)
    assert whole.headers["x-cache"] == "hit"
    assert whole.json()["choices"][0]["message"]["content"] == "one two "
    assert len(worker.generated) == 1


async def test_another_protocol_tells_what_was_kept_in_its_own_words(http, worker):
    body = CHAT | {"max_tokens": 16}
    first, second = await post(http, "/v1/messages", body), await post(http, "/v1/messages", body)
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
    assert first.json()["content"] == second.json()["content"]
    assert second.json()["usage"]["cache_read_input_tokens"] == 2
    assert len(worker.generated) == 1


async def test_all_choices_must_have_been_kept_for_a_hit(http, worker):
    seeded = {"model": "echo", "prompt": "one", "seed": 5, "max_tokens": 4}
    assert (await post(http, "/v1/completions", seeded)).headers["x-cache"] == "miss"
    assert (await post(http, "/v1/completions", seeded | {"n": 2})).headers["x-cache"] == "miss"
    assert (await post(http, "/v1/completions", seeded | {"n": 2})).headers["x-cache"] == "hit"
    assert len(worker.generated) == 2  # one for each seed


@pytest.mark.parametrize(
    ("body", "headers"),
    [({"temperature": 1}, {}), ({}, {"cache-control": "no-store"}), ({"model": "plain"}, {})],
)
async def test_where_no_cache_takes_part_nothing_is_said(http, body, headers):
    for _ in range(2):
        answer = await post(http, "/v1/chat/completions", CHAT | body, **headers)
        assert "x-cache" not in answer.headers


async def test_no_cache_is_computed_anew_and_kept(http, worker):
    for headers, outcome in (({"cache-control": "no-cache"}, "miss"), ({}, "hit")):
        answer = await post(http, "/v1/chat/completions", CHAT, **headers)
        assert answer.headers["x-cache"] == outcome
    assert len(worker.generated) == 1


async def test_embeddings_compute_only_the_inputs_that_are_new(http, worker):
    await post(http, "/v1/embeddings", {"model": "echo", "input": ["a", "b"]})
    mixed = await post(http, "/v1/embeddings", {"model": "echo", "input": ["b", "c", "a"]})
    plain = await post(http, "/v1/embeddings", {"model": "plain", "input": ["b", "c", "a"]})
    assert mixed.json()["data"] == plain.json()["data"]
    assert mixed.json()["usage"] == plain.json()["usage"]
    assert [request.inputs for request in worker.asked] == [["a", "b"], ["c"]]
    assert mixed.headers["x-cache"] == "miss"
    again = await post(http, "/v1/embeddings", {"model": "echo", "input": ["c", "b"]})
    assert again.headers["x-cache"] == "hit"


async def test_scores_of_documents_are_kept_with_their_query(http, worker):
    asked = {"model": "echo", "query": "a b", "documents": ["a", "c"]}
    first = await post(http, "/v1/rerank", asked)
    more = await post(http, "/v1/rerank", asked | {"documents": ["a b", "c", "a"]})
    assert [request.documents for request in worker.asked] == [["a", "c"], ["a b"]]
    assert [result["index"] for result in more.json()["results"]] == [0, 2, 1]
    assert first.json()["results"][0]["index"] == 0


async def test_equal_requests_at_once_reach_the_model_once(http, worker):
    answers = await asyncio.gather(*(post(http, "/v1/chat/completions", CHAT) for _ in range(8)))
    assert len({json.dumps(answer.json()["choices"]) for answer in answers}) == 1
    assert sorted(answer.headers["x-cache"] for answer in answers) == ["hit"] * 7 + ["miss"]
    assert len(worker.generated) == 1


async def test_a_refusal_is_not_kept(http, worker):
    long = CHAT | {"messages": [{"role": "user", "content": "word " * 600}]}
    for _ in range(2):
        answer = await http.post("/v1/chat/completions", json=long)
        assert answer.status_code == 400
    assert len(worker.generated) == 2
