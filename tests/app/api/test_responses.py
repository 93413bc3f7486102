"""`/v1/responses` over the echo engine and a real database: what clients send, what they read, and what is kept."""

import base64
import json

import msgspec
import pytest

from app.api.images import Images
from app.api.response_store import ResponseStore
from app.api.responses import Responses
from app.api.responses_input import generation, normal
from app.errors import InvalidInput, NotFound
from app.schema.responses import ResponseRequest

PNG = b"\x89PNG\r\n"
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Oslo"}'}


@pytest.fixture
def kept(store):
    return ResponseStore(store, 100, 1 << 20)


@pytest.fixture
async def http(echo_house, kept):
    async with echo_house.client(Responses(echo_house.dataplane, kept, Images()).routes()) as client:
        yield client


@pytest.fixture
def worker(echo_house):
    return echo_house.workers["echo"]


def body(given="one two", **more):
    return {"model": "echo", "input": given, **more}


def request(given="one two", earlier=(), **more):
    asked = msgspec.convert(body(given, **more), ResponseRequest)
    return generation(asked, list(earlier), normal(asked.input))[0]


async def ask(http, given="one two", **more):
    answer = await http.post("/v1/responses", json=body(given, **more))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def stream(http, given="one two", **more):
    """The events, whose numbers run from 0."""
    answer = await http.post("/v1/responses", json=body(given, **more, stream=True))
    assert answer.status_code == 200, answer.text
    events = []
    for entry in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = entry.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def text(response):
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


async def refuse(http, status=400, **more):
    answer = await http.post("/v1/responses", json=body() | more)
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


# --- what is asked ---------------------------------------------------------------------------------------


def test_items_become_canonical_messages():
    items = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "let me see"}]},
        CALL,
        CALL | {"call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "sun"}]},
        {"role": "user", "content": "well?"},
    ]
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert request(items, instructions="help").messages == [
        {"role": "system", "content": "help"},
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb"},
        {
            "role": "assistant",
            "content": "let me see",
            "reasoning_content": "hm",
            "tool_calls": [{"id": number, "type": "function", "function": function} for number in ("c1", "c2")],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "name": "weather", "content": "sun"},
        {"role": "user", "content": "well?"},
    ]


def test_fields_reach_the_model():
    asked = request(
        tools=[TOOL],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
        reasoning={"effort": "high"},
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_logprobs=3,
    )
    assert asked.tools[0]["function"] == {"name": "weather", "description": "", "parameters": TOOL["parameters"]}
    assert (asked.tool_choice, asked.parallel_tool_calls) == ("function:weather", False)
    assert (asked.grammar.kind, asked.grammar.value) == ("json_schema", {"type": "object"})
    assert asked.variables == {"reasoning_effort": "high", "enable_thinking": True}
    assert (asked.max_tokens, asked.sampling.temperature, asked.sampling.top_p, asked.logprobs) == (9, 0.5, 0.9, 3)
    assert request(include=["message.output_text.logprobs"]).logprobs == 0
    assert request().logprobs == -1
    assert request().max_tokens == -1
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "clock"}]}
    asked = request(tools=[TOOL, TOOL | {"name": "clock"}], tool_choice=allowed)
    assert asked.tool_choice == "required"
    assert [tool["function"]["name"] for tool in asked.tools] == ["clock"]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"given": []}, "input"),
        ({"given": [{"content": "a"}]}, "input[0].type"),
        ({"given": [{"type": "computer_call_output"}]}, "input[0].type"),
        ({"given": [{"role": "tool", "content": "a"}]}, "input[0].role"),
        ({"given": [{"role": "user", "content": None}]}, "input[0].content"),
        ({"given": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0].type"),
        ({"given": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        (
            {"given": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].image_url",
        ),
        ({"given": [{"type": "function_call_output", "call_id": "c1", "output": "x"}]}, "input[0].call_id"),
        ({"given": [CALL | {"arguments": {}}]}, "input[0].arguments"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"reasoning": {"effort": "vast"}}, "reasoning.effort"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"temperature": -1}, "temperature"),
        ({"truncation": "auto"}, "truncation"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
    ],
)
def test_what_is_wrong_is_named(more, field):
    with pytest.raises(InvalidInput) as caught:
        request(**more)
    assert caught.value.field == field


# --- what is answered ------------------------------------------------------------------------------------


async def test_a_whole_answer(http):
    response = await ask(http, metadata={"a": "b"}, max_output_tokens=50, instructions="say")
    assert text(response) == "say one two "
    assert (response["object"], response["status"], response["error"]) == ("response", "completed", None)
    assert response["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 6,
    }
    assert response["metadata"] == {"a": "b"}
    assert (response["instructions"], response["max_output_tokens"], response["store"]) == ("say", 50, True)
    assert (response["temperature"], response["truncation"], response["tool_choice"]) == (0.8, "disabled", "auto")


