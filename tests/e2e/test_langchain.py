"""`langchain-openai` against a daemon that serves the real language model."""

import asyncio
from typing import Literal

import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_openai import OpenAI as TextModel
from pydantic import BaseModel, Field

from tests.support.daemon import RunningDaemon

pytestmark = pytest.mark.slow
MODEL = "gemma"


@tool
def weather(city: Literal["Oslo", "Rome"], days: Literal[1, 2, 3]) -> str:
    """The weather of a city in so many days."""
    return f"Snow in {city}"


class Colour(BaseModel):
    """A colour."""

    name: str = Field(max_length=10)
    red: int = Field(ge=0, le=255)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, gguf_path):
    with RunningDaemon(tmp_path_factory.mktemp("langchain") / "data") as running:
        running.pull(f"file:{gguf_path}", name=MODEL)
        state = running.deploy(MODEL)
        assert state["state"] == "ready", state["error"]
        yield running


@pytest.fixture(scope="module")
def server(daemon):
    """What every kind of model is told. The HTTP client is ours so that it is closed."""
    with httpx.Client() as http:
        yield {"model": MODEL, "base_url": f"{daemon.url}/v1", "api_key": "none", "http_client": http, "max_retries": 0}


@pytest.fixture(scope="module")
def model(server):
    return ChatOpenAI(temperature=0, max_tokens=120, seed=1, **server)


SAY = [SystemMessage("Be brief."), HumanMessage("Count: one two three")]


def test_a_chat_is_invoked_streamed_and_batched(model):
    short = model.bind(max_tokens=10)
    whole = short.invoke(SAY)
    assert whole.usage_metadata["output_tokens"] <= 10
    assert whole.response_metadata["finish_reason"] in ("stop", "length")
    pieces = list(short.stream(SAY, stream_usage=True))
    assert "".join(piece.content for piece in pieces) == whole.content
    gathered = pieces[0]
    for piece in pieces[1:]:
        gathered += piece
    assert gathered.usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]
    assert [answer.content for answer in short.batch([SAY, SAY])] == [whole.content] * 2


def test_a_chat_is_streamed_asynchronously(model, server):
    async def run():
        async with httpx.AsyncClient() as http:
            able = ChatOpenAI(temperature=0, max_tokens=10, seed=1, http_async_client=http, **server)
            return [piece.content async for piece in able.astream(SAY)]

    assert "".join(asyncio.run(run())) == model.bind(max_tokens=10).invoke(SAY).content


def test_log_probabilities_arrive(model):
    answer = model.bind(logprobs=True, top_logprobs=2, max_tokens=4).invoke(SAY)
    told = answer.response_metadata["logprobs"]["content"]
    assert all(len(token["top_logprobs"]) == 2 for token in told)


def test_a_tool_is_called_and_its_answer_taken(model):
    able = model.bind_tools([weather], tool_choice="weather", parallel_tool_calls=False)
    asked = HumanMessage("What will the weather in Oslo be in 2 days?")
    answer = able.invoke([asked])
    [call] = answer.tool_calls
    assert call["name"] == "weather"
    assert isinstance(call["args"]["days"], int)
    result = weather.invoke(call)
    assert isinstance(result, ToolMessage)
    again = model.bind_tools([weather]).bind(max_tokens=8).invoke([asked, answer, result])
    assert isinstance(again, AIMessage)


def test_tool_calls_are_streamed(model):
    able = model.bind_tools([weather], tool_choice="any", parallel_tool_calls=False)
    gathered = None
    for piece in able.stream([HumanMessage("Weather in Rome?")]):
        gathered = piece if gathered is None else gathered + piece
    assert gathered.tool_calls[0]["name"] == "weather"
    assert set(gathered.tool_calls[0]["args"]) >= {"city", "days"}  # its schema allows more


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_an_object(model, method):
    colour = model.with_structured_output(Colour, method=method).invoke("Tell me a colour.")
    assert isinstance(colour, Colour)
    assert 0 <= colour.red <= 255


def test_a_text_is_continued(server):
    model = TextModel(temperature=0, max_tokens=8, **server)
    assert model.invoke("The three primary colours are").strip()
    assert len(model.generate(["One, two,", "A, B,"]).generations) == 2


def test_texts_are_embedded(server):
    # The check would count tokens with OpenAI's own tokenizer, which it downloads.
    model = OpenAIEmbeddings(check_embedding_ctx_length=False, **server)
    vectors = model.embed_documents(["a cat", "a dog", "a cat"])
    assert len(vectors) == 3
    # Rounding depends on what is computed together.
    assert sum(a * b for a, b in zip(vectors[0], vectors[2], strict=True)) > 0.999
    assert len(model.embed_query("a cat")) == len(vectors[0])
