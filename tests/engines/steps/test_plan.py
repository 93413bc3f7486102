"""From a card and a signature to answers: how values reach a model and come back."""

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from engines.card import Card
from engines.engine import EngineError
from engines.protocol import Signature, TensorSpec
from engines.steps.plan import Steps


def card(**fields):
    return msgspec.convert(fields, Card)


def signature(inputs, outputs, batched=True, **more):
    """``inputs``: name → (datatype, shape, batch axis)."""
    return Signature(
        inputs=[TensorSpec(name, *spec) for name, spec in inputs.items()],
        outputs=[TensorSpec(name, *spec) for name, spec in outputs.items()],
        batched=batched,
        **more,
    )


NUMBERS = signature({"x": ("FP32", [-1, 3], 0)}, {"y": ("FP32", [-1, 3], 0)}, labels=["red", "green", "blue"])


class Model:
    """Remembers what it was asked."""

    def __init__(self, function):
        self.function, self.asked = function, []

    def __call__(self, inputs, outputs):
        self.asked.append((inputs, list(outputs)))
        return self.function(**inputs)


def steps_of(declared, known=NUMBERS, folder=None):
    return Steps(declared, folder, known)


def test_rows_go_in_as_one_batch_and_named_classes_come_out(tmp_path):
    steps = Steps(card(item="row", after=[{"step": "softmax"}, {"step": "top_k", "k": 2}]), tmp_path, NUMBERS)
    model = Model(lambda x: {"y": x})
    answer = steps.run([b"[0, 1, 2]", b"[5, 0, 0]"], model)
    assert answer["label"].tolist() == [[b"blue", b"green"], [b"red", b"green"]]
    np.testing.assert_allclose(answer["score"][0], [0.66524, 0.24473], atol=1e-5)
    ((inputs, outputs),) = model.asked
    assert inputs["x"].shape == (2, 3) and inputs["x"].dtype == np.float32 and outputs == ["y"]
    assert [(spec.name, spec.datatype, spec.shape) for spec in steps.items.outputs] == [
        ("label", "BYTES", [-1, 2]),
        ("score", "FP32", [-1, 2]),
    ]
    assert steps.items.inputs == [TensorSpec("item", "BYTES", [-1], batch_axis=0)] and steps.items.batched


def test_only_what_is_wanted_is_answered_and_only_what_is_needed_is_asked():
    known = signature({"x": ("FP32", [-1, 2], 0)}, {"a": ("FP32", [-1, 2], 0), "b": ("INT64", [-1], 0)})
    model = Model(lambda x: {"a": x, "b": x[:, 0].astype(np.int64)})
    plain = steps_of(card(item="row"), known)
    answer = plain.run([b"[1, 2]"], model, ["b"])
    assert list(answer) == ["b"] and answer["b"].tolist() == [1]
    assert list(plain.run([b"[1, 2]"], model)) == ["a", "b"]
    with pytest.raises(EngineError, match="there is no output c"):
        plain.run([b"[1, 2]"], model, ["c"])
    steps_of(card(item="row", after=[{"step": "select", "input": "b"}]), known).run([b"[1, 2]"], model)
    assert model.asked[-1][1] == ["b"]


def test_values_reach_the_inputs_that_have_their_names():
    known = signature(
        {"age": ("INT64", [-1, 1], 0), "place": ("BYTES", [-1, 1], 0), "limit": ("FP32", [], -1)},
        {"y": ("FP32", [-1, 1], 0)},
    )
    columns = [{"name": "age"}, {"name": "city", "type": "text", "input": "place"}]
    declared = card(
        item="row",
        before=[
            {"step": "columns", "columns": columns, "into": "inputs"},
            {"step": "constant", "output": "limit", "value": 0.5},
        ],
    )
    model = Model(lambda age, place, limit: {"y": age.astype(np.float32)})
    steps_of(declared, known).run([b'{"age": 3, "city": "Ulm"}', b'["4", ""]'], model)
    ((inputs, _),) = model.asked
    assert inputs["age"].tolist() == [[3], [4]] and inputs["age"].dtype == np.int64
    assert inputs["place"].tolist() == [[b"Ulm"], [b""]]
    assert inputs["limit"] == np.float32(0.5) and inputs["limit"].shape == ()


def test_items_of_different_shapes_run_in_groups_and_come_back_in_order():
    known = signature({"x": ("FP32", [-1, -1], 0)}, {"y": ("FP32", [-1, 1], 0)})
    model = Model(lambda x: {"y": x.sum(axis=1, keepdims=True)})
    answer = steps_of(card(item="row"), known).run([b"[1, 2]", b"[3]", b"[4, 5]", b"[6]"], model)
    assert answer["y"].tolist() == [[3], [3], [9], [6]]
    assert [inputs["x"].shape for inputs, _ in model.asked] == [(2, 2), (2, 1)]


