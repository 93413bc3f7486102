"""The embedded default model: what its card claims is what onnxruntime does."""

import hashlib
import json
import runpy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from app.paths import resource

SCRIPT = Path(__file__).resolve().parents[2] / "packaging" / "digits" / "make_digits.py"
FILES = ("digits.onnx", "held_out.npz", "card.json")


@pytest.fixture(scope="module")
def folder() -> Path:
    return resource("digits")


@pytest.fixture(scope="module")
def card(folder: Path) -> dict:
    return json.loads((folder / "card.json").read_text(encoding="utf-8"))


def test_the_accuracy_on_the_card_is_onnxruntimes(folder: Path, card: dict):
    session = onnxruntime.InferenceSession(folder / "digits.onnx", providers=["CPUExecutionProvider"])
    held_out = np.load(folder / "held_out.npz")
    assert held_out["image"].dtype == np.float32 and held_out["image"].shape == (card["held_out"], 1, 8, 8)
    assert held_out["labels"].dtype == np.int64 and held_out["labels"].shape == (card["held_out"],)

    probabilities, label = session.run(None, {"image": held_out["image"]})

    assert [output.name for output in session.get_outputs()] == ["probabilities", "label"]
    assert label.dtype == np.int64 and (label == probabilities.argmax(axis=1)).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert int((label == held_out["labels"]).sum()) == card["correct"]
    assert card["accuracy"] == card["correct"] / card["held_out"] >= 0.975


def test_the_card_describes_the_file(folder: Path, card: dict):
    content = (folder / "digits.onnx").read_bytes()
    assert card["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert card["size_bytes"] == len(content)
    model = onnx.load_from_string(content)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["labels"]) == card["labels"] == [str(digit) for digit in range(10)]
    assert properties["licence"] == card["licence"] and properties["description"] == card["description"]
    assert model.ir_version <= 10 and model.opset_import[0].version == 17


def test_inputs_lie_in_the_range_on_the_card(folder: Path, card: dict):
    images = np.load(folder / "held_out.npz")["image"]
    assert [images.min(), images.max()] == card["input_range"]


def test_the_held_out_images_were_not_trained_on(folder: Path):
    pytest.importorskip("sklearn")
    train_images, held_out_images, _, _ = runpy.run_path(str(SCRIPT))["split"]()
    np.testing.assert_array_equal(np.load(folder / "held_out.npz")["image"], held_out_images)
    seen = {image.tobytes() for image in train_images}
    assert not [image for image in held_out_images if image.tobytes() in seen]


@pytest.mark.slow
def test_making_it_again_gives_the_same_bytes(tmp_path: Path, card: dict):
    pytest.importorskip("sklearn")
    write = runpy.run_path(str(SCRIPT))["write"]
    again = write(tmp_path / "first")
    write(tmp_path / "second")
    for name in FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    # On another processor training sums in another order: the weights may differ, what they can do may not.
    assert again["accuracy"] == pytest.approx(card["accuracy"], abs=0.01)
