"""The official `openai` package against a daemon that serves the real language model: every endpoint that both have."""

import asyncio
import base64
import json
import math

import httpx2
import numpy as np
import openai
import pydantic
import pytest

from tests.support.daemon import serving

pytestmark = pytest.mark.slow
MODEL = "gemma"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"enum": [1, 2, 3]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
ASK = [{"role": "user", "content": "What will the weather in Oslo be?"}]


class City(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str = pydantic.Field(max_length=10)
    size: int = pydantic.Field(ge=1, le=999)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, gguf_path):
    with serving(tmp_path_factory.mktemp("openai") / "data", gguf_path, MODEL) as running:
        yield running


@pytest.fixture(scope="module")
def client(daemon):
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def chat(client, text="Count: one two three", **more):
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 12, "temperature": 0}
    return client.chat.completions.create(**body | more)


# --- chat ------------------------------------------------------------------------------------------------


def test_a_chat_whole_and_streamed_is_the_same(client):
    whole = chat(client)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens > 0
    assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}


def test_several_choices_reproduce_with_their_seed_and_differ_with_another(client):
    def ask(seed):
        answer = client.completions.create(
            model=MODEL, prompt="Once upon a time", n=8, seed=seed, temperature=1.0, max_tokens=3
        )
        assert answer.usage.prompt_tokens < 8
        return [choice.text for choice in answer.choices]

    def agree(one, two):
        return sum(a == b for a, b in zip(one, two, strict=True))

    # Batches of another make-up round otherwise, which now and then tips a draw.
    first = ask(11)
    assert agree(ask(11), first) >= 6
    assert agree(ask(1000), first) <= 3


def test_streamed_choices_are_each_whole(client):
    whole = [choice.message.content for choice in chat(client, "A list:", n=3).choices]
    streamed = ["", "", ""]
    for chunk in chat(client, "A list:", n=3, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == whole


def test_log_probabilities_add_up(client):
    answer = chat(client, logprobs=True, top_logprobs=5, max_tokens=6, extra_body={"ignore_eos": True})
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens == 6
    for token in tokens:
        assert len(token.top_logprobs) == 5
        # Greedy: the likeliest was taken.
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
        likelihoods = [math.exp(top.logprob) for top in token.top_logprobs]
        assert likelihoods == sorted(likelihoods, reverse=True)
        assert sum(likelihoods) <= 1 + 1e-4
    text = b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace")
    assert text.strip("�").startswith(answer.choices[0].message.content.rstrip("�"))


def test_a_banned_token_is_not_chosen_and_a_favoured_one_is(client):
    tell = {"logprobs": True, "max_tokens": 1, "extra_body": {"ignore_eos": True}}
    [usual] = client.completions.create(
        model=MODEL, prompt="One, two,", temperature=0, max_tokens=1, logprobs=1
    ).choices
    [token] = usual.logprobs.tokens
    ids = httpx2.post(f"{client.base_url}".replace("/v1/", "/tokenize"), json={"model": MODEL, "content": token})
    number = str(ids.json()["tokens"][-1])
    banned = client.completions.create(
        model=MODEL, prompt="One, two,", temperature=0, max_tokens=1, logit_bias={number: -100}
    )
    assert banned.choices[0].text != usual.text
    favoured = chat(client, "Anything", logit_bias={number: 100}, **tell)
    assert favoured.choices[0].logprobs.content[0].token == token


def test_parsed_answers_are_what_they_should_be(client):
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Name a city as JSON."}],
        response_format=City,
        max_tokens=200,
        temperature=0,
    )
    city = answer.choices[0].message.parsed
    assert isinstance(city, City)
    assert 1 <= city.size <= 999


