"""The official `anthropic` package against a daemon that serves the real language model: every endpoint that both
have."""

import asyncio
import json

import anthropic
import pytest

from tests.support.daemon import serving

pytestmark = pytest.mark.slow
MODEL = "gemma"
WEATHER = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"enum": [1, 2, 3]}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
ASK = {"role": "user", "content": "What will the weather in Oslo be?"}
COUNT = {"role": "user", "content": "Tell me a long story about a ship."}
#: The package has no parameter for it any more; servers still do.
GREEDY = {"temperature": 0}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, gguf_path):
    folder = tmp_path_factory.mktemp("anthropic") / "data"
    with serving(folder, gguf_path, MODEL, PILOTHOUSE_API_KEY="secret") as running:
        yield running


@pytest.fixture(scope="module")
def client(daemon):
    with anthropic.Anthropic(base_url=daemon.url, api_key="secret", max_retries=0) as made:
        yield made


def ask(client, *messages, **more):
    body = {"model": MODEL, "max_tokens": 12, "messages": list(messages) or [COUNT], "extra_body": GREEDY}
    return client.messages.create(**body | more)


def test_a_message_whole_streamed_and_by_the_helper_is_the_same(client):
    whole = ask(client)
    assert whole.role == "assistant"
    assert whole.usage.output_tokens > 0
    with client.messages.stream(model=MODEL, max_tokens=12, messages=[COUNT], extra_body=GREEDY) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == final.content[0].text == whole.content[0].text
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    raw = list(ask(client, stream=True))
    assert (raw[0].type, raw[-1].type) == ("message_start", "message_stop")
    assert raw[0].message.usage.input_tokens + (raw[0].message.usage.cache_read_input_tokens or 0) > 0


def test_a_prompt_counts_as_many_tokens_as_it_then_has(client):
    prompt = {"system": "Be brief.", "messages": [COUNT]}
    counted = client.messages.count_tokens(model=MODEL, **prompt)
    usage = ask(client, system="Be brief.").usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens > 4
    assert client.beta.messages.count_tokens(model=MODEL, **prompt).input_tokens == counted.input_tokens


def test_a_repeated_prompt_is_read_from_the_cache(client):
    story = {"role": "user", "content": "Tell me about ships. " * 40}
    ask(client, story)
    usage = ask(client, story, {"role": "assistant", "content": "Ships."}, COUNT).usage
    assert usage.cache_read_input_tokens > 100
    assert usage.input_tokens < 100


def test_a_stop_sequence_ends_the_answer_and_is_told(client):
    numbers = [{"role": "user", "content": "1, 2, 3"}, {"role": "assistant", "content": "1, 2, 3, 4, 5,"}]
    answer = ask(client, *numbers, stop_sequences=[" 9"], max_tokens=40)
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", " 9")
    assert "8" in answer.content[0].text
    assert "9" not in answer.content[0].text


def test_the_last_message_of_the_assistant_is_continued(client):
    free = ask(client)
    begun = ask(client, COUNT, {"role": "assistant", "content": "The alphabet: a, b, c,"}, max_tokens=6)
    assert begun.content[0].text != free.content[0].text
    assert "d" in begun.content[0].text


def test_max_tokens_end_an_answer(client):
    answer = ask(client, max_tokens=1)
    assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 1)


def test_a_forced_tool_is_used_and_its_result_goes_back(client):
    answer = ask(client, ASK, tools=[WEATHER], tool_choice={"type": "tool", "name": "weather"}, max_tokens=200)
    assert answer.stop_reason == "tool_use"
    use = next(block for block in answer.content if block.type == "tool_use")
    assert use.name == "weather"
    assert use.input["days"] in (1, 2, 3)
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "Snow"}
    history = [ASK, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    again = ask(client, *history, tools=[WEATHER], tool_choice={"type": "none"})
    assert again.content[0].type == "text"
    assert again.usage.input_tokens + again.usage.cache_read_input_tokens > 20


def test_a_tool_is_streamed(client):
    with client.messages.stream(
        model=MODEL,
        max_tokens=200,
        messages=[ASK],
        extra_body=GREEDY,
        tools=[WEATHER],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    ) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    [use] = [block for block in final.content if block.type == "tool_use"]
    assert json.loads("".join(pieces)) == use.input
    assert set(use.input) == {"city", "days"}


def test_an_answer_matches_a_schema(client):
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
    form = {"format": {"type": "json_schema", "schema": schema}}
    assert json.loads(ask(client, output_config=form, max_tokens=100).content[0].text) == {"n": 7}


def test_the_beta_client_is_served_too(client):
    answer = client.beta.messages.create(
        model=MODEL, max_tokens=4, messages=[COUNT], betas=["token-counting-2024-11-01"], extra_body=GREEDY
    )
    assert answer.content[0].text == ask(client, max_tokens=4).content[0].text


def test_asynchronous_streams_run_side_by_side(daemon):
    async def run():
        async with anthropic.AsyncAnthropic(base_url=daemon.url, api_key="secret") as client:

            async def one(number):
                story = {"role": "user", "content": f"Story {number}"}
                async with client.messages.stream(model=MODEL, max_tokens=8, messages=[story]) as stream:
                    return await stream.get_final_message()

            return await asyncio.gather(*map(one, range(4)))

    assert len({message.id for message in asyncio.run(run())}) == 4


def test_wrong_requests_are_the_clients_own_errors(client, daemon):
    with pytest.raises(anthropic.NotFoundError) as missing:
        ask(client, model="nobody")
    assert missing.value.type == "not_found_error"
    assert missing.value.request_id
    for field, change in (
        ("temperature", {"extra_body": {"temperature": 2}}),
        ("max_tokens", {"max_tokens": 0}),
        ("tools[0]", {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
    ):
        with pytest.raises(anthropic.BadRequestError) as caught:
            ask(client, **change)
        assert field in caught.value.message
    context = daemon.get(f"/v1/models/{MODEL}", headers={"x-api-key": "secret"})["context_length"]
    for stream in (False, True):
        with pytest.raises(anthropic.BadRequestError) as caught:
            ask(client, {"role": "user", "content": "word " * (context + 10)}, stream=stream)
        assert str(context) in caught.value.message
    with (
        anthropic.Anthropic(base_url=daemon.url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        ask(stranger)
