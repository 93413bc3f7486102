"""`/v1/completions` over the echo engine."""

import json

import pytest

from app.api.images import Images
from app.api.openai import OpenAI
from app.api.openai import logprobs as forms
from engines.protocol import TokenLogprob


@pytest.fixture
async def http(echo_house):
    async with echo_house.client(OpenAI(echo_house.dataplane, Images()).routes()) as client:
        yield client


@pytest.fixture
def worker(echo_house):
    return echo_house.workers["echo"]


async def ask(http, prompt="one two", **more):
    answer = await http.post("/v1/completions", json={"model": "echo", "prompt": prompt} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def stream(http, **more):
    body = {"model": "echo", "prompt": "one two", "stream": True} | more
    answer = await http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


async def test_an_answer_has_everything_that_clients_read(http, worker):
    answer = await ask(http)
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["choices"] == [{"index": 0, "text": "one two ", "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"]["total_tokens"] == 4
    assert worker.generated[0][0].max_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "texts", "prompt_tokens"),
    [
        ("a b", ["a b "], 2),
        ([5, 6, 7], ["5 6 7 "], 3),
        (["a", "b c"], ["a ", "b c "], 3),
        ([[1, 2], [3]], ["1 2 ", "3 "], 3),
        (["a", [4, 5]], ["a ", "4 5 "], 3),
    ],
)
async def test_prompts_in_every_form_each_get_their_choice(http, prompt, texts, prompt_tokens):
    answer = await ask(http, prompt)
    assert [choice["text"] for choice in answer["choices"]] == texts
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(texts)))
    assert answer["usage"]["prompt_tokens"] == prompt_tokens


async def test_choices_of_several_prompts_follow_one_another(http, worker):
    answer = await ask(http, ["a", "b"], n=2, seed=10)
    assert [choice["text"] for choice in answer["choices"]] == ["a ", "a ", "b ", "b "]
    assert sorted(request.sampling.seed for request, _ in worker.generated) == [10, 10, 11, 11]
    assert answer["usage"]["prompt_tokens"] == 2
    assert answer["usage"]["completion_tokens"] == 4


async def test_the_best_is_the_likeliest_for_each_token(http, worker):
    def unlikely_first(request, words, seen=worker.engine._answer):
        events = seen(request, words)
        for event in events:
            for token in event.logprobs or ():
                token.logprob = {1: -3.0, 2: -0.25, 3: -1.0}[request.sampling.seed]
        events[0].text = f"seed {request.sampling.seed} "
        return events

    worker.engine._answer = unlikely_first
    answer = await ask(http, "a", best_of=3, seed=1, n=2)
    assert [choice["text"] for choice in answer["choices"]] == ["seed 2 ", "seed 3 "]
    assert answer["usage"]["completion_tokens"] == 3
    assert all(choice["logprobs"] is None for choice in answer["choices"])


async def test_the_prompt_is_told_again_where_asked_for(http):
    assert (await ask(http, "a b", echo=True))["choices"][0]["text"] == "a ba b "
    assert (await ask(http, [7, 8], echo=True))["choices"][0]["text"] == "7 87 8 "
    events = await stream(http, echo=True)
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == "one twoone two "


async def test_a_stream_says_what_a_whole_answer_says(http):
    events = await stream(http, prompt=["a b", "c"], stream_options={"include_usage": True}, timings_per_token=True)
    texts = ["", ""]
    for event in events[:-2]:
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert texts == ["a b ", "c "]
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["prompt_tokens"] == 3
    assert events[-2]["usage"]["completion_tokens"] == 3
    assert events[-2]["timings"]["predicted_n"] == 2
    assert {choice["finish_reason"] for event in events[:-2] for choice in event["choices"]} == {None, "stop"}


async def test_log_probabilities_are_parallel_lists(http):
    told = (await ask(http, "ab cde", logprobs=1))["choices"][0]["logprobs"]
    assert told == {
        "tokens": ["ab ", "cde "],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"ab ": -0.5}, {"cde ": -0.5}],
        "text_offset": [0, 3],
    }
    pieces = [event["choices"][0]["logprobs"] for event in (await stream(http, logprobs=0))[:-1]]
    assert [offset for piece in pieces if piece for offset in piece["text_offset"]] == [0, 4]


def test_a_character_in_several_tokens_has_bytes_for_names_and_one_offset():
    smile = "\U0001f600".encode()
    tokens = [TokenLogprob(1, part, -1.0) for part in (b"a", smile[:2], smile[2:], b"b")]
    told = forms.CompletionForm().of(tokens)
    assert told.tokens == ["a", "bytes:\\xf0\\x9f", "bytes:\\x98\\x80", "b"]
    assert told.text_offset == [0, 1, 1, 2]
    assert forms.of_chat(tokens).content[1].bytes == [0xF0, 0x9F]


def test_the_chosen_token_is_among_the_likeliest_and_infinity_is_a_number():
    token = TokenLogprob(1, b"x", float("-inf"), [(2, b"y", -0.1)])
    assert forms.CompletionForm().of([token]).top_logprobs == [{"y": -0.1, "x": -9999.0}]
    assert forms.of_chat([token]).content[0].logprob == -9999.0
    assert forms.mean([]) < forms.mean([token, TokenLogprob(1, b"z", -0.1)])


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": 7}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 3, "stream": True}, "best_of"),
        ({"max_tokens": -5}, "max_tokens"),
    ],
)
async def test_what_is_wrong_is_named(http, given, field):
    answer = await http.post("/v1/completions", json={"model": "echo", "prompt": "x"} | given)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field


async def test_what_is_missing_is_named(http):
    answer = await http.post("/v1/completions", json={"model": "echo"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"
    assert "missing" in answer.json()["error"]["message"]
