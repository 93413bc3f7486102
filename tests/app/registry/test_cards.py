import msgspec
import pytest

from app.errors import InvalidInput
from app.registry import cards
from app.schema.manage import ModelFile, Version
from engines.card import Card

EMBEDDER = {"item": "text", "before": [{"step": "tokenize"}], "after": [{"step": "mean_pool"}]}


def version(card=None, metadata=None, files=("m.onnx",)):
    return Version(
        version=1, format="onnx", precision=None, size_bytes=1, digest="sha256:m.onnx", source="file:x", created="",
        files=[ModelFile(path=path, size_bytes=1, digest=f"sha256:{path}") for path in files],
        card=card or {}, metadata=metadata or {},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"labels": [1]}, "card.labels[0]"),
        ({"item": "smell"}, "card.item"),
        ({"before": [{"step": "resize", "size": "8"}]}, "card.before[0].size"),
        ({"after": [{"step": "top_k"}, {"step": "top_k", "k": -1}]}, "card.after[1].k"),
        ({"after": [{"step": "guess"}]}, "card.after[0].step"),
        ({"lables": []}, "card"),
    ],
)
def test_what_is_wrong_with_a_card_is_named(given, field):
    with pytest.raises(InvalidInput) as caught:
        cards.check(given)
    assert caught.value.field == field
    assert caught.value.message.startswith(f"{field}: ")


def test_every_default_is_written_out_and_reads_back_as_the_same_card():
    card = cards.check(EMBEDDER | {"labels": ["a"]})
    whole = cards.whole(card)
    assert whole["before"][0] == {"step": "tokenize"} | {
        name: getattr(card.before[0], name) for name in card.before[0].__struct_fields__
    }
    assert whole["after"][0]["mask"] == "attention_mask"
    assert whole["units"] == {} and set(whole) == set(Card.__struct_fields__)
    assert cards.check(whole) == card
    assert msgspec.json.decode(msgspec.json.encode(whole)) == whole


def test_class_names_of_the_source_stand_in_for_those_of_the_card():
    assert cards.of(version(metadata={"labels": ["a", "b"]})).labels == ["a", "b"]
    assert cards.of(version({"labels": ["c"]}, {"labels": ["a"]})).labels == ["c"]
    assert cards.of(version()) == Card()


def test_identity_is_of_all_that_decides_an_answer():
    plain = version()
    assert cards.identity(plain) == plain.digest
    others = [version({"labels": ["a"]}), version({"labels": ["b"]}), version(files=("m.onnx", "tokenizer.json"))]
    found = {cards.identity(entry) for entry in (plain, *others)}
    assert len(found) == 4
    assert cards.identity(version({"labels": ["a"]})) == cards.identity(others[0])


def test_a_card_file_says_more_than_the_card():
    card, more = cards.split({"labels": ["a"], "task": "t", "accuracy": 0.5, "digest": "sha256:0"}, "card.json")
    assert card == Card(labels=["a"])
    assert more == {"task": "t", "accuracy": 0.5}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "card.json: expected an object"),
        ({"lables": ["a"]}, "card.json: lables is unknown"),
        ({"task": 1}, "card.json.task: expected a text"),
        ({"labels": "a"}, "card.json.labels"),
    ],
)
def test_a_card_file_that_cannot_be(document, said):
    with pytest.raises(InvalidInput) as caught:
        cards.split(document, "card.json")
    assert caught.value.message.startswith(said)


def test_a_near_miss_is_told_what_was_meant():
    with pytest.raises(InvalidInput) as caught:
        cards.split({"lables": []}, "card.json")
    assert caught.value.hint == "did you mean labels?"


@pytest.mark.parametrize(
    "content",
    [
        b"cat\ndog\n",
        b"cat\r\ndog",
        b"\xef\xbb\xbfcat\ndog\n",
        b'["cat", "dog"]',
        b'{"1": "dog", "0": "cat"}',
        b'{"model_type": "bert", "id2label": {"0": "cat", "1": "dog"}}',
    ],
)
def test_class_names_in_every_form(content):
    assert cards.labels(content, "labels") == ["cat", "dog"]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[1, 2]", b'{"cat": 0}', b"{", b'{"0": "cat", "2": "dog"}'])
def test_class_names_that_are_none(content):
    with pytest.raises(InvalidInput) as caught:
        cards.labels(content, "labels.json")
    assert "labels.json" in caught.value.message and caught.value.field == "labels"


@pytest.mark.parametrize(
    ("card", "task"),
    [
        (EMBEDDER, "embedding"),
        ({"item": "text", "before": [{"step": "tokenize", "pairs": True}], "after": [{"step": "sigmoid"}]}, "rerank"),
        ({"item": "image", "after": [{"step": "softmax"}, {"step": "top_k"}]}, "image-classification"),
        ({"item": "image", "after": [{"step": "nms"}]}, "object-detection"),
        ({"item": "row", "after": [{"step": "top_k"}]}, "tabular-classification"),
        ({"item": "row", "after": [{"step": "regression"}]}, "tabular-regression"),
        ({"item": "audio", "after": [{"step": "argmax"}, {"step": "labels"}]}, "audio-classification"),
        ({"labels": ["a"]}, ""),
    ],
)
def test_a_card_tells_what_the_model_is_for(card, task):
    assert cards.task(cards.check(card)) == task


def test_files_that_the_steps_read_are_told_with_their_place():
    before = [{"step": "bytes", "begin": 1}, {"step": "tokenize", "file": "other.json"}]
    assert list(cards.files(cards.check({"item": "text", "before": before}))) == [
        ("card.before[1].file", "other.json"),
    ]
