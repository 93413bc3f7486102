"""`/v1/classify`, and what the other routes do for tensor models, over declared steps whose answers are given."""

import base64

import httpx2
import numpy as np
import pytest

from app.api.images import Images
from app.api.openai import OpenAI
from app.api.server import Server
from app.dataplane.routing import Target
from app.settings import Settings
from engines.protocol import LanguageModel
from tests.support.item_models import ItemModels

TOP = {"after": [{"step": "top_k", "k": 0}], "labels": ["cat", "dog"]}
TOKENIZE = {"item": "text", "before": [{"step": "tokenize"}]}


@pytest.fixture
def models():
    """``text``, ``image``, ``audio``, ``row``, ``pairs`` classify; ``embedder`` embeds, ``clip`` embeds images."""
    models = ItemModels()

    def animals(given):
        return {
            "label": [["dog", "cat"] if b"b" in item else ["cat", "dog"] for item in given],
            "score": np.array([[0.75, 0.25]] * len(given), np.float32),
        }

    def texts(given):
        return animals(given) | {"tokens": np.array([len(item.split()) for item in given])}

    def directions(given):
        return {"embedding": np.array([[len(item), 1] for item in given], np.float32)}

    models.serve("text", TOKENIZE | TOP, texts)
    for kind in ("image", "audio", "row", "file"):
        models.serve(kind, {"item": kind} | TOP, animals)
    models.serve("pairs", TOP | {"item": "text", "before": [{"step": "tokenize", "pairs": True}]}, texts)
    models.serve("embedder", TOKENIZE | {"after": [{"step": "mean_pool"}]}, directions)
    models.serve("clip", {"item": "image", "after": [{"step": "normalize_l2"}]}, directions)
    plain = Target("plain", "plain-model", 1, "t", 7, signature=models.find("row").signature, batcher=object())
    chat = Target("chat", "m", 1, "t", 7, language=LanguageModel(8, 1, 9, "gguf"), pool=object())
    models.publish({**models.table, "plain": plain, "chat": chat, "resting": Target("resting", "m", 1, "t", 7)})
    return models