async def test_what_is_cut_off_is_incomplete(http):
    response = await ask(http, "one two three", max_output_tokens=2)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete"
    assert (await stream(http, "one two three", max_output_tokens=2))[-1]["type"] == "response.incomplete"


async def test_a_stream_of_text_has_every_event_in_order(http):
    events = await stream(http)
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[0]["response"]["status"] == events[1]["response"]["status"] == "in_progress"
    assert events[0]["response"]["output"] == []
    assert events[2]["item"] == {**events[-2]["item"], "status": "in_progress", "content": []}
    assert "".join(event["delta"] for event in events[4:6]) == events[6]["text"] == "one two "
    assert events[-1]["response"]["output"] == [events[-2]["item"]]
    assert len({event["item_id"] for event in events[3:8]} | {events[2]["item"]["id"]}) == 1
    assert events[-1]["response"]["id"] == events[0]["response"]["id"]


async def test_a_stream_of_thoughts_and_calls_has_every_event_in_order(http):
    events = await stream(http, "call a b", tools=[TOOL], reasoning={"effort": "low"})
    call = ["output_item.added", *["function_call_arguments.delta"] * 2, "function_call_arguments.done"]
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["reasoning_text.delta"] * 2,
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        *[*call, "output_item.done"] * 2,
        "completed",
    ]
    response = events[-1]["response"]
    assert [item["type"] for item in response["output"]] == ["reasoning", "function_call", "function_call"]
    assert response["output"][0]["content"] == [{"type": "reasoning_text", "text": "I repeat."}]
    assert [json.loads(item["arguments"]) for item in response["output"][1:]] == [{"word": "a"}, {"word": "b"}]
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    assert [event["item"] for event in events if event["type"].endswith("item.done")] == response["output"]
    assert [event["output_index"] for event in events if "output_index" in event] == [0] * 7 + [1] * 5 + [2] * 5


async def test_log_probabilities_come_with_the_text(http):
    events = await stream(http, top_logprobs=1)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [[entry["token"] for entry in event["logprobs"]] for event in deltas] == [["one "], ["two "]]
    whole = events[-1]["response"]["output"][0]["content"][0]["logprobs"]
    assert whole == [entry for event in deltas for entry in event["logprobs"]]
    assert whole[0]["top_logprobs"][0]["logprob"] == -0.5


async def test_images_reach_the_model_and_pointers_to_them_are_refused(http, worker):
    def look(url):
        return [{"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": "auto"}]}]

    await ask(http, look(DATA_URL))
    assert worker.generated[-1][1] == [PNG]
    error = await refuse(http, input=look("http://localhost/cat.png"))
    assert error["param"] == "input[0].content[0].image_url"


