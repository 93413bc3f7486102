"""From messages to prompts: what templates refuse or leave out is made up for."""

from typing import Any

import pytest

from engines.engine import EngineError
from engines.llamacpp.chat_format import ChatFormat
from engines.protocol import Grammar
from tests.support.answers import Answer, read, refusal
from tests.support.chat_templates import PLAIN, TEMPLATES
from tests.support.tools import TOOLS

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hi"}
CALL = {"id": "a", "type": "function", "function": {"name": "ping", "arguments": "{}"}}
OTHER = {"id": "b", "type": "function", "function": {"name": "get_time", "arguments": '{"city": "Rome"}'}}
# Like Gemma 2: no system role, and no tools.
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    + PLAIN[len("{% for m in messages %}") :]
)
# Like Llama 3.1: one call at a time, and no marker around it.
ONE_CALL = """{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{% if m.tool_calls %}
{% if m.tool_calls | length != 1 %}{{ raise_exception('one at once') }}{% endif %}
{% set f = m.tool_calls[0].function %}<a>{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}</a>
{%- else %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endif %}{% endfor %}
{% if add_generation_prompt %}<a>{% endif %}"""
TYPED = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{% endfor %}"
)
TEXT_ARGUMENTS = TEMPLATES["name and JSON"].replace("{{ f.arguments | tojson }}", "{{ '' + f.arguments }}")


def refused(form: ChatFormat, messages: list[Any], **options: Any) -> EngineError:
    with pytest.raises(EngineError) as caught:
        form.prepare(messages, **options)
    assert caught.value.code == "invalid_input"
    return caught.value


def test_chatml_stands_in_and_says_so() -> None:
    form = ChatFormat(None, "<bos>", "")
    prepared = form.prepare([SYSTEM, USER])
    assert prepared.text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (prepared.add_special, prepared.parser, prepared.grammar) == (True, None, None)
    assert "<|im_end|>" in prepared.stop
    assert form.source == "chatml"
    assert "no chat template" in form.notes[0]
    assert "broken" in ChatFormat("{% for %}", "", "").notes[0]


def test_special_tokens_are_added_once() -> None:
    assert not ChatFormat("{{ bos_token }}" + PLAIN, "<bos>", "").prepare([USER]).add_special


def test_tools_for_any_model() -> None:
    form = ChatFormat(None, "", "")
    prepared = form.prepare([SYSTEM, USER], tools=TOOLS)
    assert "Be brief." in prepared.text
    assert "get_time" in prepared.text
    text = '{"tool_calls": [{"name": "get_time", "arguments": {"city": "Rome"}}, {"name": "ping", "arguments": {}}]}'
    assert refusal(prepared.grammar, text) == ""
    answer = read(prepared.parser, list(text))
    assert answer.decoded == [("get_time", {"city": "Rome"}), ("ping", {})]
    for response in ('{"response": "Ciao \\u00e8 \\ud83d\\ude00\\n\\"!\\""}', '{ "response" : "Ciao è 😀\\n\\"!\\""}'):
        for size in (1, 4, 100):
            pieces = [response[at : at + size] for at in range(0, len(response), size)]
            assert read(form.prepare([USER], tools=TOOLS).parser, pieces) == Answer('Ciao è 😀\n"!"')
    assert read(form.prepare([USER], tools=TOOLS).parser, "Just {text}.") == Answer("Just {text}.")
    required = form.prepare([USER], tools=TOOLS, tool_choice="required", parallel=False)
    assert refusal(required.grammar, text)
    assert refusal(required.grammar, '{"tool_calls": [{"name": "ping", "arguments": {}}]}') == ""
    assert refusal(required.grammar, '{"response": "no"}')


def test_calls_of_old_turns_without_a_template_for_them() -> None:
    messages = [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "pong"}]
    text = ChatFormat(NO_SYSTEM, "", "").prepare(messages, tools=TOOLS).text
    assert '"name": "ping"' in text
    assert "pong" in text


def test_no_system_role() -> None:
    assert "<turn:user>Be brief.\nHi<end>" in ChatFormat(NO_SYSTEM, "", "").prepare([SYSTEM, USER]).text
    developer = {"role": "developer", "content": "Be brief."}
    assert "<turn:system>Be brief." in ChatFormat(PLAIN, "", "").prepare([developer, USER]).text