@pytest.fixture
async def http(models):
    transport = httpx2.ASGITransport(app=Server(OpenAI(models, Images()).routes(), Settings()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8484") as client:
        yield client


async def classify(http, model, given, **more):
    answer = await http.post("/v1/classify", json={"model": model, "input": given} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refused(http, model, given, path="/v1/classify", **more):
    answer = await http.post(path, json={"model": model, "input": given} | more)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


async def test_the_answer_has_vllms_form(http):
    answer = await classify(http, "text", ["a cat", "b"])
    assert answer.pop("id").startswith("classify-")
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "object": "list",
        "model": "text",
        "data": [
            {
                "index": 0,
                "label": "cat",
                "probs": [0.75, 0.25],
                "num_classes": 2,
                "scores": [{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.25}],
            },
            {
                "index": 1,
                "label": "dog",
                "probs": [0.25, 0.75],  # in the order of the labels
                "num_classes": 2,
                "scores": [{"label": "dog", "score": 0.75}, {"label": "cat", "score": 0.25}],
            },
        ],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


async def test_top_k_shortens_the_scores_alone(http):
    [entry] = (await classify(http, "text", "b", top_k=1))["data"]
    assert entry["scores"] == [{"label": "dog", "score": 0.75}]
    assert entry["probs"] == [0.25, 0.75]


async def test_a_model_that_answers_with_its_best_has_no_more_probabilities(http, models):
    models.serve(
        "best",
        TOKENIZE | {"labels": ["a", "b", "c"], "after": [{"step": "top_k", "k": 2}]},
        lambda given: {"label": [["c", "a"]], "score": np.array([[0.5, 0.25]])},
    )
    [entry] = (await classify(http, "best", "x"))["data"]
    assert (entry["label"], entry["probs"], entry["num_classes"]) == ("c", [0.5, 0.25], 3)


async def test_a_label_without_a_score(http, models):
    models.serve("named", {"item": "row", "after": [{"step": "labels"}]}, lambda given: {"label": ["z"] * len(given)})
    [entry] = (await classify(http, "named", [1]))["data"]
    assert (entry["label"], entry["probs"], entry["scores"], entry["num_classes"]) == ("z", [], [], 3)


PNG = base64.b64encode(b"\x89PNG b").decode()


@pytest.mark.parametrize(
    ("model", "given", "items"),
    [
        ("text", "a", [b"a"]),
        ("text", ["a", {"text": "é"}], [b"a", "é".encode()]),
        ("image", {"image": f"data:image/png;base64,{PNG}"}, [b"\x89PNG b"]),
        ("image", [{"image": PNG}, f"data:image/png;base64,{PNG}"], [b"\x89PNG b"] * 2),
        ("audio", {"audio": base64.b64encode(b"RIFF").decode()}, [b"RIFF"]),
        ("file", {"file": base64.b64encode(b"x").decode()}, [b"x"]),
        ("row", {"row": {"age": 1}}, [b'{"age":1}']),
        ("row", {"age": 1, "name": "b"}, [b'{"age":1,"name":"b"}']),
        ("row", [1, 2.5, None, "b"], [b'[1,2.5,null,"b"]']),
        ("row", [[1, 2], {"row": [3, 4]}, {"age": 1}], [b"[1,2]", b"[3,4]", b'{"age":1}']),
        ("pairs", {"text": "a", "text_pair": "b"}, [b'["a","b"]']),
    ],
)
async def test_items_of_each_kind_reach_the_steps_as_one_request(http, models, model, given, items):
    answer = await classify(http, model, given)
    assert models.asked == [items]
    assert [entry["index"] for entry in answer["data"]] == list(range(len(items)))


@pytest.mark.parametrize(
    ("model", "given", "field", "said"),
    [
        ("text", [], "input", "is empty"),
        ("text", ["a"] * 2049, "input", "2049 entries"),
        ("text", ["a", 1], "input[1]", "takes a text, not a number"),
        ("text", ["a", ""], "input[1]", "not an empty text"),
        ("text", [[1, 2]], "input[0]", "not a list"),
        ("text", {"image": PNG}, "input[0]", "takes a text, not an object with image"),
        ("text", None, "input[0]", "not null"),
        ("image", ["no picture!"], "input[0]", "not valid base64"),
        ("image", [{"image": PNG}, {"image": 3}], "input[1]", "data URL or base64"),
        ("image", {"image": "data:nothing"}, "input[0]", "data URL"),
        ("audio", {"image": PNG}, "input[0]", '{"audio": base64'),
        ("row", "a", "input[0]", "a list of numbers"),
        ("row", [{"row": []}], "input[0]", "an object with row"),
        ("pairs", ["a", "b"], "input[0]", '"text_pair"'),
        ("pairs", {"text": "a"}, "input[0]", '"text_pair"'),
    ],
)
async def test_what_is_no_item_is_named(http, models, model, given, field, said):
    error = await refused(http, model, given)
    assert error["param"] == field
    assert said in error["message"]
    assert models.asked == []


async def test_top_k_has_bounds(http):
    assert (await refused(http, "text", "a", top_k=0))["param"] == "top_k"


@pytest.mark.parametrize(
    ("model", "path", "said"),
    [
        ("plain", "/v1/classify", "pilothouse describe plain-model"),
        ("plain", "/v1/embeddings", "pilothouse describe plain-model"),
        ("plain", "/v1/rerank", "pilothouse describe plain-model"),
        ("chat", "/v1/classify", "classification heads of language models are not served"),
        ("embedder", "/v1/classify", "use /v1/embeddings or /v1/rerank or /v2/models/embedder/infer"),
        ("text", "/v1/embeddings", "use /v1/classify or /v2/models/text/infer"),
        ("image", "/v1/embeddings", "use /v1/classify"),
        ("clip", "/v1/rerank", "use /v1/embeddings"),
        ("text", "/v1/chat/completions", "use /v1/classify"),
        ("plain", "/v1/completions", "use /v2/models/plain/infer"),
    ],
)
async def test_a_route_that_a_model_cannot_serve_says_which_it_can(http, model, path, said):
    more = {"query": "q", "documents": ["d"], "prompt": "p", "messages": [{"role": "user", "content": "x"}]}
    error = await refused(http, model, "a", path, **more)
    assert error["param"] == "model"
    assert said in error["message"]


@pytest.mark.parametrize(("model", "status"), [("nobody", 404), ("resting", 503)])
async def test_a_model_that_cannot_answer(http, model, status):
    for path in ("/v1/classify", "/v1/embeddings"):
        answer = await http.post(path, json={"model": model, "input": "a"})
        assert answer.status_code == status


async def test_embeddings_of_texts_and_of_images(http, models):
    body = {"model": "embedder", "input": ["abc", "x"], "encoding_format": "base64"}
    answer = (await http.post("/v1/embeddings", json=body)).json()
    values = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(values, np.array([3, 1]) / 10**0.5, rtol=1e-6)
    answer = (await http.post("/v1/embeddings", json={"model": "clip", "input": [{"image": PNG}]})).json()
    assert answer["data"][0]["embedding"] == pytest.approx([6 / 37**0.5, 1 / 37**0.5])
    assert models.asked == [[b"abc", b"x"], [b"\x89PNG b"]]


async def test_many_texts_are_named_by_their_place_in_the_request(http):
    error = await refused(http, "embedder", ["a"] * 70 + [[1]], "/v1/embeddings")
    assert error["param"] == "input[70]"


async def test_documents_are_ranked_by_an_embedding_model(http):
    body = {"model": "embedder", "query": "aaaa", "documents": ["a", "aaaa", "aa"]}
    answer = (await http.post("/v1/rerank", json=body)).json()
    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    assert answer["results"][0]["relevance_score"] == pytest.approx(1)


async def test_cards_say_what_each_route_can_do(http):
    found = {card["id"]: card.get("capabilities") for card in (await http.get("/v1/models")).json()["data"]}
    assert found["image"] == ["classify"]
    assert found["embedder"] == ["embedding", "rerank"]
    assert found["clip"] == ["embedding"]
    assert found["plain"] is None
