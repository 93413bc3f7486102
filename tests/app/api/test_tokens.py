"""llama-server's `/tokenize`, `/detokenize` and `/apply-template` over the echo engine."""

import pytest

from app.api.tokens import TokenTools
from engines.protocol import Tokens


@pytest.fixture
async def http(echo_house):
    async with echo_house.client(TokenTools(echo_house.dataplane).routes()) as client:
        yield client


@pytest.fixture
def worker(echo_house):
    return echo_house.workers["echo"]


async def ask(http, path, **body):
    answer = await http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_text_becomes_tokens_and_these_a_text(http):
    assert await ask(http, "/tokenize", content="a b c") == {"tokens": [0, 1, 2]}
    assert await ask(http, "/tokenize") == {"tokens": []}
    assert await ask(http, "/detokenize", tokens=[5, 6]) == {"content": "5 6"}
    assert await ask(http, "/detokenize") == {"content": ""}


async def test_texts_and_tokens_may_be_mixed_and_only_the_beginning_is_one(http, worker):
    answer = await ask(http, "/tokenize", content=["a b", 7, "c"], add_special=True, parse_special=False)
    assert answer == {"tokens": [0, 1, 7, 0]}
    texts = [asked for asked in worker.asked if asked.text is not None]
    assert [(asked.add_special, asked.parse_special) for asked in texts] == [(True, False), (False, False)]


async def test_pieces_are_text_or_bytes(http, worker):
    assert await ask(http, "/tokenize", content=["a b", 7], with_pieces=True) == {
        "tokens": [{"id": 0, "piece": "a"}, {"id": 1, "piece": "b"}, {"id": 7, "piece": "7"}]
    }
    worker.engine.tokenize = lambda asked: Tokens(asked.id, [8, 9], "ä", [b"\xc3", b"\xa4"])
    assert await ask(http, "/tokenize", content="ä", with_pieces=True) == {
        "tokens": [{"id": 8, "piece": [0xC3]}, {"id": 9, "piece": [0xA4]}]
    }


async def test_a_chat_becomes_a_prompt(http, worker):
    messages = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hi"}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    wanted = {"messages": messages, "tools": tools, "chat_template_kwargs": {"enable_thinking": False}}
    assert await ask(http, "/apply-template", **wanted) == {"prompt": "be brief hi"}
    asked = worker.asked[-1]
    assert asked.messages[0] == {"role": "system", "content": "be brief"}
    assert asked.tools[0]["function"]["name"] == "f"
    assert asked.variables == {"enable_thinking": False}


async def test_the_model_must_be_named_only_where_there_are_several(echo_house, http):
    echo_house.serve("other")
    answer = await http.post("/tokenize", json={"content": "a"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "model"
    assert "echo, other" in answer.json()["error"]["message"]
    assert await ask(http, "/tokenize", content="a", model="other") == {"tokens": [0]}
    echo_house.dataplane.publish({})
    assert (await http.post("/tokenize", json={"content": "a"})).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {"content": 5}, "content"),
        ("/tokenize", {"content": ["a", -1]}, "content[1]"),
        ("/detokenize", {"tokens": [1, 1 << 31]}, "tokens[1]"),
        ("/apply-template", {"messages": []}, "messages"),
        ("/apply-template", {"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "x"}]}, "tools[0]"),
    ],
)
async def test_what_is_wrong_is_named_in_openais_envelope(http, path, body, field):
    answer = await http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["param"] == field
