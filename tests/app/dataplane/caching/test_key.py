"""No two different requests have one key."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.dataplane.caching.key import Keys, identity, repeatable
from app.dataplane.tensors import Tensor
from engines.card import Card
from engines.protocol import Generate, Grammar, Load, Ready, Sampling

KEYS = Keys(b"a model")

#: Few letters and short lengths: so that what ends where is all that tells two requests apart.
words = st.text("ab", max_size=3)
tensors = st.builds(
    Tensor,
    words,
    st.sampled_from(["UINT8", "BYTES"]),
    st.lists(st.integers(0, 3), max_size=2),
    st.binary(max_size=4),
)
requests = st.tuples(st.lists(tensors, max_size=3), st.lists(words, max_size=2), st.booleans())


@settings(max_examples=300)
@given(requests, requests)
def test_keys_of_tensors_are_equal_where_the_requests_are(one, other):
    assert (KEYS.tensors(*one) == KEYS.tensors(*other)) == (one == other)


def moved(data: bytes, at: int) -> list[Tensor]:
    return [Tensor("a", "UINT8", [4], data[:at]), Tensor("b", "UINT8", [4], data[at:])]


def test_the_same_bytes_cut_elsewhere_are_another_request():
    assert len({KEYS.tensors(moved(b"12345678", at), [], False) for at in range(9)}) == 9


@settings(max_examples=200)
@given(st.one_of(words, st.lists(st.integers(0, 9))), st.one_of(words, st.lists(st.integers(0, 9))))
def test_keys_of_embeddings_are_equal_where_the_inputs_are(one, other):
    assert (KEYS.embedding(one) == KEYS.embedding(other)) == (one == other)


@given(words, words, words, words)
def test_a_query_and_its_document_are_told_apart(query, document, other_query, other_document):
    same = (query, document) == (other_query, other_document)
    assert (KEYS.score(query, document) == KEYS.score(other_query, other_document)) == same


def test_the_three_kinds_share_no_key():
    text = [Tensor("item", "BYTES", [1], b"\1\0\0\0a")]
    keys = {KEYS.tensors(text, [], False), KEYS.tensors(text, [], True), KEYS.embedding("a"), KEYS.score("a", "a")}
    assert len(keys) == 4


# --- what is asked of a language model -------------------------------------------------------------------


def greedy(**more):
    return Generate(1, **({"prompt": "a b", "sampling": Sampling(temperature=0)} | more))


ANOTHER = {
    "messages": [{"role": "user", "content": "a b"}],
    "prompt": "a c",
    "prompt_tokens": [1, 2],
    "sampling": Sampling(temperature=0, top_k=1),
    "max_tokens": 7,
    "min_tokens": 1,
    "stop": ["a"],
    "ignore_eos": True,
    "cache_prompt": False,
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "grammar": Grammar("json_object"),
    "variables": {"enable_thinking": True},
    "continue_final": True,
    "parse": False,
    "logprobs": 0,
    "adapter": "french",
}


def test_every_field_of_a_request_but_its_number_its_priority_and_its_media_is_in_the_table():
    assert set(Generate.__struct_fields__) - set(ANOTHER) == {"id", "priority", "media"}


@pytest.mark.parametrize("field", ANOTHER)
def test_each_field_makes_another_key(field):
    assert KEYS.text(greedy(**{field: ANOTHER[field]}), []) != KEYS.text(greedy(), [])


def test_the_number_and_the_priority_of_a_request_change_nothing():
    other = greedy(priority=3, media=[9])
    other.id = 77
    assert KEYS.text(other, []) == KEYS.text(greedy(), [])


def test_images_are_part_of_the_key_and_where_one_ends_too():
    keys = {KEYS.text(greedy(), media) for media in ([], [b"ab"], [b"a", b"b"], [b"b", b"a"], [b"", b"ab"])}
    assert len(keys) == 5


def test_the_order_in_an_object_counts_for_a_template_shows_it():
    one = greedy(variables={"a": 1, "b": 2})
    assert KEYS.text(one, []) != KEYS.text(greedy(variables={"b": 2, "a": 1}), [])


def test_what_no_worker_can_be_sent_has_no_key():
    assert KEYS.text(greedy(variables={"n": 1 << 70}), []) is None
    assert KEYS.text(greedy(prompt="\ud800"), []) is None


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), False),
        (Sampling(seed=1), True),
        (Sampling(seed=0xFFFFFFFF), False),  # llama.cpp's word for any
        (Sampling(temperature=0), True),
        (Sampling(temperature=0, mirostat=2), False),
        (Sampling(temperature=0, mirostat=2, seed=5), True),
        (Sampling(temperature=0, xtc_probability=0.5), False),
        (Sampling(temperature=0, dynatemp_range=0.5), False),
        (Sampling(temperature=0, samplers=["top_k"]), False),
        (Sampling(temperature=0, samplers=["top_k", "temperature"]), True),
    ],
)
def test_only_what_leaves_nothing_to_chance_is_kept(sampling, expected):
    assert repeatable(sampling) is expected
    assert (KEYS.text(greedy(sampling=sampling), []) is not None) is expected


# --- what a deployment is --------------------------------------------------------------------------------

LOAD = Load("onnxruntime", "/a/model.onnx", "cuda:0", settings={"sequences": 4, "pooling": "mean"})
READY = Ready("onnxruntime", "1.23", "cuda:0", "CUDAExecutionProvider")


def of(digest="sha256:1", parts=None, load=LOAD, ready=READY, **changes):
    return identity(digest, parts or {}, msgspec.structs.replace(load, **changes), ready)


def test_all_that_may_change_an_answer_is_in_the_identity():
    others = [
        of("sha256:2"),
        of(parts={"draft": "sha256:3"}),
        of(parts={"adapter:a": "sha256:3"}),
        of(card=Card(labels=["a"])),
        of(card=Card(units={"a": "m"})),
        of(settings={"sequences": 5}),
        of(files={"projector": "/p"}),
        of(ready=msgspec.structs.replace(READY, engine_version="1.24")),
        of(ready=msgspec.structs.replace(READY, provider="CPUExecutionProvider")),
        of(ready=msgspec.structs.replace(READY, device="cpu")),
    ]
    assert len({of(), *others}) == len(others) + 1


def test_what_changes_no_answer_is_not():
    same = [
        of(threads=3),
        of(path="/elsewhere/model.onnx"),
        of(settings={"pooling": "mean", "sequences": 4}),
        of(ready=msgspec.structs.replace(READY, device="cuda:1", memory_bytes=5)),
    ]
    assert {of(), *same} == {of()}
    assert Keys(of()).embedding("a") != Keys(of("sha256:2")).embedding("a")
