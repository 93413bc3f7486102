"""`/v1/chat/completions` over the echo engine: what clients send, and what they read."""

import asyncio
import json

import pytest

from app.api.images import Images
from app.api.openai import OpenAI
from app.api.server import Server
from app.settings import Settings
from engines.engine import EngineError

PIXEL = "data:image/png;base64,iVBORw0KGgo="
WEATHER = {"name": "weather", "description": "of a place", "parameters": {"type": "object", "properties": {}}}
CLOCK = {"name": "clock"}
TOOLS = [{"type": "function", "function": WEATHER}, {"type": "function", "function": CLOCK}]


@pytest.fixture
async def http(echo_house):
    async with echo_house.client(OpenAI(echo_house.dataplane, Images()).routes()) as client:
        yield client


@pytest.fixture
def worker(echo_house):
    return echo_house.workers["echo"]


def chat(text="one two", **more):
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **more}


async def ask(http, *args, **more):
    answer = await http.post("/v1/chat/completions", json=chat(*args, **more))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refuse(http, field, **more):
    answer = await http.post("/v1/chat/completions", json=chat() | more)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == field
    return error["message"]


async def stream(http, *args, **more):
    """The events as JSON; the last is ``[DONE]`` unless an error ended the stream."""
    answer = await http.post("/v1/chat/completions", json=chat(*args, **more) | {"stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert all("\n" not in event for event in events)
    return [event if event == "[DONE]" else json.loads(event) for event in events]


def deltas(events, index=0):
    return [
        choice["delta"]
        for event in events
        if event != "[DONE]"
        for choice in event["choices"]
        if choice["index"] == index
    ]


def text(events, index=0, key="content"):
    return "".join(delta.get(key) or "" for delta in deltas(events, index))


# --- whole answers ---------------------------------------------------------------------------------------


async def test_an_answer_has_everything_that_clients_read(http):
    answer = await ask(http)
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["model"] == "echo"
    assert answer["system_fingerprint"].startswith("fp_")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "one two ", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 2,
        "total_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


async def test_the_fingerprint_stays_and_the_id_does_not(http):
    one, two = await ask(http), await ask(http)
    assert one["system_fingerprint"] == two["system_fingerprint"]
    assert one["id"] != two["id"]


async def test_several_choices_each_have_their_own_seed_and_share_the_prompts_count(http, worker):
    answer = await ask(http, n=3, seed=41)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert sorted(request.sampling.seed for request, _ in worker.generated) == [41, 42, 43]
    assert answer["usage"]["prompt_tokens"] == 2
    assert answer["usage"]["completion_tokens"] == 6


async def test_without_a_seed_no_choice_has_one(http, worker):
    await ask(http, n=2)
    assert [request.sampling.seed for request, _ in worker.generated] == [None, None]


async def test_reasoning_is_told_apart_from_the_answer(http):
    answer = await ask(http, chat_template_kwargs={"enable_thinking": True})
    message = answer["choices"][0]["message"]
    assert message["reasoning_content"] == "I repeat."
    assert message["content"] == "one two "
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


@pytest.mark.parametrize(
    ("given", "variables"),
    [
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ({"chat_template_kwargs": {"x": 1}, "reasoning_effort": "low"}, {"x": 1, "reasoning_effort": "low"}),
        ({}, {}),
    ],
)
async def test_the_template_gets_its_variables(http, worker, given, variables):
    await ask(http, **given)
    assert worker.generated[0][0].variables == variables


async def test_thoughts_stay_in_the_text_where_that_is_asked_for(http, worker):
    for more in ({}, {"reasoning_format": "auto"}, {"reasoning_format": "none"}):
        await ask(http, **more)
    await ask(http, reasoning_format="none", tools=TOOLS)
    assert [request.parse for request, _ in worker.generated] == [True, True, False, True]


async def test_tools_are_called_in_parallel_and_whole(http, worker):
    answer = await ask(http, "please call Paris Rome", tools=TOOLS)
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    calls = choice["message"]["tool_calls"]
    assert [(call["type"], call["function"]["name"]) for call in calls] == [("function", "weather")] * 2
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"word": "Paris"}, {"word": "Rome"}]
    assert len({call["id"] for call in calls}) == 2
    request = worker.generated[0][0]
    assert request.parallel_tool_calls and request.tool_choice == "auto"
    assert request.tools[1]["function"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("given", "choice", "left"),
    [
        (None, "auto", 2),
        ("none", "none", 2),
        ("required", "required", 2),
        ({"type": "function", "function": {"name": "clock"}}, "function:clock", 2),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "clock"}}],
                },
            },
            "required",
            1,
        ),
    ],
)
async def test_the_choice_among_tools_reaches_the_worker(http, worker, given, choice, left):
    await ask(http, tools=TOOLS, tool_choice=given, parallel_tool_calls=False)
    request = worker.generated[0][0]
    assert (request.tool_choice, len(request.tools)) == (choice, left)
    assert request.parallel_tool_calls is False


