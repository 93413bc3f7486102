"""What declared steps can be asked for, and what their answers are as classes, embeddings and scores."""

import msgspec
import numpy as np
import pytest

from app.dataplane import items
from app.dataplane.inference import Ask
from app.errors import EngineFailed, InvalidInput
from engines.card import Card
from engines.protocol import Embed, Rank, Signature, TensorSpec
from tests.support.item_models import ItemModels, tensor

TOKENIZE = [{"step": "tokenize"}]
PAIRS = {"item": "text", "before": [{"step": "tokenize", "pairs": True}]}
EMBEDDER = {"item": "text", "before": TOKENIZE, "after": [{"step": "mean_pool"}]}


def steps(card, *outputs):
    specs = [TensorSpec(name, "BYTES" if name == "label" else "FP32", [-1]) for name in outputs]
    return msgspec.convert(card, Card), Signature([TensorSpec("item", "BYTES", [-1])], specs)


@pytest.mark.parametrize(
    ("card", "outputs", "able"),
    [
        (EMBEDDER, ["embedding", "tokens"], ["embedding", "rerank"]),
        ({"item": "image", "after": [{"step": "normalize_l2"}]}, ["embedding"], ["embedding"]),
        ({"item": "text", "after": [{"step": "softmax"}, {"step": "top_k"}]}, ["label", "score"], ["classify"]),
        ({"item": "row", "after": [{"step": "softmax"}]}, ["y"], ["classify"]),
        ({"item": "row", "after": [{"step": "argmax"}, {"step": "labels"}]}, ["label"], ["classify"]),
        ({"item": "row", "after": [{"step": "argmax"}]}, ["index"], ["classify"]),
        (PAIRS | {"after": [{"step": "sigmoid"}]}, ["logits", "tokens"], ["rerank"]),
        (PAIRS | {"after": [{"step": "softmax"}, {"step": "top_k"}]}, ["label", "score", "tokens"], ["classify"]),
        ({"item": "image", "after": [{"step": "sigmoid"}]}, ["tags"], ["classify"]),
        ({"item": "image", "after": [{"step": "nms"}]}, ["boxes", "label", "score", "count"], []),
        ({"item": "row", "after": [{"step": "regression"}]}, ["value"], []),
    ],
)
def test_what_a_model_can_do_is_read_off_its_steps(card, outputs, able):
    assert items.capabilities(*steps(card, *outputs)) == able


def test_without_steps_nothing():
    assert items.capabilities(Card(), None) == []


@pytest.fixture
def models():
    return ItemModels()


async def classify(models, route, given):
    target = models.find(route)
    return await items.classify(models.infer, target, given, 0.0, lambda index: f"input[{index}]")


def test_one_tensor_named_item_is_items_unless_the_model_has_such_an_input(models):
    card = {"item": "row", "after": [{"step": "softmax"}]}
    target = models.serve("net", card, lambda given: {"y": np.ones((len(given), 3))})
    item, x = tensor("item", ["a"]), tensor("x", np.ones((1, 4), np.float32))
    assert items.meant(target, Ask([item]))
    assert not items.meant(target, Ask([x]))
    assert not items.meant(target, Ask([item, x]))
    assert items.meant(target, Ask([x], items=True))
    own = Signature([TensorSpec("item", "BYTES", [-1])], [TensorSpec("y", "FP32", [-1])])
    assert not items.meant(models.serve("own", card, lambda given: {"y": np.ones((1, 3))}, own), Ask([item]))


async def test_the_best_of_each_item_with_its_tokens(models):
    models.serve(
        "net",
        {"item": "text", "before": TOKENIZE, "after": [{"step": "top_k", "k": 2}]},
        lambda given: {
            "label": [["a", "b"]] * (len(given) - 1) + [["c", "a"]],
            "score": np.array([[0.75, 0.25]] * (len(given) - 1) + [[0.5, 0.125]], np.float32),
            "tokens": np.arange(len(given)),
        },
    )
    found, tokens = await classify(models, "net", [b"x", b"y", b"z"])
    assert found == [[("a", 0.75), ("b", 0.25)], [("a", 0.75), ("b", 0.25)], [("c", 0.5), ("a", 0.125)]]
    assert tokens == [0, 1, 2]


async def test_a_score_for_each_class_is_sorted_and_named_by_the_models_own_labels(models):
    scores = {"y": np.array([[0.25, 0.5, 0.25], [0.125, 0.0, 0.875]])}
    models.serve("net", {"item": "row", "after": [{"step": "softmax"}]}, lambda given: scores)
    found, tokens = await classify(models, "net", [b"[1]", b"[2]"])
    assert found == [[("g", 0.5), ("r", 0.25), ("b", 0.25)], [("b", 0.875), ("r", 0.125), ("g", 0.0)]]
    assert tokens == [0, 0]


async def test_classes_without_scores(models):
    models.serve("named", {"item": "row", "after": [{"step": "labels"}]}, lambda given: {"label": ["é"] * len(given)})
    models.serve(
        "numbered", {"item": "row", "after": [{"step": "argmax"}]}, lambda given: {"index": np.full(len(given), 4)}
    )
    assert (await classify(models, "named", [b"[]"]))[0] == [[("é", None)]]
    assert (await classify(models, "numbered", [b"[]"]))[0] == [[("4", None)]]


