import json
import shlex

import pytest

from app.schema.manage import TensorMetadata
from ui.snippets import chat_code, infer_code
from ui.tensors import concrete, image_input, read_answer, shape_text, softmax


def meta(shape: list[int], datatype: str = "FP32") -> TensorMetadata:
    return TensorMetadata(name="image", datatype=datatype, shape=shape)


def test_which_inputs_take_a_picture() -> None:
    first = image_input(meta([-1, 1, 8, 8]), [0, 16])
    assert first is not None and (first.rows, first.columns, first.channels, first.high) == (8, 8, 1, 16)
    last = image_input(meta([-1, 32, 24, 3], "UINT8"))
    assert last is not None and (last.rows, last.columns, last.channels_first, last.high) == (32, 24, False, 255)
    assert image_input(meta([-1, 64])) is None
    assert image_input(meta([-1, 5, 8, 8])) is None
    assert image_input(meta([-1, 3, -1, -1])) is None
    assert image_input(meta([-1, 1, 8, 8], "INT64")) is None


def test_pad_and_tensor_are_inverses_and_scaled() -> None:
    image = image_input(meta([-1, 3, 4, 5]), [0, 16])
    assert image is not None
    pad = [index / 59 for index in range(60)]
    tensor = image.to_tensor(pad)
    assert tensor[0] == 0 and max(tensor) == 16
    assert tensor[1] == pytest.approx(pad[3] * 16, abs=1e-4)  # the second pixel's red, all of red coming first
    assert image.to_pad(tensor) == pytest.approx(pad, abs=1e-5)


def test_shapes_in_words() -> None:
    assert shape_text(meta([-1, 1, 8, 8])) == "FP32 [batch, 1, 8, 8]"
    assert concrete([-1, 3, -1]) == [1, 3, 1]


def test_probabilities_are_read_as_classes() -> None:
    outputs = [
        {"name": "label", "datatype": "INT64", "shape": [1], "data": [2]},
        {"name": "probabilities", "datatype": "FP32", "shape": [1, 3], "data": [0.1, 0.2, 0.7]},
    ]
    answer = read_answer(outputs, ["a", "b", "c"])
    assert answer.classes == [("c", 0.7), ("b", 0.2), ("a", 0.1)]
    assert not answer.from_logits


def test_scores_become_shares_only_where_labels_say_that_they_are_classes() -> None:
    outputs = [{"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 5.0, 2.0]}]
    answer = read_answer(outputs, ["a", "b", "c"])
    assert answer.from_logits and answer.classes[0][0] == "b"
    assert sum(share for _, share in answer.classes) == pytest.approx(1)
    other = read_answer(outputs, [])
    assert other.classes == [] and "scores" in other.summary
    assert softmax([1000.0, 1000.0]) == [0.5, 0.5]


def test_the_curl_call_is_a_shell_command_with_json_in_it() -> None:
    code = infer_code(
        "http://127.0.0.1:1", "digits", [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.5, 2]}]
    )
    words = shlex.split(code["curl"].replace("\\\n", " "))
    assert json.loads(words[-1]) == {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.5, 2]}]}
    compile(code["Python"], "snippet", "exec")


def test_the_chat_calls_survive_quotes_in_the_prompt() -> None:
    prompt = 'What\'s a "rudder"?'
    options = {"temperature": 0.7, "max_tokens": 64, "enable_thinking": False}
    code = chat_code("http://127.0.0.1:1", "assistant", [{"role": "user", "content": prompt}], options)
    words = shlex.split(code["curl"].replace("\\\n", " "))
    body = json.loads(words[-1])
    assert body["messages"][0]["content"] == prompt
    assert body["max_tokens"] == 64
    compile(code["Python"], "snippet", "exec")