async def test_functions_as_they_were_before_tools(http):
    body = {"functions": [WEATHER, CLOCK], "function_call": {"name": "clock"}}
    [choice] = (await ask(http, "call noon", **body))["choices"]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "clock", "arguments": '{"word": "noon"}'}
    assert "tool_calls" not in choice["message"]
    events = await stream(http, "call noon", **body)
    said = [delta["function_call"] for delta in deltas(events) if "function_call" in delta]
    assert said[0]["name"] == "clock"
    assert "".join(piece.get("arguments", "") for piece in said) == '{"word": "noon"}'
    assert events[-2]["choices"][0]["finish_reason"] == "function_call"


async def test_a_conversation_with_calls_and_answers_reaches_the_worker_in_canonical_form(http, worker):
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    await ask(
        http,
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
            {"role": "tool", "tool_call_id": "c1", "content": "noon"},
        ],
    )
    assert worker.generated[0][0].messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "noon", "tool_call_id": "c1"},
    ]


async def test_an_image_travels_beside_its_message(http, worker):
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}]
    answer = await ask(http, messages=[{"role": "user", "content": parts}], n=2)
    assert answer["choices"][1]["message"]["content"] == "what? image:8 "
    for request, media in worker.generated:
        assert request.messages[0]["content"] == [{"type": "text", "text": "what?"}, {"type": "image", "media": 0}]
        assert media == [b"\x89PNG\r\n\x1a\n"]


@pytest.mark.parametrize(
    ("given", "grammar"),
    [
        ({"response_format": {"type": "json_object"}}, ("json_object", None)),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
            ("json_schema", {"type": "object"}),
        ),
        ({"guided_json": '{"type": "array"}'}, ("json_schema", {"type": "array"})),
        ({"guided_regex": "[ab]+"}, ("regex", "[ab]+")),
        ({"guided_choice": ["yes", "no"]}, ("choice", ["yes", "no"])),
        ({"guided_grammar": 'start: "a"'}, ("lark", 'start: "a"')),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, ("gbnf", 'root ::= "a"')),
        ({"grammar": 'root ::= "a"'}, ("gbnf", 'root ::= "a"')),
        ({"json_schema": {"type": "string"}}, ("json_schema", {"type": "string"})),
    ],
)
async def test_what_the_answer_must_match_reaches_the_worker(http, worker, given, grammar):
    answer = await ask(http, **given)
    assert answer["choices"][0]["message"]["content"] == "{}"
    sent = worker.generated[0][0].grammar
    assert (sent.kind, sent.value) == grammar