def test_answers_of_different_shapes_cannot_be_one_tensor():
    known = signature({"x": ("FP32", [-1, -1], 0)}, {"y": ("FP32", [-1, -1], 0)})
    steps = steps_of(card(item="row"), known)
    assert steps.run([b"[1, 2]"], lambda inputs, outputs: {"y": inputs["x"]})["y"].tolist() == [[1, 2]]
    with pytest.raises(EngineError, match="ask for them one by one"):
        steps.run([b"[1, 2]", b"[3]"], lambda inputs, outputs: {"y": inputs["x"]})


def test_a_model_that_is_not_batched_sees_one_item_at_a_time():
    known = signature({"x": ("FP32", [1, 3], -1)}, {"y": ("FP32", [1, 3], -1)}, batched=False)
    model = Model(lambda x: {"y": x})
    steps = steps_of(card(item="row", after=[{"step": "top_k", "k": 1}]), known)
    assert steps.run([b"[1, 2, 3]", b"[3, 2, 1]"], model)["label"].tolist() == [[b"2"], [b"0"]]
    assert [inputs["x"].shape for inputs, _ in model.asked] == [(1, 3), (1, 3)]
    assert not steps.items.batched and steps.items.inputs[0].batch_axis == -1


def test_a_model_without_any_axis_of_items_takes_a_value_as_it_is():
    known = signature({"x": ("FP32", [3], -1)}, {"y": ("FP32", [3], -1)}, batched=False)
    model = Model(lambda x: {"y": x * 2})
    assert steps_of(card(item="row"), known).run([b"[1, 2, 3]", b"[0, 0, 1]"], model)["y"].tolist() == [
        [2, 4, 6],
        [0, 0, 2],
    ]
    assert model.asked[0][0]["x"].shape == (3,)


def test_the_axis_of_the_batch_may_be_any():
    known = signature({"x": ("FP32", [3, -1], 1)}, {"y": ("FP32", [2, -1], 1)})
    model = Model(lambda x: {"y": x[:2]})
    answer = steps_of(card(item="row"), known).run([b"[1, 2, 3]", b"[4, 5, 6]"], model)
    assert answer["y"].tolist() == [[1, 2], [4, 5]]
    assert model.asked[0][0]["x"].tolist() == [[1, 4], [2, 5], [3, 6]]


FRAMED = {
    "item": "audio",
    "before": [
        {"step": "decode_audio", "rate": 0, "encoding": "s16", "raw_rate": 8000},
        {"step": "frame", "size": 4},
    ],
}
SAMPLES = np.array([16384, 0, 0, 0, 8192, 0, 0, 0, 16384, 0], "<i2").tobytes()


def test_frames_are_rows_of_their_item():
    known = signature({"x": ("FP32", [-1, 4], 0)}, {"y": ("FP32", [-1, 1], 0)})
    model = Model(lambda x: {"y": x.sum(axis=1, keepdims=True)})
    steps = steps_of(card(**FRAMED), known)
    answer = steps.run([SAMPLES, SAMPLES[4:] + SAMPLES[:4]], model)
    np.testing.assert_allclose(answer["y"][..., 0], [[0.5, 0.25, 0.5], [0.25, 0.5, 0.5]])
    ((inputs, _),) = model.asked
    assert inputs["x"].shape == (6, 4)
    assert steps.items.outputs == [TensorSpec("y", "FP32", [-1, -1, 1], batch_axis=0)]
    steps.warm(model)


def test_the_frames_of_one_item_pass_a_state_on():
    known = signature(
        {"x": ("FP32", [-1, 4], 0), "total": ("FP32", [2, -1, 1], 1)},
        {"y": ("FP32", [-1, 1], 0), "next": ("FP32", [2, -1, 1], 1)},
    )
    model = Model(lambda x, total: {"y": total[0] + x.sum(1, keepdims=True), "next": total + x.sum(1)[None, :, None]})
    steps = steps_of(card(**FRAMED, states={"total": "next"}, after=[{"step": "select", "input": "y"}]), known)
    answer = steps.run([SAMPLES, SAMPLES[4:] + SAMPLES[:4]], model)
    np.testing.assert_allclose(answer["y"][0, :, 0], [0.5, 0.75, 1.25])
    np.testing.assert_allclose(answer["y"][1, :, 0], [0.25, 0.75, 1.25])
    assert [inputs["total"].shape for inputs, _ in model.asked] == [(2, 2, 1)] * 3
    assert steps.items.outputs == [TensorSpec("y", "FP32", [-1, -1, 1], batch_axis=0)]


