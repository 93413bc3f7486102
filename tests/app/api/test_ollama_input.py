import base64
import json
import math

import msgspec
import pytest

from app.api import ollama_input
from app.errors import InvalidInput
from app.schema.ollama import ChatRequest, GenerateRequest
from engines.protocol import Grammar, LanguageModel

PICTURE = b"\x89PNG picture"
EVERYTHING = LanguageModel(512, 8, 0, "gguf", capabilities=["completion", "tools", "thinking", "vision", "embedding"])
PLAIN = LanguageModel(512, 8, 0, "gguf")


def chat(*messages, language=EVERYTHING, **more):
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}, *messages], **more}
    return ollama_input.chat(msgspec.json.decode(json.dumps(body), type=ChatRequest), language)


def generate(language=EVERYTHING, **more):
    body = {"model": "m", "prompt": "Hi", **more}
    return ollama_input.generate(msgspec.json.decode(json.dumps(body), type=GenerateRequest), language)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        ("", None),
        (0, 0),
        (1.5, 1.5),
        (-1, math.inf),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("300ms", 0.3),
        ("0", 0),
        ("42", 42),
        ("-1", math.inf),
        ("-5m", math.inf),
        (1e300, math.inf),
    ],
)
def test_keep_alive_is_seconds_or_a_duration(given, seconds):
    assert ollama_input.keep_alive_s(given) == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize("given", ["soon", "5 m", "5x", "m", "1h-5m", "--1"])
def test_what_is_no_duration_is_refused(given):
    with pytest.raises(InvalidInput, match="keep_alive"):
        ollama_input.keep_alive_s(given)


def test_options_become_sampling_with_ollamas_defaults():
    sampling = chat()[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.8, 40, 0.9, 0.0)
    assert (sampling.repeat_penalty, sampling.repeat_last_n, sampling.seed) == (1.1, 64, None)
    options = {"temperature": 0, "top_k": 3, "seed": 7, "stop": ["x", ""], "mirostat": 2, "num_gpu": 9, "tfs_z": 1}
    generation, _ = chat(options={**options, "num_predict": 5, "typical_p": 0.5, "frequency_penalty": 1})
    sampling = generation.sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed, sampling.mirostat) == (0, 3, 7, 2)
    assert (sampling.typical_p, sampling.frequency_penalty) == (0.5, 1)
    assert (generation.max_tokens, generation.stop) == (5, ["x"])


@pytest.mark.parametrize(("given", "tokens"), [(None, None), (0, None), (8, 32), (4096, 4096), (4096.0, 4096)])
def test_num_ctx_is_the_context_that_is_needed(given, tokens):
    assert ollama_input.context_tokens({"num_ctx": given}) == tokens
    assert ollama_input.context_tokens(None) is None


@pytest.mark.parametrize("predict", [-1, -2, 0, None])
def test_num_predict_below_one_is_without_limit(predict):
    assert chat(options={"num_predict": predict})[0].max_tokens == -1


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"top_p": 2}}, "options.top_p"),
        ({"options": {"num_ctx": "big"}}, "options.num_ctx"),
        ({"options": {"num_predict": 1.5}}, "options.num_predict"),
        ({"options": {"stop": [1]}}, "options.stop"),
        ({"format": "yaml"}, "format"),
        ({"format": {"type": "wrong"}}, "format"),
        ({"think": "a lot"}, "think"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ],
)
def test_what_cannot_be_meant_names_its_field(more, field):
    with pytest.raises(InvalidInput) as caught:
        chat(**more)
    assert caught.value.field == field


def test_a_format_becomes_a_grammar():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert chat(format="json")[0].grammar == Grammar("json_object")
    assert chat(format=schema)[0].grammar == Grammar("json_schema", schema)
    assert chat(format="")[0].grammar is chat()[0].grammar is None


