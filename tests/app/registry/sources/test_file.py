"""What comes along with a model of this machine."""

import json

import pytest

from app.errors import InvalidInput
from app.registry.sources import file
from app.registry.sources.plan import Wanted

CARD = {
    "item": "text",
    "before": [{"step": "tokenize"}],
    "after": [{"step": "mean_pool"}],
    "licence": "MIT",
    "author": "me",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("not a part of it")
    return tmp_path


def plan(path):
    return file.plan(Wanted(f"file:{path}"))


def paths(path):
    return [output.path for output in plan(path).outputs]


@pytest.mark.parametrize("name", ["", "model.onnx"])
def test_a_model_or_its_folder_brings_card_and_tokenizer(folder, name):
    (folder / "card.json").write_text(json.dumps(CARD))
    found = plan(folder / name)
    assert [output.path for output in found.outputs] == ["model.onnx", "tokenizer.json"]
    assert found.card == {key: CARD[key] for key in ("item", "before", "after")}
    assert (found.task, found.licence, found.metadata) == ("embedding", "MIT", {"author": "me"})


def test_class_names_of_a_file_of_their_own(folder):
    (folder / "labels.txt").write_text("cat\ndog\n")
    assert plan(folder).card == {"labels": ["cat", "dog"]}
    (folder / "card.json").write_text(json.dumps(CARD | {"labels": ["a"]}))
    assert plan(folder).card["labels"] == ["a"]


def test_a_model_among_others_may_have_a_card_of_its_own(folder):
    (folder / "other.onnx").write_bytes(b"weights")
    (folder / "card.json").write_text(json.dumps({"labels": ["a"]}))
    (folder / "other.card.json").write_text(json.dumps({"labels": ["b"]}))
    assert plan(folder / "other.onnx").card == {"labels": ["b"]}
    assert paths(folder) == ["model.onnx", "tokenizer.json"]  # model.onnx is the one that is meant


def test_a_folder_whose_model_is_not_told_names_what_is_there(tmp_path):
    for name in ("a.onnx", "b.gguf"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InvalidInput) as caught:
        plan(tmp_path)
    assert caught.value.hint == "name one: a.onnx, b.gguf"


def test_language_models_bring_nothing(folder):
    (folder / "a.gguf").write_bytes(b"GGUF")
    (folder / "card.json").write_text("no card of ours")
    assert paths(folder / "a.gguf") == ["a.gguf"]
    assert plan(folder / "a.gguf").card is None


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("{", "is not JSON"),
        (json.dumps({"before": [{"step": "resize", "size": -1}]}), "card.json.before[0].size"),
        (json.dumps({"item": "text", "before": [{"step": "tokenize", "file": "t.json"}]}), "needs t.json"),
        (json.dumps({"item": "text", "before": [{"step": "tokenize", "file": "../t.json"}]}), "cannot be the path"),
    ],
)
def test_a_card_that_cannot_be_is_refused_before_anything_is_fetched(folder, card, said):
    (folder / "card.json").write_text(card)
    with pytest.raises(InvalidInput) as caught:
        plan(folder)
    assert said in caught.value.message


def test_a_model_without_its_weights_is_refused(tmp_path):
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weight = numpy_helper.from_array(np.ones(2000, np.float32), "w")
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [value], [weight])
    model = tmp_path / "m.onnx"
    onnx.save_model(helper.make_model(graph), model, save_as_external_data=True, location="w.bin")
    assert paths(model) == ["m.onnx", "w.bin"]
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InvalidInput, match=r"needs w.bin"):
        plan(model)