async def test_log_probabilities_have_bytes_and_alternatives(http):
    answer = await ask(http, "zwölf", logprobs=True, top_logprobs=1)
    [token] = answer["choices"][0]["logprobs"]["content"]
    assert token == {
        "token": "zwölf ",
        "logprob": -0.5,
        "bytes": list("zwölf ".encode()),
        "top_logprobs": [{"token": "zwölf ", "logprob": -0.5, "bytes": list("zwölf ".encode())}],
    }
    assert (await ask(http, logprobs=True))["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


async def test_limits_and_stops_reach_the_worker(http, worker):
    answer = await ask(http, "a b c d", max_completion_tokens=2, max_tokens=9)
    assert answer["choices"][0]["finish_reason"] == "length"
    answer = await ask(http, "a b c d", stop=["c", ""])
    assert answer["choices"][0]["message"]["content"] == "a b "
    more = {"ignore_eos": True, "min_tokens": 3, "priority": -2, "cache_prompt": False, "max_tokens": -1}
    await ask(http, **more, temperature=0, repetition_penalty=1.5, logit_bias={"7": -100, "8": 1.5})
    request = worker.generated[-1][0]
    assert (request.ignore_eos, request.min_tokens, request.priority, request.cache_prompt) == (True, 3, -2, False)
    assert request.max_tokens == -1
    assert (request.sampling.temperature, request.sampling.repeat_penalty) == (0, 1.5)
    assert request.sampling.logit_bias == [(7, float("-inf")), (8, 1.5)]


async def test_the_last_message_is_continued_where_that_is_asked_for(http, worker):
    messages = [{"role": "user", "content": "count"}, {"role": "assistant", "content": "one"}]
    await ask(http, messages=messages, continue_final_message=True, add_generation_prompt=False)
    await ask(http, messages=messages, add_generation_prompt=False)
    await ask(http, messages=messages)
    assert [request.continue_final for request, _ in worker.generated] == [True, True, False]


async def test_timings_are_given_on_request(http):
    assert "timings" not in await ask(http)
    timings = (await ask(http, timings_per_token=True))["timings"]
    assert (timings["prompt_n"], timings["predicted_n"], timings["cache_n"]) == (2, 2, 0)
    assert timings["prompt_ms"] > 0


async def test_fields_that_only_the_original_knows_are_ignored(http):
    await ask(
        http,
        store=True,
        metadata={"a": "b"},
        service_tier="auto",
        user="me",
        prediction={"type": "content", "content": "x"},
        safety_identifier="s",
        verbosity="low",
        modalities=["text"],
        stream_options=None,
        tools=None,
        stop=None,
        temperature=None,
        ignore_eos=None,
    )


# --- streams ---------------------------------------------------------------------------------------------


async def test_a_stream_says_what_a_whole_answer_says(http):
    events = await stream(http, "eins zwei drei")
    assert events[-1] == "[DONE]"
    assert deltas(events)[0] == {"role": "assistant", "content": ""}
    assert text(events) == "eins zwei drei "
    assert events[-2]["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert {event["object"] for event in events[:-1]} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events[:-1]}) == 1
    assert all("usage" not in event for event in events[:-1])


async def test_usage_comes_in_an_event_of_its_own(http):
    events = await stream(http, stream_options={"include_usage": True}, n=2)
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] == 4
    assert events[-2]["usage"]["prompt_tokens"] == 2
    assert all(event["usage"] is None for event in events[:-2])


async def test_choices_are_streamed_side_by_side(http):
    events = await stream(http, "a b c", n=3)
    assert [text(events, index) for index in range(3)] == ["a b c "] * 3
    order = [event["choices"][0]["index"] for event in events[:-1]]
    ends = [len(order) - 1 - order[::-1].index(index) for index in range(3)]
    assert all(order.index(index) < min(ends) for index in range(3))


async def test_text_that_json_and_sse_must_escape_survives(http):
    words = '"quoted" back\\slash <b>&\u2028 \U0001f600'
    assert text(await stream(http, words)) == words.replace("\u2028", "") + " "


async def test_calls_are_streamed_in_pieces(http):
    events = await stream(http, "call Paris Rome", tools=TOOLS)
    pieces = [call for delta in deltas(events) for call in delta.get("tool_calls", [])]
    calls = {}
    for piece in pieces:
        call = calls.setdefault(piece["index"], {"arguments": ""})
        call |= {key: piece[key] for key in ("id", "type") if key in piece}
        call["name"] = piece["function"].get("name", call.get("name"))
        call["arguments"] += piece["function"].get("arguments", "")
    assert [json.loads(calls[i]["arguments"]) for i in (0, 1)] == [{"word": "Paris"}, {"word": "Rome"}]
    assert calls[0]["name"] == "weather"
    assert calls[0]["type"] == "function"
    assert calls[0]["id"] != calls[1]["id"]
    assert sum("id" in piece for piece in pieces) == 2
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_reasoning_and_log_probabilities_are_streamed(http):
    events = await stream(http, chat_template_kwargs={"enable_thinking": True}, logprobs=True, top_logprobs=1)
    assert text(events, key="reasoning_content") == "I repeat."
    assert text(events) == "one two "
    told = [choice["logprobs"] for event in events[:-1] for choice in event["choices"] if choice["logprobs"]]
    assert sum(len(entry["content"]) for entry in told) == 4


async def test_an_error_in_mid_stream_is_an_event_and_the_end(http, echo_house):
    echo_house.serve("failing", error_after=1)
    for n in (1, 2):
        events = await stream(http, "a b c", model="failing", n=n)
        assert events[-1]["error"]["message"] == "echo was asked to fail"
        assert events[-1]["error"]["type"] == "server_error"
        assert "[DONE]" not in events
        assert text(events[:-1]).startswith("a ")


async def test_what_is_refused_is_refused_before_a_stream_begins(http, worker):
    answer = await http.post("/v1/chat/completions", json=chat("word " * 600, stream=True, n=3))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert not worker.engine.busy


async def test_a_client_that_hangs_up_frees_every_choice(echo_house, worker):
    """Straight at the ASGI interface: a client that reads the first events of three choices and is gone."""
    server = Server(OpenAI(echo_house.dataplane, Images()).routes(), Settings())
    body = json.dumps(chat("word " * 400, stream=True, n=3)).encode()
    begun = asyncio.Event()
    requests = iter([{"type": "http.request", "body": body}])

    async def receive():
        for message in requests:
            return message
        await begun.wait()
        return {"type": "http.disconnect"}

    sent = 0

    async def send(message):
        nonlocal sent
        sent += 1
        if sent > 3:
            begun.set()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    await server(scope, receive, send)
    await asyncio.sleep(0)
    assert sorted(worker.aborted) == [1, 2, 3]
    assert not worker.engine.busy


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"messages": []}, "messages"),
        ({"stream_options": 1}, "stream_options"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_completion_tokens": -2}, "max_completion_tokens"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"logit_bias": {"seven": 1}}, "logit_bias.seven"),
        ({"logit_bias": {"7": 101}}, "logit_bias.7"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"tools": [{"type": "custom"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools[2].function.name"),
        (
            {"tools": [TOOLS[0], {"type": "function", "function": {"name": "x", "parameters": {"type": "string"}}}]},
            "tools[1].function.parameters",
        ),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"functions": [WEATHER], "function_call": {"name": "nobody"}}, "function_call"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_json": "{"}, "guided_json"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"samplers": ["top_k", "magic"]}, "samplers[1]"),
    ],
)
async def test_what_is_wrong_is_named(http, given, field):
    assert field.split(".")[0].split("[")[0] in await refuse(http, field, **given)


async def test_a_schema_is_checked_to_its_depths(http):
    parameters = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "strong"}}}}
    tool = {"type": "function", "function": {"name": "x", "parameters": parameters}}
    message = await refuse(http, "tools[0].function.parameters", tools=[tool])
    assert "tools[0].function.parameters.properties.a.items.type" in message
    schema = {"anyOf": [{"type": "object"}, {"enum": []}]}
    message = await refuse(http, "guided_json", guided_json=schema)
    assert "guided_json.anyOf[1].enum" in message


