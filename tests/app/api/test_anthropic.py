"""`/v1/messages` over the echo engine: what clients send, and what they read."""

import base64
import json

import msgspec
import pytest

from app.api.anthropic import Anthropic
from app.api.anthropic_input import conversation, generation
from app.api.images import Images
from app.errors import InvalidInput
from app.schema.anthropic import MessagesRequest

PNG = b"\x89PNG\r\n"
IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PNG).decode()},
}
TOOL = {"name": "weather", "description": "of a place", "input_schema": {"type": "object", "properties": {}}}
CLOCK = {"name": "clock", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}


@pytest.fixture
async def http(echo_house):
    async with echo_house.client(Anthropic(echo_house.dataplane, Images()).routes()) as client:
        yield client


@pytest.fixture
def worker(echo_house):
    return echo_house.workers["echo"]


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def body(*messages, **more):
    return {"model": "echo", "max_tokens": 64, "messages": list(messages) or [user("one two")], **more}


def read(*messages, **more):
    return conversation(msgspec.convert(body(*messages, **more), MessagesRequest))


def request(*messages, **more):
    return generation(msgspec.convert(body(*messages, **more), MessagesRequest))[0]


async def ask(http, *messages, **more):
    answer = await http.post("/v1/messages?beta=true", json=body(*messages, **more))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def stream(http, *messages, **more):
    """(name, data) of every event."""
    answer = await http.post("/v1/messages", json=body(*messages, **more, stream=True))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for entry in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = entry.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        assert events[-1][1]["type"] == events[-1][0]
    return events


# --- what is asked ---------------------------------------------------------------------------------------


def test_system_and_messages_become_canonical():
    messages, media = read(user("a"), assistant("b"), user([{"type": "text", "text": "c"}]), system="be brief")
    assert media == []
    assert messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


def test_blocks_of_the_system_prompt_are_joined_and_a_changing_stamp_is_stilled():
    def system(stamp):
        blocks = [f"x-anthropic-billing-header: cc_version=2.1; cch={stamp};", "You help."]
        return read(system=[{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}} for text in blocks])

    assert system("a5145") == system("00ff1")
    assert system("a5145")[0][0]["content"].endswith("\nYou help.")
    assert read(system="cch=a5145;")[0][0]["content"] == "cch=a5145;"


def test_consecutive_turns_of_one_role_are_joined():
    messages, _ = read(user("a"), user([{"type": "text", "text": "b"}]), assistant("c"), assistant("d"), user("e"))
    assert [message["content"] for message in messages] == ["a\nb", "c\nd", "e"]


def test_a_turn_with_thoughts_and_tools_is_one_message_and_each_result_another():
    said = assistant(
        [
            {"type": "thinking", "thinking": "look it up", "signature": "x"},
            {"type": "redacted_thinking", "data": "…"},
            {"type": "text", "text": "Let me see."},
            USE,
            USE | {"id": "toolu_2", "name": "clock", "input": {}},
        ]
    )
    results = user(
        [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"},
            {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "text", "text": "noon"}, IMAGE]},
            {"type": "text", "text": "well?"},
        ]
    )
    messages, media = read(user("weather?"), said, results)
    assert messages[1] == {
        "role": "assistant",
        "content": "Let me see.",
        "reasoning_content": "look it up",
        "tool_calls": [
            {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}},
            {"id": "toolu_2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
        ],
    }
    assert messages[2] == {"role": "tool", "tool_call_id": "toolu_1", "name": "weather", "content": "rain"}
    assert messages[3]["name"] == "clock"
    assert messages[3]["content"] == [{"type": "text", "text": "noon"}, {"type": "image", "media": 0}]
    assert messages[4] == {"role": "user", "content": "well?"}
    assert media == [PNG]


def test_documents_of_text_are_text():
    source = {"type": "text", "media_type": "text/plain", "data": "Call me Ishmael."}
    block = {"type": "document", "source": source, "title": "Moby-Dick", "context": "a novel"}
    inner = {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "x"}]}}
    messages, _ = read(user([block, inner]))
    assert messages[0]["content"] == "Moby-Dick\na novel\nCall me Ishmael.\nx"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, "auto"),
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "any"}, "required"),
        ({"type": "tool", "name": "clock"}, "function:clock"),
    ],
)
def test_tool_choice(choice, expected):
    assert request(tools=[TOOL, CLOCK], tool_choice=choice).tool_choice == expected


