"""Messages in canonical form."""

import base64

import pytest

from app.api.messages import RemoteImage, canonical, data_url
from app.errors import InvalidInput

IMAGE = b"\xff\xd8\xff\xe0 not really"
URL = "data:image/jpeg;base64," + base64.b64encode(IMAGE).decode()


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


def image(url=URL):
    return {"type": "image_url", "image_url": {"url": url}}


def test_parts_of_text_become_one_text():
    messages, media = canonical(user({"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}))
    assert messages == [{"role": "user", "content": "a\nb"}]
    assert media == []


def test_images_are_numbered_across_messages():
    given = [
        *user({"type": "text", "text": "this"}, image()),
        {"role": "assistant", "content": "ok"},
        *user({"type": "image_url", "image_url": URL}, image("https://example.org/x.png")),
    ]
    messages, media = canonical(given)
    assert messages[0]["content"][1] == {"type": "image", "media": 0}
    assert messages[2]["content"] == [{"type": "image", "media": 1}, {"type": "image", "media": 2}]
    remote = RemoteImage("https://example.org/x.png", "messages[2].content[1].image_url.url")
    assert media == [IMAGE, IMAGE, remote]


def test_calls_of_every_form():
    given = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"a": "ü"}}}]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "done"}], "extra": 1},
        {"role": "assistant", "content": None, "function_call": {"name": "g", "arguments": ""}},
        {"role": "function", "name": "g", "content": "ok"},
    ]
    messages, _ = canonical(given)
    assert messages[1:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "ü"}'}}],
        },
        {"role": "tool", "content": "done", "tool_call_id": "1"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "", "type": "function", "function": {"name": "g", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "ok", "name": "g"},
    ]


def test_reasoning_goes_back_under_either_name():
    for name in ("reasoning_content", "reasoning"):
        [message], _ = canonical([{"role": "assistant", "content": "x", name: "hm"}])
        assert message == {"role": "assistant", "content": "x", "reasoning_content": "hm"}


def test_what_was_given_is_not_changed():
    given = [{"role": "developer", "content": [{"type": "text", "text": "a"}]}]
    canonical(given)
    assert given == [{"role": "developer", "content": [{"type": "text", "text": "a"}]}]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ([], "messages"),
        (["hi"], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "assistant"}], "messages[0].content"),
        (user("text"), "messages[0].content[0].type"),
        (user({"type": "text"}), "messages[0].content[0].text"),
        (user({"type": "input_audio", "input_audio": {}}), "messages[0].content[0].type"),
        (user({"type": "image_url"}), "messages[0].content[0].image_url"),
        (user({"type": "text", "text": "x"}, image("file:///etc/passwd")), "messages[0].content[1].image_url.url"),
        (user(image("data:image/png;base64,!!")), "messages[0].content[0].image_url.url"),
        (user(image("data:image/png;base64,")), "messages[0].content[0].image_url.url"),
        ([{"role": "system", "content": [image()]}], "messages[0].content[0].type"),
        ([{"role": "assistant", "content": "", "tool_calls": 1}], "messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], "messages[0].tool_calls[0].function"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": ""}}]}],
            "messages[0].tool_calls[0].function.name",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
        ([{"role": "assistant", "function_call": {"arguments": "{}"}}], "messages[0].function_call.name"),
    ],
)
def test_what_is_wrong_is_named(given, field):
    with pytest.raises(InvalidInput) as caught:
        canonical(given)
    assert caught.value.field == field


def test_data_urls_of_every_kind():
    assert data_url("data:image/svg+xml,%3Csvg%2F%3E", "x") == b"<svg/>"
    assert data_url("DATA:image/png;BASE64,_-8\n=", "x") == b"\xff\xef"