@pytest.mark.parametrize(
    ("worker_says", "given", "field"),
    [
        ("grammar", {"guided_regex": "("}, "guided_regex"),
        ("response_format", {"json_schema": {"type": "object"}, "response_format": {"type": "text"}}, "json_schema"),
        ("response_format", {"response_format": {"type": "json_object"}}, "response_format"),
        ("media[1]", {}, "messages[0].content[2].image_url"),
        ("messages", {}, "messages"),
    ],
)
async def test_what_the_worker_refuses_is_named_as_the_client_calls_it(http, worker, worker_says, given, field):
    def refuse_it(request, media=()):
        raise EngineError("invalid_input", f"{worker_says} is wrong", field=worker_says)

    worker.engine.submit = refuse_it
    image = {"type": "image_url", "image_url": {"url": PIXEL}}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": "and"}, image]}]
    for stream in (False, True):
        assert field in await refuse(http, field, **given, messages=messages, stream=stream)


async def test_an_unknown_model_is_404_and_a_remote_image_is_not_fetched(http):
    answer = await http.post("/v1/chat/completions", json=chat(model="nobody"))
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    parts = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}]
    field = "messages[0].content[0].image_url.url"
    assert "allow_remote_images" in await refuse(http, field, messages=[{"role": "user", "content": parts}])
