"""What a user declares about a version, and the files that go with it."""

import hashlib

import pytest

from app.errors import InvalidInput, ModelNotFound
from app.registry import cards
from app.registry.registry import Registry

EMBEDDER = {"item": "text", "before": [{"step": "tokenize"}], "after": [{"step": "mean_pool"}]}


@pytest.fixture
def finished(tmp_path):
    def write(content: bytes, name: str = "model.onnx"):
        path = tmp_path / "work" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
async def net(registry, finished):
    return await registry.add_version(
        "net", task="tensor", files=[("net.onnx", finished(b"weights"))], format="onnx", precision=None, source="file:x"
    )


def card(**more):
    return cards.check(EMBEDDER | more)


async def test_a_description_changes_no_weights_and_lasts(registry, net, finished, store, data, bus):
    tokenizer = finished(b"{}", "t")
    described = await registry.describe("net", 1, card(units={"x": "mV"}), [("tokenizer.json", tokenizer)])
    assert described.digest == net.digest
    assert described.card == EMBEDDER | {"units": {"x": "mV"}}
    assert [file.path for file in described.files] == ["net.onnx", "tokenizer.json"]
    assert described.size_bytes == registry.get("net").size_bytes == len(b"weights") + 2
    assert (registry.path("net", 1).parent / "tokenizer.json").read_bytes() == b"{}"
    assert not tokenizer.exists()
    assert bus.state["model"]["net"].versions == [described]
    later = Registry(store, data, bus)
    await later.load()
    assert later.models() == registry.models()


async def test_the_task_is_guessed_unless_it_is_known_or_given(registry, net, finished):
    await registry.describe("net", 1, card(), [("tokenizer.json", finished(b"{}", "t"))])
    assert registry.get("net").task == "embedding"
    await registry.describe("net", 1, card(after=[{"step": "top_k"}]))
    assert registry.get("net").task == "embedding"
    await registry.describe("net", 1, card(), task="sentence-embedding")
    assert registry.get("net").task == "sentence-embedding"


async def test_a_file_takes_the_place_of_an_older_one(registry, net, finished):
    await registry.describe("net", 1, card(), [("tokenizer.json", finished(b"old", "t"))])
    before = cards.identity(registry.resolve("net")[1])
    described = await registry.describe("net", 1, files=[("tokenizer.json", finished(b"newer", "t"))])
    assert described.card == EMBEDDER
    assert (registry.path("net", 1).parent / "tokenizer.json").read_bytes() == b"newer"
    assert not registry.artifacts.path("sha256:" + hashlib.sha256(b"old").hexdigest()).exists()
    assert cards.identity(described) != before


async def test_what_an_interrupted_change_left_out_is_there_after_the_next_start(
    registry, net, finished, store, data, bus
):
    await registry.describe("net", 1, card(), [("tokenizer.json", finished(b"{}", "t"))])
    (registry.path("net", 1).parent / "tokenizer.json").unlink()
    later = Registry(store, data, bus)
    await later.load()
    assert (later.path("net", 1).parent / "tokenizer.json").read_bytes() == b"{}"


async def test_a_file_that_never_arrived_leaves_nothing(registry, data, bus, store):
    incoming = registry.incoming("tokenizer.json")
    incoming.write_bytes(b"{")
    (data.downloads / "a-job").mkdir()
    assert incoming.parent == data.downloads
    await Registry(store, data, bus).load()
    assert [entry.name for entry in data.downloads.iterdir()] == ["a-job"]
    with pytest.raises(InvalidInput):
        registry.incoming("../tokenizer.json")


async def test_a_card_that_needs_a_file_which_is_not_there_changes_nothing(registry, net):
    with pytest.raises(InvalidInput) as caught:
        await registry.describe("net", 1, card())
    assert caught.value.field == "card.before[0].file"
    assert "tokenizer.json" in caught.value.hint
    assert registry.resolve("net")[1] == net


async def test_the_model_itself_is_not_replaced(registry, net, finished):
    for path in ("net.onnx", "../net.onnx"):
        with pytest.raises(InvalidInput):
            await registry.describe("net", 1, files=[(path, finished(b"other", "o"))])
    assert registry.path("net", 1).read_bytes() == b"weights"


async def test_language_models_and_what_is_not_here_have_no_cards(registry, finished):
    files = [("a.gguf", finished(b"words"))]
    await registry.add_version("chat", task="chat", files=files, format="gguf", precision=None, source="x")
    with pytest.raises(InvalidInput, match="GGUF"):
        await registry.describe("chat", 1, cards.check({"labels": ["a"]}))
    with pytest.raises(ModelNotFound):
        await registry.describe("chat", 2, cards.check({}))
    with pytest.raises(ModelNotFound):
        await registry.describe("nobody", 1, cards.check({}))


async def test_the_same_model_again_keeps_what_was_described_unless_it_brings_a_card(registry, net, finished):
    await registry.describe("net", 1, card(), [("tokenizer.json", finished(b"{}", "t"))])

    async def add(**more):
        return await registry.add_version(
            "net",
            task="",
            files=[("net.onnx", finished(b"weights"))],
            format="onnx",
            precision=None,
            source="x",
            **more,
        )

    assert (await add()).card == EMBEDDER
    again = await add(card=cards.check({"labels": ["a"]}))
    assert (again.version, again.card) == (1, {"labels": ["a"]})
    assert [file.path for file in again.files] == ["net.onnx", "tokenizer.json"]


async def test_a_version_comes_with_its_card(registry, finished):
    files = [("m.onnx", finished(b"weights")), ("tokenizer.json", finished(b"{}", "t"))]
    made = dict(task="embedding", format="onnx", precision=None, source="x", card=card())
    version = await registry.add_version("net", files=files, **made)
    assert version.card == EMBEDDER
    with pytest.raises(InvalidInput, match="tokenizer"):
        await registry.add_version("other", files=[("m.onnx", finished(b"weights"))], **made)
    assert [model.name for model in registry.models()] == ["net"]


async def test_digits_of_an_older_program_get_their_card(registry, store, data, bus):
    await registry.ensure_embedded()
    expected = registry.resolve("digits")[1].card
    await store.run(lambda db: db.execute("update versions set card = null"))
    later = Registry(store, data, bus)
    await later.load()
    assert later.resolve("digits")[1].card == {}
    await later.ensure_embedded()
    assert later.resolve("digits")[1].card == expected
    assert expected["item"] == "image"