@pytest.mark.parametrize(
    ("items", "field", "words"),
    [
        ([b"[1, 2, 3]", b"[1, 2"], "item[1]", "not JSON"),
        ([b"[1, 2, 3]", b"[1, 2]"], "item[1]", r"takes \[3\] of an item, the steps give \[2\]"),
        ([b'["a", "b", "c"]'], "item[0]", "numbers are needed"),
        ([b"[1, 2, 1e300]"], "item[0]", "too large"),
        ([b"[" * 100_000], "item[0]", "not JSON"),
        ([b"[[1], [2, 3]]"], "item[0]", "different lengths"),
        ([b'{"a": 1}'], "item[0]", "not a JSON object: declare a step"),
        ([], "item", "there is no item"),
    ],
)
def test_an_item_that_cannot_be_read_is_named(items, field, words):
    with pytest.raises(EngineError, match=words) as caught:
        steps_of(card(item="row")).run(items, Model(lambda x: {"y": x}))
    assert (caught.value.code, caught.value.field) == ("invalid_input", field)


def test_numbers_are_not_cut_off_silently():
    known = signature({"x": ("INT64", [-1, 2], 0)}, {"y": ("INT64", [-1, 2], 0)})
    steps = steps_of(card(item="row"), known)
    assert steps.run([b"[1, 2.0]"], Model(lambda x: {"y": x}))["y"].tolist() == [[1, 2]]
    for row, words in ((b"[1, 2.5]", "not every value is whole"), (b"[1, 1e30]", "beyond"), (b'[1, "2"]', "needed")):
        with pytest.raises(EngineError, match=words):
            steps.run([row], Model(lambda x: {"y": x}))
    small = signature({"x": ("UINT8", [-1, 1], 0)}, {"y": ("UINT8", [-1, 1], 0)})
    with pytest.raises(EngineError, match="UINT8, and a value is beyond 0 to 255"):
        steps_of(card(item="row"), small).run([b"[256]"], Model(lambda x: {"y": x}))


def test_bfloat16_is_rounded_on_the_way_in_and_exact_on_the_way_out():
    known = signature({"x": ("BF16", [-1, 2], 0)}, {"y": ("BF16", [-1, 2], 0)})
    model = Model(lambda x: {"y": x})
    answer = steps_of(card(item="row"), known).run([b"[1.00390625, -3.0]", b"[1.01171875, 0]"], model)["y"]
    # Half way between two: the even one. (1 + 1/256 -> 1, 1 + 3/256 -> 1 + 4/256.)
    assert answer.tolist() == [[1.0, -3.0], [1.015625, 0.0]] and answer.dtype == np.float32


def test_texts_may_go_to_a_model_that_takes_texts():
    known = signature({"text": ("BYTES", [-1, 1], 0)}, {"y": ("BYTES", [-1, 1], 0)})
    steps = steps_of(card(item="text"), known)
    assert steps.run([b"a", "ü".encode()], Model(lambda text: {"y": text}))["y"].tolist() == [[b"a"], ["ü".encode()]]
    with pytest.raises(EngineError, match="not UTF-8"):
        steps.run([b"\xff"], Model(lambda text: {"y": text}))


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"before": [{"step": "cast"}]}, r"card\.item: steps need to know"),
        ({"item": "row", "states": {"h": "y"}}, r"card\.states\.h: the model has no input h; it has x"),
        ({"item": "row", "padding": {"n": {"h": 0}}}, r"card\.padding\.n: the model has no input h"),
        ({"item": "image"}, r"the input x: numbers are needed, not a file"),
        ({"item": "image", "before": [{"step": "resize", "size": 3}]}, r"before\[0\]: an image goes through decode_im"),
        ({"item": "row", "before": [{"step": "cast", "input": "z"}]}, r"before\[0\]\.input: no value is named z"),
        ({"item": "row", "before": [{"step": "resize"}]}, r"before\[0\]\.size: is missing"),
        ({"item": "row", "before": [{"step": "normalize", "std": 0}]}, r"before\[0\]\.std: is 0"),
        ({"item": "row", "before": [{"step": "normalize", "std": [1, 0]}]}, r"before\[0\]\.std: is 0"),
        ({"item": "row", "before": [{"step": "columns"}]}, r"before\[0\]\.columns: is missing"),
        ({"item": "row", "before": [{"step": "constant"}]}, r"before\[0\]\.output: is missing"),
        ({"item": "file", "before": [{"step": "bytes"}]}, r"before\[0\]\.begin: is missing"),
        ({"item": "file", "before": [{"step": "bytes", "begin": 4}]}, r"takes \[3\] of an item, the steps give \[4\]"),
        ({"item": "text", "before": [{"step": "tokenize", "file": "../t.json"}]}, r"before\[0\]\.file: is the name"),
        ({"item": "row", "after": [{"step": "softmax", "input": "z"}]}, r"after\[0\]\.input: no value is named z"),
        ({"item": "row", "after": [{"step": "nms", "scores": "z"}]}, r"after\[0\]\.scores: no value is named z"),
        ({"item": "row", "after": [{"step": "mean_pool"}]}, r"after\[0\]: y is \[-1, 3\]"),
        ({"item": "row", "labels": ["a"], "after": [{"step": "top_k"}]}, r"after\[0\]: there are 1 labels for 3"),
        ({"item": "file", "before": [{"step": "frame"}]}, r"before\[0\]: an example does not pass: numbers are needed"),
        ({"item": "text", "before": [{"step": "decode_audio", "encoding": "u8"}]}, r"before\[0\]: it does not take"),
        (
            {"item": "image", "before": [{"step": "decode_image"}, {"step": "normalize", "mean": [1, 2]}]},
            r"before\[1\]: an example does not pass: 2 means, but 3 channels",
        ),
    ],
)
def test_a_card_that_does_not_fit_the_model_says_where(declared, words, tmp_path):
    with pytest.raises(EngineError, match=words) as caught:
        Steps(card(**declared), tmp_path, NUMBERS)
    assert caught.value.code == "bad_setting"