async def test_an_error_in_mid_stream_is_told_and_what_was_said_is_kept_out(echo_house, http):
    echo_house.serve("fails", error_after=1)
    events = await stream(http, model="fails")
    assert [event["type"] for event in events][-2:] == ["error", "response.failed"]
    assert events[-2]["message"] == "echo was asked to fail"
    failed = events[-1]["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert text(failed) == "one "
    assert failed["store"] is False
    assert (await http.get(f"/v1/responses/{failed['id']}")).status_code == 404
    assert (await http.post("/v1/responses", json=body(model="fails"))).status_code == 502


async def test_errors_are_openais(http):
    assert (await refuse(http, 404, model="nobody"))["type"] == "not_found_error"
    assert (await refuse(http, input="x " * 600))["code"] == "context_length_exceeded"
    assert (await refuse(http, input="x " * 600, stream=True))["code"] == "context_length_exceeded"
    assert (await refuse(http, input=5))["param"] == "input"


# --- what is kept ----------------------------------------------------------------------------------------


async def test_a_response_is_kept_and_can_be_deleted(http):
    for response in (await ask(http), (await stream(http))[-1]["response"]):
        path = f"/v1/responses/{response['id']}"
        assert (await http.get(path)).json() == response
        assert (await http.get(f"{path}?stream=true")).status_code == 400
        assert (await http.post(f"{path}/cancel")).status_code == 400
        assert (await http.delete(path)).json() == {"id": response["id"], "object": "response", "deleted": True}
        assert (await http.get(path)).status_code == 404
        assert (await http.delete(path)).status_code == 404
        assert (await http.post(f"{path}/cancel")).status_code == 404


async def test_a_response_that_is_not_to_be_kept_is_not(http):
    response = await ask(http, store=False)
    assert response["store"] is False
    assert (await http.get(f"/v1/responses/{response['id']}")).status_code == 404


async def test_a_conversation_goes_on_without_the_earlier_instructions(http, worker):
    first = await ask(http, "call a", tools=[TOOL], instructions="be brief", reasoning={"effort": "low"})
    [call] = [item for item in first["output"] if item["type"] == "function_call"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    second = await ask(http, [result], previous_response_id=first["id"])
    await ask(http, "thanks", previous_response_id=second["id"], instructions="be kind")
    messages = worker.generated[-1][0].messages
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert messages[0]["content"] == "be kind"
    assert messages[2]["reasoning_content"] == "I repeat."
    assert messages[2]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"word": "a"}'}
    assert messages[3] == {"role": "tool", "tool_call_id": call["call_id"], "name": "weather", "content": "rain"}
    assert messages[4]["content"] == text(second)


async def test_going_on_from_what_is_gone_is_a_404(http):
    assert (await refuse(http, 404, previous_response_id="resp_none"))["param"] == "previous_response_id"
    first = await ask(http)
    second = await ask(http, previous_response_id=first["id"])
    await http.delete(f"/v1/responses/{first['id']}")
    assert first["id"] in (await refuse(http, 404, previous_response_id=second["id"]))["message"]
    assert (await http.get(f"/v1/responses/{second['id']}/input_items")).status_code == 200


async def test_input_items_are_all_that_the_model_was_given_and_are_paged(http):
    first = await ask(http, "one")
    second = await ask(http, "two", previous_response_id=first["id"])
    path = f"/v1/responses/{second['id']}/input_items"

    async def page(**query):
        answer = await http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    whole = await page(order="asc")
    assert [item["role"] for item in whole["data"]] == ["user", "assistant", "user"]
    assert whole["data"][2]["content"] == [{"type": "input_text", "text": "two"}]
    assert whole["data"][1] == first["output"][0]
    assert (await page())["data"] == whole["data"][::-1]
    begin = await page(limit=2)
    assert (begin["has_more"], begin["last_id"]) == (True, first["output"][0]["id"])
    rest = await page(limit=2, after=begin["last_id"])
    assert (rest["has_more"], rest["data"]) == (False, whole["data"][:1])
    assert (await http.get(path, params={"after": "msg_none"})).status_code == 400
    assert (await http.get(path, params={"order": "up"})).status_code == 400


async def test_an_item_can_be_sent_by_its_id_alone(http, worker):
    first = await ask(http, "one")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    await ask(http, [{"role": "user", "content": "one"}, reference, {"role": "user", "content": "two"}])
    contents = [message["content"] for message in worker.generated[-1][0].messages]
    assert contents == ["one", text(first), "two"]
    for number in ("msg_1", reference["id"] + "9", 5):
        assert (await refuse(http, 404, input=[reference | {"id": number}]))["code"] in (
            "item_not_found",
            "response_not_found",
        )


async def test_an_input_larger_than_all_that_is_kept_is_refused_before_it_is_answered(http, kept, worker):
    kept.limit_bytes = 1000
    big = "x" * 1000
    assert "store" in (await refuse(http, 413, input=big))["message"]
    assert worker.generated == []
    assert text(await ask(http, big, store=False)) == big + " "


async def test_nothing_is_kept_where_the_limit_is_0(http, kept):
    kept.limit = 0
    response = await ask(http)
    assert response["store"] is False
    assert (await http.get(f"/v1/responses/{response['id']}")).status_code == 404


async def put(kept, number, previous=None, size=10):
    await kept.put(b"[]", number, previous, "x" * size)


async def there(kept, *numbers):
    found = []
    for number in numbers:
        try:
            found.append((await kept.get(number)).id)
        except NotFound:
            continue
    return found


async def test_the_least_recently_used_is_forgotten_first_and_a_conversation_is_used_as_a_whole(store):
    kept = ResponseStore(store, 3, 1 << 20)
    await put(kept, "a")
    await put(kept, "b")
    await put(kept, "a2", "a")
    await put(kept, "c")
    assert await there(kept, "a", "b", "a2", "c") == ["a", "a2", "c"]


async def test_bytes_are_bounded_and_the_newest_is_kept_in_any_case(store):
    kept = ResponseStore(store, 100, 1000)
    for number in "abc":
        await put(kept, number, size=390)
    assert await there(kept, *"abc") == ["b", "c"]
    await put(kept, "d", size=5000)
    assert await there(kept, *"abcd") == ["d"]
    await put(kept, "e")
    assert await there(kept, *"de") == ["e"]


async def test_what_is_kept_survives_the_store(data, store):
    from app.db import Store

    await put(ResponseStore(store, 3, 1000), "a")
    again = Store(data.database)
    try:
        assert (await ResponseStore(again, 3, 1000).get("a")).response == "x" * 10
    finally:
        again.close()
