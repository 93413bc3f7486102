"""Tensor models and embeddings with a cache before them."""

import numpy as np
import pytest

from app.dataplane.caching import calls as cached_calls
from app.dataplane.caching.key import Keys
from app.dataplane.caching.response_cache import ResponseCache
from app.dataplane.caching.store import MemoryStore
from app.dataplane.inference import Ask, Inference, SequenceMark
from app.dataplane.routing import Target
from app.dataplane.tensors import Tensor, pack_strings, unpack_strings
from app.errors import InvalidInput
from app.monitoring.metrics import RouteMetrics
from engines.card import Card
from engines.protocol import Embed, Embedded, Rank, Signature, TensorSpec

TENSORS = Signature([TensorSpec("x", "FP32", [-1, 2], 0)], [TensorSpec("y", "FP32", [-1, 2], 0)], batched=True)
ITEMS = Signature(
    [TensorSpec("item", "BYTES", [-1], 0)],
    [TensorSpec("label", "BYTES", [-1, 2], 0), TensorSpec("score", "FP32", [-1, 2], 0)],
    batched=True,
)


class Engine:
    """Doubles numbers; labels texts by their first two letters. ``seen`` is what reached it."""

    def __init__(self, **target):
        self.metrics = RouteMetrics("r", "m", 1, "tensor", "e")
        self.cache = ResponseCache(MemoryStore(1 << 20), Keys(b""), self.metrics)
        settings = {"timeout_s": 30, "signature": TENSORS, "items": ITEMS, "cache": self.cache} | target
        self.target = Target("r", "m", 1, "", 0, metrics=self.metrics, **settings)
        self.seen = []
        self.asks = []
        self.width = 2

    async def run(self, target, ask, inputs):
        self.asks.append(ask)
        if ask.items:
            texts = unpack_strings(inputs[0].data)
            self.seen.append(texts)
            if b"bad" in texts:
                at = texts.index(b"bad")
                raise InvalidInput(f"item[{at}] is no text", field=f"item[{at}]")
            labels = [letter for text in texts for letter in (text[:1], text[1:2])]
            scores = np.arange(len(texts) * self.width, dtype=np.float32)
            outputs = [
                Tensor("label", "BYTES", [len(texts), 2], pack_strings(labels)),
                Tensor("score", "FP32", [len(texts), self.width], scores.tobytes()),
            ]
        else:
            values = np.frombuffer(inputs[0].data, np.float32)
            self.seen.append(values.tolist())
            outputs = [Tensor("y", "FP32", inputs[0].shape, memoryview((values * 2).tobytes()))]
        return Inference(target, outputs, queue_s=0.25, compute_s=0.5, batch_rows=7)

    async def infer(self, ask):
        return await cached_calls.infer(self.cache, self.target, ask, ask.inputs, self.run)


def numbers(*values, **more):
    data = np.array(values, np.float32).reshape(-1, 2)
    return Ask([Tensor("x", "FP32", list(data.shape), data.tobytes())], **more)


def texts(*values, **more):
    return Ask([Tensor("item", "BYTES", [len(values)], pack_strings(values))], items=True, **more)


def values(answer):
    return [np.frombuffer(output.data, np.float32).reshape(output.shape).tolist() for output in answer.outputs]