def test_one_call_at_a_time() -> None:
    form = ChatFormat(ONE_CALL, "", "")
    results = [
        {"role": "tool", "tool_call_id": "b", "content": "12:00"},
        {"role": "tool", "tool_call_id": "a", "content": "ok"},
    ]
    text = form.prepare(
        [USER, {"role": "assistant", "content": "", "tool_calls": [CALL, OTHER]}, *results], tools=TOOLS
    ).text
    assert text.index('"ping"', text.index("Hi")) < text.index("<tool>ok</tool>") < text.index("12:00")
    prepared = form.prepare([USER], tools=TOOLS)
    assert refusal(prepared.grammar, '{"name": "ping", "parameters": {}}') == ""
    assert refusal(prepared.grammar, '{"name": "pong", "parameters": {}}')
    assert refusal(prepared.grammar, '{"kind": "an answer"}') == ""
    assert read(prepared.parser, '{"name": "ping", "parameters": {}}').decoded == [("ping", {})]
    text = '{"name": "Bob", "parameters": {}}'
    assert read(form.prepare([USER], tools=TOOLS).parser, list(text)) == Answer(text)


def test_content_and_arguments_as_the_template_wants_them() -> None:
    assert "<user>Hi" in ChatFormat(TYPED, "", "").prepare([USER]).text
    answer = {"role": "assistant", "content": "", "tool_calls": [OTHER]}
    assert '<do=get_time>{"city": "Rome"}</do>' in ChatFormat(TEXT_ARGUMENTS, "", "").prepare([USER, answer, USER]).text


def test_an_answer_is_continued() -> None:
    form = ChatFormat(TEMPLATES["name and JSON"], "", "")
    prepared = form.prepare([USER, {"role": "assistant", "content": "It is "}], continue_final=True)
    assert prepared.text.endswith("<turn:assistant>It is ")
    assert read(prepared.parser, " ten.") == Answer(" ten.")
    thought = {"role": "assistant", "content": "", "reasoning_content": "Hm,"}
    prepared = form.prepare([USER, thought], continue_final=True)
    assert prepared.text.endswith("<ponder>\nHm,")
    assert read(prepared.parser, [" well.", "</pon", "der>\nTen."]) == Answer("Ten.", " well.")


def test_thinking_is_switched_off() -> None:
    form = ChatFormat(TEMPLATES["name and JSON"], "", "")
    assert form.prepare([USER], variables={"enable_thinking": False}).text.endswith("</ponder>\n\n")
    assert form.prepare([USER], variables={"reasoning_effort": "none"}).text.endswith("</ponder>\n\n")
    assert form.prepare([USER], parse=False).parser is None


def test_tool_choice() -> None:
    form = ChatFormat(TEMPLATES["tags"], "", "")
    none = form.prepare([USER], tools=TOOLS, tool_choice="none")
    assert "get_time" in none.text
    assert none.grammar is None
    assert refused(form, [USER], tools=TOOLS, tool_choice="function:nope").field == "tool_choice"
    assert refused(form, [USER], tool_choice="required").field == "tool_choice"


def test_images() -> None:
    form = ChatFormat(PLAIN, "", "")
    parts = [{"type": "text", "text": "See "}, {"type": "image", "media": 0}]
    assert "See <__media__><end>" in form.prepare([{"role": "user", "content": parts}], images=True).text
    assert "messages[1]" in refused(form, [SYSTEM, {"role": "user", "content": parts}]).message


@pytest.mark.parametrize(
    "message",
    [
        {"content": "no role"},
        {"role": "user", "content": 5},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
        {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
    ],
)
def test_messages_that_are_none(message: dict[str, Any]) -> None:
    assert "messages[1]" in refused(ChatFormat(None, "", ""), [USER, message]).message
    assert refused(ChatFormat(None, "", ""), []).field == "messages"


def test_nothing_of_the_caller_is_written_to() -> None:
    template = TEMPLATES["tags"].replace("<sys>", "<sys>{% set _ = messages.append({'role': 'x', 'content': ''}) %}")
    messages, tools = [dict(USER)], [dict(tool) for tool in TOOLS]
    ChatFormat(template, "", "").prepare(messages, tools=tools)
    assert (messages, tools) == ([USER], TOOLS)


@pytest.mark.parametrize(
    ("grammar", "right", "wrong"),
    [
        (Grammar("choice", ["yes", "no"]), "yes", "maybe"),
        (Grammar("regex", "[0-9]{2}"), "42", "4"),
        (Grammar("lark", 'start: digit "start" digit\ndigit: /[0-9]/'), "1start2", "1stop2"),
        (Grammar("gbnf", 'root ::= "a" b\nb ::= [0-9]'), "a7", "b7"),
        (Grammar("json_object"), '{"a": [1]}', "[1]"),
    ],
)
def test_every_kind_of_grammar_after_reasoning(grammar: Grammar, right: str, wrong: str) -> None:
    prepared = ChatFormat(TEMPLATES["tags"], "", "").prepare([USER], grammar=grammar)
    assert refusal(prepared.grammar, f"<ponder>Hm.</ponder>\n\n{right}") == ""
    assert refusal(prepared.grammar, f"<ponder>Hm.</ponder>\n\n{wrong}")