@pytest.mark.parametrize(
    ("more", "right"),
    [
        ({"guided_choice": ["red", "green"]}, lambda text: text in ("red", "green")),
        ({"guided_regex": "[ab]{3}"}, lambda text: len(text) == 3 and set(text) <= {"a", "b"}),
        ({"grammar": 'root ::= "x" [0-9] "y"'}, lambda text: len(text) == 3 and text[0] + text[2] == "xy"),
        ({"response_format": {"type": "json_object"}}, lambda text: isinstance(json.loads(text), dict)),
        (
            {"json_schema": {"type": "array", "items": {"enum": [7]}, "maxItems": 3}},
            lambda text: set(json.loads(text)) <= {7},
        ),
    ],
)
def test_answers_match_what_they_must(client, more, right):
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Answer."}],
        max_tokens=100,
        seed=1,
        extra_body={"temperature": 0.0, **more},
    )
    assert right(answer.choices[0].message.content), answer.choices[0].message.content


def test_a_required_tool_is_called_with_arguments_of_its_schema(client):
    answer = chat(client, tools=[WEATHER, CLOCK], tool_choice="required", parallel_tool_calls=False, max_tokens=200)
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    for call in choice.message.tool_calls:
        arguments = json.loads(call.function.arguments)
        assert call.function.name in ("weather", "clock")
        if call.function.name == "weather":
            assert set(arguments) == {"city", "days"}
            assert arguments["days"] in (1, 2, 3)


def test_a_named_tool_is_called_streamed_and_its_answer_goes_back(client):
    with client.chat.completions.stream(
        model=MODEL,
        messages=ASK,
        tools=[WEATHER, CLOCK],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
        max_tokens=200,
        temperature=0,
    ) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in kinds
    [call] = message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["days"] in (1, 2, 3)
    result = {"role": "tool", "tool_call_id": call.id, "content": "Snow"}
    history = [*ASK, message.model_dump(exclude_none=True, exclude={"parsed"}), result]
    for entry in history[1].get("tool_calls", []):
        entry["function"].pop("parsed_arguments", None)
    again = client.chat.completions.create(model=MODEL, messages=history, tools=[WEATHER], max_tokens=8, temperature=0)
    assert again.choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert again.usage.prompt_tokens > 10


def test_asynchronous_streams_run_side_by_side(daemon):
    async def run():
        async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none") as client:

            async def one(number):
                stream = await client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": f"Story {number}"}],
                    max_tokens=8,
                    stream=True,
                    extra_body={"ignore_eos": True},
                )
                return [chunk async for chunk in stream]

            return await asyncio.gather(*map(one, range(4)))

    for chunks in asyncio.run(run()):
        assert chunks[-1].choices[0].finish_reason == "length"


# --- completions -----------------------------------------------------------------------------------------


def test_several_prompts_in_one_request_are_answered_as_alone(client):
    ask = {"model": MODEL, "max_tokens": 6, "temperature": 0}
    prompts = ["The capital of France is", "Two plus two is"]
    together = client.completions.create(prompt=prompts, **ask)
    assert [choice.text for choice in together.choices] == [
        client.completions.create(prompt=prompt, **ask).choices[0].text for prompt in prompts
    ]


def test_the_best_of_several_is_the_likeliest(client):
    ask = {"model": MODEL, "prompt": "My favourite", "max_tokens": 5, "temperature": 1.5, "seed": 5, "logprobs": 0}
    more = {"extra_body": {"ignore_eos": True}}
    every = client.completions.create(n=4, **ask, **more)
    [best] = client.completions.create(best_of=4, **ask, **more).choices

    def mean(choice):
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    assert best.text == max(every.choices, key=mean).text


def test_echo_and_offsets(client):
    answer = client.completions.create(model=MODEL, prompt="One two", echo=True, max_tokens=3, temperature=0)
    assert answer.choices[0].text.startswith("One two")
    told = client.completions.create(model=MODEL, prompt="One two", max_tokens=3, temperature=0, logprobs=2)
    [choice] = told.choices
    offsets = choice.logprobs.text_offset
    assert offsets[0] == 0
    assert choice.text[offsets[1] :].startswith(choice.logprobs.tokens[1])
    assert all(2 <= len(top) <= 3 for top in choice.logprobs.top_logprobs)


# --- embeddings, rerank, models --------------------------------------------------------------------------