def test_tools_sampling_and_limits_reach_the_model():
    asked = request(
        tools=[TOOL],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        stop_sequences=["END"],
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    )
    function = {"name": "weather", "description": "of a place", "parameters": TOOL["input_schema"]}
    assert asked.tools == [{"type": "function", "function": function}]
    assert not asked.parallel_tool_calls
    assert (asked.sampling.temperature, asked.sampling.top_p, asked.sampling.top_k) == (0.5, 0.9, 7)
    assert (asked.stop, asked.max_tokens) == (["END"], 64)
    assert (asked.grammar.kind, asked.grammar.value) == ("json_schema", {"type": "object"})
    assert asked.variables == {"enable_thinking": False, "reasoning_effort": "low"}


@pytest.mark.parametrize(
    ("thinking", "thinks"),
    [
        (None, False),
        ({"type": "disabled"}, False),
        ({"type": "adaptive"}, True),
        ({"type": "enabled", "budget_tokens": 1024}, True),
    ],
)
def test_thinking_is_off_unless_asked_for(thinking, thinks):
    assert request(thinking=thinking, max_tokens=2000).variables["enable_thinking"] is thinks


def test_a_last_message_of_the_assistant_is_continued():
    assert request(user("a"), assistant("The answer is (")).continue_final
    assert not request(user("a")).continue_final