def test_a_model_that_can_think_does_unless_told_not_to():
    assert chat()[0].variables == chat(think=True)[0].variables == {"enable_thinking": True}
    assert chat(think=False)[0].variables == {"enable_thinking": False}
    assert chat(think="low")[0].variables == {"enable_thinking": True, "reasoning_effort": "low"}
    assert chat(language=PLAIN)[0].variables == chat(language=PLAIN, think=False)[0].variables == {}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"think": True}, '"m" does not support thinking'),
        ({"messages": [{"role": "user", "images": [base64.b64encode(PICTURE).decode()]}]}, "does not support images"),
    ],
)
def test_what_the_model_cannot_do_is_said_in_ollamas_words(more, words):
    with pytest.raises(InvalidInput, match=words):
        chat(language=PLAIN, **more)


def test_an_embedding_model_neither_chats_nor_generates():
    language = LanguageModel(512, 8, 0, "", capabilities=["embedding"])
    with pytest.raises(InvalidInput, match="does not support chat"):
        chat(language=language)
    with pytest.raises(InvalidInput, match="does not support generate"):
        generate(language=language)


def test_calls_and_their_answers_find_each_other_without_ids():
    def call(name, **more):
        return {"function": {"name": name, "arguments": {"x": 1}}, **more}

    generation, _ = chat(
        {"role": "assistant", "tool_calls": [call("f"), call("g"), call("f", id="mine")], "thinking": "Hm."},
        {"role": "tool", "tool_name": "g", "content": "of g"},
        {"role": "tool", "content": "of the first f"},
        {"role": "tool", "tool_call_id": "mine", "content": "of mine"},
        {"role": "tool", "tool_name": "h", "content": "of nobody"},
    )
    assistant, *answers = generation.messages[1:]
    assert assistant["reasoning_content"] == "Hm."
    assert [entry["id"] for entry in assistant["tool_calls"]] == ["call_1_0", "call_1_1", "mine"]
    assert assistant["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"x": 1}'}
    assert [(entry.get("tool_call_id"), entry.get("name")) for entry in answers] == [
        ("call_1_1", "g"),
        ("call_1_0", "f"),
        ("mine", "f"),
        (None, "h"),
    ]


def test_images_come_before_the_text_and_are_numbered_through():
    one = base64.b64encode(PICTURE).decode()
    generation, media = chat(
        {"role": "user", "content": "these", "images": [one, f"data:image/png;base64,{one}"]},
        {"role": "user", "images": [base64.b64encode(b"other").decode()]},
    )
    assert media == [PICTURE, PICTURE, b"other"]
    assert generation.messages[1]["content"] == [
        {"type": "image", "media": 0},
        {"type": "image", "media": 1},
        {"type": "text", "text": "these"},
    ]
    assert generation.messages[2]["content"] == [{"type": "image", "media": 2}]
    with pytest.raises(InvalidInput) as caught:
        chat({"role": "user", "images": ["%%"]})
    assert caught.value.field == "messages[1].images[0]"


def test_an_answer_that_was_begun_is_continued():
    assert not chat()[0].continue_final
    assert chat({"role": "assistant", "content": "Well"})[0].continue_final


def test_a_prompt_is_a_message_unless_raw():
    generation, media = generate(system="Be brief", images=[base64.b64encode(PICTURE).decode()])
    assert [message["role"] for message in generation.messages] == ["system", "user"]
    assert (generation.messages[1]["content"][0], media) == ({"type": "image", "media": 0}, [PICTURE])
    generation, _ = generate(raw=True)
    assert (generation.prompt, generation.messages) == ("Hi", None)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"raw": True, "system": "x"}, "system"),
        ({"raw": True, "context": [1]}, "context"),
        ({"raw": True, "images": ["aGk="]}, "images"),
    ],
)
def test_what_generate_cannot_do_names_its_field(more, field):
    with pytest.raises(InvalidInput) as caught:
        generate(**more)
    assert caught.value.field == field
    assert generate(suffix="", template="")[0].messages
