"""Embeddings, rerank and the cards of models, over the echo engine."""

import base64
import hashlib
import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from app.api.images import Images
from app.api.openai import OpenAI
from app.api.openai.embeddings import shortened
from app.dataplane.routing import Target
from app.errors import InvalidInput
from engines.engine import EngineError


@pytest.fixture
async def http(echo_house):
    async with echo_house.client(OpenAI(echo_house.dataplane, Images()).routes()) as client:
        yield client


@pytest.fixture
def worker(echo_house):
    return echo_house.workers["echo"]


async def embed(http, given, **more):
    answer = await http.post("/v1/embeddings", json={"model": "echo", "input": given} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def expected(text):
    values = np.array(list(hashlib.sha256(text.encode()).digest()[:8]), np.float32) - 127.5
    return values / np.linalg.norm(values)


@pytest.mark.parametrize(
    ("given", "texts"),
    [("a b", ["a b"]), (["a", "b c"], ["a", "b c"]), ([1, 2], ["1 2"]), ([[1, 2], [3]], ["1 2", "3"])],
)
async def test_inputs_in_every_form_are_embedded_in_order(http, given, texts):
    answer = await embed(http, given)
    assert (answer["object"], answer["model"]) == ("list", "echo")
    assert [(entry["index"], entry["object"]) for entry in answer["data"]] == [
        (index, "embedding") for index in range(len(texts))
    ]
    for entry, text in zip(answer["data"], texts, strict=True):
        assert entry["embedding"] == pytest.approx(expected(text), abs=1e-7)
    tokens = sum(len(text.split()) for text in texts)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


async def test_base64_holds_the_same_numbers(http):
    [entry] = (await embed(http, "a", encoding_format="base64"))["data"]
    values = np.frombuffer(base64.b64decode(entry["embedding"]), "<f4")
    assert values.tolist() == expected("a").tolist()


async def test_dimensions_cut_and_keep_the_length(http):
    [entry] = (await embed(http, "a", dimensions=3))["data"]
    cut = expected("a")[:3]
    assert entry["embedding"] == pytest.approx(cut / np.linalg.norm(cut), abs=1e-6)
    assert len((await embed(http, "a", dimensions=8))["data"][0]["embedding"]) == 8


def test_cut_to_nothing_but_zeros_stays_finite():
    assert shortened(np.array([[0.0, 1.0]], np.float32), 1).tolist() == [[0.0]]
    with pytest.raises(InvalidInput):
        shortened(np.ones((1, 2), np.float32), 3)


async def test_many_inputs_reach_the_worker_in_batches(http, worker):
    answer = await embed(http, [f"text {i}" for i in range(150)])
    assert [len(request.inputs) for request in worker.asked] == [64, 64, 22]
    assert answer["data"][149]["embedding"] == pytest.approx(expected("text 149"), abs=1e-7)


async def test_an_input_that_the_worker_refuses_is_named_by_its_place_in_the_request(http, worker):
    embed_them = worker.engine.embed

    def refuse(requests):
        if "bad" in requests[0].inputs:
            field = f"input[{requests[0].inputs.index('bad')}]"
            raise EngineError("context_exceeded", f"{field} has 999 tokens", field=field)
        return embed_them(requests)

    worker.engine.embed = refuse
    answer = await http.post("/v1/embeddings", json={"model": "echo", "input": ["x"] * 70 + ["bad"]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "input[70]"
    assert answer.json()["error"]["message"] == "input[70] has 999 tokens"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 9}, "dimensions"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_what_cannot_be_embedded_is_named(http, given, field):
    answer = await http.post("/v1/embeddings", json={"model": "echo"} | given)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


# --- rerank ----------------------------------------------------------------------------------------------

QUERY = {"model": "echo", "query": "red blue", "documents": ["green", {"text": "red blue"}, "blue", "red"]}


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/reranking", "/rerank", "/reranking"])
async def test_documents_are_sorted_by_score_and_equal_ones_stay_in_order(http, path):
    answer = (await http.post(path, json=QUERY)).json()
    assert [(result["index"], result["relevance_score"]) for result in answer["results"]] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.5),
        (0, 0.0),
    ]
    assert all("document" not in result for result in answer["results"])
    assert answer["usage"]["prompt_tokens"] == 5


async def test_the_best_come_with_their_documents_on_request(http):
    answer = (await http.post("/v1/rerank", json=QUERY | {"top_n": 2, "return_documents": True})).json()
    assert [result["document"]["text"] for result in answer["results"]] == ["red blue", "blue"]
    more = (await http.post("/v1/rerank", json=QUERY | {"top_n": 99})).json()
    assert len(more["results"]) == 4