@pytest.mark.parametrize(
    ("scores", "found"),
    [([[0.75, 0.25], [0.5, 0.0]], (1.25, 2)), ([[3.0, -1.0]], None), ([[float("nan"), 0.5]], None)],
)
def test_how_sure_an_answer_is(scores, found):
    card = msgspec.convert({"item": "row", "after": [{"step": "top_k"}]}, Card)
    label, score = tensor("label", [["a", "b"]] * len(scores)), tensor("score", np.array(scores, np.float32))
    assert items.confidence(card, [label, score]) == found
    assert items.confidence(card, [score]) is None  # the model's own tensors
    assert items.confidence(Card(), [label, score]) is None


# --- embeddings and ranking --------------------------------------------------------------------------------


def lengths(given):
    """The length of a text and 1, not normalised; nothing for an empty one."""
    return {
        "embedding": np.array([[len(text), bool(text)] for text in given], np.float32),
        "tokens": np.array([len(text.split()) for text in given]),
    }


async def values(models, route, request):
    answer, payload = await models.embed(route, request, 0.0)
    return answer.tokens, np.frombuffer(payload, np.float32).reshape(-1, answer.dimensions)


async def test_embeddings_have_length_one_whatever_the_model_gives(models):
    models.serve("net", EMBEDDER, lengths)
    tokens, found = await values(models, "net", Embed(0, ["abcd", "é", ""]))
    assert models.asked == [[b"abcd", "é".encode(), b""]]
    assert tokens == [1, 1, 0]
    np.testing.assert_allclose(found, [[4 / 17**0.5, 1 / 17**0.5], [2 / 5**0.5, 1 / 5**0.5], [0, 0]], rtol=1e-6)


async def test_an_embedding_model_ranks_by_cosine(models):
    models.serve("net", EMBEDDER, lengths)
    tokens, scores = await values(models, "net", Rank(0, "aa bb", ["a", "b b b"]))
    query, documents = np.array([5, 1]), np.array([[1, 1], [5, 1]])
    cosines = documents @ query / np.linalg.norm(documents, axis=1) / np.linalg.norm(query)
    np.testing.assert_allclose(scores[:, 0], cosines, rtol=1e-6)
    assert tokens == [3, 3]  # the query's with the first document's


async def test_a_cross_encoder_reads_pairs(models):
    answer = {"logits": np.array([[0.5], [0.25]]), "tokens": np.array([9, 8])}
    models.serve("net", PAIRS | {"after": [{"step": "sigmoid"}]}, lambda given: answer)
    tokens, scores = await values(models, "net", Rank(0, 'who "sat"', ["the cat", "é"]))
    assert [msgspec.json.decode(item) for item in models.asked[0]] == [['who "sat"', "the cat"], ['who "sat"', "é"]]
    assert (tokens, scores.tolist()) == ([9, 8], [[0.5], [0.25]])


async def test_a_cross_encoder_of_two_scores_says_how_to_choose(models):
    models.serve("net", PAIRS | {"after": [{"step": "sigmoid"}]}, lambda given: {"logits": np.ones((len(given), 2))})
    with pytest.raises(InvalidInput, match="2 scores for a pair") as caught:
        await models.embed("net", Rank(0, "q", ["d"]), 0.0)
    assert '"select"' in caught.value.hint


@pytest.mark.parametrize(
    ("route", "at", "field"), [("bi", 0, "query"), ("bi", 2, "documents[1]"), ("cross", 1, "documents[1]")]
)
async def test_what_the_worker_refuses_is_named_as_the_caller_knows_it(models, route, at, field):
    def refuse(given):
        if len(given) > 1:
            raise InvalidInput(f"item[{at}]: the text has 999 tokens", field=f"item[{at}]")
        return {"embedding": np.ones((1, 2))} if route == "bi" else {"score": np.ones((1, 1))}

    models.serve(route, EMBEDDER if route == "bi" else PAIRS | {"after": [{"step": "sigmoid"}]}, refuse)
    with pytest.raises(InvalidInput) as caught:
        await models.embed(route, Rank(0, "q", ["a", "b"]), 0.0)
    assert caught.value.field == field
    assert caught.value.message == f"{field}: the text has 999 tokens"


@pytest.mark.parametrize("value", [np.nan, np.inf])
async def test_what_is_no_number_is_no_answer(models, value):
    models.serve("net", EMBEDDER, lambda given: {"embedding": np.full((len(given), 2), value)})
    models.serve("scores", {"item": "row", "after": [{"step": "softmax"}]}, lambda given: {"y": np.array([[value, 1]])})
    with pytest.raises(EngineFailed, match="embedding"):
        await models.embed("net", Embed(0, ["a"]), 0.0)
    with pytest.raises(EngineFailed, match="y"):
        await classify(models, "scores", [b"[]"])


async def test_tokens_are_refused_by_their_place(models):
    models.serve("net", EMBEDDER, lengths)
    with pytest.raises(InvalidInput) as caught:
        await models.embed("net", Embed(0, ["a", [1, 2]]), 0.0)
    assert caught.value.field == "input[1]"
    assert models.asked == []


@pytest.mark.parametrize("wanted", [Embed(0, ["a"]), Rank(0, "a", ["b"])], ids=["embed", "rank"])
async def test_a_model_that_became_another_one_meanwhile_says_what_it_can_do(models, wanted):
    before = models.serve("net", EMBEDDER, lambda given: {"embedding": np.ones((len(given), 2))})

    async def infer(route, ask):
        models.serve(
            "net", {"item": "text", "after": [{"step": "argmax"}]}, lambda given: {"index": np.ones(1, np.int64)}
        )
        return await models.infer(route, ask)

    with pytest.raises(InvalidInput, match="the steps of net give index"):
        await items.embed(infer, before, wanted, 0.0)