def labels(answer):
    assert answer.outputs[0].shape == [len(unpack_strings(answer.outputs[0].data)) // 2, 2]
    letters = unpack_strings(answer.outputs[0].data)
    return [first + second for first, second in zip(letters[::2], letters[1::2], strict=True)]


# --- tensors: a request is kept as a whole ---------------------------------------------------------------


async def test_an_equal_request_is_answered_without_the_engine():
    engine = Engine()
    first, second = await engine.infer(numbers(1, 2, 3, 4)), await engine.infer(numbers(1, 2, 3, 4))
    assert values(first) == values(second) == [[[2, 4], [6, 8]]]
    assert len(engine.seen) == 1
    assert (first.cached, first.queue_s, first.compute_s, first.batch_rows) == (False, 0.25, 0.5, 7)
    assert (second.cached, second.queue_s, second.compute_s, second.batch_rows) == (True, 0, 0, 0)


async def test_rows_of_tensors_are_not_kept_apart():
    engine = Engine()
    await engine.infer(numbers(1, 2, 3, 4))
    await engine.infer(numbers(1, 2))
    assert engine.seen == [[1, 2, 3, 4], [1, 2]]


async def test_other_outputs_are_another_answer():
    engine = Engine()
    for outputs in ([], ["y"], []):
        await engine.infer(numbers(1, 2, outputs=outputs))
    assert len(engine.seen) == 2


async def test_what_is_computed_for_all_has_the_longer_of_the_two_times():
    engine = Engine()
    await engine.infer(numbers(1, 2, timeout_s=0.5))
    await engine.infer(numbers(3, 4, timeout_s=300))
    assert [ask.timeout_s for ask in engine.asks] == [None, 300]  # `None` is the deployment's


def test_what_depends_on_earlier_requests_is_not_for_the_cache():
    state = Card(states={"state": "state_out"})
    plain, stateful = Engine().target, Engine(card=state).target
    assert cached_calls.takes(plain, numbers(1, 2))
    assert not cached_calls.takes(plain, numbers(1, 2, sequence=SequenceMark(1)))
    assert not cached_calls.takes(stateful, numbers(1, 2))
    assert cached_calls.takes(stateful, texts("ab"))  # its sequence is within the item


# --- items: each is kept by itself -----------------------------------------------------------------------


async def test_of_a_batch_of_items_only_the_new_ones_reach_the_engine():
    engine = Engine()
    assert labels(await engine.infer(texts("ab", "cd"))) == [b"ab", b"cd"]
    answer = await engine.infer(texts("ef", "cd", "gh", "ef", "ab"))
    assert labels(answer) == [b"ef", b"cd", b"gh", b"ef", b"ab"]
    assert engine.seen == [[b"ab", b"cd"], [b"ef", b"gh"]]
    assert not answer.cached
    again = await engine.infer(texts("gh", "ab"))
    assert (labels(again), again.cached) == ([b"gh", b"ab"], True)


async def test_an_item_of_a_batch_has_the_key_of_the_same_item_alone():
    engine = Engine()
    await engine.infer(texts("ab", "cd"))
    assert (await engine.infer(texts("cd"))).cached


async def test_an_error_names_the_item_of_the_request_that_is_wrong():
    engine = Engine()
    await engine.infer(texts("ab"))
    with pytest.raises(InvalidInput) as error:
        await engine.infer(texts("ab", "cd", "bad"))
    assert (error.value.field, error.value.message) == ("item[2]", "item[2] is no text")
    assert engine.seen[-1] == [b"cd", b"bad"]


async def test_items_whose_answers_do_not_fit_together_are_computed_together():
    engine = Engine()
    await engine.infer(texts("ab"))
    engine.width = 3
    answer = await engine.infer(texts("ab", "cd"))
    assert answer.outputs[1].shape == [2, 3]
    assert engine.seen == [[b"ab"], [b"cd"], [b"ab", b"cd"]]


@pytest.mark.parametrize("batched", [True, False])
async def test_no_items_and_items_that_do_not_batch_are_kept_as_a_whole(batched):
    engine = Engine(items=Signature(ITEMS.inputs, ITEMS.outputs, batched))
    given = () if batched else ("ab", "cd")
    first, second = await engine.infer(texts(*given)), await engine.infer(texts(*given))
    assert second.cached and not first.cached
    assert labels(first) == labels(second) == [text.encode() for text in given]
    if not batched:
        assert not (await engine.infer(texts("ab"))).cached


def test_packed_tensors_are_what_they_were():
    tensors = [
        Tensor("a", "FP32", [1, 2], b"12345678"),
        Tensor("ä", "BYTES", [0], b""),
        Tensor("c", "INT8", [], memoryview(b"x")),
    ]
    found = cached_calls.unpack(memoryview(cached_calls.pack(tensors)))
    assert [(t.name, t.datatype, t.shape, bytes(t.data)) for t in found] == [
        (t.name, t.datatype, t.shape, bytes(t.data)) for t in tensors
    ]


# --- embeddings ------------------------------------------------------------------------------------------


class Embedder:
    def __init__(self):
        self.cache = ResponseCache(MemoryStore(1 << 20), Keys(b""), RouteMetrics("r", "m", 1, "language", "e"))
        self.seen = []

    async def run(self, request):
        given = request.documents if isinstance(request, Rank) else request.inputs
        self.seen.append(given)
        rows = [[len(one), len(request.query)] if isinstance(request, Rank) else [len(one), 1, 2] for one in given]
        values = np.array(rows, np.float32)
        return Embedded(0, [10 * len(one) for one in given], values.shape[1]), memoryview(values.tobytes())

    async def embed(self, request):
        answer, data, cached = await cached_calls.embed(self.cache, request, 10, self.run)
        return np.frombuffer(data, np.float32).reshape(-1, answer.dimensions).tolist(), answer.tokens, cached


async def test_each_input_of_an_embedding_is_kept():
    model = Embedder()
    assert await model.embed(Embed(0, ["aa", [1, 2, 3]])) == ([[2, 1, 2], [3, 1, 2]], [20, 30], 0)
    rows, tokens, cached = await model.embed(Embed(0, ["b", [1, 2, 3], "aa"]))
    assert (rows, tokens, cached) == ([[1, 1, 2], [3, 1, 2], [2, 1, 2]], [10, 30, 20], 50)
    assert model.seen == [["aa", [1, 2, 3]], ["b"]]


async def test_each_document_is_kept_with_its_query():
    model = Embedder()
    await model.embed(Rank(0, "q", ["a", "bb"]))
    assert await model.embed(Rank(0, "q", ["bb", "a"])) == ([[2, 1], [1, 1]], [20, 10], 30)
    assert await model.embed(Rank(0, "qq", ["bb"])) == ([[2, 2]], [20], 0)


async def test_very_many_items_are_kept_as_one_answer(monkeypatch):
    monkeypatch.setattr(cached_calls, "MOST_APART", 2)
    engine = Engine()
    for texts in ([b"ab", b"cd", b"ef"], [b"ab", b"cd"], [b"ab", b"cd", b"ef"]):
        answer = await engine.infer(Ask([Tensor("item", "BYTES", [len(texts)], pack_strings(texts))], items=True))
        assert unpack_strings(answer.outputs[0].data)[0] == b"a"
    assert engine.seen == [[b"ab", b"cd", b"ef"], [b"ab", b"cd"]]