def test_embeddings_of_like_texts_are_alike(client):
    texts = ["The cat sits on the mat.", "A cat is sitting on a mat.", "Interest rates rose by half a point."]
    answer = client.embeddings.create(model=MODEL, input=texts)  # the client asks for base64
    vectors = np.array([entry.embedding for entry in answer.data])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-4)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    plain = client.embeddings.create(model=MODEL, input=texts[0], encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(vectors[0].tolist(), abs=2e-3)
    short = client.embeddings.create(model=MODEL, input=texts[0], dimensions=32)
    cut = vectors[0][:32] / np.linalg.norm(vectors[0][:32])
    assert short.data[0].embedding == pytest.approx(cut.tolist(), abs=5e-3)
    assert answer.usage.prompt_tokens > plain.usage.prompt_tokens > 3
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input="x", dimensions=100_000)
    assert caught.value.param == "dimensions"


def test_a_model_that_writes_does_not_rank(client, daemon):
    body = {"model": MODEL, "query": "cats", "documents": ["a cat", "a dog"]}
    answer = daemon.http.post("/v1/rerank", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_models_are_listed_and_found(client, daemon):
    [card] = client.models.list()
    assert card.id == MODEL
    assert card.context_length == daemon.get(f"/manage/v1/deployments/{MODEL}")["context_tokens"]
    assert "completion" in card.capabilities
    assert client.models.retrieve(MODEL) == card
    assert client.models.retrieve(f"{MODEL}:latest").id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


# --- what goes wrong -------------------------------------------------------------------------------------


def test_wrong_requests_are_the_clients_own_errors(client):
    for change, field in (
        ({"tools": [{"type": "function", "function": {"name": "x", "parameters": 3}}]}, "tools[0].function.parameters"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages[0].content[0].type"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            chat(client, **change)
        assert caught.value.param == field
    with pytest.raises(openai.NotFoundError):
        chat(client, model="nobody")


def test_a_schema_that_cannot_be_enforced_is_refused_by_name(client):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "format": "no-such-format", "contentEncoding": 1}},
    }
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {**schema, "unevaluatedProperties": False}}}
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, response_format=shape)
    assert caught.value.message


def test_an_image_for_a_model_without_eyes_is_refused(client):
    pixel = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{pixel}"}}]
    with pytest.raises(openai.BadRequestError):
        chat(client, messages=[{"role": "user", "content": parts}])


# --- what this model cannot do, by an engine that repeats what it is told ----------------------------------


@pytest.fixture(scope="module")
def parrot(daemon, tmp_path_factory):
    """Routes: ``parrot`` thinks and calls tools when told to, ``dying`` fails after two words."""
    folder = tmp_path_factory.mktemp("echo")
    for name, behaviour in (("parrot", {}), ("dying", {"error_after": 2})):
        path = folder / f"{name}.json"
        path.write_text(json.dumps({"engine": "echo", "kind": "language"} | behaviour))
        daemon.pull(f"file:{path}", name=name)
        assert daemon.deploy(name)["state"] == "ready"


@pytest.mark.usefixtures("parrot")
def test_parallel_calls_and_thoughts_are_gathered_from_a_stream(client):
    thinking = {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}
    with client.chat.completions.stream(
        model="parrot", messages=[{"role": "user", "content": "call Oslo Rome"}], tools=[CLOCK], **thinking
    ) as stream:
        for _ in stream:
            pass
        [choice] = stream.get_final_completion().choices
    assert [call.function.arguments for call in choice.message.tool_calls] == ['{"word": "Oslo"}', '{"word": "Rome"}']
    assert choice.finish_reason == "tool_calls"
    assert choice.message.reasoning_content == "I repeat."


@pytest.mark.usefixtures("parrot")
def test_an_error_in_mid_stream_is_raised_by_the_client(client):
    said = []
    with pytest.raises(openai.APIError, match="asked to fail") as caught:
        for chunk in chat(client, "one two three", model="dying", stream=True):
            said += [choice.delta.content for choice in chunk.choices]
    assert "".join(said) == "one two "
    assert caught.value.code == "engine_failed"