@pytest.mark.parametrize(
    ("messages", "more", "field"),
    [
        ([], {"max_tokens": 0}, "max_tokens"),
        ([], {"temperature": 1.5}, "temperature"),
        ([], {"top_p": 2}, "top_p"),
        ([], {"thinking": {"type": "enabled", "budget_tokens": 100}}, "thinking.budget_tokens"),
        ([], {"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking.budget_tokens"),
        ([], {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ([], {"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ([], {"tools": [{"name": "f", "input_schema": {"type": "thing"}}]}, "tools[0].input_schema"),
        ([], {"tool_choice": {"type": "any"}}, "tool_choice"),
        ([], {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
        ([user([{"type": "tool_result", "tool_use_id": "t"}])], {}, "messages[0].content[0].tool_use_id"),
        ([user("a"), user([USE])], {}, "messages[1].content[0].type"),
        ([user("a"), assistant([IMAGE])], {}, "messages[1].content[0].type"),
        ([user("a"), assistant([USE])], {}, "messages"),
        (
            [user([{"type": "document", "source": {"type": "base64", "data": "x"}}])],
            {},
            "messages[0].content[0].source.type",
        ),
        (
            [user([{"type": "image", "source": {"type": "file", "file_id": "f"}}])],
            {},
            "messages[0].content[0].source.type",
        ),
        (
            [user([{"type": "image", "source": {"type": "base64", "data": "!"}}])],
            {},
            "messages[0].content[0].source.data",
        ),
    ],
)
def test_what_is_wrong_is_named(messages, more, field):
    with pytest.raises(InvalidInput) as caught:
        request(*messages, **more)
    assert caught.value.field == field


# --- what is answered ------------------------------------------------------------------------------------


async def test_a_whole_answer(http):
    answer = await ask(http)
    assert answer["content"] == [{"type": "text", "text": "one two "}]
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", "echo")
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)
    assert answer["usage"]["input_tokens"] == 2
    assert answer["usage"]["output_tokens"] == 2
    assert answer["id"].startswith("msg_")


async def test_max_tokens_and_stop_sequences_are_reasons(http):
    assert (await ask(http, max_tokens=1))["stop_reason"] == "max_tokens"
    stopped = await ask(http, user("one STOP two"), stop_sequences=["STOP"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "STOP")
    assert stopped["content"] == [{"type": "text", "text": "one "}]


async def test_thoughts_come_before_calls(http):
    answer = await ask(http, user("call a b"), thinking={"type": "adaptive"}, tools=[TOOL])
    thought, *calls = answer["content"]
    assert (thought["type"], thought["thinking"]) == ("thinking", "I repeat.")
    assert thought["signature"]
    assert [(call["type"], call["name"], call["input"]) for call in calls] == [
        ("tool_use", "weather", {"word": "a"}),
        ("tool_use", "weather", {"word": "b"}),
    ]
    assert len({call["id"] for call in calls}) == 2
    assert answer["stop_reason"] == "tool_use"
    hidden = await ask(http, thinking={"type": "adaptive", "display": "omitted"})
    assert hidden["content"][0]["thinking"] == ""
    assert hidden["content"][0]["signature"] == thought["signature"]


async def test_a_call_that_was_cut_off_has_no_input(http):
    answer = await ask(http, user("call a"), tools=[TOOL], max_tokens=2)
    assert answer["content"][0]["input"] == {}
    assert answer["stop_reason"] == "max_tokens"


async def test_images_reach_the_model_and_pointers_to_them_are_refused(http, worker):
    await ask(http, user([IMAGE, {"type": "text", "text": "what"}]))
    request, media = worker.generated[-1]
    assert media == [PNG]
    assert request.messages[0]["content"] == [{"type": "image", "media": 0}, {"type": "text", "text": "what"}]
    remote = {"type": "image", "source": {"type": "url", "url": "http://localhost/cat.png"}}
    answer = await http.post("/v1/messages", json=body(user([remote])))
    assert answer.status_code == 400
    assert "messages[0].content[0].source.url" in answer.json()["error"]["message"]


async def test_the_events_of_a_stream(http):
    events = await stream(http, user("call a"), thinking={"type": "adaptive"}, tools=[TOOL])
    assert [name for name, _ in events] == [
        "message_start",
        "ping",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "content_block_start",
        *["content_block_delta"] * 2,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    message = events[0][1]["message"]
    assert (message["content"], message["stop_reason"], message["usage"]["input_tokens"]) == ([], None, 2)
    assert [data["index"] for name, data in events if name.startswith("content_block")] == [0] * 5 + [1] * 4
    deltas = [data["delta"] for name, data in events if name == "content_block_delta"]
    assert [delta["type"] for delta in deltas] == ["thinking_delta"] * 2 + ["signature_delta"] + [
        "input_json_delta"
    ] * 2
    assert "".join(delta.get("thinking", "") for delta in deltas) == "I repeat."
    assert json.loads("".join(delta.get("partial_json", "") for delta in deltas)) == {"word": "a"}
    last = events[-2][1]
    assert last["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert last["usage"] == {
        "input_tokens": 2,
        "output_tokens": 5,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
    }


async def test_a_stream_says_what_a_whole_answer_says(http):
    whole = await ask(http, user("a b c"), max_tokens=2)
    events = await stream(http, user("a b c"), max_tokens=2)
    text = "".join(data["delta"]["text"] for name, data in events if name == "content_block_delta")
    assert text == whole["content"][0]["text"]
    assert events[-2][1]["delta"]["stop_reason"] == whole["stop_reason"] == "max_tokens"
    assert events[-2][1]["usage"] == whole["usage"]


async def test_an_error_in_mid_stream_is_an_event(echo_house, http):
    echo_house.serve("fails", error_after=1)
    events = await stream(http, model="fails")
    assert [name for name, _ in events][-2:] == ["content_block_delta", "error"]
    assert events[-1][1]["error"]["message"] == "echo was asked to fail"
    assert (await http.post("/v1/messages", json=body(model="fails"))).status_code == 502


async def test_errors_are_in_anthropics_envelope_with_its_request_id(http):
    for change, status, kind in (
        ({"model": "nobody"}, 404, "not_found_error"),
        ({"max_tokens": None}, 400, "invalid_request_error"),
        ({"messages": [user("x " * 600)]}, 400, "invalid_request_error"),
        ({"messages": [user("x " * 600)], "stream": True}, 400, "invalid_request_error"),
    ):
        answer = await http.post("/v1/messages", json=body() | change)
        assert (answer.status_code, answer.json()["type"], answer.json()["error"]["type"]) == (status, "error", kind)
        assert answer.headers["request-id"] == answer.headers["x-request-id"]


async def test_tokens_are_counted_as_they_would_be_sent(http, worker):
    wanted = {"model": "echo", "messages": [user("one two")], "system": "be brief", "tools": [TOOL]}
    answer = await http.post("/v1/messages/count_tokens?beta=true", json=wanted)
    assert answer.json() == {"input_tokens": 4}
    await ask(http, system="be brief", tools=[TOOL])
    counted, (sent, _) = worker.asked[-1], worker.generated[-1]
    assert (counted.messages, counted.tools, counted.variables) == (sent.messages, sent.tools, sent.variables)