def test_several_inputs_without_names_are_told():
    known = signature({"a": ("FP32", [-1, 2], 0), "b": ("FP32", [-1, 2], 0)}, {"y": ("FP32", [-1, 2], 0)})
    with pytest.raises(EngineError, match=r"card\.before: no step gives the input a; there are item"):
        steps_of(card(item="row"), known)


def test_a_model_that_breaks_its_word_is_found_while_loading():
    steps = steps_of(card(item="row"))
    steps.warm(Model(lambda x: {"y": x}))
    with pytest.raises(EngineError, match=r"y should be \[-1, 3\], is \[1, 2\]"):
        steps.warm(Model(lambda x: {"y": x[:, :2]}))

    def refuse(inputs, outputs):
        raise EngineError("invalid_input", "the sum must be 1")

    with pytest.raises(EngineError, match="make of an example: the sum must be 1") as caught:
        steps.warm(refuse)
    assert caught.value.code == "bad_setting"
    with pytest.raises(EngineError, match=r"output y is \[1, 3\] for 2 items"):
        steps.run([b"[1, 2, 3]"] * 2, Model(lambda x: {"y": x[:1]}))


@pytest.fixture
def words(tmp_path):
    """A folder with a tokenizer: a, b and c are 1, 2 and 3; padding is 0."""
    made = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1, "b": 2, "c": 3}, unk_token="[PAD]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


LONG = b"a " * 100


def test_a_model_that_sees_no_mask_sees_no_padding(words):
    known = signature({"ids": ("INT64", [-1, -1], 0)}, {"y": ("FP32", [-1, 1], 0)})
    model = Model(lambda ids: {"y": ids.mean(axis=1, keepdims=True).astype(np.float32)})
    texts = [b"a b", b"c", b"b c"]
    answer = Steps(card(item="text", before=[{"step": "tokenize"}]), words, known).run(texts, model)
    assert answer["y"].tolist() == [[1.5], [3], [2.5]] and answer["tokens"].tolist() == [2, 1, 2]
    assert [inputs["ids"].shape for inputs, _ in model.asked] == [(2, 2), (1, 1)]
    Steps(card(item="text", before=[{"step": "tokenize", "pad_id": 0}]), words, known).run(texts, model)
    assert model.asked[-1][0]["ids"].tolist() == [[1, 2], [3, 0], [2, 3]]


def test_short_texts_do_not_wait_for_a_long_one(words):
    known = signature(
        {"input_ids": ("INT64", [-1, -1], 0), "attention_mask": ("INT64", [-1, -1], 0)},
        {"y": ("FP32", [-1, -1, 1], 0)},
    )
    model = Model(lambda input_ids, attention_mask: {"y": input_ids[..., None].astype(np.float32)})
    steps = Steps(card(item="text", before=[{"step": "tokenize"}], after=[{"step": "mean_pool"}]), words, known)
    answer = steps.run([b"a b", LONG, b"c", LONG + b"c"], model)
    np.testing.assert_allclose(answer["embedding"][:, 0], [1.5, 1, 3, 103 / 101], rtol=1e-6)
    assert answer["tokens"].tolist() == [2, 100, 1, 101]
    assert [inputs["input_ids"].shape for inputs, _ in model.asked] == [(2, 2), (2, 101)]


def test_a_long_text_may_be_refused_instead_of_cut(words):
    known = signature({"ids": ("INT64", [-1, -1], 0)}, {"y": ("FP32", [-1, 1], 0)})
    before = [{"step": "tokenize", "truncate": False, "max_tokens": 9, "pad_to_max": True}]
    steps = Steps(card(item="text", before=before), words, known)
    with pytest.raises(EngineError, match=r"item\[1\]: the text has more than the 9 tokens"):
        steps.run([b"a", LONG], Model(lambda ids: {"y": ids[:, :1]}))