async def test_many_documents_reach_the_worker_in_batches(http, worker):
    documents = ["red" if i == 100 else "x" for i in range(130)]
    answer = (await http.post("/v1/rerank", json=QUERY | {"documents": documents})).json()
    assert [len(request.documents) for request in worker.asked] == [64, 64, 2]
    assert answer["results"][0]["index"] == 100


@pytest.fixture
def embeds_only(echo_house):
    """``echo`` as a language model that neither writes nor ranks."""
    target = echo_house.dataplane.find("echo")
    language = msgspec.structs.replace(target.language, capabilities=["embedding"])
    echo_house.dataplane.publish({"echo": replace(target, language=language)})


async def test_a_model_that_only_embeds_ranks_by_cosine(http, worker, embeds_only):
    answer = (await http.post("/v1/rerank", json=QUERY)).json()
    cosines = [float(expected("red blue") @ expected(text)) for text in ("green", "red blue", "blue", "red")]
    assert [result["index"] for result in answer["results"]] == np.argsort(cosines)[::-1].tolist()
    for result in answer["results"]:
        assert result["relevance_score"] == pytest.approx(cosines[result["index"]], abs=1e-6)
    assert [request.inputs for request in worker.asked] == [["red blue", "green", "red blue", "blue", "red"]]
    assert answer["usage"]["prompt_tokens"] == 7


async def test_what_such_a_model_refuses_is_named_by_its_place_among_the_documents(http, worker, embeds_only):
    def refuse(requests):
        raise EngineError("context_exceeded", "input[2] has 999 tokens", field="input[2]")

    worker.engine.embed = refuse
    answer = await http.post("/v1/rerank", json=QUERY)
    assert answer.json()["error"]["param"] == "documents[1]"
    assert answer.json()["error"]["message"] == "documents[1] has 999 tokens"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"documents": []}, "documents"),
        ({"documents": [{"title": "x"}]}, "documents[0].text"),
        ({"top_n": 0}, "top_n"),
        ({"query": None}, "query"),
    ],
)
async def test_what_cannot_be_ranked_is_named_in_openais_envelope(http, given, field):
    for path in ("/v1/rerank", "/rerank"):
        answer = await http.post(path, json=QUERY | given)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == field


# --- models ----------------------------------------------------------------------------------------------


async def test_cards_say_what_clients_read_and_adapters_are_listed(http, echo_house):
    echo_house.serve("tuned", adapters=["pirate", "poet"], context_tokens=99)
    answer = (await http.get("/v1/models")).json()
    cards = {card["id"]: card for card in answer["data"]}
    assert list(cards) == ["echo", "tuned", "tuned:pirate", "tuned:poet"]
    assert cards["tuned"] == {
        "id": "tuned",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "pilothouse",
        "root": "tuned-model",
        "parent": None,
        "context_length": 99,
        "max_model_len": 99,
        "capabilities": ["completion", "tools", "thinking", "vision", "embedding", "rerank"],
    }
    assert cards["tuned:poet"]["parent"] == "tuned"
    for name, card in cards.items():
        assert (await http.get(f"/v1/models/{name}")).json() == card
    assert (await http.get("/v1/models/echo:latest")).json()["id"] == "echo"
    for name in ("nobody", "tuned:nobody"):
        assert (await http.get(f"/v1/models/{name}")).status_code == 404


async def test_an_adapter_is_asked_for_by_its_name(http, echo_house):
    worker = echo_house.serve("tuned", adapters=["pirate"])
    body = {"model": "tuned:pirate", "messages": [{"role": "user", "content": "ahoy"}]}
    assert (await http.post("/v1/chat/completions", json=body)).json()["model"] == "tuned:pirate"
    assert worker.generated[0][0].adapter == "pirate"


async def test_a_route_that_is_not_ready_has_a_card_without_what_is_not_known(http, echo_house):
    resting = Target("resting", "m", 1, "text-generation", 7, why_not="stopped")
    echo_house.dataplane.publish({"resting": resting})
    card = (await http.get("/v1/models/resting")).json()
    assert card["id"] == "resting"
    assert "context_length" not in card
    answer = await http.post("/v1/embeddings", json={"model": "resting", "input": "x"})
    assert answer.status_code == 503


def test_lengths_are_one():
    values = shortened(np.array([[3.0, 4.0, 12.0]], np.float32), 2)
    assert math.isclose(float(np.linalg.norm(values)), 1.0, rel_tol=1e-6)
