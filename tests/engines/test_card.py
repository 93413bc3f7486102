"""Cards: what may be declared, and what the daemon can say about it without any engine."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from engines import protocol
from engines.card import AfterStep, BeforeStep, Card, Column, answer_names

STEPS = [*get_args(BeforeStep), *get_args(AfterStep)]
DETECTOR = {
    "item": "image",
    "labels": ["cat", "dog"],
    "before": [
        {"step": "decode_image"},
        {"step": "resize", "size": 640, "mode": "letterbox", "fill": 114},
        {"step": "normalize", "scale": 1 / 255},
        {"step": "layout"},
    ],
    "after": [
        {"step": "transpose"},
        {"step": "select", "end": 4, "output": "found"},
        {"step": "select", "input": "output0", "start": 4, "output": "scores"},
        {"step": "nms", "input": "found"},
    ],
}


@pytest.mark.parametrize(
    ("declared", "field"),
    [
        ({"before": [{"step": "decode_image"}, {"step": "resize", "sise": 8}]}, "$.before[1]"),
        ({"before": [{"step": "shrink"}]}, "$.before[0].step"),
        ({"before": [{"size": 8}]}, "$.before[0]"),
        ({"before": [{"step": "softmax"}]}, "$.before[0].step"),
        ({"before": [{"step": "frame", "size": 0}]}, "$.before[0].size"),
        ({"before": [{"step": "resize", "size": 8, "filter": "cubic"}]}, "$.before[0].filter"),
        ({"before": [{"step": "columns", "columns": [{"name": "a", "scale": "big"}]}]}, "$.before[0].columns[0].scale"),
        ({"after": [{"step": "top_k", "minimums": {"a": "high"}}]}, "$.after[0].minimums[...]"),
        ({"after": [{"step": "nms", "iou": 1.5}]}, "$.after[0].iou"),
        ({"item": "video"}, "$.item"),
        ({"label": ["a"]}, "label"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(declared, field):
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(declared, Card)
    assert field in str(caught.value)


def test_a_card_reaches_a_worker_as_it_was_declared():
    card = msgspec.convert(DETECTOR, Card)
    frame = protocol.frame(protocol.Load("onnxruntime", "model.onnx", card=card), 0)
    assert protocol.to_worker.decode(frame[protocol.FRAME.size :]).card == card
    assert msgspec.json.decode(msgspec.json.encode(card), type=Card) == card


def test_the_answer_is_what_no_later_step_takes():
    assert answer_names(msgspec.convert(DETECTOR, Card), "output0") == ["boxes", "label", "score", "count"]
    two_heads = [
        {"step": "regression", "input": "age", "output": "years"},
        {"step": "softmax", "input": "sex"},
        {"step": "top_k"},
    ]
    assert answer_names(msgspec.convert({"after": two_heads}, Card), "age") == ["years", "label", "score"]
    embedding = {"before": [{"step": "tokenize"}], "after": [{"step": "mean_pool"}, {"step": "normalize_l2"}]}
    assert answer_names(msgspec.convert(embedding, Card)) == ["embedding", "tokens"]
    assert answer_names(Card()) == []


def test_every_step_and_every_parameter_has_its_place_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "cards.md").read_text(encoding="utf-8")
    for step in STEPS:
        tag = step.__struct_config__.tag
        start = text.find(f"### `{tag}`")
        assert start >= 0, f"docs/cards.md does not describe {tag}"
        section = text[start : text.find("\n##", start + 1)]
        for name in set(step.__struct_fields__) - {"input", "output"}:
            assert f"`{name}`" in section, f"docs/cards.md does not describe {name} of {tag}"
    for name in (*Column.__struct_fields__, *Card.__struct_fields__, "input", "output"):
        assert f"`{name}`" in text


def test_every_card_of_the_documentation_is_one():
    text = (Path(__file__).parents[2] / "docs" / "cards.md").read_text(encoding="utf-8")
    examples = [block.partition("```")[0] for block in text.split("```json\n")[1:]]
    assert len(examples) >= 7
    for example in examples:
        card = msgspec.json.decode(example, type=Card)
        assert card.item and card.before and answer_names(card)


def test_a_card_is_a_leaf():
    """The daemon reads cards: nothing of an engine may come with them."""
    code = (
        "import sys, engines.card; print(sorted(m for m in sys.modules if m.startswith(('engines.', 'numpy', 'PIL'))))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "['engines.card']"
