"""The official `openai` package's `responses` against a daemon that serves the real language model: every endpoint of
them that both have; and llama-server's endpoints, which have no client."""

import asyncio
import json

import openai
import pydantic
import pytest

from tests.support.daemon import RunningDaemon, serving

pytestmark = pytest.mark.slow
MODEL = "gemma"
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"enum": [1, 2, 3]}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
NAMED = {"type": "function", "name": "weather"}


class City(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str = pydantic.Field(max_length=10)
    size: int = pydantic.Field(ge=1, le=999)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, gguf_path):
    with serving(tmp_path_factory.mktemp("responses") / "data", gguf_path, MODEL) as running:
        yield running


@pytest.fixture(scope="module")
def client(daemon):
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client, given="Tell me a long story about a ship.", **more):
    return client.responses.create(**{"model": MODEL, "input": given, "max_output_tokens": 12, "temperature": 0} | more)


def test_a_response_whole_streamed_and_by_the_helper_is_the_same(client):
    whole = ask(client)
    assert whole.output_text
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    events = list(ask(client, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.output_text == whole.output_text
    with client.responses.stream(
        model=MODEL, input="Tell me a long story about a ship.", max_output_tokens=12, temperature=0
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == whole.output_text


def test_a_cut_answer_is_incomplete_and_says_why(client):
    answer = ask(client, max_output_tokens=1)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_a_conversation_goes_on_and_its_start_is_not_computed_again(client):
    first = ask(client, "Tell me about ships. " * 40, instructions="Be brief.")
    second = ask(client, "More.", previous_response_id=first.id, instructions="Be brief.")
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.input_tokens
    assert second.usage.input_tokens_details.cached_tokens > 100


def test_responses_are_found_listed_and_deleted(client):
    first = ask(client, "One.")
    second = ask(client, "Two.", previous_response_id=first.id)
    assert client.responses.retrieve(first.id).output_text == first.output_text
    items = list(client.responses.input_items.list(second.id, order="asc", limit=1))
    assert [item.role for item in items] == ["user", "assistant", "user"]
    assert items[1].content[0].text == first.output_text
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(first.id)
    client.responses.delete(first.id)
    for gone in (
        lambda: client.responses.retrieve(first.id),
        lambda: client.responses.delete(first.id),
        lambda: ask(client, previous_response_id=first.id),
        lambda: ask(client, previous_response_id=second.id),
    ):
        with pytest.raises(openai.NotFoundError):
            gone()
    assert client.responses.retrieve(second.id).output_text == second.output_text
    unkept = ask(client, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


def test_a_response_outlives_the_daemons_sudden_death(tmp_path):
    echo = tmp_path / "echo.json"
    echo.write_text(json.dumps({"engine": "echo", "kind": "language"}))
    with RunningDaemon(tmp_path / "data") as daemon:
        daemon.pull(f"file:{echo}", name="echo")
        daemon.deploy("echo")
        answer = daemon.post("/v1/responses", {"model": "echo", "input": "a b"})
        daemon.kill()
        daemon.start()
        assert daemon.get(f"/v1/responses/{answer['id']}") == answer


def test_a_named_tool_is_called_and_its_output_goes_back(client):
    first = ask(client, "The weather in Oslo?", tools=[WEATHER], tool_choice=NAMED, max_output_tokens=200)
    [call] = [item for item in first.output if item.type == "function_call"]
    assert call.name == "weather"
    assert json.loads(call.arguments)["days"] in (1, 2, 3)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Snow"}
    second = ask(client, [result], previous_response_id=first.id, tools=[WEATHER], tool_choice="none")
    assert second.output[-1].type == "message"


def test_a_tool_is_streamed(client):
    with client.responses.stream(
        model=MODEL,
        input="The weather in Oslo?",
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=200,
        temperature=0,
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    [call] = [item for item in final.output if item.type == "function_call"]
    assert "".join(deltas) == call.arguments
    assert call.parsed_arguments["days"] in (1, 2, 3)


def test_parsed_answers_are_what_they_should_be(client):
    answer = client.responses.parse(
        model=MODEL, input="Name a city as JSON.", text_format=City, max_output_tokens=200, temperature=0
    )
    assert isinstance(answer.output_parsed, City)


def test_log_probabilities_come_with_the_text(client):
    answer = ask(client, max_output_tokens=4, include=["message.output_text.logprobs"], top_logprobs=2)
    tokens = answer.output[0].content[0].logprobs
    assert "".join(token.token for token in tokens).startswith(answer.output_text.rstrip("�"))
    for token in tokens:
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)


def test_asynchronous_streams_run_side_by_side(daemon):
    async def run():
        async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none") as client:

            async def one(number):
                stream = await client.responses.create(
                    model=MODEL, input=f"Story {number}", max_output_tokens=8, stream=True
                )
                return [event async for event in stream]

            return await asyncio.gather(*map(one, range(4)))

    for events in asyncio.run(run()):
        assert events[-1].type in ("response.completed", "response.incomplete")


def test_wrong_requests_are_the_clients_own_errors(client):
    for change, field in (
        ({"temperature": -1}, "temperature"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"truncation": "auto"}, "truncation"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0].type",
        ),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, **change)
        assert caught.value.param == field
    with pytest.raises(openai.NotFoundError):
        ask(client, model="nobody")
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, "word " * 40_000, stream=stream)
        assert caught.value.code == "context_length_exceeded"


# --- llama-server's --------------------------------------------------------------------------------------


def test_a_text_becomes_tokens_and_the_same_text_again(daemon):
    text = "Größe 12 — 漢字 🙂"
    tokens = daemon.post("/tokenize", {"content": text})["tokens"]
    assert daemon.post("/detokenize", {"tokens": tokens}) == {"content": text}
    pieces = daemon.post("/tokenize", {"content": text, "with_pieces": True})["tokens"]
    assert [piece["id"] for piece in pieces] == tokens
    whole = b"".join(
        bytes(piece["piece"]) if isinstance(piece["piece"], list) else piece["piece"].encode() for piece in pieces
    )
    assert whole.decode() == text
    begun = daemon.post("/tokenize", {"content": text, "add_special": True})["tokens"]
    assert begun[1:] == tokens
    assert daemon.post("/tokenize", {"content": [begun[0], text]})["tokens"] == begun


def test_special_tokens_are_plain_text_where_it_is_asked(daemon):
    meant = daemon.post("/tokenize", {"content": "<end_of_turn>"})["tokens"]
    plain = daemon.post("/tokenize", {"content": "<end_of_turn>", "parse_special": False})["tokens"]
    assert len(meant) == 1 < len(plain)


def test_a_chat_becomes_the_prompt_that_is_answered(daemon):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    prompt = daemon.post("/apply-template", {"messages": messages})["prompt"]
    assert prompt.index("Be brief.") < prompt.index("Hello")
    assert prompt.rstrip().endswith("assistant")  # ChatML stands in
    ask = {"model": MODEL, "max_tokens": 5, "temperature": 0}
    chat = daemon.post("/v1/chat/completions", {"messages": messages, **ask})
    plain = daemon.post("/v1/completions", {"prompt": prompt, **ask})
    assert plain["choices"][0]["text"].startswith(chat["choices"][0]["message"]["content"])
