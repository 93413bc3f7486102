"""Templates that no list has: what calls look like is found out, and held to."""

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.llamacpp.chat_format import AnswerParser, ChatFormat, Prepared
from engines.protocol import Grammar
from tests.support.answers import Answer, read, refusal
from tests.support.chat_templates import TEMPLATES
from tests.support.tools import CALLS, TOOLS

QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]


@cache
def chat_format(kind: str) -> ChatFormat:
    return ChatFormat(TEMPLATES[kind], "", "")


def prepare(kind: str, **options: Any) -> Prepared:
    return chat_format(kind).prepare(QUESTION, tools=TOOLS, **options)


def parser(kind: str) -> AnswerParser:
    made = prepare(kind).parser
    assert made
    return made


def written(kind: str, calls: list[tuple[str, dict[str, Any]]], content: str = "", reasoning: str = "") -> str:
    """An answer as the template writes it."""
    form = chat_format(kind)
    called = [
        {"id": f"call0000{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for at, (name, arguments) in enumerate(calls)
    ]
    answer = {"role": "assistant", "content": content, "tool_calls": called, "reasoning_content": reasoning}
    # What goes on after the last answer shows where that one ends.
    text = form.prepare([*QUESTION, answer, *QUESTION], tools=TOOLS).text
    return text[text.find("<turn:assistant>") + len("<turn:assistant>") : text.rfind("<end>\n<turn:user>")]


@pytest.mark.parametrize("kind", TEMPLATES)
def test_calls_are_read_back(kind: str) -> None:
    for calls in ([CALLS[0]], [CALLS[1]], [CALLS[2]], CALLS):
        text = written(kind, calls)
        for size in (1, 2, 5, len(text)):
            answer = read(parser(kind), (text[at : at + size] for at in range(0, len(text), size)))
            assert answer.decoded == calls
            assert (answer.content, answer.reasoning) == ("", "")
        assert refusal(prepare(kind).grammar, text) == ""
        assert refusal(prepare(kind, tool_choice="required").grammar, text) == ""


@pytest.mark.parametrize("kind", TEMPLATES)
def test_reasoning_then_text_then_calls(kind: str) -> None:
    text = written(kind, CALLS[:2], "Let me <look> at [it].", "Hm, {well}.")
    answer = read(parser(kind), text)
    assert answer.decoded == CALLS[:2]
    assert (answer.content, answer.reasoning) == ("Let me <look> at [it].", "Hm, {well}.")
    assert refusal(prepare(kind).grammar, text) == ""


@pytest.mark.parametrize("kind", TEMPLATES)
def test_text_is_free_and_required_calls_are_not_text(kind: str) -> None:
    text = "It is 3 < 4 [sic], {ok}?"
    assert read(parser(kind), text) == Answer(text)
    assert refusal(prepare(kind).grammar, text) == ""
    assert refusal(prepare(kind, tool_choice="required").grammar, text)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_only_the_tools_with_their_arguments(kind: str) -> None:
    right = written(kind, [CALLS[0]])
    grammar = prepare(kind, tool_choice="required").grammar
    assert refusal(grammar, right.replace("get_time", "get_tame"))
    assert refusal(grammar, right.replace("city", "town"))
    other = prepare(kind, tool_choice="function:ping").grammar
    assert refusal(other, right)
    assert refusal(other, written(kind, [CALLS[2]])) == ""
    one = prepare(kind, parallel=False).grammar
    assert refusal(one, right) == ""
    assert refusal(one, written(kind, CALLS))


@pytest.mark.parametrize("kind", TEMPLATES)
def test_an_answer_in_json_after_reasoning(kind: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    prepared = chat_format(kind).prepare(QUESTION, grammar=Grammar("json_schema", schema))
    assert refusal(prepared.grammar, '<ponder>Anything.</ponder>\n{"a": 1}') == ""
    assert refusal(prepared.grammar, '{"a": 1}') == ""
    assert refusal(prepared.grammar, '<ponder>Anything.</ponder>\n{"b": 1}')
    assert read(prepared.parser, '<ponder>Any.</ponder>\n{"a": 1}') == Answer('{"a": 1}', "Any.")


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_call_of_no_tool_is_text(kind: str) -> None:
    text = written(kind, [CALLS[0]]).strip().replace("get_time", "got_time")
    assert read(parser(kind), text) == Answer(text)
    without = chat_format(kind).prepare(QUESTION).parser
    right = written(kind, [CALLS[0]]).strip()
    assert read(without, right) == Answer(right)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_call_that_breaks_off(kind: str) -> None:
    whole = written(kind, [CALLS[0]]).strip()
    for end in range(1, len(whole)):
        answer = read(parser(kind), whole[:end])
        assert len(answer.calls) <= 1
        if not answer.calls:
            assert answer.content == whole[:end].rstrip() or answer.content == whole[:end]
        else:
            assert answer.content == ""


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(TEMPLATES)),
    parts=st.lists(st.sampled_from(["call", "text", "<", "ponder", "\n", "</ponder>", "<ponder>", "é"]), max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    end=st.integers(0, 400),
)
def test_however_it_is_cut(kind: str, parts: list[str], cuts: list[int], end: int) -> None:
    """The same pieces come out, and no text is lost but markers and the white space around them."""
    call = written(kind, [CALLS[1]])
    text = "".join(call if part == "call" else part for part in parts)[: end or None]
    whole = read(parser(kind), [text])
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    cut = read(parser(kind), pieces)
    same = [call[:2] for call in cut.calls] == [call[:2] for call in whole.calls]
    assert (cut.content, cut.reasoning, same) == (whole.content, whole.reasoning, True)
    letters = (whole.content + whole.reasoning + json.dumps(whole.calls)).replace(" ", "")
    assert letters.count("é") >= min(text.count("é"), letters.count("é"))
    if not whole.calls:
        left = text.replace("<ponder>", "").replace("</ponder>", "")
        said = (whole.reasoning + whole.content).replace("<ponder>", "").replace("</ponder>", "")
        assert sorted(said.replace("\n", "").replace(" ", "")) == sorted(left.replace("\n", "").replace(" ", ""))


def test_names_of_control_tokens() -> None:
    """Where a marker is a control token the grammar names the token, and the parser must see it."""
    tokens = {"<call>": 256, "<ponder>": 257}
    prepared = ChatFormat(TEMPLATES["tags"], "", "", tokens.get).prepare(QUESTION, tools=TOOLS)
    assert prepared.show == ["<ponder>", "<call>"]
    assert prepared.lazy == ["<call>"]
    assert prepared.grammar
    assert "<[256]>" in prepared.grammar.value
    assert '"<call>"' not in prepared.grammar.value
    assert '"</call>"' in prepared.grammar.value


def test_syntax() -> None:
    """What is found out of one template, in full."""
    syntax = chat_format("tags with types").syntax
    assert syntax.thinking
    assert (syntax.thinking.start, syntax.thinking.end) == ("<ponder>", "</ponder>")
    calls = syntax.calls
    assert calls
    assert (calls.start, calls.call_end, calls.end) == ("<calls>\n", "</run>\n", "</calls>")
    assert chat_format("numbered").capabilities == ["tools", "thinking"]
